"""The two detectors: their maps and anchors, what they are built of, and what they refuse."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from compactnets.detection.detectors import (
    anchor_scales,
    build_faster_rcnn,
    build_ssd,
    describe_maps,
    map_sizes,
)
from compactnets.detection.recipe import FasterRCNNSettings, SSDSettings
from compactnets.errors import InputError
from compactnets.models.backbone import create_backbone

from .helpers import FASTER_RCNN, SSD, TINY


def build(detector: str, name: str = TINY, **changes: Any) -> nn.Module:
    torch.manual_seed(0)
    model = create_backbone(name, {})
    if detector == "ssd":
        return build_ssd(model, name, 2, SSDSettings.model_validate({**SSD, **changes}), frozen_batchnorm=False)
    settings = FasterRCNNSettings.model_validate({**FASTER_RCNN, **changes})
    return build_faster_rcnn(model, name, 2, settings, frozen_batchnorm=False)


def targets() -> list[dict[str, torch.Tensor]]:
    boxes = torch.tensor([[10.0, 10, 40, 50], [60, 30, 90, 70]])
    return [
        {"boxes": boxes, "labels": torch.tensor([1, 2])},
        {"boxes": torch.zeros(0, 4), "labels": torch.zeros(0, dtype=torch.int64)},
    ]


@pytest.mark.parametrize("detector", ["ssd", "faster_rcnn"])
@pytest.mark.parametrize("name", [TINY, "muffnet_x0_5", "resnet18"])
def test_every_weight_is_trained(detector: str, name: str) -> None:
    """Also with an image that has no object beside one that has."""
    found = build(detector, name).train()
    losses = found([torch.rand(3, 96, 96), torch.rand(3, 96, 96)], targets())
    sum(losses.values()).backward()
    assert all(loss.isfinite() for loss in losses.values())
    unused = [key for key, value in found.named_parameters() if value.grad is None]
    assert not unused


@pytest.mark.parametrize("detector", ["ssd", "faster_rcnn"])
def test_images_of_any_size_and_number(detector: str) -> None:
    found = build(detector).eval()
    with torch.inference_mode():
        results = found([torch.rand(3, 60, 100), torch.rand(3, 120, 70)])
    assert [set(one) for one in results] == [{"boxes", "labels", "scores"}] * 2
    for one, (height, width) in zip(results, [(60, 100), (120, 70)], strict=True):
        assert one["boxes"].shape == (len(one["scores"]), 4)
        assert (one["boxes"] <= torch.tensor([width, height, width, height])).all()


def test_ssd_maps_and_anchors() -> None:
    maps = describe_maps(build("ssd"))
    assert maps.sizes == (16, 8, 4, 2, 1)
    assert maps.names == ("stages.0", "stages.1", "stages.2", "extra 1", "extra 2")
    # 0.15 of 128 pixels, the root of it and the next (0.3375), then 2:1 and 1:2
    assert maps.anchors[0] == ((19, 19), (29, 29), (27, 14), (14, 27))
    assert str(maps).splitlines()[4].startswith("extra 2: 1 x 1, 32 channels, anchors 115x115, ")


def test_scales_of_gluoncv() -> None:
    """51.2 to 492 of 512 pixels, as the recipe of MuffNet's Table 7 has them."""
    scales = (0.1, 0.2, 0.37, 0.54, 0.71, 0.88, 0.96)
    settings = SSDSettings(scales=scales)
    assert map_sizes(settings) == [32, 16, 8, 4, 2, 1]
    assert anchor_scales(settings, 6) == list(scales)
    with pytest.raises(InputError, match="ssd: 5 maps need 6 scales, found 7"):
        anchor_scales(settings, 5)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"extra_channels": (32,)}, r"are \[16, 8, 4, 2\] cells a side and must end at 1, once: expected 2 extra_ch"),
        ({"extra_channels": (32, 32, 32)}, r"expected 2 extra_channels, found 3"),
        ({"strides": (4, 64)}, r"has no level 1/64: it has 1/2 \("),
    ],
)
def test_ssd_that_cannot_be_built(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        build("ssd", **changes)


def test_faster_rcnn_is_cut_as_in_the_paper() -> None:
    """MENet, section IV-B: the first three stages are the base network, the last is the subnet, with strides 1."""
    found: Any = build("faster_rcnn", "menet_108_8x1_g3")
    base, subnet = found.backbone.body, found.roi_heads.box_head.body
    assert {key.split(".")[0] for key, _ in base.named_parameters()} == {"stem", "stages"}
    assert {".".join(key.split(".")[:2]) for key, _ in subnet.named_parameters()} == {"stages.2"}
    assert base(torch.randn(1, 3, 96, 64)).shape == (1, 216, 6, 4)
    assert subnet(torch.randn(3, 216, 7, 7)).shape == (3, 432, 7, 7)
    strides = {tuple(module.stride) for module in subnet.modules() if isinstance(module, nn.Conv2d)}
    assert strides == {(1, 1)}


def test_mobilenet_is_cut_before_its_last_four_layers() -> None:
    """MENet, section IV-B: "the remaining 4 layers as the R-CNN subnet"."""
    found: Any = build("faster_rcnn", "mobilenet_x0_25")
    convolutions = [
        len([module for module in part.modules() if isinstance(module, nn.Conv2d)])
        for part in (found.backbone, found.roi_heads.box_head)
    ]
    assert convolutions == [23, 4]
