"""The verbs: each a typed function that names its options and calls the package."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Annotated, Any, Literal

import typer
import typer.core

from compactnets_cli.data import data as data_verbs
from compactnets_cli.deploy import deploy as deploy_verbs
from compactnets_cli.networks import networks as network_verbs
from compactnets_cli.options import (
    BOXES,
    GROUPS,
    LABELS,
    MANY,
    NETWORKS,
    PLACES,
    SEVERAL,
    TRAIN,
    AcrossClasses,
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
    one_checkpoint,
    print_json,
    print_settings,
)
from compactnets_cli.papers import papers as paper_verbs
from compactnets_cli.search import search
from compactnets_cli.web import web as web_verbs


class Verbs(typer.core.TyperGroup):
    """The verbs; ``~`` in a path is expanded even if the shell does not (``--output=~/runs``)."""

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
app.command(
    rich_help_panel=NETWORKS,
    epilog="Example: compactnets search --budget latency=1ms --data cifar10 --output runs/search",
)(search)
app.add_typer(data_verbs, name="data", rich_help_panel=GROUPS)
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
    """Handle the options before the verb."""


@app.command(rich_help_panel=TRAIN, epilog="Example: compactnets quickstart")
def quickstart(
    output: Annotated[Path, typer.Option(help="Folder for the results; if it exists, a new name is chosen.")] = Path(
        "quickstart"
    ),
    as_json: AsJson = False,
) -> None:
    """Train a small MENet and a small MuffNet on handwritten digits, in under two minutes, offline."""
    from compactnets import quickstart

    result = quickstart.run(output)
    print_json(result.to_dict()) if as_json else quickstart.show(result)


@app.command(
    rich_help_panel=TRAIN,
    epilog="Example: compactnets train cifar/muffnet --data cifar10 --output runs/a",
)
def train(
    recipe: Annotated[str, typer.Argument(help="A built-in recipe (compactnets recipes) or a .yaml file.")],
    data: Data,
    output: Annotated[Path | None, typer.Option(help="Folder for checkpoints and metrics.")] = None,
    model: Annotated[
        str | None,
        typer.Option(help="Network, instead of the recipe's; for boxes and masks, the backbone (also from timm)."),
    ] = None,
    settings: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="Change a setting: epochs=2, optimizer.nesterov=true, ..."),
    ] = None,
    init: Annotated[
        Path | None,
        typer.Option(
            help="Checkpoint, name of weights, or a state_dict of timm's (.safetensors, .pth), to start from."
        ),
    ] = None,
    device: Device = "auto",
    download: Download = False,
    print_config: Annotated[bool, typer.Option("--print-config", help="Print the resolved recipe and stop.")] = False,
    as_json: AsJson = False,
    qat: Annotated[
        bool | None,
        typer.Option(
            "--qat",
            help="Quantisation-aware training: train the --init network with simulated int8.",
            rich_help_panel=LABELS,
        ),
    ] = None,
    teacher: Annotated[
        str | None,
        typer.Option(
            metavar="CHECKPOINT|timm:NAME[:FILE]",
            help="Distillation: also learn the outputs of this trained network (the recipe's distillation.teacher).",
            rich_help_panel=LABELS,
        ),
    ] = None,
    split: Annotated[
        float | None,
        typer.Option(
            min=0,
            max=1,
            help="For undivided images with labels or boxes: the share to train on, such as 0.8.",
        ),
    ] = None,
) -> None:
    """Train a network by a recipe. Rerun the command to resume: on CPU the result is bit-identical.

    The recipe determines the task: classification, detection or segmentation.
    """
    from compactnets import api
    from compactnets.console import stdout
    from compactnets.errors import InputError

    settings = [*(settings or []), *([f"split={split}"] if split is not None else [])]
    task, resolved = api.open_recipe(recipe, settings, model, init, qat=qat or None, teacher=teacher)
    if print_config:
        print_settings(resolved.model_dump(mode="json"), as_json)
        return
    if output is None:
        raise InputError("train needs --output DIR, the folder for checkpoints and metrics")
    result = api.train(resolved, data, output, init=init, device=device, download=download, qat=qat or None)
    if not result.is_main:
        return
    if as_json:
        print_json(result.to_dict())
    else:
        stdout.print(f"{task.summarize(resolved, result)}; checkpoints in {output}")


@app.command(
    "eval",
    rich_help_panel=TRAIN,
    epilog="Example: compactnets eval --checkpoint runs/a/best.safetensors --data cifar10",
)
def evaluate(
    data: Data,
    checkpoint: Checkpoint = None,
    weights: Pretrained = None,
    split: Annotated[
        str,
        typer.Option(
            help="Split of the data: val or train; for boxes and masks any split; for undivided labels and boxes the "
            "share trained on: 0.8."
        ),
    ] = "val",
    workers: Annotated[int, typer.Option(min=0, help="Worker processes that load images.")] = 0,
    device: Device = "auto",
    download: Download = False,
    as_json: AsJson = False,
    batch_size: Annotated[
        int | None, typer.Option(min=1, help="Batch size; default: 128.", rich_help_panel=LABELS)
    ] = None,
    tta: Annotated[
        Literal["flip"] | None,
        typer.Option(
            help="Test-time augmentation: the mean of each image and its mirror image.", rich_help_panel=LABELS
        ),
    ] = None,
    metric: Annotated[
        Literal["voc07", "voc10", "coco"] | None,
        typer.Option(help="VOC's AP at 11 points (voc07, default) or area; COCO's.", rich_help_panel=BOXES),
    ] = None,
    bad_boxes: Annotated[
        Literal["raise", "drop"] | None,
        typer.Option(help="Unusable boxes and annotations; default: raise.", rich_help_panel=BOXES),
    ] = None,
    on_error: Annotated[
        Literal["raise", "skip"] | None,
        typer.Option(help="Unreadable images; default: raise.", rich_help_panel=BOXES),
    ] = None,
    examples: Annotated[Path | None, typer.Option(help="HTML page to write, with the best and worst images.")] = None,
    predictions: Annotated[
        Path | None,
        typer.Option(help="CSV or Parquet file to write, one row per image.", rich_help_panel=LABELS),
    ] = None,
    class_agnostic_nms: AcrossClasses = None,
    score: Annotated[
        float | None,
        typer.Option(min=0, max=1, help="Probability of a label; default: the recipe's.", rich_help_panel=SEVERAL),
    ] = None,
) -> None:
    """Evaluate a checkpoint or an exported network: accuracy, average precision, or intersection over union."""
    from compactnets import api

    result = api.evaluate(
        one_checkpoint("eval", checkpoint, weights),
        data,
        split=split,
        workers=workers,
        device=device,
        download=download,
        batch_size=batch_size,
        tta=tta,
        metric=metric,
        bad_boxes=bad_boxes,
        on_error=on_error,
        examples=examples,
        predictions=predictions,
        class_agnostic_nms=class_agnostic_nms or None,
        score=score,
    )
    if result.is_main:
        print_json(result.to_dict()) if as_json else result.show()


@app.command(
    rich_help_panel=TRAIN,
    epilog="Example: compactnets predict --weights muffnet_x0_5.cifar10 photo.jpg",
)
def predict(
    images: Inputs,
    checkpoint: Checkpoint = None,
    weights: Pretrained = None,
    every: Every = 1,
    csv: Csv = None,
    device: Device = "auto",
    as_json: AsJson = False,
    top: Annotated[int | None, typer.Option(min=1, help="Classes to show; default: 5.", rich_help_panel=LABELS)] = None,
    output: Annotated[
        Path | None,
        typer.Option(
            help="Folder for the images with their boxes drawn; or for masks and overlays.", rich_help_panel=PLACES
        ),
    ] = None,
    score: Annotated[
        float | None,
        typer.Option(min=0, max=1, help="Minimum score, or probability of one of several labels; default: 0.5."),
    ] = None,
    coco: Annotated[
        Path | None,
        typer.Option(help="JSON file to write, in COCO's results format.", rich_help_panel=BOXES),
    ] = None,
    annotations: Annotated[
        Path | None,
        typer.Option(help="COCO file with the image and category ids for --coco.", rich_help_panel=BOXES),
    ] = None,
    class_agnostic_nms: AcrossClasses = None,
    parquet: Annotated[
        Path | None, typer.Option(help="Folder for Parquet files, for any number of images.", rich_help_panel=MANY)
    ] = None,
    part_size: Annotated[
        int | None, typer.Option(min=1, help="Files per Parquet file; default: 10,000.", rich_help_panel=MANY)
    ] = None,
    shard: Annotated[
        str | None, typer.Option(metavar="I/N", help="Only share I of N, on this machine.", rich_help_panel=MANY)
    ] = None,
    batch_size: Annotated[
        int | None, typer.Option(min=1, help="Batch size; default: 1, with --parquet 64.", rich_help_panel=LABELS)
    ] = None,
    workers: Annotated[
        int | None,
        typer.Option(
            min=0, help="Processes that decode; default: none, with --parquet one per core.", rich_help_panel=LABELS
        ),
    ] = None,
) -> None:
    """Predict what images and video frames show: classes, objects with boxes, or a class for every pixel.

    An unusable file is reported on standard error, the others are still processed, and the exit code is 2.

    With --parquet, results are not printed but streamed to Parquet files. Rerun the command to resume.
    """
    from compactnets import api
    from compactnets.console import say, stdout
    from compactnets.errors import InputError

    network = one_checkpoint("predict", checkpoint, weights)
    options: dict[str, Any] = {
        "every": every,
        "device": device,
        "top": top,
        "output": output,
        "score": score,
        "coco": coco,
        "annotations": annotations,
        "class_agnostic_nms": class_agnostic_nms or None,
        "batch_size": batch_size,
        "workers": workers,
    }
    if parquet is not None:
        if csv is not None:
            raise InputError("--csv and --parquet are two ways to write the results: give one")
        parts = {"shard": shard} if part_size is None else {"shard": shard, "part_size": part_size}
        written = api.predict_to_parquet(network, images, parquet, **parts, **options)
        print_json(written.to_dict()) if as_json else written.show()
        if written.failed:
            say(f"compactnets: error: {written.failed:,} images cannot be used: they are listed in {written.errors}")
            raise typer.Exit(2)
        return
    if part_size is not None or shard is not None:
        raise InputError(
            f"{'--shard' if part_size is None else '--part-size'} is for --parquet FOLDER, which is missing"
        )
    _, found, finish = api.start_predicting(network, images, csv=csv, **options)
    predictions = []
    for prediction in found:
        predictions.append(prediction)
        if as_json or prediction.error:
            continue
        stdout.print(prediction.name, style="bold")
        for line in prediction.lines():
            stdout.print(f"  {line}")
    finish(predictions)
    if as_json:
        print_json([prediction.to_dict() for prediction in predictions])
    failed = [prediction for prediction in predictions if prediction.error]
    for prediction in failed:
        say(f"compactnets: error: {prediction.error}")
    if failed:
        raise typer.Exit(2)
