"""Small detectors that are not trained and yet find things: their last layers are scaled on a photograph."""

from __future__ import annotations

import torch
from sklearn.datasets import load_sample_images
from torch import Tensor, nn

from compactnets.detection.checkpoint import Detector, DetectorRecord, build_detector
from compactnets.detection.recipe import FasterRCNNSettings, SSDSettings
from compactnets.models.backbone import create_backbone

SMALLEST = "test_efficientnet"  # of timm: few layers, so that it is traced soon
CLASS_NAMES = ["cat", "dog", "bird"]
SETTINGS = {
    "ssd": SSDSettings(size=64, strides=(16, 32), extra_channels=(16,), score=0.2, detections=40),
    "faster_rcnn": FasterRCNNSettings(
        shorter_side=64,
        longer_side=96,
        anchor_sizes=(16, 32),
        proposals_test=20,
        roi_size=3,
        score=0.2,
        detections=30,
    ),
}
SPREAD = {"bbox": 0.3, "": 1.5}  # standard deviations of boxes' deltas and of logits


def photograph() -> Tensor:
    """Return (3, 427, 640) float32 from 0 to 1."""
    return torch.from_numpy(load_sample_images().images[0].copy()).permute(2, 0, 1).float() / 255


def lively_detector(kind: str, model: str = SMALLEST) -> tuple[Detector, DetectorRecord]:
    """Return a small detector in evaluation mode whose detections differ from place to place."""
    record = DetectorRecord(
        detector=kind,
        model=model,
        arguments={},
        frozen_batchnorm=True,
        class_names=CLASS_NAMES,
        source="a test",
        license="none",
        **{kind: SETTINGS[kind]},
    )
    torch.manual_seed(0)
    network = create_backbone(model, {})
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = None  # the mean over all batches
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.normal_(module.bias, std=0.3)
    with torch.no_grad():
        network.train()(torch.nn.functional.interpolate(photograph().unfold(2, 427, 71).permute(2, 0, 1, 3), 96))
        detector = build_detector(record, network).eval()
        handles = [
            module.register_forward_hook(lambda layer, _, out, name=name: _scale(layer, out, name))
            for name, module in detector.named_modules()
            if isinstance(module, nn.Conv2d | nn.Linear) and name.startswith(("head.", "rpn.", "roi_heads.box_pred"))
        ]
        detector([photograph()])
        for handle in handles:
            handle.remove()
    return detector, record


def _scale(layer: nn.Conv2d | nn.Linear, out: Tensor, name: str) -> Tensor:
    """Give each output of a layer mean 0 and a spread over the places of one image."""
    rest = [axis for axis in range(out.ndim) if axis != (1 if out.ndim == 4 else out.ndim - 1)]
    spread = next(value for key, value in SPREAD.items() if key in name or "regression" in name)
    assert layer.bias is not None
    std = out.std(rest) if out.numel() > out.shape[-3 if out.ndim == 4 else -1] else torch.ones_like(layer.bias)
    factor, mean = spread / std.clamp(min=1e-6), out.mean(rest)
    layer.weight *= factor.view(-1, *[1] * (layer.weight.ndim - 1))
    layer.bias.copy_((layer.bias - mean) * factor)
    shape = (-1, 1, 1) if out.ndim == 4 else (-1,)
    return (out - mean.view(shape)) * factor.view(shape)
