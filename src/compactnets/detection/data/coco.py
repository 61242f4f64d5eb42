"""COCO's layout: a JSON file of object instances for each split, and folders of images."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path, PurePosixPath

import numpy as np

from compactnets.data.base import shorten
from compactnets.data.listing import folders_called
from compactnets.detection.data.base import FOLDERS, DetectionSource, DetectionTree, check_class_names, tidy
from compactnets.detection.data.coco_json import CocoContents, read_coco
from compactnets.errors import InputError

ANNOTATIONS, PREFIX = "annotations", "instances_"
INSIDE = "_annotations.coco.json"  # Roboflow's, among the images
SAMPLE = 16  # images by which their folder is found
LAYOUT = f"{ANNOTATIONS}/{PREFIX}SPLIT.json with SPLIT/*.jpg or images/*.jpg, or SPLIT/{INSIDE} (COCO)"


class CocoSource(DetectionSource):
    """One split in COCO's format, images in the order of the file, those without objects among them.

    Attributes:
        image_ids: id of every image in the file, by which COCO's tools name it.
    """

    kind = "coco"

    def __init__(
        self, spec: str, split: str, root: Path, file: Path, folder: PurePosixPath, contents: CocoContents
    ) -> None:
        names = [str(folder / name) for name in contents.file_names]
        super().__init__(spec, split, contents.class_names, root, names, contents.table, contents.extras)
        self.file = file
        self.image_ids = contents.image_ids

    def annotation(self, index: int) -> str:
        return str(self.file)

    def _write_box(self, left: float, top: float, right: float, bottom: float) -> str:
        return f"bbox {[tidy(left), tidy(top), tidy(right - left), tidy(bottom - top)]}"


class CocoTree(DetectionTree):
    """A folder of COCO's layout, or of one that exporters write like it (:func:`find_files`).

    Classes are the categories in the order of their ids.

    Raises:
        InputError: there is no file.
    """

    kind = "coco"

    def __init__(self, root: Path, spec: str) -> None:
        self.files = find_files(root)
        if not self.files:
            raise InputError(f"{root} has no file of annotations: expected {LAYOUT}")
        super().__init__(root, spec, self.files)

    def open(self, split: str, class_names: Sequence[str] | None = None) -> CocoSource:
        file = self.files[split]
        contents = read_coco(file, None if class_names is None else check_class_names(class_names))
        folder = self._find_images(split, file, contents.file_names)
        return CocoSource(self.spec, split, self.root, file, folder, contents)

    def _find_images(self, split: str, file: Path, names: Sequence[str]) -> PurePosixPath:
        """Return the folder, relative to the root, that holds most of a sample of the images."""
        inside = file.name == INSIDE
        places = [file.parent.name] if inside else [split, f"images/{split}", "images", "."]
        sample = [names[position] for position in np.linspace(0, len(names) - 1, SAMPLE, dtype=np.int64)]
        hits = [sum((self.root / place / name).is_file() for name in sample) for place in places]
        if not any(hits):
            raise InputError(
                f"{file}: found none of its images, such as {sample[0]}; looked in "
                f"{shorten([str(self.root / place) for place in places])}"
            )
        return PurePosixPath(places[hits.index(max(hits))])


def find_files(root: Path) -> dict[str, Path]:
    """Return the files of annotations by split.

    They are ``annotations/instances_SPLIT.json``; where there is none, ``annotations/SPLIT.json``; where there is none
    of these, ``SPLIT/_annotations.coco.json`` for the usual names of splits.
    """
    files = sorted(path for path in (root / ANNOTATIONS).glob("*.json") if not path.name.startswith("."))
    instances = [path for path in files if path.stem.startswith(PREFIX)]  # beside captions and key points
    if files:
        return {path.stem.removeprefix(PREFIX): path for path in instances or files}
    inside = [folder / INSIDE for folder in folders_called(root, FOLDERS)]
    return {path.parent.name.lower(): path for path in inside if os.path.isfile(path)}
