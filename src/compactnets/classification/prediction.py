"""Classify image files and videos with a checkpoint."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from typing import Any

import torch
from PIL import Image
from torch import Tensor, nn

from compactnets.classification.checkpoint import CheckpointRecord, check_outputs
from compactnets.data import Preprocess
from compactnets.data.inputs import Picture, run_on
from compactnets.errors import InputError

COLUMNS = {  # of a table of results
    **{"image": str, "frame": int, "seconds": float},
    **{"rank": int, "class_name": str, "label": str, "probability": float, "error": str},
}


@dataclass(frozen=True)
class Guess:
    """One class and its probability (softmax), from 0 to 1."""

    class_name: str
    label: str
    probability: float


@dataclass(frozen=True)
class Prediction:
    """The guesses for one image or video frame, best first; or the error."""

    image: str  # path of the file
    guesses: tuple[Guess, ...] = ()
    frame: int | None = None  # of a video
    seconds: float | None = None
    error: str | None = None
    name: str = ""  # the heading above the guesses

    def to_dict(self) -> dict[str, Any]:
        """Return the prediction for JSON; ``frame``, ``seconds`` and ``error`` only where there are any."""
        values = {key: value for key, value in asdict(self).items() if value is not None}
        del values["name"]
        return values

    def lines(self) -> Iterator[str]:
        """Yield a line for each guess."""
        for guess in self.guesses:
            yield f"{100 * guess.probability:6.2f} %  {guess.label}"

    def rows(self) -> Iterator[tuple[Any, ...]]:
        """Yield a row for each guess, or one without; see :data:`COLUMNS`."""
        place = (self.image, self.frame, self.seconds)
        for rank, guess in enumerate(self.guesses, start=1):
            yield (*place, rank, guess.class_name, guess.label, guess.probability, None)
        if not self.guesses:
            yield (*place, None, None, None, None, self.error)


def classify(model: nn.Module, record: CheckpointRecord, image: Image.Image, top_k: int = 5) -> tuple[Guess, ...]:
    """Return the ``top_k`` best guesses for one image, with the checkpoint's own preprocessing."""
    preprocess = Preprocess.from_dict(record.preprocess)
    device = next((parameter.device for parameter in model.parameters()), torch.device("cpu"))
    with torch.inference_mode():
        logits = model(preprocess(image)[None].to(device)).float()
    (guesses,) = guesses_of(record, logits, top_k)
    if isinstance(guesses, InputError):
        raise guesses
    return guesses


def guesses_of(record: CheckpointRecord, logits: Tensor, top_k: int) -> list[tuple[Guess, ...] | InputError]:
    """Return the ``top_k`` best guesses of each image, best first; an error where outputs are not finite.

    Args:
        logits: (N, classes).

    Raises:
        InputError: another number of outputs than the record's classes.
    """
    check_outputs(record, logits.shape[1])
    values, indices = logits.softmax(dim=1).topk(min(top_k, logits.shape[1]))
    names, labels = record.class_names, record.labels
    return [
        tuple(Guess(names[index], labels[index], value) for value, index in zip(*row, strict=True))
        if finite
        else not_finite(record)
        for finite, *row in zip(logits.isfinite().all(dim=1).tolist(), values.tolist(), indices.tolist(), strict=True)
    ]


def not_finite(record: CheckpointRecord) -> InputError:
    """Return the error of outputs that are not finite."""
    return InputError(f"{record.model} gives outputs that are not finite numbers: its weights cannot be used")


def as_predictions(found: Iterable[tuple[Picture, tuple[Guess, ...] | None]]) -> Iterator[Prediction]:
    """Yield the prediction for each picture and its guesses, of which an unusable one has none."""
    for picture, guesses in found:
        yield Prediction(guesses=guesses or (), **picture.facts)


def predict(
    model: nn.Module, record: CheckpointRecord, images: Iterable[str | Picture], top_k: int = 5, every: int = 1
) -> Iterator[Prediction]:
    """Classify images and video frames one by one. An unreadable one gives a prediction with an ``error``.

    Args:
        model: in evaluation mode.
        record: its classes and preprocessing.
        images: the result of :func:`compactnets.data.finding.find_files`.
        top_k: guesses for each.
        every: use every n-th frame of a video.
    """
    return as_predictions(run_on(images, every, lambda image: classify(model, record, image, top_k)))
