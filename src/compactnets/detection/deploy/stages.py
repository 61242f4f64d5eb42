"""The exported stages of a detector: its convolutions. ``decoding`` picks boxes between them.

torchvision's own ``forward`` takes lists of images of any size and branches on values, which torch's exporter cannot
trace (https://github.com/pytorch/vision/issues/9306). These stages take one resized image and reuse the detector's own
modules; all of them also run in PyTorch.

``batched`` of a stage gives the same with the axis of the images in front of every output: what ncnn, which has no such
axis, can express. For that, boxes are decoded without slices in steps.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.models.detection import FasterRCNN
from torchvision.models.detection._utils import BoxCoder
from torchvision.models.detection.image_list import ImageList
from torchvision.models.detection.ssd import SSD

from compactnets.deploy.rewrite import fold_normalization, move_shuffles
from compactnets.detection.checkpoint import Detector, DetectorRecord, build_detector
from compactnets.detection.deploy.decoding import Decoding, clip
from compactnets.models.backbone import create_backbone


def deploy_detector(detector: Detector, record: DetectorRecord) -> FasterRCNN | SSD:
    """Return a copy for export, on the CPU and in evaluation mode, that computes the same up to rounding.

    Batch normalisation, frozen or not, is folded into convolutions, and the channel shuffles of MENet and ShuffleNet
    units are moved to where they are cheapest (:mod:`compactnets.deploy.rewrite`).
    """
    weights = {key: value.detach().cpu().float() for key, value in detector.state_dict().items()}
    # the detector's graphs no longer contain the network's units, so it is built again
    arguments = {key: value for key, value in record.arguments.items() if key != "pretrained"}
    network = create_backbone(record.model, arguments).eval()
    _load_part(network, {key.partition(".body.")[2]: value for key, value in weights.items() if ".body." in key})
    move_shuffles(network)
    # frozen and plain batch normalisation compute the same in evaluation; the plain one can be folded
    deployed: FasterRCNN | SSD = build_detector(record.model_copy(update={"frozen_batchnorm": False}), network).eval()
    _load_part(deployed, {key: value for key, value in weights.items() if ".body." not in key})
    if isinstance(deployed, SSD):
        parts = [deployed.backbone.levels.body, *deployed.backbone.extras]
    else:
        parts = [deployed.backbone.body, deployed.roi_heads.box_head.body]
    for part in parts:
        fold_normalization(part)
    return deployed.eval().requires_grad_(False)


def _load_part(module: nn.Module, weights: dict[str, Tensor]) -> None:
    unknown = module.load_state_dict(weights, strict=False).unexpected_keys
    assert not unknown, unknown


class _Normalize(nn.Module):
    mean: Tensor
    std: Tensor

    def __init__(self, detector: FasterRCNN | SSD) -> None:
        super().__init__()
        for name in ("mean", "std"):
            values = torch.tensor(getattr(detector.transform, f"image_{name}"))
            self.register_buffer(name, values.view(1, 3, 1, 1), persistent=False)

    def forward(self, images: Tensor) -> Tensor:
        return (images - self.mean) / self.std


class _Anchors(nn.Module):
    """Boxes that are known beforehand, (A, 4), as centres and sides (1, A, 2)."""

    centres: Tensor
    sides: Tensor

    def __init__(self, boxes: Tensor) -> None:
        super().__init__()
        sides = boxes[None, :, 2:] - boxes[None, :, :2]
        self.register_buffer("sides", sides.clone(), persistent=False)
        self.register_buffer("centres", boxes[None, :, :2] + sides / 2, persistent=False)


def decode(deltas: Tensor, centres: Tensor, sides: Tensor, coder: BoxCoder) -> Tensor:
    """Return the corners (..., 4) of boxes, as torchvision's ``BoxCoder.decode_single`` does.

    Args:
        deltas: (..., 4): of the centre and of the logarithm of the sides.
        centres: (..., 2): of the boxes that the deltas refer to.
        sides: (..., 2): theirs.
        coder: its weights and limit.
    """
    at, scale = (deltas.new_tensor(each) for each in (coder.weights[:2], coder.weights[2:]))
    middle = deltas[..., :2] * (sides / at) + centres
    half = torch.exp(torch.clamp(deltas[..., 2:] / scale, max=coder.bbox_xform_clip)) * (sides / 2)
    return torch.cat([middle - half, middle + half], -1)


class SSDHeads(nn.Module):
    """SSD without box decoding: images (1, 3, S, S) from 0 to 1 -> scores (A, C + 1) and boxes (A, 4).

    The scores are probabilities, of the background first; the boxes are in pixels and clipped to the image.
    """

    def __init__(self, detector: SSD) -> None:
        super().__init__()
        self.normalize, self.backbone, self.head = _Normalize(detector), detector.backbone, detector.head
        self.coder, (self.size, _) = detector.box_coder, detector.transform.fixed_size
        blank = torch.zeros(1, 3, self.size, self.size)
        with torch.inference_mode():
            maps = list(detector.eval().backbone(blank).values())
            (anchors,) = detector.anchor_generator(ImageList(blank, [(self.size, self.size)]), maps)
        self.anchors = _Anchors(anchors)

    def batched(self, images: Tensor) -> tuple[Tensor, Tensor]:
        found = self.head(list(self.backbone(self.normalize(images)).values()))
        boxes = decode(found["bbox_regression"], self.anchors.centres, self.anchors.sides, self.coder)
        return found["cls_logits"].softmax(-1), boxes.clamp(0, self.size)  # the image is square

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        scores, boxes = self.batched(images)
        return scores[0], boxes[0]


class RegionHeads(nn.Module):
    """The first half of Faster R-CNN: images (1, 3, H, W) -> features, objectness (A,) and boxes (A, 4).

    The features are (1, C, h, w); objectness is from 0 to 1; the boxes are in pixels and clipped to the image.

    Args:
        detector: the detector.
        stride: of its features.
        size: height and width of the images, if they are all alike.
    """

    limit: Tensor

    def __init__(self, detector: FasterRCNN, stride: int, size: tuple[int, int] | None = None) -> None:
        super().__init__()
        self.normalize, self.backbone, self.head = _Normalize(detector), detector.backbone, detector.rpn.head
        self.coder, self.generator = detector.rpn.box_coder, detector.rpn.anchor_generator
        self.stride, self.multiple = stride, detector.transform.size_divisible
        self.size, self.anchors = size, None
        if size is not None:
            with torch.inference_mode():
                features = self.backbone(self._pad(torch.zeros(1, 3, *size)))
            self.anchors = self._anchors(features)
            self.register_buffer("limit", torch.tensor([*size[::-1], *size[::-1]]).float(), persistent=False)

    def _pad(self, images: Tensor) -> Tensor:
        height, width = self.size or images.shape[-2:]  # a known size is plain numbers, also while tracing
        return F.pad(images, (0, -width % self.multiple, 0, -height % self.multiple))

    def _anchors(self, features: Tensor) -> _Anchors:
        rows, columns = features.shape[-2:]
        (boxes,) = self.generator.grid_anchors([(rows, columns)], [(self.stride, self.stride)])
        return _Anchors(boxes)

    def batched(self, images: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        features = self.backbone(self._pad(self.normalize(images)))
        (objectness,), (deltas,) = self.head([features])  # (1, A, h, w) and (1, 4 A, h, w), A of a cell
        anchors = self._anchors(features) if self.anchors is None else self.anchors
        deltas = deltas.permute(0, 2, 3, 1).reshape(1, -1, 4)
        boxes = decode(deltas, anchors.centres, anchors.sides, self.coder)
        boxes = clip(boxes, *images.shape[-2:]) if self.anchors is None else boxes.clamp(min=0).minimum(self.limit)
        return features, objectness.permute(0, 2, 3, 1).reshape(1, -1).sigmoid(), boxes

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        features, objectness, boxes = self.batched(images)
        return features, objectness[0], boxes[0]


class BoxHeads(nn.Module):
    """The second half: regions (R, C, S, S) and proposals (R, 4) -> scores (R, C + 1) and boxes (R, C + 1, 4).

    The scores are probabilities, of the background first; the boxes are in pixels and not clipped.
    """

    def __init__(self, detector: FasterRCNN) -> None:
        super().__init__()
        heads = detector.roi_heads
        self.subnet, self.predictor, self.coder = heads.box_head, heads.box_predictor, heads.box_coder

    def batched(self, regions: Tensor, proposals: Tensor) -> tuple[Tensor, Tensor]:
        logits, deltas = self.predictor(self.subnet(regions))
        boxes = proposals.unsqueeze(1)  # for every class
        sides = boxes[..., 2:] - boxes[..., :2]
        found = decode(deltas.unflatten(-1, (-1, 4)), boxes[..., :2] + sides / 2, sides, self.coder)
        return logits.softmax(-1), found

    forward = batched


class Whole(nn.Module):
    """All stages: images (1, 3, H, W) from 0 to 1 -> boxes (K, 4) in pixels, labels (K,) from 0 and scores (K,)."""

    def __init__(self, detector: FasterRCNN | SSD, decoding: Decoding, size: tuple[int, int] | None = None) -> None:
        super().__init__()
        self.decoding = decoding
        if decoding.proposals is None:
            self.heads: nn.Module = SSDHeads(detector)
        else:
            self.regions, self.heads = RegionHeads(detector, decoding.stride, size), BoxHeads(detector)

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        if self.decoding.proposals is None:
            return self.decoding.pick_anchors(*self.heads(images))
        features, objectness, boxes = self.regions(images)
        proposals = self.decoding.propose(objectness, boxes)
        found = self.heads(self.decoding.pool(features, proposals), proposals)
        return self.decoding.pick_boxes(*found, *images.shape[-2:])
