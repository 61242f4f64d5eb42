"""The verbs of ``compactnets data``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from compactnets_cli.options import AsJson, Download, print_json

SHOWN = 20  # problems of each kind to print; --json has all

data = typer.Typer(help="Check data sets before training; split and convert them.", no_args_is_help=True)


@data.command(epilog="Example: compactnets data check photos")
def check(
    source: Annotated[
        list[str],
        typer.Argument(
            help="Anything --data takes: images with labels, with boxes (several folders as one set), or with masks."
        ),
    ],
    split: Annotated[
        str,
        typer.Option(
            help="Split to check: train, val or both, or, if the images are undivided, the share to train on, such as "
            "0.8. Images with boxes: any split, both for all, or a share."
        ),
    ] = "both",
    workers: Annotated[
        int | None,
        typer.Option(min=0, help="Processes that decode; default: one per core, or none below 1,000 images."),
    ] = None,
    recipe: Annotated[
        list[str] | None,
        typer.Option(
            help="Recipe or .yaml file. For images with boxes: its anchors are compared with the objects; default: the "
            "small recipes. Repeatable; the network does not matter. For images with masks: its classes. It also "
            "decides which of the two to check in a folder of Pascal VOC or COCO."
        ),
    ] = None,
    download: Download = False,
    as_json: AsJson = False,
) -> None:
    """Decode every image; list unreadable images, contradictions and images in two splits.

    For labelled images: images in two classes. For images with boxes: unusable boxes, object sizes in a detector's
    input, and how many objects its anchors match. For images with masks: masks that are missing, of another size, saved
    with loss or as colours, values without a class, and classes never seen.

    Exit code 0 without problems, 1 with problems, 2 if the source cannot be used.
    """
    from compactnets import api
    from compactnets.console import stdout

    report = api.check(source, split=split, workers=workers, download=download, recipe=recipe)
    if as_json:
        print_json(report.to_dict())
    else:
        for line in report.lines(SHOWN):
            stdout.print(line)
    if not report.clean:
        raise typer.Exit(1)


@data.command(epilog="Example: compactnets data convert voc --to coco --output coco")
def convert(
    source: Annotated[
        list[str],
        typer.Argument(help="A folder of images with boxes: Pascal VOC, COCO or YOLO; or several as one set."),
    ],
    to: Annotated[Literal["voc", "coco"], typer.Option("--to", help="Format to write.")],
    output: Annotated[Path, typer.Option(help="Folder to write; must be empty or not exist.")],
    link: Annotated[bool, typer.Option("--link", help="Hard links to the images instead of copies.")] = False,
    split: Annotated[
        float | None,
        typer.Option(min=0, max=1, help="For undivided images: the share that becomes train, such as 0.8."),
    ] = None,
    bad_boxes: Annotated[
        Literal["raise", "drop"],
        typer.Option(help="What to do with unreadable annotations and non-finite boxes."),
    ] = "raise",
    as_json: AsJson = False,
) -> None:
    """Convert all splits of images with boxes to another format, and report what it cannot express."""
    from compactnets.console import stdout
    from compactnets.detection.data.conversion import convert as run

    result = run(source, to, output, link=link, share=split, bad_boxes=bad_boxes)
    if as_json:
        print_json(result.to_dict())
        return
    splits = ", ".join(f"{split} {images:,}" for split, images in result.splits.items())
    lines = [f"{', '.join(source)} -> {output} ({to}): {result.images:,} images ({splits}), {result.objects:,} objects"]
    for line in (*lines, *(f"note: {loss}" for loss in result.losses)):
        stdout.print(line)


@data.command(epilog="Example: compactnets data split photos --output divided")
def split(
    source: Annotated[
        list[str], typer.Argument(help="Class folders, or images with boxes (Pascal VOC, COCO, YOLO); not split yet.")
    ],
    output: Annotated[Path, typer.Option(help="Folder to write; must not exist.")],
    share: Annotated[float, typer.Option("--split", min=0, max=1, help="The share to train on.")] = 0.8,
    link: Annotated[bool, typer.Option("--link", help="Hard links to the images instead of copies.")] = False,
    bad_boxes: Annotated[
        Literal["raise", "drop"],
        typer.Option(help="What to do with unreadable annotations and non-finite boxes."),
    ] = "raise",
    as_json: AsJson = False,
) -> None:
    """Split your own photographs into train and val, deterministically.

    Exact copies of an image stay in one part. Each class folder is split separately.
    """
    from compactnets.console import stdout
    from compactnets.data.dividing import Division, divide_folder
    from compactnets.data.listing import printable, summarize
    from compactnets.detection.data.conversion import Conversion, split_detection
    from compactnets.detection.data.opening import is_detection
    from compactnets.errors import InputError

    if not 0 < share < 1:
        raise InputError(f"--split must be a share between 0 and 1, found {share:g}")
    result: Conversion | Division
    if len(source) > 1 or is_detection(source[0]):
        result = split_detection(source, output, share, link=link, bad_boxes=bad_boxes)
        what = f" ({result.format}): {result.objects:,} objects"
        notes = result.losses
    elif bad_boxes != "raise":
        raise InputError(f"--bad-boxes is for images with boxes, and {source[0]} has labels: remove it")
    else:
        result = divide_folder(source[0], output, share, link=link)
        what = f": {result.classes:,} classes"
        notes = [f"exact copies, kept together: {result.copies:,}"] if result.copies else []
        notes += [f"files left out: {printable(summarize(result.left_out))}"] if result.left_out else []
    if as_json:
        print_json(result.to_dict())
        return
    splits = ", ".join(f"{name} {images:,} images" for name, images in result.splits.items())
    stdout.print(f"{', '.join(source)} -> {output}{what}, {splits}")
    for note in notes:
        stdout.print(f"note: {note}")
