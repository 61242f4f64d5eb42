"""The files of a detector in each format, with their inputs and outputs."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn
from torchvision.models.detection import FasterRCNN
from torchvision.models.detection.ssd import SSD

from compactnets.console import stage
from compactnets.detection.deploy.artifact import FIRST, INPUT, SECOND, WHOLE, Heads, TensorRecord
from compactnets.detection.deploy.decoding import Decoding
from compactnets.detection.deploy.stages import BoxHeads, RegionHeads, SSDHeads, Whole
from compactnets.detection.deploy.suppression import translations

EXAMPLE = (72, 104)  # for dynamic sides: neither equal nor multiples of 32, so that tracing cannot specialise on either
CORNERS = "left, top, right, bottom in pixels of the input"
PROBABILITIES = "probabilities: background, then the classes"

Open = dict[int, str]  # dimension -> its name
Tensors = tuple[tuple[str, Open, str], ...]  # name, dynamic dimensions, meaning


@dataclass(frozen=True)
class Part:
    """One file to be: a module, what it takes and what it gives.

    Attributes:
        name: ``WHOLE``, ``FIRST`` or ``SECOND``.
        module: one of :mod:`compactnets.detection.deploy.stages`.
        example: its inputs.
        inputs: their records.
        outputs: those of its outputs.
    """

    name: str
    module: Whole | SSDHeads | RegionHeads | BoxHeads
    example: tuple[Tensor, ...]
    inputs: list[TensorRecord]
    outputs: list[TensorRecord]


def take_apart(
    deployed: FasterRCNN | SSD, decoding: Decoding, size: tuple[int, int] | None, heads: Heads
) -> list[Part]:
    """Return the parts of an artifact, in the order in which they run.

    Args:
        deployed: the result of ``deploy_detector``.
        decoding: its parameters.
        size: height and width; ``None`` makes both dynamic.
        heads: see :func:`compactnets.detection.deploy.export.export_detector`.
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
        return [_part(WHOLE, Whole(deployed, decoding, size), (image,), (images,), outputs)]
    if decoding.proposals is None:
        outputs = (("scores", {}, PROBABILITIES), ("boxes", {}, f"{CORNERS}, decoded and clipped"))
        return [_part(WHOLE, SSDHeads(deployed), (image,), (images,), outputs)]
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
    return [
        _part(FIRST, RegionHeads(deployed, decoding.stride, size), (image,), (images,), first),
        _part(SECOND, BoxHeads(deployed), (regions, proposals), inputs, second),
    ]


def _part(
    name: str,
    module: Whole | SSDHeads | RegionHeads | BoxHeads,
    example: tuple[Tensor, ...],
    inputs: Tensors,
    outputs: Tensors,
) -> Part:
    module.eval()
    with torch.inference_mode():
        results = module(*example)
    return Part(
        name,
        module,
        example,
        [_record(tensor, *entry) for tensor, entry in zip(example, inputs, strict=True)],
        [_record(tensor, *entry) for tensor, entry in zip(results, outputs, strict=True)],
    )


def write_onnx(part: Part, path: Path) -> None:
    """Write one part as ONNX."""
    from compactnets.deploy.formats.onnx import save_program

    stage("tracing")
    shapes = tuple(
        {dim: torch.export.Dim.DYNAMIC for dim, size in enumerate(one.shape) if isinstance(size, str)}
        for one in part.inputs
    )
    program = torch.export.export(part.module, part.example, dynamic_shapes=shapes)
    inputs, outputs = ([one.name for one in records] for records in (part.inputs, part.outputs))
    save_program(program, path, inputs, outputs, translations())
    _name_dimensions(path, [*part.inputs, *part.outputs])


class _Batched(nn.Module):
    """A stage with the axis of the images in front of every output."""

    def __init__(self, part: Part) -> None:
        super().__init__()
        assert not isinstance(part.module, Whole)
        self.stage: SSDHeads | RegionHeads | BoxHeads = part.module

    def forward(self, *inputs: Tensor) -> tuple[Tensor, ...]:
        return self.stage.batched(*inputs)


def write_ncnn(part: Part, path: Path, float16: bool) -> None:
    """Write one part of a detector of a fixed size as ncnn, for one image or region at a time.

    Raises:
        InputError: an operator that ncnn does not have.
    """
    from compactnets.deploy.formats.ncnn import convert

    with torch.inference_mode():
        convert(_Batched(part).eval(), [one[:1] for one in part.example], path, float16=float16)


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
