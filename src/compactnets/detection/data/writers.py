"""Write splits as a Pascal VOC tree or in COCO's format."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

from PIL import Image

from compactnets.data.images import FORMATS
from compactnets.data.orientation import upright_size
from compactnets.detection.data import coco, voc
from compactnets.detection.data.base import DetectionSource, tidy
from compactnets.detection.data.voc_xml import EDGES
from compactnets.errors import InputError
from compactnets.files import json_text, replace_text


def write_voc(folder: Path, sources: Sequence[DetectionSource], file_names: Mapping[str, str]) -> None:
    """Write annotations and lists of images; ``file_names``: path in the source -> name in ``JPEGImages``.

    Raises:
        InputError: an image cannot be opened to read its channels and, if not annotated, its size.
    """
    for part in (voc.ANNOTATIONS, voc.SPLITS):
        (folder / part).mkdir(parents=True, exist_ok=True)
    done = set()
    for source in sources:
        stems = []
        for index, name in enumerate(source.names):
            stem = Path(file_names[name]).stem
            stems.append(f"{stem}\n")
            if name not in done:
                done.add(name)
                path = folder / voc.ANNOTATIONS / f"{stem}.xml"
                _annotation(source, index, file_names[name]).write(path, encoding="utf-8")
        (folder / voc.SPLITS / f"{source.split}.txt").write_text("".join(stems), encoding="utf-8")


def _annotation(source: DetectionSource, index: int, file_name: str) -> ElementTree.ElementTree:
    width, height, channels = _read_header(source.root / source.names[index])
    width, height = source.size(index) or (width, height)
    root = ElementTree.Element("annotation")
    _add(root, folder=voc.IMAGES, filename=file_name)
    _add(ElementTree.SubElement(root, "size"), width=width, height=height, depth=channels)
    _add(root, segmented=0)
    table = source.table
    rows = table.rows(index)
    for row in range(rows.start, rows.stop):
        element = ElementTree.SubElement(root, "object")
        hard = bool(table.difficult[row] or table.crowd[row])
        _add(element, name=source.class_names[table.labels[row]], pose="Unspecified", truncated=0, difficult=int(hard))
        left, top, right, bottom = table.boxes[row].tolist()
        edges = map(tidy, (left + 1, top + 1, right, bottom))
        _add(ElementTree.SubElement(element, "bndbox"), **dict(zip(EDGES, edges, strict=True)))
    ElementTree.indent(root, "\t")
    return ElementTree.ElementTree(root)


def _add(parent: ElementTree.Element, **values: object) -> None:
    for tag, value in values.items():
        ElementTree.SubElement(parent, tag).text = str(value)


def _read_header(path: Path) -> tuple[int, int, int]:
    """Return upright width and height, and channels, of an image file without decoding it."""
    try:
        with Image.open(path, formats=FORMATS) as image:
            return *upright_size(image), len(image.getbands())
    except OSError as error:  # Pillow's UnidentifiedImageError is one
        raise InputError(
            f"{path} cannot be opened as an image: {error.strerror or 'unknown format'}; compactnets data check lists "
            f"all such images"
        ) from None


def write_coco(folder: Path, sources: Sequence[DetectionSource], file_names: Mapping[str, str]) -> None:
    """Write a file per split; ``file_names``: path in the source -> name in ``images``.

    Raises:
        InputError: an image without annotated size cannot be opened.
    """
    (folder / coco.ANNOTATIONS).mkdir(parents=True, exist_ok=True)
    image_ids = {name: number for number, name in enumerate(file_names, start=1)}  # the same in every split
    for source in sources:
        document = {
            "info": {"description": f"{source.split}, from {source.kind}"},
            "licenses": [],
            "images": [
                _image(source, index, image_ids[name], file_names[name]) for index, name in enumerate(source.names)
            ],
            "annotations": [
                annotation
                for index, name in enumerate(source.names)
                for annotation in _annotations(source, index, image_ids[name])
            ],
            "categories": [
                {"id": number, "name": name, "supercategory": "none"}
                for number, name in enumerate(source.class_names, start=1)
            ],
        }
        path = folder / coco.ANNOTATIONS / f"{coco.PREFIX}{source.split}.json"
        replace_text(path, json_text(document, ensure_ascii=False))


def _image(source: DetectionSource, index: int, image_id: int, file_name: str) -> dict[str, Any]:
    width, height = source.size(index) or _read_header(source.root / source.names[index])[:2]
    return {"id": image_id, "file_name": file_name, "width": width, "height": height}


def _annotations(source: DetectionSource, index: int, image_id: int) -> list[dict[str, Any]]:
    table = source.table
    rows = table.rows(index)
    annotations = []
    for row in range(rows.start, rows.stop):
        left, top, right, bottom = table.boxes[row].tolist()
        annotations.append(
            {
                "id": row + 1,  # pycocotools treats id 0 as no match
                "image_id": image_id,
                "category_id": int(table.labels[row]) + 1,
                "bbox": [tidy(left), tidy(top), tidy(right - left), tidy(bottom - top)],
                "area": tidy(float(table.areas[row])),
                "iscrowd": int(table.crowd[row]),
                "ignore": int(table.difficult[row]),  # how converters of VOC write it
                "segmentation": [],
            }
        )
    return annotations
