"""Pascal VOC: an XML file per image, in the layout of the development kit or of similar tools."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from functools import cached_property
from pathlib import Path, PurePosixPath
from typing import NamedTuple

import numpy as np

from compactnets.console import Tracker
from compactnets.data.base import describe, shorten
from compactnets.data.listing import ENDINGS, folders_called, is_image, is_passed_over
from compactnets.detection.data.base import (
    ALL,
    FOLDERS,
    AnnotationFiles,
    DetectionTree,
    check_class_names,
    check_inside,
    tidy,
)
from compactnets.detection.data.table import ObjectTable, box_areas, label_names, offsets_of
from compactnets.detection.data.voc_xml import VocAnnotation, read_annotation
from compactnets.errors import InputError

ANNOTATIONS, IMAGES, SPLITS = "Annotations", "JPEGImages", "ImageSets/Main"
# names in other tools, in any case
ANNOTATION_FOLDERS = ("annotations", "annotation", "xml", "xmls", "labels")
IMAGE_FOLDERS = ("jpegimages", "images", "image", "imgs", "img", "photos")
LAYOUT = (
    f"{ANNOTATIONS}/*.xml, {IMAGES}/*.jpg and {SPLITS}/SPLIT.txt, or SPLIT/*.xml beside SPLIT/*.jpg, or *.xml beside "
    f"*.jpg (Pascal VOC)"
)


class Entry(NamedTuple):
    """An image that should have an annotation: paths relative to the tree."""

    annotation: str  # path of its file, existing or not
    image: str  # without ending


class VocSource(AnnotationFiles):
    """One split with Pascal VOC's annotations, in the order of its list, otherwise by name.

    An image has the ending in its annotation. If that is missing, or the file does not exist, it is the only image file
    with the annotation's name.
    """

    kind = "voc"

    def _write_box(self, left: float, top: float, right: float, bottom: float) -> str:
        return f"xmin {tidy(left + 1)}, ymin {tidy(top + 1)}, xmax {tidy(right)}, ymax {tidy(bottom)}"


class VocTree(DetectionTree):
    """Annotations of Pascal VOC with their images.

    Classes are the sorted names of all objects of the tree, in any split, so that all splits have the same. For Pascal
    VOC itself they are its twenty in their order.

    Args:
        lists: the images of each split.
        layout: name of the layout for messages.
        where: the file or folder that lists the images of each split, for errors.
        files: all annotations, including those in no split; default: those of the lists.
        broken: why the list of a split cannot be read.
    """

    kind = "voc"

    def __init__(
        self,
        root: Path,
        spec: str,
        lists: dict[str, list[Entry]],
        layout: str,
        where: dict[str, str] | None = None,
        files: Sequence[str] | None = None,
        broken: dict[str, str] | None = None,
    ) -> None:
        super().__init__(root, spec, [*lists, *(broken or {})])
        self._broken = broken or {}
        self._lists, self.layout, self._where, self._files = lists, layout, where or {}, files

    def open(self, split: str, class_names: Sequence[str] | None = None) -> VocSource:
        if split in self._broken:
            raise InputError(self._broken[split])
        entries, contents = self._lists[split], self._contents
        where = self._where.get(split, str(self.root))
        if twice := _repeated([entry.image for entry in entries]):
            raise InputError(f"{where} must list an image once, found twice: {shorten(twice)}")
        names = check_class_names(class_names) if class_names is not None else contents.class_names
        if not names:
            fault = next(iter(contents.faults.values()), None)
            more = f"; {len(contents.faults):,} cannot be read, the first: {fault}" if fault else ""
            raise InputError(f"{self.root}: no annotation has an object, so there are no classes{more}")
        labels, unknown = label_names(contents.object_names, names)
        everything = ObjectTable(
            offsets_of(contents.counts),
            contents.boxes,
            labels,
            contents.difficult,
            np.zeros(len(labels), dtype=bool),
            box_areas(contents.boxes),
            contents.sizes,
            unknown,
        )
        faults, images = {}, []
        for index, entry in enumerate(entries):
            if (fault := contents.faults.get(entry.annotation)) is not None:
                faults[index] = fault
            elif entry.annotation not in contents.positions:
                faults[index] = f"{where}: no annotation of {entry.image}, expected {self.root / entry.annotation}"
            images.append(self._find_image(entry, contents))
        # the last row of the table is an image without objects
        positions = [contents.positions.get(entry.annotation, len(contents.counts) - 1) for entry in entries]
        needed = {entry.annotation for entry in entries}
        others = [fault for file, fault in contents.faults.items() if file not in needed]
        more = f" (and {len(others) - 1:,} more)" if len(others) > 1 else ""
        notes = [f"an unneeded annotation cannot be read: {others[0]}{more}"] if others else []
        source = VocSource(
            self.spec,
            split,
            names,
            self.root,
            images,
            everything.pick(positions),
            contents.extras,
            faults=faults,
            notes=notes,
        )
        source.annotations = [entry.annotation for entry in entries]
        return source

    @cached_property
    def _contents(self) -> _Contents:
        if self._files is not None:
            return _read_all(self.root, sorted(self._files))
        wanted = {entry.annotation for entries in self._lists.values() for entry in entries}
        folders = {os.path.dirname(file) for file in wanted}
        return _read_all(self.root, sorted(wanted & {f for one in folders for f in _list(self.root, one, (".xml",))}))

    @cached_property
    def _image_files(self) -> dict[str, list[str]]:
        """Path without ending -> endings of the image files."""
        found: dict[str, list[str]] = {}
        for folder in sorted({os.path.dirname(entry.image) for entries in self._lists.values() for entry in entries}):
            for name in _list(self.root, folder, ENDINGS):
                stem, ending = os.path.splitext(name)
                if ending not in found.setdefault(stem, []):
                    found[stem].append(ending)
        return found

    def _find_image(self, entry: Entry, contents: _Contents) -> str:
        position = contents.positions.get(entry.annotation)
        ending = "" if position is None else contents.endings[position]
        endings = self._image_files.get(entry.image, [])
        if ending not in endings and len(endings) > 1:
            files = shorten([PurePosixPath(entry.image).name + other for other in sorted(endings)])
            raise InputError(
                f"{self.root / os.path.dirname(entry.image)}: the annotation {PurePosixPath(entry.annotation).name} "
                f"names no file, and there are {files}"
            )
        if ending not in endings:  # a missing file is reported when it is read
            ending = endings[0] if endings else ending or ".jpg"
        return entry.image + ending


def find(root: Path, spec: str) -> VocTree | None:
    """Return the tree of the folder ``root`` itself; ``None`` if there is none.

    It holds, with folder names in any case,

    * ``Annotations/``, ``JPEGImages/`` (or ``images/``, …) and perhaps ``ImageSets/Main/SPLIT.txt``,
    * ``SPLIT/`` with annotations and images side by side or in two such folders, or
    * annotations and images side by side.

    Without split lists and folders, its images are undivided.

    Raises:
        InputError: an incomplete development kit, or an unreadable list.
    """
    return _find_kit(root, spec) or _find_folders(root, spec) or _find_flat(root, spec)


def _find_kit(root: Path, spec: str) -> VocTree | None:
    annotations, images = _part(root, ANNOTATION_FOLDERS, _holds_xml), _part(root, IMAGE_FOLDERS, None)
    exact = (root / ANNOTATIONS).is_dir()
    if not annotations and exact and (images or (root / SPLITS).is_dir()) and not _holds_json(root / ANNOTATIONS):
        annotations = ANNOTATIONS
    if annotations and not images and any(is_image(name) for name in _names(root)):
        images = "."  # beside the folder of annotations
    if not annotations or not (images or (exact and (root / SPLITS).is_dir())):
        return None
    if not images:
        raise InputError(f"{root} has no {IMAGES}/: expected {LAYOUT}, found {describe(root)}")
    splits = next((folder for folder in (SPLITS, "ImageSets") if (root / folder).is_dir()), None)
    lists, broken = _read_lists(root / splits) if splits else ({}, {})
    files = list(_walk(root, annotations, (".xml",)))
    if lists or broken:
        known = set(files)
        entries = {
            split: [_listed(line, annotations, images, known, root / str(splits) / f"{split}.txt") for line in lines]
            for split, lines in lists.items()
        }
        where = {split: str(root / str(splits) / f"{split}.txt") for split in lists}
        return VocTree(root, spec, entries, "Pascal VOC", where, files, broken)
    if splits and not files:
        raise InputError(f"{root / splits} has no list of images: expected SPLIT.txt, a name of an image per line")
    inner = folders_called(root / annotations, FOLDERS)
    if inner and all(os.path.dirname(file) != annotations for file in files):  # Annotations/train, images/train
        divided = {
            folder.name.lower(): _side_by_side(root, f"{annotations}/{folder.name}", f"{images}/{folder.name}")
            for folder in inner
        }
        return VocTree(root, spec, {name: found for name, found in divided.items() if found}, "Pascal VOC")
    if not files:
        raise InputError(
            f"{root / annotations} has no annotation: expected {LAYOUT}, found {describe(root / annotations)}"
        )
    found = _side_by_side(root, annotations, images)
    return VocTree(root, spec, {ALL: found}, f"Pascal VOC without {SPLITS}")


def _find_folders(root: Path, spec: str) -> VocTree | None:
    lists: dict[str, list[Entry]] = {}
    for folder in folders_called(root, FOLDERS):
        annotations = _part(folder, ANNOTATION_FOLDERS, _holds_xml)
        images = _part(folder, IMAGE_FOLDERS, None)
        if _holds_xml(folder):
            entries = _side_by_side(root, folder.name, folder.name)
        elif annotations and images:
            entries = _side_by_side(root, f"{folder.name}/{annotations}", f"{folder.name}/{images}")
        else:
            continue
        if folder.name.lower() in lists:
            raise InputError(f"{root} holds {folder.name.lower()} twice, with different capitals: join them")
        lists[folder.name.lower()] = entries
    return VocTree(root, spec, lists, "Pascal VOC, a folder for each split") if lists else None


def _find_flat(root: Path, spec: str) -> VocTree | None:
    if not _holds_xml(root) or not any(is_image(name) for name in _names(root)):
        return None
    entries = _side_by_side(root, "", "")
    return VocTree(root, spec, {ALL: entries}, "Pascal VOC, annotations beside the images")


def _side_by_side(root: Path, annotations: str, images: str) -> list[Entry]:
    """Pair the images of a folder with the annotations of another, or the same; either may be missing."""
    place, other = PurePosixPath(annotations), PurePosixPath(images)
    deep = annotations not in ("", ".") and annotations != images
    walk = _walk if deep else _list
    stems = {_below(file, annotations) for file in walk(root, annotations, (".xml",))}
    stems |= {_below(file, images) for file in (_list if images == "." else walk)(root, images, ENDINGS)}
    return [Entry(f"{place / stem}.xml", str(other / stem)) for stem in sorted(stems)]


def _below(file: str, folder: str) -> str:
    """Return a path relative to ``folder`` and without ending."""
    stem = os.path.splitext(file)[0]
    return stem if folder in ("", ".") else str(PurePosixPath(stem).relative_to(folder))


def _part(root: Path, names: Sequence[str], holds: object) -> str | None:
    """Return the first folder in ``root`` with one of these names that satisfies ``holds``."""
    for folder in folders_called(root, names):
        if holds is None or _holds_xml(folder):
            return folder.name
    return None


def _holds_xml(folder: Path) -> bool:
    """Whether a folder or a sub-folder has a Pascal VOC annotation by its ending; CVAT's single file is not one."""
    return any(_is_annotation(os.path.basename(file)) for file in _list(folder, "", (".xml",))) or any(
        _list(folder / split, "", (".xml",)) for split in FOLDERS if (folder / split).is_dir()
    )


def _holds_json(folder: Path) -> bool:
    return any(name.endswith(".json") for name in _names(folder))


def _is_annotation(name: str) -> bool:
    return name.lower().endswith(".xml") and not name.startswith(".")


def _names(folder: Path) -> list[str]:
    try:
        return os.listdir(folder)
    except OSError:
        return []


class _Contents(NamedTuple):
    """All readable annotations of a tree, and an empty one; objects in the order of the sorted files."""

    positions: dict[str, int]  # file -> index among the readable ones
    endings: list[str]  # of the image that each file names, or ""
    sizes: np.ndarray  # (N + 1, 2)
    counts: list[int]  # objects of each file, and 0
    boxes: np.ndarray  # (M, 4) float64
    difficult: np.ndarray  # (M,) bool
    object_names: list[str]
    class_names: tuple[str, ...]
    extras: set[str]
    faults: dict[str, str]  # file -> why it cannot be read


def _read_all(root: Path, files: Sequence[str]) -> _Contents:
    annotations: dict[str, VocAnnotation] = {}
    faults: dict[str, str] = {}
    for file in Tracker(files, len(files), "reading annotations"):
        try:
            annotations[file] = read_annotation(root / file)
        except InputError as error:
            faults[file] = str(error)
    if faults and not annotations:
        first, *others = faults
        raise InputError(f"{faults[first]}{f' (neither can be {shorten(others)})' if others else ''}")
    read = list(annotations.values())
    objects = [found for annotation in read for found in annotation.objects]
    names = [found.name for found in objects]
    return _Contents(
        {file: position for position, file in enumerate(annotations)},
        [os.path.splitext(annotation.filename)[1] for annotation in read],
        np.array([*(annotation.size for annotation in read), (0, 0)], dtype=np.int64).reshape(-1, 2),
        [*(len(annotation.objects) for annotation in read), 0],
        np.array([found.box for found in objects], dtype=np.float64).reshape(-1, 4),
        np.array([found.difficult for found in objects], dtype=bool),
        names,
        order_classes(names),
        {what for annotation in read for what in annotation.extras},
        faults,
    )


def order_classes(names: Iterable[str]) -> tuple[str, ...]:
    """Return the classes of a tree whose objects have these names, in alphabetical order."""
    return tuple(sorted(set(names)))


def _read_lists(folder: Path) -> tuple[dict[str, list[str]], dict[str, str]]:
    """Return the image lists by name, without empty ones and those of VOC's single classes.

    Also return why others cannot be read, to be reported when they are used.
    """
    lists, broken = {}, {}
    files = {path.stem: path for path in folder.glob("*.txt") if not path.name.startswith(".")}
    for split, path in files.items():
        try:
            lines = [line.strip() for line in path.read_text(encoding="utf-8-sig").splitlines()]
        except UnicodeDecodeError as error:
            broken[split] = f"{path} is not text in UTF-8: {error.reason} at byte {error.start}"
            continue
        lines = [line for line in lines if line]
        # aeroplane_train.txt: "000012 -1" says that image 12 of train.txt has no aeroplane
        of_class = "_" in split and split.rpartition("_")[2] in files
        if lines and not (of_class and lines[0].rpartition(" ")[2] in ("-1", "0", "1")):
            lists[split] = lines
    return lists, broken


def _listed(line: str, annotations: str, images: str, known: set[str], where: Path) -> Entry:
    """Return the image of a line, which some tools write as a file name or path."""
    stem = line
    short = PurePosixPath(line.replace("\\", "/"))
    if f"{annotations}/{line}.xml" not in known and ".." not in short.parts:
        for candidate in (str(short), short.name, str(short.with_suffix("")) if short.name else "", short.stem):
            if f"{annotations}/{candidate}.xml" in known:
                stem = candidate
                break
    check_inside(stem, f"{where}: a line")
    return Entry(f"{annotations}/{stem}.xml", str(PurePosixPath(images, stem)))


def _repeated(stems: Sequence[str]) -> list[str]:
    seen: set[str] = set()
    return sorted({stem for stem in stems if stem in seen or seen.add(stem)})  # type: ignore[func-returns-value]


def _walk(root: Path, folder: str, endings: tuple[str, ...]) -> Iterable[str]:
    """Yield the files with these endings in a folder and those below, relative to ``root``.

    Hidden and system files are skipped.
    """
    for parent, folders, files in os.walk(root / folder):
        folders[:] = [name for name in folders if not is_passed_over(name)]
        inner = PurePosixPath(Path(os.path.relpath(parent, root)).as_posix())
        for file in files:
            if file.lower().endswith(endings) and not file.startswith("."):
                yield str(inner / file)


def _list(root: Path, folder: str, endings: tuple[str, ...]) -> list[str]:
    """Return the files with these endings in a folder, relative to ``root``."""
    place = PurePosixPath(folder or ".")
    return [str(place / name) for name in _names(root / folder) if name.lower().endswith(endings) and name[0] != "."]
