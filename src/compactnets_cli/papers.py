"""The verbs of ``compactnets papers``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from compactnets_cli.options import AsJson, Device, Download, LabelledData, print_json

papers = typer.Typer(help="The papers' results, next to ours.", no_args_is_help=True)


@papers.command(epilog="Example: compactnets papers cost 'muffnet 5'")
def cost(
    table: Annotated[
        str | None, typer.Argument(help="Only one paper or table: menet, muffnet, 'menet II', 'muffnet 6'.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Compare every cost stated in the papers with the cost measured here."""
    from compactnets.console import Tracker, stdout
    from compactnets.papers.cost import measure_rows, render, select_rows, to_json

    rows = select_rows(table)
    costs = [cost for row in Tracker(rows, len(rows), "counting") for cost in measure_rows([row])]
    print_json(to_json(costs)) if as_json else stdout.print(render(costs))


@papers.command(epilog="Example: compactnets papers ablation sharing --data cifar10 --output runs/sharing --epochs 5")
def ablation(
    name: Annotated[str, typer.Argument(help="sharing, fusion_width, expansion or fusion_operation.")],
    data: LabelledData,
    output: Annotated[Path, typer.Option(help="Folder for the runs and ablation.json.")],
    epochs: Annotated[int | None, typer.Option(min=1, help="Epochs of each run, instead of the recipe's.")] = None,
    seeds: Annotated[int, typer.Option(min=1, help="Runs of each network.")] = 3,
    recipe: Annotated[str, typer.Option(help="Recipe of all runs.")] = "cifar/short",
    rows: Annotated[
        list[str] | None, typer.Option("--row", help="Only this row, or rows like 'average+*'; repeatable.")
    ] = None,
    networks: Annotated[
        list[Path] | None,
        typer.Option("--network", help="Checkpoint whose network is also trained, from scratch; repeatable."),
    ] = None,
    settings: Annotated[
        list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="Change a setting of the recipe.")
    ] = None,
    jobs: Annotated[int, typer.Option(min=1, help="Parallel runs, sharing the GPUs or the CPU's cores.")] = 1,
    ray: Annotated[
        str | None,
        typer.Option(metavar="ADDRESS", help="Run on a Ray cluster: auto, ray://HOST:10001; local starts one."),
    ] = None,
    device: Device = "auto",
    download: Download = False,
    as_json: AsJson = False,
) -> None:
    """Train the networks of a paper's ablation on small images, with several seeds; rerun the command to resume."""
    from compactnets.classification.grid import Place
    from compactnets.console import stdout
    from compactnets.papers.ablation import run_ablation, show

    result = run_ablation(
        name,
        data,
        output,
        recipe=recipe,
        settings=[*(settings or []), *([] if epochs is None else [f"epochs={epochs}"])],
        seeds=seeds,
        patterns=rows or [],
        networks=networks or [],
        place=Place(device, jobs, ray),
        download=download,
    )
    if as_json:
        print_json(result)
    else:
        show(result)
        stdout.print(f"runs and ablation.json in {output}")


@papers.command(epilog="Example: compactnets papers report --output report")
def report(
    output: Annotated[Path, typer.Option(help="Folder for report.html, report.md, report.json and the figures.")],
    runs: Annotated[
        list[Path] | None, typer.Option("--run", help="Folder of one of your runs or ablations; repeatable.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Write every table and figure of both papers: stated values, our measurements, and their origin."""
    from compactnets.console import say, stdout
    from compactnets.report import write_report

    values = write_report(output, runs or [])
    if as_json:
        print_json(values)
        return
    for figure in values["figures_missing"]:
        say(f"left out: {figure}")
    found = values["summary"]
    accuracies = found["accuracies"]
    stdout.print(
        f"{output / 'report.html'}: {found['rows_with_costs']} counts; of {accuracies['stated']} accuracies "
        f"{accuracies['reached_by_paper']} reproduced by the papers' recipes ({accuracies['by_paper']} run), "
        f"{accuracies['reached_by_ours']} reached by ours ({accuracies['by_ours']} run)"
    )
