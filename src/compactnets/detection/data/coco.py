"""COCO's layout: a JSON file of object instances per split, and folders of images."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterable, Sequence
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple, Self

import numpy as np

from compactnets.data.base import shorten
from compactnets.data.listing import folders_called, is_passed_over
from compactnets.detection.data.base import (
    ALL,
    FOLDERS,
    YEAR,
    DetectionSource,
    DetectionTree,
    check_class_names,
    check_inside,
    tidy,
)
from compactnets.detection.data.coco_json import PARTS, CocoContents, read_coco
from compactnets.errors import InputError

ANNOTATIONS, PREFIX, KEYPOINTS = "annotations", "instances_", "person_keypoints_"
FOLDERS_OF_FILES = (ANNOTATIONS, "annotation")
INSIDE = "_annotations.coco.json"  # Roboflow's, among the images
SAMPLE = 16  # images sampled to find their folder
SMALL = 4 << 20  # files up to this size in bytes are read entirely to identify them
LAYOUT = f"{ANNOTATIONS}/{PREFIX}SPLIT.json with SPLIT/*.jpg or images/*.jpg, or SPLIT/{INSIDE} (COCO)"
SPLIT_WORDS = (*FOLDERS, "trainval")


class CocoSource(DetectionSource):
    """One split in COCO's format, images in the order of the file, including those without objects.

    Attributes:
        image_ids: id of every image in the file, by which COCO's tools name it.
    """

    kind = "coco"

    def __init__(
        self,
        spec: str,
        split: str,
        root: Path,
        file: Path,
        names: list[str],
        contents: CocoContents,
        notes: Sequence[str] = (),
    ) -> None:
        super().__init__(
            spec,
            split,
            contents.class_names,
            root,
            names,
            contents.table,
            contents.extras,
            faults=contents.faults,
            strays=contents.strays,
            notes=notes,
        )
        self.file = file
        self.image_ids = contents.image_ids

    def pick(self, images: Sequence[int] | np.ndarray, split: str | None = None) -> Self:
        picked = super().pick(images, split)
        picked.image_ids = [self.image_ids[int(index)] for index in images]
        return picked

    def annotation(self, index: int) -> str:
        return str(self.file)

    def _write_box(self, left: float, top: float, right: float, bottom: float) -> str:
        return f"bbox {[tidy(left), tidy(top), tidy(right - left), tidy(bottom - top)]}"


class CocoFiles(NamedTuple):
    """The files of annotations in a folder."""

    splits: dict[str, Path]
    others: list[str]  # other JSON files beside them


class CocoTree(DetectionTree):
    """A folder in COCO's layout, or in a similar one of an exporter (:func:`find_files`).

    Classes are the categories in the order of their ids.

    Raises:
        InputError: there is no file.
    """

    kind = "coco"
    layout = "COCO"

    def __init__(self, root: Path, spec: str) -> None:
        self.files, self.others = find_files(root)
        if not self.files:
            raise InputError(f"{root} has no file of annotations: expected {LAYOUT}")
        super().__init__(root, spec, self.files)

    def open(self, split: str, class_names: Sequence[str] | None = None) -> CocoSource:
        file = self.files[split]
        contents = read_coco(file, None if class_names is None else check_class_names(class_names))
        notes: list[str] = []
        names = self._find_images(split, file, contents.file_names, notes)
        if contents.from_masks:
            notes.append(f"{contents.from_masks:,} objects have no box: the box around their mask is used")
        if self.others:
            notes.append(f"other files beside the annotations: {shorten(self.others)}")
        return CocoSource(self.spec, split, self.root, file, names, contents, notes)

    def _find_images(self, split: str, file: Path, given: Sequence[str], notes: list[str]) -> list[str]:
        """Return the path of every image relative to the root, in the folder that holds most of a sample of them."""
        inner = file.parent.relative_to(self.root).as_posix()
        among = file.parent.name.lower() not in FOLDERS_OF_FILES and file.parent != self.root
        places = [inner, f"{inner}/images", f"{inner}/data"] if among else [split, f"images/{split}", f"{split}/images"]
        plain = re.sub(YEAR + "$", "", split)
        places += [] if among else [plain, f"images/{plain}", "images", "Images", "data", ".", "JPEGImages"]
        places = list(dict.fromkeys(places))
        names = [name.replace("\\", "/") for name in given]  # Windows paths
        sample = np.linspace(0, len(names) - 1, SAMPLE, dtype=np.int64).tolist()
        place, hits = self._best(places, [given[index] for index in sample])
        if hits:
            names = [  # on other systems a backslash is part of a name
                name if name == other or self._has(place, name) else other
                for name, other in zip(given, names, strict=True)
            ]
        else:
            place, hits = self._best(places, [names[index] for index in sample if _is_inside(names[index])])
        if not hits:
            place, hits = self._best(places, [_base(names[index]) for index in sample])
        found, moved = [], []
        for position, name in enumerate(names):
            if "/" in name and not self._has(place, name) and self._has(".", name):
                found.append(str(PurePosixPath(name)))
                continue
            if not _is_inside(name) or ("/" in name and not self._has(place, name)):
                if self._has(place, _base(name)):
                    moved.append(given[position])
                    name = _base(name)
                else:
                    check_inside(name, f"{file}: images[{position}]: file_name")
            found.append(str(PurePosixPath(place, name)))
        if not hits:
            raise InputError(
                f"{file}: found none of its images, such as {given[sample[0]]}; looked in "
                f"{shorten([str(self.root / one) for one in places])}"
            )
        if len(set(found)) < len(set(names)) and moved:
            raise InputError(
                f"{file}: {moved[0]} and others are not where the file says, and by their names alone two would be one "
                f"image in {self.root / place}: correct the paths"
            )
        if moved:
            notes.append(
                f"images that are not where {file.name} says: {len(moved):,}, such as {moved[0]}; those of the same "
                f"name in {self.root / place} are used"
            )
        return found

    def _best(self, places: Sequence[str], names: Sequence[str]) -> tuple[str, int]:
        """Return the folder with the most of the images, and their number."""
        hits = [sum(self._has(place, name) for name in names) for place in places]
        return places[hits.index(max(hits))], max(hits)

    def _has(self, place: str, name: str) -> bool:
        return _is_inside(name) and os.path.isfile(self.root / place / name)


def _is_inside(name: str) -> bool:
    path = PurePosixPath(name)
    return not (path.is_absolute() or ".." in path.parts or not path.name or re.match(r"[A-Za-z]:[/\\]", name))


def _base(name: str) -> str:
    return PurePosixPath(name).name


def find_files(root: Path) -> CocoFiles:
    """Return the files of annotations by split.

    They are ``annotations/instances_SPLIT.json``; otherwise other instance files in ``annotations/``; otherwise one in
    each ``SPLIT/`` with a usual split name (``_annotations.coco.json``); otherwise those in ``root`` itself. A file not
    named after a split is an undivided set.
    """
    for folder in folders_called(root, FOLDERS_OF_FILES):
        files = _json_files(folder)
        instances = [path for path in files if path.stem.startswith(PREFIX)]  # next to captions and key points
        if instances:
            others = [] if any(path.stem.startswith(("captions_", KEYPOINTS)) for path in files) else files
            left = [path.name for path in others if path not in instances]
            return CocoFiles({path.stem.removeprefix(PREFIX): path for path in instances}, left)
        plain = [path for path in files if not path.stem.startswith((KEYPOINTS, "captions_", "stuff_", "panoptic_"))]
        keypoints = [path for path in files if path.stem.startswith(KEYPOINTS)]
        chosen = [path for path in plain if _is_instances(path)] or [path for path in keypoints if _is_instances(path)]
        if chosen:
            return CocoFiles(_by_split(chosen), [path.name for path in plain if path not in chosen])
    inside: dict[str, Path] = {}
    for folder in folders_called(root, FOLDERS):
        files = _json_files(folder)
        named = [path for path in files if path.name == INSIDE] or [path for path in files if _is_instances(path, ())]
        if len(named) == 1:
            inside[folder.name.lower()] = named[0]
    if inside:
        return CocoFiles(inside, [])
    files = [path for path in _json_files(root) if path.stem.startswith(PREFIX) or _is_instances(path)]
    if len(files) == 1 and not _words(files[0].stem):
        return CocoFiles({ALL: files[0]}, [path.name for path in _json_files(root) if path not in files])
    return CocoFiles(_by_split(files), [path.name for path in _json_files(root) if path not in files] if files else [])


def _json_files(folder: Path) -> list[Path]:
    try:
        names = sorted(os.listdir(folder))
    except OSError:
        return []
    return [folder / name for name in names if name.lower().endswith(".json") and not is_passed_over(name)]


def _by_split(files: Sequence[Path]) -> dict[str, Path]:
    """Return the files by the split in their names, or by their names if that is ambiguous."""
    stems = [path.stem.removeprefix(PREFIX).removeprefix(KEYPOINTS) for path in files]
    words = [_words(stem) for stem in stems]
    if all(len(found) == 1 for found in words) and len({found[0] for found in words}) == len(files):
        return {found[0]: path for found, path in zip(words, files, strict=True)}
    return dict(zip(stems, files, strict=True))


def _words(stem: str) -> list[str]:
    """Return the split names in a file name: ``train`` of ``train_coco``."""
    parts = re.split(r"[^A-Za-z0-9]+", stem.removeprefix(PREFIX))
    return [part.lower() for part in parts if re.sub(YEAR + "$", "", part).lower() in SPLIT_WORDS]


def _is_instances(path: Path, names: Iterable[str] = SPLIT_WORDS) -> bool:
    """Whether a file holds object instances, or is broken and named after a split."""
    try:
        with path.open("rb") as file:
            size = os.fstat(file.fileno()).st_size
            if size > SMALL:
                head = file.read(SMALL // 8)
                file.seek(-SMALL // 8, os.SEEK_END)
                text = head + file.read()
                return sum(f'"{part}"'.encode() in text for part in PARTS) >= 2
            document: Any = json.loads(file.read())
    except (OSError, ValueError, RecursionError):
        document = None
    if isinstance(document, dict) and all(isinstance(document.get(part), list) for part in PARTS):
        return True
    return path.stem in names
