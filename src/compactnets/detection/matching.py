"""Match the detections of an image with its objects: right, wrong and missed."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torchvision.ops import box_iou

from compactnets.detection.objects import Detections, Objects


@dataclass(frozen=True)
class Matches:
    """The verdicts on the N detections and M objects of one image.

    A detection that is neither right nor wrong found an ignored object.

    Attributes:
        right: (N,) bool: the first to find its object.
        wrong: (N,) bool: it finds no object, or one that was already found.
        missed: (M,) bool: objects that count but were not found.
    """

    right: Tensor
    wrong: Tensor
    missed: Tensor

    @property
    def f1(self) -> float:
        """Harmonic mean of precision and recall, from 0 to 1; 1 if there is nothing to find and nothing is wrong."""
        right, errors = int(self.right.sum()), int(self.wrong.sum()) + int(self.missed.sum())
        return 2 * right / (2 * right + errors) if right or errors else 1.0


def match(detections: Detections, objects: Objects, iou_threshold: float = 0.5) -> Matches:
    """Judge the detections of one image as the development kit of Pascal VOC 2007 does (``VOCevaldet.m``).

    Each detection, from the highest score down, is assigned to the object of its class that it overlaps most, even if
    that one is already found; on a tie, to the first. It is right if the IoU reaches ``iou_threshold`` and the object
    is not found yet, and wrong if the object is found or the IoU is smaller. If the object is difficult, it is neither.
    VOC has no crowds: they count as difficult. Equal scores keep their order.

    COCO differs: it assigns to the best object that is still free.
    """
    ignored = objects.difficult | objects.crowd
    found = torch.zeros(len(objects), dtype=torch.bool)
    right = torch.zeros(len(detections), dtype=torch.bool)
    if not len(detections) or not len(objects):
        return Matches(right, ~right, ~(found | ignored))
    # in float64, as the kit computes: an overlap of exactly one half must not be rounded below it
    overlaps = box_iou(detections.boxes.double(), objects.boxes.double())
    overlaps[detections.labels[:, None] != objects.labels] = 0
    nearest = torch.from_numpy(overlaps.numpy().argmax(axis=1))  # torch's own does not guarantee the first of equals
    near = overlaps.gather(1, nearest[:, None])[:, 0] >= iou_threshold
    candidates = near & ~ignored[nearest]
    best_first = detections.scores.argsort(descending=True, stable=True)
    best_first = best_first[candidates[best_first]]
    _, first_of_object = np.unique(nearest[best_first].numpy(), return_index=True)
    right[best_first[first_of_object]] = True
    found[nearest[right]] = True
    return Matches(right, ~near | (candidates & ~right), ~(found | ignored))
