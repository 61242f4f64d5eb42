"""Compare ways to int8 on the same network, calibration images and runtime.

python benchmarks/int8_methods.py NAME WEIGHTS DATA --output DIR [--draws 5] [--methods 'ours;nncf;...'] [--images 5000]

For every draw, 128 images are chosen at random from the training split (or from the only one), each method quantises
the network with them, and float and int8 run on the other images. NNCF is no dependency of the package:
``pip install nncf`` first.
"""

from __future__ import annotations

import argparse
import logging
import tempfile
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch
from harness import write_record  # beside this file
from torch import Tensor, nn

from compactnets.classification.checkpoint import CheckpointRecord
from compactnets.classification.evaluation import match_classes
from compactnets.data import ImageSource, Preprocess, open_source
from compactnets.data.base import MissingSplitError
from compactnets.data.loading import make_eval_loader
from compactnets.data.part import PartOfSource
from compactnets.deploy.artifact import run_in_batches
from compactnets.deploy.formats.registry import FORMATS
from compactnets.deploy.int8.noise import relative_error
from compactnets.deploy.int8.steps import Settings, calibrated, settled
from compactnets.deploy.record import size_in_bytes
from compactnets.deploy.rewrite import deploy_form
from compactnets.tasks.opening import open_to_write
from compactnets.timing import spread

CALIBRATION = 128  # as the command has by default
WARM_UP, CALLS = 10, 200  # of one image, for the latency
MOST_POINTS = 0.5  # what NNCF's accuracy control may lose on the calibration images, in points


@dataclass(frozen=True)
class Calibration:
    """The calibration images, each preprocessed, and the network's class of each."""

    pixels: Tensor
    labels: Tensor


Write = Callable[[nn.Module, Calibration, Path, Path], None]  # network, calibration, float artifact, folder


def ours(format_name: str, **changes: Any) -> Write:
    """Quantise with the package, without keeping anything in float."""

    def write(model: nn.Module, calibration: Calibration, plain: Path, folder: Path) -> None:
        fmt, pixels = FORMATS[format_name], calibration.pixels
        settings = Settings(**{"weight_bits": fmt.weight_bits, **changes})
        reference = calibrated(model, pixels, settings, quantize_output=fmt.int8_output)
        fmt.write_int8(settled(reference, (), pixels, settings), pixels[:1], folder)

    return write


def onnxruntime(method: str, *, prepare: bool = True) -> Write:
    """Quantise with ONNX Runtime's own static quantiser, weights per channel."""

    def write(model: nn.Module, calibration: Calibration, plain: Path, folder: Path) -> None:
        from onnxruntime.quantization import CalibrationDataReader, CalibrationMethod, QuantType, quantize_static
        from onnxruntime.quantization.shape_inference import quant_pre_process

        class Reader(CalibrationDataReader):
            def __init__(self) -> None:
                self.left = iter(calibration.pixels.split(1))

            def get_next(self) -> dict[str, np.ndarray] | None:
                image = next(self.left, None)
                return None if image is None else {"image": image.numpy()}

        source = plain / "model.onnx"
        if prepare:
            source = folder / "prepared.onnx"
            quant_pre_process(plain / "model.onnx", source, skip_symbolic_shape=True)
        quantize_static(
            source,
            folder / "model.onnx",
            Reader(),
            per_channel=True,
            activation_type=QuantType.QUInt8,
            weight_type=QuantType.QInt8,
            calibrate_method=getattr(CalibrationMethod, method),
        )
        if prepare:
            source.unlink()

    return write


def nncf(format_name: str, *, fast: bool = True, control: bool = False) -> Write:
    """Quantise with NNCF.

    ``fast`` is its default bias correction, the other one goes layer by layer. With ``control``, layers go back to
    float until at most `MOST_POINTS` are lost on the calibration images, labels known.
    """

    def write(model: nn.Module, calibration: Calibration, plain: Path, folder: Path) -> None:
        import nncf
        import onnx
        import openvino

        logging.getLogger("nncf").setLevel(logging.ERROR)
        onnx_file = format_name == "onnx"
        network = onnx.load(plain / "model.onnx") if onnx_file else openvino.Core().read_model(plain / "model.xml")

        def fed(sample: tuple[Tensor, Tensor]) -> Any:
            return {"image": sample[0].numpy()} if onnx_file else sample[0].numpy()

        samples = list(zip(calibration.pixels.split(1), calibration.labels.split(1), strict=True))
        data = nncf.Dataset(samples, fed)
        options = {"subset_size": len(samples), "fast_bias_correction": fast}
        if control:
            judge = _top1_onnx if onnx_file else _top1_openvino
            quantised = nncf.quantize_with_accuracy_control(
                network, data, nncf.Dataset(samples), judge, max_drop=MOST_POINTS / 100, **options
            )
        else:
            quantised = nncf.quantize(network, data, **options)
        if onnx_file:
            onnx.save(quantised, folder / "model.onnx")
        else:
            openvino.save_model(quantised, folder / "model.xml", compress_to_fp16=False)

    return write


def _top1_onnx(network: Any, samples: Iterable[tuple[Tensor, Tensor]]) -> tuple[float, list[float]]:
    """Return the share of images right and whether each is, as NNCF asks for a network in ONNX."""
    import onnxruntime

    session = onnxruntime.InferenceSession(network.SerializeToString(), providers=["CPUExecutionProvider"])
    return _top1(lambda image: session.run(None, {"image": image})[0], samples)


def _top1_openvino(network: Any, samples: Iterable[tuple[Tensor, Tensor]]) -> tuple[float, list[float]]:
    """Return the share of images right and whether each is, as NNCF asks for a network compiled by OpenVINO."""
    return _top1(lambda image: network(image)[0], samples)


def _top1(
    run: Callable[[np.ndarray], np.ndarray], samples: Iterable[tuple[Tensor, Tensor]]
) -> tuple[float, list[float]]:
    right = [float(run(image.numpy()).argmax() == label.item()) for image, label in samples]
    return float(np.mean(right)), right


def pt2e(model: nn.Module, calibration: Calibration, plain: Path, folder: Path) -> None:
    """Quantise with torchao's PT2E and ExecuTorch's XNNPACK quantizer."""
    from executorch.backends.xnnpack.partition.xnnpack_partitioner import XnnpackPartitioner
    from executorch.backends.xnnpack.quantizer.xnnpack_quantizer import (
        XNNPACKQuantizer,
        get_symmetric_quantization_config,
    )
    from executorch.exir import to_edge_transform_and_lower
    from torchao.quantization.pt2e.quantize_pt2e import convert_pt2e, prepare_pt2e

    example = (calibration.pixels[:1],)
    quantizer = XNNPACKQuantizer().set_global(get_symmetric_quantization_config(is_per_channel=True))
    prepared = prepare_pt2e(torch.export.export(deploy_form(model), example).module(), quantizer)
    with torch.inference_mode():
        for image in calibration.pixels.split(1):
            prepared(image)
    program = torch.export.export(convert_pt2e(prepared), example)
    edge = to_edge_transform_and_lower(program, partitioner=[XnnpackPartitioner()])
    (folder / "model.pte").write_bytes(edge.to_executorch().buffer)


METHODS: dict[str, tuple[str, Write]] = {
    "ours": ("onnx", ours("onnx")),
    "ours, ranges only": ("onnx", ours("onnx", equalize=False, rounding=False, correction=False)),
    "ours, no equalisation": ("onnx", ours("onnx", equalize=False)),
    "ours, no rounding": ("onnx", ours("onnx", rounding=False)),
    "ours, 8 bits": ("onnx", ours("onnx", weight_bits=8)),
    "nncf": ("onnx", nncf("onnx")),  # its slow correction fails on our files: "Duplicate definition-site for (image)"
    "nncf, accuracy control": ("onnx", nncf("onnx", control=True)),
    "onnxruntime, minmax": ("onnx", onnxruntime("MinMax")),
    "onnxruntime, percentile": ("onnx", onnxruntime("Percentile")),
    "onnxruntime, entropy": ("onnx", onnxruntime("Entropy")),
    "ours (c)": ("c", ours("c")),
    "ours (openvino)": ("openvino", ours("openvino")),
    "nncf (openvino)": ("openvino", nncf("openvino")),
    "nncf, accuracy control (openvino)": ("openvino", nncf("openvino", control=True)),
    "nncf, slow correction (openvino)": ("openvino", nncf("openvino", fast=False)),
    "ours (executorch)": ("executorch", ours("executorch")),
    "torchao (executorch)": ("executorch", pt2e),
}


def logits_of(format_name: str, folder: Path, pixels: Sequence[Tensor]) -> Tensor:
    """Run an artifact on batches of images, on one thread as for the latency: ExecuTorch cannot change the number."""
    fmt = FORMATS[format_name]
    runner, size = fmt.open(folder / fmt.file, 1), None if fmt.any_batch else 1
    return torch.cat([torch.from_numpy(run_in_batches(runner, batch.numpy(), size)) for batch in pixels])


def in_turns(format_name: str, folders: Sequence[Path], image: Tensor) -> list[float]:
    """Return the milliseconds that each artifact takes for an image on one thread: the median of calls in turns."""
    fmt = FORMATS[format_name]
    runners = [fmt.open(folder / fmt.file, 1) for folder in folders]
    taken: list[list[float]] = [[] for _ in runners]
    for call in range(WARM_UP + CALLS):
        for runner, times in zip(runners, taken, strict=True):
            start = time.perf_counter()
            runner(image.numpy())
            if call >= WARM_UP:
                times.append(1000 * (time.perf_counter() - start))
    return [median(times) for times in taken]


def draw(data: str, number: int, images: int) -> tuple[ImageSource, ImageSource]:
    """Return the images to calibrate on and those to compare on, of a draw."""
    generator = np.random.default_rng(number)
    try:
        source = open_source(data, "train")
        rest = open_source(data, "val")
        chosen = generator.choice(len(source), CALIBRATION, replace=False)
        others = np.random.default_rng(0).permutation(len(rest))[:images]
    except MissingSplitError:
        source = rest = open_source(data, "val")
        order = generator.permutation(len(source))
        chosen, others = order[:CALIBRATION], order[CALIBRATION:][:images]
    return PartOfSource(source, sorted(chosen.tolist())), PartOfSource(rest, sorted(others.tolist()))


def read(source: ImageSource, preprocess: Preprocess, lookup: Sequence[int] | None) -> tuple[list[Tensor], Tensor]:
    """Return all images in batches, and the network's class of each."""
    loader = make_eval_loader(source, preprocess, batch_size=32)
    batches = list(loader)
    loader.close()
    labels = torch.cat([batch.labels for batch in batches])
    return [batch.images for batch in batches], labels if lookup is None else torch.tensor(lookup)[labels]


def save(given: argparse.Namespace, network: str, found: dict[str, list[dict[str, float]]]) -> None:
    """Write the record of the draws so far."""
    content = {
        "network": network,
        "weights": Path(given.weights).name,
        "data": Path(given.data).name,
        "calibration_images": CALIBRATION,
        "rows": [
            {
                "method": method,
                "format": METHODS[method][0],
                "draws": rows,
                "drop_points": spread([row["drop_points"] for row in rows]),
                "logits_error": spread([row["logits_error"] for row in rows]),
            }
            for method, rows in found.items()
        ],
    }
    write_record(given.output / f"{given.name}.json", torch.device("cpu"), content)


def main() -> None:
    """Parse the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("name")
    parser.add_argument("weights")
    parser.add_argument("data")
    parser.add_argument("--draws", type=int, default=5)
    parser.add_argument("--images", type=int, default=5000, help="most images to compare on")
    parser.add_argument("--methods", default=";".join(METHODS), help="separated by semicolons")
    parser.add_argument("--output", type=Path, required=True, help="folder for NAME.json")
    given = parser.parse_args()
    model, record = open_to_write(given.weights, CheckpointRecord, "compare int8")
    model.eval()
    preprocess = Preprocess.from_dict(record.preprocess)
    found: dict[str, list[dict[str, float]]] = {method: [] for method in given.methods.split(";")}
    with tempfile.TemporaryDirectory() as scratch:
        floats: dict[str, Path] = {}
        for number in range(given.draws):
            calibration, rest = draw(given.data, number, given.images)
            lookup = match_classes(record, rest)
            pixels, known = read(calibration, preprocess, lookup)
            seen = Calibration(torch.cat(pixels), known)
            batches, labels = read(rest, preprocess, lookup)
            expected: dict[str, Tensor] = {}
            for method, rows in found.items():
                format_name, write = METHODS[method]
                if format_name not in floats:
                    floats[format_name] = Path(tempfile.mkdtemp(dir=scratch))
                    FORMATS[format_name].write(deploy_form(model), seen.pixels[:1], floats[format_name])
                plain = floats[format_name]
                if format_name not in expected:
                    expected[format_name] = logits_of(format_name, plain, batches)
                folder = Path(tempfile.mkdtemp(dir=scratch))
                start = time.perf_counter()
                write(model, seen, plain, folder)
                seconds = time.perf_counter() - start
                given_logits, float_logits = logits_of(format_name, folder, batches), expected[format_name]
                latencies = in_turns(format_name, (plain, folder), seen.pixels[:1])
                right = [int((logits.argmax(1) == labels).sum()) for logits in (float_logits, given_logits)]
                rows.append(
                    {
                        "images": len(labels),
                        "float_correct": right[0],
                        "int8_correct": right[1],
                        "drop_points": 100 * (right[0] - right[1]) / len(labels),
                        "agreement": float((float_logits.argmax(1) == given_logits.argmax(1)).float().mean()),
                        "logits_error": relative_error(float_logits, given_logits),
                        "seconds": seconds,
                        "milliseconds": dict(zip(("float32", "int8"), latencies, strict=True)),
                        "bytes": sum(size_in_bytes(folder / name) for name in FORMATS[format_name].files),
                    }
                )
                row = rows[-1]
                print(
                    f"draw {number}, {method}: drop {row['drop_points']:.2f}, error {row['logits_error']:.3f}, "
                    f"{row['seconds']:.0f} s",
                    flush=True,
                )
            save(given, record.model, found)


if __name__ == "__main__":
    main()
