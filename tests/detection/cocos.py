"""COCO's evaluation as faster-coco-eval has it, without torchmetrics in between."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest

from tests.detection.scenes import Image

faster_coco_eval = pytest.importorskip("faster_coco_eval")


def coco_evaluation(images: Sequence[Image], classes: int) -> Any:
    """Return the evaluation, not run yet; difficult objects and crowds are crowds."""
    annotations, results = [], []
    for number, (found, there) in enumerate(images):
        for i in range(len(there)):
            left, top, right, bottom = there.boxes[i].tolist()
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": number,
                    "category_id": int(there.labels[i]),
                    "bbox": [left, top, right - left, bottom - top],
                    "area": float(there.areas[i]),
                    "iscrowd": int(there.crowd[i] | there.difficult[i]),
                }
            )
        for i in range(len(found)):
            left, top, right, bottom = found.boxes[i].tolist()
            results.append(
                {
                    "image_id": number,
                    "category_id": int(found.labels[i]),
                    "bbox": [left, top, right - left, bottom - top],
                    "score": float(found.scores[i]),
                }
            )
    given = faster_coco_eval.COCO(
        {
            "images": [{"id": number} for number in range(len(images))],
            "annotations": annotations,
            "categories": [{"id": label, "name": str(label)} for label in range(classes)],
        }
    )
    return faster_coco_eval.COCOeval_faster(given, given.loadRes(results), "bbox")


def coco_precision(
    images: Sequence[Image], classes: int, overlaps: Sequence[float], recalls: Sequence[float]
) -> np.ndarray:
    """Return precision (overlaps, recalls, classes, areas, numbers of detections), -1 where there are no objects."""
    evaluation = coco_evaluation(images, classes)
    evaluation.params.iouThrs, evaluation.params.recThrs = np.array(overlaps), np.array(recalls)
    evaluation.evaluate()
    evaluation.accumulate()
    return np.asarray(evaluation.eval["precision"])
