"""The deploy form computes what the network computes."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn

from compactnets.data import open_source
from compactnets.data.presets import IMAGENET
from compactnets.deploy.rewrite import AlignedConv, align_depthwise, deploy_form, separate_padding
from compactnets.models.legacy import load_legacy
from compactnets.models.registry import FAMILIES, create_model, list_models
from compactnets.nn import ChannelShuffle

from ..names import one_of_each_kind
from .helpers import randomize, small_form, tiny_network

PRE_ACTIVATION = ("densenet", "condensenet")  # whose normalisation comes before the convolution


def relative(found: torch.Tensor, expected: torch.Tensor) -> float:
    return float((found - expected).abs().max() / expected.abs().max())


@pytest.mark.parametrize("name", one_of_each_kind(list_models()))
def test_every_network_keeps_its_outputs(name: str) -> None:
    """In double precision, where rounding hides nothing; contiguous, channels_last and a part of a larger tensor."""
    model, size = small_form(name)
    model = model.double()
    before = {key: value.clone() for key, value in model.state_dict().items()}
    deployed = deploy_form(model)
    images = torch.randn(2, 3, size, size + 8, dtype=torch.float64)
    cases = (images, images.contiguous(memory_format=torch.channels_last), images[..., 1 : size + 1])
    with torch.inference_mode():
        for case in cases:
            assert relative(deployed(case), model(case)) < 1e-9
    after = model.state_dict()
    assert all(torch.equal(value, after[key]) for key, value in before.items())
    left = [module for module in deployed.modules() if isinstance(module, (nn.BatchNorm2d, nn.Dropout))]
    assert not left or name.startswith(PRE_ACTIVATION)


@pytest.mark.parametrize("name", one_of_each_kind(FAMILIES))
@pytest.mark.parametrize("channels_last", [False, True])
def test_in_float32_within_1e_5(name: str, channels_last: bool) -> None:
    torch.manual_seed(0)
    model = create_model(name, num_classes=7).eval()
    images = torch.randn(2, 3, 64, 64)
    if channels_last:
        images = images.contiguous(memory_format=torch.channels_last)
    with torch.inference_mode():
        assert relative(deploy_form(model)(images), model(images)) < 1e-5


def test_trained_weights_on_photographs_within_1e_5(shared: Path) -> None:
    weights = load_legacy(shared / "weights" / "108-MENet-8x1-group-3.pth.tar")
    model = create_model("menet_108_8x1_g3").eval()
    model.load_state_dict(weights, strict=False)
    source = open_source(str(shared / "data" / "imagenet_sample"), "val")
    images = torch.stack([IMAGENET(source.image(index)) for index in range(8)])
    with torch.inference_mode():
        assert relative(deploy_form(model)(images), model(images)) < 1e-5


def test_the_shuffle_comes_after_the_stride_and_once_per_unit() -> None:
    model = create_model("menet_108_8x1_g3").eval()
    deployed = deploy_form(model)
    pixels = []
    for module in deployed.modules():
        if isinstance(module, ChannelShuffle):
            module.register_forward_pre_hook(lambda module, inputs: pixels.append(inputs[0].shape[-1]))
    deployed(torch.randn(1, 3, 224, 224))
    assert pixels == [28] * 3 + [14] * 8 + [7] * 4  # 16 units; the first one's is gone, 56 and 28 pixels are halved


def test_padding_of_poolings() -> None:
    model = nn.Sequential(nn.AvgPool2d(3, 2, padding=1), nn.AvgPool2d(2), nn.AvgPool2d((3, 5), 1, padding=(1, 2)))
    separate = separate_padding(model)
    images = torch.randn(2, 3, 21, 18)
    torch.testing.assert_close(separate(images), model(images))
    assert sum(isinstance(module, nn.ZeroPad2d) for module in separate.modules()) == 2
    outside = nn.AvgPool2d(3, 2, padding=1, count_include_pad=False)
    assert type(separate_padding(nn.Sequential(outside))[0]) is nn.AvgPool2d  # type: ignore[index]


def test_a_normalisation_with_two_readers_of_its_convolution_stays() -> None:
    class Fork(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.norm = nn.Conv2d(3, 3, 1), nn.BatchNorm2d(3)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            x = self.conv(x)
            return x + self.norm(x)

    model = randomize(Fork()).eval()
    images = torch.randn(1, 3, 4, 4)
    deployed = deploy_form(model)
    torch.testing.assert_close(deployed(images), model(images))
    assert any(isinstance(module, nn.BatchNorm2d) for module in deployed.modules())


def test_training_mode_and_gradients_do_not_carry_over() -> None:
    deployed = deploy_form(tiny_network().train())
    assert not any(module.training for module in deployed.modules())
    assert not any(parameter.requires_grad for parameter in deployed.parameters())


@pytest.mark.parametrize("name", ["menet_108_8x1_g3", "muffnet_x0_5"])
@pytest.mark.parametrize("lanes", [8, 16])
def test_depthwise_convolutions_in_whole_vectors(name: str, lanes: int) -> None:
    """The same outputs; every depthwise convolution has channels in multiples, and only the others change."""
    model, size = small_form(name)
    deployed = deploy_form(model.double())
    aligned = align_depthwise(deployed, lanes)
    images = torch.randn(2, 3, size, size + 8, dtype=torch.float64)
    with torch.inference_mode():
        assert relative(aligned(images), deployed(images)) < 1e-9

    def widths(network: nn.Module) -> list[int]:
        layers = (module for module in network.modules() if isinstance(module, nn.Conv2d))
        return [layer.groups for layer in layers if 1 < layer.groups == layer.in_channels == layer.out_channels]

    before, after = widths(deployed), widths(aligned)
    assert [width + -width % lanes for width in before] == after
    changed = sum(isinstance(module, AlignedConv) for module in aligned.modules())
    assert changed == sum(width % lanes > 0 for width in before)
