"""Small images: a whole split in memory as 8-bit pixels, on the accelerator if there is one; no worker processes.

Each image has its own random numbers, as everywhere (:mod:`compactnets.data.order`), so a batch is bit-identical to its
images processed one by one. Crop and flip of a batch are a single gather.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple
from weakref import WeakKeyDictionary

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from compactnets.console import Tracker
from compactnets.data.augment import Augment
from compactnets.data.base import ImageSource
from compactnets.data.batches import Batch, LoaderSettings, TrainLoader, to_device
from compactnets.data.order import Draws, local_share
from compactnets.data.preprocess import Fit, Preprocess, to_pixels
from compactnets.data.presets import SMALL
from compactnets.data.transform import CUT_COLUMN, CUT_ROW, TrainTransform, erase
from compactnets.errors import InputError

LIMIT = 2 << 30  # bytes of pixels, padding included


class SmallImages(NamedTuple):
    """A split, resized for its preprocessing."""

    pixels: Tensor  # (N, H, W, C) uint8, on the CPU; zeros if an image cannot be read
    unreadable: dict[int, str]  # index -> error


# one copy for all loaders of a source, so it is read once
_KEPT: WeakKeyDictionary[ImageSource, dict[Preprocess, SmallImages | None]] = WeakKeyDictionary()


def gathers(augment: Augment) -> bool:
    """Whether a batch can be augmented at once: only crop, flip and cutout."""
    return augment.crop != "resized" and not any(
        (augment.rotation, augment.translate, augment.color_jitter, augment.hue)
    )


def small_images(source: ImageSource, preprocess: Preprocess, pad: int = 0) -> SmallImages | None:
    """Read all images of a source, or return the cached ones.

    Args:
        pad: zero padding around each image; it counts towards the limit.

    Returns:
        ``None`` if the images have different sizes, larger than 64 pixels a side, or too many for 2 GiB.
    """
    kept = _KEPT.setdefault(source, {})
    if preprocess not in kept:
        kept[preprocess] = _read(source, preprocess)
    images = kept[preprocess]
    return None if images is None or _padded_bytes(images.pixels.shape, pad) > LIMIT else images


def _padded_bytes(shape: torch.Size | tuple[int, ...], pad: int) -> int:
    count, height, width, channels = shape
    return count * (height + 2 * pad) * (width + 2 * pad) * channels


def _read(source: ImageSource, preprocess: Preprocess) -> SmallImages | None:
    fit, unreadable = Fit(preprocess), {}
    pixels: Tensor | None = None
    for index in Tracker(range(len(source)), len(source), "reading images"):
        try:
            image = source.image(index)
            if max(image.size) > SMALL:
                return None
            fitted = to_pixels(fit(image))
        except InputError as error:
            unreadable[index] = str(error)
            continue
        if pixels is None:
            if _padded_bytes((len(source), *fitted.shape), 0) > LIMIT:
                return None
            pixels = torch.zeros(len(source), *fitted.shape, dtype=torch.uint8)
        if fitted.shape != pixels.shape[1:]:
            return None
        pixels[index] = fitted
    return None if pixels is None else SmallImages(pixels, unreadable)


class MemoryLoader(TrainLoader):
    """Batches from :func:`small_images`, for augmentations that :func:`gathers` allows.

    Raises:
        InputError: an image that cannot be read; with ``on_error="skip"``, more than ``max_skipped`` of them.
    """

    def __init__(
        self, source: ImageSource, transform: TrainTransform, settings: LoaderSettings, images: SmallImages
    ) -> None:
        super().__init__(source, settings)
        self.transform, self._labels = transform, source.labels
        augment, size = transform.augment, transform.preprocess.size
        self._report(images.unreadable.items(), quiet=settings.rank > 0)  # every process finds the same
        self._unread = np.zeros(len(source), dtype=bool)
        self._unread[list(images.unreadable)] = True
        self.height, self.width, channels = images.pixels.shape[1:]
        self.pad = augment.pad if augment.crop == "pad" else 0
        device = settings.device
        pixels = F.pad(to_device(images.pixels, device), (0, 0, self.pad, self.pad, self.pad, self.pad))
        self._row = pixels.shape[2]  # pixels in a padded row
        self._area = pixels.shape[1] * self._row
        self._pixels = pixels.reshape(-1, channels)  # every pixel of every image, one after the other
        self._side = torch.arange(size, device=device)
        self._down = (self._side * self._row)[None, :, None]

    def epoch(self, epoch: int, start: int = 0) -> Iterator[Batch]:
        settings = self.settings
        drawn = settings.order(len(self.source), epoch)
        order = self._readable(drawn)[: self.steps * self.batch_size]
        indices = torch.from_numpy(order % len(self.source))
        replaced = self._unread[drawn % len(self.source)]
        tables = [to_device(table, settings.device) for table in self._tables(order, epoch)]
        places = np.arange(len(order))
        for step in range(start, self.steps):
            share = local_share(places, self.batch_size, step, settings.rank, settings.world_size)
            here = slice(int(share[0]), int(share[-1]) + 1)
            self.skipped += int(replaced[here].sum())
            corners, directions, labels, centres = (table[..., here] for table in tables)
            yield Batch(self._gather(corners, directions, centres), labels, indices[here])

    def close(self) -> None:
        del self._pixels

    def _readable(self, order: np.ndarray) -> np.ndarray:
        """Replace unreadable images by the next readable one in the order."""
        readable = np.flatnonzero(~self._unread[order % len(self.source)])
        if not len(readable):
            raise InputError(f"{self.source.spec}: no training image can be read")
        following = np.searchsorted(readable, np.arange(len(order))) % len(readable)
        return order[readable[following]]

    def _tables(self, order: np.ndarray, epoch: int) -> Iterator[Tensor]:
        """Everything that an epoch's steps need on the device, in a single copy.

        Yields the place of the first pixel of every crop, ``(N,)``; 1, or -1 where the crop is read from right to left;
        the labels; row and column of the cutout's centre, ``(2, N)``.
        """
        augment, size = self.transform.augment, self.transform.preprocess.size
        draws, indices = Draws.of(self.settings.seed, epoch, order), order % len(self.source)
        flip = self.transform.flips(draws)
        if augment.crop == "pad":
            top, left = self.transform.offset(draws, self.width, self.height)
        else:
            top, left = round((self.height - size) / 2), round((self.width - size) / 2)
        first = indices * self._area + (top + self.pad) * self._row + left + self.pad
        yield torch.from_numpy(first + flip * (size - 1))
        yield torch.from_numpy(1 - 2 * flip.astype(np.int64))
        yield torch.from_numpy(self._labels[indices])
        yield torch.from_numpy(np.stack([draws.integer(CUT_ROW, size), draws.integer(CUT_COLUMN, size)]))

    def _gather(self, corners: Tensor, directions: Tensor, centres: Tensor) -> Tensor:
        size, preprocess = len(self._side), self.transform.preprocess
        across = directions[:, None, None] * self._side
        places = corners[:, None, None] + self._down + across  # (B, S, S)
        pixels = self._pixels.index_select(0, places.flatten()).view(-1, size, size, preprocess.channels)
        images = preprocess.normalize(arrange(pixels, self.settings.channels_last))
        return erase(images, centres, self.transform.augment.cutout) if self.transform.augment.cutout else images


def arrange(pixels: Tensor, channels_last: bool) -> Tensor:
    """(B, H, W, C), contiguous -> (B, C, H, W), in channels_last or contiguous."""
    images = pixels.permute(0, 3, 1, 2)
    # torch considers grey images contiguous in either layout, and would keep the strides
    return images if channels_last else images.contiguous().view(images.shape)
