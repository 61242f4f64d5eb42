"""Turn photographs upright by their EXIF tag (or XMP's ``tiff:Orientation``).

Phones store pixels in sensor orientation and record in the tag how the phone was held. All image readers here return
upright images. Pillow's ``ImageOps.exif_transpose`` also rewrites the other tags and fails on malformed ones; only this
number is needed here.
"""

from __future__ import annotations

import warnings
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import ExifTags, Image
from torch import Tensor


class Turn(NamedTuple):
    """The operations that turn stored pixels upright: first transpose, then flip."""

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
_KEPT_IN = ("exif", "xmp", "XML:com.adobe.xmp", "Raw profile type exif")  # Pillow's keys for the tag


def orientation_of(image: Image.Image) -> int:
    """Return the orientation of an opened image, 1 to 8; 1 (upright) if it has none or an invalid one.

    Pillow itself turns TIFF while decoding; such an image is upright once loaded.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # damaged tags do not make the pixels unusable
            value = image.getexif().get(ExifTags.Base.Orientation, UPRIGHT)
        return value if value in TURNS else UPRIGHT
    except Exception:  # damaged tags can raise anything
        return UPRIGHT


def turn_upright(image: Image.Image, orientation: int) -> Image.Image:
    """Turn an image of this orientation upright, and remove the tag from the result."""
    transpose = _TRANSPOSES.get(orientation)
    if transpose is None:
        return image
    turned = image.transpose(transpose)
    turned.format = image.format
    for key in _KEPT_IN:
        turned.info.pop(key, None)
    return turned


def upright_size(image: Image.Image) -> tuple[int, int]:
    """Return the upright width and height of an opened image, without reading its pixels."""
    if image.format == "TIFF":  # Pillow gives the size after its own turn
        return image.size
    return turned_size(*image.size, orientation_of(image))


def turned_size(width: int, height: int, orientation: int) -> tuple[int, int]:
    """Convert the size of the stored pixels to that of the upright picture, or back."""
    return (height, width) if TURNS[orientation].swap else (width, height)


def turn_pixels(pixels: Tensor, orientation: int) -> Tensor:
    """Turn stored pixels upright: (H, W, C) -> (H, W, C), or (W, H, C) if transposed."""
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
    """Map a rectangle of the upright picture to the stored pixels: left, top, width, height.

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
