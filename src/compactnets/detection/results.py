"""Detections as a results file for COCO's tools."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from compactnets.data.listing import compose
from compactnets.detection.prediction import ImageObjects
from compactnets.errors import InputError, reason
from compactnets.files import json_text, replace_text


class CocoIds:
    """The ids of images and classes in a list of results.

    They come from an annotation file, by file and category names. Without one, an image has the number in its file name
    (``000000000139.jpg`` is 139), otherwise its name, and a class its position in the list, from 1, as ``compactnets
    data convert --to coco`` writes it.

    Raises:
        InputError: not a COCO file, or one that lacks a class of the detector.
    """

    def __init__(self, class_names: Sequence[str], annotations: Path | None = None) -> None:
        self.annotations = annotations
        self.categories: dict[str, Any] = {name: number for number, name in enumerate(class_names, start=1)}
        self.images: dict[str, Any] | None = None
        if annotations is None:
            return
        try:
            document = json.loads(annotations.read_text(encoding="utf-8"))
            categories = {compose(one["name"]): one["id"] for one in document["categories"]}
            self.images = {}
            for one in document["images"]:
                for name in (one["file_name"], _base(one["file_name"])):
                    # a name shared by two images identifies neither
                    self.images[name] = one["id"] if self.images.get(name, one["id"]) == one["id"] else None
        except (OSError, UnicodeDecodeError) as error:
            raise InputError(f"{annotations} cannot be read: {reason(error)}") from None
        except (ValueError, KeyError, TypeError, AttributeError):
            raise InputError(
                f"{annotations} is not a COCO annotation file: expected lists images (id, file_name) and categories "
                f"(id, name)"
            ) from None
        if missing := [name for name in class_names if compose(name) not in categories]:
            raise InputError(f"{annotations} has no category {missing[0]!r}, a class of the detector")
        self.categories = {name: categories[compose(name)] for name in class_names}

    def image(self, one: ImageObjects) -> Any:
        """Return the id of an image.

        Raises:
            InputError: the annotation file lacks it, or has two with its name.
        """
        if self.images is None:
            stem = Path(one.image).stem
            if one.frame is None:
                return int(stem) if stem.isascii() and stem.isdigit() else _base(one.image)
            return f"{_base(one.image)}#{one.frame}"
        parts = one.image.replace("\\", "/").split("/")
        for start in range(len(parts)):  # the longest path suffix that the file contains
            found = self.images.get("/".join(parts[start:]))
            if found is not None and one.frame is None:
                return found
        raise InputError(f"{self.annotations} does not say the id of {one.name}, or has two images of that name")


def write_coco_results(path: Path, results: Sequence[ImageObjects], ids: CocoIds) -> None:
    """Write the objects in COCO's results format: ``image_id``, ``category_id``, ``bbox``, ``score``.

    ``bbox`` is left, top, width, height in pixels of the upright image.

    Raises:
        InputError: an image without an id, two images with the same id, or a file that cannot be written.
    """
    entries = []
    owners: dict[Any, str] = {}
    for one in results:
        if one.error is not None:
            continue
        image = ids.image(one)
        if owners.setdefault(image, one.name) != one.name:
            raise InputError(
                f"--coco: {owners[image]} and {one.name} would both have the image id {image!r}: give the ids with "
                f"--annotations, or predict them separately"
            )
        for found in one.objects:
            left, top, right, bottom = found.box
            entries.append(
                {
                    "image_id": image,
                    "category_id": ids.categories[found.class_name],
                    "bbox": [left, top, right - left, bottom - top],
                    "score": found.score,
                }
            )
    replace_text(path, json_text(entries, ensure_ascii=False))


def _base(name: str) -> str:
    return name.replace("\\", "/").rsplit("/", 1)[-1]
