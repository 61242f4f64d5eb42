"""The verbs of ``compactnets detect``."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Literal

import typer

from compactnets_cli.options import AsJson, Csv, Device, Every, Inputs, print_json, print_settings, share_of

detect = typer.Typer(help="Detect objects: train, evaluate and use Faster R-CNN and SSD.", no_args_is_help=True)

BoxData = Annotated[
    list[str],
    typer.Option(help="A folder with annotations of Pascal VOC, COCO or YOLO; may be repeated: several as one set."),
]
DetectorCheckpoint = Annotated[
    Path,
    typer.Option(help="A detector's .safetensors file with its .json record, or the folder of an exported detector."),
]
AcrossClasses = Annotated[
    bool,
    typer.Option("--class-agnostic-nms", help="Of overlapping boxes of different classes, too, leave one."),
]


@detect.command(epilog="Example: compactnets detect train small/ssd512 --data cells --output runs/cells")
def train(
    recipe: Annotated[str, typer.Argument(help="A recipe of the package (compactnets recipes) or a .yaml file.")],
    data: BoxData,
    output: Annotated[Path | None, typer.Option(help="Folder for checkpoints and metrics.")] = None,
    model: Annotated[
        str | None, typer.Option(help="Backbone, instead of the recipe's: of this package or timm.")
    ] = None,
    settings: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="Change a setting: epochs=2, ssd.smallest=0.05, ..."),
    ] = None,
    init: Annotated[
        Path | None,
        typer.Option(help="A classifier for the backbone (.safetensors, or MENet's .pth.tar), or a detector."),
    ] = None,
    split: Annotated[
        float | None,
        typer.Option(min=0, max=1, help="Of images that are not divided: the share to train on, such as 0.8."),
    ] = None,
    device: Device = "auto",
    print_config: Annotated[bool, typer.Option("--print-config", help="Print the resolved recipe and stop.")] = False,
    as_json: AsJson = False,
) -> None:
    """Train a detector as a recipe says; a run that stopped goes on by the same command."""
    from compactnets.console import stdout
    from compactnets.detection.data.opening import open_run
    from compactnets.detection.metrics import METRIC_TITLES
    from compactnets.detection.recipe import DetectionRecipe
    from compactnets.detection.task import train_detector
    from compactnets.errors import InputError
    from compactnets.training.distributed import join_world
    from compactnets.training.recipe_files import load_detection_recipe

    settings = [*(settings or []), *([f"split={split}"] if split is not None else [])]
    resolved = load_detection_recipe(DetectionRecipe, recipe, settings, model)
    if print_config:
        print_settings(resolved.model_dump(mode="json"), as_json)
        return
    if output is None:
        raise InputError("detect train needs --output DIR, the folder for checkpoints and metrics")
    with join_world(device) as world:
        train_source, val_source = open_run(
            data, resolved.train_split, resolved.val_split, share=resolved.split, classes=resolved.classes
        )
        result = train_detector(resolved, train_source, val_source, output, init=init, world=world)
    if not world.is_main:
        return
    if as_json:
        print_json(result.to_dict())
    else:
        stdout.print(
            f"best {METRIC_TITLES[resolved.metric]} {result.best:.2f} % after {result.epochs} epochs in "
            f"{result.seconds:.0f} s; checkpoints in {output}",
        )


@detect.command("eval", epilog="Example: compactnets detect eval --checkpoint runs/cells/best.safetensors --data cells")
def evaluate(
    checkpoint: DetectorCheckpoint,
    data: BoxData,
    split: Annotated[
        str,
        typer.Option(help="Split of the data: val, test, ...; or the share that was trained on, for the rest: 0.8."),
    ] = "val",
    metric: Annotated[
        Literal["voc07", "voc10", "coco"], typer.Option(help="VOC's 11 points, its area, or COCO's.")
    ] = "voc07",
    bad_boxes: Annotated[
        Literal["raise", "drop"], typer.Option(help="What to do with boxes and annotations that cannot be used.")
    ] = "raise",
    on_error: Annotated[
        Literal["raise", "skip"], typer.Option(help="What to do with images that cannot be read.")
    ] = "raise",
    examples: Annotated[
        Path | None, typer.Option(help="HTML page to write, with the best and the worst images.")
    ] = None,
    workers: Annotated[int, typer.Option(min=0, help="Processes that load images, besides the main one.")] = 0,
    class_agnostic_nms: AcrossClasses = False,
    device: Device = "auto",
    as_json: AsJson = False,
) -> None:
    """Measure the average precision of a detector."""
    from compactnets.detection.data.opening import open_detection, without_others
    from compactnets.detection.data.reviewing import review
    from compactnets.detection.deploy.runtime import detector_device, load_any_detector
    from compactnets.detection.evaluation import evaluate_on
    from compactnets.detection.report import show, write_examples
    from compactnets.folders import check_file
    from compactnets.training.distributed import join_world

    if examples is not None:
        check_file(examples, "--examples")

    with join_world(detector_device(checkpoint, device)) as world:
        detector, record = load_any_detector(checkpoint, world.device, class_agnostic_nms=class_agnostic_nms)
        share = share_of(split)
        source = open_detection(data, "val" if share else split, class_names=record.class_names, share=share)
        if getattr(record, "training", {}).get("recipe", {}).get("classes"):  # chosen of those that its data had
            source = without_others(source)
        # what cannot be decoded ends the evaluation where it comes to it, unless it is to be left out
        decode = on_error == "skip"
        source = review(source, "val", bad_boxes=bad_boxes, on_error=on_error, workers=workers, decode=decode)
        evaluator, seconds = evaluate_on(
            detector, source, metric=metric, bad_boxes=bad_boxes, workers=workers, world=world
        )
    if not world.is_main:
        return
    if examples is not None:
        write_examples(examples, evaluator, source)
    scores = evaluator.compute()
    if as_json:
        found = {"checkpoint": str(checkpoint), "data": ", ".join(data), "split": split, "seconds": seconds}
        print_json({**found, **scores.to_dict()})
    else:
        show(scores, seconds, f"{record.detector} on {record.model}, {', '.join(data)} ({split})")


@detect.command(
    epilog="Example: compactnets detect predict --checkpoint runs/cells/best.safetensors a.jpg --output found"
)
def predict(
    checkpoint: DetectorCheckpoint,
    images: Inputs,
    output: Annotated[Path | None, typer.Option(help="Folder for the images with their boxes drawn.")] = None,
    score: Annotated[float, typer.Option(min=0, max=1, help="Least score of a box.")] = 0.5,
    every: Every = 1,
    csv: Csv = None,
    coco: Annotated[Path | None, typer.Option(help="JSON file to write: results as COCO's tools read them.")] = None,
    annotations: Annotated[
        Path | None, typer.Option(help="COCO file whose ids of images and categories --coco shall have.")
    ] = None,
    class_agnostic_nms: AcrossClasses = False,
    device: Device = "auto",
    as_json: AsJson = False,
) -> None:
    """Find objects in images and frames of videos, and draw them.

    A file that cannot be used is named on standard error, the others are searched all the same, and the exit code is 2.
    """
    from compactnets.console import say, stdout
    from compactnets.detection.deploy.runtime import detector_device, load_any_detector
    from compactnets.detection.prediction import predict_objects
    from compactnets.detection.results import CocoIds, write_coco_results, write_csv
    from compactnets.errors import InputError
    from compactnets.folders import check_file, check_folder
    from compactnets.training.distributed import pick_device

    for path, option in ((csv, "--csv"), (coco, "--coco")):
        if path is not None:
            check_file(path, option)
    if output is not None:
        check_folder(output)
    if annotations is not None and coco is None:
        raise InputError("--annotations gives the ids of --coco FILE, which is missing")
    detector, record = load_any_detector(
        checkpoint, pick_device(detector_device(checkpoint, device)), class_agnostic_nms=class_agnostic_nms
    )
    ids = CocoIds(record.class_names, annotations)
    results = []
    for result in predict_objects(detector, record, images, output, score, every):
        results.append(result)
        if as_json or result.error:
            continue
        stdout.print(result.name, style="bold")
        for found in result.objects:
            left, top, right, bottom = (round(end) for end in found.box)
            line = f"  {found.score:5.2f}  {found.class_name}  {left}, {top} to {right}, {bottom}"
            stdout.print(line)
        if not result.objects:
            stdout.print(f"  nothing with a score of {score:g} or more")
    if csv is not None:
        write_csv(csv, results)
    if coco is not None:
        write_coco_results(coco, results, ids)
    if as_json:
        print_json([result.to_dict() for result in results])
    failed = [result for result in results if result.error]
    for result in failed:
        say(f"compactnets: error: {result.error}")
    if failed:
        raise typer.Exit(2)


@detect.command(epilog="Example: compactnets detect export runs/cells/best.safetensors --output out")
def export(
    checkpoint: Annotated[Path, typer.Argument(help="A detector's .safetensors file with its .json record.")],
    output: Annotated[Path, typer.Option(help="Folder for the ONNX files and their artifact.json.")],
    heads: Annotated[
        Literal["boxes", "raw"],
        typer.Option(help="boxes: the choice of boxes is in the graph; raw: it is left to the caller."),
    ] = "boxes",
    form: Annotated[str, typer.Option("--format", help="Detectors are exported to onnx.")] = "onnx",
    size: Annotated[
        str | None,
        typer.Option(
            metavar="SIDE|HEIGHTxWIDTH", help="Fix the input of Faster R-CNN, which takes any; SSD has its own."
        ),
    ] = None,
    precision: Annotated[
        str, typer.Option(help="float32, or float16: half the bytes, input and outputs as before.")
    ] = "float32",
    tolerance: Annotated[
        float | None,
        typer.Option(
            help="Largest difference from PyTorch, of a score or as a share of the input; 0.0001. With float16, of a "
            "raw output as a share of its largest value; 0.02."
        ),
    ] = None,
    class_agnostic_nms: AcrossClasses = False,
    as_json: AsJson = False,
) -> None:
    """Write a detector as ONNX, compare it in ONNX Runtime with PyTorch, and keep it if they agree.

    Exit code 3 where they do not; then nothing is left behind.
    """
    from compactnets.detection.checkpoint import load_detector
    from compactnets.detection.deploy.export import export_detector, parse_size
    from compactnets.detection.report import show_artifact
    from compactnets.errors import InputError

    if form != "onnx":
        raise InputError(f"detectors are exported to onnx only, found --format {form}: leave it out")
    fixed = None if size is None else parse_size(size)
    detector, record = load_detector(checkpoint, class_agnostic_nms=class_agnostic_nms)
    artifact = export_detector(
        detector, record, output, heads=heads, size=fixed, tolerance=tolerance, precision=precision
    )
    if as_json:
        print_json({"output": str(output), **artifact.model_dump(mode="json")})
    else:
        show_artifact(artifact, output)


def profile_detector(
    name: str,
    input_size: tuple[int, int, int] | None,
    detector: Literal["faster_rcnn", "ssd"] | None,
    recipe: str | None,
    num_classes: int | None,
    settings: list[str],
    others: Mapping[str, object],
    as_json: bool,
) -> None:
    """Do what ``compactnets profile`` does for a detector: a checkpoint's, or one on a network.

    Args:
        others: options of classifiers that were given.
    """
    from compactnets.console import stdout
    from compactnets.detection.checkpoint import read_detector_record
    from compactnets.detection.cost import detector_cost, planned_record, render_cost
    from compactnets.errors import InputError

    is_checkpoint = name.endswith(".safetensors")
    if is_checkpoint:
        others = {**others, "detector": detector, "recipe": recipe, "num-classes": num_classes, "set": settings}
    if wrong := [option for option, value in others.items() if value]:
        what = "a checkpoint" if is_checkpoint else "a detector"
        raise InputError(f"--{wrong[0]} means nothing for {what}: leave it out")
    if input_size is not None and input_size[0] != 3:
        raise InputError(f"a detector takes images of 3 channels, found --input-size {input_size[0]} ...")
    if is_checkpoint:
        record = read_detector_record(Path(name))
    else:
        record = planned_record(name, detector, recipe, num_classes, settings)
    cost = detector_cost(record, None if input_size is None else input_size[1:])
    print_json(cost.to_dict()) if as_json else stdout.print(render_cost(cost))
