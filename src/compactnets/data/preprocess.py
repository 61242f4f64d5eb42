"""The evaluation transform, saved with the weights and with every exported network."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, fields
from functools import cached_property, lru_cache
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torchvision.transforms import InterpolationMode
from torchvision.transforms.v2 import functional

from compactnets.data.images import to_channels
from compactnets.errors import InputError, did_you_mean

INTERPOLATIONS = {
    mode.value: mode for mode in (InterpolationMode.BILINEAR, InterpolationMode.BICUBIC, InterpolationMode.NEAREST)
}
CHUNK = 1 << 17  # numbers normalised at a time on a CPU: small enough for its cache
MAX_PIXELS = 1 << 27  # after resizing the shorter edge; a 1 x 60,000 image would become 256 x 15 million


@dataclass(frozen=True, kw_only=True)
class Preprocess:
    """Convert a PIL image to a network's input: resize, centre crop, scale to [0, 1], subtract mean, divide by std.

    Calling it returns ``(C, size, size)`` float32, equal to Pillow's ``Image.resize`` and torchvision's transforms on
    PIL images.

    Args:
        size: side of the square crop, in pixels.
        resize: length of the shorter edge before the crop, at least ``size``; ``None`` resizes straight to
            ``size`` x ``size`` and leaves an image of this size unchanged.
        mean: subtracted per channel, on the scale [0, 1]; its length is the number of channels (1: grey, 3: RGB).
        std: divisor per channel.
        interpolation: ``"bilinear"``, ``"bicubic"`` or ``"nearest"``.
        antialias: widen the filter when shrinking, as Pillow does; ``False`` is for runtimes that cannot.

    Raises:
        InputError: a field of the wrong type or outside its range.
    """

    size: int
    resize: int | None
    interpolation: str = "bilinear"
    antialias: bool = True
    mean: tuple[float, ...]
    std: tuple[float, ...]

    def __post_init__(self) -> None:
        if not _is_length(self.size):
            raise InputError(f"size must be a positive integer, found {self.size!r}")
        if self.resize is not None and not (_is_length(self.resize) and self.resize >= self.size):
            raise InputError(f"resize must be none or an integer of at least size = {self.size}, found {self.resize!r}")
        if self.interpolation not in INTERPOLATIONS:
            near = did_you_mean(str(self.interpolation), INTERPOLATIONS)
            raise InputError(
                f"interpolation must be one of {', '.join(INTERPOLATIONS)}, found {self.interpolation!r}{near}"
            )
        if not isinstance(self.antialias, bool):
            raise InputError(f"antialias must be true or false, found {self.antialias!r}")
        for name in ("mean", "std"):
            object.__setattr__(self, name, _numbers(name, getattr(self, name)))  # a list from JSON becomes a tuple
        if len(self.mean) != len(self.std):
            raise InputError(f"mean and std must have the same length, found {len(self.mean)} and {len(self.std)}")
        if min(self.std) <= 0:
            raise InputError(f"std must be positive, found {min(self.std)}")

    @property
    def channels(self) -> int:
        """Channels of the tensor: 1 (grey) or 3 (RGB)."""
        return len(self.mean)

    def to_dict(self) -> dict[str, Any]:
        """Return the fields as JSON types (lists, not tuples)."""
        values = {field.name: getattr(self, field.name) for field in fields(self)}
        return {name: list(value) if isinstance(value, tuple) else value for name, value in values.items()}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Preprocess:
        """Build from :meth:`to_dict`'s result.

        Raises:
            InputError: an unknown or missing key, or a value that does not fit.
        """
        if not isinstance(values, Mapping):
            raise InputError(f"the preprocessing must be a mapping of its fields, found {type(values).__name__}")
        names = [field.name for field in fields(cls)]
        for key in values:
            if key not in names:
                raise InputError(
                    f"unknown key {key!r} in the preprocessing: expected {', '.join(names)}"
                    f"{did_you_mean(str(key), names)}"
                )
        if missing := [name for name in names if name not in values]:
            raise InputError(f"the preprocessing lacks {', '.join(missing)}")
        return cls(**values)

    def __call__(self, image: Image.Image) -> Tensor:
        """Transform one image of any mode and size: -> (C, size, size) float32.

        Raises:
            InputError: pixels of unknown range, or an image too narrow to resize.
        """
        return self.normalize(self.pixels(image).permute(2, 0, 1).contiguous())

    def pixels(self, image: Image.Image) -> Tensor:
        """Apply only the geometry: grey or RGB, resize, centre crop: -> (size, size, C) uint8.

        Raises:
            InputError: as when called.
        """
        return to_pixels(self.centre_crop(self._fit(image)))

    def centre_crop(self, image: Image.Image) -> Image.Image:
        """Cut the ``size`` x ``size`` pixels in the middle; halves are rounded to even, as torchvision does."""
        left, top = round((image.width - self.size) / 2), round((image.height - self.size) / 2)
        return image.crop((left, top, left + self.size, top + self.size))

    def normalize(self, pixels: Tensor) -> Tensor:
        """Scale to [0, 1], subtract the mean and divide by the deviation, on the pixels' device.

        Args:
            pixels: ``(C, H, W)`` or ``(N, C, H, W)`` uint8.

        Returns:
            float32 of the same shape and strides; bit-identical to torchvision's ``ToDtype`` and ``Normalize``.
        """
        images = torch.empty_like(pixels, dtype=torch.float32)
        last = images.ndim == 4 and not images.is_contiguous()
        flat = images.permute(0, 2, 3, 1) if last else images
        if images.device.type != "cpu" or images.ndim != 4 or not flat.is_contiguous() or not images.numel():
            mean, std = _statistics(self.mean, self.std, str(images.device))
            return images.copy_(pixels).mul_(1 / 255).sub_(mean).div_(std)
        mean, std = _tiled(self.mean, self.std, images[0, 0].numel(), last)
        source = (pixels.permute(0, 2, 3, 1) if last else pixels).flatten(1)
        rows = max(1, CHUNK // len(mean))
        for into, part in zip(flat.flatten(1).split(rows), source.split(rows), strict=True):
            into.copy_(part).mul_(1 / 255).sub_(mean).div_(std)
        return images

    @cached_property
    def _fit(self) -> Fit:
        return Fit(self)


class Fit:
    """The first step of a transform: grey or RGB, then the resize of ``preprocess``, without its crop.

    PIL image -> PIL image, of ``size`` x ``size`` or with a shorter edge of ``resize``.
    """

    def __init__(self, preprocess: Preprocess) -> None:
        self.channels = preprocess.channels
        self.size, self.resize = preprocess.size, preprocess.resize
        self.interpolation = INTERPOLATIONS[preprocess.interpolation]
        # Pillow has one kind of "nearest" and always antialiases the others: plain filters exist for tensors only
        self.on_pil = preprocess.antialias or preprocess.interpolation == "nearest"

    def __call__(self, image: Image.Image) -> Image.Image:
        image = to_channels(image, self.channels)
        width, height = self.target(*image.size)
        if image.size == (width, height):
            return image
        if self.on_pil:
            return functional.resize(image, [height, width], self.interpolation)
        tensor = functional.resize(image_to_float(image), [height, width], self.interpolation, antialias=False)
        return float_to_image(tensor)

    def target(self, width: int, height: int) -> tuple[int, int]:
        """Return width and height after the resize; the longer edge is rounded down, as torchvision does.

        Raises:
            InputError: an image too narrow to resize.
        """
        if self.resize is None:
            return self.size, self.size
        shorter, longer = sorted((width, height))
        if longer * self.resize**2 > MAX_PIXELS * shorter:
            raise InputError(
                f"an image of {width} x {height} pixels is too narrow to resize its shorter edge to {self.resize}"
            )
        longer = int(self.resize * longer / shorter)
        return (self.resize, longer) if width <= height else (longer, self.resize)


def image_to_float(image: Image.Image) -> Tensor:
    """PIL image -> (C, H, W) float32 of its levels 0 to 255: torch's bicubic filter on uint8 differs."""
    return functional.pil_to_tensor(image).float()


def float_to_image(tensor: Tensor) -> Image.Image:
    """Undo :func:`image_to_float`, rounding to 8 bits."""
    return functional.to_pil_image(tensor.round().clamp(0, 255).to(torch.uint8))


def to_pixels(image: Image.Image) -> Tensor:
    """PIL image, grey or RGB -> (H, W, C) uint8."""
    pixels = torch.from_numpy(np.array(image))
    return pixels[..., None] if pixels.ndim == 2 else pixels


@lru_cache(maxsize=16)
def _statistics(mean: tuple[float, ...], std: tuple[float, ...], device: str) -> tuple[Tensor, Tensor]:
    """Mean and deviation as (C, 1, 1) on the device; cached, because copying them would stall the device."""
    return torch.tensor(mean, device=device)[:, None, None], torch.tensor(std, device=device)[:, None, None]


@lru_cache(maxsize=16)
def _tiled(mean: tuple[float, ...], std: tuple[float, ...], pixels: int, last: bool) -> tuple[Tensor, Tensor]:
    """Mean and deviation of every number of an image in memory order, for plain loops without broadcasting."""
    values = torch.tensor([mean, std])
    tiled = values.repeat(1, pixels) if last else values.repeat_interleave(pixels, dim=1)
    return tiled[0], tiled[1]


def _is_length(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value > 0


def _numbers(name: str, values: Any) -> tuple[float, ...]:
    numbers = isinstance(values, (tuple, list)) and all(
        isinstance(value, (int, float)) and math.isfinite(value) for value in values
    )
    if not numbers or len(values) not in (1, 3):
        raise InputError(f"{name} must be one number (grey) or three (RGB), as a list; found {values!r}")
    return tuple(float(value) for value in values)
