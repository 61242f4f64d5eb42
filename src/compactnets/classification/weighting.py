"""Unequal classes: weights of the classes in the loss, and how often each is drawn."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from compactnets.classification.recipe import ClassificationRecipe
from compactnets.console import say
from compactnets.data import ImageSource
from compactnets.data.base import shorten
from compactnets.errors import InputError, did_you_mean

SHOWN = 5  # classes in a line of the log


def class_weights(recipe: ClassificationRecipe, source: ImageSource) -> Tensor | None:
    """Return the weight of each class in the loss, ``(K,)`` float32; ``None`` where all are one.

    They are scaled to a mean of one over the drawn images, so that the learning rate need not change. A line of the log
    has those of the first classes.

    Raises:
        InputError: a weight for an unknown class.
    """
    given, names = recipe.class_weights, source.class_names
    if given == "none":
        return None
    counts = np.bincount(source.labels, minlength=len(names))
    # how often a class is drawn; the weights of classes that never are matter to smoothed labels alone
    drawn = (counts > 0).astype(float) if recipe.sampling == "balanced" else counts.astype(float)
    if isinstance(given, str):
        weights = 1 / np.where(drawn > 0, drawn, drawn[drawn > 0].mean())
    else:
        if unknown := [name for name in given if name not in names]:
            known = did_you_mean(unknown[0], names) or f" (its classes: {shorten(names)})"
            raise InputError(f"class_weights: {source.spec} has no class {unknown[0]!r}{known}")
        weights = np.array([float(given.get(name, 1.0)) for name in names])
    weights *= drawn.sum() / (drawn * weights).sum()
    order = np.argsort(-weights, kind="stable")
    ends = order if len(order) <= SHOWN else [*order[: SHOWN - 2], *order[-2:]]
    told = [f"{names[index]} {weights[index]:.3g} ({counts[index]:,} images)" for index in ends]
    if len(order) > SHOWN:
        told.insert(SHOWN - 2, "…")
    say(f"class_weights: {', '.join(told)}")
    return torch.from_numpy(weights).float()


def note_sampling(recipe: ClassificationRecipe, source: ImageSource) -> None:
    """Say how often images are drawn, if the classes are drawn equally often."""
    if recipe.sampling != "balanced":
        return
    counts = np.bincount(source.labels, minlength=len(source.class_names))
    steps = len(source) // recipe.batch_size
    each = steps * recipe.batch_size / np.count_nonzero(counts)
    least, most = (int(index) for index in (np.where(counts > 0, counts, counts.max()).argmin(), counts.argmax()))
    ends = [least] if least == most else [least, most]
    told = [f"{source.class_names[index]}'s {counts[index]:,} {each / counts[index]:.3g} times each" for index in ends]
    say(f"sampling: balanced: an epoch has {each:,.5g} images of every class, {' and '.join(told)}")
