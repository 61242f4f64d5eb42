"""Average precision as COCO defines it, through torchmetrics and faster-coco-eval."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from compactnets.detection.objects import Detections, Objects
from compactnets.errors import missing_extra

# COCO's own doubles: torchmetrics' defaults are rounded to float32, which turns an overlap of exactly 0.6 into a miss
IOU_THRESHOLDS = np.linspace(0.5, 0.95, 10).tolist()
RECALLS = np.linspace(0, 1, 101).tolist()
DETECTIONS = (1, 10, 100)  # per image and class, from the highest score down; average precision uses the last


@dataclass(frozen=True)
class CocoScores:
    """COCO's metrics, in percent; ``None`` without any object.

    Attributes:
        ap: mean over IoU 0.50, 0.55, … 0.95 and over the classes that have objects.
        ap50: at IoU 0.50.
        ap75: at IoU 0.75.
        ap_small: of objects of less than 32 x 32 pixels.
        ap_medium: of objects between 32 x 32 and 96 x 96 pixels.
        ap_large: of larger objects.
    """

    ap: float | None
    ap50: float | None
    ap75: float | None
    ap_small: float | None
    ap_medium: float | None
    ap_large: float | None


def require_coco() -> None:
    """Check that COCO's metrics can be computed here.

    Raises:
        InputError: torchmetrics or faster-coco-eval is not installed.
    """
    for module, package in (("torchmetrics", "torchmetrics"), ("faster_coco_eval", "faster-coco-eval")):
        if importlib.util.find_spec(module) is None:
            raise missing_extra(package, "detection", "COCO's average precision")


def coco_scores(
    images: Iterable[tuple[Detections, Objects]], num_classes: int
) -> tuple[CocoScores, list[float | None]]:
    """Compute COCO's metrics over images, and the average precision of each class.

    Lin et al., "Microsoft COCO", ECCV 2014, and ``cocoeval.py`` of its API. An area is :attr:`Objects.areas`. COCO has
    no difficult objects: one is passed as a crowd, COCO's region in which detections do not count. The overlap with a
    crowd is relative to the detection's area, so it may contain several detections, small ones too.

    Args:
        images: detections and objects of every image; equal scores keep their order.
        num_classes: number of classes.

    Returns:
        The metrics, and the ``ap`` of every class (num_classes,) in percent, ``None`` for a class without objects.

    Raises:
        InputError: torchmetrics or faster-coco-eval is not installed.
    """
    require_coco()
    from torchmetrics.detection import MeanAveragePrecision

    metric = MeanAveragePrecision(
        iou_thresholds=IOU_THRESHOLDS,
        rec_thresholds=RECALLS,
        max_detection_thresholds=list(DETECTIONS),
        extended_summary=True,
        backend="faster_coco_eval",
    )
    metric.warn_on_many_detections = False  # COCO's cap is part of its definition
    any_objects = False
    for detections, objects in images:
        # in float64, as everything in COCO's own evaluation
        found = {"boxes": detections.boxes.double(), "scores": detections.scores, "labels": detections.labels}
        there = {
            "boxes": objects.boxes.double(),
            "labels": objects.labels,
            "iscrowd": (objects.crowd | objects.difficult).long(),
            "area": objects.areas,
        }
        metric.update([found], [there])
        any_objects = any_objects or len(objects) > 0
    if not any_objects:
        return CocoScores(*[None] * 6), [None] * num_classes
    result = metric.compute()
    # (overlaps, recalls, classes, areas) at the last number of detections; -1 where no object counts
    precision = result["precision"][..., -1]
    present = result["classes"].flatten().tolist()  # a single class comes without its dimension
    of_class = dict(zip(present, precision[..., 0].unbind(dim=2), strict=True))
    scores = CocoScores(
        ap=_mean(precision[..., 0]),
        ap50=_mean(precision[0, ..., 0]),
        ap75=_mean(precision[5, ..., 0]),
        ap_small=_mean(precision[..., 1]),
        ap_medium=_mean(precision[..., 2]),
        ap_large=_mean(precision[..., 3]),
    )
    return scores, [_mean(of_class[label]) if label in of_class else None for label in range(num_classes)]


def _mean(precision: Tensor) -> float | None:
    """Return the mean of those that are not -1, in percent."""
    counted = precision[precision > -1]
    return 100 * float(torch.mean(counted)) if len(counted) else None
