"""Steps of every task from a recipe to a network with its initial weights."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import TypeVar

from torch import Tensor, nn

from compactnets.console import say
from compactnets.errors import InputError
from compactnets.models.form import compare, with_form
from compactnets.training.distributed import World
from compactnets.training.recipe import RunRecipe

Kind = TypeVar("Kind", bound=RunRecipe)


def begin_with(weights: Mapping[str, Tensor], model: nn.Module, init: Path, how: str) -> dict[str, Tensor]:
    """Return the initial weights of a run; they may have another form if ``how`` is ``"any"``.

    Raises:
        InputError: their form differs from ``model``'s; the message says how to keep it, and how to proceed.
    """
    if told := compare(weights, model.state_dict()):
        if how != "any":
            raise InputError(
                f"{init} holds weights of a network with {told}: the same tensors compute something else here. Give "
                f"its own in model_arguments, or --set init_form=any to start from its tensors anyway"
            )
        say(f"init_form is any: {init} is of a network with {told}; its tensors are used, but compute something else")
    return with_form(weights, model, replace=True)


def fit_batch(recipe: Kind, images: int, spec: str, world: World, multiple: int = 1) -> Kind:
    """Return the recipe with a batch that the training images can fill: its learning rate is scaled to that.

    Args:
        images: number of training images.
        spec: what errors call the data.
        multiple: images of which each process must get a multiple: 2 where they are mixed in pairs.

    Raises:
        InputError: a batch that processes and parts cannot share, or too few images to give each of them some.
    """
    parts = world.size * recipe.accumulate
    least = math.lcm(parts, world.size * multiple)
    if images < least:
        raise InputError(f"{spec} has {images} training images: expected at least {least}")
    if recipe.batch_size > images:
        fitting = images // least * least
        say(f"batch_size is {fitting}, not {recipe.batch_size}: {spec} has {images} training images")
        return recipe.model_copy(update={"batch_size": fitting})
    if recipe.batch_size % least:
        pairs = f", each process with a multiple of {multiple} images" if multiple > 1 else ""
        raise InputError(
            f"batch_size = {recipe.batch_size} cannot be divided among {world.size} processes x {recipe.accumulate} "
            f"parts{pairs}: expected a multiple of {least}"
        )
    return recipe


def fit_epochs(recipe: Kind, steps: int, spec: str) -> Kind:
    """Return the recipe with enough epochs for ``min_steps``, and the same number of evaluations.

    Args:
        steps: of an epoch.
        spec: what the line that says so calls the data.
    """
    if recipe.min_steps is None or steps < 1 or recipe.epochs * steps >= recipe.min_steps:
        return recipe
    epochs = -(-recipe.min_steps // steps)
    between = max(1, round(recipe.eval_epochs * epochs / recipe.epochs))
    say(
        f"epochs are {epochs:,}, not {recipe.epochs:,}: {spec} gives {steps:,} steps an epoch, and the recipe asks for "
        f"min_steps = {recipe.min_steps:,}; an evaluation every {between:,}"
    )
    return recipe.model_copy(update={"epochs": epochs, "eval_epochs": between})
