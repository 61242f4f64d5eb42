"""The verbs that take a network to a device."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from compactnets_cli.options import DEPLOY, Arguments, AsJson, print_json

deploy = typer.Typer()


@deploy.command(
    rich_help_panel=DEPLOY, epilog="Example: compactnets export muffnet_x0_5.cifar10 --format onnx --output out"
)
def export(
    network: Annotated[str, typer.Argument(metavar="CHECKPOINT|NAME", help="A .safetensors file, or a network.")],
    form: Annotated[
        str, typer.Option("--format", help="onnx, openvino, executorch, ncnn, coreml (an extra each) or torch.")
    ],
    output: Annotated[Path, typer.Option(help="Folder for the artifact and its artifact.json.")],
    size: Annotated[
        int | None, typer.Option(min=1, help="Side of the images; that of the checkpoint's preprocessing.")
    ] = None,
    batch_size: Annotated[int, typer.Option(min=1, help="Images at once, for executorch and coreml.")] = 1,
    images: Annotated[
        str | None, typer.Option(help="Source of the images to compare on; two photographs where it is not given.")
    ] = None,
    precision: Annotated[
        str, typer.Option(help="float32, or float16: half the bytes, input and output as before; not for executorch.")
    ] = "float32",
    tolerance: Annotated[
        float | None,
        typer.Option(
            help="Largest difference from PyTorch, as a share of the largest logit; 0.0001, and 0.01 for float16."
        ),
    ] = None,
    lanes: Annotated[
        int | None,
        typer.Option(min=2, help="onnx: pad channels of depthwise convolutions to multiples of this: 16 for AVX-512."),
    ] = None,
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
    result = run(
        model,
        record,
        form,
        output,
        size=size,
        batch_size=batch_size,
        images=images,
        tolerance=tolerance,
        lanes=lanes,
        precision=precision,
    )
    if as_json:
        print_json({"output": str(output), **result.model_dump(mode="json")})
    else:
        show(result, output)


@deploy.command(
    rich_help_panel=DEPLOY,
    epilog="Example: compactnets quantize a.safetensors --format onnx --calibration cifar10 --eval cifar10 --output b",
)
def quantize(
    checkpoint: Annotated[str, typer.Argument(metavar="CHECKPOINT", help="A .safetensors file of train.")],
    form: Annotated[str, typer.Option("--format", help="onnx, openvino or executorch (an extra each).")],
    calibration: Annotated[str, typer.Option(help="Source of the images that ranges are measured on.")],
    evaluation: Annotated[
        str, typer.Option("--eval", help="Source of the images to compare on; calibrated ones are left out.")
    ],
    output: Annotated[Path, typer.Option(help="Folder for the artifact and its report.")],
    max_drop: Annotated[float, typer.Option(help="Points of top-1 accuracy that may be lost.")] = 0.5,
    calibration_images: Annotated[int, typer.Option(min=1, help="Images to calibrate on.")] = 128,
    ranges: Annotated[str, typer.Option(help="mse, percentile, entropy or minmax.")] = "mse",
    keep: Annotated[
        list[str] | None, typer.Option("--keep-float", metavar="LAYER", help="A layer to leave in float; repeatable.")
    ] = None,
    no_equalize: Annotated[
        bool, typer.Option("--no-equalize", help="Leave the ranges of a tensor's channels as they are.")
    ] = False,
    no_rounding: Annotated[
        bool, typer.Option("--no-rounding", help="Round weights to the nearest, each alone.")
    ] = False,
    no_correction: Annotated[bool, typer.Option("--no-correction", help="Leave biases as they are.")] = False,
    threads: Annotated[int, typer.Option(min=1, help="Threads while latency is measured.")] = 1,
    beside: Annotated[
        str | None,
        typer.Option("--float", metavar="CHECKPOINT", help="Float network to compare with; that of the same weights."),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Quantise a network to int8, compare accuracy and latency with float, and keep it if it loses little.

    Exit code 3 where it loses more than --max-drop; then nothing is left behind. A checkpoint of train --qat keeps its
    weights and ranges as they are.
    """
    import sys

    from compactnets.deploy import load_for_export
    from compactnets.deploy.quantization import Settings
    from compactnets.deploy.quantization import quantize as run
    from compactnets.deploy.quantization.training import load_for_int8
    from compactnets.deploy.report import show_quantized

    model, record = load_for_int8(checkpoint)
    settings = Settings(
        calibration_images=calibration_images,
        ranges=ranges,
        equalize=not no_equalize,
        rounding=not no_rounding,
        correction=not no_correction,
        keep=tuple(keep or ()),
    )
    artifact, report = run(
        model,
        record,
        form,
        output,
        calibration=calibration,
        evaluation=evaluation,
        max_drop=max_drop,
        settings=settings,
        threads=threads,
        command=["compactnets", *sys.argv[1:]],
        beside=(beside, *load_for_export(beside)) if beside else None,
    )
    if as_json:
        print_json({"output": str(output), **artifact.model_dump(mode="json"), "quantization": report})
    else:
        show_quantized(artifact, report, output)


@deploy.command(
    rich_help_panel=DEPLOY, epilog="Example: compactnets benchmark muffnet_x0_5 menet_108_8x1_g3 --formats eager,onnx"
)
def benchmark(
    networks: Annotated[
        list[str],
        typer.Argument(metavar="NETWORKS...", help="Names, .safetensors files, timm:NAME or pytorchcv:NAME."),
    ],
    formats: Annotated[
        str,
        typer.Option(
            help="Formats, commas between; eager is plain PyTorch; onnx@float16, openvino@bf16, onnx@lanes16."
        ),
    ] = "eager,onnx",
    threads: Annotated[int, typer.Option(min=1, help="Threads of every runtime.")] = 1,
    batch_size: Annotated[int, typer.Option(min=1, help="Images at once.")] = 1,
    size: Annotated[int | None, typer.Option(min=1, help="Side of the images; each network's own.")] = None,
    rounds: Annotated[int, typer.Option(min=1, help="Turns that every entry takes.")] = 20,
    calls: Annotated[int, typer.Option(min=1, help="Calls in a turn that count; two before them do not.")] = 8,
    operators: Annotated[
        bool, typer.Option("--operators", help="Time each kind of operator, too, where the runtime has a profiler.")
    ] = False,
    artifacts: Annotated[
        Path | None, typer.Option(help="Folder that keeps the artifacts, to use them again; a temporary one.")
    ] = None,
    output: Annotated[Path | None, typer.Option(help="JSON file to write.")] = None,
    plot: Annotated[Path | None, typer.Option(help="Picture to write: .svg, .png or .pdf.")] = None,
    compare: Annotated[Path | None, typer.Option(help="JSON file of an earlier run to compare with.")] = None,
    as_json: AsJson = False,
) -> None:
    """Measure the latency of networks in their runtimes, in turns, beside the limit of the processor.

    Exit code 3 where a network could not be exported to a format; the others are measured all the same.
    """
    from compactnets.console import say
    from compactnets.deploy.latency import benchmark as run
    from compactnets.deploy.latency_report import draw, moved, read_results, show, write_results
    from compactnets.failures import scratch_folder
    from compactnets.folders import check_file
    from compactnets.pictures import check_picture
    from compactnets.stopping import stoppable

    before = read_results(compare) if compare else None
    if output:
        check_file(output)
    if plot:
        check_picture(plot, "--plot")
    with stoppable():
        with scratch_folder() as scratch:
            results = run(
                networks,
                [name.strip() for name in formats.split(",")],
                threads=threads,
                batch_size=batch_size,
                size=size,
                rounds=rounds,
                calls=calls,
                operators=operators,
                artifacts=artifacts or scratch,
            )
        signum = results.pop("interrupted", None)
        compared = {"compared": moved(before, results)} if before else {}
        # first what cannot be refused: a disk may be full by now
        print_json({**results, **compared}) if as_json else show({**results, **compared})
        if output:
            write_results(results, output)
        if plot:
            draw(results, plot)
    if signum is not None:
        say(f"compactnets: interrupted after {results['settings']['rounds']} of {rounds} turns, which are the result")
        raise SystemExit(128 + signum)
    if results["failed"]:
        raise typer.Exit(3)
