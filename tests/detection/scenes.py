"""Made-up images with objects and detections, for the tests of the metrics."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
import torch

from compactnets.detection.metrics import DetectionEvaluator, DetectionScores, Metric
from compactnets.detection.objects import Detections, Objects

Image = tuple[Detections, Objects]


def objects(boxes: Sequence[Sequence[float]], labels: Sequence[int] | None = None, **flags: Sequence[bool]) -> Objects:
    corners = torch.tensor(boxes, dtype=torch.float32).reshape(-1, 4)
    count = len(corners)
    sides = corners[:, 2:] - corners[:, :2]
    return Objects(
        corners,
        torch.tensor([0] * count if labels is None else labels, dtype=torch.int64),
        torch.tensor(flags.get("difficult", [False] * count), dtype=torch.bool),
        torch.tensor(flags.get("crowd", [False] * count), dtype=torch.bool),
        sides.prod(dim=1),
    )


def detections(
    boxes: Sequence[Sequence[float]], scores: Sequence[float], labels: Sequence[int] | None = None
) -> Detections:
    return Detections(
        torch.tensor(boxes, dtype=torch.float32).reshape(-1, 4),
        torch.tensor([0] * len(boxes) if labels is None else labels, dtype=torch.int64),
        torch.tensor(scores, dtype=torch.float32),
    )


def evaluate(
    images: Sequence[Image],
    class_names: Sequence[str] = ("thing",),
    metric: Metric = "voc07",
    iou_threshold: float = 0.5,
) -> DetectionScores:
    if metric == "coco":
        pytest.importorskip("faster_coco_eval")
        pytest.importorskip("torchmetrics")
    evaluator = DetectionEvaluator(class_names, metric=metric, iou_threshold=iou_threshold)
    for image in images:
        evaluator.update(*image)
    return evaluator.compute()


def crowded(random: np.random.Generator, images: int = 5, classes: int = 3) -> list[Image]:
    """Overlapping boxes on whole pixels, with difficult objects, duplicates and equal scores."""
    return [_crowded_image(random, classes) for _ in range(images)]


def _crowded_image(random: np.random.Generator, classes: int) -> Image:
    count = int(random.integers(0, 7))
    there = _boxes(random, count)
    labels = random.integers(0, classes, count)
    chosen = random.integers(0, max(count, 1), int(random.integers(0, 12)) if count else 0)
    moved = there[chosen] + random.integers(-9, 10, (len(chosen), 4))
    moved[:, 2:] = np.maximum(moved[:, 2:], moved[:, :2] + 1)
    others = _boxes(random, int(random.integers(0, 4)))
    right_class = np.where(random.random(len(chosen)) < 0.8, labels[chosen], random.integers(0, classes, len(chosen)))
    all_labels = np.concatenate([right_class, random.integers(0, classes, len(others))])
    scores = random.integers(1, 9, len(all_labels)) / 8  # few values: ties
    return (
        detections(np.concatenate([moved, others]).tolist(), scores.tolist(), all_labels.tolist()),
        objects(there.tolist(), labels.tolist(), difficult=(random.random(count) < 0.25).tolist()),
    )


def _boxes(random: np.random.Generator, count: int) -> np.ndarray:
    corner = random.integers(0, 60, (count, 2))
    return np.concatenate([corner, corner + random.integers(5, 50, (count, 2))], axis=1)


def sparse(random: np.random.Generator, images: int = 5, classes: int = 3) -> list[Image]:
    """Objects so far apart that no detection overlaps two, and no two scores alike: every rule assigns alike."""
    return [_sparse_image(random, classes) for _ in range(images)]


def _sparse_image(random: np.random.Generator, classes: int) -> Image:
    cells = np.stack(np.meshgrid(np.arange(4), np.arange(4)), axis=-1).reshape(-1, 2) * 200
    corner = cells[random.permutation(16)[: random.integers(0, 9)]] + random.integers(20, 40, 2)
    there = np.concatenate([corner, corner + random.integers(8, 120, corner.shape)], axis=1)
    labels = random.integers(0, classes, len(there))
    chosen = random.integers(0, max(len(there), 1), 12 if len(there) else 0)
    moved = there[chosen] + random.integers(-6, 7, (len(chosen), 4))
    moved[:, 2:] = np.maximum(moved[:, 2:], moved[:, :2] + 1)
    found = np.where(random.random(len(chosen)) < 0.8, labels[chosen], random.integers(0, classes, len(chosen)))
    scores = random.permutation(10_000)[: len(chosen)] / 10_000
    return (
        detections(moved.tolist(), scores.tolist(), found.tolist()),
        objects(there.tolist(), labels.tolist()),
    )
