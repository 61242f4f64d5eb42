"""Intersection over union, from a confusion matrix over a whole set."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from compactnets.console import Table, stdout
from compactnets.errors import missing_extra
from compactnets.segmentation.recipe import IGNORED


def confusion(labels: Tensor, found: Tensor, classes: int) -> Tensor:
    """Count pixels by their class, and by the class that was found there: (classes, classes) int64.

    Args:
        labels: of any shape, :data:`IGNORED` where a pixel has no class.
        found: of the same shape.

    Raises:
        InputError: the library that counts is missing.
    """
    counts: Tensor = library().multiclass_confusion_matrix(
        found.long(), labels.long(), num_classes=classes, ignore_index=IGNORED, validate_args=False
    )
    return counts


def library() -> Any:
    """Import torchmetrics.

    Raises:
        InputError: it is missing.
    """
    try:
        from torchmetrics.functional import classification
    except ImportError:
        raise missing_extra("torchmetrics", "segmentation", "intersection over union") from None
    return classification


@dataclass(frozen=True)
class ClassScore:
    """A class: its pixels, the pixels found as it, and its figures in percent; ``None`` where there is none."""

    name: str
    pixels: int
    found: int
    iou: float | None
    accuracy: float | None


@dataclass(frozen=True)
class SegmentationScore:
    """The quality of a segmenter on a set; the ``Score`` of the training loop, and the ``Figures`` of ``eval``.

    Attributes:
        miou: mean IoU in percent over the classes that are in a mask or were found (Pascal VOC's measure).
        pixel_accuracy: share of the pixels with a class that are right, in percent.
        images: number of images.
        seconds: spent on them.
        classes: each class.
        matrix: the confusion: a row for the pixels of each class, a column for what was found.
    """

    miou: float
    pixel_accuracy: float
    images: int
    seconds: float
    classes: tuple[ClassScore, ...]
    matrix: tuple[tuple[int, ...], ...]

    @classmethod
    def of(cls, counts: Tensor, class_names: Sequence[str], images: int, seconds: float) -> SegmentationScore:
        """Compute the figures from a confusion over all images."""
        matrix = counts.cpu().numpy().astype(np.int64)
        right, pixels, found = np.diag(matrix), matrix.sum(1), matrix.sum(0)
        union = pixels + found - right
        ious = [100 * int(hit) / int(of) if of else None for hit, of in zip(right, union, strict=True)]
        there = [iou for iou in ious if iou is not None]
        rows = tuple(
            ClassScore(name, int(own), int(seen), iou, 100 * int(hit) / int(own) if own else None)
            for name, own, seen, iou, hit in zip(class_names, pixels, found, ious, right, strict=True)
        )
        total = int(matrix.sum())
        return cls(
            miou=math.fsum(there) / len(there) if there else 0.0,
            pixel_accuracy=100 * int(right.sum()) / total if total else 0.0,
            images=images,
            seconds=seconds,
            classes=rows,
            matrix=tuple(map(tuple, matrix.tolist())),
        )

    @property
    def title(self) -> str:
        """The name of the headline in the log."""
        return "mIoU"

    @property
    def value(self) -> float:
        """The headline."""
        return self.miou

    def metrics(self) -> dict[str, float]:
        """Return the figures for the log."""
        return {
            "miou_percent": self.miou,
            "pixel_accuracy_percent": self.pixel_accuracy,
            "eval_seconds_per_image": self.seconds / max(1, self.images),
        }

    def summary(self) -> str:
        """Return a line for the log."""
        return f"mIoU {self.miou:.2f} %, pixels {self.pixel_accuracy:.2f} %"

    def to_dict(self) -> dict[str, Any]:
        """Return everything, for JSON."""
        return {**asdict(self), "miou_percent": self.miou}

    def show(self, title: str) -> None:
        """Print a table of the classes, and the means under it."""
        table = Table("class")
        table.add_figures("IoU", "accuracy", "pixels", "share")
        total = max(1, sum(row.pixels for row in self.classes))
        for row in self.classes:
            shown = (f"{value:.2f} %" if value is not None else "-" for value in (row.iou, row.accuracy))
            table.add_row(row.name, *shown, f"{row.pixels:,}", f"{row.pixels / total:.1%}")
        pace = 1000 * self.seconds / max(1, self.images)
        stdout.print(f"{title}: {self.images:,} images")
        stdout.print(table)
        stdout.print(f"{self.summary()} ({pace:.0f} ms an image, with reading it)")


def best_class(scores: Tensor) -> Tensor:
    """Return the class of every pixel: (N, classes, H, W) -> (N, H, W) uint8."""
    return scores.argmax(1).to(torch.uint8)
