"""Review a split before the first step: report, skip or reject what cannot be used."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Literal

import numpy as np

from compactnets.console import Tracker, say
from compactnets.data.base import shorten
from compactnets.data.batches import OnError
from compactnets.data.examination import examine
from compactnets.detection.data.base import DetectionSource
from compactnets.detection.data.problems import OnBad, Problem, find_problems
from compactnets.errors import InputError

Role = Literal["train", "val"]
MEASURED = ("thin",)  # problems that do not exclude an object from evaluation
WORDS = {"train": "training", "val": "validation"}


def review(
    source: DetectionSource,
    role: Role,
    *,
    bad_boxes: OnBad = "raise",
    on_error: OnError = "raise",
    max_skipped: int = 100,
    workers: int = 0,
    decode: bool = True,
) -> DetectionSource:
    """Return the part of a split that a run can use, and report the rest.

    Annotations, boxes and classes are checked. Training images only have their sizes read; validation images are
    decoded, because a run first meets them at the end of an epoch.

    Args:
        source: the opened split.
        role: ``"train"``: there must be an object to learn. ``"val"``: unreadable images can be skipped.
        bad_boxes: ``"drop"`` skips unusable objects and images with unreadable annotations.
        on_error: ``"skip"`` skips unreadable validation images. Unreadable training images are kept and replaced during
            training.
        max_skipped: number of images that may be skipped.
        workers: processes that decode.
        decode: decode validation images; otherwise only their sizes are read, as for training images.

    Raises:
        InputError: unusable data that is not accepted; the message names the first and the number. Or nothing is left.
    """
    for note in source.notes:
        say(f"note: {source.split}: {note}")
    count = len(source.table.labels)
    source = _readable_annotations(source, bad_boxes)
    source, sizes = _readable_images(source, role, on_error, max_skipped, workers if decode else None)
    source = _usable_boxes(source, sizes, role, bad_boxes)
    _check_what_is_left(source, role, count)
    return source


def review_both(
    train: DetectionSource,
    val: DetectionSource,
    *,
    bad_boxes: OnBad = "raise",
    on_error: OnError = "raise",
    max_skipped: int = 100,
    workers: int = 0,
) -> tuple[DetectionSource, DetectionSource]:
    """Review both splits of a run (:func:`review`), and report classes that only one of them has."""
    reviewed = [
        review(source, role, bad_boxes=bad_boxes, on_error=on_error, max_skipped=max_skipped, workers=workers)
        for source, role in _with_roles(train, val)
    ]
    learned, measured = (np.bincount(one.table.labels, minlength=len(train.class_names)) for one in reviewed)
    if unlearned := [train.class_names[label] for label in np.flatnonzero((learned == 0) & (measured > 0))]:
        say(f"note: classes with objects in {val.split} and none in {train.split}: {shorten(unlearned)}")
    return reviewed[0], reviewed[1]


def _with_roles(train: DetectionSource, val: DetectionSource) -> list[tuple[DetectionSource, Role]]:
    return [(train, "train"), (val, "val")]


def announce(source: DetectionSource) -> str:
    """Describe a split in one line: images, objects, and objects per class."""
    table = source.table
    counts = np.bincount(table.labels[table.labels >= 0], minlength=len(source.class_names)).tolist()
    classes = ", ".join(f"{name} {count:,}" for name, count in zip(source.class_names, counts, strict=True))
    aside = int((table.difficult | table.crowd).sum())
    of_each = f": {classes}" if len(counts) <= 10 else ""
    hard = f"; {aside:,} difficult or crowds, which are not trained on" if aside else ""
    return (
        f"{source.split} ({source.spec}, {source.kind}): {len(source):,} images with {len(table.labels):,} objects of "
        f"{len(counts):,} class{'es' if len(counts) != 1 else ''}{of_each}{hard}"
    )


def _readable_annotations(source: DetectionSource, bad_boxes: OnBad) -> DetectionSource:
    found = [*source.faults.values(), *source.strays]
    if not found:
        return source
    if bad_boxes == "raise":
        raise InputError(f"{found[0]}{_more(found)}; fix it, or skip unreadable annotations with bad_boxes=drop")
    left = [index for index in range(len(source)) if index not in source.faults]
    without = f"{len(source.faults):,} of {len(source):,} images" if source.faults else "annotations without an image"
    say(
        f"note: {source.split}: {without} left out (bad_boxes=drop), {len(found):,} annotations cannot be read, the "
        f"first: {found[0]}"
    )
    if not left:
        raise InputError(f"{source.spec}: no image of {source.split} has a readable annotation: {found[0]}")
    return source.pick(left)


def _readable_images(
    source: DetectionSource, role: Role, on_error: OnError, max_skipped: int, workers: int | None
) -> tuple[DetectionSource, np.ndarray]:
    """Return the split and the size of each of its images, ``(N, 2)``; zeros if it cannot be read."""
    if role == "val" and workers is not None:
        seen = examine(source, workers)
        sizes, unreadable = seen.sizes, seen.unreadable
    else:
        sizes, unreadable = _read_sizes(source)
    source.known_sizes = np.where(sizes > 0, sizes, source.table.sizes).astype(
        np.int64
    )  # so that they are not read again
    if not unreadable:
        return source, sizes
    reasons = list(unreadable.values())
    if on_error == "raise":
        raise InputError(
            f"{reasons[0]}{_more(reasons)}; replace it, or skip unreadable {WORDS[role]} images with on_error=skip"
        )
    if role == "train":
        return source, sizes  # the loader counts them
    if len(unreadable) > max_skipped or len(unreadable) == len(source):
        raise InputError(
            f"{source.spec}: {len(unreadable):,} of {len(source):,} images of {source.split} cannot be read, more than "
            f"max_skipped = {max_skipped} or all of them; the first: {reasons[0]}"
        )
    say(
        f"note: {source.split}: {len(unreadable):,} of {len(source):,} images left out (on_error=skip), the first: "
        f"{reasons[0]}"
    )
    left = [index for index in range(len(source)) if index not in unreadable]
    return source.pick(left), sizes[left]


def _read_sizes(source: DetectionSource) -> tuple[np.ndarray, dict[int, str]]:
    sizes, unreadable = np.zeros((len(source), 2), dtype=np.int64), {}
    for index in Tracker(range(len(source)), len(source), f"checking {source.split}"):
        try:
            sizes[index] = source.read_size(index)
        except InputError as error:
            unreadable[index] = str(error)
    return sizes, unreadable


def _usable_boxes(source: DetectionSource, sizes: np.ndarray, role: Role, bad_boxes: OnBad) -> DetectionSource:
    rows = np.zeros(len(source.table.labels), dtype=bool)
    bad: list[Problem] = []
    thin: list[Problem] = []
    for index, (width, height) in enumerate(sizes.tolist()):
        if not width:
            width, height = source.size(index) or (0, 0)
        if not width:
            continue
        for problem in find_problems(source, index, width, height):
            if problem.is_note:
                continue
            if role == "val" and problem.kind in MEASURED and not source.table.normalised:
                thin.append(problem)
                continue
            row = int(source.table.offsets[index]) + problem.number - 1
            if not rows[row]:
                bad.append(problem)
            rows[row] = True
    if thin:
        say(f"note: {source.split}: {len(thin):,} objects are thinner than a pixel but still evaluated: {thin[0]}")
    if not bad:
        return source
    if bad_boxes == "raise":
        raise InputError(f"{bad[0]}{_more(bad)}; fix it, or skip such boxes with bad_boxes=drop")
    kinds = ", ".join(f"{kind} {count:,}" for kind, count in Counter(problem.kind for problem in bad).most_common())
    say(
        f"note: {source.split}: {len(bad):,} of {len(rows):,} objects left out (bad_boxes=drop; {kinds}), the first: "
        f"{bad[0]}"
    )
    if rows.all():
        raise InputError(f"{source.spec}: no object of {source.split} can be used: all {len(bad):,} are bad, {bad[0]}")
    return source.without(rows)


def _check_what_is_left(source: DetectionSource, role: Role, count: int) -> None:
    table = source.table
    if role == "train" and not (~(table.difficult | table.crowd)).any():
        aside = f", {len(table.labels):,} of them difficult or crowds" if len(table.labels) else ""
        raise InputError(
            f"{source.spec} has no object to train on: the {len(source):,} images of {source.split} ({_where(source)}) "
            f"have {count:,} objects{aside}; annotate some, or name another split"
        )
    if role == "val" and not len(table.labels):
        say(f"note: {source.split} has no object: every average precision will be 0 or none")


def _where(source: DetectionSource) -> str:
    return source.annotation(0) if len(source) == 1 else f"{source.annotation(0)}, …"


def _more(found: Sequence[object]) -> str:
    return f" (and {len(found) - 1:,} more)" if len(found) > 1 else ""
