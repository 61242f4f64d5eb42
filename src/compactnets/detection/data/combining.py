"""Combined trees: several roots as one, and one split as two."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from compactnets.data.base import MissingSplitError, shorten
from compactnets.data.dividing import divide, group_copies
from compactnets.detection.data.base import DetectionSource, DetectionTree
from compactnets.detection.data.table import ObjectTable, offsets_of
from compactnets.errors import InputError


class JoinedSource(DetectionSource):
    """The concatenated split of several trees; paths are relative to their common folder."""

    kind = "joined"

    def __init__(self, spec: str, split: str, root: Path, parts: Sequence[DetectionSource]) -> None:
        class_names = parts[0].class_names
        offsets = np.cumsum([0, *(len(part) for part in parts)])
        where = [os.path.relpath(part.root, root) for part in parts]
        names = [
            Path(os.path.normpath(os.path.join(place, name))).as_posix()
            for place, part in zip(where, parts, strict=True)
            for name in part.names
        ]
        super().__init__(
            spec,
            split,
            class_names,
            root,
            names,
            _join([part.table for part in parts], class_names),
            {what for part in parts for what in part.extras},
            faults={
                int(offset) + index: fault
                for offset, part in zip(offsets, parts, strict=False)
                for index, fault in part.faults.items()
            },
            strays=[stray for part in parts for stray in part.strays],
            notes=[f"{part.root}: {note}" for part in parts for note in part.notes],
        )
        self.parts = list(parts)
        self._places = [(number, index) for number, part in enumerate(parts) for index in range(len(part))]

    def pick(self, images: Sequence[int] | np.ndarray, split: str | None = None) -> JoinedSource:
        picked = super().pick(images, split)
        picked._places = [self._places[int(index)] for index in images]
        return picked

    def annotation(self, index: int) -> str:
        part, inner = self._places[index]
        return self.parts[part].annotation(inner)

    def written_box(self, index: int, number: int) -> str:
        part, _ = self._places[index]
        row = int(self.table.offsets[index]) + number
        return self.parts[part]._write_box(*self.table.boxes[row].tolist())


def _join(tables: Sequence[ObjectTable], class_names: Sequence[str]) -> ObjectTable:
    starts = np.cumsum([0, *(len(table.labels) for table in tables)])
    unknown = {
        int(start) + row: name
        for start, table in zip(starts, tables, strict=False)
        for row, name in table.unknown.items()
    }
    counts = np.concatenate([np.diff(table.offsets) for table in tables])

    def column(name: str) -> np.ndarray:
        return np.concatenate([getattr(table, name) for table in tables])

    return ObjectTable(
        offsets_of(counts),
        column("boxes"),
        column("labels"),
        column("difficult"),
        column("crowd"),
        column("areas"),
        column("sizes"),
        unknown,
    )


class JoinedTree(DetectionTree):
    """Several trees as one: a split joins those of all trees that have it, with the classes of all.

    Raises:
        InputError: the same folder twice.
    """

    kind = "joined"

    def __init__(self, trees: Sequence[DetectionTree], spec: str) -> None:
        places = [os.path.realpath(tree.root) for tree in trees]
        if twice := sorted({place for place in places if places.count(place) > 1}):
            raise InputError(f"the folder {twice[0]} is given twice: give each once")
        root = Path(os.path.commonpath([os.path.abspath(tree.root) for tree in trees]))
        plain = [tree.splits for tree in trees]
        super().__init__(root, spec, dict.fromkeys(split for splits in plain for split in splits))
        self.trees = list(trees)
        self.layout = " and ".join(dict.fromkeys(tree.layout for tree in trees))

    def find(self, split: str) -> str:
        if not any(_has(tree, split) for tree in self.trees):
            return super().find(split)
        return split

    def open(self, split: str, class_names: Sequence[str] | None = None) -> JoinedSource:
        having = [tree for tree in self.trees if _has(tree, split)]
        if class_names is None:
            known = [tree.open(tree.find(split)).class_names for tree in having]
            merged = dict.fromkeys(name for names in known for name in names)
            same = len(set(known)) == 1 or all(list(names) == sorted(names) for names in known)
            class_names = sorted(merged) if same and len(set(known)) > 1 else list(merged)
        parts = [tree.open(tree.find(split), class_names) for tree in having]
        source = JoinedSource(self.spec, split, self.root, parts)
        if others := [str(tree.root) for tree in self.trees if tree not in having]:
            source.notes.append(f"{shorten(others)} {'has' if len(others) == 1 else 'have'} no such split")
        return source


def _has(tree: DetectionTree, split: str) -> bool:
    try:
        tree.find(split)
    except MissingSplitError:
        return False
    return True


class DividedTree(DetectionTree):
    """A tree of one split as ``train`` and ``val``.

    The split depends only on the bytes of the files, not on names, location or chance. Exact copies stay together.

    Args:
        tree: the tree.
        share: share of images in ``train``, between 0 and 1.

    Raises:
        InputError: it has several splits.
    """

    def __init__(self, tree: DetectionTree, share: float) -> None:
        if len(tree.splits) != 1:
            raise InputError(
                f"{tree.spec} is already split into {shorten(tree.splits)}: remove --split (the recipe's split), "
                f"or name one of them"
            )
        super().__init__(tree.root, tree.spec, ("train", "val"))
        self.tree, self.share, self.layout = tree, share, tree.layout
        self.kind = tree.kind  # type: ignore[misc]
        self._parts: dict[str, list[int]] | None = None

    def open(self, split: str, class_names: Sequence[str] | None = None) -> DetectionSource:
        (whole,) = self.tree.splits
        source = _open(self.tree, whole, class_names)
        if self._parts is None:
            groups = group_copies([source.root / name for name in source.names])
            train, val = divide(groups, self.share, source.spec)
            self._parts = {"train": train, "val": val}
        total = len(source)
        source = source.pick(self._parts[split], split)
        source.notes.append(f"{len(source):,} of {total:,} images after splitting: {self.share:g} for training")
        return source


def _open(tree: DetectionTree, split: str, class_names: Sequence[str] | None) -> DetectionSource:
    return tree.open(split, class_names)
