"""Schedules and optimizers against torch's own."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, ClassVar

import pytest
import torch
from torch import nn
from torch.optim import lr_scheduler

from compactnets import create_model
from compactnets.classification.recipe import ClassificationRecipe
from compactnets.training.optimization import describe_lr, lr_factor, make_optimizer, set_lr
from compactnets.training.recipe import Optimizer, Schedule
from compactnets.training.recipe_files import load_recipe

EPOCHS, STEPS = 12, 7
Make = Callable[[torch.optim.Optimizer], lr_scheduler.LRScheduler]


def torch_rates(make: Make, count: int) -> list[float]:
    """The rates of a torch scheduler over ``count`` steps of its own, from a peak of 1."""
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=1.0)
    scheduler = make(optimizer)
    rates = []
    for _ in range(count):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    return rates


@pytest.mark.parametrize(
    ("settings", "make"),
    [
        ({"name": "step", "step_epochs": 3, "gamma": 0.1}, lambda o: lr_scheduler.StepLR(o, 3, gamma=0.1)),
        ({"name": "step", "step_epochs": 2, "gamma": 0.94}, lambda o: lr_scheduler.StepLR(o, 2, gamma=0.94)),
        (
            {"name": "multistep", "milestones": [2, 5, 11], "gamma": 0.3},
            lambda o: lr_scheduler.MultiStepLR(o, [2, 5, 11], gamma=0.3),
        ),
        ({"name": "exponential", "gamma": 0.9}, lambda o: lr_scheduler.ExponentialLR(o, 0.9)),
        ({"name": "constant"}, lambda o: lr_scheduler.ConstantLR(o, factor=1.0)),
    ],
)
def test_schedules_of_whole_epochs_are_torchs(settings: dict[str, Any], make: Make) -> None:
    """At the first and at the last step of every epoch."""
    schedule = Schedule.model_validate(settings)
    for epoch, rate in enumerate(torch_rates(make, EPOCHS)):
        for step in (0, STEPS - 1):
            assert lr_factor(schedule, EPOCHS, (epoch * STEPS + step) / STEPS) == pytest.approx(rate, rel=1e-12)


@pytest.mark.parametrize("end", [0.0, 0.2])
def test_schedules_of_single_steps_are_torchs(end: float) -> None:
    total = EPOCHS * STEPS
    pairs: dict[str, Make] = {
        "cosine": lambda o: lr_scheduler.CosineAnnealingLR(o, total, eta_min=end),
        "linear": lambda o: lr_scheduler.LinearLR(o, 1.0, end, total),
    }
    for name, make in pairs.items():
        schedule = Schedule.model_validate({"name": name, "end": end})
        ours = [lr_factor(schedule, EPOCHS, step / STEPS) for step in range(total + 1)]
        assert ours == pytest.approx(torch_rates(make, total + 1), abs=1e-9), name


def test_warm_up_rises_to_the_peak_and_the_rest_follows() -> None:
    schedule = Schedule(name="cosine", warmup_epochs=2.5)
    assert lr_factor(schedule, 10, 0) == 0
    assert lr_factor(schedule, 10, 1) == pytest.approx(0.4)
    assert lr_factor(schedule, 10, 2.5) == pytest.approx(1)
    assert lr_factor(schedule, 10, 6.25) == pytest.approx(0.5)  # the middle of what is left
    assert lr_factor(schedule, 10, 10) == pytest.approx(0, abs=1e-12)
    stepped = Schedule(name="step", step_epochs=4, warmup_epochs=1)
    assert [lr_factor(stepped, 10, epoch) for epoch in (0.5, 1, 3.9, 4)] == pytest.approx([0.5, 1, 1, 0.1])


def small_model() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(2, 3, 3, bias=False), nn.BatchNorm2d(3), nn.Flatten(), nn.Linear(12, 4))


def train_briefly(model: nn.Module, optimizer: torch.optim.Optimizer) -> list[torch.Tensor]:
    torch.manual_seed(1)
    for _ in range(5):
        loss = model(torch.randn(6, 2, 4, 4)).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return [parameter.detach() for parameter in model.parameters()]


@pytest.mark.parametrize(
    ("settings", "make"),
    [
        ({"name": "sgd", "momentum": 0}, lambda p: torch.optim.SGD(p, 0.1)),
        (
            {"name": "sgd", "momentum": 0.8, "weight_decay": 0.01},
            lambda p: torch.optim.SGD(p, 0.1, momentum=0.8, weight_decay=0.01),
        ),
        (
            {"name": "sgd", "nesterov": True, "weight_decay": 0.01},
            lambda p: torch.optim.SGD(p, 0.1, momentum=0.9, nesterov=True, weight_decay=0.01),
        ),
        ({"name": "adam"}, lambda p: torch.optim.Adam(p, 0.1)),
        (
            {"name": "adam", "betas": [0.5, 0.9], "eps": 0.1, "weight_decay": 0.01},
            lambda p: torch.optim.Adam(p, 0.1, betas=(0.5, 0.9), eps=0.1, weight_decay=0.01),
        ),
        (
            {"name": "adamw", "betas": [0.6, 0.99], "eps": 0.01, "weight_decay": 0.3},
            lambda p: torch.optim.AdamW(p, 0.1, betas=(0.6, 0.99), eps=0.01, weight_decay=0.3),
        ),
        ({"name": "rmsprop", "momentum": 0}, lambda p: torch.optim.RMSprop(p, 0.1)),
        (
            {"name": "rmsprop", "alpha": 0.9, "eps": 1.0, "centered": True, "weight_decay": 0.01},
            lambda p: torch.optim.RMSprop(p, 0.1, alpha=0.9, eps=1.0, momentum=0.9, centered=True, weight_decay=0.01),
        ),
        ({"name": "adadelta"}, lambda p: torch.optim.Adadelta(p, 0.1)),
        (
            {"name": "adadelta", "rho": 0.5, "eps": 0.01, "weight_decay": 0.1},
            lambda p: torch.optim.Adadelta(p, 0.1, rho=0.5, eps=0.01, weight_decay=0.1),
        ),
    ],
)
def test_optimizers_do_what_torchs_do(settings: dict[str, Any], make: Callable[[Any], torch.optim.Optimizer]) -> None:
    """Five steps with each setting away from its default, so that one that does not arrive shows."""
    ours, theirs = small_model(), small_model()
    recipe = Optimizer.model_validate({"weight_decay": 0, **settings})
    found = train_briefly(ours, make_optimizer(ours, recipe, lr=0.1))
    expected = train_briefly(theirs, make(theirs.parameters()))
    for a, b in zip(found, expected, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-6)
    assert any(not torch.equal(a, b) for a, b in zip(found, small_model().parameters(), strict=True))


def test_weight_decay_leaves_norm_and_bias_alone_when_told() -> None:
    model = create_model("shufflenet_g3_x0_25", num_classes=2)
    groups = make_optimizer(model, Optimizer(weight_decay=0.1, decay_norm_and_bias=False), lr=0.1).param_groups
    decayed = {id(p) for group in groups if group["weight_decay"] for p in group["params"]}
    for name, parameter in model.named_parameters():
        assert (id(parameter) in decayed) == (name.endswith("weight") and ".norm." not in name), name
    everything = make_optimizer(model, Optimizer(weight_decay=0.1), lr=0.1).param_groups
    assert all(group["weight_decay"] == 0.1 for group in everything)
    assert sum(len(group["params"]) for group in everything) == len(list(model.parameters()))


class Scaled(nn.Module):
    undecayed: ClassVar = {"scale": 10.0}

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(1, 1, bias=False)
        self.scale = nn.Parameter(torch.ones(1))


def test_what_a_module_names_never_decays_and_learns_faster() -> None:
    model = Scaled()
    before = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
    optimizer = make_optimizer(model, Optimizer(name="sgd", momentum=0, weight_decay=0.5), lr=7)
    set_lr(optimizer, 0.1)
    (2 * model.linear.weight.sum() + 3 * model.scale.sum()).backward()
    optimizer.step()
    assert model.scale.item() == pytest.approx(1 - 10 * 0.1 * 3)
    weight = before["linear.weight"].item()
    assert model.linear.weight.item() == pytest.approx(weight - 0.1 * (2 + 0.5 * weight))


@pytest.mark.parametrize(
    ("batch_size", "changes", "peak"),
    [
        (256, {}, 0.1),
        (1024, {}, 0.4),
        (64, {}, 0.025),
        (1024, {"optimizer": {"name": "rmsprop"}}, 0.4),
        (1024, {"optimizer": {"name": "adamw"}}, 0.2),
        (64, {"optimizer": {"name": "adam"}}, 0.05),
        (1024, {"lr_scaling": "sqrt"}, 0.2),
        (1024, {"lr_scaling": "linear", "optimizer": {"name": "adamw"}}, 0.4),
        (1024, {"lr_scaling": "none"}, 0.1),
    ],
)
def test_the_rate_follows_the_batch(batch_size: int, changes: dict[str, Any], peak: float) -> None:
    recipe = ClassificationRecipe.model_validate(
        {"model": "muffnet_x0_5", "epochs": 1, "lr": 0.1, "lr_batch_size": 256, "batch_size": batch_size, **changes}
    )
    assert recipe.peak_lr == pytest.approx(peak)


def test_without_a_reference_the_rate_is_for_the_batch() -> None:
    assert ClassificationRecipe(model="muffnet_x0_5", epochs=1, lr=0.3, batch_size=64).peak_lr == 0.3


@pytest.mark.parametrize(
    ("name", "overrides", "line"),
    [
        ("imagenet/menet", [], "learning rate 0.1 at a batch of 256"),
        (
            "imagenet/menet",
            ["batch_size=512"],
            "learning rate 0.2 at a batch of 512: the recipe's 0.1 at 256, scaled (linear; lr_scaling=none keeps it)",
        ),
        (
            "cifar/short",
            ["batch_size=512"],
            "learning rate 0.008 at a batch of 512: the recipe's 0.004 at 128, scaled (square root; lr_scaling=none "
            "keeps it)",
        ),
        ("imagenet/menet", ["batch_size=512", "lr_scaling=none"], "learning rate 0.1 at a batch of 512"),
        ("imagenet/menet", ["batch_size=512", "lr=0.3"], "learning rate 0.3 at a batch of 512"),
    ],
)
def test_the_log_says_what_the_rate_became(name: str, overrides: list[str], line: str) -> None:
    recipe = load_recipe(ClassificationRecipe, name, overrides)
    assert describe_lr(recipe) == line
    assert math.isclose(recipe.peak_lr, float(line.split()[2]))
