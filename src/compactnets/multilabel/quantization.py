"""int8 for several labels per image: the images that it is calibrated and compared on."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from compactnets.classification.evaluation import match_classes
from compactnets.classification.quantization import disjoint_sources
from compactnets.data import Preprocess
from compactnets.deploy.artifact import Runs
from compactnets.deploy.formats.registry import Format
from compactnets.deploy.int8.comparison import Comparison
from compactnets.deploy.int8.steps import read_pixels
from compactnets.errors import InputError
from compactnets.multilabel.data import open_divided, open_labels
from compactnets.multilabel.export import MultilabelSubject
from compactnets.multilabel.metrics import LabelsScore, measure_on
from compactnets.quantization import Quantization


@dataclass(frozen=True)
class LabelsComparison(Comparison):
    """Of networks for several labels: mean average precision in float and in int8, and that of the classes."""

    measure = "mAP"

    float_map: float
    int8_map: float
    classes: list[dict[str, Any]]

    @property
    def percents(self) -> tuple[float, float]:
        return self.float_map, self.int8_map

    @property
    def note(self) -> str:
        known = [row for row in self.classes if None not in (row["float_ap"], row["int8_ap"])]
        worst = max(known, key=lambda row: row["float_ap"] - row["int8_ap"])
        return f"largest loss of a class: {worst['name']}, {worst['float_ap']:.2f} % to {worst['int8_ap']:.2f} %"


class LabelsQuantization(Quantization):
    """A network for several labels."""

    subject: MultilabelSubject

    def take(self, calibration: str, evaluation: str, count: int) -> None:
        self.images, self.rest = disjoint_sources(
            self.subject.record,
            calibration,
            evaluation,
            count,
            open_one=open_labels,
            open_both=open_divided,
            part=lambda source, indices: source.part(indices, source.split),
        )
        match_classes(self.subject.record, self.rest)
        if not self.rest.tags.any():
            raise InputError(f"{evaluation}: no image to compare on has a label")

    def pixels(self) -> Tensor:
        return read_pixels(self.images, Preprocess.from_dict(self.subject.record.preprocess))

    def compare(self, fmt: Format, plain: Path, int8: Path) -> LabelsComparison:
        before, after = (self._measure(fmt, folder) for folder in (plain, int8))
        pairs = zip(before.classes, after.classes, strict=True)
        return LabelsComparison(
            before.images,
            before.map_percent,
            after.map_percent,
            [
                {"name": one.class_name, "float_ap": one.average_precision, "int8_ap": other.average_precision}
                for one, other in pairs
            ],
        )

    def _measure(self, fmt: Format, folder: Path) -> LabelsScore:
        """Measure an artifact in its runtime."""
        network = Runs(fmt.open(folder / fmt.file), None if fmt.any_batch else 1)
        return measure_on(network, self.subject.record, self.rest, batch_size=32)
