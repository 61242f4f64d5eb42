"""The record beside an exported detector: how to feed it, what comes out, how it was checked."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

import torch
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor
from torch.nn import functional as F
from torchvision.models.detection.transform import GeneralizedRCNNTransform

from compactnets.deploy.record import NAME, digest
from compactnets.detection.checkpoint import DetectorRecord
from compactnets.detection.deploy.decoding import Decoding
from compactnets.errors import InputError
from compactnets.files import as_path
from compactnets.training.checkpoint import parse_record
from compactnets.values import read_json

WHOLE, FIRST, SECOND = "model.onnx", "proposals.onnx", "subnet.onnx"
INPUT = "images"

Heads = Literal["boxes", "raw"]


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
        """Return an image (3, H, W) as input (1, 3, h, w), and the height and width that the image itself has there."""
        if self.size is not None and self.resize == "fit":
            factor = min(side / own for side, own in zip(self.size, image.shape[-2:], strict=True))
            height, width = (max(1, int(own * factor)) for own in image.shape[-2:])
            scaled = F.interpolate(image[None], (height, width), mode="bilinear", align_corners=False)
            canvas = torch.tensor(self.fill).view(1, 3, 1, 1).repeat(1, 1, *self.size)
            canvas[..., :height, :width] = scaled
            return canvas, (height, width)
        # torchvision's own resizing, so that an artifact finds what its checkpoint finds
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
    """How an artifact was compared with its detector."""

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


class DetectorArtifact(BaseModel):
    """What ``artifact.json`` holds."""

    model_config = ConfigDict(extra="forbid")

    version: int = 1
    task: Literal["detection"] = "detection"
    format: Literal["onnx"] = "onnx"
    heads: Heads = Field(description="boxes: the choice of boxes is inside; raw: it is left to the caller")
    precision: Literal["float32", "float16"] = Field("float32", description="of the weights in the files")
    files: dict[str, str] = Field(description="name -> sha256, in the order in which they run")
    bytes: int = Field(description="of all files together")
    network: DetectorRecord = Field(description="detector, backbone, classes, source and licence of the weights")
    input: InputRecord
    inputs: dict[str, list[TensorRecord]] = Field(description="of each file")
    outputs: dict[str, list[TensorRecord]] = Field(description="of each file")
    decoding: Decoding = Field(description="the numbers of the choice of boxes")
    steps: list[str] = Field(description="what is left to the caller, in order")
    opset: int
    cost: dict[str, Any] = Field(description="multiply-adds and parameters by part")
    versions: dict[str, str] = Field(description="what wrote and checked it")
    verification: DetectorVerification | None = None


def is_detector_artifact(path: Path) -> bool:
    """Whether ``path`` is a folder with a record, or a file of such a folder; whose it is, reading it tells."""
    folder = path if path.is_dir() else path.parent
    return (folder / NAME).is_file() and (path.is_dir() or path.name in (WHOLE, FIRST, SECOND))


def read_detector_artifact(path: str | Path) -> DetectorArtifact:
    """Read the record of an exported detector and check its files against it.

    Raises:
        InputError: no record, the record of a classifier, or files that differ from the record.
    """
    path = as_path(path)
    folder = path if path.is_dir() else path.parent
    file = folder / NAME
    if not file.is_file():
        raise InputError(f"{path} has no {NAME}: expected the folder that 'compactnets detect export' wrote")
    try:
        found = read_json(file, str(file))
    except InputError:
        found = None  # which parse_record explains
    if isinstance(found, dict) and found.get("task") != "detection" and "network" in found:
        raise InputError(f"{folder} is an exported classifier: 'compactnets eval' and 'compactnets predict' take it")
    record = parse_record(file, DetectorArtifact, "the record of an exported detector")
    expected = tuple(file_names(record.network.detector, record.heads))
    if tuple(record.files) != expected:
        raise InputError(f"{file} names the files {', '.join(record.files) or 'none'}: expected {', '.join(expected)}")
    for name, wanted in record.files.items():
        if not (folder / name).is_file():
            raise InputError(f"{folder / name} is missing, which {NAME} names: export again")
        if digest(folder / name) != wanted:
            raise InputError(f"{folder / name} is not the file that {NAME} describes (sha256 differs): export again")
    return record


def file_names(detector: str, heads: Heads) -> list[str]:
    """Return the files of an artifact, in the order in which they run."""
    return [FIRST, SECOND] if detector == "faster_rcnn" and heads == "raw" else [WHOLE]
