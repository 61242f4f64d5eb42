"""The training transform, as part of the recipe."""

from __future__ import annotations

import warnings
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

Pair = Annotated[tuple[float, float], Field(strict=False)]  # types are strict, except that YAML's list becomes a tuple


class Augment(BaseModel):
    """Random augmentation of a training image; size, interpolation and normalisation come from :class:`Preprocess`.

    With the defaults, the transform equals the evaluation transform. Order: crop, rotation and translation,
    flip, colour, normalisation, cutout. Each change has its own random numbers, determined by seed, epoch and image
    (:class:`compactnets.data.order.Draws`).

    Raises:
        pydantic.ValidationError: an unknown field, a value outside its range; the message names the field.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False, strict=True)

    crop: Literal["none", "pad", "resized"] = Field(
        default="none",
        description="none: the centre crop of the evaluation; pad: resize as in the evaluation, zero-pad, crop at "
        "random (with a shorter edge above the size and pad 0: a random crop of the resized image); resized: a random "
        "area of random shape, resized (Inception's crop)",
    )
    pad: int = Field(default=4, ge=0, le=1 << 14, description="zeros around the image, in pixels; for crop: pad")
    scale: Pair = Field(
        default=(0.08, 1.0), description="smallest and largest share of the image's area; for crop: resized"
    )
    ratio: Pair = Field(
        default=(3 / 4, 4 / 3), description="smallest and largest width / height of the area; for crop: resized"
    )
    flip: bool | Literal["alternate"] = Field(
        default=False,
        description="mirror left and right with probability 0.5; alternate: an image in every second epoch, half of "
        "the images in each (Jordan 2024, arXiv:2404.00498, section 3.6)",
    )
    color_jitter: float = Field(
        default=0.0,
        ge=0,
        le=100,
        description="j changes brightness, contrast and, of RGB, saturation by a factor from 1 - j (not below 0) to "
        "1 + j, in random order",
    )
    hue: float = Field(
        default=0.0, ge=0, le=0.5, description="largest turn of the hue either way, as a share of the circle; of RGB"
    )
    rotation: float = Field(default=0.0, ge=0, le=180, description="largest rotation either way, in degrees")
    translate: float = Field(default=0.0, ge=0, le=1, description="largest shift either way, as a share of the size")
    cutout: int = Field(
        default=0,
        ge=0,
        le=1 << 14,
        description="side of a square, in pixels, that is set to the mean (DeVries and Taylor 2017); it may "
        "reach past the border; 0: none",
    )

    @model_validator(mode="after")
    def _check(self) -> Augment:
        if not 0 < self.scale[0] <= self.scale[1] <= 1:
            raise ValueError(f"scale must be (smallest, largest) within (0, 1], found {self.scale}")
        if not 0.01 <= self.ratio[0] <= self.ratio[1] <= 100:
            raise ValueError(f"ratio must be (smallest, largest) from 0.01 to 100, found {self.ratio}")
        for field, crop in (("pad", "pad"), ("scale", "resized"), ("ratio", "resized")):
            # a saved recipe also states the defaults: those do not warn
            if self.crop != crop and getattr(self, field) != type(self).model_fields[field].default:
                warnings.warn(
                    f"augment: {field} = {getattr(self, field)} has no effect with crop = {self.crop!r}, only with "
                    f"{crop!r}",
                    stacklevel=2,
                )
        return self
