"""Check every image and box of a source before training."""

from __future__ import annotations

import os
import re
import time
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np

from compactnets.data.base import shorten
from compactnets.data.examination import Examination, examine, locate, same_images
from compactnets.data.listing import strays
from compactnets.data.orientation import UPRIGHT, turned_size
from compactnets.data.report import FoundImage
from compactnets.detection.data.base import ALL as WHOLE
from compactnets.detection.data.base import NAMES, YEAR, DetectionSource
from compactnets.detection.data.opening import Spec, open_detection, open_splits
from compactnets.detection.data.problems import Problem, find_problems, upright_objects
from compactnets.detection.data.report import DetectionReport, DetectionSummary
from compactnets.detection.data.reviewing import MEASURED
from compactnets.detection.data.table import box_areas, box_sides

THIN = 1  # pixels; a box with a side this short is probably an accidental click
ALL = "both"  # as in the check of labelled images


def check_detection(
    spec: Spec,
    split: str = ALL,
    *,
    workers: int | None = None,
    class_names: Sequence[str] | None = None,
    share: float | None = None,
) -> DetectionReport:
    """Decode every image of a source (:func:`open_detection`), check every box, and find duplicate images.

    Memory: about 100 bytes per image and per object, plus the images being decoded.

    Args:
        spec: path of the folder, or of several that form one set.
        share: share of undivided images used for training (:func:`open_detection`).
        split: one split, or ``"both"`` for all. A ``trainval`` that consists of the others is not decoded again.
        workers: processes that decode; ``None``: one per core, or none for fewer than 1,000 images.
        class_names: the classes, instead of those in the annotations.

    Raises:
        InputError: the source cannot be opened, or has no such split.
    """
    if split == ALL:
        sources = open_splits(spec, class_names=class_names, share=share)
        report = check_sources(sources, workers=workers)
        report.left_out = _left_out(sources)
        if [source.split for source in sources] == [WHOLE]:
            report.notes.append("the images are not divided: --split 0.8 trains on 80 % of them")
        return report
    return check_sources([open_detection(spec, split, class_names=class_names, share=share)], workers=workers)


def check_sources(sources: Sequence[DetectionSource], *, workers: int | None = None) -> DetectionReport:
    """Check opened splits of one source; see :func:`check_detection`."""
    start = time.perf_counter()
    report = DetectionReport(sources[0].spec, sources[0].kind, {})
    examined, repeats = _without_repeats(sources)
    seen = [examine(source, workers) for source in examined]
    for source, examination in zip(examined, seen, strict=True):
        _summarize(source, examination, report)
        _look_at_boxes(source, examination, report)
    _compare(examined, [examination.digests for examination in seen], report)
    report.notes.extend(
        f"{source.split}: {len(source):,} images, all of them also in {' and '.join(others)} and not checked again"
        for source, others in repeats
    )
    report.seconds = time.perf_counter() - start
    return report


def role_of(split: str, splits: Iterable[str]) -> str | None:
    """Return the role of a split, ``"train"``, ``"val"`` or ``"test"``; splits of different roles must not share
    images.

    ``trainval`` is for training if neither ``train`` nor ``val`` exists; otherwise it has no role, as it overlaps with
    them on purpose. A split of any other name has no role.
    """
    plain = re.sub(f"{YEAR}$", "", split)
    if plain == "trainval":
        return None if any(role_of(other, ()) in ("train", "val") for other in splits if other != split) else "train"
    return next((role for role, names in NAMES.items() if plain in names), None)


def _without_repeats(
    sources: Sequence[DetectionSource],
) -> tuple[list[DetectionSource], list[tuple[DetectionSource, list[str]]]]:
    """Return the splits to check, and the splits without a role whose images are all in others, with their names."""
    splits = [source.split for source in sources]
    examined = [source for source in sources if role_of(source.split, splits)]
    places = {source.split: set(source.names) for source in examined}
    repeats = []
    for source in sources:
        if source in examined:
            continue
        names = set(source.names)
        if names <= set[str]().union(*places.values()):
            repeats.append((source, [split for split, images in places.items() if images & names]))
        else:
            examined.append(source)
    return examined, repeats


def _summarize(source: DetectionSource, seen: Examination, report: DetectionReport) -> None:
    table = source.table
    report.unreadable.extend(_found(source, index, reason) for index, reason in seen.unreadable.items())
    counts = np.bincount(table.labels[table.labels >= 0], minlength=len(source.class_names)).tolist()
    classes = dict(zip(source.class_names, counts, strict=True))
    empty = int((np.diff(table.offsets) == 0).sum()) - len(source.faults)
    areas = box_areas(table.boxes)
    sizes = np.sqrt(areas[(areas > 0) & np.isfinite(areas)])
    report.splits[source.split] = DetectionSummary(
        images=len(source),
        unreadable=len(seen.unreadable),
        empty=empty,
        objects=len(table.labels),
        difficult=int(table.difficult.sum()),
        crowd=int(table.crowd.sum()),
        classes=classes,
        box_sizes=(float(sizes.min()), float(np.median(sizes)), float(sizes.max())) if len(sizes) else None,
        widths=seen.spread(0),
        heights=seen.spread(1),
        modes=dict(seen.modes.most_common()),
        formats=dict(seen.formats.most_common()),
    )
    if faults := [*source.faults.values(), *source.strays]:
        report.faults[source.split] = faults
    report.notes.extend(f"{source.split}: {note}" for note in source.notes)
    if empty:
        report.notes.append(f"{source.split}: {empty:,} of {len(source):,} images have no object")
    if absent := [name for name, count in classes.items() if not count]:
        report.notes.append(f"{source.split}: {len(absent):,} classes have no object: {shorten(absent)}")


def _look_at_boxes(source: DetectionSource, seen: Examination, report: DetectionReport) -> None:
    problems: list[Problem] = []
    repeated: list[str] = []
    thin: list[str] = []
    turned: list[str] = []
    taken_upright: list[str] = []
    for index in range(len(source)):
        stated = source.size(index)
        width, height = seen.sizes[index].tolist()
        if not width and stated:  # if the image cannot be read, use the annotation's size
            width, height = stated
        if width:
            problems += find_problems(source, index, width, height)
            orientation = source.orientation(index)
            if upright_objects(source, index, width, height)[1] != UPRIGHT:
                turned.append(source.name(index))
            elif orientation != UPRIGHT and (stated is None or turned_size(*stated, orientation) == stated):
                taken_upright.append(source.name(index))
        rows = source.table.rows(index)
        objects = np.column_stack([source.table.labels[rows], source.table.boxes[rows]])
        sides = box_sides(source.table.boxes[rows])
        for number in np.flatnonzero((sides > 0).all(axis=1) & (sides <= THIN).any(axis=1)).tolist():
            what = f"{source.class_name(index, number)}; {source.written_box(index, number)}"
            thin.append(f"{source.name(index)}, object {number + 1} ({what})")
        if extra := len(objects) - len(np.unique(objects, axis=0)):
            repeated.append(f"{source.name(index)} ({extra})")
    looked_for = role_of(source.split, ()) in ("val", "test") and not source.table.normalised
    only_thin = [problem for problem in problems if problem.kind in MEASURED and looked_for]
    if only_thin:
        what = "boxes are thinner than a pixel: they still count in evaluation"
        report.notes.append(f"{source.split}: {len(only_thin):,} {what}; the first: {only_thin[0]}")
    bad = sum(not problem.is_note for problem in problems)
    learnable = int((~(source.table.difficult | source.table.crowd)).sum())
    if role_of(source.split, ()) == "train" and (not learnable or bad >= len(source.table.labels)):
        report.nothing_to_learn.append(
            f"{source.split}: of {len(source.table.labels):,} objects {bad:,} are bad, and {learnable:,} are neither "
            f"difficult nor crowds"
        )
    report.boxes[source.split] = [p for p in problems if not p.is_note and p not in only_thin]
    report.remarks[source.split] = remarks = [problem for problem in problems if problem.is_note]
    cut = [problem for problem in remarks if problem.kind == "partly outside"]
    sizes = [problem for problem in remarks if problem.kind == "size differs"]
    for found, what in (
        (cut, "boxes reach past the edge of their image and will be clipped"),
        (sizes, "images differ in size from their annotation"),
    ):
        if found:
            report.notes.append(f"{source.split}: {len(found):,} {what}; the first: {found[0]}")
    for names, what in (
        (turned, "annotations state the size of the stored pixels: their boxes are turned with the image"),
        (taken_upright, "annotations fit both the stored and the upright image: their boxes are assumed upright"),
    ):
        if names:
            report.notes.append(f"{source.split}: by EXIF orientation, {len(names):,} {what}: {shorten(names, 3)}")
    if thin:
        report.notes.append(
            f"{source.split}: {len(thin):,} boxes are no more than a pixel wide or high: {shorten(thin, 3)}"
        )
    if repeated:
        what = "images have the same box of the same class twice"
        report.notes.append(f"{source.split}: {len(repeated):,} {what}: {shorten(repeated, 3)}")


def _compare(sources: Sequence[DetectionSource], digests: Sequence[np.ndarray], report: DetectionReport) -> None:
    """Add duplicates to the report."""
    roles = {source.split: role_of(source.split, [other.split for other in sources]) for source in sources}
    copies: Counter[str] = Counter()
    for group in same_images(np.concatenate(digests)):
        places = [locate(sources, int(position)) for position in group]
        found = [_found(source, index) for source, index in places]
        different = len({source.table.content(index) for source, index in places}) > 1
        leaked = len({roles[source.split] for source, _ in places} - {None}) > 1
        if different:
            report.conflicts.append(found)
        if leaked:
            report.leaks.append(found)
        if not different:
            copies.update(
                {split: number - 1 for split, number in Counter(image.split for image in found).items() if number > 1}
            )
    for split, number in copies.items():
        report.notes.append(f"{split}: {number:,} images are copies of another with the same boxes")


def _left_out(sources: Sequence[DetectionSource]) -> list[str]:
    """Return the files beside the images of these splits that are neither an image nor an annotation of one of them."""
    root = sources[0].root
    named = {str(source.root / name) for source in sources for name in source.names}
    folders = sorted({os.path.dirname(path) for path in named})
    named |= {source.annotation(index) for source in sources for index in range(len(source))}
    found = [path for folder in folders if os.path.isdir(folder) for path in strays(Path(folder)) if path not in named]
    return [os.path.relpath(path, root) + "/" * path.endswith("/") for path in found]


def _found(source: DetectionSource, index: int, reason: str = "") -> FoundImage:
    return FoundImage(source.split, index, source.name(index), reason)
