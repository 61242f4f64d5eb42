"""The verbs about networks and their weights: list, profile, draw and convert them."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from compactnets_cli.options import BOXES, LABELS, MASKS, NETWORKS, PLACES, Arguments, AsJson, print_json

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


@networks.command(rich_help_panel=NETWORKS, epilog="Example: compactnets weights muffnet_x0_5.cifar10")
def weights(
    name: Annotated[
        str | None, typer.Argument(metavar="NAME", help="Weights, such as muffnet_x0_5.cifar10: print all about them.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """List trained weights: shipped, in your folder $COMPACTNETS_WEIGHTS, or to be fetched."""
    from compactnets.catalogue import describe_weights, list_weights, show_details, show_weights

    if name is None:
        rows = list_weights()
        print_json([row.to_dict() for row in rows]) if as_json else show_weights(rows)
    else:
        details = describe_weights(name)
        print_json(details.to_dict()) if as_json else show_details(details)


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
    """Convert a checkpoint of the MENet repository."""
    from compactnets.classification.legacy import convert as run
    from compactnets.console import stdout

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
        bool, typer.Option("--start", help="Use the M that the search started from, for comparison.")
    ] = False,
    align: Annotated[
        str,
        typer.Option(
            metavar="N|auto", help="Round groups to multiples of N channels; auto: those that --format likes, measured."
        ),
    ] = "1",
    format_name: Annotated[
        str | None, typer.Option("--format", help="Runtime to measure for --align auto, such as onnx.")
    ] = None,
    threads: Annotated[int, typer.Option(min=1, help="Threads of this runtime.")] = 1,
    table: Annotated[
        Path | None, typer.Option(help="File of this runtime's latencies, to share with searches; default: none.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Round a MuffNet's learned sharing matrices to whole channels, at the cost of its variant."""
    from compactnets.classification.discretization import discretize_checkpoint
    from compactnets.console import stdout
    from compactnets.search.table import find_multiple

    multiple = find_multiple(align, format_name, threads, table)
    found = discretize_checkpoint(checkpoint, output, start=start, multiple=multiple)
    if as_json:
        print_json({"output": str(output), "multiple": multiple, **found.to_dict()})
        return
    for number, (matrix, moved) in enumerate(zip(found.matrices, found.moved, strict=True), start=1):
        learned = "start of the search" if start else f"a group typically moved by a factor of {moved:.2f}"
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
        typer.Option(
            metavar="C H W", help="Input; default: the checkpoint's, 3 224 224, or 3 32 32 with --stem cifar."
        ),
    ] = None,
    stem: Annotated[
        Literal["imagenet", "cifar"] | None, typer.Option(help="First layers.", rich_help_panel=LABELS)
    ] = None,
    num_classes: Annotated[
        int | None, typer.Option(min=0, help="Classes; default: 1000, or 10 with --stem cifar.")
    ] = None,
    batch_size: Annotated[
        int | None,
        typer.Option(min=1, help="Batch size, for the activation memory; default: 1.", rich_help_panel=LABELS),
    ] = None,
    arguments: Arguments = None,
    per_layer: Annotated[bool, typer.Option("--per-layer", help="One row per layer.", rich_help_panel=LABELS)] = False,
    as_json: AsJson = False,
    detector: Annotated[
        Literal["faster_rcnn", "ssd"] | None,
        typer.Option(help="Count a detector on the network, per part.", rich_help_panel=BOXES),
    ] = None,
    recipe: Annotated[
        str | None,
        typer.Option(
            help="Recipe of the detector or segmenter, such as small/ssd512; --set changes its settings.",
            rich_help_panel=PLACES,
        ),
    ] = None,
    head: Annotated[
        Literal["lraspp", "deeplabv3plus"] | None,
        typer.Option(help="Count a segmenter on the network, per part.", rich_help_panel=MASKS),
    ] = None,
    output_stride: Annotated[
        int | None, typer.Option(help="Of its backbone: 8, 16 or 32; default: 16.", rich_help_panel=MASKS)
    ] = None,
) -> None:
    """Count a network's multiply-adds, other operations, parameters and memory; for boxes and masks, per part."""
    from compactnets import api

    result = api.profile(
        name,
        arguments=arguments or [],
        input_size=input_size,
        stem=stem,
        num_classes=num_classes,
        batch_size=batch_size,
        per_layer=per_layer or None,
        detector=detector,
        recipe=recipe,
        head=head,
        output_stride=output_stride,
    )
    print_json(result.to_dict()) if as_json else result.show()


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
    from compactnets.classification.cost import build_by_name, parse_arguments
    from compactnets.console import stdout
    from compactnets.plots import draw_sharing

    draw_sharing(build_by_name(name, parse_arguments(arguments or [])), output)
    print_json({"model": name, "output": str(output)}) if as_json else stdout.print(str(output))


@networks.command(
    rich_help_panel=NETWORKS, epilog="Example: compactnets push runs/photos/best.safetensors OWNER/NAME --private"
)
def push(
    checkpoint: Annotated[Path, typer.Argument(help="A .safetensors file with its record, or the name of weights.")],
    repository: Annotated[str, typer.Argument(metavar="OWNER/NAME", help="A repository; created if missing.")],
    private: Annotated[bool, typer.Option("--private", help="Create a private repository.")] = False,
    revision: Annotated[str, typer.Option(help="Branch to write to, created if missing.")] = "main",
    message: Annotated[str | None, typer.Option(help="Message of the commit.")] = None,
    license: Annotated[
        str | None, typer.Option(help="Licence of the weights, such as Apache-2.0; default: the record's.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Push a checkpoint to the Hugging Face Hub, with a model card; the token: $HF_TOKEN or 'hf auth login'."""
    from compactnets.console import stdout
    from compactnets.hub import push as run

    done = run(checkpoint, repository, private=private, revision=revision, message=message, license=license)
    if as_json:
        print_json(done.to_dict())
    else:
        sizes = ", ".join(f"{name} ({size:,} bytes)" for name, size in done.files.items())
        stdout.print(f"{checkpoint} -> {done.url}: {sizes}")


@networks.command(rich_help_panel=NETWORKS, epilog="Example: compactnets pull OWNER/NAME --output photos-model")
def pull(
    repository: Annotated[str, typer.Argument(metavar="OWNER/NAME[@REVISION]", help="A repository that 'push' wrote.")],
    output: Annotated[Path, typer.Option(help="New folder for the checkpoint, model.safetensors.")],
    revision: Annotated[str | None, typer.Option(help="Branch, tag or commit; default: main.")] = None,
    as_json: AsJson = False,
) -> None:
    """Download a checkpoint from the Hugging Face Hub, and check it. No pickle is read."""
    from compactnets.console import stdout
    from compactnets.hub import pull as run

    done = run(repository, output, revision=revision)
    if as_json:
        print_json(done.to_dict())
    else:
        stdout.print(
            f"{done.repository} at {done.revision} -> {done.checkpoint}: {done.model} for {done.task}; licence: "
            f"{done.license}"
        )
