"""Recipes of networks for several labels: those of a classifier, without what needs one label per image."""

from __future__ import annotations

from typing import Literal, Self

from pydantic import Field, model_validator

from compactnets.classification.recipe import ClassificationRecipe


class MultilabelRecipe(ClassificationRecipe):
    """A training run of a network for several labels per image, by binary cross-entropy."""

    task: Literal["multilabel"] = "multilabel"  # type: ignore[assignment]
    threshold: float = Field(0.5, gt=0, lt=1, description="probability from which on an image counts as of a class")

    @model_validator(mode="after")
    def _nothing_needs_one_label(self) -> Self:
        settings = {
            "label_smoothing": (self.label_smoothing > 0, "0"),
            "mix": (self.mix.active, "null"),
            "distillation": (self.distillation.teacher is not None, "null"),
            "class_weights": (self.class_weights != "none", "none"),
            "sampling": (self.sampling != "uniform", "uniform"),
            "hold_out": (self.hold_out > 0, "0"),
        }
        for name, (given, off) in settings.items():
            if given:
                raise ValueError(f"{name} is for images with one label each: set {name}: {off}, or leave it out")
        return self
