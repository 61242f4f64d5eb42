"""A look at a split before the first step: what cannot be trained on or measured with is told, left out or refused."""

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
MEASURED = ("thin",)  # kinds of problems with which an object can still be looked for
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
    """Return what a run can use of a split, and say what it cannot.

    Annotations, boxes and classes are looked at; of training images the sizes are read, and images to evaluate on are
    decoded, because they are met at the end of an epoch only.

    Args:
        source: the split, as it was opened.
        role: ``"train"``: there must be an object to learn. ``"val"``: images that cannot be read can be left out.
        bad_boxes: ``"drop"`` leaves out objects that cannot be used and images whose annotation cannot be read.
        on_error: ``"skip"`` leaves out images to evaluate on that cannot be read. Those to train on stay: another
            takes their place when it comes to them.
        max_skipped: images that may be left out so.
        workers: processes that decode.
        decode: images to evaluate on; otherwise only their sizes are read, as of those to train on.

    Raises:
        InputError: what cannot be used, where that is refused; the message has the first, and how many there are. Or
            nothing is left.
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
    """Review the two splits of a run (:func:`review`), and say which classes of the one the other lacks."""
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
    """Return in one line what a split holds: images, objects, and those of each class."""
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
        raise InputError(
            f"{found[0]}{_more(found)}; correct it, or leave out what has no readable annotation with bad_boxes=drop"
        )
    left = [index for index in range(len(source)) if index not in source.faults]
    without = f"{len(source.faults):,} of {len(source):,} images" if source.faults else "annotations without an image"
    say(
        f"note: {source.split}: {without} left out (bad_boxes=drop), {len(found):,} annotations cannot be read, the "
        f"first: {found[0]}"
    )
    if not left:
        raise InputError(f"{source.spec}: no image of {source.split} has an annotation that can be read: {found[0]}")
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
    source.known_sizes = np.where(sizes > 0, sizes, source.table.sizes).astype(np.int64)  # nobody need read them again
    if not unreadable:
        return source, sizes
    reasons = list(unreadable.values())
    if on_error == "raise":
        raise InputError(
            f"{reasons[0]}{_more(reasons)}; replace it, or go on without {WORDS[role]} images that cannot be read with "
            f"on_error=skip"
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
    for index in Tracker(range(len(source)), len(source), f"looking at {source.split}"):
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
        say(f"note: {source.split}: {len(thin):,} objects are thinner than a pixel and looked for: {thin[0]}")
    if not bad:
        return source
    if bad_boxes == "raise":
        raise InputError(f"{bad[0]}{_more(bad)}; correct it, or leave such boxes out with bad_boxes=drop")
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
