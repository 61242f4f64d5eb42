"""From what the user typed to a source of images with boxes."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from compactnets.data.base import check_same_classes, describe, shorten
from compactnets.data.huggingface import PREFIX
from compactnets.data.listing import entries_of, is_passed_over
from compactnets.data.opening import WORDS
from compactnets.detection.data import coco, voc
from compactnets.detection.data.base import DetectionSource, DetectionTree
from compactnets.errors import InputError, did_you_mean

LAYOUTS = f"{voc.LAYOUT}, or {coco.LAYOUT}"
Kind = type[voc.VocTree] | type[coco.CocoTree]  # VocFolders is a VocTree
DEPTH = 2  # folders down to which a tree is looked for: VOCdevkit/VOC2007


def open_detection(spec: str, split: str, *, class_names: Sequence[str] | None = None) -> DetectionSource:
    """Open one split of the images with boxes in the folder ``spec``.

    The folder, or the only one of its kind up to two levels below it, holds

    * a Pascal VOC tree (:class:`compactnets.detection.data.voc.VocTree`), or
    * annotations of Pascal VOC beside the images of each split (:class:`compactnets.detection.data.voc.VocFolders`), or
    * files in COCO's format (:class:`compactnets.detection.data.coco.CocoTree`).

    Args:
        spec: path of the folder.
        split: name of the split: that of the list in ``ImageSets/Main/`` or of the file of annotations. ``train`` is
            also ``train2017``, ``val`` also ``valid`` and ``validation``, where there is no split of just this name.
        class_names: the classes and their order, instead of those that the annotations name; an object of another
            class has the label -1.

    Raises:
        MissingSplitError: no such split; the message has those that exist.
        InputError: no such folder, an unknown layout, more than one tree, or an annotation that cannot be used.
    """
    tree = find_tree(spec)
    try:
        return tree.open(tree.find(split), class_names)
    except OSError as error:
        raise InputError(f"{spec} cannot be read: {error.strerror or error}") from None


def open_splits(spec: str, *, class_names: Sequence[str] | None = None) -> list[DetectionSource]:
    """Open every split of a folder; see :func:`open_detection`.

    Raises:
        InputError: what :func:`open_detection` raises, or splits with different classes.
    """
    tree = find_tree(spec)
    try:
        sources = [tree.open(split, class_names) for split in tree.splits]
    except OSError as error:
        raise InputError(f"{spec} cannot be read: {error.strerror or error}") from None
    for source in sources[1:]:
        check_same_classes(spec, sources[0].split, sources[0].class_names, source.split, source.class_names)
    return sources


def is_detection(spec: str) -> bool:
    """Whether ``spec`` names a folder of images with boxes, complete or not; words (``digits``) and ``hf:…`` do not."""
    if not spec or spec in WORDS or spec.startswith(PREFIX):
        return False
    path = Path(spec).expanduser()
    return os.path.isdir(path) and bool(_find(path))  # unlike is_dir, no error for a pattern longer than a path may be


def find_tree(spec: str) -> DetectionTree:
    """Return the tree that ``spec`` holds, of which nothing but the names of its splits has been read.

    Raises:
        InputError: see :func:`open_detection`.
    """
    path = Path(spec).expanduser()
    if not spec or not os.path.isdir(path):
        entries = path.parent.iterdir() if path.parent.is_dir() else ()
        near = did_you_mean(path.name, [entry.name for entry in entries if entry.is_dir()])
        what = f"{spec} is a file: expected a folder ({LAYOUTS})" if path.is_file() else f"no folder at {spec!r}{near}"
        raise InputError(what)
    found = _find(path)
    if not found:
        raise InputError(f"{spec} holds no images with boxes: expected {LAYOUTS}; found {describe(path)}")
    if len(found) > 1:
        names = shorten([f"{root} ({kind.kind})" for root, kind in found])
        raise InputError(f"{spec} holds more than one set of images with boxes: give the path of one of {names}")
    root, kind = found[0]
    try:
        return kind(root, spec)
    except OSError as error:
        raise InputError(f"{spec} cannot be read: {error.strerror or error}") from None


def _find(path: Path) -> list[tuple[Path, Kind]]:
    """Return the trees of the uppermost level that has any."""
    folders = [path]
    for _ in range(DEPTH + 1):
        found: list[tuple[Path, Kind]] = [(folder, voc.VocTree) for folder in folders if _is_voc(folder)]
        found += [(folder, voc.VocFolders) for folder in folders if voc.has_folders(folder)]
        found += [(folder, coco.CocoTree) for folder in folders if coco.find_files(folder)]
        if found:
            return found
        folders = [inner for folder in folders for inner in _inner(folder)]
    return []


def _is_voc(folder: Path) -> bool:
    """Whether a folder has most of a Pascal VOC tree; what it lacks is an error when it is opened."""
    parts = (voc.IMAGES, voc.SPLITS)
    return os.path.isdir(folder / voc.ANNOTATIONS) and any(os.path.isdir(folder / part) for part in parts)


def _inner(folder: Path) -> list[Path]:
    try:
        return [Path(entry.path) for entry in entries_of(folder) if entry.is_dir() and not is_passed_over(entry.name)]
    except InputError:  # such as lost+found: no place to look for images
        return []
