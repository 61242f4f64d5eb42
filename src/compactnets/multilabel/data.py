"""Images with any number of labels, from a table: a column with all labels of an image, or a column of 0 and 1 for each
class.
"""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from compactnets.console import say
from compactnets.data.base import Split, shorten
from compactnets.data.dividing import divide, group_copies
from compactnets.data.folder import ImageFiles
from compactnets.data.listing import compose
from compactnets.data.table import (
    SEPARATORS,
    SUFFIXES,
    Row,
    Table,
    bare_rows,
    checked,
    choose_split,
    digest_listed,
    read_table,
    warn_of_capitals,
)
from compactnets.errors import InputError
from compactnets.files import as_path
from compactnets.values import shorten as quoted

YES, NO = ("1", "true"), ("0", "false")  # in a class's own column, with any capitals
LOOKED_AT = 1000  # lines that tell several labels from one


class LabelsSource(ImageFiles):
    """Images of one split, each with any number of classes, also none.

    Args:
        names: of the images, in reports and errors.
        paths: of the files.
        tags: (images, classes) bool: which image has which class.
        divided: whether the table has a column for the split.
    """

    kind = "labels"

    def __init__(
        self,
        spec: str,
        split: Split,
        class_names: Sequence[str],
        names: Sequence[str],
        paths: Sequence[str],
        tags: np.ndarray,
        *,
        divided: bool,
    ) -> None:
        super().__init__(spec, split, class_names, np.zeros(len(names), dtype=np.int64))  # no image has one label
        self.names, self.paths, self.tags, self.divided = names, paths, tags, divided

    def __repr__(self) -> str:
        each = self.tags.sum() / max(len(self), 1)
        return f"{super().__repr__()}, {each:.1f} of them an image"

    def name(self, index: int) -> str:
        return self.names[index]

    def class_counts(self) -> np.ndarray:
        counts: np.ndarray = self.tags.sum(axis=0)
        return counts

    def remarks(self) -> list[str]:
        bare = int((~self.tags.any(axis=1)).sum())
        return [f"{self.split}: {bare:,} images have no label"] if bare else []

    def classes_of(self, index: int) -> str:
        return ";".join(self.class_names[place] for place in np.flatnonzero(self.tags[index])) or "no label"

    def fingerprint(self) -> str:
        return hashlib.sha256(super().fingerprint().encode() + np.packbits(self.tags).tobytes()).hexdigest()

    def content(self) -> str:
        return digest_listed(self.names, self.paths)

    def part(self, indices: Sequence[int], split: Split) -> LabelsSource:
        """Return some of the images, as another split."""
        names, paths = ([each[index] for index in indices] for each in (self.names, self.paths))
        return LabelsSource(self.spec, split, self.class_names, names, paths, self.tags[list(indices)], divided=True)


def holds_labels(name: str) -> bool:
    """Whether a path is a table of images with several labels, by its first lines; other tables are of one label."""
    path = as_path(name)
    if path.suffix.lower() not in SUFFIXES or not path.is_file():
        return False
    try:
        table = read_table(path, ("image",))
        lines = [cells for _, cells in itertools.islice(table.lines, LOOKED_AT)]
        if "label" in table.columns:
            place = table.columns["label"]
            return any(len(cells) > place and SEPARATORS.search(cells[place]) for cells in lines)
        places = _class_columns(path, table).values()
        known = {*YES, *NO}
        return bool(lines) and all({cells[place].lower() for place in places} <= known for cells in lines)
    except (InputError, IndexError):
        return False


def open_labels(spec: str, split: Split) -> LabelsSource:
    """Open a split of a table, in the order of the images' names.

    The columns for the image and the split are those of :class:`compactnets.data.table.TableSource`. Of a column
    ``labels`` (or another of its names for the class), a cell has the classes with ``;`` or ``|`` between them, or
    nothing; the classes are the sorted labels of both splits. Without such a column, every other column is a class, and
    its cells are 0 and 1 (or false and true).

    Raises:
        InputError: no such file, or a line that cannot be used; the message has its number.
        MissingSplitError: no such split.
    """
    path = as_path(spec)
    if path.suffix.lower() not in SUFFIXES:
        raise InputError(f"several labels per image come from a table ({', '.join(SUFFIXES)}), found {spec}")
    table = read_table(path, ("image",))
    divided = "split" in table.columns
    classes = None if "label" in table.columns else _class_columns(path, table)
    rows = [
        row._replace(
            label=_joined(cells[table.columns["label"]]) if classes is None else _chosen(path, row, cells, classes)
        )
        for row, cells in bare_rows(path, table)
    ]
    rows = [row for row in choose_split(path, rows, split, spec, divided=divided) if row.split]
    rows = sorted(checked(path, rows, unlabelled=True), key=lambda row: compose(row.name))
    named = {label for row in rows for label in _labels(row)}
    class_names = sorted(named) if classes is None else list(classes)
    if not class_names:
        raise InputError(f"{path} has no label in any line")
    warn_of_capitals(path, class_names)
    if divided:
        _check_trained(path, rows, class_names)
    rows = [row for row in rows if row.split == split]
    places = {name: place for place, name in enumerate(class_names)}
    tags = np.zeros((len(rows), len(class_names)), dtype=bool)
    for tag, row in zip(tags, rows, strict=True):
        tag[[places[label] for label in _labels(row)]] = True
    names, paths = [row.name for row in rows], [row.path for row in rows]
    return LabelsSource(spec, split, class_names, names, paths, tags, divided=divided)


def open_divided(spec: str, share: float) -> tuple[LabelsSource, LabelsSource]:
    """Open the images of an undivided table as two parts: those to train on, and those to evaluate on.

    The division depends on the bytes of the files alone, and exact copies stay together.

    Args:
        share: of the images for training, between 0 and 1.

    Raises:
        InputError: the table is already split, or too few images, so that a class has none to train on.
    """
    source = open_labels(spec, "val")
    if source.divided:
        raise InputError(f"{spec} is already split into train and val: remove --split {share:g}")
    train, val = divide(group_copies([Path(path) for path in source.paths]), share, spec)
    if lacking := [source.class_names[place] for place in np.flatnonzero(~source.tags[train].any(axis=0))]:
        raise InputError(f"{spec} cannot be split by {share:g}: no image to train on would have {shorten(lacking)}")
    say(f"split: {spec}: {len(train):,} images to train on, {len(val):,} to evaluate on")
    return source.part(train, "train"), source.part(val, "val")


def _class_columns(path: Path, table: Table) -> dict[str, int]:
    """Return name and position of the columns of classes."""
    others = {table.columns[kind] for kind in ("image", "split") if kind in table.columns}
    found: dict[str, int] = {}
    for place, cell in enumerate(table.header):
        name = compose(" ".join(cell.split()))
        if place in others:
            continue
        if not name or SEPARATORS.search(name):
            raise InputError(f"{path}: the name of column {place + 1} is no class: {quoted(cell)}")
        if name in found:
            raise InputError(f"{path}: two columns are called {quoted(name)}")
        found[name] = place
    if not found:
        raise InputError(f"{path}: expected a column labels, or columns of 0 and 1 for the classes, found neither")
    return found


def _chosen(path: Path, row: Row, cells: Sequence[str], classes: dict[str, int]) -> str:
    """Return the classes of a line with columns of 0 and 1."""
    chosen = []
    for name, place in classes.items():
        value = cells[place].lower()
        if value in YES:
            chosen.append(name)
        elif value not in NO:
            raise InputError(
                f"{path} line {row.line}: expected 0 or 1 in the column {quoted(name)}, found {quoted(cells[place])} "
                f"(every column but those of image and split is a class)"
            )
    return ";".join(chosen)


def _joined(cell: str) -> str:
    """Return the labels of a cell in one order, without repetitions."""
    labels = {compose(" ".join(part.split())) for part in SEPARATORS.split(cell)}
    return ";".join(sorted(labels - {""}))


def _labels(row: Row) -> list[str]:
    return row.label.split(";") if row.label else []


def _check_trained(path: Path, rows: Sequence[Row], class_names: Sequence[str]) -> None:
    """Raise if a class has no image to train on, where there are training images."""
    trained = {label for row in rows if row.split == "train" for label in _labels(row)}
    if any(row.split == "train" for row in rows) and (new := [name for name in class_names if name not in trained]):
        raise InputError(f"{path}: no image to train on has {shorten(new)}")
