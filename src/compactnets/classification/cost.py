"""What a network costs, by its name or as the network of a checkpoint."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from compactnets.classification.checkpoint import CheckpointRecord
from compactnets.complexity import Cost, profile, render
from compactnets.console import stdout
from compactnets.data import Preprocess
from compactnets.errors import InputError
from compactnets.failures import one_line
from compactnets.models.registry import accepted_arguments, create_model, default_form
from compactnets.training.checkpoint import read_record
from compactnets.values import parse_settings

SUFFIX = ".safetensors"  # of what is a checkpoint's path and not a network's name


@dataclass(frozen=True)
class NetworkCost:
    """The cost of a network, and how much of it a person wants to read."""

    name: str
    cost: Cost
    per_layer: bool = False

    def to_dict(self) -> dict[str, Any]:
        """Return everything, for JSON."""
        return {"model": self.name, **self.cost.to_dict()}

    def show(self) -> None:
        """Print a table."""
        stdout.print(render(self.cost, per_layer=self.per_layer))


def network_cost(
    name: str,
    arguments: Sequence[str] = (),
    *,
    input_size: tuple[int, int, int] | None = None,
    stem: str | None = None,
    num_classes: int | None = None,
    batch_size: int = 1,
    per_layer: bool = False,
) -> NetworkCost:
    """Count what a network costs.

    Args:
        name: of a network, or the path of a classifier's checkpoint.
        arguments: ``key=value`` pairs of the network.
        input_size: (C, H, W); that of the network's form, or of the checkpoint's preprocessing, if not given.
        batch_size: images at once, for the activation memory.
        per_layer: whether :meth:`NetworkCost.show` has a row for each layer.

    Raises:
        InputError: no such network or checkpoint, or arguments that it does not take.
    """
    merged = merge_arguments({"stem": stem, "num_classes": num_classes}, arguments)
    return NetworkCost(name, profile_by_name(name, input_size, batch_size, merged), per_layer)


def parse_arguments(pairs: Iterable[str]) -> dict[str, Any]:
    """Parse ``key=value`` arguments of a network; values are YAML.

    Raises:
        InputError: not of this form, or a key that stands twice.
    """
    return dict(parse_settings(pairs, "sharing=linear+none+none"))


def merge_arguments(options: Mapping[str, Any], pairs: Iterable[str]) -> dict[str, Any]:
    """Return a network's arguments from options, where None is none given, and ``key=value`` pairs.

    Raises:
        InputError: one of the pairs is not of this form, or says otherwise than an option.
    """
    given = {key: value for key, value in options.items() if value is not None}
    parsed = parse_arguments(pairs)
    for key in given.keys() & parsed.keys():
        if given[key] != parsed[key]:
            option = "--" + key.replace("_", "-")
            raise InputError(f"{option} says {given[key]}, --set says {key}={parsed[key]}: give one of them")
    return {**given, **parsed}


def build_by_name(name: str, arguments: Mapping[str, Any]) -> nn.Module:
    """Build a network on the meta device: one with a name, or that of a classifier's checkpoint, without its weights.

    Args:
        name: of a network, or the path of a ``.safetensors`` checkpoint.
        arguments: of the network; those of a checkpoint hold where nothing else is said.
    """
    if name.endswith(SUFFIX):
        record = read_record(Path(name), CheckpointRecord)
        name, arguments = record.model, {**record.arguments, **arguments}
    with torch.device("meta"):
        return create_model(name, **arguments).eval()


def profile_by_name(
    name: str, input_size: tuple[int, int, int] | None, batch_size: int, arguments: Mapping[str, Any]
) -> Cost:
    """Profile a network by its name, in the form that its stem suggests where the arguments leave it open.

    That of a classifier's checkpoint is profiled at the size that the checkpoint was made for.
    """
    if name.endswith(SUFFIX):
        record = read_record(Path(name), CheckpointRecord)
        size = input_size or (record.arguments.get("in_chans", 3), *[Preprocess.from_dict(record.preprocess).size] * 2)
        return _profile(name, build_by_name(name, {"in_chans": size[0], **arguments}), size, batch_size)
    accepted_arguments(name)
    form = default_form(name, arguments.get("stem"))
    channels, *default_side = form.pop("input_size")
    size = input_size or (arguments.get("in_chans", channels), *default_side)
    model = build_by_name(name, {**form, "in_chans": size[0], **arguments})
    return _profile(name, model, size, batch_size)


def _profile(name: str, model: nn.Module, size: tuple[int, int, int], batch_size: int) -> Cost:
    with one_line(f"{name} cannot be profiled with {batch_size} x {' x '.join(map(str, size))}"):
        return profile(model, size, batch_size)
