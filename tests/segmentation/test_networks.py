"""The two heads on backbones, and dilation in place of strides."""

from __future__ import annotations

from typing import Literal

import pytest
import torch
from torch import nn

from compactnets.complexity import count
from compactnets.errors import InputError
from compactnets.models.backbone import Levels, create_backbone, levels_of
from compactnets.segmentation.networks import build_segmenter, upscale
from compactnets.segmentation.recipe import LRASPPSettings, SegmenterSettings

HEADS: tuple[Literal["lraspp", "deeplabv3plus"], ...] = ("lraspp", "deeplabv3plus")


def lively(name: str) -> nn.Module:
    """A network whose normalisations do something."""
    torch.manual_seed(0)
    model = create_backbone(name, {})
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.normal_(module.running_mean, 0, 0.2)  # type: ignore[arg-type]
            nn.init.uniform_(module.running_var, 0.5, 2.0)  # type: ignore[arg-type]
    return model.eval()


@pytest.mark.parametrize("output_stride", [8, 16])
@pytest.mark.parametrize(
    "name",
    [
        "menet_108_8x1_g3",
        *(
            pytest.param(name, marks=pytest.mark.slow)
            for name in ("muffnet_x0_5", "shufflenet_g3_x1_0", "mobilenet_x0_5", "timm:resnet26d", "mobilenetv2_050")
        ),
    ],
)
def test_dilation_computes_the_same_pixels_and_those_between(name: str, output_stride: int) -> None:
    """A closed form: every k-th pixel is what the strided network has there (arXiv:1706.05587, section 3.1)."""
    levels, image = levels_of(lively(name), name), torch.randn(1, 3, 96, 128)
    with torch.no_grad():
        strided = Levels(lively(name), levels, name)(image)
        dilated = Levels(lively(name), levels, name, output_stride)(image)
    for level, one, other in zip(levels, strided, dilated, strict=True):
        step = max(1, level.reduction // output_stride)
        assert other.shape[-2:] == (96 * step // level.reduction, 128 * step // level.reduction)
        assert (other[..., ::step, ::step] - one).abs().max() <= 1e-5 * one.abs().max()
        if step > 1:
            assert other[..., 1::step, 1::step].std() > 0.1 * one.std()


def test_dilation_adds_no_tensor_to_the_state() -> None:
    name = "menet_108_8x1_g3"
    levels = levels_of(lively(name), name)
    strided, dilated = (Levels(lively(name), levels, name, stride) for stride in (32, 8))
    assert strided.state_dict().keys() == dilated.state_dict().keys()


def test_a_network_that_cannot_be_dilated_is_refused() -> None:
    class Sliced(nn.Module):
        feature_info = [{"num_chs": 3, "reduction": 4, "module": "a"}, {"num_chs": 3, "reduction": 32, "module": "b"}]

        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = nn.AvgPool2d(4), nn.Conv2d(3, 3, 1)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            found: torch.Tensor = self.b(self.a(x)[..., ::8, ::8])
            return found

    model = Sliced()
    with pytest.raises(InputError, match="output stride of 16.*1/32"):
        Levels(model, levels_of(model, "sliced"), "sliced", 16)


@pytest.mark.parametrize("head", HEADS)
def test_heads_give_scores_and_gradients(head: Literal["lraspp", "deeplabv3plus"]) -> None:
    settings = SegmenterSettings(head=head, auxiliary=0.4)
    network = build_segmenter("test_resnet", {}, 5, settings).train()
    stride = 8 if head == "lraspp" else 4
    assert network.stride == stride
    images = torch.randn(2, 3, 64, 72)
    scores, others = network(images)
    assert scores.shape == (2, 5, -(-64 // stride), -(-72 // stride))
    assert others.shape == (2, 5, 4, 5)
    (upscale(scores, (64, 72)).square().mean() + others.square().mean()).backward()
    assert [name for name, each in network.named_parameters() if each.grad is None] == []
    alone = network.eval()(images)
    assert isinstance(alone, torch.Tensor)
    assert alone.shape == scores.shape


def test_lraspp_is_torchvisions() -> None:
    """The same weights in torchvision's whole network, on MobileNetV3, give the same scores."""
    from torchvision.models.segmentation import lraspp_mobilenet_v3_large

    whole = lraspp_mobilenet_v3_large(weights=None, weights_backbone=None, num_classes=4).eval()
    network = build_segmenter("test_resnet", {}, 4, SegmenterSettings())
    head = type(network.head)(40, 960, 4, 128).eval()
    head.load_state_dict(whole.classifier.state_dict())
    image = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        features = whole.backbone(image)
        torch.testing.assert_close(upscale(head(features), (64, 64)), whole(image)["out"])


def test_atrous_rates_follow_the_output_stride() -> None:
    """Rates (6, 12, 18) at 16 become twice as large at 8 (DeepLabV3+, section 4.1), and half at 32."""
    found = {}
    for stride in (8, 16, 32):
        settings = SegmenterSettings(head="deeplabv3plus", output_stride=stride)
        pyramid = build_segmenter("test_resnet", {}, 3, settings).head.pyramid
        found[stride] = [
            module.dilation[0]
            for module in pyramid.modules()
            if isinstance(module, nn.Conv2d) and module.groups > 1 and module.kernel_size == (3, 3)
        ]
    assert found == {8: [12, 24, 36], 16: [6, 12, 18], 32: [3, 6, 9]}


def test_a_smaller_output_stride_costs_more_and_has_the_same_weights() -> None:
    costs = [
        count(build_segmenter("test_resnet", {}, 3, SegmenterSettings(output_stride=stride)).eval(), (3, 96, 96))
        for stride in (32, 16, 8)
    ]
    assert costs[0][0] < costs[1][0] < costs[2][0]
    assert len({params for _, params in costs}) == 1


def test_missing_levels_are_named() -> None:
    with pytest.raises(InputError, match=r"has no level 1/64.*1/32"):
        build_segmenter("test_resnet", {}, 3, SegmenterSettings(lraspp=LRASPPSettings(low=64)))
    with pytest.raises(InputError, match="feature_info"):
        levels_of(nn.Identity(), "plain")
