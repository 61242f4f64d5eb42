"""Batches of images with boxes, through the same worker processes as for classifiers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from compactnets.data.batches import LoaderSettings
from compactnets.data.order import mix_seed
from compactnets.data.pool import BatchesOf, InOrderLoader, Loaded, PooledLoader
from compactnets.detection.data.base import DetectionSource
from compactnets.detection.data.problems import OnBad, usable
from compactnets.detection.objects import Objects
from compactnets.detection.transform import BoxTransform, plain_target
from compactnets.errors import InputError
from compactnets.training.distributed import World

Target = dict[str, Tensor]


class DetectionBatch(NamedTuple):
    """Images of one process for one step."""

    images: list[Tensor]  # (3, H, W) float32 from 0 to 1, on the device; sizes differ
    targets: list[Target]  # boxes (N, 4) float32 and labels (N,) int64 from 1, on the device
    indices: Tensor  # (B,) int64: the images' indices in the source


class EvalImages(NamedTuple):
    """Validation images with their annotated objects."""

    images: list[Tensor]  # (3, H, W) float32 from 0 to 1, on the device
    objects: list[Objects]
    indices: Tensor  # (B,) int64


class _TrainImages(BatchesOf):
    """Batches of (pixels, target)."""

    source: DetectionSource

    def __init__(
        self, source: DetectionSource, transform: BoxTransform, settings: LoaderSettings, on_bad: OnBad
    ) -> None:
        super().__init__(source, settings)
        self.transform, self.on_bad = transform, on_bad

    def load(self, epoch: int, index: int) -> tuple[Tensor, Target]:
        image = self.source.image(index)
        objects, _ = usable(self.source, index, image.width, image.height, self.on_bad)
        # neither is trained on, as in the original Faster R-CNN
        objects = objects.pick(~(objects.difficult | objects.crowd))
        try:
            return self.transform(image, objects, mix_seed(self.seed, epoch, index))
        except InputError as error:
            raise InputError(f"{self.source.root / self.source.name(index)}: {error}") from None

    def join(self, items: Sequence[tuple[Tensor, Target]]) -> list[tuple[Tensor, Target]]:
        return list(items)


class _EvalImages(BatchesOf):
    """Batches of (pixels, objects)."""

    source: DetectionSource

    def __init__(self, source: DetectionSource, settings: LoaderSettings, on_bad: OnBad) -> None:
        super().__init__(source, settings)
        self.on_bad = on_bad

    def load(self, epoch: int, index: int) -> tuple[Tensor, Objects]:
        image = self.source.image(index)
        objects, _ = usable(self.source, index, image.width, image.height, self.on_bad, measured=True)
        return plain_target(image), objects

    def join(self, items: Sequence[tuple[Tensor, Objects]]) -> list[tuple[Tensor, Objects]]:
        return list(items)


class DetectionLoader(PooledLoader):
    """Augmented training images; see :class:`compactnets.data.batches.TrainLoader`."""

    def __init__(
        self,
        source: DetectionSource,
        transform: BoxTransform,
        settings: LoaderSettings,
        workers: int,
        on_bad: OnBad,
    ) -> None:
        super().__init__(source, settings, _TrainImages(source, transform, settings, on_bad), workers)

    def finish(self, loaded: Loaded, epoch: int) -> DetectionBatch:
        device = self.settings.device
        images = [_to_float(pixels, device) for pixels, _ in loaded.items]
        targets = [
            {key: value.to(device, non_blocking=True) for key, value in target.items()} for _, target in loaded.items
        ]
        return DetectionBatch(images, targets, loaded.indices)


class DetectionEvalLoader(InOrderLoader[EvalImages]):
    """Validation images with their objects, in the order of the source.

    One at a time: a batch would be padded to its largest image, which changes detections at the borders.

    Args:
        workers: processes that decode; 0 decodes in the main process.
        on_bad: what to do with boxes that cannot be used (:func:`compactnets.detection.data.usable`).
    """

    def __init__(self, source: DetectionSource, world: World, workers: int, on_bad: OnBad) -> None:
        settings = LoaderSettings.in_order(1, world.rank, world.size, world.device)
        super().__init__(source, settings, _EvalImages(source, settings, on_bad), workers)
        self.source = source

    def finish(self, loaded: Loaded) -> EvalImages:
        images = [_to_float(pixels, self.settings.device) for pixels, _ in loaded.items]
        return EvalImages(images, [objects for _, objects in loaded.items], loaded.indices)


def _to_float(pixels: Tensor, device: torch.device) -> Tensor:
    return pixels.to(device, non_blocking=True).float().div_(255)
