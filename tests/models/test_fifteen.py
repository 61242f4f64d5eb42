"""ResNet-15, Xception-15 and ResNeXt-15: their budgets and their structure."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from compactnets import create_model
from compactnets.errors import InputError
from compactnets.models.fifteen import VARIANTS, Bottleneck, FifteenNet
from compactnets.models.shufflenet import ShuffleUnit
from compactnets.nn import ChannelShuffle

every_name = pytest.mark.parametrize("name", VARIANTS)


def count_macs(name: str, **arguments: Any) -> float:
    """Millions of multiply-adds of convolutions and linear layers at 224 x 224."""
    network = create_model(name, **arguments).eval()
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        network(torch.zeros(1, 3, 224, 224))
    return counter.get_total_flops() / 2e6


@every_name
def test_channels_are_fitted_to_the_budget(name: str) -> None:
    """Within 1 % of it, or of it where the papers cut the decimals off; no other width comes nearer."""
    budget = int(name.split("_")[1].removesuffix("m"))
    width = VARIANTS[name]["width"]
    assert isinstance(width, int)
    macs = count_macs(name)
    assert abs(macs / budget - 1) < 0.01 or int(macs) == budget, macs
    for other in (width - 1, width + 1):
        assert abs(count_macs(name, width=other) - budget) > abs(macs - budget)


@every_name
@pytest.mark.parametrize("stem", ["imagenet", "cifar"])
def test_skeleton_is_table_1(name: str, stem: str) -> None:
    network = create_model(name, stem=stem, num_classes=7).eval()
    with torch.no_grad():
        _, maps = network.forward_intermediates(torch.zeros(1, 3, 32, 32))
        assert network(torch.zeros(1, 3, 32, 32)).shape == (1, 7)
    width = VARIANTS[name]["width"]
    assert [level.shape[1] for level in maps[-3:]] == [width, 2 * width, 4 * width]
    assert {level.shape[1] for level in maps[:-3]} == {VARIANTS[name].get("stem_channels", 24)}
    assert [level.shape[2] for level in maps] == ([16, 8, 4, 2, 1] if stem == "imagenet" else [32, 32, 16, 8])
    assert [len(stage) for stage in network.stages] == [4, 8, 4]


@pytest.mark.parametrize("name", [name for name in VARIANTS if not name.startswith("xception")])
def test_bottlenecks(name: str) -> None:
    """Of the widths that the cardinality allows, the inner one is the next to 1:4 below, or to 1:2 above."""
    cardinality = 16 if name.startswith("resnext") else 1
    half = name in ("resnext15_140m", "resnext15_38m")
    for stage in create_model(name).stages:
        for place, unit in enumerate(stage):
            assert isinstance(unit, Bottleneck)
            inner, outer = unit.spatial.conv.out_channels, unit.expand.conv.out_channels
            assert inner % cardinality == 0
            assert 0 <= (inner - outer / 2 if half else outer / 4 - inner) < cardinality
            assert unit.spatial.conv.groups == cardinality
            assert unit.spatial.conv.kernel_size == (3, 3)
            assert unit.compress.conv.kernel_size == unit.expand.conv.kernel_size == (1, 1)
            assert unit.compress.conv.groups == unit.expand.conv.groups == 1
            strides = [layer.conv.stride for layer in (unit.compress, unit.spatial, unit.expand)]
            assert strides == [(1, 1), (1, 1) if place else (2, 2), (1, 1)]
            assert isinstance(unit.shortcut, nn.Identity) == (place > 0)


@pytest.mark.parametrize("name", ["resnext15_140m", "resnext15_38m"])
def test_resnext_is_the_shufflenet_papers(name: str) -> None:
    """Cardinality 16, bottleneck 1:2 and no group of one channel, which would be a depthwise convolution."""
    outer = inner = 0
    for module in create_model(name).modules():
        if isinstance(module, Bottleneck):
            assert module.spatial.conv.groups == 16
            assert module.spatial.conv.in_channels >= 32
            outer, inner = outer + module.expand.conv.out_channels, inner + module.spatial.conv.in_channels
    assert 0.5 <= inner / outer < 0.6


@pytest.mark.parametrize(("budget", "depthwise"), [("140m", False), ("38m", True)])
def test_a_quarter_is_the_former_network(budget: str, depthwise: bool) -> None:
    """By its own name and by the argument; at 38 million its stage 2 is depthwise."""
    name = f"resnext15_{budget}_quarter"
    arguments = {key: value for key, value in VARIANTS[name].items() if key != "unit"}
    one, two = create_model(name), create_model(f"resnext15_{budget}", **arguments)
    two.load_state_dict(one.state_dict())
    convolution = one.stages[0][0].spatial.conv
    assert (convolution.in_channels == convolution.groups) is depthwise
    assert convolution.in_channels == (16 if depthwise else 32)


@pytest.mark.parametrize("budget", ["140m", "38m"])
@pytest.mark.parametrize("width", [None, 128, 66, 40])
def test_weights_of_a_quarter_do_not_load_into_a_half(budget: str, width: int | None) -> None:
    """Weights from before 1:2 was the default: their shapes are others, even where the widths are the same."""
    arguments = {} if width is None else {"width": width}
    old = create_model(f"resnext15_{budget}_quarter", **arguments)
    new = create_model(f"resnext15_{budget}", **arguments)
    for one, two in ((old, new), (new, old)):
        with pytest.raises(RuntimeError, match="size mismatch"):
            two.load_state_dict(one.state_dict())


@pytest.mark.parametrize(("in_channels", "stride"), [(8, 2), (8, 1), (32, 2), (32, 1)])
def test_bottleneck_adds_its_shortcut(in_channels: int, stride: int) -> None:
    torch.manual_seed(0)
    unit = Bottleneck(in_channels, 32, stride, cardinality=4).eval()
    x = torch.randn(2, in_channels, 6, 6)
    with torch.no_grad():
        residual = unit.expand(unit.spatial(unit.compress(x)))
        shortcut = x if in_channels == 32 and stride == 1 else unit.shortcut(x)
        assert (residual < 0).any()  # no ReLU before the addition
        assert torch.equal(unit(x), (residual + shortcut).relu())


@pytest.mark.parametrize("name", ["xception15_140m", "xception15_38m"])
def test_xception_is_the_shufflenet_unit_with_one_group(name: str) -> None:
    network = create_model(name)
    units = [unit for stage in network.stages for unit in stage]
    assert all(isinstance(unit, ShuffleUnit) for unit in units)
    assert not any(isinstance(layer, ChannelShuffle) for layer in network.modules())
    for unit in units:
        assert unit.depthwise.conv.groups == unit.depthwise.conv.in_channels
        assert unit.compress.conv.groups == unit.expand.conv.groups == 1


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"unit": "vgg", "width": 64}, "unit must be one of resnet, resnext, xception, found 'vgg'"),
        ({"unit": "xception", "width": 24}, "with unit = 'xception' width exceed stem_channels .*, found 24 and 24"),
        ({"unit": "resnet", "width": 0}, "width and stem_channels must be positive.*, found 0 and 24"),
        ({"unit": "resnext", "width": 64, "stem_channels": 0}, "found 64 and 0"),
        ({"unit": "resnext", "width": 64, "bottleneck": 3}, "bottleneck must be 2 or 4 .*, found 3"),
        ({"unit": "resnet", "width": 64, "bottleneck": 0}, "bottleneck must be 2 or 4 .*, found 0"),
        ({"unit": "xception", "width": 64, "bottleneck": 2}, "bottleneck must be 4 with unit = 'xception' .*, found 2"),
        ({"unit": "resnet", "width": 64, "stem": "tiny"}, "stem must be one of imagenet, cifar, found 'tiny'"),
    ],
)
def test_constructor_errors(arguments: dict[str, Any], message: str) -> None:
    with torch.device("meta"), pytest.raises(InputError, match=message):
        FifteenNet(**arguments)


@pytest.mark.parametrize("unit", ["resnet", "resnext", "xception"])
def test_narrow_networks_build(unit: str) -> None:
    network = FifteenNet(unit, 3, stem_channels=2, num_classes=2).eval()
    assert network(torch.zeros(1, 3, 32, 32)).shape == (1, 2)
