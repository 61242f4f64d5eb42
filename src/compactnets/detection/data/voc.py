"""Pascal VOC trees (``Annotations/*.xml``, ``JPEGImages/*.jpg``, ``ImageSets/Main/SPLIT.txt``) and what is alike."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from contextlib import suppress
from functools import cached_property
from pathlib import Path, PurePosixPath
from typing import NamedTuple

import numpy as np

from compactnets.console import Tracker
from compactnets.data.base import describe, shorten
from compactnets.data.listing import ENDINGS, folders_called, is_image, is_passed_over
from compactnets.detection.data.base import (
    FOLDERS,
    DetectionSource,
    DetectionTree,
    check_class_names,
    check_inside,
    tidy,
)
from compactnets.detection.data.table import ObjectTable, box_areas, label_names, offsets_of
from compactnets.detection.data.voc_xml import read_annotation
from compactnets.errors import InputError

VOC_CLASSES = (
    *("aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow"),
    *("diningtable", "dog", "horse", "motorbike", "person", "pottedplant", "sheep", "sofa", "train", "tvmonitor"),
)
ANNOTATIONS, IMAGES, SPLITS = "Annotations", "JPEGImages", "ImageSets/Main"
LAYOUT = f"{ANNOTATIONS}/*.xml, {IMAGES}/*.jpg and {SPLITS}/SPLIT.txt, or SPLIT/*.xml beside SPLIT/*.jpg (Pascal VOC)"


class VocSource(DetectionSource):
    """One split of a Pascal VOC tree, in the order of its list.

    An image has the ending that its annotation names; where it names none, or a file that is not there, it is the only
    image file of the annotation's name.
    """

    kind = "voc"
    annotations, images = ANNOTATIONS, IMAGES  # folders in the tree

    def annotation(self, index: int) -> str:
        stem = PurePosixPath(self.names[index]).relative_to(self.images).with_suffix("")
        return str(self.root / self.annotations / f"{stem}.xml")

    def _write_box(self, left: float, top: float, right: float, bottom: float) -> str:
        return f"xmin {tidy(left + 1)}, ymin {tidy(top + 1)}, xmax {tidy(right)}, ymax {tidy(bottom)}"


class VocFolderSource(VocSource):
    """One split whose annotations lie beside its images, in the order of their names."""

    annotations = images = "."


class VocTree(DetectionTree):
    """A Pascal VOC tree.

    Classes are VOC's twenty in their order where all objects of the tree are of these; otherwise the sorted names of
    all objects, whichever split they are in, so that every split has the same classes.

    Raises:
        InputError: a part of the tree is missing.
    """

    kind = "voc"
    source_type: type[VocSource] = VocSource

    def __init__(self, root: Path, spec: str) -> None:
        self._lists = self._find_lists(root)
        super().__init__(root, spec, self._lists)

    def _find_lists(self, root: Path) -> dict[str, list[str]]:
        """Return the stems of every split's images."""
        for part in (ANNOTATIONS, IMAGES, SPLITS):
            if not (root / part).is_dir():
                raise InputError(f"{root} has no {part}/: expected {LAYOUT}, found {describe(root)}")
        lists = _read_lists(root / SPLITS)
        if not lists:
            raise InputError(f"{root / SPLITS} has no list of images: expected SPLIT.txt, a name of an image per line")
        return lists

    def _find_annotations(self) -> Iterable[str]:
        """Return the annotations of the tree, below its folder of them: also those that no split lists."""
        return _walk(self.root / self.source_type.annotations, (".xml",))

    def open(self, split: str, class_names: Sequence[str] | None = None) -> VocSource:
        stems = self._lists[split]
        where = self.root / SPLITS / f"{split}.txt"
        if twice := _repeated(stems):
            raise InputError(f"{where} must list an image once, found twice: {shorten(twice)}")
        for stem in stems:
            check_inside(stem, f"{where}: a line")
        contents, annotations = self._contents, self.root / self.source_type.annotations
        if missing := [stem for stem in stems if stem not in contents.positions]:
            raise InputError(
                f"{where}: {len(missing):,} of {len(stems):,} images have no annotation in {annotations}: "
                f"{shorten(missing)}"
            )
        names = check_class_names(class_names) if class_names is not None else contents.class_names
        if not names:
            raise InputError(f"{annotations}: no annotation has an object, so that there are no classes")
        positions = [contents.positions[stem] for stem in stems]
        labels, unknown = label_names(contents.object_names, names)
        table = ObjectTable(
            offsets_of(contents.counts),
            contents.boxes,
            labels,
            contents.difficult,
            np.zeros(len(labels), dtype=bool),
            box_areas(contents.boxes),
            contents.sizes,
            unknown,
        ).pick(positions)
        images = [self._find_image(stem, contents.endings[at]) for stem, at in zip(stems, positions, strict=True)]
        return self.source_type(self.spec, split, names, self.root, images, table, contents.extras)

    @cached_property
    def _contents(self) -> _Contents:
        return _read_all(self.root / self.source_type.annotations, sorted(self._find_annotations()))

    @cached_property
    def _image_files(self) -> dict[str, list[str]]:
        """Stem -> endings of the image files."""
        found: dict[str, list[str]] = {}
        for name in _walk(self.root / self.source_type.images, ENDINGS):
            stem, ending = os.path.splitext(name)
            found.setdefault(stem, []).append(ending)
        return found

    def _find_image(self, stem: str, ending: str) -> str:
        endings = self._image_files.get(stem, [])
        if ending not in endings and len(endings) > 1:
            files = shorten([stem + other for other in sorted(endings)])
            raise InputError(
                f"{self.root / self.source_type.images}: the annotation {stem}.xml names no file, and there are {files}"
            )
        if ending not in endings:  # a file that is missing altogether is reported where it is read
            ending = endings[0] if endings else ending or ".jpg"
        return str(PurePosixPath(self.source_type.images, stem + ending))


class VocFolders(VocTree):
    """A folder for each split, with the annotations of Pascal VOC beside the images, as Roboflow exports them.

    Classes are those of :class:`VocTree`.

    Raises:
        InputError: an image without annotation.
    """

    source_type = VocFolderSource

    def _find_lists(self, root: Path) -> dict[str, list[str]]:
        lists: dict[str, list[str]] = {}
        for folder in folders_called(root, FOLDERS):
            if stems := [f"{folder.name}/{stem}" for stem in _annotated(folder)]:
                if folder.name.lower() in lists:
                    raise InputError(f"{root} holds {folder.name.lower()} twice, with different capitals: join them")
                lists[folder.name.lower()] = stems
        return lists

    def _find_annotations(self) -> Iterable[str]:
        return [f"{stem}.xml" for stems in self._lists.values() for stem in stems]


def has_folders(root: Path) -> bool:
    """Whether a folder of a usual split holds an annotation."""
    for folder in folders_called(root, FOLDERS):
        with suppress(OSError), os.scandir(folder) as entries:
            if any(_is_annotation(entry.name) for entry in entries):
                return True
    return False


def _annotated(folder: Path) -> list[str]:
    """Return the stems of the annotations beside their images."""
    names = sorted(os.listdir(folder)) if folder.is_dir() else []
    stems = [os.path.splitext(name)[0] for name in names if _is_annotation(name)]
    known = set(stems)
    images = [name for name in names if is_image(name)]
    if stems and (bare := [name for name in images if os.path.splitext(name)[0] not in known]):
        raise InputError(
            f"{folder}: {len(bare):,} of {len(images):,} images have no annotation beside them: {shorten(bare)} (an "
            f"image without objects has one without objects)"
        )
    return stems


def _is_annotation(name: str) -> bool:
    return name.endswith(".xml") and not name.startswith(".")


class _Contents(NamedTuple):
    """All annotations of a tree; objects in the order of the sorted files."""

    positions: dict[str, int]  # stem -> place among the files
    endings: list[str]  # of the image that each file names, "" where it names none
    sizes: np.ndarray  # (N, 2)
    counts: list[int]  # objects of each file
    boxes: np.ndarray  # (M, 4) float64
    difficult: np.ndarray  # (M,) bool
    object_names: list[str]
    class_names: tuple[str, ...]
    extras: set[str]


def _read_all(folder: Path, files: Sequence[str]) -> _Contents:
    annotations, faults = [], {}
    for file in Tracker(files, len(files), "reading annotations"):
        try:
            annotations.append(read_annotation(folder / file))
        except InputError as error:
            faults[file] = error
    if faults:
        first, *others = faults
        raise InputError(f"{faults[first]}{f' (neither can be {shorten(others)})' if others else ''}")
    objects = [found for annotation in annotations for found in annotation.objects]
    names = [found.name for found in objects]
    return _Contents(
        {os.path.splitext(file)[0]: position for position, file in enumerate(files)},
        [os.path.splitext(annotation.filename)[1] for annotation in annotations],
        np.array([annotation.size for annotation in annotations], dtype=np.int64).reshape(-1, 2),
        [len(annotation.objects) for annotation in annotations],
        np.array([found.box for found in objects], dtype=np.float64).reshape(-1, 4),
        np.array([found.difficult for found in objects], dtype=bool),
        names,
        order_classes(names),
        {what for annotation in annotations for what in annotation.extras},
    )


def order_classes(names: Iterable[str]) -> tuple[str, ...]:
    """Return the classes of a tree whose objects have these names."""
    found = set(names)
    return VOC_CLASSES if found and found <= set(VOC_CLASSES) else tuple(sorted(found))


def _read_lists(folder: Path) -> dict[str, list[str]]:
    """Return the lists of images by name, without empty ones and those of VOC's single classes."""
    lists = {}
    files = {path.stem: path for path in folder.glob("*.txt") if not path.name.startswith(".")}
    for split, path in files.items():
        try:
            lines = [line.strip() for line in path.read_text(encoding="utf-8-sig").splitlines()]
        except UnicodeDecodeError as error:
            raise InputError(f"{path} is not text in UTF-8: {error.reason} at byte {error.start}") from None
        lines = [line for line in lines if line]
        # aeroplane_train.txt: "000012 -1" says that image 12 of train.txt has no aeroplane
        of_class = "_" in split and split.rpartition("_")[2] in files
        if lines and not (of_class and lines[0].rpartition(" ")[2] in ("-1", "0", "1")):
            lists[split] = lines
    return lists


def _repeated(stems: Sequence[str]) -> list[str]:
    seen: set[str] = set()
    return sorted({stem for stem in stems if stem in seen or seen.add(stem)})  # type: ignore[func-returns-value]


def _walk(folder: Path, endings: tuple[str, ...]) -> Iterable[str]:
    """Yield the files with these endings, relative to the folder; hidden and system ones are passed over."""
    for parent, folders, files in os.walk(folder):
        folders[:] = [name for name in folders if not is_passed_over(name)]
        inner = os.path.relpath(parent, folder)
        for file in files:
            if file.lower().endswith(endings) and not file.startswith("."):
                yield file if inner == os.curdir else PurePosixPath(inner, file).as_posix()
