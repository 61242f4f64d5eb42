"""Augmentation of an image with its boxes: torchvision's transforms, with per-image random numbers."""

from __future__ import annotations

from typing import Any

import torch
from PIL import Image
from timm.data import IMAGENET_DEFAULT_MEAN
from torch import Tensor
from torchvision import tv_tensors
from torchvision.transforms import v2

from compactnets.data.images import to_channels
from compactnets.detection.objects import Objects
from compactnets.detection.recipe import BoxAugment
from compactnets.errors import InputError

FILL = tuple(round(255 * value) for value in IMAGENET_DEFAULT_MEAN)
LEAST = 0.99  # pixels: a box that a crop cuts below this side is dropped; one pixel, with a margin for rounding


class BoxTransform:
    """A PIL image and its objects -> (3, H, W) uint8 and a target for torchvision's detectors.

    The order is that of SSD (section 2.2): colours, zoom out, crop, flip.

    Args:
        augment: the changes.
        sides: shorter and longer side to which the detector will scale the result; ``None`` if it has a fixed size.
    """

    def __init__(self, augment: BoxAugment, sides: tuple[int, int] | None = None) -> None:
        self.sides = sides
        self.photometric = v2.RandomPhotometricDistort() if augment.photometric else None
        self.zoom_out = v2.RandomZoomOut(fill={tv_tensors.Image: FILL}) if augment.zoom_out else None
        self.crop = v2.RandomIoUCrop() if augment.iou_crop else None
        flips = [v2.RandomHorizontalFlip()] if augment.flip else []
        self.flips = [*flips, *([v2.RandomVerticalFlip()] if augment.flip_vertical else [])]

    def __call__(self, image: Image.Image, objects: Objects, seed: int) -> tuple[Tensor, dict[str, Tensor]]:
        """Augment one image. The result only depends on ``seed``; torch's generator is not touched.

        Returns:
            pixels, and ``boxes`` (N, 4) float32 with ``labels`` (N,) int64 counted from 1: 0 is the background.

        Raises:
            InputError: an image that is too narrow for the detector's input.
        """
        pixels = tv_tensors.Image(to_channels(image, 3))
        boxes = tv_tensors.BoundingBoxes(
            objects.boxes,
            format="XYXY",
            canvas_size=pixels.shape[-2:],
        )
        sample: Any = {"image": pixels, "boxes": boxes, "labels": objects.labels + 1}
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            sample = self._change(sample)
        if self.sides is not None:
            check_narrow(sample["image"].shape[-1], sample["image"].shape[-2], *self.sides)
        return sample["image"].as_subclass(Tensor), {
            "boxes": sample["boxes"].as_subclass(Tensor).reshape(-1, 4).float(),
            "labels": sample["labels"],
        }

    def _change(self, sample: Any) -> Any:
        for change in (self.photometric, self.zoom_out):
            if change is not None:
                sample = change(sample)
        if self.crop is not None and len(sample["labels"]):  # without an object there is no IoU to keep
            sample = self.crop(sample)
        for flip in self.flips:
            sample = flip(sample)
        boxes, valid = v2.functional.sanitize_bounding_boxes(sample["boxes"], min_size=LEAST)
        return {**sample, "boxes": boxes, "labels": sample["labels"][valid]}


def plain_target(image: Image.Image) -> Tensor:
    """Return the pixels of a validation image, (3, H, W) uint8."""
    return v2.functional.pil_to_tensor(to_channels(image, 3))


def check_narrow(width: int, height: int, shorter_side: int, longer_side: int) -> None:
    """Raise if scaling an image by its longer side would leave its shorter side without a pixel.

    Raises:
        InputError: the image's size, and its size after scaling.
    """
    shorter, longer = sorted((width, height))
    scale = min(shorter_side / shorter, longer_side / longer)
    if int(shorter * scale) < 1:
        raise InputError(
            f"an image of {width} x {height} pixels is too narrow: scaled to a longer side of {longer_side}, its "
            f"shorter side has no pixel left"
        )
