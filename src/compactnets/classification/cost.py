"""The cost of a network given by name or as a checkpoint."""

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
from compactnets.models.registry import accepted_arguments, create_model, default_arguments
from compactnets.training.checkpoint import read_record
from compactnets.values import parse_settings

SUFFIX = ".safetensors"  # tells a checkpoint's path from a network's name


@dataclass(frozen=True)
class NetworkCost:
    """The cost of a network, and how much of it to print."""

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
    kind: type[CheckpointRecord] = CheckpointRecord,
) -> NetworkCost:
    """Count the cost of a network.

    Args:
        name: of a network, or the path of a classifier's checkpoint.
        arguments: ``key=value`` pairs of the network.
        input_size: (C, H, W); default: the size in the network's paper, or the checkpoint's.
        batch_size: images at once, for the activation memory.
        per_layer: whether :meth:`NetworkCost.show` has a row for each layer.
        kind: of a checkpoint's record.

    Raises:
        InputError: no such network or checkpoint, or arguments that it does not take.
    """
    merged = merge_arguments({"stem": stem, "num_classes": num_classes}, arguments)
    return NetworkCost(name, profile_by_name(name, input_size, batch_size, merged, kind), per_layer)


def parse_arguments(pairs: Iterable[str]) -> dict[str, Any]:
    """Parse ``key=value`` arguments of a network; values are YAML.

    Raises:
        InputError: not of this form, or a key given twice.
    """
    return dict(parse_settings(pairs, "sharing=linear+none+none"))


def merge_arguments(options: Mapping[str, Any], pairs: Iterable[str]) -> dict[str, Any]:
    """Merge a network's arguments from options (``None``: not given) and ``key=value`` pairs.

    Raises:
        InputError: a malformed pair, or one that contradicts an option.
    """
    given = {key: value for key, value in options.items() if value is not None}
    parsed = parse_arguments(pairs)
    for key in given.keys() & parsed.keys():
        if given[key] != parsed[key]:
            option = "--" + key.replace("_", "-")
            raise InputError(f"{option} gives {given[key]}, --set gives {key}={parsed[key]}: give only one")
    return {**given, **parsed}


def build_by_name(
    name: str, arguments: Mapping[str, Any], kind: type[CheckpointRecord] = CheckpointRecord
) -> nn.Module:
    """Build a network on the meta device: one with a name, or that of a classifier's checkpoint, without its weights.

    Args:
        name: of a network, or the path of a ``.safetensors`` checkpoint.
        arguments: of the network; they override a checkpoint's own.
        kind: of a checkpoint's record.
    """
    if name.endswith(SUFFIX):
        record = read_record(Path(name), kind)
        name, arguments = record.model, {**record.arguments, **arguments}
    with torch.device("meta"):
        return create_model(name, **arguments).eval()


def profile_by_name(
    name: str,
    input_size: tuple[int, int, int] | None,
    batch_size: int,
    arguments: Mapping[str, Any],
    kind: type[CheckpointRecord] = CheckpointRecord,
) -> Cost:
    """Profile a network by name. Arguments that are not given follow from its stem.

    A classifier's checkpoint is profiled at its own input size.
    """
    if name.endswith(SUFFIX):
        record = read_record(Path(name), kind)
        size = input_size or (record.arguments.get("in_chans", 3), *[Preprocess.from_dict(record.preprocess).size] * 2)
        return _profile(name, build_by_name(name, {"in_chans": size[0], **arguments}, kind), size, batch_size)
    accepted_arguments(name)
    defaults, (channels, height, width) = default_arguments(name, arguments.get("stem"))
    size = input_size or (arguments.get("in_chans", channels), height, width)
    model = build_by_name(name, {**defaults, "in_chans": size[0], **arguments})
    return _profile(name, model, size, batch_size)


def _profile(name: str, model: nn.Module, size: tuple[int, int, int], batch_size: int) -> Cost:
    with one_line(f"{name} cannot be profiled with {batch_size} x {' x '.join(map(str, size))}"):
        return profile(model, size, batch_size)
