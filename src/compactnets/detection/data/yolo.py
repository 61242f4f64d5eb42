"""YOLO's layout: a text file of boxes per image, classes and splits in ``data.yaml`` (Ultralytics, Roboflow)."""

from __future__ import annotations

import os
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path, PurePath, PurePosixPath, PureWindowsPath
from typing import Any, NamedTuple

import numpy as np

from compactnets.console import Tracker
from compactnets.data.base import shorten
from compactnets.data.images import read_size
from compactnets.data.listing import folders_called, is_image, is_passed_over, list_images
from compactnets.detection.data.base import ALL, FOLDERS, AnnotationFiles, DetectionTree, check_class_names
from compactnets.detection.data.table import ObjectTable, box_areas, label_names, offsets_of
from compactnets.errors import InputError
from compactnets.files import as_path
from compactnets.values import read_text, read_yaml

CONFIGS = ("data.yaml", "data.yml", "dataset.yaml", "dataset.yml")
DARKNET = "obj.names"  # beside the folder of images and labels, obj_train_data/
NAME_FILES = ("classes.txt", DARKNET, "labels.txt", "_darknet.labels")
SPLIT_KEYS = ("train", "val", "valid", "validation", "test")
# in any case, the usual name first
IMAGE_FOLDERS = ("images", "image", "imgs", "img", "jpegimages", "photos")
LABEL_FOLDERS = ("labels", "label", "annotations", "annotation", "txt")
LAYOUT = "data.yaml with images/SPLIT/*.jpg and labels/SPLIT/*.txt or SPLIT/images/*.jpg and SPLIT/labels/*.txt (YOLO)"
FAR = 2.0  # a coordinate beyond this share of the image is in pixels


class YoloSource(AnnotationFiles):
    """One split of YOLO's layout. An image without a text file has no objects, as in YOLO's tools."""

    kind = "yolo"


class YoloTree(DetectionTree):
    """A folder of YOLO's layout.

    A line is a class and a box (its centre, width and height as shares of the image), or a class and a polygon, whose
    bounding box is used. With ``kpt_shape`` in ``data.yaml``, the box is followed by key points, which are ignored.

    Args:
        lists: the images of each split, relative to the root.
        names: of the classes.
        where: the file that names them.
        keypoints: whether lines have key points.
    """

    kind = "yolo"
    layout = "YOLO"

    def __init__(
        self, root: Path, spec: str, lists: dict[str, list[str]], names: list[str], where: Path, *, keypoints: bool
    ) -> None:
        super().__init__(root, spec, lists)
        self._lists, self._names, self._where, self._keypoints = lists, names, where, keypoints
        self._label_folders: dict[str, PurePosixPath] = {}

    def open(self, split: str, class_names: Sequence[str] | None = None) -> YoloSource:
        names = self._lists[split]
        if not names:
            raise InputError(f"{self._where}: the split {split} of {self.spec} has no image")
        classes = check_class_names(self._names if class_names is None else class_names)
        files = [self._label_file(name) for name in names]
        counts, rows, given, sizes = [], [], [], np.zeros((len(names), 2), dtype=np.int64)
        faults: dict[int, str] = {}
        extras: set[str] = set()
        missing = polygons = 0
        for index in Tracker(range(len(names)), len(names), f"reading labels of {split}"):
            with suppress(InputError):  # told where images are read
                sizes[index] = read_size(self.root / names[index])
            boxes: list[_Line] = []
            if not os.path.isfile(self.root / files[index]):
                missing += 1
            else:
                try:
                    boxes = _read_lines(self.root / files[index], self._keypoints)
                except InputError as error:
                    faults[index] = str(error)
            counts.append(len(boxes))
            scale = np.array([*sizes[index], *sizes[index]], dtype=np.float64)
            rows += [np.array(line.box) * scale for line in boxes]
            polygons += sum(line.polygon for line in boxes)
            extras |= {"keypoints"} if self._keypoints and boxes else set()
            given += [
                self._names[line.label] if line.label < len(self._names) else f"class {line.label}" for line in boxes
            ]
        notes = []
        if missing:
            notes.append(f"{missing:,} of {len(names):,} images have no text file, so no objects")
        if polygons:
            notes.append(f"{polygons:,} objects are polygons: their bounding boxes are used")
        boxes_array = np.array(rows, dtype=np.float64).reshape(-1, 4)
        labels, unknown = label_names(given, classes)
        none = np.zeros(len(labels), dtype=bool)
        table = ObjectTable(
            offsets_of(counts), boxes_array, labels, none, none.copy(), box_areas(boxes_array), sizes, unknown
        )
        if missing == len(names):
            raise InputError(
                f"{self.spec}: none of the {len(names):,} images of {split} has a text file, such as "
                f"{self.root / files[0]}"
            )
        source = YoloSource(
            self.spec, split, classes, self.root, list(names), table, extras, faults=faults, notes=notes
        )
        source.annotations = files
        return source

    def _label_file(self, name: str) -> str:
        path = PurePosixPath(name)
        folder = str(path.parent)
        if folder not in self._label_folders:
            self._label_folders[folder] = _label_folder(self.root, path.parent)
        return str(self._label_folders[folder] / f"{path.stem}.txt")


def _label_folder(root: Path, folder: PurePosixPath) -> PurePosixPath:
    """Return the folder of the text files of a folder of images, relative to the root.

    It has ``labels`` instead of the last ``images`` in the path (or similar names), or is the same folder.
    """
    for place in reversed(range(len(folder.parts))):
        if folder.parts[place].lower() in IMAGE_FOLDERS:
            above, below = PurePosixPath(*folder.parts[:place]), PurePosixPath(*folder.parts[place + 1 :])
            for found in folders_called(root / above, LABEL_FOLDERS):
                if os.path.isdir(found / below):
                    return above / found.name / below
            if not _has_labels(root / folder):
                return above / LABEL_FOLDERS[0] / below
    return folder


class _Line(NamedTuple):
    label: int
    box: tuple[float, float, float, float]  # left, top, right, bottom as shares of the image
    polygon: bool


def _read_lines(path: Path, keypoints: bool) -> list[_Line]:
    """Read a text file.

    Raises:
        InputError: an invalid line; the message names the path and line number.
    """
    found = []
    for number, line in enumerate(read_text(path, str(path)).splitlines(), start=1):
        if not line.strip():
            continue
        where = f"{path}, line {number}"
        try:
            label, *values = (float(value) for value in line.split())
        except ValueError:
            raise InputError(f"{where}: expected a class and numbers, found {line.strip()[:60]!r}") from None
        if not label.is_integer() or label < 0:
            raise InputError(f"{where}: the class must be a number from 0, found {line.split()[0]!r}")
        if max((abs(value) for value in values), default=0) > FAR:
            raise InputError(
                f"{where}: coordinates must be shares of the image from 0 to 1, found {line.strip()[:60]!r}"
            )
        if len(values) == 4 or (keypoints and len(values) > 4):
            x, y, width, height = values[:4]
            found.append(_Line(int(label), (x - width / 2, y - height / 2, x + width / 2, y + height / 2), False))
        elif len(values) >= 6 and len(values) % 2 == 0:
            xs, ys = values[::2], values[1::2]
            found.append(_Line(int(label), (min(xs), min(ys), max(xs), max(ys)), True))
        else:
            raise InputError(
                f"{where}: expected a class and x, y, width, height, or the corners of a polygon, found "
                f"{len(values) + 1} numbers"
            )
    return found


def find(root: Path, spec: str, config: Path | None = None) -> YoloTree | None:
    """Return the tree of the folder ``root`` itself; ``None`` if there is none.

    It has a ``data.yaml``, or text files beside images or in ``labels`` for ``images``, and a file with the names of
    the classes (``classes.txt``).

    Args:
        config: the ``data.yaml`` that the user named.

    Raises:
        InputError: text files without class names, or an unusable ``data.yaml``.
    """
    config = config or next((root / name for name in CONFIGS if (root / name).is_file()), None)
    if config is None:
        config = next((path for path in sorted(root.glob("*.y*ml")) if path.suffix in (".yaml", ".yml")), None)
    settings = None if config is None else _read_config(config)
    if config is not None and settings is not None:
        return _from_config(root, spec, config, settings)
    lists = _find_folders(root)
    if not lists:
        return None
    for name in NAME_FILES:
        for place in (root, *folders_called(root, LABEL_FOLDERS), *((root.parent,) if name == DARKNET else ())):
            if (place / name).is_file():
                lines = [line.strip() for line in read_text(place / name, str(place / name)).splitlines()]
                names = _read_names(place / name, [line for line in lines if line], None)
                return YoloTree(root, spec, lists, names, place / name, keypoints=False)
    splits = "".join(f"{split}: {_folder_of(found)}, " for split, found in lists.items() if split != ALL)
    raise InputError(
        f"{spec} is of YOLO's layout ({shorten(list(lists))}) without the names of the classes: write them into "
        f"{root / CONFIGS[0]}, such as {{{splits}names: [cat, dog]}}, or one a line into {root / NAME_FILES[0]}"
    )


def _folder_of(names: Sequence[str]) -> str:
    return os.path.dirname(names[0]) if names else ""


def _find_folders(root: Path) -> dict[str, list[str]]:
    """Return the images of each split whose text files are laid out as for YOLO."""
    for images in folders_called(root, IMAGE_FOLDERS):
        for labels in folders_called(root, LABEL_FOLDERS):
            splits = [folder for folder in folders_called(images, FOLDERS) if (labels / folder.name).is_dir()]
            if splits and any(_has_labels(labels / folder.name) for folder in splits):
                return {folder.name.lower(): _images(root, folder) for folder in splits}
            if _has_labels(labels):
                return {ALL: _images(root, images)}
    found = {}
    for folder in folders_called(root, FOLDERS):
        for images in folders_called(folder, IMAGE_FOLDERS):
            if any(_has_labels(labels) for labels in folders_called(folder, LABEL_FOLDERS)):
                found[folder.name.lower()] = _images(root, images)
        if folder.name.lower() not in found and _has_labels(folder) and any(map(is_image, os.listdir(folder))):
            found[folder.name.lower()] = _images(root, folder)
    if not found and _has_labels(root) and any(is_image(name) for name in os.listdir(root)):
        return {ALL: [name for name in sorted(os.listdir(root)) if is_image(name)]}
    return found


def _has_labels(folder: Path) -> bool:
    """Whether a folder has a text file whose first line is a class and a box."""
    try:
        names = sorted(name for name in os.listdir(folder) if name.endswith(".txt") and not is_passed_over(name))
    except OSError:
        return False
    for name in [name for name in names if name not in NAME_FILES][:20]:
        try:
            first = (folder / name).read_text(encoding="utf-8-sig").split("\n", 1)[0].split()
            if len(first) >= 5 and first[0].isdigit() and all(float(value) <= FAR for value in first[1:]):
                return True
        except (OSError, ValueError):
            continue
    return False


def _images(root: Path, folder: Path) -> list[str]:
    return [Path(os.path.relpath(path, root)).as_posix() for path in list_images(folder).images]


def _read_config(path: Path) -> dict[str, Any] | None:
    """Return the settings of a ``data.yaml``, every value as text; ``None`` for any other YAML file.

    Raises:
        InputError: it has the name of one but is not YAML.
    """
    try:
        found = read_yaml(path, str(path), only_text=True)
    except InputError:
        if path.name in CONFIGS:
            raise
        return None
    if not isinstance(found, dict):
        return None
    found = {str(key).lower(): value for key, value in found.items()}
    return found if "names" in found and {*SPLIT_KEYS, "path"} & set(found) else None


def _from_config(root: Path, spec: str, config: Path, settings: dict[str, Any]) -> YoloTree:
    names = _read_names(config, settings["names"], settings.get("nc"))
    if isinstance(base := settings.get("path"), str) and base:
        if "\0" in base:
            raise InputError(f"{config}: path must be the path of a folder, found {base[:60]!r}")
        elsewhere = Path(os.path.realpath(root / as_path(base)))
        if elsewhere.is_dir() and root.resolve() not in (elsewhere, *elsewhere.parents):
            root = elsewhere
    lists: dict[str, list[str]] = {}
    for key in SPLIT_KEYS:
        if not settings.get(key):
            continue
        given = settings[key] if isinstance(settings[key], list) else [settings[key]]
        found: list[str] = []
        for entry in given:
            if not isinstance(entry, str):
                raise InputError(f"{config}: {key} must be a path or a list of paths, found {str(entry)[:60]!r}")
            found += _images_of(root, config, key, str(settings.get("path") or ""), entry)
        lists[key] = list(dict.fromkeys(found))
    if not lists:
        raise InputError(f"{config} names no images: expected train: and val: with their folders")
    return YoloTree(root, spec, lists, names, config, keypoints="kpt_shape" in settings)


def _read_names(config: Path, names: Any, count: Any) -> list[str]:
    if isinstance(names, dict):
        try:
            numbered = {int(key): value for key, value in names.items()}
        except ValueError:
            raise InputError(f"{config}: names must be numbered from 0, found {shorten(list(names))}") from None
        if sorted(numbered) != list(range(len(numbered))):
            raise InputError(f"{config}: names must be numbered from 0 without a gap, found {shorten(list(names))}")
        names = [numbered[number] for number in range(len(numbered))]
    if not isinstance(names, list) or not names or not all(isinstance(name, str) and name for name in names):
        raise InputError(f"{config}: names must be a list of the names of the classes, or a mapping of their numbers")
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise InputError(f"{config}: names must be different from each other, found twice: {shorten(twice)}")
    if isinstance(count, str) and count.isdigit() and int(count) != len(names):
        raise InputError(f"{config}: nc is {count}, and there are {len(names)} names: they must match")
    return names


def _images_of(root: Path, config: Path, key: str, base: str, entry: str) -> list[str]:
    """Return the images of a folder, or of a text file with one path per line, relative to the root.

    Raises:
        InputError: there is no such folder or file within ``root``, or an image that leads out of it.
    """
    place = _find_place(root, config.parent, base, entry)
    if place is None:
        raise InputError(f"{config}: no folder or file for {key}: {entry!r} within {root}")
    if place.is_dir():
        return _images(root, place)
    if is_image(place.name):
        return [Path(os.path.relpath(place, root)).as_posix()]
    images = []
    for number, line in enumerate(read_text(place, str(place)).splitlines(), start=1):
        if line.strip():
            found = _find_place(root, place.parent, base, line.strip())
            if found is None:
                raise InputError(f"{place}, line {number}: no image at {line.strip()!r} within {root}")
            images.append(Path(os.path.relpath(found, root)).as_posix())
    return images


def _find_place(root: Path, beside: Path, base: str, entry: str) -> Path | None:
    """Resolve a path of ``data.yaml`` within ``root``.

    Exporters write paths of their own machine, and Roboflow ``../train/images`` for ``train/images``. If a path does
    not exist, its end is searched in the folder.
    """
    path, start = _pure(entry), _pure(base)
    tried = [beside / path, root / path, root / start / path, beside / start / path]
    parts = [part for part in path.parts if part not in ("..", ".", path.anchor)]
    tried += [place / PurePosixPath(*parts[first:]) for place in (beside, root) for first in range(len(parts))]
    inside = os.path.abspath(root)
    for place in tried:
        found = os.path.abspath(place)  # links are followed when reading: a set may span several disks
        if (found.startswith(inside + os.sep) or (found == inside and not parts)) and os.path.exists(found):
            return Path(os.path.normpath(place))
    return None


def _pure(text: str) -> PurePath:
    """Return a path that may have been written on Windows, as one of this machine."""
    windows = PureWindowsPath(text)
    return PurePosixPath(windows.as_posix()) if "\\" in text or windows.drive else PurePosixPath(text)
