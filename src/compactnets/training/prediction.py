"""Classify image files with a checkpoint."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import nn

from compactnets.data import Preprocess, read_image
from compactnets.errors import InputError
from compactnets.training.checkpoint import CheckpointRecord, check_outputs


@dataclass(frozen=True)
class Guess:
    """One class and its probability (softmax), from 0 to 1."""

    class_name: str
    label: str
    probability: float


@dataclass(frozen=True)
class Prediction:
    """The best guesses for one image, best first; or why there are none."""

    image: str
    guesses: tuple[Guess, ...] = ()
    error: str | None = None

    def to_dict(self) -> dict[str, Any]:
        """Return the prediction for JSON; ``error`` only where there is one."""
        values = asdict(self)
        if self.error is None:
            del values["error"]
        return values


def classify(model: nn.Module, record: CheckpointRecord, image: Image.Image, top_k: int = 5) -> tuple[Guess, ...]:
    """Return the ``top_k`` best guesses for one image, with the checkpoint's own preprocessing."""
    preprocess = Preprocess.from_dict(record.preprocess)
    device = next((parameter.device for parameter in model.parameters()), torch.device("cpu"))
    with torch.inference_mode():
        logits = model(preprocess(image)[None].to(device)).float()[0]
    check_outputs(record, len(logits))
    if not logits.isfinite().all():
        raise InputError(f"{record.model} gives outputs that are not finite numbers: its weights cannot be used")
    probabilities = logits.softmax(dim=0)
    values, indices = probabilities.topk(min(top_k, len(probabilities)))
    return tuple(
        Guess(record.class_names[index], record.labels[index], value)
        for value, index in zip(values.tolist(), indices.tolist(), strict=True)
    )


def predict(
    model: nn.Module, record: CheckpointRecord, paths: Iterable[str | Path], top_k: int = 5
) -> Iterator[Prediction]:
    """Classify image files, one by one; a file that cannot be read gives a prediction with an ``error``."""
    for path in paths:
        try:
            yield Prediction(str(path), classify(model, record, read_image(path), top_k))
        except InputError as error:
            yield Prediction(str(path), error=str(error))
