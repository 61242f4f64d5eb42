"""One step against what it must compute, written out by hand."""

from __future__ import annotations

from copy import deepcopy
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from compactnets.classification.recipe import ClassificationRecipe
from compactnets.classification.setup import ClassificationObjective
from compactnets.data.loading import Batch
from compactnets.training.distributed import World
from compactnets.training.optimization import lr_factor
from compactnets.training.step import Learner

STEPS = 4  # of an epoch


def network() -> nn.Module:
    """Without batch normalisation, whose statistics depend on how a batch is cut."""
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(144, 3))


def batches() -> list[Batch]:
    generator = torch.Generator().manual_seed(1)
    return [
        Batch(
            torch.randn(8, 1, 8, 8, generator=generator),
            torch.randint(3, (8,), generator=generator),
            torch.arange(8),
        )
        for _ in range(2 * STEPS)
    ]


def learner(model: nn.Module | None = None, **changes: Any) -> Learner:
    settings = {"model": "any", "epochs": 2, "batch_size": 8, "lr": 0.1, "optimizer": {"weight_decay": 0.01}}
    recipe = ClassificationRecipe.model_validate({**settings, **changes})
    return Learner(model or network(), recipe, STEPS, ClassificationObjective(recipe, STEPS, num_classes=3), World())


def trained(**changes: Any) -> Learner:
    one = learner(**changes)
    for number, batch in enumerate(batches()):
        one.step(batch, number)
    return one


def distance(a: nn.Module, b: nn.Module) -> float:
    return max(float((x - y).detach().abs().max()) for x, y in zip(a.parameters(), b.parameters(), strict=True))


def test_steps_are_those_of_a_plain_loop() -> None:
    """SGD with momentum and weight decay, cosine after a warm-up, label smoothing, clipping."""
    changes: dict[str, Any] = {
        "label_smoothing": 0.1,
        "clip_grad_norm": 0.5,
        "schedule": {"warmup_epochs": 0.5},
        "optimizer": {"weight_decay": 0.01, "nesterov": True},
    }
    ours = learner(**changes)
    model = network()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9, nesterov=True, weight_decay=0.01)
    for number, batch in enumerate(batches()):
        for group in optimizer.param_groups:
            group["lr"] = 0.1 * lr_factor(ours.recipe.schedule, 2, number / STEPS)
        expected = F.cross_entropy(model(batch.images), batch.labels, label_smoothing=0.1)
        optimizer.zero_grad()
        expected.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 0.5)
        optimizer.step()
        (losses,) = ours.step(batch, number).values()
        assert losses.shape == (8,)
        assert float(losses.mean()) == pytest.approx(float(expected.detach()), rel=1e-5)
    assert distance(ours.model, model) < 1e-6
    assert distance(ours.model, network()) > 1e-2


@pytest.mark.parametrize("parts", [2, 4])
def test_accumulated_gradients_are_those_of_the_whole_batch(parts: int) -> None:
    assert distance(trained(accumulate=parts).model, trained().model) < 1e-6


def test_the_average_follows_the_weights() -> None:
    """timm's average with its warm-up: decay 1 - step ** (-2/3), at most the one that was set."""
    ours = learner(ema_decay=0.6)
    average = deepcopy(ours.model)
    for number, batch in enumerate(batches()):
        ours.step(batch, number)
        decay = min(0.6, 1 - number ** (-2 / 3)) if number > 1 else 0.0
        with torch.no_grad():
            for kept, new in zip(average.parameters(), ours.model.parameters(), strict=True):
                kept.lerp_(new, 1 - decay)
    assert ours.evaluated is not ours.model
    assert distance(ours.evaluated, average) < 1e-6
    assert distance(ours.evaluated, ours.model) > 1e-3


@pytest.mark.parametrize("mix", [{"mixup": 0.4}, {"cutmix": 1.0}, {"mixup": 0.4, "cutmix": 1.0}], ids="+".join)
def test_mixing_depends_on_the_step_alone(mix: dict[str, float]) -> None:
    a, b = learner(mix=mix), learner(mix=mix)
    for number, batch in enumerate(batches()):
        a.step(Batch(*(value.clone() for value in batch)), number)
        torch.rand(3)  # what another part of the program draws makes no difference
        b.step(Batch(*(value.clone() for value in batch)), number)
    assert distance(a.model, b.model) == 0
    assert distance(a.model, trained().model) > 1e-3


def test_mixing_ends_before_the_last_epochs() -> None:
    seen: list[Tensor] = []

    class Spy(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = network()

        def forward(self, x: Tensor) -> Tensor:
            seen.append(x.clone())
            return self.inner(x)

    one = learner(Spy(), mix={"mixup": 1.0, "last_epochs_without": 1})
    given = batches()
    for number, batch in enumerate(given):
        one.step(Batch(batch.images.clone(), batch.labels, batch.indices), number)
    same = [torch.equal(image, batch.images) for image, batch in zip(seen, given, strict=True)]
    assert same == [False] * STEPS + [True] * STEPS


def test_dropout_depends_on_seed_and_step_alone() -> None:
    outputs = []
    for seed, step in ((0, 5), (0, 5), (0, 6), (1, 5)):
        model = nn.Sequential(nn.Dropout(0.5), network())
        one = learner(model, seed=seed)
        torch.rand(seed + 1)
        outputs.append(one.step(batches()[0], step)["cross_entropy"])
    assert torch.equal(outputs[0], outputs[1])
    assert not torch.equal(outputs[0], outputs[2])
    assert not torch.equal(outputs[0], outputs[3])


@pytest.mark.parametrize("precision", ["bfloat16", "float16"])
def test_mixed_precision_stays_near_float32(precision: str) -> None:
    mixed, plain = trained(precision=precision), trained()
    assert 0 < distance(mixed.model, plain.model) < 0.02
    assert all(parameter.dtype == torch.float32 for parameter in mixed.model.parameters())


def test_state_is_all_that_the_next_step_needs() -> None:
    changes: dict[str, Any] = {"ema_decay": 0.9, "optimizer": {"name": "adamw"}, "precision": "float16"}
    first, given = learner(**changes), batches()
    for number in range(3):
        first.step(given[number], number)
    second = learner(nn.Sequential(*network()), **changes)
    second.load_state_dict(deepcopy(first.state_dict()))
    for number in range(3, 6):
        first.step(given[number], number)
        second.step(given[number], number)
    assert distance(first.model, second.model) == 0
    assert distance(first.evaluated, second.evaluated) == 0


def test_channels_last_reaches_the_weights() -> None:
    weight = next(learner(channels_last=True).model.parameters())
    assert weight.is_contiguous(memory_format=torch.channels_last)
