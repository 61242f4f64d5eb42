"""Numbers that are not finite end a run before anything is made of them, and an evaluation is never one of them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from compactnets.classification.evaluation import evaluate
from compactnets.classification.task import TASK
from compactnets.data import Preprocess
from compactnets.errors import InputError
from compactnets.training.step import Learner

from .helpers import digits_part, make_tiny_recipe

NAN, INF = float("nan"), float("inf")


def train(run: Path, **changes: Any) -> Any:
    return TASK.train(make_tiny_recipe(batch_size=16, **changes), *digits_part(32, 10), run)


def explode_after(monkeypatch: pytest.MonkeyPatch, step: int, kind: type[nn.Module], name: str, value: float) -> None:
    """Let a tensor of the network become ``value`` in a step whose loss is still finite."""
    take = Learner.step

    def step_and_explode(self: Learner, batch: Any, number: int) -> Any:
        losses = take(self, batch, number)
        if number == step:
            layer = next(module for module in self.model.modules() if isinstance(module, kind))
            getattr(layer, name).detach().view(-1)[0] = value
        return losses

    monkeypatch.setattr(Learner, "step", step_and_explode)


@pytest.mark.parametrize(
    ("kind", "name", "value", "changes"),
    [
        (nn.Conv2d, "weight", NAN, {}),
        (nn.BatchNorm2d, "running_var", INF, {"ema_decay": 0.9}),
        (nn.BatchNorm2d, "running_mean", -INF, {}),
    ],
)
def test_weights_that_exploded_are_not_kept(
    kind: type[nn.Module], name: str, value: float, changes: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In the last step of an epoch no loss shows it any more."""
    explode_after(monkeypatch, 3, kind, name, value)
    with pytest.raises(InputError, match=r"not finite after step 4 of 4: \d+ tensors") as error:
        train(tmp_path, epochs=2, **changes)
    assert name in str(error.value)
    assert "\n" not in str(error.value)
    for kept in tmp_path.glob("*.safetensors"):
        assert all(tensor.isfinite().all() for tensor in load_file(kept).values() if tensor.is_floating_point())
    assert [json.loads(line)["epoch"] for line in (tmp_path / "metrics.jsonl").read_text().splitlines()] == [1]
    (state,) = (tmp_path / "checkpoints").iterdir()  # of the start: the epoch ended too soon after it for one more
    document = torch.load(state, weights_only=True)
    assert document["progress"]["step"] == 0


def test_an_evaluation_that_is_not_finite_ends_the_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Finite weights, whose outputs are not."""
    explode_after(monkeypatch, 1, nn.Linear, "weight", 3e38)
    with pytest.raises(InputError, match=r"after epoch 1/1 .*not finite for \d+ of 10 images") as error:
        train(tmp_path)
    assert "\n" not in str(error.value)
    assert not list(tmp_path.glob("*.safetensors"))
    assert not (tmp_path / "metrics.jsonl").exists()


class Spoiled(nn.Module):
    """Logits of zero, but for ``value`` in the class 3 of every second image."""

    def __init__(self, value: float) -> None:
        super().__init__()
        self.value = value

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        logits = torch.zeros(len(x), 10)
        logits[::2, 3] = self.value
        return logits


@pytest.mark.parametrize("value", [NAN, INF])
def test_an_evaluation_says_how_many_images(value: float) -> None:
    source = digits_part(8, 10)[1]
    preprocess = Preprocess(size=8, resize=None, mean=(0.0,), std=(1.0,))
    with pytest.raises(InputError, match="not finite for 5 of 10 images"):
        evaluate(Spoiled(value), source, preprocess)
    assert evaluate(Spoiled(1.0), source, preprocess).images == 10


def test_a_mask_of_minus_infinity_is_no_explosion() -> None:
    model = nn.Sequential(nn.Linear(2, 2))
    model.register_buffer("mask", torch.tensor([0.0, -INF]))
    from compactnets.training.distributed import World

    learner = Learner(model, make_tiny_recipe(), 1, None, World())  # type: ignore[arg-type]
    assert learner.not_finite() == []
    learner.model[0].bias.data[1] = NAN  # type: ignore[index, union-attr]
    assert learner.not_finite() == ["0.bias"]
