"""Export a detector to verified files in a folder."""

from __future__ import annotations

import copy
from pathlib import Path

import torch
from torchvision.models.detection import FasterRCNN
from torchvision.models.detection.ssd import SSD

from compactnets.console import stage, stages
from compactnets.deploy.export import check_output, check_share, weight_bytes
from compactnets.deploy.formats.onnx import OPSET
from compactnets.deploy.formats.openvino import convert
from compactnets.deploy.formats.registry import FLOAT16, FLOAT32, Format, find_format
from compactnets.deploy.metadata import texts
from compactnets.deploy.record import NAME, digest, size_in_bytes
from compactnets.deploy.rewrite import round_to_float16
from compactnets.detection.checkpoint import DetectorRecord, check_classes
from compactnets.detection.cost import default_size, detector_cost
from compactnets.detection.deploy.artifact import (
    FIRST,
    FORMS,
    SECOND,
    WHOLE,
    DetectorArtifact,
    Heads,
    InputRecord,
    TensorRecord,
    part_files,
)
from compactnets.detection.deploy.decoding import Decoding
from compactnets.detection.deploy.graphs import EXAMPLE, Part, take_apart, write_ncnn, write_onnx
from compactnets.detection.deploy.stages import deploy_detector
from compactnets.detection.deploy.verification import TOLERANCE, TOLERANCE_FLOAT16, verify_detector
from compactnets.detection.evaluation import find_objects, watched
from compactnets.environment import software_versions
from compactnets.errors import InputError
from compactnets.failures import Space, one_line, scratch_folder
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
    "run {first}; keep the decoding.proposal_candidates boxes of the highest objectness, and of them those at least "
    "0.001 pixels wide and high",
    "non-maximum suppression at decoding.proposal_overlap; the best decoding.proposals are the proposals",
    "RoIAlign (decoding.roi_size cells a side, scale 1 / decoding.stride, decoding.sampling_ratio, not aligned, which "
    "ONNX calls output_half_pixel) gives the regions",
    "run {second} on regions and proposals; clip its boxes to the input",
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
    format_name: str = "onnx",
    heads: Heads | None = None,
    size: tuple[int, int] | None = None,
    tolerance: float | None = None,
    precision: str = FLOAT32,
) -> DetectorArtifact:
    """Export a detector, compare the runtime with PyTorch, and keep the artifact if they agree.

    Args:
        detector: torchvision's, in evaluation mode; not modified.
        record: how it was built, and its classes.
        output: folder for the artifact; written completely or not at all. An existing artifact is replaced.
        format_name: ``"onnx"``, ``"openvino"`` or ``"ncnn"``.
        heads: ``boxes``: box decoding is inside; ``raw``: it is left to the caller, and the files contain neither
            suppression nor RoIAlign, as ``ncnn`` has to have it. Default: ``boxes`` where the format has both.
        size: height and width to fix for Faster R-CNN, whose artifact is otherwise dynamic, which ``ncnn`` cannot be;
            SSD has a fixed size.
        tolerance: largest difference allowed: of a score, and of a box's side as a share of the input's longer side.
            For float16: of a raw output with weights in float16, as a share of the largest value of that output.
        precision: of the weights in the files: ``"float32"`` or ``"float16"``. Inputs and outputs are float32.

    Raises:
        InputError: an unsupported format, precision or form of it, a missing extra, a folder with other content, an
            invalid size, a number of classes that differs from the outputs, or outputs that are not finite.
        LimitError: the artifact differs from PyTorch by more than ``tolerance``; nothing is kept.
    """
    output = as_path(output)
    fmt = detector_format(format_name)
    heads = check_heads(fmt, heads)
    fmt.check_precision(precision)
    float16 = precision == FLOAT16
    versions = {**software_versions(), **fmt.versions()}
    usual = TOLERANCE_FLOAT16 if float16 else TOLERANCE
    limit = usual if tolerance is None else tolerance
    check_share(limit, "--tolerance")
    check_output(output, [name for form in FORMS for part in (WHOLE, FIRST, SECOND) for name in part_files(form, part)])
    size_at_least = weight_bytes(detector, precision)
    # the comparison needs a copy, and a conversion what it is made from
    space = Space(output, size_at_least, round((1 + fmt.scratch) * size_at_least))
    space.check()
    detector = copy.deepcopy(detector).cpu().float().eval()
    ssd = isinstance(detector, SSD)
    classifier = detector.head.classification_head if ssd else detector.roi_heads.box_predictor.cls_score
    check_classes(record, classifier.num_columns if ssd else classifier.out_features)
    taken = input_record(detector, record, size)
    if taken.size is None and fmt.name == "ncnn":
        raise InputError("ncnn takes images of one size, and Faster R-CNN any: give --size HEIGHTxWIDTH")
    with watched(detector) as finite:  # box decoding would hide non-finite values
        find_objects(detector, [torch.rand(3, *(taken.size or EXAMPLE), generator=torch.Generator().manual_seed(0))])
    if not all(finite):
        raise InputError(f"{record.detector} on {record.model} gives outputs that are not finite: it is not exported")
    decoding = Decoding.of(detector, record)
    what = f"{record.detector} on {record.model}"
    with (
        stages(f"{what} to {fmt.name}"),
        writing(output) as partial,
        scratch_folder() as sources,
        one_line(f"{what} cannot be exported to {fmt.name}", space),
    ):
        stage("rewriting")
        deployed = deploy_detector(detector, record)
        if float16:
            round_to_float16(deployed, flush=fmt.flushes)
        made_from = partial if fmt.name == "onnx" else sources  # the ONNX files
        found = {part_files(fmt.name, part.name)[0]: part for part in take_apart(deployed, decoding, taken.size, heads)}
        for name, part in found.items():
            write_part(part, fmt, partial / name, made_from, float16)
            fmt.embed_into(
                partial / name, detector_metadata(record, taken, part.inputs, part.outputs, decoding, precision)
            )
        left = [] if heads == "boxes" else (SSD_STEPS if record.detector == "ssd" else FASTER_RCNN_STEPS)
        if decoding.class_agnostic:
            left = [step.replace("in each class at", "of all classes together at") for step in left]
        first, second = (part_files(fmt.name, part)[0] for part in (FIRST, SECOND))
        left = [step.format(first=first, second=second) for step in left]
        files = [name for part in found.values() for name in part_files(fmt.name, part.name)]
        artifact = DetectorArtifact(
            format=fmt.name,
            heads=heads,
            precision=FLOAT16 if float16 else FLOAT32,
            files={name: digest(partial / name) for name in files},
            bytes=sum(size_in_bytes(partial / name) for name in files),
            network=record,
            input=taken,
            inputs={name: part.inputs for name, part in found.items()},
            outputs={name: part.outputs for name, part in found.items()},
            decoding=decoding,
            steps=[*left, SCALE_BACK],
            opset=None if fmt.name == "ncnn" else OPSET,
            cost=detector_cost(record, taken.size).to_dict(),
            versions=versions,
        )
        stage("comparing with PyTorch")
        if float16:
            artifact.verification = verify_detector(
                detector, artifact, partial, made_from, rounded=deployed, rounding=limit
            )
        else:
            artifact.verification = verify_detector(detector, artifact, partial, made_from, limit)
        (partial / NAME).write_text(artifact.model_dump_json(indent=2) + "\n", encoding="utf-8")
    return artifact


def detector_format(name: str) -> Format:
    """Return a format that detectors are exported to.

    Raises:
        InputError: another one.
    """
    fmt = find_format(name)
    if fmt.name not in FORMS:
        raise InputError(f"detectors are exported to {', '.join(FORMS)}, found --format {name}")
    return fmt


def check_heads(fmt: Format, heads: Heads | None) -> Heads:
    """Return what the files of a format hold: what is asked for, or the first that it can.

    Raises:
        InputError: it cannot hold that.
    """
    able = FORMS[fmt.name]
    if heads is None:
        return able[0]
    if heads not in able:
        raise InputError(
            f"{fmt.name} has no layer for suppression, top-k and indexing, which the choice of boxes takes: expected "
            f"--heads {', '.join(able)}, found {heads}"
        )
    return heads


def write_part(part: Part, fmt: Format, path: Path, made_from: Path, float16: bool) -> None:
    """Write a part in a format.

    Args:
        part: the part.
        fmt: one of ``FORMS``.
        path: of its main file.
        made_from: folder for the ONNX file that OpenVINO's is made from.
        float16: whether to store the weights in float16.
    """
    if fmt.name == "ncnn":
        write_ncnn(part, path, float16)
        return
    from compactnets.deploy.formats import onnx

    source = made_from / part_files("onnx", part.name)[0]
    write_onnx(part, source)
    if float16:
        onnx.store_float16(source)
    if fmt.name == "openvino":
        convert(source, path)


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
