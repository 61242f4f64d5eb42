"""Compare an exported detector, in its runtime, with the original.

Suppression is a chain of decisions. Rounding may flip one if two scores are equal or an overlap is at the threshold. So
detections are matched as sets, and an unmatched one is only accepted if such a decision explains it
(:mod:`compactnets.detection.deploy.pairing`). Faster R-CNN decides twice: the artifact's proposals are compared with
PyTorch's separately, and PyTorch then continues from the artifact's, so that a differing proposal does not change
everything after it.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torchvision.models.detection import FasterRCNN
from torchvision.models.detection.ssd import SSD

from compactnets.deploy.formats.openvino import convert
from compactnets.deploy.subject import TINY, load_pictures
from compactnets.detection.deploy.artifact import (
    FIRST,
    SECOND,
    WHOLE,
    DetectorArtifact,
    DetectorCheck,
    DetectorVerification,
    TensorRecord,
    part_files,
)
from compactnets.detection.deploy.decoding import Decoding
from compactnets.detection.deploy.pairing import Found, pair, unlike_proposals
from compactnets.detection.deploy.runtime import ArtifactDetector
from compactnets.detection.deploy.stages import BoxHeads, RegionHeads, SSDHeads
from compactnets.detection.transform import plain_target
from compactnets.errors import LimitError
from compactnets.failures import scratch_folder

TOLERANCE = 1e-4
TOLERANCE_FLOAT16 = 2e-2  # of raw outputs, between weights in float32 and in float16: softmax and boxes' exp stretch it
NOTHING = 1.0  # a threshold above every score
FIRST_ONES = 10  # detections searched for a threshold that leaves a single one
UNLIKE_PROPOSALS = 0.01  # share of an image's proposals that may differ; one always may
PROPOSALS = "proposals"

Find = Callable[[Tensor], Found]  # (1, 3, h, w) -> detections


def verify_detector(
    detector: FasterRCNN | SSD,
    artifact: DetectorArtifact,
    folder: Path,
    made_from: Path,
    tolerance: float = TOLERANCE,
    *,
    rounded: FasterRCNN | SSD | None = None,
    rounding: float = TOLERANCE_FLOAT16,
) -> DetectorVerification:
    """Run the artifact in ``folder`` on parts of photographs with thresholds that leave many, one and no detections.

    Args:
        detector: the reference, on the CPU, in evaluation mode.
        artifact: its record so far.
        folder: with its files.
        made_from: with the ONNX files that they were made from; for ONNX, the same.
        tolerance: the largest difference of a score, and of a box as a share of the input's longer side.
        rounded: the detector with its weights rounded to float16, if the artifact is float16. Its raw outputs are
            compared with the detector's, and the artifact with it: box decoding may flip decisions with rounded
            weights, which would mean nothing.
        rounding: the largest difference of these raw outputs, as a share of the largest value of each.

    Raises:
        LimitError: a difference beyond the tolerance, or outputs that are not finite.
    """
    pictures, origin = load_pictures(None)
    wide = pictures[1].resize((pictures[1].width, pictures[1].height * 2 // 3))  # another aspect ratio, if it is kept
    pixels = [plain_target(picture).float() / 255 for picture in (pictures[0], wide, pictures[-1])]
    images = [artifact.input.prepare(image)[0] for image in pixels]
    float16 = None
    if rounded is not None:
        float16 = _compare_rounded(detector, rounded, artifact.decoding, images, rounding)
        detector = rounded
    reference, runner = _Reference(detector), ArtifactDetector(artifact, folder)
    heads = _compare_heads(detector, runner, images, tolerance) if artifact.heads == "raw" else None
    threshold = artifact.decoding.score
    found = [reference.find(image, None, threshold).scores for image in images]
    # the image whose best detections a threshold separates soonest
    _, single, place = min((*_threshold_for_one(scores, threshold), place) for place, scores in enumerate(found))
    checks = []
    with scratch_folder() as scratch:
        for score, chosen in ((threshold, images), (single, images[place : place + 1]), (NOTHING, images[:1])):
            find = _finder(artifact, folder, made_from, scratch, score)
            checks.append(_check(artifact, reference, find, chosen, score, tolerance))
            if score == threshold:  # the file itself, next to the copy that outputs its proposals
                copied = find(images[0])
                itself = Found(*runner.run(images[0]))
                pair(copied, itself, copied, artifact.decoding, max(images[0].shape), tolerance)
    return DetectorVerification(
        images=origin,
        tolerance=tolerance,
        float16_difference=float16,
        float16_tolerance=None if float16 is None else rounding,
        heads_difference=heads,
        checks=checks,
    )


def _check(
    artifact: DetectorArtifact,
    reference: _Reference,
    find: Find,
    images: list[Tensor],
    score: float,
    tolerance: float,
) -> DetectorCheck:
    decoding = artifact.decoding.model_copy(update={"score": score})
    pairings, counts, alike = [], [], []
    for image in images:
        found, side = find(image), max(image.shape)
        expected = reference.find(image, found.proposals, score)
        if found.proposals is not None and expected.proposals is not None:
            count = max(1, len(expected.proposals))
            unlike = unlike_proposals(expected.proposals, found.proposals, tolerance * side)
            if unlike > max(1, UNLIKE_PROPOSALS * count):
                raise LimitError(
                    f"the {artifact.format} artifact has {unlike} of {count} proposals that PyTorch lacks: it was "
                    f"not kept"
                )
            alike.append(1 - unlike / count)
        candidates = reference.find(image, found.proposals, score, suppressed=False)
        pairings.append(pair(expected, found, candidates, decoding, side, tolerance))
        counts.append(len(expected.labels))
    return DetectorCheck(
        score=score,
        sizes=[(image.shape[2], image.shape[3]) for image in images],
        detections=counts,
        max_score_difference=max(one.score for one in pairings),
        max_box_difference=max(one.pixels for one in pairings),
        relative_difference=max(one.relative for one in pairings),
        rounding=sum(one.rounding for one in pairings),
        proposals_alike=min(alike) if alike else None,
    )


class _Reference:
    """A copy of the detector that takes images of the input's size without resizing."""

    def __init__(self, detector: FasterRCNN | SSD) -> None:
        self.detector = copy.deepcopy(detector)
        self.is_ssd = isinstance(detector, SSD)
        chooser = detector if self.is_ssd else detector.roi_heads
        self.choice = chooser.nms_thresh, chooser.detections_per_img

    def find(self, image: Tensor, proposals: Tensor | None, score: float, *, suppressed: bool = True) -> Found:
        """Return what it finds in (1, 3, h, w), using these proposals if given; and its own proposals."""
        detector, own = self.detector, []
        chooser = detector if self.is_ssd else detector.roi_heads
        chooser.score_thresh = score
        chooser.nms_thresh, chooser.detections_per_img = self.choice if suppressed else (1.0, None)
        if not self.is_ssd:
            sides = sorted(image.shape[2:])
            detector.transform.min_size, detector.transform.max_size = (sides[0],), sides[1]
            choose = type(detector.rpn).filter_proposals

            def replaced(*arguments: Any) -> tuple[list[Tensor], list[Tensor]]:
                boxes, scores = choose(detector.rpn, *arguments)
                own.append(boxes[0])
                return (boxes, scores) if proposals is None else ([proposals], scores)

            detector.rpn.filter_proposals = replaced
        with torch.inference_mode():
            (found,) = detector([image[0]])
        return Found(found["boxes"], found["labels"] - 1, found["scores"], own[0] if own else None)


def _threshold_for_one(scores: Tensor, otherwise: float) -> tuple[int, float]:
    """Return a threshold that leaves one detection, or as few as the scores allow, and their number."""
    gaps = scores[:FIRST_ONES][:-1] - scores[:FIRST_ONES][1:]
    clear = (gaps > 10 * TOLERANCE).nonzero().flatten()
    if not len(clear):
        return len(scores) or FIRST_ONES, otherwise
    first = int(clear[0])
    return first + 1, float(scores[first] + scores[first + 1]) / 2


def _finder(artifact: DetectorArtifact, folder: Path, made_from: Path, scratch: Path, score: float) -> Find:
    """Return a function that runs the artifact with another threshold and also returns its proposals."""
    if artifact.heads == "boxes":
        source, whole = part_files("onnx", WHOLE)[0], artifact.file(WHOLE)
        _change(made_from / source, scratch / source, score, artifact.decoding.proposals is not None)
        records = list(artifact.outputs[whole])
        if artifact.decoding.proposals is not None:
            records.append(TensorRecord(name=PROPOSALS, shape=[PROPOSALS, 4], meaning="of the first half"))
        if artifact.format == "openvino":
            convert(scratch / source, scratch / whole)
        changed = ArtifactDetector(artifact.model_copy(update={"outputs": {whole: records}}), scratch)
        return lambda images: Found(*changed.call(whole, images))
    decoding = artifact.decoding.model_copy(update={"score": score})
    runner = ArtifactDetector(artifact.model_copy(update={"decoding": decoding}), folder)

    def find(images: Tensor) -> Found:
        if decoding.proposals is None:
            return Found(*runner.run(images))
        features, objectness, boxes = runner.call(artifact.file(FIRST), images)
        with torch.inference_mode():
            proposals = decoding.propose(objectness, boxes)
            return Found(*runner.finish(features, proposals, images.shape[2], images.shape[3]), proposals)

    return find


def _change(path: Path, changed: Path, score: float, with_proposals: bool) -> None:
    """Write a copy of a file with another threshold, and with the proposals as one more output."""
    import onnx

    model = onnx.load(path)
    nodes = model.graph.node
    last = [node for node in nodes if node.op_type == "NonMaxSuppression"][-1]
    last.input[4] = "another_score"  # its own tensor: the exporter lets equal constants share one
    model.graph.initializer.append(onnx.helper.make_tensor("another_score", onnx.TensorProto.FLOAT, [1], [score]))
    if with_proposals:
        boxes = next(node for node in nodes if node.op_type == "RoiAlign").input[1]
        model.graph.output.append(onnx.helper.make_tensor_value_info(boxes, onnx.TensorProto.FLOAT, [PROPOSALS, 4]))
    onnx.save(model, changed)


def _compare_rounded(
    detector: FasterRCNN | SSD, rounded: FasterRCNN | SSD, decoding: Decoding, images: list[Tensor], tolerance: float
) -> float:
    """Return the largest difference of a raw output with weights in float16, as a share of its values."""
    differences = []
    for image in images:
        expected, *between = _raw_outputs(detector, decoding, image)
        found, *_ = _raw_outputs(rounded, decoding, image, *between)
        differences.append(_largest_difference(expected, found))
    worst = float(np.max(differences))  # NaN if any is NaN
    if not worst <= tolerance:
        raise LimitError(
            f"with weights in float16 the raw outputs differ by {worst:.2g} of their largest value, past the tolerance "
            f"of {tolerance:.2g}: it was not kept"
        )
    return worst


def _raw_outputs(
    detector: FasterRCNN | SSD, decoding: Decoding, image: Tensor, *between: Tensor
) -> tuple[list[Tensor], *tuple[Tensor, ...]]:
    """Return the raw outputs for (1, 3, h, w), and Faster R-CNN's regions and proposals, which may be given."""
    with torch.inference_mode():
        if decoding.proposals is None:
            return (list(SSDHeads(detector)(image)),)
        features, objectness, boxes = RegionHeads(detector, decoding.stride)(image)
        if not between:
            proposals = decoding.propose(objectness, boxes)
            between = (decoding.pool(features, proposals), proposals)
        return [features, objectness, boxes, *BoxHeads(detector)(*between)], *between


def _largest_difference(expected: list[Tensor], found: list[Tensor]) -> float:
    """Return the largest difference of two lists of outputs, as a share of the largest value of each; or NaN."""
    shares = [
        (right - given).abs().max() / right.abs().max().clamp(min=TINY)
        for right, given in zip(expected, found, strict=True)
        if right.numel()  # there may be no proposal
    ]
    return float(torch.stack(shares).max())


def _compare_heads(
    detector: FasterRCNN | SSD, runner: ArtifactDetector, images: list[Tensor], tolerance: float
) -> float:
    """Return the largest difference of a raw output from the detector's own modules, as a share of its values."""
    differences = []
    for image in images:
        expected, *between = _raw_outputs(detector, runner.artifact.decoding, image)
        found = runner.call(runner.artifact.file(FIRST if between else WHOLE), image)
        found += runner.call(runner.artifact.file(SECOND), *between) if between else []
        differences.append(_largest_difference(expected, found))
    worst = float(np.max(differences))
    if not worst <= tolerance:  # also if it is NaN
        raise LimitError(
            f"the raw outputs of the {runner.artifact.format} artifact differ from PyTorch by {worst:.2g} of their "
            f"largest value, past the tolerance of {tolerance:.2g}: it was not kept"
        )
    return worst
