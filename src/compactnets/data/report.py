"""What a check of a source found, as data and as text."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from typing import Any


@dataclass(frozen=True)
class Found:
    """One image of a report."""

    split: str
    index: int
    name: str
    class_name: str
    reason: str = ""  # why it cannot be read

    def __str__(self) -> str:
        return f"{self.name} ({self.split}, {self.class_name})"


@dataclass(frozen=True)
class SplitSummary:
    """What a split holds. Widths and heights are (smallest, median, largest) in pixels, of the readable images."""

    images: int
    unreadable: int
    classes: int
    smallest_class: tuple[str, int]  # name and images
    largest_class: tuple[str, int]
    widths: tuple[int, int, int] | None
    heights: tuple[int, int, int] | None
    modes: dict[str, int]  # Pillow's, and the images of each
    formats: dict[str, int]  # of encoded images


@dataclass
class SourceReport:
    """What :func:`compactnets.data.checking.check_source` found.

    Two images are the same where their pixels are, as RGB: of a re-compressed or resized copy they are not.

    Attributes:
        unreadable: images that cannot be decoded, each with its reason.
        conflicts: groups of the same image under more than one class: at most one label of each is right.
        leaks: groups of the same image in both splits, so that evaluation sees what training saw.
        notes: what may be meant to be so: classes without images, imbalance, copies within a class and split.
    """

    spec: str
    kind: str
    splits: dict[str, SplitSummary]
    unreadable: list[Found] = field(default_factory=list)
    conflicts: list[list[Found]] = field(default_factory=list)
    leaks: list[list[Found]] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    seconds: float = 0.0

    @property
    def clean(self) -> bool:
        """Whether there is no problem; a note is none."""
        return not (self.unreadable or self.conflicts or self.leaks)

    def to_dict(self) -> dict[str, Any]:
        """Return all of it for JSON."""
        return {"clean": self.clean, **asdict(self)}


def render(report: SourceReport, limit: int = 20) -> Iterator[str]:
    """Yield the lines of a report; of each kind of problem the first ``limit`` are listed."""
    yield f"{report.spec} ({report.kind}), {report.seconds:.1f} s"
    for split, summary in report.splits.items():
        yield f"  {split}: {summary.images:,} images of {_classes(summary)}"
        if summary.widths and summary.heights:
            yield f"    width {_spread(summary.widths)}, height {_spread(summary.heights)} pixels; {_kinds(summary)}"
    kinds = (
        ("cannot be read", [found.reason for found in report.unreadable]),
        ("same image under two classes", [" = ".join(map(str, group)) for group in report.conflicts]),
        ("same image in both splits", [" = ".join(map(str, group)) for group in report.leaks]),
    )
    for kind, lines in kinds:
        yield f"{kind}: {len(lines):,}"
        yield from (f"  {line}" for line in lines[:limit])
        if len(lines) > limit:
            yield f"  and {len(lines) - limit:,} more (--json lists all)"
    yield from (f"note: {note}" for note in report.notes)


def _classes(summary: SplitSummary) -> str:
    (fewest, least), (most, greatest) = summary.smallest_class, summary.largest_class
    if least == greatest:
        return f"{summary.classes:,} classes, {least:,} each"
    return f"{summary.classes:,} classes, from {least:,} ({fewest}) to {greatest:,} ({most}) each"


def _spread(values: tuple[int, int, int]) -> str:
    smallest, median, largest = values
    return f"{smallest:,}" if smallest == largest else f"{smallest:,} to {largest:,} (median {median:,})"


def _kinds(summary: SplitSummary) -> str:
    return ", ".join(f"{name} {number:,}" for name, number in (*summary.formats.items(), *summary.modes.items()))
