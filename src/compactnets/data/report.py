"""The report of a data check, as data and as text."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from compactnets.data.listing import printable, summarize


@dataclass(frozen=True)
class FoundImage:
    """One image of a report."""

    split: str
    index: int
    name: str
    reason: str = ""  # why it cannot be read

    def __str__(self) -> str:
        return f"{self.name} ({self.split})"


@dataclass(frozen=True)
class LabelledImage(FoundImage):
    """One image of a report, with its class."""

    class_name: str = ""

    def __str__(self) -> str:
        return f"{self.name} ({self.split}, {self.class_name})"


@dataclass(frozen=True)
class ImagesSummary:
    """The images of a split. Widths and heights are (smallest, median, largest) in pixels, of the readable images."""

    images: int
    unreadable: int
    widths: tuple[int, int, int] | None
    heights: tuple[int, int, int] | None
    modes: dict[str, int]  # Pillow modes -> number of images
    formats: dict[str, int]  # encodings -> number of images

    def lines(self) -> Iterator[str]:
        """Yield text about sizes and kinds; nothing if no image is readable."""
        if self.widths and self.heights:
            kinds = ", ".join(f"{name} {number:,}" for name, number in (*self.formats.items(), *self.modes.items()))
            yield f"    width {spread(self.widths)}, height {spread(self.heights)} pixels; {kinds}"


@dataclass(frozen=True)
class SplitSummary(ImagesSummary):
    """What a split holds."""

    classes: int
    smallest_class: tuple[str, int]  # name and images
    largest_class: tuple[str, int]


@dataclass
class SourceReport:
    """The result of :func:`compactnets.data.checking.check_source`.

    Two images are the same if their RGB pixels are; re-compressed or resized copies are not.

    Attributes:
        unreadable: images that cannot be decoded, each with its reason.
        conflicts: groups of the same image under more than one class: at most one of the labels is right.
        leaks: groups of the same image in both splits, so evaluation sees training images.
        left_out: files among the images that are not read, by split.
        notes: findings that may be intended: classes without images, imbalance, copies within a class and split.
    """

    spec: str
    kind: str
    splits: dict[str, SplitSummary]
    unreadable: list[LabelledImage] = field(default_factory=list)
    conflicts: list[list[LabelledImage]] = field(default_factory=list)
    leaks: list[list[LabelledImage]] = field(default_factory=list)
    left_out: dict[str, list[str]] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    seconds: float = 0.0

    @property
    def clean(self) -> bool:
        """Whether there is no problem; notes do not count."""
        return not (self.unreadable or self.conflicts or self.leaks)

    def to_dict(self) -> dict[str, Any]:
        """Return all of it for JSON."""
        return {"clean": self.clean, **asdict(self)}

    def lines(self, limit: int = 20) -> Iterator[str]:
        """Yield the report as text, with the first ``limit`` problems of each kind."""
        yield f"{self.spec} ({self.kind}), {self.seconds:.1f} s"
        for split, summary in self.splits.items():
            yield f"  {split}: {summary.images:,} images of {_classes(summary)}"
            yield from summary.lines()
        kinds: tuple[tuple[str, Sequence[object]], ...] = (
            ("cannot be read", [found.reason for found in self.unreadable]),
            ("same image under two classes", [" = ".join(map(str, group)) for group in self.conflicts]),
            ("same image in both splits", [" = ".join(map(str, group)) for group in self.leaks]),
        )
        yield from problem_lines(kinds, limit)
        yield from left_out_lines(self.left_out, limit)
        yield from (f"note: {note}" for note in self.notes)


def left_out_lines(left_out: Mapping[str, Sequence[str]], limit: int) -> Iterator[str]:
    """Yield which files are not read, each once; nothing where there is none."""
    names = list(dict.fromkeys(printable(name) for names in left_out.values() for name in names))
    if names:
        yield from problem_lines([(f"files left out ({_endings(names)})", names)], limit)


def _endings(names: Sequence[str]) -> str:
    return summarize(names).partition("(")[2].removesuffix(")")


def problem_lines(kinds: Iterable[tuple[str, Sequence[object]]], limit: int) -> Iterator[str]:
    """Yield the number of problems of each kind, and the first ``limit``."""
    for kind, found in kinds:
        yield f"{kind}: {len(found):,}"
        yield from (f"  {line}" for line in found[:limit])
        if len(found) > limit:
            yield f"  and {len(found) - limit:,} more (--json lists all)"


def spread(values: tuple[float, float, float]) -> str:
    """Format (smallest, median, largest), or the single value if all agree."""
    smallest, median, largest = (f"{value:,.0f}" for value in values)
    return smallest if smallest == largest else f"{smallest} to {largest} (median {median})"


def _classes(summary: SplitSummary) -> str:
    (fewest, least), (most, greatest) = summary.smallest_class, summary.largest_class
    if least == greatest:
        return f"{summary.classes:,} classes, {least:,} each"
    return f"{summary.classes:,} classes, from {least:,} ({fewest}) to {greatest:,} ({most}) each"
