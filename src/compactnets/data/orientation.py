"""How a photograph is to be turned for looking at it, as its EXIF tag (or XMP's ``tiff:Orientation``) says.

Phones store the pixels as the sensor lies, and note in the tag how the phone was held. Everything here that reads
images gives them upright, whichever way they are decoded. Pillow has ``ImageOps.exif_transpose``, which also writes
the other tags anew and fails on photographs whose tags are odd; what is needed here is the one number.
"""

from __future__ import annotations

import warnings
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import ExifTags, Image
from torch import Tensor


class Turn(NamedTuple):
    """What makes stored pixels upright: first rows and columns change places, then the flips."""

    swap: bool
    flip_x: bool
    flip_y: bool


UPRIGHT = 1
TURNS = {  # EXIF 2.32, tag 0x0112
    1: Turn(False, False, False),
    2: Turn(False, True, False),
    3: Turn(False, True, True),
    4: Turn(False, False, True),
    5: Turn(True, False, False),
    6: Turn(True, True, False),
    7: Turn(True, True, True),
    8: Turn(True, False, True),
}
_TRANSPOSES = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_KEPT_IN = ("exif", "xmp", "XML:com.adobe.xmp", "Raw profile type exif")  # Pillow's keys of what holds the tag


def orientation_of(image: Image.Image) -> int:
    """Return the orientation of an opened image, 1 to 8; 1 (upright) where it has none, or one that is none of these.

    Pillow turns TIFF by itself while it decodes; such an image is upright once it is loaded.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of damaged tags, which are no reason not to use the pixels
            value = image.getexif().get(ExifTags.Base.Orientation, UPRIGHT)
        return value if value in TURNS else UPRIGHT
    except Exception:  # damaged tags raise anything
        return UPRIGHT


def turn_upright(image: Image.Image, orientation: int) -> Image.Image:
    """Turn an image that lies so; the result says no more that it is to be turned."""
    transpose = _TRANSPOSES.get(orientation)
    if transpose is None:
        return image
    turned = image.transpose(transpose)
    turned.format = image.format
    for key in _KEPT_IN:
        turned.info.pop(key, None)
    return turned


def upright_size(image: Image.Image) -> tuple[int, int]:
    """Return width and height that an opened image will have when it is upright; its pixels are not read."""
    if image.format == "TIFF":  # Pillow gives the size after its own turn
        return image.size
    return turned_size(*image.size, orientation_of(image))


def turned_size(width: int, height: int, orientation: int) -> tuple[int, int]:
    """Return width and height of the upright picture, of those of the stored pixels (or the other way round)."""
    return (height, width) if TURNS[orientation].swap else (width, height)


def turn_pixels(pixels: Tensor, orientation: int) -> Tensor:
    """Turn stored pixels upright: (H, W, C) -> (H, W, C), or (W, H, C) where the sides change places."""
    swap, flip_x, flip_y = TURNS[orientation]
    if swap:
        pixels = pixels.transpose(0, 1)
    axes = [axis for axis, flip in ((0, flip_y), (1, flip_x)) if flip]
    return pixels.flip(axes) if axes else pixels.contiguous()


def turn_boxes(boxes: NDArray[np.float64], width: int, height: int, orientation: int) -> NDArray[np.float64]:
    """Move boxes from the stored pixels to the upright picture.

    Args:
        boxes: ``(N, 4)``, left, top, right, bottom in the stored pixels.
        width: of the upright picture.
        height: of the upright picture.
        orientation: 1 to 8.
    """
    swap, flip_x, flip_y = TURNS[orientation]
    turned = boxes[:, [1, 0, 3, 2]] if swap else boxes.copy()
    if flip_x:
        turned[:, [0, 2]] = width - turned[:, [2, 0]]
    if flip_y:
        turned[:, [1, 3]] = height - turned[:, [3, 1]]
    return turned


def stored_box(
    left: int, top: int, width: int, height: int, picture: tuple[int, int], orientation: int
) -> tuple[int, int, int, int]:
    """Return where a rectangle of the upright picture lies in the stored pixels: left, top, width, height.

    Args:
        left: of the rectangle.
        top: of the rectangle.
        width: of the rectangle.
        height: of the rectangle.
        picture: width and height of the upright picture.
        orientation: 1 to 8.
    """
    swap, flip_x, flip_y = TURNS[orientation]
    left = picture[0] - left - width if flip_x else left
    top = picture[1] - top - height if flip_y else top
    return (top, left, height, width) if swap else (left, top, width, height)
