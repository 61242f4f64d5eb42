"""Small trees of images with boxes."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any
from zlib import crc32

from ...data.helpers import noise

WIDTH, HEIGHT = 20, 16
VocObjects = Sequence[tuple[Any, ...]]  # (name, xmin, ymin, xmax, ymax) or with difficult


def voc_object(name: str, xmin: Any, ymin: Any, xmax: Any, ymax: Any, difficult: Any = 0) -> str:
    return (
        f"<object><name>{name}</name><difficult>{difficult}</difficult><bndbox><xmin>{xmin}</xmin><ymin>{ymin}</ymin>"
        f"<xmax>{xmax}</xmax><ymax>{ymax}</ymax></bndbox></object>"
    )


def annotation(objects: str, filename: str = "", size: tuple[Any, Any] | None = (WIDTH, HEIGHT)) -> str:
    stated = f"<size><width>{size[0]}</width><height>{size[1]}</height><depth>3</depth></size>" if size else ""
    named = f"<filename>{filename}</filename>" if filename else ""
    return f"<annotation>{named}{stated}{objects}</annotation>"


def write_image(path: Path) -> None:
    """Write an image of noise that depends on the name of the file and of its folder."""
    path.parent.mkdir(parents=True, exist_ok=True)
    noise(WIDTH, HEIGHT, seed=crc32("/".join(path.parts[-2:]).encode())).save(path)


def write_tree(root: Path, splits: Mapping[str, Mapping[str, VocObjects]]) -> Path:
    """Write a Pascal VOC tree of PNG files: split -> stem -> objects."""
    for part in ("Annotations", "JPEGImages", "ImageSets/Main"):
        (root / part).mkdir(parents=True, exist_ok=True)
    for split, images in splits.items():
        (root / "ImageSets/Main" / f"{split}.txt").write_text("".join(f"{stem}\n" for stem in images))
        for stem, objects in images.items():
            text = annotation("".join(voc_object(*values) for values in objects), f"{stem}.png")
            (root / "Annotations" / f"{stem}.xml").write_text(text)
            write_image(root / "JPEGImages" / f"{stem}.png")
    return root


def coco_document(**changes: Any) -> dict[str, Any]:
    """Return a file of three images, the second without objects, and of categories 7 and 3; parts can be replaced."""
    images = [{"id": 10 * n, "file_name": f"{n}.png", "width": WIDTH, "height": HEIGHT} for n in (1, 2, 3)]
    annotations = [
        {"id": 5, "image_id": 30, "category_id": 7, "bbox": [1, 2, 3, 4], "iscrowd": 0, "area": 7.5},
        {"id": 6, "image_id": 10, "category_id": 3, "bbox": [0.5, 0.25, 10.1, 5], "iscrowd": 1, "area": 9},
        {"id": 8, "image_id": 30, "category_id": 3, "bbox": [0, 0, 20, 16]},
    ]
    categories = [{"id": 7, "name": "ant"}, {"id": 3, "name": "wasp"}]
    return {"images": images, "annotations": annotations, "categories": categories, **changes}


def write_coco_file(path: Path, document: Any, folder: Path) -> Path:
    """Write a file of annotations, and its images in a folder."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(document if isinstance(document, str) else json.dumps(document))
    for image in document["images"] if isinstance(document, dict) else ():
        write_image(folder / image["file_name"])
    return path
