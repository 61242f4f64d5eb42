"""The evaluation transform as a record: saved with the weights and beside every exported network."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from functools import cached_property
from typing import Any

import torch
from PIL import Image
from torch import Tensor
from torchvision.transforms import InterpolationMode, v2
from torchvision.transforms.v2 import functional

from compactnets.data.images import to_channels
from compactnets.errors import InputError, did_you_mean

INTERPOLATIONS = {
    mode.value: mode for mode in (InterpolationMode.BILINEAR, InterpolationMode.BICUBIC, InterpolationMode.NEAREST)
}
MAX_PIXELS = 1 << 27  # after resizing the shorter edge; a 1 x 60,000 image would become 256 x 15 million


@dataclass(frozen=True, kw_only=True)
class Preprocess:
    """From a PIL image to the input of a network: resize, centre crop, scale to [0, 1], subtract mean, divide by std.

    Calling it gives ``(C, size, size)`` float32 and equals what Pillow's ``Image.resize`` and torchvision's transforms
    on PIL images give.

    Args:
        size: side of the square crop, in pixels.
        resize: length of the shorter edge before the crop, at least ``size``; ``None`` resizes straight to
            ``size`` x ``size`` and leaves an image that has this size alone.
        mean: what is subtracted, per channel, on the scale [0, 1]; its length (1: grey, 3: RGB) is the channels.
        std: what is divided by, per channel.
        interpolation: ``"bilinear"``, ``"bicubic"`` or ``"nearest"``.
        antialias: widen the filter when shrinking, as Pillow does; ``False`` is what runtimes without it compute.

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
        """Return the fields as JSON has them (lists, not tuples)."""
        values = {field.name: getattr(self, field.name) for field in fields(self)}
        return {name: list(value) if isinstance(value, tuple) else value for name, value in values.items()}

    @classmethod
    def from_dict(cls, record: Mapping[str, Any]) -> Preprocess:
        """Build from :meth:`to_dict`'s result.

        Raises:
            InputError: an unknown or missing key, or a value that does not fit.
        """
        if not isinstance(record, Mapping):
            raise InputError(f"a preprocessing record is a mapping of its fields, found {type(record).__name__}")
        names = [field.name for field in fields(cls)]
        for key in record:
            if key not in names:
                raise InputError(
                    f"unknown key {key!r} in the preprocessing record: expected {', '.join(names)}"
                    f"{did_you_mean(str(key), names)}"
                )
        if missing := [name for name in names if name not in record]:
            raise InputError(f"the preprocessing record lacks {', '.join(missing)}")
        return cls(**record)

    def __call__(self, image: Image.Image) -> Tensor:
        """Transform one image of any mode and size: -> (C, size, size) float32.

        Raises:
            InputError: pixels of unknown range, or an image too narrow to resize.
        """
        return self._transform(image)

    @cached_property
    def _transform(self) -> Callable[[Image.Image], Tensor]:
        return v2.Compose([Fit(self), v2.CenterCrop(self.size), *tensor_steps(self)])


class Fit:
    """The first step of a transform: grey or RGB, then the resize of ``preprocess``, without its crop.

    PIL image -> PIL image, of ``size`` x ``size`` or with a shorter edge of ``resize``.
    """

    def __init__(self, preprocess: Preprocess) -> None:
        self.channels = preprocess.channels
        self.size, self.resize = preprocess.size, preprocess.resize
        self.interpolation = INTERPOLATIONS[preprocess.interpolation]
        # Pillow has one form of "nearest", and always antialiases the others: the plain filters exist for tensors only
        self.on_pil = preprocess.antialias or preprocess.interpolation == "nearest"

    def __call__(self, image: Image.Image) -> Image.Image:
        image = to_channels(image, self.channels)
        if self.resize is None:
            return image if image.size == (self.size, self.size) else self._resize(image, [self.size, self.size])
        shorter, longer = sorted(image.size)
        if longer * self.resize**2 > MAX_PIXELS * shorter:
            raise InputError(
                f"an image of {image.width} x {image.height} pixels is too narrow to resize its shorter edge to "
                f"{self.resize}"
            )
        return self._resize(image, [self.resize])

    def _resize(self, image: Image.Image, size: list[int]) -> Image.Image:
        if self.on_pil:
            return functional.resize(image, size, self.interpolation)
        tensor = functional.resize(image_to_float(image), size, self.interpolation, antialias=False)
        return float_to_image(tensor)


def image_to_float(image: Image.Image) -> Tensor:
    """PIL image -> (C, H, W) float32 of its levels 0 to 255: torch's bicubic filter on uint8 is another one."""
    return functional.pil_to_tensor(image).float()


def float_to_image(tensor: Tensor) -> Image.Image:
    """Undo :func:`image_to_float`, rounding to 8 bits."""
    return functional.to_pil_image(tensor.round().clamp(0, 255).to(torch.uint8))


class ToChannels:
    """:func:`compactnets.data.images.to_channels` as a step that can be pickled."""

    def __init__(self, channels: int) -> None:
        self.channels = channels

    def __call__(self, image: Image.Image) -> Image.Image:
        return to_channels(image, self.channels)


def tensor_steps(preprocess: Preprocess) -> list[Callable[..., Any]]:
    """The last steps of every transform: PIL image -> (C, H, W) float32, scaled to [0, 1] and normalised."""
    return [
        v2.PILToTensor(),
        v2.ToDtype(torch.float32, scale=True),
        v2.Normalize(mean=list(preprocess.mean), std=list(preprocess.std)),
    ]


def _is_length(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value > 0


def _numbers(name: str, values: Any) -> tuple[float, ...]:
    numbers = isinstance(values, (tuple, list)) and all(
        isinstance(value, (int, float)) and math.isfinite(value) for value in values
    )
    if not numbers or len(values) not in (1, 3):
        raise InputError(f"{name} must be one number (grey) or three (RGB), as a list; found {values!r}")
    return tuple(float(value) for value in values)
