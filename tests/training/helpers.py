"""Small sources and recipes for the tests of training; processes that the tests start import this file as well."""

from __future__ import annotations

import json
import signal
from pathlib import Path
from typing import Any

import pytest

from compactnets.classification.recipe import ClassificationRecipe
from compactnets.data import ImageSource, open_source
from compactnets.training.step import Learner

TINY = "shufflenet_g3_x0_25"
# everything that draws random numbers or remembers something from step to step
HARD: dict[str, Any] = {
    "epochs": 2,
    "model_arguments": {"stem": "cifar", "drop_rate": 0.3},
    "optimizer": {"name": "adamw"},
    "augment": {"rotation": 10, "translate": 0.1},
    "ema_decay": 0.9,
    "mix": {"mixup": 0.2, "cutmix": 1.0},
    "accumulate": 2,
    "label_smoothing": 0.1,
    "sampling": "balanced",
    "class_weights": {"3": 2.0},
    "clip_grad_norm": 1.0,
    "schedule": {"warmup_epochs": 0.5},
}


class FirstImages(ImageSource):
    """The first images of a source, under other class names if given."""

    kind = "first images"

    def __init__(self, whole: ImageSource, count: int, class_names: list[str] | None = None) -> None:
        super().__init__(whole.spec, whole.split, class_names or whole.class_names, whole.labels[:count])
        self.whole = whole

    def image(self, index: int) -> Any:
        return self.whole.image(index)

    def name(self, index: int) -> str:
        return self.whole.name(index)


def digits_part(train: int, val: int) -> tuple[ImageSource, ImageSource]:
    """The first images of both splits of the digits."""
    return FirstImages(open_source("digits", "train"), train), FirstImages(open_source("digits", "val"), val)


def stop_after(monkeypatch: pytest.MonkeyPatch, step: int, *signals: int) -> None:
    """Send the signals, SIGTERM if none are given, while step number ``step`` (from zero) is under way."""
    take = Learner.step

    def step_and_signal(self: Learner, batch: Any, number: int) -> Any:
        losses = take(self, batch, number)
        if number == step:
            for signum in signals or (signal.SIGTERM,):
                signal.raise_signal(signum)
        return losses

    monkeypatch.setattr(Learner, "step", step_and_signal)


def make_tiny_recipe(**changes: Any) -> ClassificationRecipe:
    """A recipe that takes a second on the digits; keyword arguments replace its settings."""
    settings: dict[str, Any] = {
        "model": TINY,
        "epochs": 1,
        "batch_size": 32,
        "lr": 0.05,
        "model_arguments": {"stem": "cifar"},
        "preprocess": {"size": 8},
    }
    return ClassificationRecipe.model_validate({**settings, **changes})


def weights(run: Path) -> bytes:
    """The bytes of both checkpoints of a run."""
    return (run / "last.safetensors").read_bytes() + (run / "best.safetensors").read_bytes()


def metrics(run: Path) -> list[dict[str, Any]]:
    """The lines of metrics.jsonl without what depends on the clock."""
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [{key: line[key] for key in line if key not in ("seconds", "images_per_second")} for line in lines]
