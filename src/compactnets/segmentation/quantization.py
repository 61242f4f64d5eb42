"""int8 for segmenters: the images that it is calibrated and compared on."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from compactnets.console import Tracker
from compactnets.data.base import MissingSplitError
from compactnets.deploy.artifact import Runs
from compactnets.deploy.formats.registry import Format
from compactnets.deploy.int8.comparison import Comparison
from compactnets.deploy.int8.steps import spread_over
from compactnets.errors import InputError
from compactnets.quantization import Quantization
from compactnets.segmentation.checking import survey
from compactnets.segmentation.data import find_masks
from compactnets.segmentation.export import SegmenterSubject
from compactnets.segmentation.metrics import SegmentationScore
from compactnets.segmentation.setup import evaluate_on

MOST_PIXELS = 32 * 512 * 512  # of all images to calibrate on, because every layer's inputs are held


@dataclass(frozen=True)
class MaskComparison(Comparison):
    """Of segmenters: the classes' IoU in float and in int8."""

    measure = "mIoU"

    float_miou: float
    int8_miou: float
    classes: list[dict[str, Any]]

    @property
    def percents(self) -> tuple[float, float]:
        return self.float_miou, self.int8_miou

    @property
    def note(self) -> str:
        known = [row for row in self.classes if None not in (row["float_iou"], row["int8_iou"])]
        worst = max(known, key=lambda row: row["float_iou"] - row["int8_iou"])
        return f"largest loss of a class: {worst['name']}, {worst['float_iou']:.2f} % to {worst['int8_iou']:.2f} %"


class SegmenterQuantization(Quantization):
    """A segmenter, calibrated at its record's size, or at the first image's where that leaves it open."""

    least_agreement = 0.95  # between the artifact and its simulation: a score near a boundary goes either way

    subject: SegmenterSubject

    def take(self, calibration: str, evaluation: str, count: int) -> None:
        record = self.subject.record
        tree = find_masks(evaluation)
        self.rest = tree.open("val", record.class_names, record.ignore)
        survey(self.rest, decode=False)
        tree = find_masks(calibration)
        try:
            self.images = tree.open("train", record.class_names, record.ignore)
        except MissingSplitError:
            self.images = tree.open("val", record.class_names, record.ignore)
        if not len(self.images):
            raise InputError(f"{calibration} has no image to calibrate on")
        if record.size is None:
            self.subject = self.subject.resized(self.images.image(0).size[::-1])
        _, height, width = self.subject.shape
        self.chosen = spread_over(self.images, min(count, max(1, MOST_PIXELS // (height * width)))).tolist()
        same = (self.images.fingerprint(), self.images.content()) == (self.rest.fingerprint(), self.rest.content())
        self.without = self.chosen if same else []
        if len(self.without) == len(self.rest):
            raise InputError(
                f"{evaluation} has {len(self.rest)} images, all used for calibration: choose another --eval, or fewer "
                "--calibration-images"
            )

    def pixels(self) -> Tensor:
        chosen = Tracker(self.chosen, len(self.chosen), "reading")
        return torch.stack([self.subject.prepare(self.images.image(index)) for index in chosen])

    def compare(self, fmt: Format, plain: Path, int8: Path) -> MaskComparison:
        before, after = (self._measure(fmt, folder) for folder in (plain, int8))
        pairs = zip(before.classes, after.classes, strict=True)
        return MaskComparison(
            before.images,
            before.miou,
            after.miou,
            [{"name": one.name, "float_iou": one.iou, "int8_iou": other.iou} for one, other in pairs],
        )

    def _measure(self, fmt: Format, folder: Path) -> SegmentationScore:
        """Measure an artifact in its runtime."""
        network = Runs(fmt.open(folder / fmt.file), None if fmt.any_batch else 1)
        return evaluate_on(network, self.subject.record, self.rest, without=self.without)
