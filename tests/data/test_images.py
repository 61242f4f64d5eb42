"""Decoding: unusual images come out right, broken and hostile ones are one clear error."""

from __future__ import annotations

import io
import struct
import warnings
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from compactnets.data import read_image
from compactnets.data.images import decode_image, to_channels
from compactnets.errors import InputError

from .helpers import encode, noise


def decode(data: bytes) -> Image.Image:
    return decode_image(io.BytesIO(data), "an image")


@pytest.mark.parametrize("image_format", ["PNG", "BMP", "TIFF", "PPM", "WEBP", "GIF"])
def test_lossless_formats(image_format: str) -> None:
    image = noise(7, 5).quantize(32).convert("RGB") if image_format == "GIF" else noise(7, 5)
    options = {"lossless": True} if image_format == "WEBP" else {}
    decoded = to_channels(decode(encode(image, image_format, **options)), 3)
    np.testing.assert_array_equal(np.asarray(decoded), np.asarray(image))


@pytest.mark.parametrize("image_format", ["PNG", "TIFF"])
def test_sixteen_bit_grey_keeps_its_range(image_format: str) -> None:
    levels = np.linspace(0, 65535, 256).astype(np.uint16).reshape(16, 16)
    decoded = decode(encode(Image.fromarray(levels), image_format))
    assert decoded.mode == "L"
    np.testing.assert_array_equal(np.asarray(decoded), levels >> 8)
    rgb = np.asarray(to_channels(Image.fromarray(levels), 3))  # and an image that the caller opened
    np.testing.assert_array_equal(rgb, np.repeat((levels >> 8)[..., None], 3, axis=-1))


def test_cmyk_jpeg() -> None:
    red = decode(encode(Image.new("RGB", (16, 16), (255, 0, 0)).convert("CMYK"), "JPEG"))
    assert red.mode == "CMYK"
    assert np.abs(np.asarray(to_channels(red, 3)).astype(int) - (255, 0, 0)).max() <= 4


@pytest.mark.parametrize("transparency", [0, b"\x00\x80"])
def test_palette_with_transparency_keeps_the_colours(transparency: int | bytes) -> None:
    image = Image.new("P", (2, 1))
    image.putpalette([200, 10, 20, 30, 220, 40])
    image.putpixel((1, 0), 1)
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # Pillow would warn on every such image
        decoded = to_channels(decode(encode(image, "PNG", transparency=transparency)), 3)
    np.testing.assert_array_equal(np.asarray(decoded), [[[200, 10, 20], [30, 220, 40]]])


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "YCbCr", "HSV", "I;16", "I"])
@pytest.mark.parametrize(("channels", "expected"), [(1, "L"), (3, "RGB")])
def test_every_mode_converts(mode: str, channels: int, expected: str) -> None:
    assert to_channels(Image.new(mode, (3, 2)), channels).mode == expected


def test_alpha_is_dropped_not_blended() -> None:
    image = Image.new("RGBA", (1, 1), (10, 20, 30, 0))
    assert to_channels(image, 3).getpixel((0, 0)) == (10, 20, 30)


def test_grey_is_luma() -> None:
    assert to_channels(Image.new("RGB", (1, 1), (255, 0, 0)), 1).getpixel((0, 0)) == round(0.299 * 255)


def test_unknown_range_is_refused() -> None:
    with pytest.raises(InputError, match="floating-point"):
        to_channels(Image.new("F", (2, 2), 0.5), 3)
    with pytest.raises(InputError, match=r"an image .* 70000"):
        decode(encode(Image.fromarray(np.full((2, 2), 70000, np.int32)), "TIFF"))


def png_chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def bomb() -> bytes:
    """Return a PNG of a hundred bytes that declares 50,000 x 50,000 pixels."""
    header = struct.pack(">IIBBBBB", 50_000, 50_000, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + png_chunk(b"IHDR", header) + png_chunk(b"IDAT", zlib.compress(bytes(9)))


BROKEN = {
    "empty": (b"", "it is empty"),
    "text": (b"hello, I am a text file", "known format"),
    "truncated_jpeg": (encode(noise(64, 64), "JPEG")[:1500], "truncated"),
    "truncated_png": (encode(noise(64, 64))[:2000], "cannot be read"),
    "png_header_only": (b"\x89PNG\r\n\x1a\n", "an image"),
    "bomb": (bomb(), "bomb"),
    # Pillow would hand this one to Ghostscript, a program
    "postscript": (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\n showpage\n", "known format"),
}


@pytest.mark.parametrize("case", BROKEN)
def test_broken_images_are_one_line_with_the_path(case: str, tmp_path: Path) -> None:
    data, reason = BROKEN[case]
    path = tmp_path / f"{case}.jpg"
    path.write_bytes(data)
    with pytest.raises(InputError, match=reason) as caught:
        read_image(path)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_missing_image_and_folder(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"no image at .*nothing\.png"):
        read_image(tmp_path / "nothing.png")
    with pytest.raises(InputError, match="directory"):
        read_image(tmp_path)


@pytest.mark.filterwarnings("ignore::UserWarning:PIL")
def test_every_truncation_is_an_input_error() -> None:
    for image_format in ("JPEG", "PNG", "WEBP", "TIFF", "GIF", "BMP", "JPEG2000"):
        data = encode(noise(9, 9), image_format)
        failures = 0
        for length in range(0, len(data), max(1, len(data) // 40)):
            try:
                decode(data[:length])
            except InputError:
                failures += 1
        assert failures > 10, image_format


def test_no_file_stays_open(tmp_path: Path) -> None:
    noise(4, 4).save(tmp_path / "a.png")
    with warnings.catch_warnings():
        warnings.simplefilter("error", ResourceWarning)
        image = read_image(tmp_path / "a.png")
    (tmp_path / "a.png").unlink()
    assert image.getpixel((0, 0)) is not None
