"""A source of images that a test lists."""

from __future__ import annotations

import io
from collections.abc import Iterable, Sequence

import numpy as np
from PIL import Image

from compactnets.data.base import ImageSource
from compactnets.data.images import decode_image
from compactnets.errors import InputError

from .helpers import noise


class ListedSource(ImageSource):
    """Images in memory, or the bytes of files; the label of an image is its index modulo 10."""

    kind = "listed"

    def __init__(self, images: Sequence[Image.Image | bytes], broken: Iterable[int] = ()) -> None:
        self.images, self.broken = list(images), set(broken)
        super().__init__("listed", "train", [str(label) for label in range(10)], np.arange(len(images)) % 10)

    def image(self, index: int) -> Image.Image:
        if index in self.broken:
            raise InputError(f"{self.name(index)} cannot be read")
        image = self.images[index]
        return decode_image(io.BytesIO(image), self.name(index)) if isinstance(image, bytes) else image

    def encoded(self, index: int) -> bytes | None:
        image = self.images[index]
        return image if isinstance(image, bytes) and index not in self.broken else None

    def name(self, index: int) -> str:
        return f"image-{index}.png"


def noisy(count: int, width: int = 12, height: int = 12, mode: str = "RGB", broken: Iterable[int] = ()) -> ListedSource:
    """Return ``count`` images of noise."""
    return ListedSource([noise(width, height, mode, seed) for seed in range(count)], broken)
