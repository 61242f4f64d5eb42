"""The verb ``search``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from compactnets_cli.options import AsJson, Device, Download, LabelledData, print_json


def search(
    data: LabelledData,
    output: Annotated[Path, typer.Option(help="Folder for the study, its runs and the result.")],
    budget: Annotated[
        list[str],
        typer.Option(metavar="QUANTITY=AMOUNT", help="latency=3ms, macs=40M, params=1M, bytes=1.5MB or memory=400KB."),
    ],
    family: Annotated[str, typer.Option(help="menet, muffnet, both with a comma, or all.")] = "all",
    format_name: Annotated[str, typer.Option("--format", help="Runtime whose latency counts.")] = "c",
    threads: Annotated[int, typer.Option(min=1, help="Threads of the runtime.")] = 1,
    recipe: Annotated[str, typer.Option(help="Recipe of all trainings.")] = "cifar/short",
    settings: Annotated[
        list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="Change a setting of the recipe.")
    ] = None,
    split: Annotated[
        float | None, typer.Option(min=0, max=1, help="For undivided images: the share to train on, such as 0.8.")
    ] = None,
    trials: Annotated[int, typer.Option(min=1, help="Networks to train.")] = 24,
    epochs: Annotated[int, typer.Option(min=1, help="Epochs of a network that is never stopped.")] = 4,
    rungs: Annotated[int, typer.Option(min=0, max=10, help="How often the weaker half is stopped.")] = 2,
    sizes: Annotated[
        list[int] | None, typer.Option("--size", min=1, help="Side of the images to choose from; repeatable.")
    ] = None,
    compared: Annotated[
        list[str] | None, typer.Option("--compare", help="Network to train alike for comparison; repeatable.")
    ] = None,
    table: Annotated[Path | None, typer.Option(help="File of the parts' latencies, to share between searches.")] = None,
    device_command: Annotated[
        str | None,
        typer.Option(metavar="COMMAND", help="Measure elsewhere: gets an artifact's file, prints milliseconds last."),
    ] = None,
    seed: Annotated[int, typer.Option(min=0, help="Of the proposals and the trainings.")] = 0,
    device: Device = "auto",
    download: Download = False,
    as_json: AsJson = False,
) -> None:
    """Find the most accurate networks within a measured budget; rerun the command to go on.

    Candidates are trained on your images for a few epochs and judged on training images held out.
    """
    from compactnets.search import find

    outcome = find(
        data,
        output,
        budget,
        family=family,
        format_name=format_name,
        threads=threads,
        recipe=recipe,
        settings=[*(settings or []), *([f"split={split}"] if split is not None else [])],
        trials=trials,
        epochs=epochs,
        rungs=rungs,
        sizes=sizes or [],
        compared=compared or [],
        table=table,
        device_command=device_command,
        seed=seed,
        device=device,
        download=download,
    )
    print_json(outcome.to_dict()) if as_json else outcome.show()
