"""Non-maximum suppression of all classes at once, as a single operator that ONNX also has.

torchvision's ``batched_nms`` offsets the boxes of each class, which costs accuracy and, when traced, many nodes. ONNX's
``NonMaxSuppression`` supports classes. So this is a custom operator: in PyTorch it calls torchvision class by class,
and :func:`translations` tells torch's exporter how to write it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torchvision.ops import nms


@torch.library.custom_op("compactnets::suppress", mutates_args=())
def suppress(boxes: Tensor, scores: Tensor, overlap: float, score: float, limit: int) -> Tensor:
    """Return the remaining boxes, best first: (K, 2) int64, class and index.

    Args:
        boxes: (C, N, 4) float32: left, top, right, bottom, for each of C classes.
        scores: (C, N) float32.
        overlap: IoU above which the weaker of two boxes of a class is suppressed.
        score: boxes without a higher score are dropped.
        limit: largest K.
    """
    kept = []
    for label, (own, values) in enumerate(zip(boxes, scores, strict=True)):
        candidates = (values > score).nonzero().flatten()
        left = candidates[nms(own[candidates], values[candidates], overlap)]
        kept.append(torch.stack([torch.full_like(left, label), left], 1))
    found = torch.cat(kept)
    return found[scores[found[:, 0], found[:, 1]].sort(descending=True, stable=True).indices[:limit]]


@suppress.register_fake
def _(boxes: Tensor, scores: Tensor, overlap: float, score: float, limit: int) -> Tensor:
    return boxes.new_empty(torch.library.get_ctx().new_dynamic_size(), 2, dtype=torch.int64)


def translations() -> dict[Callable[..., Any], Callable[..., Any]]:
    """Return the ``custom_translation_table`` of ``torch.onnx.export`` for the operators of detectors.

    RoIAlign is included because onnxscript's own translation, before 0.6.3, does not accept torchvision's arguments
    (https://github.com/microsoft/onnxscript/pull/2830).
    """
    from onnxscript import opset18

    op: Any = opset18  # its stubs tell the element type of no result, and so refuse one operator's result to the next

    def write_suppress(boxes: Any, scores: Any, overlap: float, score: float, limit: int) -> Any:
        most = op.Constant(value_ints=[limit])
        kept = op.NonMaxSuppression(
            boxes,
            op.Unsqueeze(scores, op.Constant(value_ints=[1])),  # the classes are its batch: each has its own boxes
            most,
            op.Constant(value_floats=[overlap]),
            op.Constant(value_floats=[score]),
        )
        places = op.Gather(kept, op.Constant(value_ints=[0, 2]), axis=1)
        values = op.GatherND(scores, places)
        _, order = op.TopK(values, op.Min(op.Shape(values), most))
        return op.Gather(places, order, axis=0)

    def write_roi_align(
        features: Any, boxes: Any, scale: float, height: int, width: int, ratio: int, aligned: bool
    ) -> Any:
        ends = [op.Constant(value_ints=[end]) for end in (1, 5)]
        return op.RoiAlign(
            features,
            op.Slice(boxes, *ends, ends[0]),
            op.Cast(op.Gather(boxes, op.Constant(value_int=0), axis=1), to=7),  # INT64: the image of each box
            coordinate_transformation_mode="half_pixel" if aligned else "output_half_pixel",
            spatial_scale=scale,
            output_height=height,
            output_width=width,
            sampling_ratio=ratio,
        )

    return {
        torch.ops.compactnets.suppress.default: write_suppress,
        torch.ops.torchvision.roi_align.default: write_roi_align,
    }
