"""Options shared by several verbs, and JSON output."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated, Any

import typer

DATA = (
    "Folder of images, CSV file of paths and labels, Parquet or WebDataset shards, CIFAR files; digits, cifar10, "
    "cifar100; or hf:OWNER/NAME."
)
MORE_DATA = (
    " Images with boxes: a folder of Pascal VOC, COCO or YOLO; several as one set. With masks: a folder of images and "
    "masks, Pascal VOC, COCO or Cityscapes."
)

TRAIN, NETWORKS, DEPLOY = "Train and use", "Networks", "Deploy"  # the headings of the verbs in --help
GROUPS = "More verbs"
# headings of the options of one task, or two
LABELS, BOXES, MASKS = "For images with labels", "For images with boxes", "For images with masks"
MANY, SEVERAL = "For many images", "For images with several labels"
PLACES, BOTH = "For images with boxes or masks", "For images with labels or masks"

AsJson = Annotated[bool, typer.Option("--json", help="Print JSON instead of text.")]
Data = Annotated[list[str], typer.Option(help=DATA + MORE_DATA)]
LabelledData = Annotated[str, typer.Option("--data", help=DATA)]
Device = Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:1, mps")]
Download = Annotated[bool, typer.Option("--download", help="Download cifar10, cifar100 or hf:NAME if missing.")]
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
    typer.Argument(
        metavar="FILE|FOLDER|PATTERN...", help="Images, videos, folders of them, quoted patterns, or @LIST."
    ),
]
Every = Annotated[int, typer.Option("--every", min=1, metavar="N", help="Use every N-th frame of a video.")]
AcrossClasses = Annotated[
    bool | None,
    typer.Option(
        "--class-agnostic-nms",
        help="Also suppress overlapping boxes of different classes.",
        rich_help_panel=BOXES,
    ),
]
Csv = Annotated[Path | None, typer.Option("--csv", help="CSV file to write, one row per result.")]
Arguments = Annotated[
    list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="An argument of the network; repeatable.")
]


def expand_home(argument: str) -> str:
    """Expand ``~`` and ``~name`` in an argument, or in the value of ``--option=``, like the shell."""
    option, equals, value = argument.partition("=")
    if equals and option.startswith("--") and value.startswith("~"):
        return f"{option}={os.path.expanduser(value)}"
    return os.path.expanduser(argument) if argument.startswith("~") else argument


def print_json(value: Any) -> None:
    """Print one JSON document on standard output."""
    from compactnets.console import print_json as run

    run(value)


def print_settings(settings: dict[str, Any], as_json: bool) -> None:
    """Print a resolved recipe: YAML that can be saved as a new recipe, or JSON."""
    if as_json:
        print_json(settings)
        return
    import sys

    from compactnets.values import dump_yaml

    sys.stdout.write(dump_yaml(settings))  # ASCII only


def one_checkpoint(verb: str, checkpoint: Path | None, weights: str | None) -> Path:
    """Return a verb's checkpoint, given by ``--checkpoint`` or by the name of weights.

    Raises:
        InputError: neither, both, or an unknown name.
    """
    from compactnets.errors import InputError
    from compactnets.models.pretrained import find_weights
    from compactnets.models.registry import check_weights

    if (checkpoint is None) == (weights is None):
        raise InputError(f"{verb} takes either --checkpoint FILE or --weights NAME.TAG (compactnets weights)")
    if weights is None:
        assert checkpoint is not None
        return checkpoint
    if weights not in find_weights():
        check_weights(weights)  # raises
    return find_weights()[weights].path
