"""The transform of the training images, as a part of the recipe."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any, Literal

from PIL import Image
from pydantic import BaseModel, ConfigDict, Field, model_validator
from torch import Tensor
from torchvision.transforms import InterpolationMode, v2

from compactnets.data.preprocess import (
    INTERPOLATIONS,
    Fit,
    Preprocess,
    ToChannels,
    float_to_image,
    image_to_float,
    tensor_steps,
)
from compactnets.errors import InputError


class Augment(BaseModel):
    """Random changes of a training image; size, interpolation and normalisation come from :class:`Preprocess`.

    The defaults change nothing: the transform is then the evaluation transform. Order: crop, rotation and translation,
    flip, colour, normalisation. The random numbers are torch's.

    Raises:
        pydantic.ValidationError: an unknown field, a value outside its range; the message names the field.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    crop: Literal["none", "pad", "resized"] = Field(
        default="none",
        description="none: the centre crop of the evaluation; pad: resize as in the evaluation, zero-pad, crop at "
        "random (with a shorter edge above the size and pad 0: a random crop of the resized image); resized: a random "
        "area of random shape, resized (Inception's crop)",
    )
    pad: int = Field(default=4, ge=0, description="zeros around the image, in pixels; for crop: pad")
    scale: tuple[float, float] = Field(
        default=(0.08, 1.0), description="smallest and largest share of the image's area; for crop: resized"
    )
    ratio: tuple[float, float] = Field(
        default=(3 / 4, 4 / 3), description="smallest and largest width / height of the area; for crop: resized"
    )
    flip: bool = Field(default=False, description="mirror left and right with probability 0.5")
    color_jitter: float = Field(
        default=0.0,
        ge=0,
        description="j changes brightness, contrast and, of RGB, saturation by a factor from 1 - j (not below 0) to "
        "1 + j, in random order",
    )
    rotation: float = Field(default=0.0, ge=0, le=180, description="largest rotation either way, in degrees")
    translate: float = Field(default=0.0, ge=0, le=1, description="largest shift either way, as a share of the size")

    @model_validator(mode="after")
    def _check(self) -> Augment:
        if not 0 < self.scale[0] <= self.scale[1] <= 1:
            raise ValueError(f"scale must be (smallest, largest) within (0, 1], found {self.scale}")
        if not 0 < self.ratio[0] <= self.ratio[1]:
            raise ValueError(f"ratio must be (smallest, largest), both positive, found {self.ratio}")
        for field, crop in (("pad", "pad"), ("scale", "resized"), ("ratio", "resized")):
            # a complete recipe that was saved and read again states the defaults too: those do not warn
            if self.crop != crop and getattr(self, field) != type(self).model_fields[field].default:
                warnings.warn(
                    f"augment: {field} = {getattr(self, field)} has no effect with crop = {self.crop!r}, only with "
                    f"{crop!r}",
                    stacklevel=2,
                )
        return self

    def transform(self, preprocess: Preprocess) -> Callable[[Image.Image], Tensor]:
        """Return the transform: PIL image of any mode and size -> (C, size, size) float32.

        Raises:
            InputError: ``pad`` is not below the size, so that a crop could hold nothing but padding.
        """
        steps = self._crop(preprocess)
        if self.rotation or self.translate:
            interpolation = INTERPOLATIONS[preprocess.interpolation]
            shift = (self.translate, self.translate) if self.translate else None
            steps.append(v2.RandomAffine(degrees=self.rotation, translate=shift, interpolation=interpolation))
        if self.flip:
            steps.append(v2.RandomHorizontalFlip())
        if self.color_jitter:
            jitter = self.color_jitter
            saturation = jitter if preprocess.channels == 3 else None
            steps.append(v2.ColorJitter(brightness=jitter, contrast=jitter, saturation=saturation))
        return v2.Compose([*steps, *tensor_steps(preprocess)])

    def _crop(self, preprocess: Preprocess) -> list[Callable[..., Any]]:
        size, interpolation = preprocess.size, INTERPOLATIONS[preprocess.interpolation]
        if self.crop == "none":
            return [Fit(preprocess), v2.CenterCrop(size)]
        if self.crop == "pad":
            if self.pad >= size:
                raise InputError(f"augment: pad must be below the crop's size {size}, found {self.pad}")
            if not self.pad and preprocess.resize is None:
                warnings.warn(
                    "augment: crop = 'pad' has no effect with pad = 0 and resize none: the image has the crop's size",
                    stacklevel=3,
                )
            return [Fit(preprocess), v2.RandomCrop(size, padding=self.pad or None)]
        crop = v2.RandomResizedCrop(
            size, scale=self.scale, ratio=self.ratio, interpolation=interpolation, antialias=preprocess.antialias
        )
        if preprocess.antialias or interpolation is InterpolationMode.NEAREST:
            return [ToChannels(preprocess.channels), crop]
        return [ToChannels(preprocess.channels), image_to_float, crop, float_to_image]  # as in Fit
