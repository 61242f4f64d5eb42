"""The training transform: crop, image changes, and batch changes on the device."""

from __future__ import annotations

import math
import warnings
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torchvision.transforms import InterpolationMode
from torchvision.transforms.v2 import functional

from compactnets.data.augment import Augment
from compactnets.data.images import to_channels
from compactnets.data.jpeg import Box, Frame, decode_region, read_frame
from compactnets.data.order import Draws
from compactnets.data.preprocess import (
    INTERPOLATIONS,
    Fit,
    Preprocess,
    float_to_image,
    image_to_float,
    to_pixels,
)
from compactnets.errors import InputError

# places of the random numbers (see Draws)
TOP, LEFT, FLIP, CUT_ROW, CUT_COLUMN, ANGLE, SHIFT_X, SHIFT_Y = range(8)
COLOUR_ORDER, BRIGHTNESS, CONTRAST, SATURATION, HUE = range(8, 13)
AREA = 16  # four numbers for each attempt at a resized crop
ATTEMPTS = 10


def _check(augment: Augment, preprocess: Preprocess) -> None:
    size = preprocess.size
    if augment.crop == "pad" and augment.pad >= size:
        raise InputError(f"augment: pad must be below the crop's size {size}, found {augment.pad}")
    if augment.cutout >= size:
        raise InputError(f"augment: cutout must be below the crop's size {size}, found {augment.cutout}")
    if augment.crop == "pad" and not augment.pad and preprocess.resize is None:
        warnings.warn(
            "augment: crop = 'pad' has no effect with pad = 0 and resize none: the image has the crop's size",
            stacklevel=3,
        )
    if augment.hue and preprocess.channels == 1:
        warnings.warn("augment: hue has no effect on grey images", stacklevel=3)


class TrainTransform:
    """The changes of an :class:`Augment` followed by a :class:`Preprocess`.

    Calling it on a PIL image of any mode and size returns ``(C, size, size)`` float32, with random numbers from torch's
    generator. The loaders use its two halves: :meth:`pixels` or :meth:`decode` per image, in 8 bits, and :meth:`finish`
    per batch.

    Raises:
        InputError: ``pad`` or ``cutout`` is not below the size, so nothing of the image might be left.
    """

    def __init__(self, augment: Augment, preprocess: Preprocess) -> None:
        _check(augment, preprocess)
        self.augment, self.preprocess = augment, preprocess
        self.fit = Fit(preprocess)
        self.interpolation = INTERPOLATIONS[preprocess.interpolation]
        self.moves = augment.rotation > 0 or augment.translate > 0
        self.colours = augment.color_jitter > 0 or (augment.hue > 0 and preprocess.channels == 3)

    def __call__(self, image: Image.Image) -> Tensor:
        index = int(torch.randint(2**62, (1,)))
        pixels = self.pixels(image, Draws.of(0, 0, index)).permute(2, 0, 1).contiguous()
        return self.finish(pixels[None], Draws.of(0, 0, np.array([index])))[0]

    def pixels(self, image: Image.Image, draws: Draws[int]) -> Tensor:
        """Apply everything but normalisation and cutout: PIL image of any mode and size -> (size, size, C) uint8.

        Raises:
            InputError: pixels of unknown range, or an image too narrow to resize.
        """
        return to_pixels(self._change(self._crop(image, draws), draws, flip=True))

    def decode(self, data: bytes, draws: Draws[int]) -> Tensor | None:
        """Like :meth:`pixels`, from a file's bytes with :mod:`compactnets.data.jpeg`; ``None`` if it rejects them."""
        preprocess, size = self.preprocess, self.preprocess.size
        if preprocess.channels != 3 or preprocess.interpolation == "nearest" or not preprocess.antialias:
            return None
        if (frame := read_frame(data)) is None:
            return None
        if self.augment.crop == "resized":
            box = self.area(draws, *frame.size)
            pixels = decode_region(data, frame, box, size, size, preprocess.interpolation)
        else:
            pixels = self._decode_whole(data, frame, draws)
        if pixels is None:
            return None
        flip = self.flips(draws)
        if self.moves or self.colours:
            return to_pixels(self._change(Image.fromarray(pixels.numpy()), draws, flip))
        # flip is vectorised for this layout, unlike numpy's
        return pixels[None].permute(0, 3, 1, 2).flip(3).permute(0, 2, 3, 1)[0] if flip else pixels

    def finish(self, pixels: Tensor, draws: Draws[np.ndarray]) -> Tensor:
        """Normalise a batch and cut out: (N, C, H, W) uint8 -> float32 of the same strides, on the same device.

        Args:
            draws: the numbers of the N images.
        """
        images = self.preprocess.normalize(pixels)
        if self.augment.cutout:
            size = self.preprocess.size
            centres = np.stack([draws.integer(CUT_ROW, size), draws.integer(CUT_COLUMN, size)])
            erase(images, torch.from_numpy(centres).to(images.device, non_blocking=True), self.augment.cutout)
        return images

    def area(self, draws: Draws[int], width: int, height: int) -> Box:
        """Draw Inception's crop of a picture, as torchvision's ``RandomResizedCrop`` does: an area of random shape."""
        (low, high), (narrow, wide) = self.augment.scale, self.augment.ratio
        for place in range(AREA, AREA + 4 * ATTEMPTS, 4):
            area = width * height * draws.uniform(place, low, high)
            ratio = math.exp(draws.uniform(place + 1, math.log(narrow), math.log(wide)))
            across, down = round(math.sqrt(area * ratio)), round(math.sqrt(area / ratio))
            if 0 < across <= width and 0 < down <= height:
                left, top = draws.integer(place + 2, width - across + 1), draws.integer(place + 3, height - down + 1)
                return Box(left, top, across, down)
        # the largest centred area of an allowed shape
        across, down = min(width, round(height * wide)), min(height, round(width / narrow))
        return Box((width - across) // 2, (height - down) // 2, across, down)

    def offset(self, draws: Draws[Any], width: int, height: int) -> tuple[Any, Any]:
        """Draw top and left of the random crop in an image of this size; -1 is a row or column of the padding."""
        pad, size = self.augment.pad, self.preprocess.size
        return (
            draws.integer(TOP, height + 2 * pad - size + 1) - pad,
            draws.integer(LEFT, width + 2 * pad - size + 1) - pad,
        )

    def flips(self, draws: Draws[Any]) -> Any:
        """Return whether an image is mirrored: a bool, or ``(N,)`` bool."""
        if self.augment.flip == "alternate":
            return draws.alternate(FLIP)
        return (draws.uniform(FLIP) < 0.5) & self.augment.flip

    def _crop(self, image: Image.Image, draws: Draws[int]) -> Image.Image:
        if self.augment.crop == "resized":
            return self._crop_area(to_channels(image, self.preprocess.channels), draws)
        return self._crop_fitted(self.fit(image), draws)

    def _crop_fitted(self, image: Image.Image, draws: Draws[int]) -> Image.Image:
        if self.augment.crop == "none":
            return self.preprocess.centre_crop(image)
        size = self.preprocess.size
        top, left = self.offset(draws, image.width, image.height)
        return image.crop((left, top, left + size, top + size))  # Pillow puts zeros outside the image

    def _crop_area(self, image: Image.Image, draws: Draws[int]) -> Image.Image:
        left, top, width, height = self.area(draws, image.width, image.height)
        box, size = (top, left, height, width), [self.preprocess.size] * 2
        if self.preprocess.antialias or self.interpolation is InterpolationMode.NEAREST:
            return functional.resized_crop(image, *box, size, self.interpolation)
        tensor = functional.resized_crop(image_to_float(image), *box, size, self.interpolation, antialias=False)
        return float_to_image(tensor)  # as in Fit

    def _decode_whole(self, data: bytes, frame: Frame, draws: Draws[int]) -> Tensor | None:
        width, height = self.fit.target(*frame.size)
        if (width, height) == frame.size:
            return None  # nothing to gain
        whole = Box(0, 0, *frame.size)
        pixels = decode_region(data, frame, whole, width, height, self.preprocess.interpolation)
        return None if pixels is None else to_pixels(self._crop_fitted(Image.fromarray(pixels.numpy()), draws))

    def _change(self, image: Image.Image, draws: Draws[int], flip: bool) -> Image.Image:
        """Rotate and move, flip, and change the colours of an image of the final size."""
        augment = self.augment
        if self.moves:
            angle = draws.uniform(ANGLE, -augment.rotation, augment.rotation)
            reach = augment.translate * self.preprocess.size
            shift = [round(draws.uniform(place, -reach, reach)) for place in (SHIFT_X, SHIFT_Y)]
            image = functional.affine(image, angle, shift, 1.0, [0.0, 0.0], self.interpolation)
        if flip and self.flips(draws):
            image = image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
        return self._colour(image, draws) if self.colours else image

    def _colour(self, image: Image.Image, draws: Draws[int]) -> Image.Image:
        jitter, hue = self.augment.color_jitter, self.augment.hue
        low, high = max(0.0, 1 - jitter), 1 + jitter
        changes: list[tuple[Any, float]] = []
        if jitter:
            changes += [
                (functional.adjust_brightness, draws.uniform(BRIGHTNESS, low, high)),
                (functional.adjust_contrast, draws.uniform(CONTRAST, low, high)),
            ]
        if self.preprocess.channels == 3:
            changes += [(functional.adjust_saturation, draws.uniform(SATURATION, low, high))] if jitter else []
            changes += [(functional.adjust_hue, draws.uniform(HUE, -hue, hue))] if hue else []
        order = draws.integer(COLOUR_ORDER, math.factorial(len(changes)))
        while changes:  # the order is a number in factorial base
            order, chosen = divmod(order, len(changes))
            change, amount = changes.pop(chosen)
            image = change(image, amount)
        return image


def erase(images: Tensor, centres: Tensor, side: int) -> Tensor:
    """Set a square of ``side`` pixels to zero in each of ``images`` (N, C, H, W), in place.

    Args:
        centres: row and column of the centres, ``(2, N)``; with an even side, the square has one more row and column
            before the centre than after. It is clipped at the image's edge.
    """
    height, width = images.shape[-2:]
    first = centres - side // 2
    inside = []
    for start, length in zip(first, (height, width), strict=True):
        place = torch.arange(length, device=images.device)[None] - start[:, None]
        inside.append((place >= 0) & (place < side))
    return images.masked_fill_((inside[0][:, :, None] & inside[1][:, None, :])[:, None], 0.0)
