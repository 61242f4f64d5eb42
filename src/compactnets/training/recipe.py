"""Recipes: the settings of a training run, as data. Built-in YAML files are in ``compactnets/recipes``."""

from __future__ import annotations

import math
import warnings
from typing import Annotated, Any, Literal, Self, TypeVar

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

Value = TypeVar("Value")
# types are strict (1 is a number but not true, 2.0 is not an integer); only YAML's lists become tuples
Pair = Annotated[tuple[Value, Value], Field(strict=False)]
Values = Annotated[tuple[Value, ...], Field(strict=False)]
# no run needs more, and beyond it libraries fail in obscure ways
MOST = 10**9  # epochs, steps, images
MOST_PIXELS = 1 << 14  # of a side
MOST_SEED = 2**63 - 1  # limit of torch's generators


class Section(BaseModel):
    """A group of settings: an unknown key is an error, types are strict, and it is immutable after validation."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False, strict=True)

    def warn_unless(self, used: bool, keys: tuple[str, ...], where: str, condition: str) -> None:
        """Warn about each of ``keys`` that is not at its default but has no effect."""
        for key in keys:
            # a saved recipe also states the defaults: those do not warn
            if not used and getattr(self, key) != type(self).model_fields[key].get_default():
                warnings.warn(f"{where}{key} has no effect {condition}", stacklevel=2)


ADAPTIVE = ("adam", "adamw", "muon")
OPTIMIZER_SETTINGS = {
    "momentum": ("sgd", "rmsprop", "muon"),
    "nesterov": ("sgd",),
    "betas": ADAPTIVE,
    "alpha": ("rmsprop",),
    "rho": ("adadelta",),
    "eps": (*ADAPTIVE, "rmsprop", "adadelta"),
    "centered": ("rmsprop",),
}


class Optimizer(Section):
    """One of torch's optimizers; ``sgd`` is what both papers use, ``adamw`` forgives more in short runs.

    ``muon`` is Muon for the kernels of convolutions and AdamW for the rest (:mod:`compactnets.training.muon`).
    """

    name: Literal["sgd", "adam", "adamw", "rmsprop", "adadelta", "muon"] = "sgd"
    momentum: float = Field(0.9, ge=0, lt=1, description="sgd, rmsprop, muon")
    nesterov: bool = Field(False, description="sgd")
    betas: Pair[float] = Field((0.9, 0.999), description="adam, adamw, muon")
    alpha: float = Field(0.99, ge=0, lt=1, description="rmsprop: decay of the running mean square")
    rho: float = Field(0.9, ge=0, lt=1, description="adadelta: decay of the running mean square")
    eps: float | None = Field(None, gt=0, le=1, description="all but sgd; default: torch's own value")
    centered: bool = Field(False, description="rmsprop: divide by the variance instead of the mean square")
    weight_decay: float = Field(1e-4, ge=0, le=100)
    decay_norm_and_bias: bool = Field(True, description="also decay batch normalisation and biases")
    layer_decay: float = Field(
        1.0, gt=0, le=1, description="factor of the learning rate from each block to the one before it; 1: none"
    )

    @model_validator(mode="after")
    def _settings_have_an_effect(self) -> Optimizer:
        if not all(0 <= beta < 1 for beta in self.betas):
            raise ValueError(f"betas must be two numbers from 0 to below 1, found {self.betas}")
        for key, names in OPTIMIZER_SETTINGS.items():
            self.warn_unless(self.name in names, (key,), "optimizer: ", f"with name = {self.name!r}")
        return self


class Schedule(Section):
    """The schedule of the learning rate; epochs may be fractional."""

    name: Literal["cosine", "linear", "poly", "step", "multistep", "exponential", "constant"] = "cosine"
    warmup_epochs: float = Field(
        0, ge=0, le=MOST, description="linear from zero to the peak; fractions of an epoch are fine"
    )
    end: float = Field(0.0, ge=0, le=1, description="cosine, linear, poly: share of the peak left at the end")
    power: float = Field(
        0.9, gt=0, le=10, description="poly: of the share of the run that is left (arXiv:1606.00915, section 4.1)"
    )
    step_epochs: int = Field(30, gt=0, le=MOST, description="step: epochs between two divisions")
    milestones: Values[int] = Field((), description="multistep: the epochs of the divisions")
    gamma: float = Field(
        0.1, gt=0, le=1, description="factor of step and multistep at each division, of exponential per epoch"
    )

    @model_validator(mode="after")
    def _settings_have_an_effect(self) -> Schedule:
        if self.name == "multistep" and not self.milestones:
            raise ValueError("name = 'multistep' needs milestones, the epochs at which the rate is divided")
        if list(self.milestones) != sorted(set(self.milestones)) or any(epoch <= 0 for epoch in self.milestones):
            raise ValueError(f"milestones must be rising positive epochs, found {list(self.milestones)}")
        condition = f"with name = {self.name!r}"
        self.warn_unless(self.name in ("cosine", "linear", "poly"), ("end",), "schedule: ", condition)
        self.warn_unless(self.name == "poly", ("power",), "schedule: ", condition)
        self.warn_unless(self.name == "step", ("step_epochs",), "schedule: ", condition)
        self.warn_unless(self.name == "multistep", ("milestones",), "schedule: ", condition)
        self.warn_unless(self.name in ("step", "multistep", "exponential"), ("gamma",), "schedule: ", condition)
        return self


# settings that do not affect the result of a run: they may change on resume
FREE_TO_CHANGE = (
    "workers",
    "compile",
    "kernels",
    "print_frequency",
    "checkpoint_minutes",
    "on_error",
    "max_skipped",
    "init_form",
)
BY_CONTENT = ("distillation.teacher",)  # paths of files whose content is compared instead


class RunRecipe(Section):
    """The settings of a run for every task; the most common keys come first."""

    model: str = Field(min_length=1)
    epochs: int = Field(gt=0, le=MOST)
    min_steps: int | None = Field(
        None, gt=0, le=MOST, description="minimum number of steps; small data sets get more epochs"
    )
    batch_size: int = Field(128, gt=0, le=MOST, description="images per step over all processes together")
    lr: float = Field(0.1, gt=0, le=1000, description="peak learning rate at a batch of lr_batch_size")
    lr_batch_size: int | None = Field(
        None,
        gt=0,
        le=MOST,
        description="batch size that lr is for, and is scaled from; default: batch_size in the file",
    )
    lr_scaling: Literal["auto", "linear", "sqrt", "none"] = Field(
        "auto",
        description="with batch_size / lr_batch_size; auto: linear, but square root for adam, adamw and muon",
    )
    seed: int = Field(0, ge=0, le=MOST_SEED)
    workers: int = Field(0, ge=0, le=1024, description="worker processes that load images")
    model_arguments: dict[str, Any] = Field(default_factory=dict, description="further arguments of create_model")
    precision: Literal["float32", "bfloat16", "float16"] = Field("float32", description="of automatic mixed precision")
    channels_last: bool = Field(False, description="memory layout of images and weights")
    compile: bool | Literal["default", "reduce-overhead", "max-autotune"] = Field(
        False, description="torch.compile the training step; true: if it pays off; a mode of torch's: always"
    )
    kernels: Literal["auto", "own", "torch"] = Field(
        "torch",
        description="own: the package's, uncompiled, for classifiers on a CPU; auto: own where possible, else torch's",
    )
    accumulate: int = Field(1, gt=0, le=MOST, description="micro-batches into which each process splits its batch")
    clip_grad_norm: float | None = Field(None, gt=0, le=MOST)
    ema_decay: float | None = Field(
        None, gt=0, lt=1, description="average the weights over steps, and evaluate the average"
    )
    sync_batchnorm: bool = Field(True, description="several processes: batch statistics over all of them")
    eval_epochs: int = Field(
        1, gt=0, le=MOST, description="epochs between two evaluations; the last epoch always has one"
    )
    patience: int | None = Field(
        None, gt=0, le=MOST, description="evaluations without a better score after which the run stops early"
    )
    print_frequency: int | None = Field(
        None, gt=0, le=MOST, description="steps between two lines of a log; else 15 seconds"
    )
    checkpoint_minutes: float = Field(5, ge=0, le=MOST, description="most time that a kill can cost")
    on_error: Literal["raise", "skip"] = Field(
        "raise", description="what to do with an unreadable training image; for a detector also a validation image"
    )
    max_skipped: int = Field(100, gt=0, le=MOST, description="skip: number of unreadable images at which the run fails")
    init_form: Literal["same", "any"] = Field(
        "same", description="--init: any also accepts tensors with another stem, fusion or sharing"
    )
    optimizer: Optimizer = Optimizer()
    schedule: Schedule = Schedule()

    @model_validator(mode="before")
    @classmethod
    def _rate_is_for_this_batch(cls, values: Any) -> Any:
        if isinstance(values, dict) and values.get("lr_batch_size") is None:
            return {**values, "lr_batch_size": values.get("batch_size", cls.model_fields["batch_size"].default)}
        return values

    @field_validator("model_arguments", "preprocess", check_fields=False)
    @classmethod
    def _numbers_are_finite(cls, value: Any) -> Any:
        if not _is_finite(value):
            raise ValueError("every number must be finite")
        return value

    @model_validator(mode="after")
    def _schedule_fits(self) -> Self:
        if self.schedule.warmup_epochs >= self.epochs:
            raise ValueError(
                f"schedule.warmup_epochs must be less than epochs = {self.epochs}, found {self.schedule.warmup_epochs}"
            )
        late = [epoch for epoch in self.schedule.milestones if epoch >= self.epochs]
        if late:
            raise ValueError(f"schedule.milestones must be below epochs = {self.epochs}, found {late[0]}")
        if self.schedule.name == "step" and self.schedule.step_epochs >= self.epochs:
            warnings.warn(
                f"schedule: step_epochs = {self.schedule.step_epochs} has no effect in {self.epochs} epochs",
                stacklevel=2,
            )
        self.warn_unless(self.on_error == "skip", ("max_skipped",), "", "with on_error = 'raise'")
        return self

    @property
    def peak_lr(self) -> float:
        """The peak learning rate at ``batch_size``: ``lr``, scaled as ``lr_scaling`` says."""
        scaling = self.lr_scaling
        if scaling == "auto":
            scaling = "sqrt" if self.optimizer.name in ADAPTIVE else "linear"
        assert self.lr_batch_size is not None
        ratio = self.batch_size / self.lr_batch_size
        return self.lr * {"linear": ratio, "sqrt": ratio**0.5, "none": 1.0}[scaling]

    @property
    def frozen_epochs(self) -> int:
        """The first epochs, in which only the network's classifier learns."""
        return 0

    @property
    def dynamic(self) -> bool | None:
        """As ``torch.compile`` takes it: false where images have a few sizes, each compiled; none: torch decides."""
        return None


def _is_finite(value: Any) -> bool:
    if isinstance(value, dict):
        return all(_is_finite(each) for each in value.values())
    if isinstance(value, list | tuple):
        return all(_is_finite(each) for each in value)
    return not isinstance(value, float) or math.isfinite(value)
