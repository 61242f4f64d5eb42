"""Recipes: what a training run does, as data. YAML files of the same fields lie in ``compactnets/recipes``."""

from __future__ import annotations

import warnings
from collections.abc import Iterable
from importlib import resources
from pathlib import Path
from typing import Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from compactnets.data import Augment, Preprocess
from compactnets.errors import InputError, did_you_mean


class Section(BaseModel):
    """A group of settings: an unknown key is an error, and nothing changes after validation."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class Optimizer(Section):
    """``sgd`` is what both papers use; ``adamw`` forgives more in short runs."""

    name: Literal["sgd", "adamw"] = "sgd"
    momentum: float = Field(0.9, ge=0, lt=1, description="sgd: momentum; adamw: its first beta")
    nesterov: bool = Field(False, description="sgd only")
    weight_decay: float = Field(1e-4, ge=0)
    decay_norm_and_bias: bool = Field(True, description="also decay batch normalisation and biases")

    @model_validator(mode="after")
    def _nesterov_is_sgd(self) -> Optimizer:
        if self.nesterov and self.name != "sgd":
            warnings.warn(f"optimizer: nesterov has no effect with name = {self.name!r}", stacklevel=2)
        return self


class Schedule(Section):
    """How the learning rate moves from its peak."""

    name: Literal["cosine", "step", "constant"] = "cosine"
    warmup_epochs: float = Field(0, ge=0, description="linear from zero to the peak; fractions of an epoch are fine")
    step_epochs: int = Field(30, gt=0, description="step: epochs between two divisions")
    gamma: float = Field(0.1, gt=0, le=1, description="step: factor at each division")


class Recipe(Section):
    """A training run.

    The keys that everyone changes are at the top. ``preprocess`` and ``in_chans`` follow the data where they are not
    given.
    """

    model: str
    epochs: int = Field(gt=0)
    batch_size: int = Field(128, gt=1)
    lr: float = Field(0.1, gt=0, description="peak learning rate, for this batch size")
    seed: int = Field(0, ge=0)
    workers: int = Field(0, ge=0, description="processes that load images, besides the training one")
    model_arguments: dict[str, Any] = Field(default_factory=dict, description="what create_model takes besides")
    label_smoothing: float = Field(0.0, ge=0, lt=1)
    precision: Literal["float32", "bfloat16"] = Field("float32", description="bfloat16: automatic mixed precision")
    channels_last: bool = Field(False, description="memory layout of images and weights")
    compile: bool = Field(False, description="torch.compile the training step: a minute or two first, faster after")
    clip_grad_norm: float | None = Field(None, gt=0)
    optimizer: Optimizer = Optimizer()
    schedule: Schedule = Schedule()
    augment: Augment = Augment()
    preprocess: dict[str, Any] | None = Field(None, description="fields of Preprocess; from the data where not given")

    @model_validator(mode="after")
    def _warmup_is_shorter(self) -> Recipe:
        if self.schedule.warmup_epochs >= self.epochs:
            raise ValueError(
                f"schedule.warmup_epochs must be less than epochs = {self.epochs}, found {self.schedule.warmup_epochs}"
            )
        return self

    def resolve_preprocess(self, default: Preprocess) -> Preprocess:
        """Return the preprocessing: the data's own, with the recipe's fields over it."""
        return Preprocess.from_dict({**default.to_dict(), **self.preprocess}) if self.preprocess else default


def list_recipes() -> list[str]:
    """Return the names of the recipes in the package, such as ``cifar/muffnet``."""
    root = resources.files("compactnets") / "recipes"
    groups = sorted((entry for entry in root.iterdir() if entry.is_dir()), key=lambda entry: entry.name)
    return [
        f"{group.name}/{file.name.removesuffix('.yaml')}"
        for group in groups
        for file in sorted(group.iterdir(), key=lambda entry: entry.name)
        if file.name.endswith(".yaml")
    ]


def load_recipe(name: str, overrides: Iterable[str] = (), model: str | None = None) -> Recipe:
    """Read a recipe by its name in the package or the path of a YAML file.

    Args:
        overrides: ``key=value`` strings; nested keys with dots (``optimizer.nesterov=true``), values as YAML.
        model: replaces the recipe's network.

    Raises:
        InputError: no such recipe, not YAML, or a key or value that the recipe does not take.
    """
    settings = _read(name)
    if model is not None:
        settings["model"] = model
    for override in overrides:
        _apply(settings, override)
    try:
        return Recipe.model_validate(settings)
    except ValidationError as error:
        raise InputError(f"recipe {name}: {_explain(error)}") from None


def _read(name: str) -> dict[str, Any]:
    path = Path(name)
    if path.suffix in (".yaml", ".yml"):
        if not path.is_file():
            raise InputError(f"no recipe file at {path}")
        text = path.read_text(encoding="utf-8")
    elif name in list_recipes():
        text = (resources.files("compactnets") / "recipes" / f"{name}.yaml").read_text(encoding="utf-8")
    else:
        known = list_recipes()
        raise InputError(f"no recipe {name!r}{did_you_mean(name, known)} (one of {', '.join(known)}, or a .yaml file)")
    try:
        settings = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise InputError(f"recipe {name} is not valid YAML: {' '.join(str(error).split())}") from None
    if not isinstance(settings, dict):
        raise InputError(f"recipe {name} must be a mapping of settings, found {type(settings).__name__}")
    return settings


def _apply(settings: dict[str, Any], override: str) -> None:
    key, equals, text = override.partition("=")
    if not equals or not key:
        raise InputError(f"--set takes key=value, such as epochs=2 or optimizer.nesterov=true, found {override!r}")
    try:
        value = yaml.safe_load(text)
    except yaml.YAMLError:
        raise InputError(f"--set {key}: the value {text!r} is not valid YAML") from None
    *parents, last = key.split(".")
    for parent in parents:
        settings = settings.setdefault(parent, {})
        if not isinstance(settings, dict):
            raise InputError(f"--set {key}: {parent} is a single value, not a group of settings")
    settings[last] = value


def _explain(error: ValidationError) -> str:
    """Say the first problem in one line, with the near match of a key that does not exist."""
    problem = error.errors()[0]
    path = [str(part) for part in problem["loc"]]
    key = ".".join(path)
    if problem["type"] == "extra_forbidden":
        section: Any = Recipe
        for part in path[:-1]:
            section = section.model_fields[part].annotation
        known = list(section.model_fields)
        return f"unknown key {key!r}{did_you_mean(path[-1], known) or '; known: ' + ', '.join(known)}"
    if problem["type"] == "missing":
        return f"the key {key!r} is missing"
    message = problem["msg"].removeprefix("Value error, ")
    return f"{key}: {message}, found {problem['input']!r}" if key else message
