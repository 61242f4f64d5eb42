"""Lazy image loading, by worker processes or in the main process."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import torch
from torch import Tensor

from compactnets.data.base import ImageSource
from compactnets.data.batches import Batch, LoaderSettings
from compactnets.data.memory import SmallImages, arrange
from compactnets.data.order import Draws
from compactnets.data.pool import BatchesOf, InOrderLoader, Loaded, PooledLoader
from compactnets.data.transform import TrainTransform
from compactnets.errors import InputError


class PixelBatches(BatchesOf):
    """Batches of (B, C, S, S) uint8, in the layout of the settings.

    Args:
        fast: decode only the part of a JPEG file that the crop needs.
    """

    source: ImageSource

    def __init__(self, source: ImageSource, transform: TrainTransform, settings: LoaderSettings, *, fast: bool) -> None:
        super().__init__(source, settings)
        self.transform, self.fast = transform, fast
        self.layout = torch.channels_last if settings.channels_last else torch.contiguous_format

    def load(self, epoch: int, index: int) -> Tensor:
        """Decode, crop and augment the image of a draw: -> (S, S, C) uint8."""
        draws = Draws.of(self.seed, epoch, index)
        index %= len(self.source)
        if self.fast and (data := self.source.encoded(index)) is not None:
            pixels = self.transform.decode(data, draws)
            if pixels is not None:
                return pixels
        image = self.source.image(index)
        try:
            return self.transform.pixels(image, draws)
        except InputError as error:
            raise InputError(f"{self.source.name(index)}: {error}") from None

    def join(self, items: Sequence[Tensor]) -> Tensor:
        size, _, channels = items[0].shape
        pixels = torch.empty((len(items), channels, size, size), dtype=torch.uint8, memory_format=self.layout)
        for into, item in zip(pixels, items, strict=True):
            into.copy_(item.permute(2, 0, 1))
        return pixels


class WorkerLoader(PooledLoader):
    """Batches of a source of any kind and any size of images."""

    def __init__(
        self, source: ImageSource, transform: TrainTransform, settings: LoaderSettings, workers: int, *, fast: bool
    ) -> None:
        super().__init__(source, settings, PixelBatches(source, transform, settings, fast=fast), workers)
        self.transform = transform
        self._labels = torch.from_numpy(source.labels)

    def finish(self, loaded: Loaded, epoch: int) -> Batch:
        return _finish(loaded, self.transform, self.settings, self._labels, epoch)


class EvalLoader(InOrderLoader[Batch]):
    """Batches of the images of a source, in order.

    Args:
        images: the source in memory, or ``None``.
    """

    def __init__(
        self,
        source: ImageSource,
        transform: TrainTransform,
        settings: LoaderSettings,
        workers: int,
        images: SmallImages | None,
        *,
        fast: bool,
    ) -> None:
        self.source, self.transform, self.images = source, transform, images
        if images is not None and images.unreadable:
            raise InputError(next(iter(images.unreadable.values())))
        self._labels = torch.from_numpy(source.labels)
        dataset = PixelBatches(source, transform, settings, fast=fast) if images is None else None
        super().__init__(source, settings, dataset, workers)

    def finish(self, loaded: Loaded) -> Batch:
        return _finish(loaded, self.transform, self.settings, self._labels, epoch=0)

    def loaded(self) -> Iterator[Loaded]:
        return super().loaded() if self.images is None else self._from_memory()

    def _from_memory(self) -> Iterator[Loaded]:
        assert self.images is not None
        size = self.transform.preprocess.size
        height, width = self.images.pixels.shape[1:3]
        top, left = round((height - size) / 2), round((width - size) / 2)
        for wanted in self._batches:
            indices = torch.tensor(wanted.indices)
            pixels = self.images.pixels[wanted.indices[0] : wanted.indices[-1] + 1]
            cropped = pixels[:, top : top + size, left : left + size].contiguous()
            yield Loaded(arrange(cropped, self.settings.channels_last), indices, 0, [])


def _finish(loaded: Loaded, transform: TrainTransform, settings: LoaderSettings, labels: Tensor, epoch: int) -> Batch:
    """Copy a batch to the device and apply the batch-level changes there."""
    device = settings.device
    pixels = loaded.items.to(device, non_blocking=True)
    draws = Draws.of(settings.seed, epoch, np.asarray(loaded.indices))
    indices = loaded.indices % len(labels)
    return Batch(transform.finish(pixels, draws), labels[indices].to(device, non_blocking=True), indices)
