"""Decoding: a file or its bytes -> a PIL image of 8 bits per channel, and from there to grey or RGB.

Unusual images are treated as in torchvision's and timm's loaders (``Image.convert``), with these exceptions:

* EXIF orientation is applied (:mod:`compactnets.data.orientation`): photographs are upright. Neither library applies
  it; published numbers were measured on the stored pixels, which are the same for a photograph without the tag.
* Transparency is dropped, not blended: the stored colour of a transparent pixel is used.
* 16-bit grey is reduced to its high byte, as Pillow does for 16-bit RGB; ``Image.convert`` would clip it to white.
* The first frame of an animation is used.
"""

from __future__ import annotations

import os
from typing import IO

import numpy as np
from PIL import Image, UnidentifiedImageError, features

from compactnets.data.orientation import orientation_of, turn_upright, upright_size
from compactnets.errors import InputError

# The formats of torchvision's image folders, and others for photographs (compactnets.data.listing has their
# endings). Pillow would try all its plug-ins, whatever the file name: the one for PostScript
# starts a program.
FORMATS = (
    *("JPEG", "PNG", "WEBP", "BMP", "GIF", "TIFF", "PPM", "JPEG2000"),
    *(("AVIF",) if features.check("avif") else ()),  # Pillow has it from version 11.3 on
)


def read_image(path: str | os.PathLike[str]) -> Image.Image:
    """Read the image file ``path``; the result is decoded and upright, with 8 bits per channel.

    Raises:
        InputError: no such file, or one that cannot be decoded; the message names the path.
    """
    return decode_image(path, os.fspath(path))


def read_size(path: str | os.PathLike[str]) -> tuple[int, int]:
    """Return width and height of the image that :func:`read_image` returns, from the header alone.

    Raises:
        InputError: no such file, or not an image; the message names the path.
    """
    try:
        with Image.open(path, formats=FORMATS) as image:
            return upright_size(image)
    except Exception:  # decoding reports it in one line
        return read_image(path).size


def decode_image(file: str | os.PathLike[str] | IO[bytes], name: str) -> Image.Image:
    """Decode an image; the result is upright (by its EXIF tag), has 8 bits per channel and holds no open file.

    Args:
        file: path, or binary file object.
        name: the image's name in an error (its path, or shard and row).

    Raises:
        InputError: missing, truncated, broken, of an unknown format, or larger than Pillow's limit against
            decompression bombs (``PIL.Image.MAX_IMAGE_PIXELS``; the error comes at twice that).
    """
    try:
        with Image.open(file, formats=FORMATS) as image:
            image.load()
            return turn_upright(to_eight_bits(image), orientation_of(image))
    except FileNotFoundError:
        raise InputError(f"no image at {name}") from None
    except UnidentifiedImageError:
        if _is_empty(file):
            raise InputError(f"{name} cannot be read as an image: it is empty (0 bytes)") from None
        raise InputError(f"{name} is not an image of a known format ({', '.join(FORMATS)})") from None
    except Exception as error:  # the decoders raise anything on broken bytes: SyntaxError, struct.error, IndexError, …
        reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
        raise InputError(
            f"{name} cannot be read as an image: {' '.join(reason.split()) or type(error).__name__}"
        ) from None


def _is_empty(file: str | os.PathLike[str] | IO[bytes]) -> bool:
    if isinstance(file, str | os.PathLike):
        return os.path.getsize(file) == 0
    return file.seek(0, os.SEEK_END) == 0


def to_eight_bits(image: Image.Image) -> Image.Image:
    """Reduce 16-bit grey to its high byte; return other images unchanged.

    Raises:
        InputError: floating-point or 32-bit pixels, whose range is unknown.
    """
    if image.mode == "F":
        raise InputError("its pixels are floating-point numbers; expected 8 or 16 bits per channel")
    if image.mode == "I" or image.mode.startswith("I;16"):  # older Pillow opens a 16-bit PNG as "I"
        pixels = np.asarray(image)
        if pixels.min() < 0 or pixels.max() > 0xFFFF:
            raise InputError(
                f"its pixels range from {pixels.min()} to {pixels.max()}; expected 8 or 16 bits per channel"
            )
        return Image.fromarray((pixels >> 8).astype(np.uint8))
    return image


def to_channels(image: Image.Image, channels: int) -> Image.Image:
    """Convert to grey (1 channel, ITU-R 601 luma) or RGB (3 channels).

    Raises:
        InputError: pixels whose range is unknown (see :func:`to_eight_bits`), or of a mode that Pillow does not convert
            (CIELAB without LittleCMS, grey with premultiplied transparency).
    """
    mode = "L" if channels == 1 else "RGB"
    if image.mode == mode:
        return image
    image = to_eight_bits(image)
    try:
        if image.mode in ("1", "L", "LA"):
            return image.convert("L").convert(mode)
        if image.mode in ("P", "PA") and "transparency" in image.info:
            image = image.convert("RGBA")  # straight to RGB, Pillow warns on every such image
        return image.convert("RGB").convert(mode)
    except (ValueError, ImportError) as error:
        raise InputError(f"its pixels of mode {image.mode} cannot be converted: {error}") from None


def is_grey(image: Image.Image) -> bool:
    """Whether the image's mode has a single colour channel."""
    return image.mode in ("1", "L", "LA")
