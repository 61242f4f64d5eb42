"""Which detections are right, wrong, and which objects missed."""

from __future__ import annotations

import pytest

from compactnets.detection.matching import match
from compactnets.detection.objects import no_objects
from tests.detection.scenes import detections, objects

A, B, C = [0, 0, 10, 10], [20, 0, 30, 10], [40, 0, 50, 10]


def test_verdicts() -> None:
    """In the order of the detections, though the best one decides, wherever it stands."""
    found = detections([A, A, B, C, [60, 0, 70, 10]], [0.5, 0.9, 0.8, 0.7, 0.6])
    matches = match(found, objects([A, B, C, A], labels=[0, 1, 0, 1], difficult=[False, False, True, False]))
    assert matches.right.tolist() == [False, True, False, False, False]
    assert matches.wrong.tolist() == [True, False, True, False, True]
    assert matches.missed.tolist() == [False, True, False, True]
    assert matches.f1 == pytest.approx(2 / (2 + 3 + 2))


def test_without_objects_or_detections() -> None:
    nothing = detections([], [])
    assert match(nothing, no_objects()).f1 == 1
    assert match(detections([A], [0.9]), no_objects()).wrong.tolist() == [True]
    assert match(detections([A], [0.9]), no_objects()).f1 == 0
    missed = match(nothing, objects([A, B], difficult=[False, True]))
    assert missed.missed.tolist() == [True, False]
    assert missed.f1 == 0
    assert match(detections([A], [0.9]), objects([A], difficult=[True])).f1 == 1


def test_boxes_without_area_find_nothing() -> None:
    point = [5, 5, 5, 5]
    assert match(detections([point], [0.9]), objects([point, A])).wrong.tolist() == [True]
