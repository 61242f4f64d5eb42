"""The two detectors, as torchvision builds them, on any backbone.

* **Faster R-CNN** (MENet, section IV-B): stem and stages up to stride 16 give the map for the region proposal network
  and RoIAlign; the last stage, with all its strides 1, is the R-CNN subnet, followed by pooling and the two heads.
* **SSD** (MuffNet, section 5.4, which takes SSD512 from GluonCV): levels of the network and extra layers behind them,
  a head for classes and one for boxes on each.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from timm.data import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD
from torch import Tensor, fx, nn
from torch.nn import functional as F
from torchvision.models.detection import FasterRCNN
from torchvision.models.detection.anchor_utils import AnchorGenerator, DefaultBoxGenerator
from torchvision.models.detection.faster_rcnn import FastRCNNPredictor
from torchvision.models.detection.roi_heads import RoIHeads
from torchvision.models.detection.ssd import SSD, SSDHead
from torchvision.ops import MultiScaleRoIAlign, nms

from compactnets.detection.recipe import FasterRCNNSettings, SSDSettings
from compactnets.errors import InputError
from compactnets.models.backbone import (
    Level,
    Levels,
    freeze_batchnorm,
    levels_of,
    pick_levels,
    remove_strides,
    split,
)
from compactnets.nn import ConvNormAct


@dataclass(frozen=True)
class Maps:
    """A readable description of a detector's maps and the anchors of each cell."""

    names: tuple[str, ...]
    sizes: tuple[int, ...]  # cells a side of a square image of the detector's size
    channels: tuple[int, ...]
    anchors: tuple[tuple[tuple[int, int], ...], ...]  # width and height of the anchors of a cell, scaled pixels

    def __str__(self) -> str:
        lines = []
        for name, size, channels, anchors in zip(self.names, self.sizes, self.channels, self.anchors, strict=True):
            boxes = ", ".join(f"{width}x{height}" for width, height in anchors)
            lines.append(f"{name}: {size} x {size}, {channels} channels, anchors {boxes}")
        return "\n".join(lines)


class Base(nn.Module):
    """The network up to a level: (N, 3, H, W) -> (N, out_channels, H / reduction, W / reduction)."""

    def __init__(self, body: fx.GraphModule, level: Level) -> None:
        super().__init__()
        self.body, self.out_channels, self.reduction = body, level.channels, level.reduction

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.body(x)
        return y


class Subnet(nn.Module):
    """The last stage and global pooling: (R, C, S, S) of R boxes -> (R, out_channels)."""

    def __init__(self, body: fx.GraphModule, out_channels: int) -> None:
        super().__init__()
        self.body, self.out_channels = body, out_channels

    def forward(self, x: Tensor) -> Tensor:
        pooled: Tensor = self.body(x).mean((2, 3))
        return pooled


def build_faster_rcnn(
    model: nn.Module, name: str, num_classes: int, settings: FasterRCNNSettings, *, frozen_batchnorm: bool
) -> FasterRCNN:
    """Build Faster R-CNN on a classification network, without its classifier.

    Args:
        model: the network with its weights; it must not be used afterwards.
        name: its name in errors.
        num_classes: of objects, without the background.

    Raises:
        InputError: a network without the level, or that cannot be cut there.
    """
    levels = levels_of(model, name)
    (at,) = pick_levels(levels, [settings.stride], name)
    if frozen_batchnorm:
        model = freeze_batchnorm(model)
    base, rest = split(model, at, name)
    remove_strides(rest, at.channels, name)
    detector = FasterRCNN(
        Base(base, at),
        rpn_anchor_generator=AnchorGenerator((settings.anchor_sizes,), (settings.anchor_ratios,)),
        box_roi_pool=MultiScaleRoIAlign(["0"], output_size=settings.roi_size, sampling_ratio=2),
        box_head=Subnet(rest, levels[-1].channels),
        box_predictor=FastRCNNPredictor(levels[-1].channels, num_classes + 1),
        min_size=settings.shorter_side,
        max_size=settings.longer_side,
        image_mean=list(IMAGENET_DEFAULT_MEAN),
        image_std=list(IMAGENET_DEFAULT_STD),
        rpn_pre_nms_top_n_train=6 * settings.proposals_train,  # as the original: 12,000 -> 2,000 and 6,000 -> 300
        rpn_pre_nms_top_n_test=20 * settings.proposals_test,
        rpn_post_nms_top_n_train=settings.proposals_train,
        rpn_post_nms_top_n_test=settings.proposals_test,
        box_batch_size_per_image=settings.rois_per_image,
        box_score_thresh=settings.score,
        box_nms_thresh=settings.nms,
        box_detections_per_img=settings.detections,
    )
    if settings.class_agnostic_nms:
        detector.roi_heads.__class__ = (
            ClassAgnosticRoIHeads  # torchvision builds this itself; the subclass adds no state
        )
    return detector


class ClassAgnosticRoIHeads(RoIHeads):
    """torchvision's, but a box is also suppressed by a better one of another class."""

    def postprocess_detections(self, *arguments: Any) -> tuple[list[Tensor], list[Tensor], list[Tensor]]:
        """Return boxes (K, 4), scores (K,) and labels (K,) of each image."""
        with _without_suppression(self) as (overlap, limit):
            found = super().postprocess_detections(*arguments)
        keep = [nms(boxes, scores, overlap)[:limit] for boxes, scores, _ in zip(*found, strict=True)]
        boxes, scores, labels = ([one[kept] for one, kept in zip(values, keep, strict=True)] for values in found)
        return boxes, scores, labels


@contextmanager
def _without_suppression(chooser: Any) -> Iterator[tuple[float, int | None]]:
    """Disable torchvision's suppression; yield its threshold and its number of detections."""
    overlap, limit = chooser.nms_thresh, chooser.detections_per_img
    chooser.nms_thresh, chooser.detections_per_img = 1.0, None
    try:
        yield overlap, limit
    finally:
        chooser.nms_thresh, chooser.detections_per_img = overlap, limit


class BalancedSSD(SSD):
    """torchvision's SSD, but images without objects also contribute to training.

    torchvision and the original use the hardest anchors of an image as negatives, a fixed number per positive, so an
    image without objects adds nothing to the loss. Here each image has at least ``least_negatives``, like GluonCV's
    ``min_hard_negatives``, and counts in the mean as if it had the corresponding positives. If every image has enough
    positives, the loss equals torchvision's.
    """

    least_negatives: int = 0
    class_agnostic_nms: bool = False

    def postprocess_detections(self, *arguments: Any) -> list[dict[str, Tensor]]:
        """Return ``boxes`` (K, 4), ``scores`` (K,) and ``labels`` (K,) of each image."""
        if not self.class_agnostic_nms:
            return list(super().postprocess_detections(*arguments))
        with _without_suppression(self) as (overlap, limit):
            found = super().postprocess_detections(*arguments)
        keep = [nms(one["boxes"], one["scores"], overlap)[:limit] for one in found]
        return [{key: value[kept] for key, value in one.items()} for one, kept in zip(found, keep, strict=True)]

    def compute_loss(
        self,
        targets: list[dict[str, Tensor]],
        head_outputs: dict[str, Tensor],
        anchors: list[Tensor],
        matched_idxs: list[Tensor],
    ) -> dict[str, Tensor]:
        """Return the losses of B images, of boxes and of classes, for each positive anchor.

        Args:
            targets: boxes (N, 4) and labels (N,) of each image.
            head_outputs: ``bbox_regression`` (B, A, 4) and ``cls_logits`` (B, A, C + 1).
            anchors: (A, 4) of each image.
            matched_idxs: (A,) of each image: the object of an anchor, or a negative number.
        """
        logits, deltas = head_outputs["cls_logits"], head_outputs["bbox_regression"]
        matches = torch.stack(list(matched_idxs))  # (B, A)
        positive = matches >= 0
        labels, box_losses = torch.zeros_like(matches), []
        for number, (target, own) in enumerate(zip(targets, anchors, strict=True)):
            chosen = positive[number]
            of_object = matches[number][chosen]
            labels[number, chosen] = target["labels"][of_object]
            wanted = self.box_coder.encode_single(target["boxes"][of_object], own[chosen])
            box_losses.append(F.smooth_l1_loss(deltas[number][chosen], wanted, reduction="sum"))
        losses = F.cross_entropy(logits.flatten(0, 1), labels.flatten(), reduction="none").view_as(labels)
        positives = positive.sum(1)
        most = (self.neg_to_pos_ratio * positives).clamp(min=self.least_negatives)
        hardest = losses.detach().masked_fill(positive, -torch.inf).argsort(1, descending=True)
        negative = (hardest.argsort(1) < most[:, None]) & ~positive
        count = positives.clamp(min=self.least_negatives / self.neg_to_pos_ratio).sum().clamp(min=1)
        return {
            "bbox_regression": torch.stack(box_losses).sum() / count,
            "classification": losses[positive | negative].sum() / count,
        }


class Pyramid(nn.Module):
    """Levels of a network and extra layers: (N, 3, S, S) -> a dictionary of maps, largest first.

    An extra layer is a 1x1 convolution to half its channels and a 3x3 convolution of stride 2 (SSD, figure 2).
    """

    def __init__(self, model: nn.Module, levels: Sequence[Level], extra_channels: Sequence[int], name: str) -> None:
        super().__init__()
        self.levels = Levels(model, levels, name)
        self.out_channels = [level.channels for level in levels] + list(extra_channels)
        inputs = self.out_channels[len(levels) - 1 : -1]
        self.extras = nn.ModuleList(
            nn.Sequential(ConvNormAct(before, channels // 2, 1), ConvNormAct(channels // 2, channels, 3, stride=2))
            for before, channels in zip(inputs, extra_channels, strict=True)
        )

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        maps = self.levels(x)
        for extra in self.extras:
            maps.append(extra(maps[-1]))
        return {str(number): found for number, found in enumerate(maps)}


def build_ssd(model: nn.Module, name: str, num_classes: int, settings: SSDSettings, *, frozen_batchnorm: bool) -> SSD:
    """Build SSD on a classification network; see :func:`build_faster_rcnn`.

    Raises:
        InputError: levels that the network does not have, or extra layers that do not end at 1x1.
    """
    levels = pick_levels(levels_of(model, name), settings.strides, name)
    map_sizes(settings)
    if frozen_batchnorm:
        model = freeze_batchnorm(model)
    pyramid = Pyramid(model, levels, settings.extra_channels, name)
    generator = default_boxes(settings)
    head = SSDHead(pyramid.out_channels, generator.num_anchors_per_location(), num_classes + 1)
    detector = BalancedSSD(
        pyramid,
        generator,
        (settings.size, settings.size),
        num_classes + 1,
        image_mean=list(IMAGENET_DEFAULT_MEAN),
        image_std=list(IMAGENET_DEFAULT_STD),
        head=head,
        score_thresh=settings.score,
        nms_thresh=settings.nms,
        detections_per_img=settings.detections,
        iou_thresh=settings.overlap,
        topk_candidates=settings.candidates,
        positive_fraction=1 / (1 + settings.negatives),
    )
    detector.least_negatives = settings.least_negatives
    detector.class_agnostic_nms = settings.class_agnostic_nms
    return detector


def map_sizes(settings: SSDSettings) -> list[int]:
    """Return the cells a side of every map, largest first.

    Raises:
        InputError: the last map is not 1x1.
    """
    sizes = [-(-settings.size // stride) for stride in settings.strides]
    for _ in settings.extra_channels:
        sizes.append(-(-sizes[-1] // 2))
    needed = len(settings.extra_channels) + max(0, (sizes[-1] - 1).bit_length())
    if sizes[-1] != 1 or sizes.count(1) > 1:
        wanted = needed if sizes[-1] != 1 else len(settings.extra_channels) - sizes.count(1) + 1
        raise InputError(
            f"ssd: the maps of an image of {settings.size} pixels are {sizes} cells a side and must end at 1, once: "
            f"expected {wanted} extra_channels, found {len(settings.extra_channels)}"
        )
    return sizes


def anchor_scales(settings: SSDSettings, maps: int) -> list[float]:
    """Return the sizes of the square anchors of every map and of one after the last, as shares of the image.

    Evenly spaced (SSD, equation 4) unless the settings give them.

    Raises:
        InputError: the number of scales is not the number of maps plus one.
    """
    if settings.scales is not None:
        if len(settings.scales) != maps + 1:
            raise InputError(f"ssd: {maps} maps need {maps + 1} scales, found {len(settings.scales)}")
        return list(settings.scales)
    step = (settings.largest - settings.smallest) / max(1, maps - 1)
    return [*(settings.smallest + step * number for number in range(maps)), 1.0]


def default_boxes(settings: SSDSettings) -> DefaultBoxGenerator:
    """Return the anchors of SSD's maps.

    Raises:
        InputError: as :func:`map_sizes` and :func:`anchor_scales`.
    """
    sizes = map_sizes(settings)
    return DefaultBoxGenerator(
        [list(_ratios(settings, number)) for number in range(len(sizes))],
        scales=anchor_scales(settings, len(sizes)),
        steps=[-(-settings.size // size) for size in sizes],
    )


def describe_maps(detector: FasterRCNN | SSD) -> Maps:
    """Return the maps of a detector and the anchors of a cell of each."""
    if isinstance(detector, SSD):
        generator, pyramid = detector.anchor_generator, detector.backbone
        size = detector.transform.fixed_size[0]
        cells = [size // step for step in generator.steps]
        boxes = [(pairs * size).round().int().tolist() for pairs in generator._wh_pairs]
        levels = len(pyramid.levels.names)
        names = [*pyramid.levels.names, *(f"extra {number + 1}" for number in range(len(cells) - levels))]
        channels = pyramid.out_channels
    else:
        anchors = detector.rpn.anchor_generator.cell_anchors[0]
        boxes = [(anchors[:, 2:] - anchors[:, :2]).round().int().tolist()]
        cells = [detector.transform.min_size[0] // detector.backbone.reduction]
        names, channels = ["base"], [detector.backbone.out_channels]
    return Maps(
        tuple(names),
        tuple(cells),
        tuple(channels),
        tuple(tuple((int(width), int(height)) for width, height in found) for found in boxes),
    )


def _ratios(settings: SSDSettings, number: int) -> tuple[float, ...]:
    return settings.ratios[min(number, len(settings.ratios) - 1)]
