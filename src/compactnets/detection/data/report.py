"""The report of a check of images with boxes, as data and as text."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from compactnets.data.report import FoundImage, ImagesSummary, left_out_lines, problem_lines, spread
from compactnets.detection.data.problems import Problem

FEW_CLASSES = 10  # up to this many, objects are listed per class


@dataclass(frozen=True)
class DetectionSummary(ImagesSummary):
    """The contents of a split.

    Attributes:
        empty: images without an object.
        objects: number of objects.
        difficult: number of difficult objects (Pascal VOC).
        crowd: number of crowds (COCO).
        classes: class name -> number of objects, in the order of the classes.
        box_sizes: square root of the area of the boxes, pixels: (smallest, median, largest); ``None`` without a box.
    """

    empty: int
    objects: int
    difficult: int
    crowd: int
    classes: dict[str, int]
    box_sizes: tuple[float, float, float] | None


@dataclass
class DetectionReport:
    """The result of :func:`compactnets.detection.data.check_detection`.

    Two images are the same if their RGB pixels are; re-compressed or resized copies are not.

    Attributes:
        unreadable: images that are missing or cannot be decoded, each with its reason.
        faults: annotations that cannot be read, by split.
        nothing_to_learn: why a training split has no object to train on.
        boxes: objects that cannot be used, by split.
        conflicts: groups of the same image with different objects.
        leaks: groups of the same image in more than one of the splits for training, validation and test.
        remarks: objects clipped at the edge of their image and images whose size differs from the annotation, by split.
        left_out: if all splits were checked, the files beside their images that are in no split.
        notes: findings that may be intended: images without objects, classes without objects, copies, …
    """

    spec: str
    kind: str
    splits: dict[str, DetectionSummary]
    unreadable: list[FoundImage] = field(default_factory=list)
    faults: dict[str, list[str]] = field(default_factory=dict)
    nothing_to_learn: list[str] = field(default_factory=list)
    boxes: dict[str, list[Problem]] = field(default_factory=dict)
    conflicts: list[list[FoundImage]] = field(default_factory=list)
    leaks: list[list[FoundImage]] = field(default_factory=list)
    remarks: dict[str, list[Problem]] = field(default_factory=dict)
    left_out: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    seconds: float = 0.0

    @property
    def clean(self) -> bool:
        """Whether there is no problem; remarks and notes do not count."""
        found = self.unreadable or self.faults or self.nothing_to_learn or any(self.boxes.values())
        return not (found or self.conflicts or self.leaks)

    def to_dict(self) -> dict[str, Any]:
        """Return all of it for JSON."""
        return {"clean": self.clean, **asdict(self)}

    def lines(self, limit: int = 20) -> Iterator[str]:
        """Yield the report as text, with the first ``limit`` problems of each kind."""
        yield f"{self.spec} ({self.kind}), {self.seconds:.1f} s"
        for split, summary in self.splits.items():
            what = f"{summary.objects:,} objects of {_classes(summary.classes)}"
            yield f"  {split}: {summary.images:,} images with {what}"
            yield from summary.lines()
            if summary.box_sizes:
                flags = "".join(
                    f"; {number:,} {name}"
                    for name, number in (("difficult", summary.difficult), ("crowd", summary.crowd))
                    if number
                )
                yield f"    boxes {spread(summary.box_sizes)} pixels, as the square root of the area{flags}"
        faults = [fault for found in self.faults.values() for fault in found]
        bad = [problem for problems in self.boxes.values() for problem in problems]
        kinds: tuple[tuple[str, Sequence[object]], ...] = (
            ("cannot be read", [found.reason for found in self.unreadable]),
            *((("annotations that cannot be read", faults),) if faults else ()),
            *((("nothing to train on", self.nothing_to_learn),) if self.nothing_to_learn else ()),
            ("bad boxes", bad),
            ("same image with different boxes", [" = ".join(map(str, group)) for group in self.conflicts]),
            ("same image in two splits", [" = ".join(map(str, group)) for group in self.leaks]),
        )
        yield from problem_lines(kinds, limit)
        yield from left_out_lines({"all": self.left_out}, limit)
        yield from (f"note: {note}" for note in self.notes)


def _classes(classes: dict[str, int]) -> str:
    number = f"{len(classes):,} class{'es' if len(classes) > 1 else ''}"
    if len(classes) <= FEW_CLASSES:
        return f"{number}: {', '.join(f'{name} {count:,}' for name, count in classes.items())}"
    fewest, most = min(classes, key=classes.__getitem__), max(classes, key=classes.__getitem__)
    return f"{number}, from {classes[fewest]:,} ({fewest}) to {classes[most]:,} ({most}) each"
