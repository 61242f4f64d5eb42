"""The verbs about networks and their weights: what there is, what it costs, how it is drawn and converted."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from compactnets_cli.detect import profile_detector
from compactnets_cli.options import NETWORKS, Arguments, AsJson, print_json

networks = typer.Typer()


@networks.command("list", rich_help_panel=NETWORKS, epilog="Example: compactnets list 'muffnet*'")
def list_networks(
    pattern: Annotated[str, typer.Argument(help="Shell pattern, such as 'muffnet*' or '*_x0_5'.")] = "*",
    as_json: AsJson = False,
) -> None:
    """List the networks with their multiply-adds and parameters."""
    from compactnets.catalogue import list_rows, show

    rows = list_rows(pattern)
    print_json([row.to_dict() for row in rows]) if as_json else show(rows)


@networks.command(rich_help_panel=NETWORKS, epilog="Example: compactnets weights")
def weights(as_json: AsJson = False) -> None:
    """List trained weights: those that are here, and where others come from."""
    from compactnets.catalogue import show_weights, weight_rows

    rows = weight_rows()
    print_json(rows) if as_json else show_weights(rows)


@networks.command(rich_help_panel=NETWORKS, epilog="Example: compactnets recipes")
def recipes(as_json: AsJson = False) -> None:
    """List the recipes, each with the first line of its description."""
    from compactnets.catalogue import recipe_rows, show_recipes

    rows = recipe_rows()
    print_json(rows) if as_json else show_recipes(rows)


@networks.command(
    rich_help_panel=NETWORKS,
    epilog="Example: compactnets convert 108.pth.tar --model menet_108_8x1_g3 --output a.safetensors",
)
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
        stdout.print(f"{legacy} -> {output}: {model}, {len(record.class_names)} classes")


@networks.command(
    rich_help_panel=NETWORKS,
    epilog="Example: compactnets discretize runs/a/best.safetensors --output found.safetensors",
)
def discretize(
    checkpoint: Annotated[Path, typer.Argument(help="Checkpoint of a MuffNet with model_arguments.sharing=learned.")],
    output: Annotated[Path, typer.Option(help="The .safetensors file to write, for train --init.")],
    start: Annotated[
        bool, typer.Option("--start", help="The M that the search began with instead, to compare what it learned with.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Turn the sharing matrices that a MuffNet has learned into whole channels, at the cost of its variant."""
    from compactnets.console import stdout
    from compactnets.training.discretization import discretize_checkpoint

    found = discretize_checkpoint(checkpoint, output, start=start)
    if as_json:
        print_json({"output": str(output), **found.to_dict()})
        return
    for number, (matrix, moved) in enumerate(zip(found.matrices, found.moved, strict=True), start=1):
        learned = "what the search began with" if start else f"a group typically moved by a factor of {moved:.2f}"
        stdout.print(f"stage {number}, {matrix.out_channels} channels out; {learned}")
        width = max(len(str(entry)) for row in matrix.entries for entry in row)
        for row in matrix.entries:
            stdout.print("  " + " ".join(f"{entry or '.':>{width}}" for entry in row))
    stdout.print(
        f"{found.macs / 1e6:.2f} M multiply-adds, {found.params / 1e6:.3f} M parameters; the variant has "
        f"{found.variant_macs / 1e6:.2f} M. Train it: compactnets train RECIPE --init {output} …",
    )


@networks.command(rich_help_panel=NETWORKS, epilog="Example: compactnets profile muffnet_x0_5 --stem cifar --per-layer")
def profile(
    name: Annotated[
        str, typer.Argument(metavar="NAME|CHECKPOINT", help="A network (compactnets list), or a checkpoint.")
    ],
    input_size: Annotated[
        tuple[int, int, int] | None,
        typer.Option(metavar="C H W", help="Input; 3 224 224, or 3 32 32 with --stem cifar; a checkpoint's own."),
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
    from compactnets.catalogue import SUFFIX, merge_arguments, profile_by_name
    from compactnets.training.checkpoint import task_of

    if detector or recipe or (name.endswith(SUFFIX) and task_of(Path(name)) == "detection"):
        given = {"stem": stem, "batch-size": batch_size != 1, "per-layer": per_layer}
        profile_detector(name, input_size, detector, recipe, num_classes, arguments or [], given, as_json)
        return
    from compactnets.complexity import render
    from compactnets.console import stdout

    merged = merge_arguments({"stem": stem, "num_classes": num_classes}, arguments or [])
    cost = profile_by_name(name, input_size, batch_size, merged)
    if as_json:
        print_json({"model": name, **cost.to_dict()})
    else:
        stdout.print(render(cost, per_layer=per_layer))


@networks.command(rich_help_panel=NETWORKS, epilog="Example: compactnets draw muffnet_x0_5 --output m.svg")
def draw(
    name: Annotated[
        str, typer.Argument(metavar="NAME|CHECKPOINT", help="A MuffNet, such as muffnet_x0_5, or a checkpoint of one.")
    ],
    output: Annotated[Path, typer.Option(help="Picture to write: .svg, .png or .pdf.")],
    arguments: Arguments = None,
    as_json: AsJson = False,
) -> None:
    """Draw the sharing matrices of a MuffNet (its figure 5)."""
    from compactnets.catalogue import build_by_name, parse_arguments
    from compactnets.console import stdout
    from compactnets.plots import draw_sharing

    draw_sharing(build_by_name(name, parse_arguments(arguments or [])), output)
    print_json({"model": name, "output": str(output)}) if as_json else stdout.print(str(output))
