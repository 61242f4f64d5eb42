"""What the page computes is what PyTorch computes, for every kind of image and every preprocessing."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageCms

from compactnets.data.preprocess import Preprocess

from .helpers import PREPROCESSINGS, TINY, Pixels, Visit, expected_logits, tiny_network

TOLERANCE = 1e-4  # of the largest logit


def _noise(*shape: int, low: int = 0) -> np.ndarray:
    """Smooth shapes under noise, so that rounding errors of every size show."""
    generator = np.random.default_rng(0)
    rows, columns = np.mgrid[: shape[0], : shape[1]]
    base = 127 + 90 * np.sin(rows / 9)[..., None] * np.cos(columns / 7)[..., None]
    noise = generator.normal(0, 40, (*shape[:2], shape[2] if len(shape) > 2 else 1))
    return np.clip(base + noise, low, 255).astype(np.uint8).squeeze()


def _exif(orientation: int) -> Image.Exif:
    exif = Image.Exif()
    exif[0x0112] = orientation
    return exif


def _palette_with_transparency() -> Image.Image:
    image = Image.fromarray(_noise(50, 60, 3)).quantize(32)
    image.info["transparency"] = bytes(range(0, 256, 8))
    return image


# name of the file -> the image and how it is saved
IMAGES: dict[str, Callable[[Path], Any]] = {
    "colour.png": lambda path: Image.fromarray(_noise(173, 231, 3)).save(path),
    "wide.png": lambda path: Image.fromarray(_noise(31, 400, 3)).save(path),
    "tall.png": lambda path: Image.fromarray(_noise(300, 29, 3)).save(path),
    "tiny.png": lambda path: Image.fromarray(_noise(5, 7, 3)).save(path),
    "as-the-input.png": lambda path: Image.fromarray(_noise(24, 24, 3)).save(path),
    "grey.png": lambda path: Image.fromarray(_noise(80, 90)).save(path),
    "one-bit.png": lambda path: Image.fromarray(_noise(80, 90)).convert("1").save(path),
    "palette.png": lambda path: _palette_with_transparency().save(path),
    "transparent.png": lambda path: Image.fromarray(_noise(90, 77, 4), "RGBA").save(path),
    "grey-transparent.png": lambda path: Image.fromarray(_noise(90, 77, 2), "LA").save(path),
    "sixteen-bit.png": lambda path: Image.fromarray(_noise(60, 70).astype(np.uint16) * 256 + 200).save(path),
    "profile.png": lambda path: Image.fromarray(_noise(60, 70, 3)).save(
        path, icc_profile=ImageCms.ImageCmsProfile(ImageCms.createProfile("LAB")).tobytes()
    ),
    "turned.png": lambda path: Image.fromarray(_noise(60, 70, 3)).save(path, exif=_exif(6)),
    "turned.jpg": lambda path: Image.fromarray(_noise(96, 64, 3)).save(path, exif=_exif(6), quality=95),
    "photo.jpg": lambda path: Image.fromarray(_noise(173, 231, 3)).save(path, quality=75),
    "fine.jpg": lambda path: Image.fromarray(_noise(173, 231, 3)).save(path, quality=95, subsampling=0),
    "progressive.jpg": lambda path: Image.fromarray(_noise(99, 131, 3)).save(path, progressive=True),
    "grey.jpg": lambda path: Image.fromarray(_noise(99, 131)).save(path),
    "lossless.webp": lambda path: Image.fromarray(_noise(60, 70, 3)).save(path, lossless=True, exif=_exif(3)),
    "picture.bmp": lambda path: Image.fromarray(_noise(60, 70, 3)).save(path),
    "picture.gif": lambda path: Image.fromarray(_noise(60, 70)).save(path),
}


@pytest.mark.parametrize("name", IMAGES)
def test_logits_equal_pytorchs(shared_visit: Visit, tmp_path: Path, name: str) -> None:
    IMAGES[name](tmp_path / name)
    result = shared_visit.choose("tiny").classify(tmp_path / name)
    found = np.array(result["networks"][0]["logits"], dtype=np.float32)
    expected = expected_logits(tiny_network(), TINY, tmp_path / name)
    assert np.abs(found - expected).max() <= TOLERANCE * np.abs(expected).max()
    top = [guess["index"] for guess in result["networks"][0]["top5"]]
    assert top == np.argsort(-expected)[:5].tolist()
    assert result["image"]["name"] == name


@pytest.mark.parametrize("kind", PREPROCESSINGS)
def test_pixels_are_the_same_to_the_bit(shared_visit: Visit, tmp_path: Path, kind: str) -> None:
    """Each case is a resize of its own: shrinking a lot and a little, enlarging, odd crops."""
    shared_visit.choose(kind)
    for name in ("colour.png", "wide.png", "tall.png", "tiny.png", "as-the-input.png", "transparent.png", "grey.png"):
        IMAGES[name](tmp_path / name)
        result = shared_visit.classify(tmp_path / name)
        found = np.array(result["networks"][0]["logits"], dtype=np.float32)
        expected = expected_logits(Pixels(PREPROCESSINGS[kind].channels), PREPROCESSINGS[kind], tmp_path / name)
        if kind.startswith("plain"):  # in float32, whose order PyTorch chooses by the processor: halves may round apart
            std = np.repeat(PREPROCESSINGS[kind].std, TINY.size**2)
            levels = np.abs(found - expected) * std * 255
            assert levels.max() < 1.01, name
            assert (levels > 0.5).mean() < 0.01, name
        else:
            assert np.array_equal(found, expected), (name, np.abs(found - expected).max(), (found != expected).mean())
        assert Preprocess.from_dict(result["networks"][0]["preprocess"]) == PREPROCESSINGS[kind]
