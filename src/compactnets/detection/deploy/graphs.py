"""The ONNX files of a detector, with their inputs and outputs."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor, nn
from torchvision.models.detection import FasterRCNN
from torchvision.models.detection.ssd import SSD

from compactnets.detection.deploy.artifact import FIRST, INPUT, SECOND, WHOLE, Heads, TensorRecord
from compactnets.detection.deploy.decoding import Decoding
from compactnets.detection.deploy.stages import BoxHeads, RegionHeads, SSDHeads, Whole
from compactnets.detection.deploy.suppression import translations

EXAMPLE = (72, 104)  # for dynamic sides: neither equal nor multiples of 32, so that tracing cannot specialise on either
CORNERS = "left, top, right, bottom in pixels of the input"
PROBABILITIES = "probabilities: background, then the classes"

Open = dict[int, str]  # dimension -> its name
Tensors = tuple[tuple[str, Open, str], ...]  # name, dynamic dimensions, meaning
Graphs = dict[str, tuple[list[TensorRecord], list[TensorRecord]]]  # file -> inputs and outputs


def write_graphs(
    deployed: FasterRCNN | SSD, decoding: Decoding, size: tuple[int, int] | None, heads: Heads, folder: Path
) -> Graphs:
    """Write the files of an artifact.

    Args:
        deployed: the result of ``deploy_detector``.
        decoding: its parameters.
        size: height and width; ``None`` makes both dynamic.
        heads: see :func:`compactnets.detection.deploy.export.export_detector`.
        folder: where to write.

    Returns:
        inputs and outputs of each file, in the order in which they run.
    """
    image = torch.rand(1, 3, *(size or EXAMPLE))
    sides: Open = {} if size else {2: "height", 3: "width"}
    images = (INPUT, sides, "one image, as input says")
    if heads == "boxes":
        outputs: Tensors = (
            ("boxes", {0: "detections"}, f"{CORNERS}; the best detection first"),
            ("labels", {0: "detections"}, "index into network.class_names"),
            ("scores", {0: "detections"}, "from 0 to 1"),
        )
        return {WHOLE: _save(Whole(deployed, decoding), (image,), folder / WHOLE, (images,), outputs)}
    if decoding.proposals is None:
        outputs = (("scores", {}, PROBABILITIES), ("boxes", {}, f"{CORNERS}, decoded and clipped"))
        return {WHOLE: _save(SSDHeads(deployed), (image,), folder / WHOLE, (images,), outputs)}
    anchors: Open = {0: "anchors"} if sides else {}
    maps: Open = {2: "rows", 3: "columns"} if sides else {}
    first = (
        ("features", maps, "for RoIAlign"),
        ("objectness", anchors, "from 0 to 1, whether there is an object of any class"),
        ("boxes", anchors, f"{CORNERS}, decoded and clipped"),
    )
    regions = torch.rand(3, deployed.backbone.out_channels, decoding.roi_size, decoding.roi_size)
    each: Open = {0: "proposals"}
    inputs = (("regions", each, "what RoIAlign gives"), ("proposals", each, CORNERS))
    second = (("scores", each, PROBABILITIES), ("boxes", each, f"for every column of scores: {CORNERS}, not clipped"))
    proposals = torch.tensor([[0.0, 0, 32, 32]]).repeat(3, 1)
    return {
        FIRST: _save(RegionHeads(deployed, decoding.stride), (image,), folder / FIRST, (images,), first),
        SECOND: _save(BoxHeads(deployed), (regions, proposals), folder / SECOND, inputs, second),
    }


def _save(
    module: nn.Module,
    example: tuple[Tensor, ...],
    path: Path,
    inputs: Tensors,
    outputs: Tensors,
) -> tuple[list[TensorRecord], list[TensorRecord]]:
    """Write one file."""
    from compactnets.deploy.formats.onnx import save_program

    module.eval()
    with torch.inference_mode():
        results = module(*example)
    shapes = tuple(dict.fromkeys(dims, torch.export.Dim.DYNAMIC) for _, dims, _ in inputs)
    program = torch.export.export(module, example, dynamic_shapes=shapes)
    save_program(program, path, [name for name, *_ in inputs], [name for name, *_ in outputs], translations())
    records = tuple(
        [_record(tensor, *entry) for tensor, entry in zip(tensors, entries, strict=True)]
        for tensors, entries in ((example, inputs), (results, outputs))
    )
    _name_dimensions(path, [*records[0], *records[1]])
    return records[0], records[1]


def _record(tensor: Tensor, name: str, dims: Open, meaning: str) -> TensorRecord:
    shape = [dims.get(dim, size) for dim, size in enumerate(tensor.shape)]
    dtype = "int64" if tensor.dtype == torch.int64 else "float32"
    return TensorRecord(name=name, shape=shape, dtype=dtype, meaning=meaning)


def _name_dimensions(path: Path, records: list[TensorRecord]) -> None:
    """Give a file's dynamic dimensions readable names: the exporter calls them s14 and u0."""
    import onnx

    model = onnx.load(path)
    by_name = {record.name: record for record in records}
    for value in (*model.graph.input, *model.graph.output):
        dims = value.type.tensor_type.shape.dim
        for dim, size in zip(dims, by_name[value.name].shape, strict=True):
            if isinstance(size, str):
                dim.dim_param = size
            else:
                dim.dim_value = size
    onnx.save(model, path)
