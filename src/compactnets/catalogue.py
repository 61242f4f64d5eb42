"""What there is to choose from: the networks with their cost, and the recipes."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from importlib import resources
from pathlib import Path
from typing import Any

import torch
from torch import nn

from compactnets.complexity import CONVENTION, Cost, count, profile
from compactnets.console import Table, Tracker, stdout
from compactnets.data import Preprocess
from compactnets.errors import InputError
from compactnets.failures import one_line
from compactnets.models.peers import PEERS
from compactnets.models.pretrained import AUTHORS, VARIABLE, authors_files, find_weights
from compactnets.models.registry import FAMILIES, accepted_arguments, create_model, default_form, list_models
from compactnets.training.checkpoint import read_record
from compactnets.training.recipe_files import list_recipes
from compactnets.values import parse_settings

SUFFIX = ".safetensors"  # of what is a checkpoint's path and not a network's name


@dataclass(frozen=True)
class ListedNetwork:
    """A network and its cost in the form that its paper measures: 224 x 224 and 1000 classes, or 32 x 32 and 10.

    ``macs`` and ``params`` are ``None`` where the library that builds it is not installed; ``note`` says so.
    """

    name: str
    family: str
    stem: str
    input_size: tuple[int, int, int]
    macs: int | None
    params: int | None
    note: str = ""

    def to_dict(self) -> dict[str, Any]:
        """Return the fields for JSON."""
        return asdict(self)


def list_rows(pattern: str = "*") -> list[ListedNetwork]:
    """Build every network that matches ``pattern`` on the meta device and count its cost.

    Raises:
        InputError: no network matches.
    """
    names = list_models(pattern)
    if not names:
        accepted_arguments(pattern)  # raises, with the near matches
    return [_row(name) for name in Tracker(names, len(names), "counting")]


def _row(name: str) -> ListedNetwork:
    family = FAMILIES.get(name, "peer")
    note = PEERS[name].note if name in PEERS else ""
    form = default_form(name)
    size = form.pop("input_size")
    try:
        with torch.device("meta"):
            model = create_model(name, **form).eval()
    except InputError as error:
        return ListedNetwork(name, family, form["stem"], size, None, None, str(error))
    macs, params = count(model, size)
    return ListedNetwork(name, family, form["stem"], size, macs, params, note)


def show(rows: Iterable[ListedNetwork]) -> None:
    """Print the networks as a table."""
    table = Table("network", "family", "input")
    table.add_figures("MACs (M)", "params (M)")
    for row in rows:
        cost = [f"{value / 1e6:.{digits}f}" if value else "-" for value, digits in ((row.macs, 1), (row.params, 2))]
        table.add_row(row.name, row.family, " x ".join(map(str, row.input_size)), *cost)
    stdout.print(table)
    stdout.print(CONVENTION)


def weight_rows() -> list[dict[str, Any]]:
    """Return the weights that are here, and how to get the MENet authors' where they are not."""
    rows = [
        {
            "name": weights.name,
            "here": True,
            "top1_percent": weights.record["training"].get("top1_percent"),
            "megabytes": round(weights.path.stat().st_size / 1e6, 2),
            "source": weights.record["source"],
            "license": weights.record["license"],
        }
        for weights in find_weights().values()
    ]
    known = {row["name"] for row in rows}
    for model, file in authors_files().items():
        if (name := f"{model}.{AUTHORS}") not in known:
            how = f"compactnets convert {file['file']} --model {model} --output ${VARIABLE}/{name}.safetensors"
            rows.append({"name": name, "here": False, "source": how, "license": "none stated by its authors"})
    return rows


def show_weights(rows: Iterable[Mapping[str, Any]]) -> None:
    """Print the weights: a table of those that are here, and the commands that bring others."""
    table = Table("weights")
    table.add_figures("top-1, %", "MB")
    table.add_text("source", "licence")
    absent = [row for row in rows if not row["here"]]
    for row in rows:
        if row["here"]:
            top1 = "-" if row["top1_percent"] is None else f"{row['top1_percent']:.2f}"
            table.add_row(row["name"], top1, f"{row['megabytes']:.1f}", row["source"], row["license"])
    stdout.print(table)
    if absent:
        stdout.print("\nThe MENet authors' ImageNet checkpoints, once you have their files:")
    for row in absent:
        stdout.print(f"  {row['source']}")


def recipe_rows() -> list[dict[str, str]]:
    """Return name and description (the leading comment) of every recipe of the package."""
    rows = []
    for name in list_recipes():
        text = (resources.files("compactnets") / "recipes" / f"{name}.yaml").read_text(encoding="utf-8")
        head = itertools.takewhile(lambda line: line.startswith("#"), text.splitlines())
        lines = [line.removeprefix("#").strip() for line in head]
        rows.append({"name": name, "description": " ".join(lines)})
    return rows


def show_recipes(rows: Iterable[Mapping[str, str]]) -> None:
    """Print the recipes as a table."""
    table = Table("recipe", "what it is")
    table.padding = (0, 1, 1, 0)
    for row in rows:
        table.add_row(row["name"], row["description"])
    stdout.print(table)


def parse_arguments(pairs: Iterable[str]) -> dict[str, Any]:
    """Parse ``key=value`` arguments of a network; values are YAML.

    Raises:
        InputError: not of this form, or a key that stands twice.
    """
    return dict(parse_settings(pairs, "sharing=linear+none+none"))


def build_by_name(name: str, arguments: Mapping[str, Any]) -> nn.Module:
    """Build a network on the meta device: one with a name, or that of a classifier's checkpoint, without its weights.

    Args:
        name: of a network, or the path of a ``.safetensors`` checkpoint.
        arguments: of the network; those of a checkpoint hold where nothing else is said.
    """
    if name.endswith(SUFFIX):
        record = read_record(Path(name))
        name, arguments = record.model, {**record.arguments, **arguments}
    with torch.device("meta"):
        return create_model(name, **arguments).eval()


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


def profile_by_name(
    name: str, input_size: tuple[int, int, int] | None, batch_size: int, arguments: Mapping[str, Any]
) -> Cost:
    """Profile a network by its name, in the form that its stem suggests where the arguments leave it open.

    That of a classifier's checkpoint is profiled at the size that the checkpoint was made for.
    """
    if name.endswith(SUFFIX):
        record = read_record(Path(name))
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
