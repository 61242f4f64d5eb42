"""An exported detector as a module that runs in ONNX Runtime: evaluation and prediction take it like any other."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torchvision.models.detection.transform import resize_boxes

from compactnets.deploy.formats import FORMATS
from compactnets.detection.checkpoint import Detector, DetectorRecord, load_detector
from compactnets.detection.deploy.artifact import SECOND, DetectorArtifact, is_detector_artifact, read_detector_artifact
from compactnets.detection.deploy.decoding import clip
from compactnets.detection.objects import Detections
from compactnets.errors import InputError
from compactnets.files import as_path


class ArtifactDetector(nn.Module):
    """Runs an exported detector on the processor, for images of any size, one after the other.

    It is called like torchvision's detectors: a list of images (3, H, W) float32 from 0 to 1 gives a list of
    dictionaries with ``boxes`` in pixels of the image, ``labels`` counted from 1, and ``scores``.
    """

    def __init__(self, artifact: DetectorArtifact, folder: Path, threads: int | None = None) -> None:
        super().__init__()
        from compactnets.deploy.onnx_format import open_session

        self.artifact = artifact
        self.sessions = {name: open_session(folder / name, threads) for name in artifact.files}

    def forward(self, images: list[Tensor]) -> list[dict[str, Tensor]]:
        found = [self.find(image) for image in images]
        return [{"boxes": one.boxes, "labels": one.labels + 1, "scores": one.scores} for one in found]

    def find(self, image: Tensor) -> Detections:
        """Return the objects of one image (3, H, W) float32 from 0 to 1, in its own pixels."""
        pixels, scaled = self.artifact.input.prepare(image.cpu())
        boxes, labels, scores = self.run(pixels)
        height, width = image.shape[-2:]
        boxes = clip(resize_boxes(boxes, scaled, (height, width)), height, width)
        if self.artifact.input.resize == "fit":
            inside = (boxes[:, 2:] > boxes[:, :2]).all(1)  # what lay in the fill around the image has no area left
            boxes, labels, scores = boxes[inside], labels[inside], scores[inside]
        return Detections(boxes, labels, scores)

    def run(self, images: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return boxes (K, 4) in pixels of the input, labels (K,) from 0 and scores (K,) of an input (1, 3, h, w)."""
        decoding, (name, *_) = self.artifact.decoding, self.sessions
        outputs = self.call(name, images)
        if self.artifact.heads == "boxes":
            boxes, labels, scores = outputs
            return boxes, labels, scores
        with torch.inference_mode():
            if decoding.proposals is None:
                return decoding.pick_anchors(*outputs)
            features, objectness, boxes = outputs
            return self.finish(features, decoding.propose(objectness, boxes), images.shape[2], images.shape[3])

    def finish(self, features: Tensor, proposals: Tensor, height: int, width: int) -> tuple[Tensor, Tensor, Tensor]:
        """Return the detections among proposals (R, 4), with the second file of raw Faster R-CNN."""
        decoding = self.artifact.decoding
        found = self.call(SECOND, decoding.pool(features, proposals), proposals)
        return decoding.pick_boxes(found[0], found[1], height, width)

    def call(self, name: str, *inputs: Tensor) -> list[Tensor]:
        """Run one file."""
        names = [one.name for one in self.artifact.inputs[name]]
        arrays = [np.ascontiguousarray(one.numpy(), dtype=np.float32) for one in inputs]
        found = self.sessions[name].run(None, dict(zip(names, arrays, strict=True)))
        return [torch.from_numpy(values) for values in found]


def load_detector_artifact(path: str | Path, threads: int | None = None) -> ArtifactDetector:
    """Load an exported detector into ONNX Runtime, by its folder or one of its files.

    Args:
        path: folder or file.
        threads: threads of the runtime; its own choice where not given.

    Raises:
        InputError: a record or file that cannot be used, or a runtime that is not installed.
    """
    path = as_path(path)
    path = Path(path)
    record = read_detector_artifact(path)
    FORMATS["onnx"].versions()
    return ArtifactDetector(record, path if path.is_dir() else path.parent, threads).eval()


def load_any_detector(path: str | Path, device: torch.device | str = "cpu") -> tuple[Detector, DetectorRecord]:
    """Load the checkpoint of a detector on ``device``, or an exported detector, with what says how to read it.

    Raises:
        InputError: neither, or one that cannot be used.
    """
    path = as_path(path)
    if not is_detector_artifact(path):
        return load_detector(path, device)
    detector = load_detector_artifact(path)
    return detector, detector.artifact.network


def detector_device(path: Path, device: str) -> str:
    """Return the device for a checkpoint or an exported detector, which runs on the processor.

    Raises:
        InputError: another device for an exported detector.
    """
    if not is_detector_artifact(path):
        return device
    if device not in ("auto", "cpu"):
        raise InputError(f"{path} is an exported detector, which runs on cpu, found --device {device}")
    return "cpu"
