"""Comparison of float and int8 on the same images."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import torch
from torch import Tensor

from compactnets.console import Tracker
from compactnets.data import ImageSource, Preprocess
from compactnets.data.loading import make_eval_loader
from compactnets.deploy.artifact import run_in_batches
from compactnets.deploy.formats.registry import Format
from compactnets.deploy.int8.noise import relative_error


@dataclass(frozen=True)
class Comparison(ABC):
    """Comparison of float and int8 on the same images; a task adds what it measures.

    Attributes:
        measure: name of what int8 may lose a little of.
    """

    measure: ClassVar[str]

    images: int

    @property
    @abstractmethod
    def percents(self) -> tuple[float, float]:
        """The measure in float and in int8, in percent."""

    @property
    @abstractmethod
    def note(self) -> str:
        """How alike both are, for a reader."""

    @property
    def drop(self) -> float:
        """Points that int8 loses."""
        return self.percents[0] - self.percents[1]


@dataclass(frozen=True)
class Accuracy(Comparison):
    """Of classifiers."""

    measure = "top-1"

    float_correct: int
    int8_correct: int
    agreement: float  # share of images with the same best class
    logits_error: float  # root mean square difference of the logits, divided by the float logits' deviation

    @property
    def percents(self) -> tuple[float, float]:
        return 100 * self.float_correct / self.images, 100 * self.int8_correct / self.images

    @property
    def note(self) -> str:
        return (
            f"same best class on {100 * self.agreement:.1f} % of the images; the logits differ by "
            f"{self.logits_error:.3f} of their deviation"
        )

    @property
    def drop(self) -> float:
        return 100 * (self.float_correct - self.int8_correct) / self.images  # exact for whole images


def compare_accuracy(
    fmt: Format,
    plain: Path,
    int8: Path,
    source: ImageSource,
    preprocess: Preprocess,
    class_map: Sequence[int] | None,
) -> Accuracy:
    """Run two artifacts of a format on every image of a source.

    Args:
        fmt: their format.
        plain: folder of the float artifact.
        int8: folder of the int8 artifact.
        source: the images.
        preprocess: of both.
        class_map: as for :func:`compactnets.classification.evaluation.evaluate`.

    Raises:
        InputError: an image that cannot be read.
    """
    runners = [fmt.open(folder / fmt.file) for folder in (plain, int8)]
    batch_size = None if fmt.any_batch else 1
    lookup = None if class_map is None else torch.tensor(class_map)
    loader = make_eval_loader(source, preprocess, batch_size=32)
    found: list[Tensor] = []
    labels: list[Tensor] = []
    try:
        for batch in Tracker(loader, len(loader), "float and int8"):
            pixels = batch.images.numpy()
            logits = [torch.from_numpy(run_in_batches(runner, pixels, batch_size)) for runner in runners]
            found.append(torch.stack(logits))
            labels.append(batch.labels if lookup is None else lookup[batch.labels])
    finally:
        loader.close()
    (expected, given), right = torch.cat(found, 1), torch.cat(labels)
    best, best_int8 = expected.argmax(1), given.argmax(1)
    return Accuracy(
        images=len(right),
        float_correct=int((best == right).sum()),
        int8_correct=int((best_int8 == right).sum()),
        agreement=float((best == best_int8).float().mean()),
        logits_error=relative_error(expected, given),
    )
