"""Pair the detections of two runtimes, and decide which unpaired ones rounding explains."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor
from torchvision.ops import box_iou

from compactnets.detection.deploy.decoding import Decoding
from compactnets.errors import LimitError

NEAR_OVERLAP = 1e-3  # around the threshold of suppression: boxes that differ in the fifth digit cross it
APART = 1.0  # the cost of an impossible pair


@dataclass(frozen=True)
class Found:
    """Detections of one image in pixels of the input: (K, 4), (K,) from 0, (K,); Faster R-CNN's proposals (R, 4)."""

    boxes: Tensor
    labels: Tensor
    scores: Tensor
    proposals: Tensor | None = None


@dataclass(frozen=True)
class Pairing:
    """The largest differences of pairs, and the number of detections left unpaired by rounding."""

    score: float
    pixels: float
    relative: float
    rounding: int


def pair(expected: Found, found: Found, candidates: Found, decoding: Decoding, side: int, tolerance: float) -> Pairing:
    """Pair detections of one class, minimising the sum of their differences.

    Args:
        expected: PyTorch's.
        found: the artifact's.
        candidates: PyTorch's without suppression: everything that it might have kept.
        decoding: the parameters that both used.
        side: the input's longer side in pixels.
        tolerance: the largest difference of a pair: of scores, and of boxes divided by ``side``.

    Raises:
        LimitError: a detection without a partner that rounding does not explain, or a NaN.
    """
    if not (found.scores.isfinite().all() and found.boxes.isfinite().all()):
        raise LimitError("the artifact gives values that are not finite: it was not kept")
    scores, pixels, costs = _differences(expected, found, side)
    rows, columns = (torch.as_tensor(index) for index in linear_sum_assignment(costs.clamp(max=APART).numpy()))
    good = costs[rows, columns] <= tolerance
    rows, columns = rows[good], columns[good]
    lone = [*_without(expected, rows), *_without(found, columns)]
    known = (_differences(candidates, found, side)[2] <= tolerance).any(0)
    number = _explain(lone, expected, found, known, decoding, tolerance)
    if not len(rows):
        return Pairing(0.0, 0.0, 0.0, number)
    largest = [float(values[rows, columns].max()) for values in (scores, pixels, costs)]
    return Pairing(largest[0], largest[1], largest[2], number)


def _differences(one: Found, other: Found, side: int) -> tuple[Tensor, Tensor, Tensor]:
    """Return the difference of each pair, (K, K'): scores, pixels, and the larger of scores and pixels / ``side``."""
    scores = (one.scores[:, None] - other.scores[None]).abs()
    pixels = (one.boxes[:, None] - other.boxes[None]).abs().amax(-1)
    costs = torch.maximum(scores, pixels / side).where(one.labels[:, None] == other.labels[None], APART)
    return scores, pixels, costs


def _without(side: Found, paired: Tensor) -> list[tuple[Found, int]]:
    rest = set(range(len(side.labels))) - set(paired.tolist())
    return [(side, index) for index in rest]


def _explain(
    lone: list[tuple[Found, int]],
    expected: Found,
    found: Found,
    known: Tensor,
    decoding: Decoding,
    tolerance: float,
) -> int:
    """Return the number of unpaired detections, all of them explained by rounding.

    The artifact's detections must be ``known``, (K',) bool: boxes that PyTorch also has before suppression. Rounding
    then decides if a score is at the threshold, or at the last score kept when the maximum is reached; if an overlap
    with a box of the same class (of any class, for class-agnostic suppression) is at the suppression threshold; which
    of two overlapping boxes with equal scores is kept; and what such a box suppresses in turn.

    Raises:
        LimitError: one that rounding does not explain.
    """
    explained: list[tuple[Found, int]] = []
    for side, index in sorted(lone, key=lambda one: -float(one[0].scores[one[1]])):
        other = found if side is expected else expected
        score, label = float(side.scores[index]), int(side.labels[index])
        limits = [decoding.score]
        limits += [float(one.scores[-1]) for one in (expected, found) if len(one.labels) == decoding.detections]
        at_limit = any(score - limit <= tolerance for limit in limits)
        same = (other.labels == label) | decoding.class_agnostic
        overlaps = box_iou(side.boxes[index][None], other.boxes[same])[0]
        near = (overlaps - decoding.overlap).abs() <= NEAR_OVERLAP
        equal = (overlaps > decoding.overlap) & ((other.scores[same] - score).abs() <= tolerance)
        rivals = [
            at for one, at in explained if one is other and (decoding.class_agnostic or int(one.labels[at]) == label)
        ]
        follows = (box_iou(side.boxes[index][None], other.boxes[rivals]) > decoding.overlap).any() if rivals else False
        real = side is expected or bool(known[index])
        if not (real and (at_limit or near.any() or equal.any() or follows)):
            whose = "PyTorch's" if side is expected else "the artifact's"
            raise LimitError(
                f"the artifact differs from PyTorch: {whose} detection of class {label} with score {score:.4f} "
                f"has no partner within the tolerance of {tolerance:.2g}: it was not kept"
            )
        explained.append((side, index))
    return len(lone)


def unlike_proposals(expected: Tensor, found: Tensor, pixels: float) -> int:
    """Return how many proposals (R, 4) have no partner among the others (R', 4) within ``pixels``."""
    distances = (expected[:, None] - found[None]).abs().amax(-1)
    rows, columns = (torch.as_tensor(index) for index in linear_sum_assignment(distances.numpy()))
    return max(len(expected), len(found)) - int((distances[rows, columns] <= pixels).sum())
