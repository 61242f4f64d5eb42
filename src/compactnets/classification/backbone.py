"""A classifier's weights as the start of another task's backbone."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from torch import Tensor, nn

from compactnets.classification.checkpoint import CheckpointRecord, check_float, read_weights
from compactnets.errors import InputError
from compactnets.models.backbone import create_backbone
from compactnets.models.pretrained import locate
from compactnets.training.checkpoint import load_weights, read_record
from compactnets.training.foreign import is_foreign, read_foreign, without_classifier
from compactnets.training.preparation import begin_with
from compactnets.training.recipe import RunRecipe


def backbone_from_classifier(recipe: RunRecipe, init: Path) -> nn.Module:
    """Return the recipe's network with a classifier's weights and number of classes; its head is dropped anyway.

    Args:
        init: a classifier of this package, the name of its weights, or a classifier's weights without a record
            (:mod:`compactnets.training.foreign`), such as one of the MENet repository (``.pth.tar``).

    Raises:
        InputError: a checkpoint of another network, or one that cannot be used.
    """
    weights: Mapping[str, Tensor]
    if is_foreign(init := locate(init)):
        model = create_backbone(recipe.model, recipe.model_arguments)
        weights = without_classifier(read_foreign(init, model, recipe.model), model)
    else:
        found = read_record(init, CheckpointRecord)
        if found.model != recipe.model:
            raise InputError(f"{init} is a checkpoint of {found.model}, the recipe's backbone is {recipe.model}")
        check_float(found, init)
        weights = read_weights(init, found)
        model = create_backbone(recipe.model, {**found.arguments, **recipe.model_arguments})
    load_weights(model, begin_with(weights, model, init, recipe.init_form), recipe.model, init)
    return model
