"""Mean IoU against worked examples, plain loops and scikit-learn."""

from __future__ import annotations

import numpy as np
import pytest
import torch

pytest.importorskip("torchmetrics")

from compactnets.segmentation.metrics import SegmentationScore, confusion
from compactnets.segmentation.recipe import IGNORED

NAMES = ("a", "b", "c", "d")


def test_a_worked_example() -> None:
    # class a: 3 right of 4, 1 found elsewhere; b: 1 right of 2; c is found once and is nowhere; d is neither
    labels = torch.tensor([[0, 0, 0, 0], [1, 1, IGNORED, IGNORED]])
    found = torch.tensor([[0, 0, 0, 2], [1, 0, 3, 0]])
    counts = confusion(labels, found, 4)
    assert counts.tolist() == [[3, 0, 1, 0], [1, 1, 0, 0], [0, 0, 0, 0], [0, 0, 0, 0]]
    score = SegmentationScore.of(counts, NAMES, 1, 0.5)
    assert [row.iou for row in score.classes] == [pytest.approx(60), pytest.approx(50), 0.0, None]
    assert [row.accuracy for row in score.classes] == [75, 50, None, None]
    assert score.miou == pytest.approx(110 / 3)
    assert score.pixel_accuracy == pytest.approx(100 * 4 / 6)
    assert (score.value, score.metrics()["miou_percent"]) == (score.miou, score.miou)


def plain(labels: np.ndarray, found: np.ndarray, classes: int) -> list[float | None]:
    """Sets of places, one class at a time, over all images at once."""
    result: list[float | None] = []
    for number in range(classes):
        own = {place for place, value in np.ndenumerate(labels) if value == number}
        seen = {place for place, value in np.ndenumerate(found) if value == number and labels[place] != IGNORED}
        result.append(100 * len(own & seen) / len(own | seen) if own | seen else None)
    return result


def test_confusions_add_up_over_a_set_and_agree_with_others() -> None:
    from sklearn.metrics import accuracy_score, jaccard_score

    random = np.random.default_rng(0)
    labels, found = random.integers(0, 5, (3, 20, 30)), random.integers(0, 5, (3, 20, 30))
    found = np.where(random.random(found.shape) < 0.5, labels, found)
    labels[:, :4] = IGNORED
    counts = sum(confusion(torch.from_numpy(a), torch.from_numpy(b), 6) for a, b in zip(labels, found, strict=True))
    score = SegmentationScore.of(counts, list("uvwxyz"), 3, 1.0)
    counted = labels != IGNORED
    assert [row.iou for row in score.classes] == pytest.approx(plain(labels, found, 6))
    each = 100 * jaccard_score(labels[counted], found[counted], average=None, labels=range(5))
    assert [row.iou for row in score.classes[:5]] == pytest.approx(each.tolist())
    assert score.miou == pytest.approx(each.mean())
    assert score.pixel_accuracy == pytest.approx(100 * accuracy_score(labels[counted], found[counted]))


def test_nothing_to_count() -> None:
    score = SegmentationScore.of(confusion(torch.full((2, 2), IGNORED), torch.zeros(2, 2), 2), ("a", "b"), 1, 0.0)
    assert (score.miou, score.pixel_accuracy) == (0.0, 0.0)
