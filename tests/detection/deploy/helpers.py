"""What the tests of exported detectors share."""

from __future__ import annotations

from functools import cache

import torch
from torch import Tensor
from torch.nn import functional as F

from compactnets.detection.checkpoint import Detector, DetectorRecord
from compactnets.detection.objects import Detections

from ..lively import SMALLEST, lively_detector, photograph

SIZE = (64, 96)  # of Faster R-CNN: what its settings make of an image of 2 to 3


@cache
def detector_of(kind: str, model: str = SMALLEST) -> tuple[Detector, DetectorRecord]:
    return lively_detector(kind, model)


def picture(height: int, width: int) -> Tensor:
    return F.interpolate(photograph()[None], (height, width), mode="bilinear")[0]


def assert_same(found: Detections, expected: Detections, tolerance: float = 1e-3) -> None:
    assert len(expected) > 3
    torch.testing.assert_close(found.scores, expected.scores, rtol=0, atol=1e-4)
    assert found.labels.tolist() == expected.labels.tolist()
    torch.testing.assert_close(found.boxes, expected.boxes, rtol=0, atol=tolerance)
