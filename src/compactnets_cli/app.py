"""The verbs: each a typed function that names its options and calls the package."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Annotated, Literal

import typer
import typer.core

from compactnets_cli.data import data as data_verbs
from compactnets_cli.deploy import deploy as deploy_verbs
from compactnets_cli.detect import detect as detect_verbs
from compactnets_cli.networks import networks as network_verbs
from compactnets_cli.options import (
    GROUPS,
    TRAIN,
    AsJson,
    Checkpoint,
    Csv,
    Data,
    Device,
    Download,
    Every,
    Inputs,
    Pretrained,
    expand_home,
    labelled,
    one_checkpoint,
    print_json,
    print_settings,
)
from compactnets_cli.papers import papers as paper_verbs
from compactnets_cli.web import web as web_verbs


class Verbs(typer.core.TyperGroup):
    """The verbs; ``~`` of a path is the home folder also where the shell leaves it (``--output=~/runs``)."""

    def parse_args(self, ctx: typer.Context, args: list[str]) -> list[str]:  # type: ignore[override]
        return super().parse_args(ctx, [expand_home(each) for each in args])


app = typer.Typer(
    cls=Verbs,
    help="Compact networks whose channel groups exchange information: MENet, MuffNet and their peers.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.add_typer(network_verbs)
app.add_typer(deploy_verbs)
app.add_typer(web_verbs)
app.add_typer(data_verbs, name="data", rich_help_panel=GROUPS)
app.add_typer(detect_verbs, name="detect", rich_help_panel=GROUPS)
app.add_typer(paper_verbs, name="papers", rich_help_panel=GROUPS)


def print_version(wanted: bool) -> None:
    """Print the version without importing the package, which would import torch."""
    if wanted:
        found = importlib.util.find_spec("compactnets")
        assert found is not None
        assert found.origin is not None
        text = Path(found.origin).read_text(encoding="utf-8")
        version = next(line for line in text.splitlines() if line.startswith("__version__"))
        typer.echo(f"compactnets {version.split(chr(34))[1]}")
        raise typer.Exit


@app.callback()
def options(
    version: Annotated[
        bool, typer.Option("--version", callback=print_version, is_eager=True, help="Print the version and stop.")
    ] = False,
) -> None:
    """Take the options that stand before the verb."""


@app.command(rich_help_panel=TRAIN, epilog="Example: compactnets quickstart")
def quickstart(
    output: Annotated[Path, typer.Option(help="Folder for the results; a new name is taken where it exists.")] = Path(
        "quickstart"
    ),
    as_json: AsJson = False,
) -> None:
    """Train a small MENet and a small MuffNet on handwritten digits, in under two minutes and without a network."""
    from compactnets import quickstart

    result = quickstart.run(output)
    print_json(result.to_dict()) if as_json else quickstart.show(result)


@app.command(rich_help_panel=TRAIN, epilog="Example: compactnets train cifar/muffnet --data cifar10 --output runs/a")
def train(
    recipe: Annotated[str, typer.Argument(help="A recipe of the package (compactnets recipes) or a .yaml file.")],
    data: Data,
    output: Annotated[Path | None, typer.Option(help="Folder for checkpoints and metrics.")] = None,
    model: Annotated[str | None, typer.Option(help="Network, instead of the recipe's.")] = None,
    settings: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="Change a setting: epochs=2, optimizer.nesterov=true, ..."),
    ] = None,
    init: Annotated[Path | None, typer.Option(help="Checkpoint, or name of weights, to start from.")] = None,
    qat: Annotated[bool, typer.Option("--qat", help="Train the network of --init as int8 will compute it.")] = False,
    device: Device = "auto",
    download: Download = False,
    print_config: Annotated[bool, typer.Option("--print-config", help="Print the resolved recipe and stop.")] = False,
    as_json: AsJson = False,
) -> None:
    """Train a network as a recipe says; a run that stopped goes on by the same command."""
    from compactnets.console import say, stdout
    from compactnets.data import open_source
    from compactnets.errors import InputError
    from compactnets.training.classification import train as run
    from compactnets.training.distributed import join_world
    from compactnets.training.preparation import prepare
    from compactnets.training.recipe_files import load_recipe

    if qat:
        from compactnets.deploy.quantization.training import network_of
        from compactnets.deploy.quantization.training import prepare_int8 as prepare

        model = model or network_of(init)
    resolved = load_recipe(recipe, settings or [], model)
    if print_config:
        print_settings(resolved.model_dump(mode="json"), as_json)
        return
    if output is None:
        raise InputError("train needs --output DIR, the folder for checkpoints and metrics")
    with join_world(device) as world:
        with labelled(data):
            train_source = open_source(data, "train", download=download)
            val_source = open_source(data, "val", download=download)
        say(f"{train_source!r}\n{val_source!r}")
        result = run(resolved, train_source, val_source, output, init=init, world=world, prepare=prepare)
    if not world.is_main:
        return
    if as_json:
        print_json(result.to_dict())
    else:
        stdout.print(
            f"best top-1 {result.best:.2f} %, last {result.final['top1_percent']:.2f} %, after {result.epochs} epochs "
            f"in {result.seconds:.0f} s; checkpoints in {output}",
        )


@app.command(
    "eval",
    rich_help_panel=TRAIN,
    epilog="Example: compactnets eval --checkpoint runs/a/best.safetensors --data cifar10",
)
def evaluate(
    data: Data,
    checkpoint: Checkpoint = None,
    weights: Pretrained = None,
    split: Annotated[Literal["train", "val"], typer.Option(help="Split of the data.")] = "val",
    batch_size: Annotated[int, typer.Option(min=1)] = 128,
    workers: Annotated[int, typer.Option(min=0, help="Processes that load images, besides the main one.")] = 0,
    device: Device = "auto",
    download: Download = False,
    as_json: AsJson = False,
) -> None:
    """Measure the accuracy of a checkpoint or of an exported network."""
    from compactnets.console import stdout
    from compactnets.data import Preprocess, open_source
    from compactnets.deploy.artifact import device_for, load_network
    from compactnets.training.distributed import join_world
    from compactnets.training.evaluation import evaluate as run
    from compactnets.training.evaluation import match_classes

    checkpoint = one_checkpoint("eval", checkpoint, weights)
    with join_world(device_for(checkpoint, device)) as world:
        model, record = load_network(checkpoint, world.device)
        with labelled(data):
            source = open_source(data, split, download=download)
        result = run(
            model,
            source,
            Preprocess.from_dict(record.preprocess),
            class_map=match_classes(record, source),
            batch_size=batch_size,
            workers=workers,
            world=world,
        )
    if not world.is_main:
        return
    if as_json:
        print_json({"checkpoint": str(checkpoint), "model": record.model, "data": data, **result.to_dict()})
    else:
        stdout.print(
            f"{record.model} on {data} ({split}): top-1 {result.top1:.2f} % ({result.top1_correct}/{result.images}), "
            f"top-5 {result.top5:.2f} % ({result.top5_correct}/{result.images}), loss {result.loss:.4f}, "
            f"{result.images / result.seconds:.0f} images/s",
        )


@app.command(rich_help_panel=TRAIN, epilog="Example: compactnets predict --weights muffnet_x0_5.cifar10 photo.jpg")
def predict(
    images: Inputs,
    checkpoint: Checkpoint = None,
    weights: Pretrained = None,
    top: Annotated[int, typer.Option(min=1, help="Classes to show.")] = 5,
    every: Every = 1,
    csv: Csv = None,
    device: Device = "auto",
    as_json: AsJson = False,
) -> None:
    """Classify images and frames of videos with a checkpoint or an exported network.

    A file that cannot be read is named on standard error, the others are classified all the same, and the exit code is
    2.
    """
    from compactnets.console import say, stdout
    from compactnets.deploy.artifact import device_for, load_network
    from compactnets.folders import check_file
    from compactnets.training.distributed import pick_device
    from compactnets.training.prediction import predict as run
    from compactnets.training.prediction import write_csv

    checkpoint = one_checkpoint("predict", checkpoint, weights)
    if csv is not None:
        check_file(csv, "--csv")
    model, record = load_network(checkpoint, pick_device(device_for(checkpoint, device)))
    predictions = []
    for prediction in run(model, record, images, top, every):
        predictions.append(prediction)
        if as_json or prediction.error:
            continue
        stdout.print(prediction.name, style="bold")
        for guess in prediction.guesses:
            line = f"  {100 * guess.probability:6.2f} %  {guess.label}"
            stdout.print(line)
    if csv is not None:
        write_csv(csv, predictions)
    if as_json:
        print_json([prediction.to_dict() for prediction in predictions])
    failed = [prediction for prediction in predictions if prediction.error]
    for prediction in failed:
        say(f"compactnets: error: {prediction.error}")
    if failed:
        raise typer.Exit(2)
