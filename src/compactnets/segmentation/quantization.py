"""Quantise a segmenter to int8, and keep it if its mean IoU falls by no more than a limit."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, fx, nn

from compactnets.classification.quantization import choices, int8_format
from compactnets.console import Tracker, say, stages, stdout
from compactnets.deploy.export import check_output, weight_bytes
from compactnets.deploy.formats.registry import Format
from compactnets.deploy.int8.steps import Settings, calibrated, settled, spread_over
from compactnets.deploy.record import LAYERS
from compactnets.deploy.rewrite import deploy_form
from compactnets.errors import InputError, LimitError
from compactnets.failures import Space, one_line, scratch_folder
from compactnets.files import json_text
from compactnets.folders import writing
from compactnets.segmentation.checkpoint import SegmenterRecord
from compactnets.segmentation.data import MaskSource, find_masks
from compactnets.segmentation.export import (
    ExportedSegmenter,
    SegmenterArtifact,
    Setting,
    finish_artifact,
    plain_copy,
    show_artifact,
)
from compactnets.segmentation.metrics import SegmentationScore
from compactnets.segmentation.networks import Segmenter
from compactnets.segmentation.setup import evaluate_on
from compactnets.segmentation.transform import network_input, normalize

TOLERANCE_INT8 = 0.25  # of the scores' standard deviation, as for classifiers
EQUAL_PIXELS_INT8 = 0.95  # between the artifact and its simulation: a score near a rounding boundary goes either way
MOST_PIXELS = 16 * 512 * 512  # of all images to calibrate on: every layer's inputs are held


@dataclass(frozen=True)
class QuantizedSegmenter:
    """An int8 artifact, its report and its folder."""

    record: SegmenterArtifact
    report: dict[str, Any]
    output: Path

    def to_dict(self) -> dict[str, Any]:
        """Return everything, for JSON."""
        return {"output": str(self.output), **self.record.model_dump(mode="json"), "quantization": self.report}

    def show(self) -> None:
        """Print how it was checked, and what it loses."""
        show_artifact(self.record, self.output)
        found = self.report
        stdout.print(
            f"mIoU on {found['evaluation']['images']:,} images of {found['evaluation']['source']}: float "
            f"{found['float_miou']:.2f} %, int8 {found['int8_miou']:.2f} % ({-found['drop_points']:+.2f} points)"
        )
        stdout.print(f"in float: {', '.join(found['kept_in_float']) or 'nothing'}; every class: {self.output / LAYERS}")


def quantize_segmenter(
    network: Segmenter,
    record: SegmenterRecord,
    format_name: str,
    output: Path,
    *,
    calibration: str,
    evaluation: str,
    max_drop: float,
    settings: Settings,
    command: list[str],
) -> QuantizedSegmenter:
    """Quantise a trained network and keep the artifact if it loses no more than ``max_drop`` points of mean IoU.

    If the drop is larger, the parts that hurt most on calibration images are kept in float, more each time.

    Args:
        network: in evaluation mode; not modified.
        record: its record.
        format_name: ``"onnx"``, ``"openvino"`` or ``"executorch"``.
        output: folder for the artifact; written completely or not at all.
        calibration: folder whose training images ranges are measured on.
        evaluation: folder whose validation masks float and int8 are compared on, both in the format's runtime.
        settings: how to quantise.
        command: the command line, for the report.

    Raises:
        InputError: a format without int8, data or a network that cannot be used, an output folder in use.
        LimitError: the drop is past ``max_drop``, or the artifact differs from its simulation; nothing is kept.
    """
    fmt = int8_format(format_name)
    if not -100 <= max_drop <= 100:
        raise InputError(f"--max-drop must be points from -100 to 100, found {max_drop:g}")
    check_output(output)
    if record.size is None:
        raise InputError("int8 is calibrated at one size, and this network takes any: train with size=[HEIGHT,WIDTH]")
    space = Space(output, weight_bytes(network) // 4, weight_bytes(network))
    space.check()
    plain = plain_copy(network)
    images, rest = (
        tree.open(split, record.class_names, record.ignore)
        for tree, split in ((find_masks(calibration), "train"), (find_masks(evaluation), "val"))
    )
    pixels = _read(images, record, settings.calibration_images)
    say(f"quantising {record.title} on {len(pixels)} images")
    setting = Setting(fmt, record, record.size, 1, "int8", TOLERANCE_INT8, EQUAL_PIXELS_INT8, "rms_difference")
    with one_line(f"{record.title} cannot be quantised for {fmt.name}", space), writing(output) as folder:
        example = torch.zeros(1, *pixels.shape[1:])
        reference = calibrated(of_one_size(plain, example), pixels, settings, quantize_output=fmt.int8_output)
        with scratch_folder() as floating, stages(f"{record.title} to {fmt.name}"):
            fmt.write(deploy_form(plain), example, floating)
            expected = _miou(fmt, floating, setting, rest)
        for kept in choices(reference, pixels, settings):
            with stages(f"{record.title} int8 to {fmt.name}"):
                simulation = settled(reference, kept, pixels, settings)
                for name in fmt.files:
                    (folder / name).unlink(missing_ok=True)
                details = fmt.write_int8(simulation, example, folder)
            found = _miou(fmt, folder, setting, rest)
            drop = expected.miou - found.miou
            if drop <= max_drop:
                break
            say(f"{drop:.2f} points of mIoU lost, more than {max_drop:g}, with {len(kept)} parts in float")
        else:
            raise LimitError(
                f"int8 loses {drop:.2f} points of mIoU on {expected.images} images of {rest.spec}, more than "
                f"--max-drop {max_drop:g}, even with {len(kept)} parts in float: it was not kept; allow more"
            )
        artifact = finish_artifact(setting, plain, folder, details, simulation=simulation)
        report = {
            "command": command,
            "settings": asdict(settings),
            "calibration": {"source": calibration, "images": len(pixels)},
            "evaluation": {"source": evaluation, "images": expected.images},
            "float_miou": expected.miou,
            "int8_miou": found.miou,
            "drop_points": drop,
            "max_drop": max_drop,
            "kept_in_float": kept,
            "classes": {
                "float": [asdict(row) for row in expected.classes],
                "int8": [asdict(row) for row in found.classes],
            },
        }
        (folder / LAYERS).write_text(json_text(report, indent=2) + "\n", encoding="utf-8")
    return QuantizedSegmenter(artifact, report, output)


def of_one_size(network: nn.Module, example: Tensor) -> fx.GraphModule:
    """Return a network as a graph in which the sizes that maps are scaled to are numbers.

    Every tensor of a graph gets a quantizer, and a size is none.
    """
    graph = fx.symbolic_trace(deploy_form(network))
    sizes: dict[fx.Node, tuple[int, ...]] = {}

    class Sizes(fx.Interpreter):
        def run_node(self, n: fx.Node) -> Any:
            found = super().run_node(n)
            if isinstance(found, torch.Size):
                sizes[n] = tuple(found)
            return found

    with torch.inference_mode():
        Sizes(graph).run(example)
    for node in graph.graph.nodes:
        node.args = fx.node.map_arg(node.args, lambda each: sizes.get(each, each))
        node.kwargs = fx.node.map_arg(node.kwargs, lambda each: sizes.get(each, each))
    graph.graph.eliminate_dead_code()
    graph.recompile()
    return graph


def _read(images: MaskSource, record: SegmenterRecord, count: int) -> Tensor:
    """Return images spread evenly over a source as inputs, (N, 3, H, W)."""
    assert record.size is not None
    count = min(count, max(1, MOST_PIXELS // (record.size[0] * record.size[1])))
    chosen = spread_over(images, count).tolist()
    pixels = [network_input(images.image(index), record.size) for index in Tracker(chosen, len(chosen), "reading")]
    return normalize(torch.stack(pixels), *record.statistics)


def _miou(fmt: Format, folder: Path, setting: Setting, source: MaskSource) -> SegmentationScore:
    """Measure an artifact in its runtime."""
    runner = fmt.open(folder / fmt.file)
    network = ExportedSegmenter(runner, setting.shapes[0], len(setting.record.class_names))
    return evaluate_on(network, setting.record, source)
