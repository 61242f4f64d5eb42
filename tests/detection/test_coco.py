"""COCO's figures, against faster-coco-eval without torchmetrics in between."""

from __future__ import annotations

import sys

import numpy as np
import pytest
import torch

from compactnets.detection.metrics import DetectionEvaluator
from compactnets.detection.objects import Objects, no_objects
from compactnets.errors import InputError
from tests.detection.cocos import coco_evaluation
from tests.detection.scenes import Image, crowded, detections, evaluate, objects, sparse

HERE, ELSEWHERE = [0, 0, 10, 10], [50, 50, 60, 60]
NAMES = ("a", "b", "c")
FIGURES = ("ap", "ap50", "ap75", "ap_small", "ap_medium", "ap_large")


def with_crowds_and_masks(random: np.random.Generator, images: list[Image]) -> list[Image]:
    """Make some objects crowds, and their areas those of masks, smaller than the boxes."""
    changed = []
    for found, there in images:
        count = len(there)
        crowd = torch.from_numpy(random.random(count) < 0.2)
        areas = there.areas * torch.from_numpy(random.uniform(0.3, 1, count)).float()
        changed.append((found, Objects(there.boxes, there.labels, there.difficult, crowd, areas)))
    return changed


@pytest.mark.parametrize("seed", range(6))
def test_agrees_with_faster_coco_eval(seed: int) -> None:
    random = np.random.default_rng(seed)
    images = with_crowds_and_masks(random, [*crowded(random, 8), *sparse(random, 8)])
    scores = evaluate(images, NAMES, metric="coco")
    evaluation = coco_evaluation(images, len(NAMES))
    evaluation.run()
    assert scores.coco is not None
    found = [getattr(scores.coco, name) for name in FIGURES]
    assert found == [pytest.approx(100 * value) if value >= 0 else None for value in evaluation.stats[:6]]
    assert scores.headline == scores.coco.ap
    precision = evaluation.eval["precision"][:, :, :, 0, -1]
    for label, row in enumerate(scores.classes):
        assert row.coco == pytest.approx(100 * precision[:, :, label].mean())


def test_only_the_best_hundred_of_an_image_and_class_count() -> None:
    boxes = [ELSEWHERE] * 100 + [HERE]
    late = detections(boxes, np.linspace(0.9, 0.1, 101).tolist())
    assert evaluate([(late, objects([HERE]))], metric="coco").headline == 0
    sooner = detections(boxes[1:], np.linspace(0.9, 0.1, 100).tolist())
    assert evaluate([(sooner, objects([HERE]))], metric="coco").headline == pytest.approx(1)


def test_overlap_of_exactly_a_threshold_counts() -> None:
    """0.6 in double precision; as a float32, torchmetrics' default, the threshold would lie above it."""
    scores = evaluate([(detections([[0, 0, 10, 6]], [0.9]), objects([HERE]))], metric="coco")
    assert scores.headline == pytest.approx(30)


def test_difficult_objects_are_crowds() -> None:
    inside = [[50, 50, 54, 54], [55, 55, 60, 60]]
    found = detections([*inside, HERE], [0.9, 0.8, 0.7])
    assert evaluate([(found, objects([HERE]))], metric="coco").headline == pytest.approx(100 / 3)
    there = objects([HERE, ELSEWHERE], difficult=[False, True])
    assert evaluate([(found, there)], metric="coco").headline == pytest.approx(100)


def test_class_without_objects_is_left_out_of_the_mean() -> None:
    images = [(detections([HERE, ELSEWHERE], [0.9, 0.8], [0, 1]), objects([HERE], [0]))]
    scores = evaluate(images, NAMES, metric="coco")
    assert [row.coco for row in scores.classes] == [pytest.approx(100), None, None]
    assert scores.headline == pytest.approx(100)


def test_nothing_found_and_nothing_there() -> None:
    empty = detections([], [])
    missed = evaluate([(empty, objects([HERE])), (empty, no_objects())], metric="coco")
    assert missed.headline == 0
    assert missed.coco is not None
    assert missed.coco.ap_large is None
    nothing = evaluate([(detections([HERE], [0.9]), no_objects())], metric="coco")
    assert nothing.headline is None
    assert nothing.classes[0].coco is None
    only_crowd = evaluate([(detections([HERE], [0.9]), objects([HERE], crowd=[True]))], metric="coco")
    assert only_crowd.headline is None


@pytest.mark.parametrize(
    ("module", "package"), [("torchmetrics", "torchmetrics"), ("faster_coco_eval", "faster-coco-eval")]
)
def test_missing_extra_is_one_line_before_the_evaluation(
    module: str, package: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(InputError, match=rf"needs {package}.*: python -m pip install 'compactnets\[detection\]'$"):
        DetectionEvaluator(NAMES, metric="coco")
    DetectionEvaluator(NAMES, metric="voc07")
