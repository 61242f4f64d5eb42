"""Augmentation of an image with its mask: torchvision's transforms, with random numbers of the image's own."""

from __future__ import annotations

import numpy as np
import torch
from PIL import Image
from timm.data import IMAGENET_DEFAULT_MEAN
from torch import Tensor
from torchvision import tv_tensors
from torchvision.transforms import v2

from compactnets.data.images import to_channels
from compactnets.segmentation.recipe import IGNORED, MaskAugment

FILL = tuple(round(255 * value) for value in IMAGENET_DEFAULT_MEAN)


class MaskTransform:
    """A PIL image and its labels (H, W) -> pixels (3, *crop) and labels (*crop), both uint8.

    torchvision scales a ``Mask`` by its nearest pixels, so that no label arises that was not there.
    """

    def __init__(self, augment: MaskAugment) -> None:
        self.augment = augment
        fill = {tv_tensors.Image: FILL, tv_tensors.Mask: IGNORED}
        changes = [
            v2.RandomCrop(augment.crop, pad_if_needed=True, fill=fill),
            *([v2.RandomHorizontalFlip()] if augment.flip else []),
            *([v2.RandomPhotometricDistort()] if augment.photometric else []),
        ]
        self.change = v2.Compose(changes)

    def __call__(self, image: Image.Image, labels: np.ndarray, seed: int) -> tuple[Tensor, Tensor]:
        """Change one image. The result only depends on ``seed``; torch's generator is not touched."""
        pair = tv_tensors.Image(to_channels(image, 3)), tv_tensors.Mask(torch.from_numpy(labels))
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            pixels, mask = self.change(*self._scale(*pair))
        return pixels.as_subclass(Tensor), mask.as_subclass(Tensor)

    def _scale(self, *pair: Tensor) -> list[Tensor]:
        # not torchvision's ScaleJitter, which takes the height of its target for the width
        (height, width), (rows, columns) = pair[0].shape[-2:], self.augment.crop
        low, high = self.augment.scale
        factor = min(rows / height, columns / width) * (low + (high - low) * float(torch.rand(())))
        size = [max(1, round(side * factor)) for side in (height, width)]
        return [v2.functional.resize(each, size, antialias=True) for each in pair]


def network_input(image: Image.Image, size: tuple[int, int] | None) -> Tensor:
    """Return the pixels of an image for a network in use, (3, H, W) uint8, scaled to ``size`` (height, width)."""
    image = to_channels(image, 3)
    if size is not None and image.size != size[::-1]:
        image = image.resize(size[::-1], Image.Resampling.BILINEAR)  # as for classifiers, and as the page does it
    pixels: Tensor = v2.functional.pil_to_tensor(image)
    return pixels


def normalize(pixels: Tensor, mean: tuple[float, ...], std: tuple[float, ...]) -> Tensor:
    """Return pixels (N, 3, H, W) uint8 as float32: from 0 to 1, less the mean, divided by the deviation."""
    images: Tensor = v2.functional.normalize(pixels.float().div_(255), list(mean), list(std), inplace=True)
    return images
