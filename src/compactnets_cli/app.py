"""The verbs: each a typed function that names its options and calls the package."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from compactnets_cli.data import data as data_verbs
from compactnets_cli.deploy import deploy as deploy_verbs
from compactnets_cli.detect import detect as detect_verbs
from compactnets_cli.detect import profile_detector
from compactnets_cli.options import (
    Arguments,
    AsJson,
    Checkpoint,
    Data,
    Device,
    Download,
    Pretrained,
    one_checkpoint,
    print_json,
    print_settings,
)
from compactnets_cli.papers import papers as paper_verbs
from compactnets_cli.web import web as web_verbs

app = typer.Typer(
    help="Compact networks whose channel groups exchange information: MENet, MuffNet and their peers.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.add_typer(paper_verbs, name="papers")
app.add_typer(data_verbs, name="data")
app.add_typer(detect_verbs, name="detect")
app.add_typer(deploy_verbs)
app.add_typer(web_verbs)


@app.command()
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


@app.command()
def train(
    recipe: Annotated[str, typer.Argument(help="A recipe of the package (compactnets recipes) or a .yaml file.")],
    data: Data,
    output: Annotated[Path | None, typer.Option(help="Folder for checkpoints and metrics.")] = None,
    model: Annotated[str | None, typer.Option(help="Network, instead of the recipe's.")] = None,
    settings: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="Change a setting: epochs=2, optimizer.nesterov=true, …"),
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
            highlight=False,
            soft_wrap=True,
        )


@app.command("eval")
def evaluate(
    data: Data,
    checkpoint: Checkpoint = None,
    model_name: Pretrained = None,
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

    checkpoint = one_checkpoint("eval", checkpoint, model_name)
    with join_world(device_for(checkpoint, device)) as world:
        model, record = load_network(checkpoint, world.device)
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
            highlight=False,
            soft_wrap=True,
        )


@app.command()
def predict(
    images: Annotated[list[Path], typer.Argument(help="Image files.")],
    checkpoint: Checkpoint = None,
    model_name: Pretrained = None,
    top: Annotated[int, typer.Option(min=1, help="Classes to show.")] = 5,
    device: Device = "auto",
    as_json: AsJson = False,
) -> None:
    """Classify image files with a checkpoint or an exported network."""
    from compactnets.console import say, stdout
    from compactnets.deploy.artifact import device_for, load_network
    from compactnets.training.distributed import pick_device
    from compactnets.training.prediction import predict as run

    checkpoint = one_checkpoint("predict", checkpoint, model_name)
    model, record = load_network(checkpoint, pick_device(device_for(checkpoint, device)))
    predictions = []
    for prediction in run(model, record, images, top):
        predictions.append(prediction)
        if as_json or prediction.error:
            continue
        stdout.print(prediction.image, style="bold", highlight=False, markup=False, soft_wrap=True)
        for guess in prediction.guesses:
            line = f"  {100 * guess.probability:6.2f} %  {guess.label}"
            stdout.print(line, highlight=False, markup=False, soft_wrap=True)
    if as_json:
        print_json([prediction.to_dict() for prediction in predictions])
    failed = [prediction for prediction in predictions if prediction.error]
    for prediction in failed:
        say(f"compactnets: error: {prediction.error}")
    if failed:
        raise typer.Exit(2)


@app.command("list")
def list_networks(
    pattern: Annotated[str, typer.Argument(help="Shell pattern, such as 'muffnet*' or '*_x0_5'.")] = "*",
    as_json: AsJson = False,
) -> None:
    """List the networks with their multiply-adds and parameters."""
    from compactnets.catalogue import list_rows, show

    rows = list_rows(pattern)
    print_json([row.to_dict() for row in rows]) if as_json else show(rows)


@app.command()
def weights(as_json: AsJson = False) -> None:
    """List trained weights: those that are here, and where others come from."""
    from compactnets.catalogue import show_weights, weight_rows

    rows = weight_rows()
    print_json(rows) if as_json else show_weights(rows)


@app.command()
def recipes(as_json: AsJson = False) -> None:
    """List the recipes, each with the first line of its description."""
    from compactnets.catalogue import recipe_rows, show_recipes

    rows = recipe_rows()
    print_json(rows) if as_json else show_recipes(rows)


@app.command()
def convert(
    legacy: Annotated[Path, typer.Argument(help="A checkpoint of the MENet repository (.pth.tar).")],
    model: Annotated[str, typer.Option(help="The network it holds, such as menet_108_8x1_g3.")],
    output: Annotated[Path, typer.Option(help="The .safetensors file to write.")],
    as_json: AsJson = False,
) -> None:
    """Turn a checkpoint of the MENet repository into a checkpoint of this package."""
    from compactnets.console import stdout
    from compactnets.training.conversion import convert as run

    record = run(legacy, model, output)
    if as_json:
        print_json({"output": str(output), **record.model_dump(mode="json")})
    else:
        stdout.print(
            f"{legacy} -> {output}: {model}, {len(record.class_names)} classes", highlight=False, soft_wrap=True
        )


@app.command()
def discretize(
    checkpoint: Annotated[Path, typer.Argument(help="Checkpoint of a MuffNet with model_arguments.sharing=learned.")],
    output: Annotated[Path, typer.Option(help="The .safetensors file to write, for train --init.")],
    as_json: AsJson = False,
) -> None:
    """Turn the sharing matrices that a MuffNet has learned into whole channels, at the cost of its variant."""
    from compactnets.console import stdout
    from compactnets.training.discretization import discretize_checkpoint

    found = discretize_checkpoint(checkpoint, output)
    if as_json:
        print_json({"output": str(output), **found.to_dict()})
        return
    for number, matrix in enumerate(found.matrices, start=1):
        stdout.print(f"stage {number}, {matrix.out_channels} channels out", highlight=False)
        width = max(len(str(entry)) for row in matrix.entries for entry in row)
        for row in matrix.entries:
            stdout.print("  " + " ".join(f"{entry or '.':>{width}}" for entry in row), highlight=False, soft_wrap=True)
    stdout.print(
        f"{found.macs / 1e6:.2f} M multiply-adds, {found.params / 1e6:.3f} M parameters; the variant has "
        f"{found.variant_macs / 1e6:.2f} M. Train it: compactnets train RECIPE --init {output} …",
        highlight=False,
        soft_wrap=True,
    )


@app.command()
def profile(
    name: Annotated[
        str, typer.Argument(metavar="NAME|CHECKPOINT", help="A network (compactnets list), or a detector's checkpoint.")
    ],
    input_size: Annotated[
        tuple[int, int, int] | None,
        typer.Option(metavar="C H W", help="Input; 3 224 224, or 3 32 32 with --stem cifar; a detector's own."),
    ] = None,
    stem: Annotated[Literal["imagenet", "cifar"] | None, typer.Option(help="First layers.")] = None,
    num_classes: Annotated[int | None, typer.Option(min=0, help="1000, or 10 with --stem cifar.")] = None,
    batch_size: Annotated[int, typer.Option(min=1, help="Images at once, for the activation memory.")] = 1,
    detector: Annotated[
        Literal["faster_rcnn", "ssd"] | None, typer.Option(help="Count a detector on the network, part by part.")
    ] = None,
    recipe: Annotated[
        str | None, typer.Option(help="Recipe of the detector, such as small/ssd512; --set changes its settings.")
    ] = None,
    arguments: Arguments = None,
    per_layer: Annotated[bool, typer.Option("--per-layer", help="One row per layer.")] = False,
    as_json: AsJson = False,
) -> None:
    """Count what a network costs: multiply-adds, other operations, parameters, memory; a detector's part by part."""
    if detector or recipe or name.endswith(".safetensors"):
        given = {"stem": stem, "batch-size": batch_size != 1, "per-layer": per_layer}
        profile_detector(name, input_size, detector, recipe, num_classes, arguments or [], given, as_json)
        return
    from compactnets.catalogue import profile_by_name
    from compactnets.complexity import render
    from compactnets.console import stdout

    options = {"stem": stem, "num_classes": num_classes}
    cost = profile_by_name(name, input_size, batch_size, options, arguments or [])
    if as_json:
        print_json({"model": name, **cost.to_dict()})
    else:
        stdout.print(render(cost, per_layer=per_layer))


@app.command()
def draw(
    name: Annotated[str, typer.Argument(help="A MuffNet, such as muffnet_x0_5.")],
    output: Annotated[Path, typer.Option(help="Picture to write: .svg, .png or .pdf.")],
    arguments: Arguments = None,
    as_json: AsJson = False,
) -> None:
    """Draw the sharing matrices of a MuffNet (its figure 5)."""
    from compactnets.catalogue import build_by_name
    from compactnets.plots import draw_sharing

    draw_sharing(build_by_name(name, {}, arguments or []), output)
    print_json({"model": name, "output": str(output)}) if as_json else print(output)
