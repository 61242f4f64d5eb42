"""Options that several verbs take, and how a verb prints JSON."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated, Any

import typer

DATA = "Folder of images, Parquet or WebDataset shards, CIFAR files; digits, cifar10, cifar100; or hf:OWNER/NAME."
MORE_DATA = " Images with boxes: a folder of Pascal VOC, COCO or YOLO; several as one set."

TRAIN, NETWORKS, DEPLOY = "Train and use", "Networks", "Deploy"  # the headings of the verbs in --help
GROUPS = "More verbs"
LABELS, BOXES = "For images with labels", "For images with boxes"  # headings of the options of one task

AsJson = Annotated[bool, typer.Option("--json", help="Print JSON instead of text.")]
Data = Annotated[list[str], typer.Option(help=DATA + MORE_DATA)]
LabelledData = Annotated[str, typer.Option("--data", help=DATA)]
Device = Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:1, mps")]
Download = Annotated[bool, typer.Option("--download", help="Fetch cifar10, cifar100 or hf:NAME where it is missing.")]
Checkpoint = Annotated[
    Path | None,
    typer.Option(help="A .safetensors file with its .json record, or the folder of an exported network."),
]
Pretrained = Annotated[
    str | None,
    typer.Option(help="Weights by name instead, such as muffnet_x0_5.cifar10 (compactnets weights)."),
]
Inputs = Annotated[
    list[Path],
    typer.Argument(metavar="FILE|FOLDER|PATTERN...", help="Images, videos, folders of them, or quoted patterns."),
]
Every = Annotated[int, typer.Option("--every", min=1, metavar="N", help="Of a video, take one frame in N.")]
AcrossClasses = Annotated[
    bool | None,
    typer.Option(
        "--class-agnostic-nms",
        help="Of overlapping boxes of different classes, too, leave one.",
        rich_help_panel=BOXES,
    ),
]
Csv = Annotated[Path | None, typer.Option("--csv", help="CSV file to write: a row for each result.")]
Arguments = Annotated[
    list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="An argument of the network; may be repeated.")
]


def expand_home(argument: str) -> str:
    """Return an argument, or the value behind ``--option=``, with ``~`` and ``~name`` as the shell would have them."""
    option, equals, value = argument.partition("=")
    if equals and option.startswith("--") and value.startswith("~"):
        return f"{option}={os.path.expanduser(value)}"
    return os.path.expanduser(argument) if argument.startswith("~") else argument


def print_json(value: Any) -> None:
    """Print one JSON document on standard output."""
    from compactnets.console import print_json as run

    run(value)


def print_settings(settings: dict[str, Any], as_json: bool) -> None:
    """Print a resolved recipe: YAML that can be saved as a recipe of one's own, or JSON."""
    if as_json:
        print_json(settings)
        return
    import sys

    from compactnets.values import dump_yaml

    sys.stdout.write(dump_yaml(settings))  # of ASCII alone


def one_checkpoint(verb: str, checkpoint: Path | None, weights: str | None) -> Path:
    """Return the checkpoint that a verb was given, as ``--checkpoint`` or by the name of weights.

    Raises:
        InputError: neither, both, or a name that no weights here have.
    """
    from compactnets.errors import InputError
    from compactnets.models.pretrained import find_weights
    from compactnets.models.registry import check_weights

    if (checkpoint is None) == (weights is None):
        raise InputError(f"{verb} takes either --checkpoint FILE or --weights NAME.TAG (compactnets weights)")
    if weights is None:
        assert checkpoint is not None
        return checkpoint
    check_weights(weights)
    return find_weights()[weights].path
