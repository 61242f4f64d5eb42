"""The verbs of ``compactnets data``."""

from __future__ import annotations

from typing import Annotated, Literal

import typer

from compactnets_cli.options import AsJson, Download, print_json

SHOWN = 20  # problems of a kind that are printed; --json has all

data = typer.Typer(help="Look at images before a run does.", no_args_is_help=True)


@data.command()
def check(
    source: Annotated[str, typer.Argument(help="What --data takes: a path, a pattern of .tar files, a word, hf:NAME.")],
    split: Annotated[Literal["train", "val", "both"], typer.Option(help="Split to check.")] = "both",
    workers: Annotated[
        int | None,
        typer.Option(min=0, help="Processes that decode; one per core, or none for under 1,000 images."),
    ] = None,
    download: Download = False,
    as_json: AsJson = False,
) -> None:
    """Decode every image; list the unreadable, those under two classes and those in both splits.

    Exit code 0 where there are none, 1 where there are some, 2 where the source cannot be used.
    """
    from compactnets.console import stdout
    from compactnets.data.checking import check_source
    from compactnets.data.report import render

    report = check_source(source, split, workers=workers, download=download)
    if as_json:
        print_json(report.to_dict())
    else:
        for line in render(report, SHOWN):
            stdout.print(line, highlight=False, markup=False, soft_wrap=True)
    if not report.clean:
        raise typer.Exit(1)
