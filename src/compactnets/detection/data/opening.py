"""Open the source of images with boxes that the user named."""

from __future__ import annotations

import os
from collections.abc import Sequence

import numpy as np

from compactnets.data.base import MissingSplitError, describe, shorten
from compactnets.data.huggingface import PREFIX
from compactnets.data.listing import compose
from compactnets.data.opening import WORDS
from compactnets.detection.data import yolo
from compactnets.detection.data.base import DetectionSource, DetectionTree, check_class_names
from compactnets.detection.data.combining import DividedTree, JoinedTree
from compactnets.detection.data.layouts import LAYOUTS, find_other, find_plain, find_trees
from compactnets.errors import InputError, did_you_mean
from compactnets.files import as_path

Spec = str | Sequence[str]  # a folder, or several read as one


def open_detection(
    spec: Spec, split: str, *, class_names: Sequence[str] | None = None, share: float | None = None
) -> DetectionSource:
    """Open one split of the images with boxes in the folder ``spec``.

    The folder, or a single one up to two levels below it, holds

    * annotations of Pascal VOC (:func:`compactnets.detection.data.voc.find`), or
    * files in COCO's format (:func:`compactnets.detection.data.coco.find_files`), or
    * text files of YOLO's (:func:`compactnets.detection.data.yolo.find`).

    Args:
        spec: path of the folder, or of YOLO's ``data.yaml``; several are read as one.
        split: name of the split: that of the list in ``ImageSets/Main/`` or of the file of annotations. If there is no
            split of exactly this name, ``train`` also finds ``train2017``, and ``val`` also ``valid`` and
            ``validation``.
        class_names: the classes and their order, instead of those in the annotations; objects of other classes get the
            label -1.
        share: this share of undivided images is ``train``, the rest ``val``
            (:class:`compactnets.detection.data.combining.DividedTree`).

    Raises:
        MissingSplitError: no such split; the message lists those that exist.
        InputError: no such folder, an unsupported layout, more than one tree, or a file that cannot be used.
    """
    tree = find_tree(spec, share)
    try:
        return tree.open(tree.find(split), class_names)
    except OSError as error:
        raise InputError(f"{tree.spec} cannot be read: {error.strerror or error}") from None


def open_run(
    spec: Spec,
    train_split: str = "train",
    val_split: str = "val",
    *,
    share: float | None = None,
    classes: Sequence[str] | None = None,
) -> tuple[DetectionSource, DetectionSource]:
    """Open both splits of a run, with the classes of the training images.

    Args:
        classes: those to learn, in this order; objects of other classes are dropped, with a note.

    Raises:
        InputError: as :func:`open_detection`, or an unknown class.
    """
    tree = find_tree(spec, share)
    train_name, val_name = (_find(tree, name, key) for name, key in ((train_split, "train"), (val_split, "val")))
    try:
        train = tree.open(train_name)
        if classes is None:
            return train, tree.open(val_name, train.class_names)
        chosen = _choose(train, classes)
        return without_others(tree.open(train_name, chosen)), without_others(tree.open(val_name, chosen))
    except OSError as error:
        raise InputError(f"{tree.spec} cannot be read: {error.strerror or error}") from None


def open_splits(
    spec: Spec, *, class_names: Sequence[str] | None = None, share: float | None = None, union: bool = False
) -> list[DetectionSource]:
    """Open every split of a folder, all with the classes of the training images; see :func:`open_detection`.

    Args:
        union: also append the classes that only other splits have.

    Raises:
        InputError: as :func:`open_detection`.
    """
    tree = find_tree(spec, share)
    try:
        sources = [tree.open(split, class_names) for split in tree.splits]
        if class_names is None:
            names = sources[0].class_names  # train comes first
            if union:
                names = tuple(dict.fromkeys(name for source in sources for name in source.class_names))
            sources = [source if source.class_names == names else tree.open(source.split, names) for source in sources]
    except OSError as error:
        raise InputError(f"{tree.spec} cannot be read: {error.strerror or error}") from None
    return sources


def _find(tree: DetectionTree, split: str, key: str) -> str:
    """Return the tree's name of a run's split; if there are several, the error says how to name one."""
    try:
        return tree.find(split)
    except MissingSplitError as error:
        if len(tree.splits) == 1:
            raise
        raise MissingSplitError(f"{error}; the recipe's {key}_split names another") from None


def _choose(train: DetectionSource, classes: Sequence[str]) -> tuple[str, ...]:
    chosen = check_class_names(classes)
    known = {compose(name) for name in train.class_names}
    missing = [name for name in chosen if name not in known]
    near = next((hint for name in missing if (hint := did_you_mean(name, train.class_names))), "")
    if missing and (near or len(missing) == len(chosen)):
        raise InputError(
            f"classes: {train.spec} has no class {shorten([repr(name) for name in missing])}{near}; it has "
            f"{shorten(train.class_names, 10)}"
        )
    return chosen


def without_others(source: DetectionSource) -> DetectionSource:
    """Return a split without objects of classes outside its own, with a note about them."""
    rows = source.table.labels < 0
    if not rows.any():
        return source
    others = sorted({source.table.unknown[int(row)] for row in np.flatnonzero(rows)})
    left = source.without(rows)
    left.notes = [*left.notes, f"{int(rows.sum()):,} objects of other classes left out: {shorten(others)}"]
    return left


def is_detection(spec: str) -> bool:
    """Whether ``spec`` names a folder of images with boxes, complete or not, in any known layout.

    Named data sets (``digits``) and ``hf:…`` do not.
    """
    if not spec or spec in WORDS or spec.startswith(PREFIX):
        return False
    path = as_path(spec)
    if path.suffix in (".yaml", ".yml") and os.path.isfile(path):
        return True
    if not os.path.isdir(path):  # unlike is_dir, no error for a pattern longer than a path may be
        return False
    try:
        return bool(find_trees(path, spec)) or find_other(path) is not None
    except (InputError, OSError):  # reported when it is opened
        return True


def find_tree(spec: Spec, share: float | None = None) -> DetectionTree:
    """Return the tree in ``spec``; only the names of its splits have been read.

    Raises:
        InputError: see :func:`open_detection`.
    """
    specs = [spec] if isinstance(spec, str) else list(spec)
    trees = [_find_one(one) for one in specs]
    tree = trees[0] if len(trees) == 1 else JoinedTree(trees, ", ".join(specs))
    return tree if share is None else DividedTree(tree, share)


def _find_one(spec: str) -> DetectionTree:
    path = as_path(spec)
    if path.suffix in (".yaml", ".yml") and path.is_file():
        tree = yolo.find(path.parent, spec, path)
        if tree is None:
            raise InputError(f"{spec} is not YOLO's data.yaml: expected names and train, val or path")
        return tree
    if not spec or not os.path.isdir(path):
        entries = path.parent.iterdir() if path.parent.is_dir() else ()
        near = did_you_mean(path.name, [entry.name for entry in entries if entry.is_dir()])
        what = f"{spec} is a file: expected a folder ({LAYOUTS})" if path.is_file() else f"no folder at {spec!r}{near}"
        raise InputError(what)
    try:
        found = find_trees(path, spec)
        if not found:
            told = find_other(path) or find_plain(path)
            if told:
                raise InputError(f"{spec} holds {told}")
            raise InputError(f"{spec} holds no images with boxes: expected {LAYOUTS}; found {describe(path)}")
        if len(found) > 1:
            names = shorten([f"{tree.root} ({tree.kind})" for tree in found])
            every = " ".join(f"--data {tree.root}" for tree in found[:4])
            raise InputError(
                f"{spec} holds more than one set of images with boxes: give the path of one of {names}; or several as "
                f"one set, {every}"
            )
        return found[0]
    except OSError as error:
        raise InputError(f"{spec} cannot be read: {error.strerror or error}") from None
