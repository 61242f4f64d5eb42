"""The verb ``search``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from compactnets_cli.options import AsJson, Download, LabelledData, print_json


def search(
    data: LabelledData,
    output: Annotated[Path, typer.Option(help="Folder for the study, its runs and the result.")],
    budget: Annotated[
        list[str],
        typer.Option(metavar="QUANTITY=AMOUNT", help="latency=3ms, macs=40M, params=1M, bytes=1.5MB or memory=400KB."),
    ],
    family: Annotated[str | None, typer.Option(help="menet, muffnet, both with a comma, or all; default: all.")] = None,
    format_name: Annotated[
        str | None, typer.Option("--format", help="Runtime whose latency counts; default: c.")
    ] = None,
    threads: Annotated[int | None, typer.Option(min=1, help="Threads of the runtime; default: 1.")] = None,
    recipe: Annotated[str | None, typer.Option(help="Recipe of all trainings; default: cifar/short.")] = None,
    settings: Annotated[
        list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="Change a setting of the recipe.")
    ] = None,
    split: Annotated[
        float | None, typer.Option(min=0, max=1, help="For undivided images: the share to train on, such as 0.8.")
    ] = None,
    trials: Annotated[int | None, typer.Option(min=1, help="Networks to train; default: 24.")] = None,
    epochs: Annotated[
        int | None, typer.Option(min=1, help="Epochs of a network that is never stopped; default: 4.")
    ] = None,
    rungs: Annotated[
        int | None, typer.Option(min=0, max=10, help="How often the weaker half is stopped; default: 2.")
    ] = None,
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
    storage: Annotated[
        str | None,
        typer.Option(metavar="URL|FILE", help="Keep the study there, for several machines: sqlite:///search.db, ..."),
    ] = None,
    seed: Annotated[int | None, typer.Option(min=0, help="Of the proposals and the trainings; default: 0.")] = None,
    workers: Annotated[int | None, typer.Option(min=1, help="Processes that train at once; default: 1.")] = None,
    device: Annotated[str | None, typer.Option(help="auto, cpu, cuda, cuda:1, mps; default: auto.")] = None,
    download: Download = False,
    as_json: AsJson = False,
) -> None:
    """Find the most accurate networks within a measured budget; rerun the command to go on.

    Candidates are trained on your images for a few epochs and judged on training images held out.
    """
    from compactnets.search import find

    given = {
        "family": family,
        "format_name": format_name,
        "threads": threads,
        "recipe": recipe,
        "trials": trials,
        "epochs": epochs,
        "rungs": rungs,
        "table": table,
        "device_command": device_command,
        "storage": storage,
        "seed": seed,
        "workers": workers,
        "device": device,
    }
    outcome = find(
        data,
        output,
        budget,
        settings=[*(settings or []), *([f"split={split}"] if split is not None else [])],
        sizes=sizes or [],
        compared=compared or [],
        download=download,
        **{name: value for name, value in given.items() if value is not None},  # type: ignore[arg-type]
    )
    print_json(outcome.to_dict()) if as_json else outcome.show()
