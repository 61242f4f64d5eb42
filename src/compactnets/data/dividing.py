"""Split your own photographs into training and validation images, deterministically.

The split depends only on the bytes of the files, not on names, location, order or chance. Exact copies stay in one
part, so no image is in both training and validation data.
"""

from __future__ import annotations

import hashlib
import os
import shutil
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from compactnets.console import Tracker, say
from compactnets.data.base import ImageSource, Split, shorten
from compactnets.data.folder import FolderSource
from compactnets.data.opening import open_quietly, open_source
from compactnets.data.part import PartOfSource
from compactnets.data.table import TableSource
from compactnets.errors import InputError, reason
from compactnets.failures import FULL, Space
from compactnets.files import as_path
from compactnets.folders import check_folder, writing

CHUNK = 1 << 20


@dataclass(frozen=True)
class Division:
    """What was written.

    Attributes:
        output: the folder.
        splits: name -> number of images.
        classes: number of classes.
        copies: images that are exact copies of another.
        left_out: files among the images that were not read.
    """

    output: str
    splits: dict[str, int]
    classes: int
    copies: int
    left_out: list[str]

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


def divide_folder(spec: str, output: str | Path, share: float = 0.8, *, link: bool = False) -> Division:
    """Write class folders as ``train/CLASS/`` and ``val/CLASS/``, each class divided by ``share``.

    The folder is written completely or not at all. Names and folders within a class are kept.

    Args:
        spec: a folder of class folders (:func:`compactnets.data.open_source`).
        output: folder to write; must not exist.
        share: share of each class for training, as close as whole groups of copies allow.
        link: hard links instead of copies of the files.

    Raises:
        InputError: the source has no class folders or is already split, a class has fewer than two different images, or
            the folder exists or cannot be written.
    """
    output = as_path(output)
    check_new(output)
    source = open_quietly(spec, "val")
    if not isinstance(source, FolderSource):
        raise InputError(f"{spec} cannot be split here: expected class folders, found {source.kind}")
    if source.divided:
        raise InputError(f"{spec} is already split: images to evaluate on are in {source.folder.name}/")
    groups = group_copies([Path(path) for path in source.paths])
    parts = _divide_classes(source, groups, share, least=2)
    for split, indices in parts.items():
        _check_classes(source, indices, split)
    space = space_for(output, [Path(path) for path in source.paths], link=link)
    space.check()
    with writing(output) as partial:
        try:
            for split, indices in parts.items():
                for index in Tracker(indices, len(indices), f"writing {split}"):
                    path = Path(source.paths[index])
                    place_file(path, partial / split / path.relative_to(source.folder), link=link)
        except OSError as error:
            raise InputError(f"cannot write {output}: {space.why(error)}") from None
    copies = len(source) - len(groups)
    counts: dict[str, int] = {split: len(indices) for split, indices in parts.items()}
    return Division(str(output), counts, len(source.class_names), copies, source.left_out)


def open_parts(spec: str, share: float, *, download: bool = False) -> tuple[PartOfSource, PartOfSource]:
    """Open undivided images as two parts: those to train on, and those to evaluate on.

    Each class is divided by ``share`` as :func:`divide_folder` does it, but a class with fewer than two different
    images is trained on alone. A line says what was done, and another names such classes.

    Args:
        spec: class folders or a table (:func:`compactnets.data.open_source`).
        share: of each class for training, between 0 and 1.

    Raises:
        InputError: a source of another kind, one that is already split, or too few images.
    """
    source = open_source(spec, "val", download=download)
    if not isinstance(source, FolderSource | TableSource):
        raise InputError(
            f"a share (--split {share:g}) divides class folders or a table, and {spec} is of {source.kind}: remove it"
        )
    if source.divided:
        raise InputError(f"{spec} is already split into train and val: remove --split {share:g}")
    groups = group_copies([Path(path) for path in source.paths])
    parts = _divide_classes(source, groups, share, least=1)
    _check_classes(source, parts["train"], "train")
    if not parts["val"]:
        raise InputError(f"{spec} cannot be split: no class has two different images, of which one could be held back")
    train, val = (PartOfSource(source, indices, split) for split, indices in parts.items())
    copies = f"; {len(source) - len(groups):,} exact copies stay with the first" if len(groups) < len(source) else ""
    say(f"split: {spec}: {len(train):,} images to train on, {len(val):,} to evaluate on ({share:g} of a class){copies}")
    if alone := _lacking(source, parts["val"]):
        say(f"note: {spec}: no image to evaluate on for {shorten(alone)}: expected two different ones of a class")
    return train, val


def share_of(split: str) -> float | None:
    """Return the share of the images that ``--split`` names, such as 0.8; ``None`` if it is the name of a split.

    Raises:
        InputError: a number that is not a share.
    """
    try:
        share = float(split)
    except ValueError:
        return None
    if not 0 < share < 1:
        raise InputError(f"--split must be the name of a split, or a share between 0 and 1, found {split}")
    return share


def _divide_classes(
    source: ImageSource, groups: Sequence[Sequence[int]], share: float, least: int
) -> dict[Split, list[int]]:
    """Return the ascending indices of both parts, divided class by class.

    Args:
        groups: of copies; one with images of several classes counts for the first of them.
        least: different images of a class; with 1, a single one is trained on.
    """
    parts: dict[Split, list[int]] = {"train": [], "val": []}
    owners = [min(int(source.labels[index]) for index in group) for group in groups]
    for label, name in enumerate(source.class_names):
        own = [group for group, owner in zip(groups, owners, strict=True) if owner == label]
        if len(own) < 2 and least < 2:
            parts["train"] += [index for group in own for index in group]
            continue
        train, val = divide(own, share, f"{source.spec}: the class {name}")
        parts["train"] += train
        parts["val"] += val
    return {split: sorted(indices) for split, indices in parts.items()}


def _lacking(source: ImageSource, indices: Sequence[int]) -> list[str]:
    """Return the classes without an image among ``indices``."""
    counts = np.bincount(source.labels[list(indices)], minlength=len(source.class_names))
    return [source.class_names[label] for label in np.flatnonzero(counts == 0)]


def _check_classes(source: ImageSource, indices: Sequence[int], split: str) -> None:
    """Raise if copies in several classes leave a class without images in a part."""
    if lacking := _lacking(source, indices):
        raise InputError(
            f"{source.spec} cannot be split: {split} would have no image of {shorten(lacking)}, because copies of one "
            f"image are in several classes (compactnets data check lists them)"
        )


def check_new(output: Path) -> None:
    """Raise :class:`InputError` if an output folder already exists or cannot be written."""
    folder = check_folder(output)
    if os.path.lexists(folder):
        raise InputError(f"{output} already exists: choose another --output; nothing is overwritten")


def place_file(source: Path, target: Path, *, link: bool) -> None:
    """Copy or link a file; parent folders are created.

    Raises:
        InputError: it cannot be read or linked.
        OSError: there is no space.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        if link:
            os.link(source.resolve(), target)  # a hard link to a symbolic link would itself be a symbolic link
        else:
            shutil.copyfile(source, target)
    except OSError as error:
        if error.errno in FULL:
            raise
        what, advice = ("linked", "; omit --link to copy") if link else ("copied", "")
        raise InputError(f"{source} cannot be {what}: {reason(error)}{advice}") from None


def space_for(output: Path, files: Sequence[Path], *, link: bool) -> Space:
    """Return the space that copies of files need; links and missing files need none."""
    sizes = []
    for path in [] if link else files:
        with suppress(OSError):
            sizes.append(path.stat().st_size)
    return Space(output, sum(sizes))


def group_copies(paths: Sequence[Path]) -> list[list[int]]:
    """Group identical files, in an order that depends only on their bytes.

    An unreadable file is identified by its name.
    """
    groups: dict[bytes, list[int]] = {}
    for index, path in enumerate(Tracker(paths, len(paths), "comparing the files")):
        groups.setdefault(_digest(path), []).append(index)
    return [groups[digest] for digest in sorted(groups)]


def divide(groups: Sequence[Sequence[int]], share: float, what: str) -> tuple[list[int], list[int]]:
    """Return the ascending indices of both parts; the first is as close to ``share`` as whole groups allow.

    Each part has at least one group.

    Args:
        what: its name in an error.

    Raises:
        InputError: fewer than two groups.
    """
    if len(groups) < 2:
        raise InputError(f"{what} cannot be split: expected at least two different images, found {len(groups)}")
    wanted = share * sum(len(group) for group in groups)
    train: list[int] = []
    val: list[int] = []
    for number, group in enumerate(groups):
        nearer = abs(len(train) + len(group) - wanted) <= abs(len(train) - wanted)
        last = number == len(groups) - 1
        if not train or (nearer and not (last and not val)):
            train.extend(group)
        else:
            val.extend(group)
    return sorted(train), sorted(val)


def _digest(path: Path) -> bytes:
    digest = hashlib.sha256()
    try:
        with path.open("rb") as file:
            while chunk := file.read(CHUNK):
                digest.update(chunk)
    except OSError:
        digest.update(path.name.encode(errors="surrogateescape"))
    return digest.digest()
