"""The interface of a source of images with boxes."""

from __future__ import annotations

import copy
import hashlib
import json
import re
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path, PurePosixPath
from typing import ClassVar, Self

import numpy as np
from PIL import Image

from compactnets.data.base import MissingSplitError, shorten
from compactnets.data.content import digest_files
from compactnets.data.images import FORMATS, read_image, read_size
from compactnets.data.listing import check_names
from compactnets.data.orientation import UPRIGHT, orientation_of
from compactnets.detection.data.table import ObjectTable
from compactnets.detection.objects import Objects
from compactnets.errors import InputError, did_you_mean

TRAIN_NAMES, VAL_NAMES, TEST_NAMES = ("train", "training"), ("val", "valid", "validation"), ("test", "testing")
ORDER = (*TRAIN_NAMES, *VAL_NAMES, *TEST_NAMES, "trainval")  # order in which splits are listed
NAMES = {"train": TRAIN_NAMES, "val": VAL_NAMES, "test": TEST_NAMES}  # split -> its names, by preference
FOLDERS = (*TRAIN_NAMES, *VAL_NAMES, *TEST_NAMES)  # names of split folders with annotations beside the images
YEAR = r"(19|20)\d\d"  # train2017
ALL = "all"  # the split of an undivided source


class DetectionSource(ABC):
    """One split of a set of images with boxes. Annotations are read on opening, images on access.

    Attributes:
        kind: the layout (``"voc"``, ``"coco"``).
        spec: the source as the user named it.
        split: name of the split in the source (``"train"``, ``"trainval"``, ``"train2017"``, …).
        class_names: name of every class, in the order of the labels.
        root: folder of the tree; at ``spec``, or below it.
        names: path of every image, relative to ``root``.
        table: the objects of all images.
        extras: other content of the annotations (masks, poses, …) that is not read.
        faults: image -> why its annotation cannot be read. Such an image has no objects here, but it is not an image
            without objects.
        strays: unreadable annotations that belong to no image of the split.
        notes: a line for everything interpreted differently from the annotations, or ignored.
    """

    kind: ClassVar[str]

    def __init__(
        self,
        spec: str,
        split: str,
        class_names: Sequence[str],
        root: Path,
        names: list[str],
        table: ObjectTable,
        extras: Iterable[str] = (),
        *,
        faults: Mapping[int, str] | None = None,
        strays: Sequence[str] = (),
        notes: Sequence[str] = (),
    ) -> None:
        assert len(names) == len(table)
        self.spec = spec
        self.split = split
        self.class_names = check_names(spec, class_names)
        self.root = root
        self.names = names
        self.table = table
        self.extras = tuple(sorted(extras))
        self.faults = dict(faults or {})
        self.strays, self.notes = list(strays), list(notes)
        self.known_sizes: np.ndarray | None = None  # cache of upright_sizes

    def __len__(self) -> int:
        return len(self.names)

    def __repr__(self) -> str:
        return (
            f"{type(self).__name__}({self.spec!r}, {self.split!r}): {len(self):,} images with "
            f"{len(self.table.labels):,} objects of {len(self.class_names):,} classes"
        )

    def pick(self, images: Sequence[int] | np.ndarray, split: str | None = None) -> Self:
        """Return the split of the images at these indices, in their order, optionally under another name.

        Annotations that belong to no image are kept.
        """
        chosen = [int(index) for index in images]
        picked = copy.copy(self)
        picked.names = [self.names[index] for index in chosen]
        picked.table = self.table.pick(chosen)
        picked.known_sizes = None if self.known_sizes is None else self.known_sizes[chosen]
        picked.faults = {new: self.faults[old] for new, old in enumerate(chosen) if old in self.faults}
        if split is not None:
            picked.split = split
        return picked

    def without(self, rows: np.ndarray) -> Self:
        """Return the split without the objects in these rows of its table, ``(M,)`` bool."""
        left = copy.copy(self)
        left.table = self.table.without(rows)
        return left

    def image(self, index: int) -> Image.Image:
        """Decode image ``index`` (0 <= index < len): a PIL image of 8 bits per channel, upright, of any mode and size.

        Raises:
            InputError: it is missing or cannot be read; the message names its path.
        """
        return read_image(self.root / self.names[index])

    def read_size(self, index: int) -> tuple[int, int]:
        """Return width and height of the result of :meth:`image` for ``index``, without decoding it.

        Raises:
            InputError: it is missing or not an image.
        """
        return read_size(self.root / self.names[index])

    def upright_sizes(self) -> np.ndarray:
        """Return the upright width and height of every image, (N, 2) int64, read from the files once.

        For an unreadable image, the annotation's size is used, or 0 if it has none.
        """
        if self.known_sizes is None:
            sizes = self.table.sizes.copy()
            for index in range(len(self)):
                with suppress(InputError):  # reported when images are read
                    sizes[index] = self.read_size(index)
            self.known_sizes = sizes
        return self.known_sizes

    def orientation(self, index: int) -> int:
        """Return the EXIF orientation of image ``index``, 1 (upright) to 8; 1 if it cannot be read."""
        try:
            with Image.open(self.root / self.names[index], formats=FORMATS) as image:
                return orientation_of(image)
        except Exception:  # many kinds; whoever reads the image reports it
            return UPRIGHT

    def objects(self, index: int) -> Objects:
        """Return the objects of image ``index`` as annotated, good or bad.

        Nothing is clipped, turned or dropped (:func:`compactnets.detection.data.usable` does that). The label of a
        class outside ``class_names`` is -1.
        """
        return self.table.objects(index)

    def size(self, index: int) -> tuple[int, int] | None:
        """Return width and height of image ``index`` as the annotation says, ``None`` if it does not."""
        width, height = self.table.sizes[index].tolist()
        return (width, height) if width > 0 and height > 0 else None

    def name(self, index: int) -> str:
        """Return the path of image ``index`` in the source, for reports."""
        return self.names[index]

    @abstractmethod
    def annotation(self, index: int) -> str:
        """Return the path of the file that annotates image ``index``."""

    def class_name(self, index: int, number: int) -> str:
        """Return the class of object ``number`` (from 0) of image ``index`` as annotated, known or not."""
        row = int(self.table.offsets[index]) + number
        label = int(self.table.labels[row])
        return self.class_names[label] if label >= 0 else self.table.unknown[row]

    def written_box(self, index: int, number: int) -> str:
        """Return the box of object ``number`` (from 0) of image ``index`` in the notation of the annotation file."""
        return self._write_box(*self.table.boxes[int(self.table.offsets[index]) + number].tolist())

    def _write_box(self, left: float, top: float, right: float, bottom: float) -> str:
        return f"left {tidy(left)}, top {tidy(top)}, right {tidy(right)}, bottom {tidy(bottom)}"

    def fingerprint(self) -> str:
        """Return a digest of layout, split, count, class names and all objects in order, but not of the images.

        The location and the file names are not part of it, so the data may be moved.
        """
        record = [self.kind, self.split, len(self), self.class_names]
        digest = hashlib.sha256(json.dumps(record).encode())
        for array in self.table.arrays():
            digest.update(array.tobytes())
        return digest.hexdigest()

    def content(self) -> str:
        """Return a digest of the images, the same for a copy of them elsewhere (:mod:`compactnets.data.content`)."""
        return digest_files(self.names, [self.root / name for name in self.names])


class AnnotationFiles(DetectionSource):
    """A split with one annotation file per image.

    Attributes:
        annotations: path of every image's annotation file, relative to ``root``.
    """

    annotations: list[str]

    def annotation(self, index: int) -> str:
        return str(self.root / self.annotations[index])

    def pick(self, images: Sequence[int] | np.ndarray, split: str | None = None) -> Self:
        picked = super().pick(images, split)
        picked.annotations = [self.annotations[int(index)] for index in images]
        return picked


class DetectionTree(ABC):
    """A folder that holds one or more splits.

    Attributes:
        root: the folder.
        spec: the source as the user named it.
        splits: names of the splits.
        layout: name of the layout for messages.
    """

    kind: ClassVar[str]
    layout: str = ""

    def __init__(self, root: Path, spec: str, splits: Iterable[str]) -> None:
        self.root = root
        self.spec = spec
        self.splits = tuple(sorted(splits, key=_place))

    @abstractmethod
    def open(self, split: str, class_names: Sequence[str] | None = None) -> DetectionSource:
        """Open the split of exactly this name; ``class_names`` replace those of the tree.

        Raises:
            InputError: an annotation cannot be used.
        """

    def find(self, split: str) -> str:
        """Return the tree's own name of ``split``.

        ``train`` finds ``train2017`` if there is no other year; ``val`` also finds ``valid`` and ``validation``.

        Raises:
            MissingSplitError: no such split; the message lists those that exist.
            InputError: more than one year.
        """
        for name in NAMES.get(split, (split,)):
            if name in self.splits:
                return name
            years = [known for known in self.splits if re.fullmatch(re.escape(name) + YEAR, known)]
            if len(years) > 1:
                raise InputError(f"{self.spec} has {' and '.join(years)}: name one of them instead of {split!r}")
            if years:
                return years[0]
        hint = did_you_mean(split, self.splits)
        if len(self.splits) == 1 and split in (*FOLDERS, "trainval"):
            hint = (
                "; --split 0.8 trains on 80 % of the images and evaluates on the rest, and compactnets data split "
                "writes both as a folder"
            )
        where = "" if str(self.root) == self.spec else f" in {self.root}"
        found = "its images are not divided" if self.splits == (ALL,) else f"found {shorten(self.splits, 10)}"
        raise MissingSplitError(f"{self.spec} ({self.layout}) has no split {split!r}: {found}{where}{hint}")


def tidy(value: float) -> int | float:
    """Return a coordinate for a file: an integer if it is one, otherwise rounded to six decimals.

    Differences of float64 are off by 1e-12 pixels; six decimals restore the original value.
    """
    rounded = round(value, 6)
    return int(rounded) if rounded.is_integer() else rounded


def check_class_names(class_names: Sequence[str]) -> tuple[str, ...]:
    """Check the class names given by a caller.

    Raises:
        InputError: no names, a repeated one, or one that is not UTF-8.
    """
    names = check_names("class_names", class_names)
    if not names:
        raise InputError("class_names is empty: expected the name of every class")
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise InputError(f"class_names must be different from each other, found twice: {shorten(twice)}")
    return names


def check_inside(name: str, what: str) -> None:
    """Raise :class:`InputError` if a path in a file leads out of its folder."""
    path = PurePosixPath(name)
    if path.is_absolute() or ".." in path.parts or not path.name:
        raise InputError(f"{what} must be a path within the folder of the images, found {name!r}")


def _place(split: str) -> tuple[int, str]:
    plain = re.sub(YEAR + "$", "", split)
    return (ORDER.index(plain) if plain in ORDER else len(ORDER), split)
