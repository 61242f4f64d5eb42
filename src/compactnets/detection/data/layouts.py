"""Recognise a folder's layout: a supported one, or another with advice on converting it."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

from compactnets.data.listing import entries_of, is_image, is_passed_over
from compactnets.detection.data import coco, voc, yolo
from compactnets.detection.data.base import DetectionTree
from compactnets.errors import InputError

LAYOUTS = f"{voc.LAYOUT}; {coco.LAYOUT}; or {yolo.LAYOUT}"
DEPTH = 2  # depth to which a tree is searched: VOCdevkit/VOC2007
LOOKED_INTO = 50  # files of a folder inspected for another layout
LARGEST = 64 << 20  # bytes; larger files are not inspected
ANNOTATIONS = (".xml", ".json", ".txt", ".yaml", ".yml")
ARCHIVES = (".zip", ".tar", ".tgz", ".tar.gz", ".7z", ".rar")


def find_trees(path: Path, spec: str) -> list[DetectionTree]:
    """Return the trees of the topmost level that has any, with at most one layout per folder.

    Raises:
        InputError: a folder with an incomplete layout.
    """
    folders = [path]
    for _ in range(DEPTH + 1):
        found = [tree for folder in folders if (tree := _find_tree(folder, spec)) is not None]
        if found:
            return found
        folders = [inner for folder in folders for inner in _inner(folder)]
    return []


def _may_hold_a_tree(folder: Path) -> bool:
    """Whether a folder has sub-folders or annotation files; a folder of images alone, such as a class, is skipped."""
    try:
        with os.scandir(folder) as entries:
            return any(entry.name.lower().endswith(ANNOTATIONS) or entry.is_dir() for entry in entries)
    except OSError:
        return False


def _find_tree(folder: Path, spec: str) -> DetectionTree | None:
    if not _may_hold_a_tree(folder):
        return None
    if (tree := voc.find(folder, spec)) is not None:
        return tree
    if coco.find_files(folder).splits:
        return coco.CocoTree(folder, spec)
    return yolo.find(folder, spec)


def _inner(folder: Path) -> list[Path]:
    try:
        return [Path(entry.path) for entry in entries_of(folder) if entry.is_dir() and not is_passed_over(entry.name)]
    except InputError:  # such as lost+found: contains no images
        return []


def find_other(path: Path) -> str | None:
    """Describe annotations in an unsupported layout, and how to convert them; ``None`` if there are none."""
    for file in _files(path):
        if (told := _tell(file)) is not None:
            return told
    return None


def find_plain(path: Path) -> str | None:
    """Describe a folder of images without boxes, and what to do; ``None`` if it is something else."""
    folders = _inner(path)
    inner = [each for folder in folders for each in (folder, *_inner(folder)) if _holds_images(each)]
    if inner:
        names = ", ".join(folder.name for folder in inner[:4])
        return (
            f"class folders of images without boxes ({names}): compactnets train takes them, and for a detector they "
            f"need boxes"
        )
    if _holds_images(path):
        return "images without annotations: draw boxes with a tool that writes Pascal VOC, COCO or YOLO"
    archives = [entry.name for entry in _entries(path) if entry.name.lower().endswith(ARCHIVES)]
    return f"an archive, {archives[0]}: unpack it there" if archives else None


def _holds_images(folder: Path) -> bool:
    return any(is_image(entry.name) for entry in _entries(folder))


def _entries(folder: Path) -> list[os.DirEntry[str]]:
    try:
        return entries_of(folder)
    except InputError:
        return []


def _files(path: Path) -> Iterator[Path]:
    """Yield the files in a folder and its sub-folders that may hold annotations."""
    folders = [path]
    for _ in range(DEPTH + 1):
        for folder in folders[:LOOKED_INTO]:
            looked: dict[str, int] = {}
            for entry in _entries(folder):
                kind = os.path.splitext(entry.name)[1].lower()
                looked[kind] = looked.get(kind, 0) + 1
                if looked[kind] <= 3 and not is_passed_over(entry.name) and entry.is_file():
                    yield Path(entry.path)
        folders = [inner for folder in folders[:LOOKED_INTO] for inner in _inner(folder)]


def _tell(file: Path) -> str | None:
    name = file.name.lower()
    if name.endswith((".tfrecord", ".record")) or ".tfrecord-" in name:
        return f"TensorFlow's records ({file}): export the set as COCO or Pascal VOC instead"
    if name in ("obj.data", "obj.names"):
        return (
            f"Darknet's layout ({file}): write data.yaml beside it, with train: and val: (its lists of images) and "
            f"names: (the classes)"
        )
    try:
        if file.stat().st_size > LARGEST:
            return None
        if name.endswith(".json"):
            return _tell_json(file, json.loads(file.read_bytes()))
        if name.endswith(".xml"):
            return _tell_xml(file)
        if name.endswith(".csv"):
            return _tell_csv(file)
    except (OSError, ValueError, RecursionError, ElementTree.ParseError):
        return None
    return None


def _tell_json(file: Path, document: Any) -> str | None:
    first = document[0] if isinstance(document, list) and document else document
    if not isinstance(first, dict):
        return None
    if isinstance(document, list):
        if "image" in first and isinstance(boxes := first.get("annotations"), list) and _has(boxes, "coordinates"):
            return f"CreateML's JSON ({file}): export the set as COCO or Pascal VOC instead"
        tasks = isinstance(first.get("data"), dict) and ("annotations" in first or "completions" in first)
        regions = [value for value in first.values() if isinstance(value, list)]
        short = "annotator" in first or any(_has(value, "rectanglelabels") for value in regions)
        if tasks or short:
            return (
                f"Label Studio's own JSON ({file}): choose Export > COCO (or Pascal VOC, YOLO) there, or convert it by "
                f"'label-studio-converter export -i {file.name} -c CONFIG.xml -o OUTPUT -f COCO'"
            )
        return None
    if isinstance(document.get("shapes"), list) and ("imagePath" in document or "imageData" in document):
        return (
            f"LabelMe's JSON, a file for each image ({file}): convert it to COCO by 'pip install labelme2coco' and "
            f"'labelme2coco {file.parent}'"
        )
    inner = document.get("_via_img_metadata", document)
    values = list(inner.values()) if isinstance(inner, dict) else []
    if values and isinstance(values[0], dict) and "regions" in values[0] and "filename" in values[0]:
        return f"VGG Image Annotator's JSON ({file}): choose Annotation > Export annotations (COCO format) there"
    if "objects" in document and isinstance(document.get("size"), dict) and "tags" in document:
        return f"Supervisely's JSON ({file}): export the project as COCO or Pascal VOC there"
    return None


def _has(values: list[Any], key: str) -> bool:
    return any(isinstance(value, dict) and key in value for value in values)


def _tell_xml(file: Path) -> str | None:
    for _, element in ElementTree.iterparse(file, events=("start",)):
        if element.tag == "annotations":
            return (
                f"CVAT's own XML ({file}): choose Export task dataset > COCO 1.0 or PASCAL VOC 1.1 there, with images, "
                f"and unpack it"
            )
        if element.tag == "dataset":
            return f"dlib's XML of imglab ({file}): convert it to Pascal VOC by 'imglab --convert pascal-voc'"
        return None
    return None


def _tell_csv(file: Path) -> str | None:
    with file.open(encoding="utf-8-sig", errors="replace") as lines:
        columns = {column.strip().strip('"').lower() for column in lines.readline().split(",")}
    if {"xmin", "ymin", "xmax", "ymax"} <= columns:
        what = "Open Images' CSV" if "imageid" in columns else "boxes in a CSV file"
        return f"{what} ({file}): convert the table to COCO's JSON, or export the set as COCO or Pascal VOC instead"
    return None
