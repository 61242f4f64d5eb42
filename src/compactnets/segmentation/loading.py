"""Batches of images with masks, through the same worker processes as for other tasks."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from compactnets.data.batches import LoaderSettings, to_device
from compactnets.data.order import mix_seed
from compactnets.data.pool import BatchesOf, InOrderLoader, Loaded, PooledLoader
from compactnets.segmentation.data import MaskSource
from compactnets.segmentation.transform import MaskTransform, network_input, normalize
from compactnets.training.distributed import World


class Statistics(NamedTuple):
    """What is subtracted from pixels from 0 to 1, and what they are divided by."""

    mean: tuple[float, ...]
    std: tuple[float, ...]


class MaskBatch(NamedTuple):
    """Images of one process for one step."""

    images: Tensor  # (B, 3, H, W) float32, normalised, on the device
    labels: Tensor  # (B, H, W) uint8, on the device
    indices: Tensor  # (B,) int64: the images' indices in the source


class _Train(BatchesOf):
    source: MaskSource

    def __init__(self, source: MaskSource, transform: MaskTransform, settings: LoaderSettings) -> None:
        super().__init__(source, settings)
        self.transform = transform

    def load(self, epoch: int, index: int) -> tuple[Tensor, Tensor]:
        return self.transform(*self.source.pair(index), mix_seed(self.seed, epoch, index))

    def join(self, items: Sequence[tuple[Tensor, Tensor]]) -> tuple[Tensor, Tensor]:
        return torch.stack([pixels for pixels, _ in items]), torch.stack([labels for _, labels in items])


class _Evaluated(BatchesOf):
    source: MaskSource

    def __init__(self, source: MaskSource, size: tuple[int, int] | None, settings: LoaderSettings) -> None:
        super().__init__(source, settings)
        self.size = size

    def load(self, epoch: int, index: int) -> tuple[Tensor, Tensor]:
        image, labels = self.source.pair(index)
        return network_input(image, self.size), torch.from_numpy(labels)

    def join(self, items: Sequence[tuple[Tensor, Tensor]]) -> tuple[Tensor, Tensor]:
        ((pixels, labels),) = items
        return pixels[None], labels[None]


class MaskLoader(PooledLoader):
    """Augmented training images; see :class:`compactnets.data.batches.TrainLoader`."""

    def __init__(
        self,
        source: MaskSource,
        transform: MaskTransform,
        statistics: Statistics,
        settings: LoaderSettings,
        workers: int,
    ) -> None:
        super().__init__(source, settings, _Train(source, transform, settings), workers)
        self.statistics = statistics

    def finish(self, loaded: Loaded, epoch: int) -> MaskBatch:
        pixels, labels = (to_device(each, self.settings.device) for each in loaded.items)
        images = normalize(pixels, *self.statistics)
        if self.settings.channels_last:
            images = images.contiguous(memory_format=torch.channels_last)
        return MaskBatch(images, labels, loaded.indices)


class MaskEvalLoader(InOrderLoader[MaskBatch]):
    """Validation images with masks of their own size, one at a time.

    Args:
        without: indices of images to leave out.
    """

    def __init__(
        self,
        source: MaskSource,
        size: tuple[int, int] | None,
        statistics: Statistics,
        world: World,
        workers: int,
        without: Collection[int] = (),
    ) -> None:
        settings = LoaderSettings.in_order(1, world.rank, world.size, world.device)
        super().__init__(source, settings, _Evaluated(source, size, settings), workers, without)
        self.source, self.statistics = source, statistics

    def finish(self, loaded: Loaded) -> MaskBatch:
        pixels, labels = (to_device(each, self.settings.device) for each in loaded.items)
        return MaskBatch(normalize(pixels, *self.statistics), labels, loaded.indices)
