"""The recipe of a classifier, on top of the settings of every run."""

from __future__ import annotations

from typing import Any, Literal, Self

from pydantic import Field, field_validator, model_validator

from compactnets.data import Augment, Preprocess
from compactnets.data.menet_transforms import menet_transform
from compactnets.training.recipe import MOST, MOST_PIXELS, RunRecipe, Section, Values
from compactnets.values import shorten


class Mix(Section):
    """Mixing two images of a batch and their labels (timm's ``Mixup``); off if both alphas are zero."""

    mixup: float = Field(0.0, ge=0, le=1000, description="alpha of mixup's Beta distribution (Zhang et al. 2018)")
    cutmix: float = Field(0.0, ge=0, le=1000, description="alpha of CutMix's Beta distribution (Yun et al. 2019)")
    probability: float = Field(1.0, gt=0, le=1, description="share of the batches that are mixed")
    switch_probability: float = Field(0.5, ge=0, le=1, description="share of CutMix if both are on")
    last_epochs_without: int = Field(0, ge=0, le=MOST, description="epochs at the end that see unmixed images")

    @property
    def active(self) -> bool:
        """Whether any batch is mixed."""
        return self.mixup > 0 or self.cutmix > 0

    @model_validator(mode="after")
    def _settings_have_an_effect(self) -> Mix:
        self.warn_unless(
            self.active, ("probability", "last_epochs_without"), "mix: ", "with mixup and cutmix both zero"
        )
        both = self.mixup > 0 and self.cutmix > 0
        self.warn_unless(both, ("switch_probability",), "mix: ", "unless mixup and cutmix are both on")
        return self


class Distillation(Section):
    """Learning from a trained network besides the labels (Hinton et al. 2015); off without a teacher.

    The defaults are those of Tian et al. 2020 (arXiv:1910.10699) for the same loss.
    """

    teacher: str | None = Field(
        None, min_length=1, description="checkpoint, name of weights, timm:NAME or timm:NAME:FILE; --teacher"
    )
    temperature: float = Field(4.0, gt=0, le=1000, description="by which both networks' logits are divided")
    weight: float = Field(0.9, gt=0, le=1, description="share of the teacher in the loss; the labels have the rest")

    @model_validator(mode="after")
    def _settings_have_an_effect(self) -> Distillation:
        keys = ("temperature", "weight")
        self.warn_unless(self.teacher is not None, keys, "distillation: ", "without a teacher")
        return self


class Phase(Section):
    """A part of training with smaller images."""

    size: int = Field(gt=0, le=MOST_PIXELS, description="pixels of a side")
    share: float = Field(gt=0, lt=1, description="share of the run's steps")


FROM_INIT = "init"  # as a network or a preprocessing: that of the weights that a run starts from
MOST_PHASES = 6  # each size is compiled; torch gives up after eight


class ClassificationRecipe(RunRecipe):
    """A training run of a classifier.

    ``preprocess`` and ``in_chans`` follow the data if not given. As a ``model``, ``init`` stands for the network of
    ``--init``; whoever reads the recipe for a run puts its name there.
    """

    task: Literal["classification"] = "classification"
    batch_size: int = Field(128, gt=1, le=MOST, description="images per step over all processes together")
    initialization: Literal["fan_out", "fan_in"] | None = Field(
        None, description="Kaiming initialisation of this mode instead of the network's own"
    )
    zero_init_residual: bool = Field(
        False, description="fresh weights: residual branches begin at zero (Goyal et al. 2017, arXiv:1706.02677)"
    )
    whiten_stem: bool = Field(
        False, description="fresh weights: the first convolution whitens patches of the training images, and stays so"
    )
    batchnorm_momentum: float | None = Field(
        None, gt=0, le=1, description="share of a step's statistics in the running ones; default: the network's own"
    )
    progressive: Values[Phase] = Field(
        (), description="sizes of the first parts of training, rising; the rest is at full size"
    )
    hold_out: int = Field(
        0, ge=0, le=MOST, description="training images to evaluate on, of each class its share, in place of the split"
    )
    freeze_epochs: int = Field(
        0, ge=0, le=MOST, description="first epochs that train the classifier alone, on the trained weights of the rest"
    )
    split: float | None = Field(
        None, gt=0, lt=1, description="share of each class to train on, for undivided data; exact copies stay together"
    )
    label_smoothing: float = Field(0.0, ge=0, lt=1)
    class_weights: Literal["none", "balanced"] | dict[str, float] = Field(
        "none", description="of the loss; balanced: as if classes had equally many images; or CLASS: NUMBER, else 1"
    )
    sampling: Literal["uniform", "balanced"] = Field(
        "uniform", description="of an epoch; balanced: every class equally often, uniform: every image once"
    )
    mix: Mix = Mix()
    distillation: Distillation = Distillation()
    augment: Augment = Augment()
    preprocess: dict[str, Any] | None = Field(
        None, description="fields of Preprocess; the others are as preprocess_of says"
    )
    preprocess_of: Literal["data", "init"] = Field(
        "data", description="size and normalisation: usual for the data, or those that the weights of --init had"
    )

    @field_validator("augment", mode="before")
    @classmethod
    def _named_transform(cls, value: Any) -> Any:
        return menet_transform(value) if isinstance(value, str) else value

    @field_validator("class_weights", mode="before")
    @classmethod
    def _weights_of_classes(cls, value: Any) -> Any:
        if value in ("none", "balanced"):
            return value
        if not isinstance(value, dict):
            raise ValueError(f"expected none, balanced, or a mapping of class names to numbers, found {shorten(value)}")
        for name, weight in value.items():
            if type(weight) not in (int, float) or not 0 < weight <= MOST:
                raise ValueError(f"the weight of {name} must be a number above 0, found {shorten(weight)}")
        return value or "none"

    @model_validator(mode="after")
    def _weights_have_an_effect(self) -> Self:
        both = self.sampling == self.class_weights == "balanced"
        self.warn_unless(not both, ("class_weights",), "", "with sampling = 'balanced', which has the same aim")
        return self

    @model_validator(mode="after")
    def _mixing_fits(self) -> Self:
        if self.mix.last_epochs_without >= self.epochs:
            raise ValueError(
                f"mix.last_epochs_without must be less than epochs = {self.epochs}, found "
                f"{self.mix.last_epochs_without}"
            )
        if self.mix.active and self.batch_size % 2:
            raise ValueError(f"batch_size must be even if images are mixed in pairs, found {self.batch_size}")
        return self

    @model_validator(mode="after")
    def _something_is_left_to_thaw(self) -> Self:
        if self.freeze_epochs > self.epochs:
            raise ValueError(f"freeze_epochs must be at most epochs = {self.epochs}, found {self.freeze_epochs}")
        return self

    @model_validator(mode="after")
    def _sizes_rise(self) -> Self:
        sizes = [phase.size for phase in self.progressive]
        if sizes != sorted(set(sizes)):
            raise ValueError(f"progressive: sizes must rise, found {sizes}")
        if len(sizes) > MOST_PHASES:
            raise ValueError(f"progressive: at most {MOST_PHASES} sizes, found {len(sizes)}")
        if (total := sum(phase.share for phase in self.progressive)) >= 1:
            raise ValueError(f"progressive: the shares must leave some steps at full size, found {total:g} in all")
        return self

    def size_at(self, progress: float, full: int) -> int:
        """Return the side of the images after a share ``progress`` of the run's steps."""
        end = 0.0
        for phase in self.progressive:
            end += phase.share
            if progress < end:
                return phase.size
        return full

    @property
    def frozen_epochs(self) -> int:
        return self.freeze_epochs

    @property
    def dynamic(self) -> bool | None:
        return False if self.progressive else None

    def resolve_preprocess(self, default: Preprocess) -> Preprocess:
        """Return the preprocessing: the given one, with the recipe's fields over it."""
        return Preprocess.from_dict({**default.to_dict(), **self.preprocess}) if self.preprocess else default
