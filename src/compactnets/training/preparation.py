"""What every task does on the way from a recipe to a network with its first weights."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TypeVar

from torch import Tensor, nn

from compactnets.console import say
from compactnets.errors import InputError
from compactnets.models.form import compare, with_form
from compactnets.training.recipe import RunRecipe

Kind = TypeVar("Kind", bound=RunRecipe)


def begin_with(weights: Mapping[str, Tensor], model: nn.Module, init: Path, how: str) -> dict[str, Tensor]:
    """Return the weights that a run begins with, which may be of another form where ``how`` is ``"any"``.

    Raises:
        InputError: they are of another form than ``model``; the message says how to keep theirs, and how to go on.
    """
    if told := compare(weights, model.state_dict()):
        if how != "any":
            raise InputError(
                f"{init} holds weights of a network with {told}: the same tensors compute something else there. Give "
                f"its own in model_arguments, or --set init_form=any to begin with its tensors all the same"
            )
        say(f"init_form is any: {init} is of a network with {told}; its tensors are taken, what they compute is not")
    return with_form(weights, model, replace=True)


def fit_epochs(recipe: Kind, steps: int, spec: str) -> Kind:
    """Return the recipe with as many epochs as ``min_steps`` asks for, and as many evaluations as before.

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
