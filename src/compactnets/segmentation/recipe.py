"""Recipes of segmenters: the settings of a run and of the network."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import Field, field_validator, model_validator

from compactnets.training.recipe import MOST, MOST_PIXELS, Pair, RunRecipe, Section, Values

Head = Literal["lraspp", "deeplabv3plus"]
Size = Pair[Annotated[int, Field(ge=32, le=MOST_PIXELS)]]  # height and width, pixels
MOST_CHANNELS = 1 << 14
IGNORED = 255  # the value of pixels that belong to no class, in masks and labels


class LRASPPSettings(Section):
    """LR-ASPP (arXiv:1905.02244, section 6.4)."""

    low: int = Field(8, gt=0, le=MOST_PIXELS, description="reduction of the low-level map")
    channels: int = Field(128, gt=0, le=MOST_CHANNELS, description="of the two branches")


class DeepLabV3PlusSettings(Section):
    """DeepLabV3+ (arXiv:1802.02611)."""

    low: int = Field(4, gt=0, le=MOST_PIXELS, description="reduction of the low-level map (section 3.1)")
    low_channels: int = Field(48, gt=0, le=MOST_CHANNELS, description="to which it is reduced (section 4.1)")
    channels: int = Field(256, gt=0, le=MOST_CHANNELS, description="of the pyramid and the decoder")
    rates: Values[Annotated[int, Field(gt=0, le=1024)]] = Field(
        (6, 12, 18), min_length=3, max_length=3, description="dilations at an output stride of 16"
    )
    dropout: float = Field(0.5, ge=0, lt=1, description="after the pyramid; torchvision's")


class SegmenterSettings(Section):
    """What defines a segmenter besides its backbone."""

    head: Head = "lraspp"
    output_stride: Literal[8, 16, 32] = Field(16, description="reduction of the backbone's last map")
    lraspp: LRASPPSettings = LRASPPSettings()
    deeplabv3plus: DeepLabV3PlusSettings = DeepLabV3PlusSettings()
    auxiliary: float = Field(0.0, ge=0, le=10, description="weight of the auxiliary head's loss; 0: no such head")

    @property
    def low_stride(self) -> int:
        """Reduction of the head's low-level map."""
        return self.lraspp.low if self.head == "lraspp" else self.deeplabv3plus.low

    @property
    def stride(self) -> int:
        """Reduction of the scores; sides that it does not divide are rounded up."""
        return min(self.low_stride, self.output_stride)


class MaskAugment(Section):
    """Changes of an image and its mask together; masks are never interpolated.

    The order is: scale, crop (padded with pixels of no class), flip, colours.
    """

    crop: Size = Field((512, 512), description="height and width of the training images")
    scale: Pair[Annotated[float, Field(gt=0, le=100)]] = Field(
        (0.5, 2.0), description="range of random scales, of an image that fits the crop"
    )
    flip: bool = Field(True, description="left and right, half of the time")
    photometric: bool = Field(False, description="random brightness, contrast, saturation and hue, as in SSD")

    @model_validator(mode="after")
    def _scales_rise(self) -> Self:
        if self.scale[0] > self.scale[1]:
            raise ValueError(f"scale must be the smallest and the largest, found {list(self.scale)}")
        return self


class SegmentationRecipe(RunRecipe, SegmenterSettings):
    """A training run of a segmenter."""

    task: Literal["segmentation"] = "segmentation"
    batch_size: int = Field(8, gt=0, le=MOST, description="images per step over all processes together")
    size: Size | None = Field(
        None, description="height and width to which images are scaled for the network in use; null: their own"
    )
    train_split: str = Field("train", min_length=1)
    val_split: str = Field("val", min_length=1)
    classes: Values[str] | None = Field(
        None, min_length=1, max_length=IGNORED, description="names in the order of the values; null: the data's own"
    )
    ignore: Values[Annotated[int, Field(ge=0, le=255)]] = Field(
        (), description="values of pixels that belong to no class, besides 255"
    )
    class_weights: Literal["none", "median", "log"] = Field(
        "none",
        description="of the loss, by frequency: median frequency balancing (SegNet), or 1 / ln(1.02 + share) (ENet)",
    )
    augment: MaskAugment = MaskAugment()

    @field_validator("classes")
    @classmethod
    def _classes_differ(cls, classes: tuple[str, ...] | None) -> tuple[str, ...] | None:
        if classes and (len(set(classes)) < len(classes) or not all(name.strip() for name in classes)):
            raise ValueError(f"expected names that differ, found {list(classes)}")
        return classes

    @model_validator(mode="after")
    def _settings_have_an_effect(self) -> Self:
        for name in ("lraspp", "deeplabv3plus"):
            if name != self.head:
                self.warn_unless(False, (name,), "", f"with head = {self.head!r}")
        return self

    @property
    def segmenter(self) -> SegmenterSettings:
        """The settings that define the network."""
        return SegmenterSettings(**{name: getattr(self, name) for name in SegmenterSettings.model_fields})
