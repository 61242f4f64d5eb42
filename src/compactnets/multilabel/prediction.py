"""Find the labels of image files and video frames."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from typing import Any

from torch import Tensor

from compactnets.classification.checkpoint import check_outputs
from compactnets.classification.prediction import Guess, not_finite
from compactnets.data.inputs import Picture
from compactnets.errors import InputError
from compactnets.multilabel.checkpoint import MultilabelRecord

COLUMNS = {  # of a table of results
    **{"image": str, "frame": int, "seconds": float},
    **{"class_name": str, "label": str, "probability": float, "error": str},
}


@dataclass(frozen=True)
class ImageLabels:
    """The labels of one image or video frame, the most probable first; or the error."""

    image: str  # path of the file
    labels: tuple[Guess, ...] = ()  # probabilities are of each class by itself (sigmoid)
    frame: int | None = None  # of a video
    seconds: float | None = None
    error: str | None = None
    name: str = ""  # the heading above the labels
    least: float = 0.0  # the threshold

    def to_dict(self) -> dict[str, Any]:
        """Return the labels for JSON; ``frame``, ``seconds`` and ``error`` only where there are any."""
        values = {key: value for key, value in asdict(self).items() if value is not None}
        del values["name"], values["least"]
        return values

    def lines(self) -> Iterator[str]:
        """Yield a line for each label."""
        for found in self.labels:
            yield f"{100 * found.probability:6.2f} %  {found.label}"
        if not self.labels:
            yield f"no label with a probability of {self.least:g} or more"

    def rows(self) -> Iterator[tuple[Any, ...]]:
        """Yield a row for each label, or one without; see :data:`COLUMNS`."""
        place = (self.image, self.frame, self.seconds)
        for found in self.labels:
            yield (*place, found.class_name, found.label, found.probability, None)
        if not self.labels:
            yield (*place, None, None, None, self.error)


def labels_of(record: MultilabelRecord, logits: Tensor, least: float) -> list[tuple[Guess, ...] | InputError]:
    """Return the classes of each image with at least this probability, best first; an error where outputs are not
    finite.

    Args:
        logits: (N, classes).

    Raises:
        InputError: another number of outputs than the record's classes.
    """
    check_outputs(record, logits.shape[1])
    probabilities, order = logits.sigmoid().sort(dim=1, descending=True, stable=True)
    names, labels = record.class_names, record.labels
    return [
        tuple(
            Guess(names[index], labels[index], value)
            for value, index in zip(values, indices, strict=True)
            if value >= least
        )
        if finite
        else not_finite(record)
        for finite, values, indices in zip(
            logits.isfinite().all(dim=1).tolist(), probabilities.tolist(), order.tolist(), strict=True
        )
    ]


def as_labels(found: Iterable[tuple[Picture, tuple[Guess, ...] | None]], least: float) -> Iterator[ImageLabels]:
    """Yield the prediction for each picture and its labels, of which an unusable one has none."""
    for picture, labels in found:
        yield ImageLabels(labels=labels or (), least=least, **picture.facts)
