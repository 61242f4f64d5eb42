"""Build a recipe's network with its initial weights."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import nn

from compactnets.classification.checkpoint import CheckpointRecord, Int8Training, check_float, read_weights
from compactnets.classification.recipe import FROM_INIT, ClassificationRecipe
from compactnets.console import say
from compactnets.data import ImageSource, Preprocess, open_source
from compactnets.data.base import readable
from compactnets.data.content import spread
from compactnets.data.dividing import open_parts
from compactnets.data.part import hold_out
from compactnets.errors import InputError
from compactnets.files import as_path
from compactnets.models.registry import accepted_arguments, create_model
from compactnets.nn import initialize, whiten, zero_residuals
from compactnets.training.checkpoint import load_weights, read_record
from compactnets.training.foreign import WHAT_TO_DO, is_foreign, read_foreign, renew_classifier
from compactnets.training.preparation import begin_with
from compactnets.training.recipe import RunRecipe

Kind = TypeVar("Kind", bound=RunRecipe)
WHITENED = 1000  # images that the first convolution is whitened by


@dataclass(frozen=True)
class Prepared:
    """A network ready to be trained.

    Attributes:
        preprocess: of the images.
        model: the network with its initial weights. Modules list parameters without weight decay in ``undecayed``, with
            a learning-rate factor.
        arguments: the arguments that rebuild the network.
        int8: the record of int8 training, if the network is quantised.
        compile: a function that compiles the network's own parts for the recipe's ``compile``; the step is then not
            compiled.
    """

    preprocess: Preprocess
    model: nn.Module
    arguments: dict[str, Any]
    int8: Int8Training | None = None
    compile: Callable[[], None] | None = None


Prepare = Callable[[ClassificationRecipe, ImageSource, Path | None], Prepared]


def open_splits(
    name: str, held_out: int = 0, share: float | None = None, *, download: bool = False
) -> tuple[ImageSource, ImageSource]:
    """Open the images to train on and those to evaluate on: the splits, or two parts of the training images.

    Args:
        held_out: training images to evaluate on in place of the split ``val``, which is then not opened.
        share: of undivided images to train on (:func:`compactnets.data.dividing.open_parts`).

    Raises:
        InputError: as :func:`compactnets.data.open_source`, or more images than can be held out.
    """
    if not held_out:
        if share is not None:
            return open_parts(name, share, download=download)
        return open_source(name, "train", download=download), open_source(name, "val", download=download)
    train = open_training(name, share, download=download)
    say(f"hold_out: evaluations are on {held_out:,} training images, which are not trained on")
    return hold_out(train, held_out)


def open_training(name: str, share: float | None = None, *, download: bool = False) -> ImageSource:
    """Open the images to train on, as :func:`open_splits` without any held out.

    Raises:
        InputError: as there.
    """
    if share is not None:
        return open_parts(name, share, download=download)[0]
    return open_source(name, "train", download=download)


def network_of(init: Path | None, who: str, kind: type[CheckpointRecord] = CheckpointRecord) -> str:
    """Return the name of the network whose trained weights a run starts from.

    Args:
        who: needs it, in errors.
        kind: the type of the weights' record.

    Raises:
        InputError: no checkpoint, or weights without a record.
    """
    if init is None:
        raise InputError(
            f"{who} starts from trained weights: give --init, a checkpoint or a name that compactnets weights lists"
        )
    if is_foreign(init):
        raise InputError(f"{init} has no record that names its network: give --model as well")
    return read_record(init, kind).model


def prepare(
    recipe: ClassificationRecipe,
    source: ImageSource,
    init: str | Path | None = None,
    kind: type[CheckpointRecord] = CheckpointRecord,
) -> Prepared:
    """Build the network of a recipe for the classes and channels of a source.

    Args:
        init: checkpoint with the initial weights, or weights without a record
            (:mod:`compactnets.training.foreign`); the classifier is replaced if the classes differ.
        kind: the type of the record of ``init``.

    Raises:
        InputError: an unknown network or argument, or a checkpoint of another network.
    """
    init = None if init is None else as_path(init)
    skips = recipe.on_error == "skip"  # also for the images that are looked at here
    of_data = source.readable_preprocess if skips else source.default_preprocess
    preprocess = recipe.resolve_preprocess(
        _of_init(init, of_data, kind) if recipe.preprocess_of == FROM_INIT else of_data
    )
    given = {key for key in ("num_classes", "in_chans") if key in recipe.model_arguments}
    if given:
        raise InputError(f"model_arguments: {' and '.join(sorted(given))} follow from the data: remove them")
    accepted_arguments(recipe.model)
    torch.manual_seed(recipe.seed)
    arguments = {**recipe.model_arguments, "num_classes": len(source.class_names), "in_chans": preprocess.channels}
    if init is None:
        model = create_model(recipe.model, **arguments)
        if recipe.initialization is not None:
            initialize(model, recipe.initialization)
        if recipe.zero_init_residual and not zero_residuals(model):
            raise InputError(f"zero_init_residual: {recipe.model} has no residual branches: remove it")
        if recipe.whiten_stem:
            _whiten_stem(model, source, preprocess)
        return Prepared(preprocess, model, arguments)
    for key in ("initialization", "zero_init_residual", "whiten_stem"):
        if getattr(recipe, key):
            raise InputError(f"{key} is for fresh weights: remove it, or do not pass --init")
    if is_foreign(init):
        model = create_model(recipe.model, **arguments)
        weights = begin_with(read_foreign(init, model, recipe.model), model, init, recipe.init_form)
        weights = renew_classifier(weights, model, init, source.spec)
        load_weights(model, weights, recipe.model, init, WHAT_TO_DO)
        return Prepared(preprocess, model, arguments)
    record = read_record(init, kind)
    check_float(record, init)
    if record.model != recipe.model:
        raise InputError(f"{init} is a checkpoint of {record.model}, the recipe trains {recipe.model}")
    arguments = {**record.arguments, **arguments}
    model = create_model(recipe.model, **arguments)
    weights = begin_with(read_weights(init, record), model, init, recipe.init_form)
    if record.class_names != list(source.class_names):
        found, wanted = len(record.class_names), len(source.class_names)
        say(f"classifier replaced: {init} has {found} classes, {source.spec} has {wanted}")
        fresh = model.state_dict()
        weights |= {key: fresh[key] for key in fresh if key.startswith("classifier.")}
    load_weights(model, weights, recipe.model, init)
    return Prepared(preprocess, model, arguments)


def _of_init(init: Path | None, of_data: Preprocess, kind: type[CheckpointRecord]) -> Preprocess:
    """Return the preprocessing that the initial weights were trained with; that of the data if nothing states it."""
    if init is None:
        raise InputError(f"preprocess_of is {FROM_INIT}, but there is no --init: give it, or --set preprocess_of=data")
    if is_foreign(init):
        say(f"{init} does not state its preprocessing: taking that of the data")
        return of_data
    return Preprocess.from_dict(read_record(init, kind).preprocess)


def _whiten_stem(model: nn.Module, source: ImageSource, preprocess: Preprocess) -> None:
    """Whiten the first convolution by a sample of the training images."""
    first = next(each for each in model.modules() if isinstance(each, nn.Conv2d))
    images = [preprocess(source.image(index)) for index in readable(source, spread(len(source), WHITENED))]
    whiten(first, torch.stack(images))
