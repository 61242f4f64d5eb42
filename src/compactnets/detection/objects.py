"""The objects of an image: annotated ones and detected ones.

Coordinates are pixels of the upright image, continuous: pixel number i covers [i, i + 1). The box of Pascal
VOC that begins and ends at its first pixel (xmin = xmax = 1) is [0, 1), so that areas and overlaps are those of the
VOC development kit, which adds one to every length.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Objects:
    """The N annotated objects of one image, in the order of its file.

    Attributes:
        boxes: (N, 4) float32: left, top, right, bottom.
        labels: (N,) int64, indices into the source's class names.
        difficult: (N,) bool: finding it is neither right nor wrong (Pascal VOC).
        crowd: (N,) bool: a group of objects in one box (COCO's ``iscrowd``).
        areas: (N,) float32, square pixels: of the mask if annotated (COCO), otherwise of the box.
    """

    boxes: Tensor
    labels: Tensor
    difficult: Tensor
    crowd: Tensor
    areas: Tensor

    def __len__(self) -> int:
        return len(self.labels)

    def pick(self, keep: Tensor) -> Objects:
        """Return the objects that ``keep`` (a mask or indices) chooses."""
        return Objects(*(getattr(self, name)[keep] for name in self.__dataclass_fields__))


def no_objects() -> Objects:
    """Return the objects of an image that has none."""
    empty = torch.zeros(0, dtype=torch.bool)
    return Objects(torch.zeros(0, 4), torch.zeros(0, dtype=torch.int64), empty, empty, torch.zeros(0))


@dataclass(frozen=True)
class Detections:
    """The N objects that a detector finds in one image, best first.

    Attributes:
        boxes: (N, 4) float32: left, top, right, bottom, in pixels of the given image.
        labels: (N,) int64, indices into the class names.
        scores: (N,) float32, from 0 to 1.
    """

    boxes: Tensor
    labels: Tensor
    scores: Tensor

    def __len__(self) -> int:
        return len(self.labels)

    def above(self, score: float) -> Detections:
        """Return those whose score is at least ``score``."""
        keep = self.scores >= score
        return Detections(self.boxes[keep], self.labels[keep], self.scores[keep])
