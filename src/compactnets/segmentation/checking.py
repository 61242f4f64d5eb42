"""Check images with masks: all of them for a report, or up to the first problem before a run."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np

from compactnets.console import Tracker, say
from compactnets.data.base import shorten
from compactnets.data.examination import Examination, examine, locate, same_images
from compactnets.data.images import read_size
from compactnets.data.report import FoundImage, ImagesSummary, problem_lines
from compactnets.detection.data.base import NAMES
from compactnets.errors import InputError
from compactnets.segmentation.data import (
    CLASSES,
    COLOUR,
    LOSSY,
    NO_IMAGE,
    NO_MASK,
    SIZE,
    UNREADABLE,
    VALUE,
    MaskError,
    MaskSource,
    find_masks,
)
from compactnets.segmentation.recipe import IGNORED

NEVER, LEAK, EMPTY = "class never seen", "same image in two splits", "no pixel with a class"
KINDS = (UNREADABLE, NO_MASK, NO_IMAGE, SIZE, VALUE, LOSSY, COLOUR, NEVER, EMPTY, LEAK)


@dataclass(frozen=True)
class MaskSummary(ImagesSummary):
    """The contents of a split.

    Attributes:
        classes: class name -> pixels, in the order of the classes.
        seen_in: class name -> images that have it.
        ignored: pixels without a class.
    """

    classes: dict[str, int]
    seen_in: dict[str, int]
    ignored: int


@dataclass
class MaskReport:
    """The result of :func:`check_masks`.

    Attributes:
        problems: kind -> what was found, with file and value.
        notes: findings that may be intended.
    """

    spec: str
    kind: str
    splits: dict[str, MaskSummary] = field(default_factory=dict)
    problems: dict[str, list[str]] = field(default_factory=lambda: {kind: [] for kind in KINDS})
    notes: list[str] = field(default_factory=list)
    seconds: float = 0.0

    @property
    def clean(self) -> bool:
        """Whether there is no problem; notes do not count."""
        return not any(self.problems.values())

    def to_dict(self) -> dict[str, Any]:
        """Return everything, for JSON."""
        return {"clean": self.clean, **asdict(self)}

    def lines(self, limit: int = 20) -> Iterator[str]:
        """Yield the report as text, with the first ``limit`` problems of each kind."""
        yield f"{self.spec} ({self.kind}), {self.seconds:.1f} s"
        for split, summary in self.splits.items():
            yield f"  {split}: {summary.images:,} images with masks of {len(summary.classes):,} classes"
            yield from summary.lines()
            total = max(1, sum(summary.classes.values()))
            shares = ", ".join(f"{name} {pixels / total:.1%}" for name, pixels in summary.classes.items())
            yield f"    {shares}; {summary.ignored / max(1, total + summary.ignored):.1%} of the pixels have no class"
        yield from problem_lines(self.problems.items(), limit)
        yield from (f"note: {note}" for note in self.notes)


@dataclass(frozen=True)
class Frequencies:
    """How often the classes occur: pixels of each (C,) int64, and the labelled pixels of the images that have it."""

    pixels: np.ndarray
    of: np.ndarray

    def weights(self, how: str) -> np.ndarray:
        """Return a weight for each class, (C,), so that a pixel's is 1 on average; 0 for a class without pixels.

        Args:
            how: ``"median"``: median frequency balancing, of frequencies within the images that have the class
                (Eigen and Fergus 2015, arXiv:1411.4734, section 6.2; SegNet). ``"log"``: 1 / ln(1.02 + share)
                (ENet, arXiv:1606.02147, section 4.2).
        """
        seen = self.pixels > 0
        share = self.pixels / max(1, self.pixels.sum())
        frequency = self.pixels[seen] / self.of[seen]
        weights = np.zeros(len(share))
        weights[seen] = np.median(frequency) / frequency if how == "median" else 1 / np.log(1.02 + share[seen])
        return weights / (weights * share).sum()


def survey(source: MaskSource, *, decode: bool) -> Frequencies:
    """Read every mask of a split before a run, and the size of every image, or with ``decode`` the whole image.

    Raises:
        InputError: classes without names, or the first pair that cannot be used.
    """
    if not source.class_names:
        raise InputError(
            f"{source.spec} does not name its classes: write {source.root / CLASSES}, a name a line in the order of "
            f"the masks' values, or classes: [...] in the recipe"
        )
    if faults := source.pairs.faults:
        more = f", and {len(faults) - 1:,} more ('compactnets data check' lists them)" if len(faults) > 1 else ""
        raise InputError(f"{faults[0]}{more}")
    if not len(source):
        raise InputError(f"{source.spec} has no image with a mask in {source.split}")
    classes = len(source.class_names)
    pixels, of = np.zeros(classes, np.int64), np.zeros(classes, np.int64)
    for index in Tracker(range(len(source)), len(source), f"reading the masks of {source.split}"):
        size = source.image(index).size if decode else read_size(source.root / source.name(index))
        counts = np.bincount(source.mask(index, size).ravel(), minlength=256)[:classes]
        pixels += counts
        of[counts > 0] += counts.sum()
    if not pixels.any():
        raise InputError(f"{source.spec}: no pixel of {source.split} has a class")
    if never := [name for name, count in zip(source.class_names, pixels, strict=True) if not count]:
        say(f"note: {source.split}: no pixel of {shorten(never)}")
    return Frequencies(pixels, of)


def check_masks(
    spec: str,
    splits: Sequence[str] | None = None,
    *,
    class_names: Sequence[str] | None = None,
    ignore: Sequence[int] = (),
    workers: int | None = None,
) -> MaskReport:
    """Decode every image and mask of a folder.

    Args:
        spec: the folder.
        splits: those to check; ``None``: all.
        class_names: as for :meth:`compactnets.segmentation.data.MaskTree.open`.
        ignore: as there.
        workers: as for :func:`compactnets.data.examination.examine`.

    Raises:
        InputError: a folder that cannot be opened.
    """
    start, tree = time.perf_counter(), find_masks(spec)
    order = {name: place for place, name in enumerate(name for names in NAMES.values() for name in names)}
    chosen = splits or sorted(tree.splits, key=lambda name: (order.get(name, len(order)), name))
    sources = [tree.open(split, class_names, ignore) for split in chosen]
    report = MaskReport(spec, tree.kind)
    seen = [examine(source, workers) for source in sources]
    for source, found in zip(sources, seen, strict=True):
        _check_split(source, found, report)
    for group in same_images(np.concatenate([found.digests for found in seen])):
        places = [locate(sources, int(position)) for position in group]
        if len({source.split for source, _ in places} - {"trainval"}) > 1:
            images = [FoundImage(source.split, index, source.name(index)) for source, index in places]
            report.problems[LEAK].append(" = ".join(map(str, images)))
    if not sources[0].class_names:
        report.notes.append(f"nothing names the classes: write {tree.root / CLASSES}, or give --recipe")
    report.seconds = time.perf_counter() - start
    return report


def _check_split(source: MaskSource, seen: Examination, report: MaskReport) -> None:
    problems, names = report.problems, source.class_names
    problems[UNREADABLE] += seen.unreadable.values()
    for fault in source.pairs.faults:
        problems[fault.kind].append(str(fault))
    pixels, seen_in = np.zeros(256, np.int64), np.zeros(256, np.int64)
    for index in Tracker(range(len(source)), len(source), f"reading the masks of {source.split}"):
        size = (int(seen.sizes[index][0]), int(seen.sizes[index][1]))
        if not size[0]:
            continue
        try:
            labels = source.mask(index, size) if names else source.values(index, size)
        except MaskError as error:
            problems[error.kind].append(str(error))
            continue
        counts = np.bincount(labels.ravel(), minlength=256)
        pixels += counts
        seen_in += counts > 0
    if not names:
        names = tuple(f"value {value}" for value in np.flatnonzero(pixels).tolist() if value != IGNORED)
        labelled = [int(name.split()[1]) for name in names]
    else:
        labelled = list(range(len(names)))
    classes = {name: int(pixels[label]) for name, label in zip(names, labelled, strict=True)}
    never = [name for name, count in classes.items() if not count]
    if len(source) and not any(classes.values()):
        problems[EMPTY].append(f"{source.split} ({source.spec})")
    elif source.split in NAMES["train"]:
        problems[NEVER] += [f"{name}: no pixel of it in the {len(source):,} masks of {source.split}" for name in never]
    elif never:
        report.notes.append(f"{source.split}: no pixel of {shorten(never)}: their IoU says nothing there")
    report.splits[source.split] = MaskSummary(
        images=len(source),
        unreadable=len(seen.unreadable),
        widths=seen.spread(0),
        heights=seen.spread(1),
        modes=dict(Counter(seen.modes)),
        formats=dict(seen.formats),
        classes=classes,
        seen_in={name: int(seen_in[label]) for name, label in zip(names, labelled, strict=True)},
        ignored=int(pixels.sum()) - sum(classes.values()),
    )
