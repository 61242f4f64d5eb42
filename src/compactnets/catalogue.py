"""Lists of the networks with their cost, the weights and the recipes."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from importlib import resources
from typing import Any

import torch

from compactnets.complexity import CONVENTION, count
from compactnets.console import Table, Tracker, stdout
from compactnets.errors import InputError
from compactnets.models.peers import PEERS
from compactnets.models.pretrained import AUTHORS, VARIABLE, authors_files, find_weights
from compactnets.models.registry import FAMILIES, accepted_arguments, create_model, default_arguments, list_models
from compactnets.training.recipe_files import list_recipes

SUFFIX = ".safetensors"  # tells a checkpoint's path from a network's name


@dataclass(frozen=True)
class ListedNetwork:
    """A network and its cost as its paper measures it: 224 x 224 and 1000 classes, or 32 x 32 and 10.

    ``macs`` and ``params`` are ``None`` if the library that builds it is not installed; ``note`` explains.
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
    arguments, size = default_arguments(name)
    try:
        with torch.device("meta"):
            model = create_model(name, **arguments).eval()
    except InputError as error:
        return ListedNetwork(name, family, arguments["stem"], size, None, None, str(error))
    macs, params = count(model, size)
    return ListedNetwork(name, family, arguments["stem"], size, macs, params, note)


def show(rows: Iterable[ListedNetwork]) -> None:
    """Print the networks as a table."""
    table = Table("network", "family", "input")
    table.add_figures("MACs (M)", "params (M)")
    for row in rows:
        cost = [f"{value / 1e6:.{digits}f}" if value else "-" for value, digits in ((row.macs, 1), (row.params, 2))]
        table.add_row(row.name, row.family, " x ".join(map(str, row.input_size)), *cost)
    stdout.print(table)
    stdout.print(CONVENTION)


def list_weights() -> list[dict[str, Any]]:
    """Return the installed weights, and how to get the MENet authors' weights if they are missing."""
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
    """Print a table of the installed weights, and the commands that add others."""
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
    """Return name and description (the leading comment) of every built-in recipe."""
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
