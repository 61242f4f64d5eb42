"""Box decoding: pick boxes from a detector's raw outputs, with parameters that the record stores.

This code is the reference for raw artifacts, and artifacts with decoding inside are traced from it.
"""

from __future__ import annotations

import torch
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor
from torch.nn import functional as F
from torchvision.models.detection import FasterRCNN
from torchvision.models.detection.ssd import SSD
from torchvision.ops import roi_align

from compactnets.detection.checkpoint import DetectorRecord
from compactnets.detection.deploy.suppression import suppress

LEAST_PROPOSAL, LEAST_BOX = 1e-3, 1e-2  # pixels: sides below which torchvision's Faster R-CNN drops boxes
DROPPED = -1.0  # a score below any threshold


class Decoding(BaseModel):
    """Parameters of box decoding in the order of use; those from ``proposals`` on are Faster R-CNN's."""

    model_config = ConfigDict(extra="forbid")

    score: float = Field(description="detections have a score above this")
    candidates: int | None = Field(None, description="SSD: best boxes of a class that enter suppression")
    overlap: float = Field(description="IoU above which the weaker of two boxes of a class is suppressed")
    class_agnostic: bool = Field(False, description="boxes of other classes suppress a box, too")
    detections: int = Field(description="largest number of detections, over all classes")
    proposals: int | None = Field(None, description="largest number of boxes for the second stage")
    proposal_candidates: int = Field(0, description="best boxes of the first stage that enter suppression")
    proposal_overlap: float = Field(0, description="the same as overlap, for proposals, without classes")
    stride: int = Field(0, description="pixels of the input for a cell of the features: RoIAlign's scale is 1 / stride")
    roi_size: int = Field(0, description="cells per side of RoIAlign's output")
    sampling_ratio: int = Field(
        0, description="RoIAlign's points along each side of a cell; not aligned by half a pixel"
    )

    @classmethod
    def of(cls, detector: FasterRCNN | SSD, record: DetectorRecord) -> Decoding:
        """Return the parameters of a detector."""
        if isinstance(detector, SSD):
            return cls(
                score=detector.score_thresh,
                candidates=detector.topk_candidates,
                overlap=detector.nms_thresh,
                class_agnostic=bool(getattr(detector, "class_agnostic_nms", False)),
                detections=detector.detections_per_img,
            )
        rpn, heads = detector.rpn, detector.roi_heads
        assert record.faster_rcnn is not None
        return cls(
            score=heads.score_thresh,
            overlap=heads.nms_thresh,
            class_agnostic=record.faster_rcnn.class_agnostic_nms,
            detections=heads.detections_per_img,
            proposals=rpn._post_nms_top_n["testing"],
            proposal_candidates=rpn._pre_nms_top_n["testing"],
            proposal_overlap=rpn.nms_thresh,
            stride=record.faster_rcnn.stride,
            roi_size=record.faster_rcnn.roi_size,
            sampling_ratio=heads.box_roi_pool.sampling_ratio,
        )

    def pick_anchors(self, scores: Tensor, boxes: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return SSD's detections, best first: boxes (K, 4), labels (K,) from 0 and scores (K,).

        Args:
            scores: (A, C + 1), the background first.
            boxes: (A, 4).
        """
        assert self.candidates is not None
        best, places = scores[:, 1:].T.topk(min(self.candidates, len(boxes)))  # (C, N)
        chosen = boxes[places]  # (C, N, 4)
        return self._suppress(chosen, best)

    def propose(self, objectness: Tensor, boxes: Tensor) -> Tensor:
        """Return Faster R-CNN's proposals (R, 4) among objectness (A,) and boxes (A, 4), best first."""
        assert self.proposals is not None
        # the number of boxes may be dynamic while tracing: Python's min would fix it
        best, places = objectness.topk(torch.sym_min(self.proposal_candidates, boxes.shape[0]))
        chosen = boxes[places]
        scores = _drop_small(chosen, best, LEAST_PROPOSAL)
        kept = suppress(chosen[None], scores[None], self.proposal_overlap, DROPPED / 2, self.proposals)
        return chosen[kept[:, 1]]

    def pool(self, features: Tensor, proposals: Tensor) -> Tensor:
        """Return the regions (R, C, S, S) of features (1, C, h, w) under proposals (R, 4)."""
        boxes = F.pad(proposals, (1, 0))  # the first column is the number of the image
        size = (self.roi_size, self.roi_size)
        regions: Tensor = roi_align(features, boxes, size, 1 / self.stride, self.sampling_ratio, aligned=False)
        return regions

    def pick_boxes(self, scores: Tensor, boxes: Tensor, height: int, width: int) -> tuple[Tensor, Tensor, Tensor]:
        """Return Faster R-CNN's detections, best first: boxes (K, 4), labels (K,) from 0 and scores (K,).

        Args:
            scores: (R, C + 1), the background first.
            boxes: (R, C + 1, 4).
            height: of the image, to which the boxes are clipped.
            width: of the image.
        """
        boxes = clip(boxes[:, 1:].transpose(0, 1), height, width)  # (C, R, 4)
        scores = _drop_small(boxes, scores[:, 1:].T, LEAST_BOX)
        return self._suppress(boxes, scores)

    def _suppress(self, boxes: Tensor, scores: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Suppress boxes (C, N, 4) with scores (C, N), per class or over all; return the rest, best first."""
        if self.class_agnostic:
            classes = torch.arange(scores.shape[0])[:, None].expand_as(scores).flatten()
            boxes, scores = boxes.flatten(0, 1), scores.flatten()
            index = suppress(boxes[None], scores[None], self.overlap, self.score, self.detections)[:, 1]
            return boxes[index], classes[index], scores[index]
        labels, index = suppress(boxes, scores, self.overlap, self.score, self.detections).unbind(1)
        return boxes[labels, index], labels, scores[labels, index]


def clip(boxes: Tensor, height: int, width: int) -> Tensor:
    """Clip boxes (..., 4) to an image."""
    across, down = boxes[..., 0::2].clamp(0, width), boxes[..., 1::2].clamp(0, height)
    return torch.stack([across, down], -1).flatten(-2)


def _drop_small(boxes: Tensor, scores: Tensor, least: float) -> Tensor:
    """Return scores (...), set below any threshold if a box (..., 4) is too small."""
    sides = boxes[..., 2:] - boxes[..., :2]
    return torch.where((sides >= least).all(-1), scores, DROPPED)
