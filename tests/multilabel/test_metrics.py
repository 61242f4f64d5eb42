"""Average precision and F1 against other implementations, and where they are not defined."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from compactnets.multilabel.metrics import score

NAMES = ("a", "b", "c")


def drawn(images: int = 200) -> tuple[np.ndarray, np.ndarray]:
    random = np.random.default_rng(0)
    tags = random.random((images, 3)) < (0.5, 0.2, 0.05)
    logits = random.normal(size=(images, 3)) + 2 * tags - 1
    return np.round(logits, 1).astype(np.float32), tags  # with equal ones among them


def test_figures_are_those_of_torchmetrics() -> None:
    functional = pytest.importorskip("torchmetrics.functional.classification")
    logits, tags = drawn()
    found = score(logits, tags, NAMES, threshold=0.4)
    given = {"preds": torch.from_numpy(logits), "target": torch.from_numpy(tags).long(), "num_labels": 3}
    precision = functional.multilabel_average_precision(**given, average=None)
    assert [row.average_precision for row in found.classes] == pytest.approx((100 * precision).tolist(), rel=1e-5)
    assert found.map_percent == pytest.approx(100 * float(precision.mean()), rel=1e-5)
    for average, value in (("micro", found.f1_percent), ("macro", found.mean_f1_percent)):
        expected = functional.multilabel_f1_score(**given, threshold=0.4, average=average)
        assert value == pytest.approx(100 * float(expected), rel=1e-5)
    exact = functional.multilabel_exact_match(**given, threshold=0.4)
    assert found.exact_percent == pytest.approx(100 * float(exact), rel=1e-5)
    loss = torch.nn.BCEWithLogitsLoss()(given["preds"].double(), given["target"].double())
    assert found.loss == pytest.approx(float(loss))


def test_average_precision_by_hand() -> None:
    """Images of the class at ranks 1 and 3: (1 / 1 + 2 / 3) / 2."""
    logits = np.array([[3.0, -1.0], [1.0, -1.0], [2.0, -2.0]], dtype=np.float32)
    tags = np.array([[True, False], [True, False], [False, False]])
    found = score(logits, tags, ("a", "b"))
    one, other = found.classes
    assert one.average_precision == pytest.approx(100 * (1 + 2 / 3) / 2)
    assert (one.images, one.found, one.right) == (2, 3, 2)
    assert (one.recall, one.precision, one.f1) == pytest.approx((100, 200 / 3, 80))
    assert (other.average_precision, other.recall, other.precision, other.f1) == (None,) * 4
    assert found.map_percent == one.average_precision
    assert found.mean_f1_percent == one.f1
    assert found.exact_percent == pytest.approx(200 / 3)


def test_a_class_that_is_never_found_counts_as_zero() -> None:
    logits = np.array([[-1.0, 1.0], [-2.0, 1.0]], dtype=np.float32)
    found = score(logits, np.array([[True, True], [False, True]]), ("a", "b"))
    assert (found.classes[0].precision, found.classes[0].f1) == (None, 0)
    assert found.mean_f1_percent == 50


def test_classes_without_an_image_may_still_be_found() -> None:
    found = score(np.ones((2, 2), dtype=np.float32), np.array([[True, False], [True, False]]), ("a", "b"))
    assert (found.classes[1].recall, found.classes[1].precision, found.classes[1].f1) == (None, 0, 0)
    assert found.mean_f1_percent == 100
    assert found.f1_percent == pytest.approx(100 * 4 / 6)
