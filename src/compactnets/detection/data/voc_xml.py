"""One annotation file of Pascal VOC.

The format is that of the VOC2007 development kit (Everingham et al., IJCV 2010): pixels are counted from 1, and a box
of one pixel has xmin = xmax.
"""

from __future__ import annotations

import codecs
import re
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple
from xml.etree import ElementTree

from compactnets.data.listing import compose
from compactnets.errors import InputError

DECLARED = re.compile(rb"""\s*<\?xml[^>]*?encoding\s*=\s*(["'])([A-Za-z0-9._-]+)\1[^>]*\?>""")
# encoding name in programs -> the superset that they actually write (as in browsers)
WRITTEN = {"gb2312": "gb18030", "gbk": "gb18030", "shift_jis": "cp932", "euc_kr": "cp949", "big5": "cp950"}
EDGES = ("xmin", "ymin", "xmax", "ymax")
# also as LabelImg, CVAT and converters write it; what says nothing is no
FLAGS = {"": False, "0": False, "false": False, "unspecified": False, "1": True, "true": True}
UNREAD = {"pose": ("", "Unspecified"), "truncated": ("", "0"), "occluded": ("", "0")}  # and what says nothing


class VocObject(NamedTuple):
    """An object; the box is left, top, right, bottom, as in :class:`compactnets.detection.objects.Objects`."""

    name: str
    box: tuple[float, float, float, float]
    difficult: bool


class VocAnnotation(NamedTuple):
    """The content of an annotation."""

    filename: str  # "" where there is none
    size: tuple[int, int]  # width, height; zeros if there is none
    objects: list[VocObject]
    extras: set[str]  # other content


def read_annotation(path: Path) -> VocAnnotation:
    """Read an annotation file. The parts of an object (VOC2007's heads, hands and feet) are ignored.

    Raises:
        InputError: it is not XML, declares a document type, or lacks a name or a number; the message names the path.
    """
    try:
        root = _parse(path.read_bytes())
        extras: set[str] = set()
        objects = [
            _read_object(element, number, extras) for number, element in enumerate(root.findall("object"), start=1)
        ]
        return VocAnnotation(_text(root, "filename"), _read_size(root), objects, extras)
    except InputError as error:
        raise InputError(f"{path}: {error}") from None
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror or error}") from None


def _parse(data: bytes) -> ElementTree.Element:
    # Entities, by which a small file grows without bound, need a document type; no annotation has one. Without zero
    # bytes UTF-16 shows it too. If an encoding still hides one, expat stops it (since 2.4.1 it limits amplification).
    if b"<!DOCTYPE" in data.replace(b"\0", b""):
        raise InputError("it declares a document type (<!DOCTYPE), which annotations do not need: remove it")
    try:
        root = ElementTree.fromstring(_decoded(data))
    except (ElementTree.ParseError, ValueError, LookupError) as error:  # the last two: its stated encoding
        raise InputError(f"it is not well-formed XML: {error}{_hint(data)}") from None
    if root.tag != "annotation":
        raise InputError(f"expected <annotation>, the root of a Pascal VOC annotation, found <{root.tag}>")
    return root


def _decoded(data: bytes) -> str | bytes:
    """Decode a file with a multi-byte encoding (GBK, Shift-JIS) that expat lacks."""
    found = DECLARED.match(data)
    if found is None or (name := found[2].decode("ascii").lower()).startswith(("utf", "iso-8859", "us-ascii")):
        return data
    codec = codecs.lookup(name).name
    return data[found.end() :].decode(WRITTEN.get(codec, codec))


def _hint(data: bytes) -> str:
    try:
        data.decode("utf-8")
    except UnicodeDecodeError:
        declared = DECLARED.match(data)
        named = declared[2].decode("ascii") if declared else ""
        if named.lower() in ("utf-8", "utf8"):
            return f"; it says that it is in {named} and is not: save it in UTF-8"
        if not named and not data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
            return "; it is not in UTF-8 and names no other encoding: save it in UTF-8"
    return ""


def _read_object(element: ElementTree.Element, number: int, extras: set[str]) -> VocObject:
    name = compose(_text(element, "name"))
    if not name:
        raise InputError(f"object {number} has no <name>")
    where = f"object {number} ({name})"
    box = element.find("bndbox")  # of the object itself, not of its parts
    if box is None:
        raise InputError(f"{where} has no <bndbox>")
    left, top, right, bottom = _numbers(box, EDGES, where)
    flag = _text(element, "difficult")
    if flag.lower() not in FLAGS:
        raise InputError(f"{where}: <difficult> must be 0 or 1, found {flag!r}")
    extras.update(tag for tag, silent in UNREAD.items() if _text(element, tag) not in silent)
    if element.find("part") is not None:
        extras.add("parts")
    return VocObject(name, (left - 1, top - 1, right, bottom), FLAGS[flag.lower()])


def _read_size(root: ElementTree.Element) -> tuple[int, int]:
    size = root.find("size")
    if size is None:
        return 0, 0
    if not _text(size, "width") or not _text(size, "height"):
        return 0, 0
    width, height = _numbers(size, ("width", "height"), "<size>")
    if not all(side.is_integer() and 0 <= side < 2**31 for side in (width, height)):
        raise InputError(f"<size>: width and height must be whole numbers, found {width} and {height}")
    return int(width), int(height)


def _numbers(element: ElementTree.Element, tags: tuple[str, ...], where: str) -> Iterator[float]:
    for tag in tags:
        text = _text(element, tag)
        try:
            yield float(text)
        except ValueError:
            raise InputError(f"{where}: <{tag}> must be a number, found {text!r}") from None


def _text(element: ElementTree.Element, tag: str) -> str:
    return (element.findtext(tag) or "").strip()
