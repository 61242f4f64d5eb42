"""Networks by name, from this package and other libraries, with fresh weights: for export and measurement."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import timm
import torch
from torch import nn

from compactnets.classification.checkpoint import CheckpointRecord
from compactnets.data import Preprocess
from compactnets.data.presets import CIFAR10, GREY_MEAN, GREY_STD, IMAGENET
from compactnets.errors import InputError, did_you_mean, missing_extra
from compactnets.failures import one_line
from compactnets.models.registry import accepted_arguments, create_model, default_arguments

IMAGENET_CLASSES = 1000
IMAGENET_CROP = 224 / 256  # crop size over the shorter side
SEED = 0  # for the weights of a network given by name
FRESH = f"fresh weights (seed {SEED}), not trained"  # the source stated in its record


def build_network(name: str, arguments: Mapping[str, Any] | None = None) -> tuple[nn.Module, CheckpointRecord]:
    """Build a network by name, in evaluation mode, with fresh weights that only serve for measurements.

    Args:
        name: of a network, or ``timm:NAME`` or ``pytorchcv:NAME`` to compare with.
        arguments: of the network; those of another library take none.

    Raises:
        InputError: no such network, or arguments that it does not take.
    """
    given = dict(arguments or {})
    if ":" in name:
        return _from_library(name, given)
    accepted_arguments(name)
    defaults, _ = default_arguments(name, given.get("stem"))
    given = {**defaults, **given}
    if given["num_classes"] < 1:
        raise InputError("an exported network needs a classifier, found num_classes = 0")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(SEED)
        model = create_model(name, **given).eval()
    return model, _fresh_record(name, given, _usual_preprocess(given))


def _fresh_record(name: str, arguments: dict[str, Any], preprocess: Preprocess) -> CheckpointRecord:
    return CheckpointRecord(
        model=name,
        arguments=arguments,
        class_names=[str(index) for index in range(arguments["num_classes"])],
        preprocess=preprocess.to_dict(),
        source=FRESH,
        license="none needed",
    )


def _from_library(what: str, arguments: dict[str, Any]) -> tuple[nn.Module, CheckpointRecord]:
    """Build ``timm:NAME`` or ``pytorchcv:NAME`` for comparisons, with that library's classes and input size."""
    library, _, name = what.partition(":")
    if arguments:
        raise InputError(f"{', '.join(arguments)} cannot be set for {what}")
    with torch.random.fork_rng(devices=[]), one_line(f"{what} cannot be built"):
        torch.manual_seed(SEED)
        if library == "timm":
            model, preprocess = _from_timm(name)
        elif library == "pytorchcv":
            model, preprocess = _from_pytorchcv(what, name)
        else:
            raise InputError(f"a network of another library is timm:NAME or pytorchcv:NAME, found {what!r}")
    classes = getattr(model, "num_classes", IMAGENET_CLASSES)
    if not isinstance(classes, int) or classes < 1:
        raise InputError(f"{what} has no classifier: an exported network needs one")
    return model.eval(), _fresh_record(what, {"num_classes": classes}, preprocess)


def _from_timm(name: str) -> tuple[nn.Module, Preprocess]:
    if not name or not timm.is_model(name):
        raise InputError(f"timm has no network {name!r}{did_you_mean(name, timm.list_models())}")
    model = timm.create_model(name)
    known: dict[str, Any] = model.pretrained_cfg  # type: ignore[assignment]
    channels, height, width = known.get("input_size", (3, IMAGENET.size, IMAGENET.size))
    if height != width or channels != len(known["mean"]):
        raise InputError(f"timm:{name} takes {channels} x {height} x {width}: square images are measured here")
    preprocess = dataclasses.replace(
        IMAGENET,
        size=height,
        resize=round(height / (known.get("crop_pct") or IMAGENET_CROP)),
        mean=tuple(known["mean"]),
        std=tuple(known["std"]),
    )
    return model, preprocess


def _from_pytorchcv(what: str, name: str) -> tuple[nn.Module, Preprocess]:
    try:
        from pytorchcv.model_provider import get_model
    except ImportError:
        raise missing_extra("pytorchcv", "peers", f"the network {what}") from None
    try:
        model = get_model(name)
    except ValueError as error:
        raise InputError(f"pytorchcv has no network {name!r}: {error}") from None
    height, width = getattr(model, "in_size", (IMAGENET.size, IMAGENET.size))
    if height != width:
        raise InputError(f"{what} takes {height} x {width}: square images are measured here")
    channels = getattr(model, "in_channels", 3)
    if channels != IMAGENET.channels:
        raise InputError(f"{what} takes {channels} channels: images of 3 are measured here")
    resize = round(height / IMAGENET_CROP)
    return model, IMAGENET if height == IMAGENET.size else dataclasses.replace(IMAGENET, size=height, resize=resize)


def _usual_preprocess(arguments: Mapping[str, Any]) -> Preprocess:
    usual = CIFAR10 if arguments["stem"] == "cifar" else IMAGENET
    channels = arguments.get("in_chans", usual.channels)
    if channels not in (1, usual.channels):
        raise InputError(f"images have 1 or 3 channels, found in_chans = {channels}")
    return usual if channels == 3 else dataclasses.replace(usual, mean=GREY_MEAN, std=GREY_STD)
