"""The verbs that take a network to a device."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from compactnets_cli.options import BOTH, BOXES, DEPLOY, AcrossClasses, Arguments, AsJson, print_json

deploy = typer.Typer()


@deploy.command(
    rich_help_panel=DEPLOY, epilog="Example: compactnets export muffnet_x0_5.cifar10 --format onnx --output out"
)
def export(
    network: Annotated[str, typer.Argument(metavar="CHECKPOINT|NAME", help="A .safetensors file, or a network.")],
    format_name: Annotated[
        str,
        typer.Option(
            "--format",
            help="onnx, openvino, executorch, litert, ncnn, coreml (an extra each), torch or c; detectors: onnx, "
            "openvino or ncnn.",
        ),
    ],
    output: Annotated[Path, typer.Option(help="Folder for the artifact and its artifact.json.")],
    size: Annotated[
        str | None,
        typer.Option(
            metavar="SIDE|HEIGHTxWIDTH",
            help="Side of the images; default: that of the checkpoint's preprocessing. Detectors: fixes the input of "
            "Faster R-CNN, which is dynamic otherwise.",
        ),
    ] = None,
    precision: Annotated[
        str | None,
        typer.Option(
            help="float32 (the default), or float16: half the bytes, input and output alike; not for executorch with "
            "xnnpack."
        ),
    ] = None,
    tolerance: Annotated[
        float | None,
        typer.Option(
            help="Largest difference from PyTorch, relative to the largest logit; default: 0.0001, or 0.01 for "
            "float16. Detectors: of a score, or of a box relative to the input; of a raw output in float16: 0.02."
        ),
    ] = None,
    arguments: Arguments = None,
    as_json: AsJson = False,
    batch_size: Annotated[
        int | None,
        typer.Option(
            min=1,
            help="Batch size, for executorch, litert and coreml; default: 1. With --serving: the largest; default: 8.",
            rich_help_panel=BOTH,
        ),
    ] = None,
    serving: Annotated[
        str | None,
        typer.Option(
            metavar="SERVER",
            help="onnx: triton writes a model of a Triton repository: --output is REPOSITORY/MODEL.",
            rich_help_panel=BOTH,
        ),
    ] = None,
    images: Annotated[
        str | None,
        typer.Option(
            help="Images to compare on, as --data or, of segmenters, files; default: two photographs.",
            rich_help_panel=BOTH,
        ),
    ] = None,
    lanes: Annotated[
        int | None,
        typer.Option(
            min=2,
            help="onnx: pad channels of depthwise convolutions to multiples of this: 16 for AVX-512.",
            rich_help_panel=BOTH,
        ),
    ] = None,
    embed: Annotated[
        bool | None,
        typer.Option("--embed", help="c: put the weights into model.c as well.", rich_help_panel=BOTH),
    ] = None,
    mcu: Annotated[
        str | None,
        typer.Option(
            metavar="CORE",
            help="c: for a microcontroller (cortex-m3, -m4, -m7 or -m33): as --embed, and count flash and RAM.",
            rich_help_panel=BOTH,
        ),
    ] = None,
    delegate: Annotated[
        str | None,
        typer.Option(
            help="executorch: xnnpack (the default), or vulkan or coreml, which run only on the device.",
            rich_help_panel=BOTH,
        ),
    ] = None,
    heads: Annotated[
        Literal["boxes", "raw"] | None,
        typer.Option(
            help="boxes (the default): the graph decodes the boxes; raw: the caller does, as for ncnn.",
            rich_help_panel=BOXES,
        ),
    ] = None,
    class_agnostic_nms: AcrossClasses = None,
) -> None:
    """Export a network to a runtime, compare it with PyTorch, and keep the artifact if they agree.

    Exit code 3 if they do not; then nothing is kept.
    """
    from compactnets import api
    from compactnets.classification.cost import parse_arguments

    result = api.export(
        network,
        format_name,
        output,
        arguments=parse_arguments(arguments or []),
        size=size,
        batch_size=batch_size,
        serving=serving,
        images=images,
        precision=precision,
        tolerance=tolerance,
        lanes=lanes,
        embed=embed or None,
        mcu=mcu,
        delegate=delegate,
        heads=heads,
        class_agnostic_nms=class_agnostic_nms or None,
    )
    print_json(result.to_dict()) if as_json else result.show()


@deploy.command(
    rich_help_panel=DEPLOY,
    epilog="Example: compactnets quantize a.safetensors --format onnx --calibration cifar10 --eval cifar10 --output b",
)
def quantize(
    checkpoint: Annotated[str, typer.Argument(metavar="CHECKPOINT", help="A .safetensors file of train.")],
    format_name: Annotated[
        str, typer.Option("--format", help="onnx, openvino, executorch, litert (an extra each) or c.")
    ],
    calibration: Annotated[str, typer.Option(help="Images for measuring ranges.")],
    evaluation: Annotated[
        str, typer.Option("--eval", help="Images to compare on, without those used for calibration.")
    ],
    output: Annotated[Path, typer.Option(help="Folder for the artifact and its report.")],
    max_drop: Annotated[
        float, typer.Option(help="Largest acceptable loss, in points of top-1 accuracy, or of mIoU.")
    ] = 0.5,
    calibration_images: Annotated[int, typer.Option(min=1, help="Images to calibrate on.")] = 128,
    ranges: Annotated[str, typer.Option(help="mse, percentile, entropy or minmax.")] = "mse",
    keep: Annotated[
        list[str] | None, typer.Option("--keep-float", metavar="LAYER", help="A layer to leave in float; repeatable.")
    ] = None,
    no_equalize: Annotated[bool, typer.Option("--no-equalize", help="Skip cross-layer equalisation.")] = False,
    no_rounding: Annotated[
        bool, typer.Option("--no-rounding", help="Round each weight to nearest, independently.")
    ] = False,
    no_correction: Annotated[bool, typer.Option("--no-correction", help="Skip bias correction.")] = False,
    weight_bits: Annotated[
        int | None,
        typer.Option(
            min=7,
            max=8,
            help="8 overflows in onnx and openvino on x86 CPUs without VNNI; default: 7 for these.",
        ),
    ] = None,
    threads: Annotated[int, typer.Option(min=1, help="Threads for measuring latency.")] = 1,
    float_network: Annotated[
        str | None,
        typer.Option("--float", metavar="CHECKPOINT", help="Float network to compare with; default: the same weights."),
    ] = None,
    size: Annotated[
        str | None,
        typer.Option(metavar="SIDE|HEIGHTxWIDTH", help="Side of the images; default: that of the checkpoint."),
    ] = None,
    embed: Annotated[bool, typer.Option("--embed", help="c: put the weights into model.c as well.")] = False,
    mcu: Annotated[
        str | None,
        typer.Option(
            metavar="CORE",
            help="c: for a microcontroller (cortex-m3, -m4, -m7 or -m33): as --embed, and count flash and RAM.",
        ),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Quantise a network to int8, compare accuracy and latency with float, and keep it if the loss is small.

    Exit code 3 if it loses more than --max-drop; then nothing is kept. A checkpoint of train --qat keeps its weights
    and ranges.
    """
    import sys

    from compactnets import api

    result = api.quantize(
        checkpoint,
        format_name,
        output,
        calibration=calibration,
        evaluation=evaluation,
        max_drop=max_drop,
        float_network=float_network,
        size=size,
        embed=embed,
        mcu=mcu,
        threads=threads,
        command=["compactnets", *sys.argv[1:]],
        calibration_images=calibration_images,
        ranges=ranges,
        equalize=not no_equalize,
        rounding=not no_rounding,
        correction=not no_correction,
        weight_bits=weight_bits,
        keep=tuple(keep or ()),
    )
    print_json(result.to_dict()) if as_json else result.show()


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
            help="Comma-separated formats; eager is plain PyTorch; onnx@float16, openvino@bf16, onnx@lanes16."
        ),
    ] = "eager,onnx",
    threads: Annotated[str, typer.Option(help="Threads of every runtime; 1,2 measures both, in turns.")] = "1",
    batch: Annotated[
        str, typer.Option("--batch", "--batch-size", help="Images per call; 1,8,32 measures each, in turns.")
    ] = "1",
    size: Annotated[
        str | None,
        typer.Option(metavar="SIDE|HEIGHTxWIDTH", help="Side of the images; default: each network's own."),
    ] = None,
    rounds: Annotated[int, typer.Option(min=1, help="Turns per network and format.")] = 20,
    calls: Annotated[int, typer.Option(min=1, help="Timed calls per turn, after two warm-up calls.")] = 8,
    operators: Annotated[
        bool, typer.Option("--operators", help="Also time each kind of operator, if the runtime has a profiler.")
    ] = False,
    artifacts: Annotated[
        Path | None, typer.Option(help="Folder to keep artifacts for reuse; default: a temporary one.")
    ] = None,
    output: Annotated[Path | None, typer.Option(help="JSON file to write.")] = None,
    plot: Annotated[Path | None, typer.Option(help="Plot to write: .svg, .png or .pdf.")] = None,
    compare: Annotated[Path | None, typer.Option(help="JSON file of an earlier run to compare with.")] = None,
    as_json: AsJson = False,
) -> None:
    """Measure the latency of networks in their runtimes, in turns, against the CPU's limit.

    Exit code 3 if a network could not be exported to a format; the others are still measured.
    """
    from functools import partial

    from compactnets.console import say
    from compactnets.failures import take_all
    from compactnets.folders import check_file
    from compactnets.latency.benchmark import benchmark as run
    from compactnets.latency.results import (
        draw,
        moved,
        read_results,
        show,
        write_results,
    )
    from compactnets.pictures import check_picture
    from compactnets.stopping import stoppable
    from compactnets.values import parse_counts

    counts, batches = parse_counts(threads, "--threads"), parse_counts(batch, "--batch")
    before = read_results(compare) if compare else None
    take_all(partial(check_file, output) if output else None, partial(check_picture, plot, "--plot") if plot else None)
    with stoppable():
        results = run(
            networks,
            [name.strip() for name in formats.split(",")],
            threads=counts,
            batch_size=batches,
            size=size,
            rounds=rounds,
            calls=calls,
            operators=operators,
            artifacts=artifacts,
        )
        signum = results.pop("interrupted", None)
        compared = {"compared": moved(before, results)} if before else {}
        # print first: writing may fail, as the disk may be full by now
        print_json({**results, **compared}) if as_json else show({**results, **compared})
        take_all(
            partial(write_results, results, output) if output else None, partial(draw, results, plot) if plot else None
        )
    if signum is not None:
        say(f"compactnets: interrupted after {results['settings']['rounds']} of {rounds} turns, which are the result")
        raise SystemExit(128 + signum)
    if results["failed"]:
        raise typer.Exit(3)
