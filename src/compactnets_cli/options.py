"""Options that several verbs take, and how a verb prints JSON."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer

DATA = "Folder of images, Parquet or WebDataset shards, CIFAR files; digits, cifar10, cifar100; or hf:OWNER/NAME."

AsJson = Annotated[bool, typer.Option("--json", help="Print JSON instead of text.")]
Data = Annotated[str, typer.Option(help=DATA)]
Device = Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:1, mps")]
Download = Annotated[bool, typer.Option("--download", help="Fetch cifar10, cifar100 or hf:NAME where it is missing.")]
Checkpoint = Annotated[
    Path | None,
    typer.Option(help="A .safetensors file with its .json record, or the folder of an exported network."),
]
Pretrained = Annotated[
    str | None,
    typer.Option("--model", help="Weights by name instead, such as muffnet_x0_5.cifar10 (compactnets weights)."),
]
Arguments = Annotated[
    list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="An argument of the network; may be repeated.")
]


def print_json(value: Any) -> None:
    """Print one JSON document on standard output."""
    print(json.dumps(value, indent=2, ensure_ascii=False))


def print_settings(settings: dict[str, Any], as_json: bool) -> None:
    """Print a resolved recipe: YAML that can be saved as a recipe of one's own, or JSON."""
    if as_json:
        print_json(settings)
        return
    from compactnets.values import dump_yaml

    print(dump_yaml(settings), end="")


def one_checkpoint(verb: str, checkpoint: Path | None, model: str | None) -> Path:
    """Return the checkpoint that a verb was given, as ``--checkpoint`` or by the name of weights.

    Raises:
        InputError: neither, both, or a name that no weights here have.
    """
    from compactnets.errors import InputError
    from compactnets.models.pretrained import find_weights
    from compactnets.models.registry import check_weights

    if (checkpoint is None) == (model is None):
        raise InputError(f"{verb} takes either --checkpoint FILE or --model NAME.TAG (compactnets weights)")
    if model is None:
        assert checkpoint is not None
        return checkpoint
    check_weights(model)
    return find_weights()[model].path
