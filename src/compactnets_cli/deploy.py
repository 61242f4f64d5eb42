"""The verbs that take a network to a device."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from compactnets_cli.options import Arguments, AsJson, print_json

deploy = typer.Typer()


@deploy.command()
def export(
    network: Annotated[str, typer.Argument(metavar="CHECKPOINT|NAME", help="A .safetensors file, or a network.")],
    form: Annotated[
        str, typer.Option("--format", help="onnx, openvino, executorch, ncnn, coreml or torch; each is an extra.")
    ],
    output: Annotated[Path, typer.Option(help="Folder for the artifact and its artifact.json.")],
    size: Annotated[
        int | None, typer.Option(min=1, help="Side of the images; that of the checkpoint's preprocessing.")
    ] = None,
    batch_size: Annotated[int, typer.Option(min=1, help="Images at once, for executorch and coreml.")] = 1,
    images: Annotated[
        str | None, typer.Option(help="Source of the images to compare on; two photographs where it is not given.")
    ] = None,
    tolerance: Annotated[
        float, typer.Option(min=0.0, help="Largest difference from PyTorch, as a share of the largest logit.")
    ] = 1e-4,
    arguments: Arguments = None,
    as_json: AsJson = False,
) -> None:
    """Write a network for a runtime, compare it there with PyTorch, and keep it if they agree.

    Exit code 3 where they do not; then nothing is left behind.
    """
    from compactnets.catalogue import parse_arguments
    from compactnets.deploy import export as run
    from compactnets.deploy import load_for_export
    from compactnets.deploy.report import show

    model, record = load_for_export(network, parse_arguments(arguments or []))
    result = run(model, record, form, output, size=size, batch_size=batch_size, images=images, tolerance=tolerance)
    if as_json:
        print_json({"output": str(output), **result.model_dump(mode="json")})
    else:
        show(result, output)
