"""The recipe of a classifier, on top of the settings of every run."""

from __future__ import annotations

from typing import Any, Literal, Self

from pydantic import Field, field_validator, model_validator

from compactnets.data import Augment, Preprocess
from compactnets.data.menet_transforms import menet_transform
from compactnets.training.recipe import MOST, RunRecipe, Section


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


class ClassificationRecipe(RunRecipe):
    """A training run of a classifier.

    ``preprocess`` and ``in_chans`` follow the data if not given.
    """

    task: Literal["classification"] = "classification"
    batch_size: int = Field(128, gt=1, le=MOST, description="images per step over all processes together")
    initialization: Literal["fan_out", "fan_in"] | None = Field(
        None, description="Kaiming initialisation of this mode instead of the network's own"
    )
    label_smoothing: float = Field(0.0, ge=0, lt=1)
    mix: Mix = Mix()
    augment: Augment = Augment()
    preprocess: dict[str, Any] | None = Field(None, description="fields of Preprocess; from the data if not given")

    @field_validator("augment", mode="before")
    @classmethod
    def _named_transform(cls, value: Any) -> Any:
        return menet_transform(value) if isinstance(value, str) else value

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

    def resolve_preprocess(self, default: Preprocess) -> Preprocess:
        """Return the preprocessing: the data's own, with the recipe's fields over it."""
        return Preprocess.from_dict({**default.to_dict(), **self.preprocess}) if self.preprocess else default
