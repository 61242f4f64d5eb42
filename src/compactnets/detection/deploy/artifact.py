"""The record beside an exported detector: how to feed it, what comes out, how it was checked."""

from __future__ import annotations

from typing import Any, Literal

import torch
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor
from torch.nn import functional as F
from torchvision.models.detection.transform import GeneralizedRCNNTransform

from compactnets.deploy.formats.registry import FORMATS
from compactnets.deploy.record import ExportedRecord
from compactnets.detection.checkpoint import DetectorRecord
from compactnets.detection.deploy.decoding import Decoding

WHOLE, FIRST, SECOND = "model", "proposals", "subnet"  # the parts: all, or the halves of raw Faster R-CNN
INPUT = "images"

Heads = Literal["boxes", "raw"]
# format -> what its files can hold: pnnx leaves torchvision's nms, topk and indexing, for which ncnn has no layer
FORMS: dict[str, tuple[Heads, ...]] = {"onnx": ("boxes", "raw"), "openvino": ("boxes", "raw"), "ncnn": ("raw",)}


class TensorRecord(BaseModel):
    """One input or output; a dimension that is open has a name."""

    model_config = ConfigDict(extra="forbid")

    name: str
    shape: list[int | str]
    dtype: Literal["float32", "int64"] = "float32"
    meaning: str


class InputRecord(BaseModel):
    """How an image becomes the input ``images``."""

    model_config = ConfigDict(extra="forbid")

    size: tuple[int, int] | None = Field(description="height and width; null where both are open")
    resize: Literal["stretch", "fit", "sides"] = Field(
        description="stretch: to size, whatever the ratio; fit: by one factor into size, at the left and the top, the "
        "rest filled with fill; sides: by one factor, to shorter_side, or less where longer_side is reached before"
    )
    shorter_side: int | None = None
    longer_side: int | None = None
    fill: list[float] = Field(description="red, green, blue from 0 to 1: zero after normalisation")
    interpolation: str = "bilinear, pixel centres at halves, without antialiasing"
    layout: str = "(1, 3, height, width) float32: red, green, blue from 0 to 1 (bytes divided by 255)"
    normalization: str = "inside the graph: nothing is to be subtracted or divided before it"

    def prepare(self, image: Tensor) -> tuple[Tensor, tuple[int, int]]:
        """Return an image (3, H, W) as input (1, 3, h, w), and the height and width of the image inside it."""
        if self.size is not None and self.resize == "fit":
            factor = min(side / own for side, own in zip(self.size, image.shape[-2:], strict=True))
            height, width = (max(1, int(own * factor)) for own in image.shape[-2:])
            scaled = F.interpolate(image[None], (height, width), mode="bilinear", align_corners=False)
            canvas = torch.tensor(self.fill).view(1, 3, 1, 1).repeat(1, 1, *self.size)
            canvas[..., :height, :width] = scaled
            return canvas, (height, width)
        # torchvision's own resizing, so that an artifact agrees with its checkpoint
        fixed = None if self.size is None else (self.size[1], self.size[0])
        resizing = GeneralizedRCNNTransform(self.shorter_side or 0, self.longer_side or 0, [], [], fixed_size=fixed)
        scaled = resizing.eval().resize(image)[0][None]
        return scaled, (scaled.shape[2], scaled.shape[3])


class DetectorCheck(BaseModel):
    """One comparison with PyTorch, of some images with one threshold."""

    model_config = ConfigDict(extra="forbid")

    score: float = Field(description="threshold of the detections")
    sizes: list[tuple[int, int]] = Field(description="height and width of each image")
    detections: list[int] = Field(description="PyTorch's, of each image")
    max_score_difference: float
    max_box_difference: float = Field(description="pixels of the input")
    relative_difference: float = Field(description="the larger of scores' and of boxes' over the image's longer side")
    rounding: int = Field(description="detections of one side only, where rounding decides (thresholds, equal scores)")
    proposals_alike: float | None = Field(None, description="least share, of an image; the rest as under rounding")


class DetectorVerification(BaseModel):
    """The comparison of an artifact with its detector."""

    model_config = ConfigDict(extra="forbid")

    images: str
    tolerance: float = Field(description="limit of relative_difference and heads_difference")
    float16_difference: float | None = Field(
        None,
        description="float16: largest difference of any raw output of the network with its weights in float16, with "
        "which the artifact is compared, from the float32 one, over the largest value of that output",
    )
    float16_tolerance: float | None = Field(None, description="limit of float16_difference")
    heads_difference: float | None = Field(
        None, description="raw: largest difference of any output, over the largest value of that output"
    )
    checks: list[DetectorCheck]


class DetectorArtifact(ExportedRecord):
    """The ``artifact.json`` of a detector; ``files`` are in the order in which they run."""

    task: Literal["detection"] = "detection"
    format: Literal["onnx", "openvino", "ncnn"] = "onnx"
    heads: Heads = Field(description="boxes: the choice of boxes is inside; raw: it is left to the caller")
    precision: Literal["float32", "float16"] = Field("float32", description="of the weights in the files")
    network: DetectorRecord = Field(description="detector, backbone, classes, source and licence of the weights")
    input: InputRecord
    inputs: dict[str, list[TensorRecord]] = Field(description="of each main file")
    outputs: dict[str, list[TensorRecord]] = Field(description="of each main file")
    decoding: Decoding = Field(description="the numbers of the choice of boxes")
    steps: list[str] = Field(description="what is left to the caller, in order")
    opset: int | None = Field(description="of ONNX, also where another format was made from it")
    cost: dict[str, Any] = Field(description="multiply-adds and parameters by part")
    verification: DetectorVerification | None = None

    def expected_files(self) -> tuple[str, ...]:
        """Return the names that ``files`` must have, in order."""
        found = parts(self.network.detector, self.heads)
        return tuple(name for part in found for name in part_files(self.format, part))

    def file(self, part: str) -> str:
        """Return the main file of a part."""
        return part_files(self.format, part)[0]


def parts(detector: str, heads: Heads) -> list[str]:
    """Return the parts of an artifact, in the order in which they run."""
    return [FIRST, SECOND] if detector == "faster_rcnn" and heads == "raw" else [WHOLE]


def part_files(format_name: str, part: str) -> list[str]:
    """Return the files of a part, the main one first: those of the format, with the part's name."""
    return [name.replace("model", part, 1) for name in FORMATS[format_name].files]
