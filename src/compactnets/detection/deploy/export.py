"""Export a detector to verified ONNX files in a folder."""

from __future__ import annotations

import copy
from pathlib import Path

import torch
from torchvision.models.detection import FasterRCNN
from torchvision.models.detection.ssd import SSD

from compactnets.console import stage, stages
from compactnets.deploy.export import check_output, check_share, weight_bytes
from compactnets.deploy.formats.registry import FLOAT16, FLOAT32, FORMATS
from compactnets.deploy.metadata import texts
from compactnets.deploy.record import NAME, digest, size_in_bytes
from compactnets.deploy.rewrite import round_to_float16
from compactnets.detection.checkpoint import DetectorRecord, check_classes
from compactnets.detection.cost import default_size, detector_cost
from compactnets.detection.deploy.artifact import (
    FIRST,
    SECOND,
    WHOLE,
    DetectorArtifact,
    Heads,
    InputRecord,
    TensorRecord,
)
from compactnets.detection.deploy.decoding import Decoding
from compactnets.detection.deploy.graphs import EXAMPLE, write_graphs
from compactnets.detection.deploy.stages import deploy_detector
from compactnets.detection.deploy.verification import TOLERANCE, TOLERANCE_FLOAT16, verify_detector
from compactnets.detection.evaluation import find_objects, watched
from compactnets.environment import software_versions
from compactnets.errors import InputError
from compactnets.failures import Space, one_line
from compactnets.files import as_path
from compactnets.folders import writing

SMALLEST = 32  # pixels: Faster R-CNN pads to multiples of it

SSD_STEPS = [
    "for each class (columns from 1 on; column 0 is the background) keep boxes whose score is above decoding.score, "
    "and of them the best decoding.candidates",
    "non-maximum suppression in each class at decoding.overlap",
    "the best decoding.detections of all classes are the detections; labels count from 0 without the background",
]
FASTER_RCNN_STEPS = [
    f"run {FIRST}; keep the decoding.proposal_candidates boxes of the highest objectness, and of them those at least "
    "0.001 pixels wide and high",
    "non-maximum suppression at decoding.proposal_overlap; the best decoding.proposals are the proposals",
    "RoIAlign (decoding.roi_size cells a side, scale 1 / decoding.stride, decoding.sampling_ratio, not aligned, which "
    "ONNX calls output_half_pixel) gives the regions",
    f"run {SECOND} on regions and proposals; clip its boxes to the input",
    "for each class (columns from 1 on; column 0 is the background) keep boxes whose score is above decoding.score "
    "that are at least 0.01 pixels wide and high; non-maximum suppression in each class at decoding.overlap",
    "the best decoding.detections of all classes are the detections; labels count from 0 without the background",
]
SCALE_BACK = "scale boxes from the input back to the image as input.resize says"


def export_detector(
    detector: FasterRCNN | SSD,
    record: DetectorRecord,
    output: str | Path,
    *,
    heads: Heads = "boxes",
    size: tuple[int, int] | None = None,
    tolerance: float | None = None,
    precision: str = FLOAT32,
) -> DetectorArtifact:
    """Export a detector to ONNX, compare ONNX Runtime with PyTorch, and keep the artifact if they agree.

    Args:
        detector: torchvision's, in evaluation mode; not modified.
        record: how it was built, and its classes.
        output: folder for the artifact; written completely or not at all. An existing artifact is replaced.
        heads: ``boxes``: box decoding is inside; ``raw``: it is left to the caller, and the files contain neither
            suppression nor RoIAlign.
        size: height and width to fix for Faster R-CNN, whose artifact is otherwise dynamic; SSD has a fixed size.
        tolerance: largest difference allowed: of a score, and of a box's side as a share of the input's longer side.
            For float16: of a raw output with weights in float16, as a share of the largest value of that output.
        precision: of the weights in the files: ``"float32"`` or ``"float16"``. Inputs and outputs are float32.

    Raises:
        InputError: an unsupported precision, a missing extra, a folder with other content, an invalid size, a number of
            classes that differs from the outputs, or outputs that are not finite.
        LimitError: the artifact differs from PyTorch by more than ``tolerance``; nothing is kept.
    """
    output = as_path(output)
    fmt = FORMATS["onnx"]
    fmt.check_precision(precision)
    float16 = precision == FLOAT16
    versions = {**software_versions(), **fmt.versions()}
    from compactnets.deploy.formats.onnx import OPSET, embed, store_float16

    usual = TOLERANCE_FLOAT16 if float16 else TOLERANCE
    limit = usual if tolerance is None else tolerance
    check_share(limit, "--tolerance")
    check_output(output, (WHOLE, FIRST, SECOND))
    size_at_least = weight_bytes(detector, precision)
    space = Space(output, size_at_least, size_at_least)  # a copy is needed for the comparison
    space.check()
    detector = copy.deepcopy(detector).cpu().float().eval()
    ssd = isinstance(detector, SSD)
    classifier = detector.head.classification_head if ssd else detector.roi_heads.box_predictor.cls_score
    check_classes(record, classifier.num_columns if ssd else classifier.out_features)
    taken = input_record(detector, record, size)
    with watched(detector) as finite:  # box decoding would hide non-finite values
        find_objects(detector, [torch.rand(3, *(taken.size or EXAMPLE), generator=torch.Generator().manual_seed(0))])
    if not all(finite):
        raise InputError(f"{record.detector} on {record.model} gives outputs that are not finite: it is not exported")
    decoding = Decoding.of(detector, record)
    what = f"{record.detector} on {record.model}"
    with stages(f"{what} to onnx"), writing(output) as partial, one_line(f"{what} cannot be exported to onnx", space):
        stage("tracing")
        deployed = deploy_detector(detector, record)
        if float16:
            round_to_float16(deployed)
        graphs = write_graphs(deployed, decoding, taken.size, heads, partial)
        for name, (inputs, outputs) in graphs.items():
            if float16:
                store_float16(partial / name)
            embed(partial / name, detector_metadata(record, taken, inputs, outputs, decoding, precision))
        left = [] if heads == "boxes" else (SSD_STEPS if record.detector == "ssd" else FASTER_RCNN_STEPS)
        if decoding.class_agnostic:
            left = [step.replace("in each class at", "of all classes together at") for step in left]
        artifact = DetectorArtifact(
            heads=heads,
            precision=FLOAT16 if float16 else FLOAT32,
            files={name: digest(partial / name) for name in graphs},
            bytes=sum(size_in_bytes(partial / name) for name in graphs),
            network=record,
            input=taken,
            inputs={name: inputs for name, (inputs, _) in graphs.items()},
            outputs={name: outputs for name, (_, outputs) in graphs.items()},
            decoding=decoding,
            steps=[*left, SCALE_BACK],
            opset=OPSET,
            cost=detector_cost(record, taken.size).to_dict(),
            versions=versions,
        )
        stage("comparing with PyTorch")
        if float16:
            artifact.verification = verify_detector(detector, artifact, partial, rounded=deployed, rounding=limit)
        else:
            artifact.verification = verify_detector(detector, artifact, partial, limit)
        (partial / NAME).write_text(artifact.model_dump_json(indent=2) + "\n", encoding="utf-8")
    return artifact


def detector_metadata(
    record: DetectorRecord,
    taken: InputRecord,
    inputs: list[TensorRecord],
    outputs: list[TensorRecord],
    decoding: Decoding,
    precision: str = FLOAT32,
) -> dict[str, str]:
    """Return the metadata of one file of a detector, as in :mod:`compactnets.deploy.metadata`."""
    return texts(
        {
            "task": "detection",
            "detector": record.detector,
            "network": record.model,
            "precision": precision,
            "class_names": record.class_names,
            "preprocess": taken.model_dump(mode="json"),
            "inputs": [one.model_dump(mode="json") for one in inputs],
            "outputs": [one.model_dump(mode="json") for one in outputs],
            "decoding": decoding.model_dump(mode="json"),
            "source": record.source,
            "license": record.license,
        }
    )


def input_record(detector: FasterRCNN | SSD, record: DetectorRecord, size: tuple[int, int] | None) -> InputRecord:
    """Describe how images become an artifact's input.

    Raises:
        InputError: a size that differs from SSD's own, or one too small for Faster R-CNN.
    """
    fill = [float(value) for value in detector.transform.image_mean]
    if record.ssd is not None:
        own = default_size(record)
        if size not in (None, own):
            raise InputError(f"this SSD was made for {own[0]} x {own[1]} pixels: remove --size, found {_times(size)}")
        return InputRecord(size=own, resize="stretch", fill=fill)
    if size is not None:
        if min(size) < SMALLEST:
            raise InputError(f"--size must be at least {SMALLEST} pixels a side, found {_times(size)}")
        return InputRecord(size=size, resize="fit", fill=fill)
    assert record.faster_rcnn is not None
    sides = {"shorter_side": record.faster_rcnn.shorter_side, "longer_side": record.faster_rcnn.longer_side}
    return InputRecord(size=None, resize="sides", fill=fill, **sides)


def _times(size: tuple[int, int] | None) -> str:
    return " x ".join(map(str, size or ()))
