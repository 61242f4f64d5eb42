"""An exported detector as a module that runs in its runtime, for evaluation and prediction."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torchvision.models.detection.transform import resize_boxes

from compactnets.deploy.formats.registry import FORMATS
from compactnets.deploy.metadata import PREFIX
from compactnets.deploy.record import read_artifact
from compactnets.detection.checkpoint import check_classes
from compactnets.detection.deploy.artifact import SECOND, DetectorArtifact
from compactnets.detection.deploy.decoding import clip
from compactnets.detection.objects import Detections
from compactnets.errors import InputError
from compactnets.failures import one_line
from compactnets.training.setup import NotFiniteError


class ArtifactDetector(nn.Module):
    """Runs an exported detector on the CPU, on images of any size, one at a time.

    It is called like torchvision's detectors: a list of images (3, H, W) float32 from 0 to 1 gives a list of
    dictionaries with ``boxes`` in pixels of the image, ``labels`` counted from 1, and ``scores``.
    """

    def __init__(self, artifact: DetectorArtifact, folder: Path, threads: int | None = None) -> None:
        super().__init__()
        self.artifact, self.folder = artifact, folder
        self.runners = {}
        for name in artifact.inputs:
            with one_line(f"{folder / name} cannot be opened"):
                self.runners[name] = FORMATS[artifact.format].open_tensors(folder / name, threads)

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
            inside = (boxes[:, 2:] > boxes[:, :2]).all(1)  # boxes in the padding around the image have no area left
            boxes, labels, scores = boxes[inside], labels[inside], scores[inside]
        return Detections(boxes, labels, scores)

    def run(self, images: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return boxes (K, 4) in pixels of the input, labels (K,) from 0 and scores (K,) of an input (1, 3, h, w)."""
        decoding, (name, *_) = self.artifact.decoding, self.runners
        outputs = self.call(name, images)
        if self.artifact.heads == "boxes":
            boxes, labels, scores = outputs
            classes = int(labels.max()) + 1 if len(labels) else 0
            if classes > len(self.artifact.network.class_names):  # for a file without this metadata
                check_classes(self.artifact.network, classes + 1)
            return boxes, labels, scores
        with torch.inference_mode():
            if decoding.proposals is None:
                return decoding.pick_anchors(*outputs)
            features, objectness, boxes = outputs
            return self.finish(features, decoding.propose(objectness, boxes), images.shape[2], images.shape[3])

    def finish(self, features: Tensor, proposals: Tensor, height: int, width: int) -> tuple[Tensor, Tensor, Tensor]:
        """Return the detections among proposals (R, 4), with the second file of raw Faster R-CNN."""
        decoding = self.artifact.decoding
        found = self.call(self.artifact.file(SECOND), decoding.pool(features, proposals), proposals)
        return decoding.pick_boxes(found[0], found[1], height, width)

    def call(self, name: str, *inputs: Tensor) -> list[Tensor]:
        """Run one main file."""
        arrays = [np.ascontiguousarray(one.numpy(), dtype=np.float32) for one in inputs]
        records = self.artifact.outputs[name]
        if not len(arrays[0]):  # no region
            return [torch.zeros(0, *(side for side in one.shape[1:] if isinstance(side, int))) for one in records]
        with one_line(f"{name} cannot run on {' and '.join(str(list(each.shape)) for each in arrays)}"):
            found = self.runners[name](arrays)
        if not all(np.isfinite(values).all() for values in found):
            raise NotFiniteError(f"{name} gives outputs that are not finite")
        # ncnn's has an axis of images where the record has none
        return [
            torch.from_numpy(values[0] if values.ndim > len(one.shape) else values)
            for values, one in zip(found, records, strict=True)
        ]

    def check_classes(self) -> None:
        """Check that the record names as many classes as the last file's metadata, if any, and as its raw outputs.

        Raises:
            InputError: both numbers.
        """
        *_, name = self.runners
        noted = FORMATS[self.artifact.format].read_metadata(self.folder / name).get(f"{PREFIX}class_names")
        if noted is not None:  # files of earlier versions, and of other formats, have none
            check_classes(self.artifact.network, len(json.loads(noted)) + 1)
        if self.artifact.heads == "raw":
            given = [
                torch.zeros([1 if isinstance(side, str) else side for side in one.shape])
                for one in self.artifact.inputs[name]
            ]
            check_classes(self.artifact.network, int(self.call(name, *given)[0].shape[-1]))


def load_detector_artifact(
    path: str | Path, threads: int | None = None, *, class_agnostic_nms: bool = False
) -> ArtifactDetector:
    """Load an exported detector into its runtime, by its folder or one of its files.

    Args:
        path: folder or file.
        threads: threads of the runtime; default: its own choice.
        class_agnostic_nms: suppress boxes by better ones of other classes, too.

    Raises:
        InputError: a record or file that cannot be used, a runtime that is not installed, or per-class suppression
            inside the files.
    """
    record, folder = read_artifact(path, DetectorArtifact)
    FORMATS[record.format].versions()
    detector = ArtifactDetector(record, folder, threads).eval()
    detector.check_classes()
    if class_agnostic_nms and not record.decoding.class_agnostic:
        if record.heads == "boxes":
            raise InputError(
                f"{path} suppresses boxes in each class, inside its graph: export it with --class-agnostic-nms, or "
                f"with --heads raw"
            )
        decoding = record.decoding.model_copy(update={"class_agnostic": True})
        detector.artifact = record.model_copy(update={"decoding": decoding})
    return detector
