"""One file of COCO's object instances.

The format is that of https://cocodataset.org/#format-data: ``images``, ``annotations`` with ``bbox`` [x, y, width,
height], ``categories``. Masks and key points are dropped while reading, to save memory.
"""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from compactnets.data.base import shorten
from compactnets.data.listing import compose
from compactnets.detection.data.table import ObjectTable, box_areas, label_names, offsets_of
from compactnets.errors import InputError, missing_extra

PARTS = ("images", "annotations", "categories")
UNREAD = {"segmentation": "masks", "keypoints": "keypoints"}
FROM_MASK = "box of the mask"  # the field that marks an annotation whose box was computed here


class CocoContents(NamedTuple):
    """The contents of a file.

    Attributes:
        image_ids: id of every image, in the order of the file.
        file_names: as in the file, relative to the image folder.
        class_names: of the labels.
        table: the objects.
        extras: other content.
        faults: index of an image in the file -> why an annotation of it cannot be used; it has no objects here.
        strays: why annotations without an image of the file cannot be used.
        from_masks: number of objects whose box was computed from their mask.
    """

    image_ids: list[int | str]
    file_names: list[str]
    class_names: tuple[str, ...]
    table: ObjectTable
    extras: set[str]
    faults: dict[int, str]
    strays: list[str]
    from_masks: int


def read_coco(path: Path, class_names: tuple[str, ...] | None = None) -> CocoContents:
    """Read a file.

    Args:
        path: the file.
        class_names: the classes; ``None``: the categories in the order of their ids.

    Raises:
        InputError: it is not JSON, a part is missing, or an image or category cannot be used; the message names the
            path and the position.
    """
    extras: set[str] = set()
    faults: dict[int, str] = {}
    strays: list[str] = []
    try:
        document = _parse(path, extras)
        image_ids, file_names, sizes = _read_images(document["images"])
        categories = _read_categories(document["categories"])
        annotations = document["annotations"]
        try:
            columns = _columns(annotations, {key: position for position, key in enumerate(image_ids)})
        except (KeyError, TypeError, ValueError, AttributeError, OverflowError):
            annotations = _without_faults(annotations, image_ids, faults, strays, path)
            columns = _columns(annotations, {key: position for position, key in enumerate(image_ids)})
    except InputError as error:
        raise InputError(f"{path}: {error}") from None
    positions, category_ids, boxes, crowd, difficult, areas = columns
    order = np.argsort(positions, kind="stable")
    names = [categories.get(category_ids[row], f"category {category_ids[row]}") for row in order.tolist()]
    classes = tuple(categories.values()) if class_names is None else class_names
    labels, unknown = label_names(names, classes)
    with np.errstate(invalid="ignore", over="ignore"):  # non-finite values are reported later
        boxes[:, 2:] += boxes[:, :2]
    table = ObjectTable(
        offsets_of(np.bincount(positions, minlength=len(image_ids))),
        boxes[order],
        labels,
        difficult[order],
        crowd[order],
        np.where(np.isnan(areas), box_areas(boxes), areas)[order],
        sizes,
        unknown,
    )
    made = sum(FROM_MASK in annotation for annotation in annotations)
    return CocoContents(image_ids, file_names, classes, table, extras, faults, strays, made)


def _parse(path: Path, extras: set[str]) -> dict[str, Any]:
    def drop(entry: dict[str, Any]) -> dict[str, Any]:
        masked = "category_id" in entry and entry.get("segmentation") and not entry.get("bbox")
        if masked and (box := _box_of(entry["segmentation"])) is not None:
            entry |= {"bbox": box, FROM_MASK: True}
        for key, what in UNREAD.items():
            if entry.pop(key, None):
                extras.add(what)
        return entry

    try:
        document = json.loads(path.read_bytes(), object_hook=drop)
    except OSError as error:
        raise InputError(f"it cannot be read: {error.strerror or error}") from None
    except InputError:
        raise
    except UnicodeDecodeError as error:
        found = error.object[error.start]
        raise InputError(
            f"it must be text in UTF-8, and byte {error.start} is 0x{found:02x}: save it as UTF-8"
        ) from None
    except (ValueError, RecursionError) as error:  # JSON errors; endless brackets
        raise InputError(f"it is not JSON: {error}") from None
    missing = [part for part in PARTS if not isinstance(document, dict) or not isinstance(document.get(part), list)]
    if missing:
        hint = "; a test set published without boxes cannot be used" if missing == ["annotations"] else ""
        raise InputError(
            f"expected COCO's object instances, an object with the lists {', '.join(PARTS)}, found no "
            f"{' and no '.join(missing)}{hint}"
        )
    return dict(document)


def _read_images(images: list[Any]) -> tuple[list[int | str], list[str], np.ndarray]:
    if not images:
        raise InputError("its list of images is empty")
    ids: dict[int | str, None] = {}
    names, sizes = [], []
    for position, image in enumerate(images):
        where = f"images[{position}]"
        key, name = _field(image, "id", (int, str), where), _field(image, "file_name", (str,), where)
        if key in ids:
            raise InputError(f"{where}: the id {key!r} is also that of another image")
        if "\0" in name:
            raise InputError(f"{where}: file_name must be the name of a file, found {_short(name)}")
        size = image.get("width") or 0, image.get("height") or 0
        if not all(isinstance(side, int) and 0 <= side < 2**31 for side in size):
            raise InputError(f"{where}: width and height must be whole numbers, found {_short(size)}")
        ids[key] = None
        names.append(name)
        sizes.append(size)
    return list(ids), names, np.array(sizes, dtype=np.int64)


def _read_categories(categories: list[Any]) -> dict[int, str]:
    """Return the names by id, in the order of the ids."""
    if not categories:
        raise InputError("its list of categories is empty")
    names: dict[int, str] = {}
    for position, category in enumerate(categories):
        where = f"categories[{position}]"
        key, name = _field(category, "id", (int,), where), _field(category, "name", (str,), where)
        if key in names:
            raise InputError(
                f"{where}: the id {key!r} is that of two categories, {names[key]!r} and {name!r}: give each its own"
            )
        if (named := compose(name)) in names.values():
            first = next(old for old, known in names.items() if known == named)
            raise InputError(
                f"{where}: the name {name!r} stands for two categories, {first!r} and {key!r}: give one of them "
                f"another name, or write one id in its annotations and remove the other"
            )
        names[key] = named
    return dict(sorted(names.items()))


def _columns(annotations: list[Any], positions: dict[int | str, int]) -> tuple[Any, ...]:
    """Return image index, category id, (x, y, width, height), crowd, difficult and area of every annotation."""
    boxes = np.array([annotation["bbox"] for annotation in annotations], dtype=np.float64)
    category_ids = [annotation["category_id"] for annotation in annotations]
    if boxes.shape[1:] != (4,) * bool(annotations) or not all(isinstance(key, int) for key in category_ids):
        raise ValueError
    # "ignore" is how converters write VOC's difficult objects; pycocotools overwrites it, others keep it
    difficult = [bool(annotation.get("ignore") or annotation.get("difficult")) for annotation in annotations]
    return (
        np.array([positions[annotation["image_id"]] for annotation in annotations], dtype=np.int64),
        category_ids,
        boxes.reshape(-1, 4),
        np.array([bool(annotation.get("iscrowd")) for annotation in annotations], dtype=bool),
        np.array(difficult, dtype=bool),
        np.array(
            [math.nan if annotation.get("area") is None else annotation["area"] for annotation in annotations],
            np.float64,
        ),
    )


def _without_faults(
    annotations: list[Any], image_ids: list[int | str], faults: dict[int, str], strays: list[str], path: Path
) -> list[Any]:
    """Return the annotations of images whose annotations can all be used; add the rest to ``faults`` and ``strays``."""
    places = {key: place for place, key in enumerate(image_ids)}
    strangers, usable = [], []
    for position, annotation in enumerate(annotations):
        where = f"annotations[{position}]"
        try:
            key = _field(annotation, "image_id", (int, str), where)
            if isinstance(annotation.get("id"), int | str):
                where += f" (id {annotation['id']})"
            if key not in places:
                strangers.append(f"{where} of image {key!r}")
                continue
        except InputError as error:
            strays.append(f"{path}: {error}")
            continue
        try:
            _check_annotation(annotation, where)
            usable.append(annotation)
        except InputError as error:
            faults.setdefault(places[key], f"{path}: {error}")
    if strangers:
        told = f"the list of images lacks those of {len(strangers):,} annotations: {shorten(strangers, 3)}"
        strays.append(f"{path}: {told}")
    return [annotation for annotation in usable if places[annotation["image_id"]] not in faults]


def _check_annotation(annotation: dict[str, Any], where: str) -> None:
    _field(annotation, "category_id", (int,), where)
    if annotation.get("bbox") is None:
        raise InputError(f"{where}: bbox must be a list, found null, and no mask to take a box from")
    box = _field(annotation, "bbox", (list,), where)
    if len(box) != 4 or not all(_is_number(value) for value in box):
        raise InputError(f"{where}: bbox must be the four numbers x, y, width, height, found {_short(box)}")
    if not (annotation.get("area") is None or _is_number(annotation["area"])):
        raise InputError(f"{where}: area must be a number, found {_short(annotation['area'])}")


def _box_of(mask: Any) -> list[float] | None:
    """Return x, y, width and height of a mask: polygons, or run lengths; ``None`` if it is none.

    Raises:
        InputError: run lengths, but the library to read them is missing.
    """
    try:
        if isinstance(mask, list):
            polygons = [mask] if all(map(_is_number, mask)) else mask
            values = [value for polygon in polygons for value in polygon]
            if len(values) % 2 or len(values) < 6 or not all(_is_number(value) for value in values):
                return None
            left, top = min(values[::2]), min(values[1::2])
            return [left, top, max(values[::2]) - left, max(values[1::2]) - top]
        height, width = mask["size"]
        library = _masks()
        runs = mask if isinstance(mask["counts"], str) else library.frPyObjects(mask, height, width)
        if not isinstance(mask["counts"], str) and sum(mask["counts"]) != height * width:
            return None
        return [float(value) for value in library.toBbox(runs)]
    except ImportError:
        raise missing_extra("faster-coco-eval", "detection", "a mask of run lengths") from None
    except (KeyError, TypeError, ValueError, AttributeError, OverflowError, RuntimeError):
        return None


def _masks() -> Any:
    from faster_coco_eval.core import mask

    return mask


def _is_number(value: Any) -> bool:
    return isinstance(value, float) or (isinstance(value, int) and abs(value) < 10**300)


def _field(entry: Any, key: str, types: tuple[type, ...], where: str) -> Any:
    value = entry.get(key) if isinstance(entry, dict) else None
    if not isinstance(value, types) or value == "":
        expected = " or ".join({int: "an integer", str: "a text", list: "a list"}[kind] for kind in types)
        raise InputError(f"{where}: {key} must be {expected}, found {_short(value)}")
    return value


def _short(value: Any, limit: int = 60) -> str:
    text: str = json.dumps(value)
    return text if len(text) <= limit else f"{text[:limit]}…"
