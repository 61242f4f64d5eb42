"""Check every image of a source before training: unreadable images and duplicates."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Literal

import numpy as np
from PIL import Image

from compactnets.data.base import ImageSource, MissingSplitError, Split, shorten
from compactnets.data.examination import examine, locate, same_images
from compactnets.data.opening import open_quietly
from compactnets.data.preprocess import Fit, Preprocess
from compactnets.data.report import LabelledImage, SourceReport, SplitSummary
from compactnets.errors import InputError

IMBALANCE = 10  # note if the largest class is this many times the smallest


def check_source(
    spec: str,
    split: Literal["train", "val", "both"] = "both",
    *,
    workers: int | None = None,
    opener: Callable[[str, Split], ImageSource] = open_quietly,
) -> SourceReport:
    """Decode every image of a source and find duplicates.

    Memory: about 100 bytes per image, plus the images being decoded.

    Args:
        split: ``"both"`` checks all existing splits, also for images in more than one.
        workers: processes that decode; ``None``: one per core, or none for fewer than 1,000 images.
        opener: opens a split, as :func:`compactnets.data.open_source`.

    Raises:
        InputError: the source cannot be opened, or has no such split.
    """
    sources: list[ImageSource] = []
    absent: list[MissingSplitError] = []
    wanted: tuple[Split, ...] = ("train", "val") if split == "both" else (split,)
    for name in wanted:
        try:
            sources.append(opener(spec, name))
        except MissingSplitError as error:
            absent.append(error)
    if not sources:
        raise absent[0]
    report = check_images(sources, workers=workers)
    report.notes.extend(str(error) for error in absent)
    return report


def check_images(sources: Sequence[ImageSource], *, workers: int | None = None) -> SourceReport:
    """Check opened splits of one source; see :func:`check_source`."""
    start = time.perf_counter()
    report = SourceReport(sources[0].spec, sources[0].kind, {})
    digests = [_examine(source, report, workers) for source in sources]
    _compare(sources, digests, report)
    report.seconds = time.perf_counter() - start
    return report


def _examine(source: ImageSource, report: SourceReport, workers: int | None) -> np.ndarray:
    """Add a split to the report; return the digests, ``(N, 2)`` uint64, zero if an image cannot be read."""
    seen = examine(source, workers, Fits(source.readable_preprocess))
    report.left_out[source.split] = list(source.left_out)
    report.unreadable.extend(_found(source, index, reason) for index, reason in seen.unreadable.items())
    counts = source.class_counts()
    least, most = int(counts.argmin()), int(counts.argmax())
    report.splits[source.split] = SplitSummary(
        images=len(source),
        unreadable=len(seen.unreadable),
        classes=len(source.class_names),
        smallest_class=(source.class_names[least], int(counts[least])),
        largest_class=(source.class_names[most], int(counts[most])),
        widths=seen.spread(0),
        heights=seen.spread(1),
        modes=dict(seen.modes.most_common()),
        formats=dict(seen.formats.most_common()),
    )
    if empty := [source.class_names[index] for index in np.flatnonzero(counts == 0)]:
        report.notes.append(f"{source.split}: {len(empty):,} classes have no image: {shorten(empty)}")
    elif counts[most] >= IMBALANCE * counts[least]:
        report.notes.append(
            f"{source.split}: {source.class_names[most]} has {counts[most]:,} images, {source.class_names[least]} only "
            f"{counts[least]:,}"
        )
    report.notes.extend(source.remarks())
    return seen.digests


class Fits:
    """Checks that an image can be preprocessed for evaluation, without resizing it."""

    def __init__(self, preprocess: Preprocess) -> None:
        self.fit = Fit(preprocess)

    def __call__(self, image: Image.Image) -> None:
        """Raise :class:`InputError` if it cannot."""
        self.fit.target(*image.size)


def _found(source: ImageSource, index: int, reason: str = "") -> LabelledImage:
    try:
        name = source.name(index)
    except InputError:  # the name is stored with the image
        name = f"image {index}"
    return LabelledImage(source.split, index, name, reason, source.classes_of(index))


def _compare(sources: Sequence[ImageSource], digests: Sequence[np.ndarray], report: SourceReport) -> None:
    """Add duplicates to the report."""
    copies: Counter[str] = Counter()
    for group in same_images(np.concatenate(digests)):
        places = [locate(sources, int(position)) for position in group]
        classes = {source.classes_of(index) for source, index in places}
        splits = {source.split for source, _ in places}
        if len(classes) == 1 and len(splits) == 1:
            copies.update({places[0][0].split: len(places) - 1})
            continue
        found = [_found(source, index) for source, index in places]
        if len(classes) > 1:
            report.conflicts.append(found)
        if len(splits) > 1:
            report.leaks.append(found)
    for split, number in copies.items():
        report.notes.append(f"{split}: {number:,} images are copies of another of the same class")
