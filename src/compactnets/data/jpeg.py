"""Fast JPEG decoding for training: decode only what the crop needs, and resize in 8 bits.

What is saved against decoding the whole picture and resizing it with Pillow:

* Rows below the crop: the height in the header is lowered to the last row that is needed, and the decoder stops there.
* Scale: a crop of at least 2.5 times the size it becomes is decoded at 1/2, 1/4 or 1/8, which the inverse transform of
  JPEG gives for less work. The rest is resized from there, at the fractional place where the crop lies.
* Pillow's resize: torch's, which has the same filter in vector instructions, and differs by one level.

Photographs with an EXIF rotation are cropped as displayed, and turned after the resize.

The decoder is libjpeg-turbo either way: through ``simplejpeg``, or else through Pillow, which decodes the same pixels
but takes longer to hand them over. Unusual files (CMYK, 12 bits, arithmetic coding, truncated) are rejected here and
left to :mod:`compactnets.data.images`, which also reports errors.
"""

from __future__ import annotations

import io
import struct
import threading
from functools import cache
from typing import Any, NamedTuple

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

from compactnets.data.orientation import UPRIGHT, orientation_of, stored_box, turn_pixels, turned_size

FILTERS = {"bilinear": Image.Resampling.BILINEAR, "bicubic": Image.Resampling.BICUBIC}
SCALES = (8, 4, 2)  # what libjpeg-turbo has vector code for
MARGIN = 1.25  # how much larger than its final size the crop still is at the smaller scale: with 1 it is too sharp
BLOCK = 16  # pixels: the largest unit of coding with the usual subsampling of colour; larger ones are refused
START, END = b"\xff\xd8\xff", b"\xff\xd9"
TAIL = 64  # bytes at the end of the file in which its end marker must be
FRAMES = (0xC0, 0xC1, 0xC2)  # baseline, extended and progressive, Huffman-coded
APP1 = 0xE1  # EXIF and XMP
BARE = (0x01, *range(0xD0, 0xD8))  # markers without a length
KEPT = 1 << 25  # up to this many bytes, a decoded picture's memory is reused

_memory = threading.local()


class Box(NamedTuple):
    """A rectangle in the whole upright picture, in pixels."""

    left: int
    top: int
    width: int
    height: int


class Frame(NamedTuple):
    """What a JPEG file's headers say; width and height are those of the stored pixels."""

    place: int  # byte offset of the height
    width: int
    height: int
    orientation: int = UPRIGHT  # as in EXIF

    @property
    def size(self) -> tuple[int, int]:
        """Width and height of the upright picture."""
        return turned_size(self.width, self.height, self.orientation)


def decoder() -> str:
    """Return the name of the JPEG decoder: ``"simplejpeg"``, or ``"pillow"`` where it is not installed."""
    return "pillow" if _simplejpeg() is None else "simplejpeg"


@cache
def _simplejpeg() -> Any:
    try:
        import simplejpeg
    except ImportError:
        return None
    return simplejpeg


def read_frame(data: bytes) -> Frame | None:
    """Parse the headers, or return ``None`` unless it is a complete, usual JPEG file, grey or colour."""
    if not data.startswith(START) or data.rfind(END, max(0, len(data) - TAIL)) < 0:
        return None
    place, described = 2, False
    while place + 4 <= len(data) and data[place] == 0xFF:
        marker = data[place + 1]
        if marker == 0xFF:  # padding
            place += 1
        elif marker in BARE:
            place += 2
        elif marker in FRAMES:
            frame = _parse_frame(data, place + 4)
            if frame is None or not described:
                return frame
            return frame._replace(orientation=_orientation(data))
        elif marker == 0xDA or 0xC3 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC):
            return None  # pixels without a frame before them, or another way of coding
        else:
            described |= marker == APP1
            place += 2 + struct.unpack_from(">H", data, place + 2)[0]
    return None


def _orientation(data: bytes) -> int:
    """Ask Pillow, which reads only the headers, as for the other decoders."""
    try:
        with Image.open(io.BytesIO(data), formats=("JPEG",)) as image:
            return orientation_of(image)
    except Exception:  # the slow path reports it
        return UPRIGHT


def _parse_frame(data: bytes, place: int) -> Frame | None:
    if len(data) < place + 6:
        return None
    bits, height, width, components = struct.unpack_from(">BHHB", data, place)
    factors = data[place + 7 : place + 6 + 3 * components : 3]
    usual = bits == 8 and components in (1, 3) and len(factors) == components
    if not usual or any(factor >> 4 > 2 or factor & 15 > 2 for factor in factors):
        return None
    # beyond Pillow's limit against decompression bombs: left to Pillow to report
    safe = height > 0 and width > 0 and height * width <= (Image.MAX_IMAGE_PIXELS or 1 << 31)
    return Frame(place + 1, width, height) if safe else None


def decode_region(
    data: bytes, frame: Frame, box: Box, width: int, height: int, interpolation: str = "bilinear"
) -> Tensor | None:
    """Decode the rectangle ``box`` of a JPEG file and resize it: -> (height, width, 3) uint8, RGB, upright.

    Args:
        frame: the result of :func:`read_frame` for ``data``.
        interpolation: ``"bilinear"`` or ``"bicubic"``, antialiased.

    Returns:
        ``None`` if the decoder rejects the data.
    """
    if frame.orientation != UPRIGHT:
        lying = Box(*stored_box(*box, frame.size, frame.orientation))
        size = turned_size(width, height, frame.orientation)
        pixels = decode_region(data, frame._replace(orientation=UPRIGHT), lying, *size, interpolation)
        return None if pixels is None else turn_pixels(pixels, frame.orientation)
    ratio = min(box.width / width, box.height / height) / MARGIN
    factor = next((scale for scale in SCALES if ratio >= scale), 1)
    last = box.top + box.height + 2 * factor  # two rows more: colour is interpolated between rows
    rows = min(frame.height, -(-last // BLOCK) * BLOCK)
    if rows < frame.height:
        shortened = bytearray(data)
        struct.pack_into(">H", shortened, frame.place, rows)
        data = bytes(shortened)
    reduced_size = (-(-frame.width // factor), -(-rows // factor))
    decode = _decode_pillow if _simplejpeg() is None else _decode_simplejpeg
    decoded = decode(data, reduced_size, factor)
    if decoded is None:
        return None
    # the crop may begin between the pixels of a smaller picture, which Pillow's resize can start from
    left, top, right, bottom = (end / factor for end in (box.left, box.top, box.left + box.width, box.top + box.height))
    if factor > 1:
        reduced = decoded if isinstance(decoded, Image.Image) else Image.fromarray(decoded)
        resized = reduced.resize((width, height), FILTERS[interpolation], box=(left, top, right, bottom))
        return torch.from_numpy(np.array(resized))
    if isinstance(decoded, Image.Image):
        crop = np.array(decoded.crop((int(left), int(top), int(right), int(bottom))))
    else:
        crop = decoded[int(top) : int(bottom), int(left) : int(right)].copy()  # the next file reuses its memory
    tensor = torch.from_numpy(crop)
    if (box.height, box.width) == (height, width):
        return tensor
    batch = tensor[None].permute(0, 3, 1, 2)  # in channels_last, for which torch has the faster code
    result = F.interpolate(batch, size=(height, width), mode=interpolation, antialias=True)
    return result.permute(0, 2, 3, 1)[0]


def _decode_simplejpeg(data: bytes, size: tuple[int, int], factor: int) -> np.ndarray | None:
    """Decode at 1 / factor to (H, W, 3) uint8, valid until the next call; ``None`` if that does not give ``size``.

    The memory is reused, because the system maps a fresh array page by page as the decoder writes.
    """
    width, height = size
    needed = width * height * 3
    if len(getattr(_memory, "pixels", b"")) < needed <= KEPT:
        _memory.pixels = bytearray(needed)
    # the smallest scale that is not below these
    least = {"min_factor": factor, "min_width": width - 1, "min_height": height - 1} if factor > 1 else {}
    try:
        # not strict: otherwise data after the last wanted row counts as an error
        pixels = _simplejpeg().decode_jpeg(
            data, "RGB", buffer=_memory.pixels if needed <= KEPT else None, strict=False, **least
        )
    except ValueError:
        return None
    return pixels if pixels.shape == (height, width, 3) else None


def _decode_pillow(data: bytes, size: tuple[int, int], factor: int) -> Image.Image | None:
    """Decode at 1 / factor, or return ``None`` if that does not give ``size``."""
    try:
        image = Image.open(io.BytesIO(data), formats=("JPEG",))
        if factor > 1:
            image.draft("RGB", (image.width // factor, image.height // factor))
        image.load()
    except Exception:  # many kinds of decoder errors; the slow path reports them
        return None
    if image.size != size:
        return None
    return image if image.mode == "RGB" else image.convert("RGB")
