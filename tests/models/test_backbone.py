"""Networks cut by feature_info, against the networks themselves."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from compactnets.errors import InputError
from compactnets.models.backbone import (
    Level,
    Levels,
    create_backbone,
    freeze_batchnorm,
    levels_of,
    pick_levels,
    remove_strides,
    split,
)
from compactnets.models.registry import list_models
from compactnets.nn import ConvNormAct

SAMPLE = ["menet_108_8x1_g3", "muffnet_x0_5", "shufflenet_g3_x0_25", "resnet15_38m", "xception15_38m", "resnext15_38m"]
OTHERS = ["mobilenetv2_x1_0", "mobilenet_x0_25", "shufflenetv2_x0_5", "resnet18", "mobilenetv3_small_050"]
NAMES = [
    *(pytest.param(name, id=name) for name in [*SAMPLE, *OTHERS]),
    *(pytest.param(name, id=name, marks=pytest.mark.slow) for name in list_models() if name not in SAMPLE + OTHERS),
]


def shake(model: nn.Module) -> nn.Module:
    """Give batch normalisation statistics and weights that matter."""
    generator = torch.Generator().manual_seed(0)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            for tensor, low in ((module.running_mean, -0.2), (module.running_var, 0.6), (module.weight, 0.6)):
                assert tensor is not None
                tensor.data.copy_(torch.rand(tensor.shape, generator=generator) * 0.6 + low)
    return model


@pytest.mark.parametrize("name", NAMES)
def test_the_parts_are_the_network(name: str) -> None:
    """Base and rest together give the last level, and the cuts leave the network as it was."""
    torch.manual_seed(0)
    model = shake(create_backbone(name, {})).eval()
    levels, x = levels_of(model, name), torch.randn(2, 3, 96, 64)
    if 16 not in [level.reduction for level in levels] or levels[-1].reduction == 16:
        pytest.skip(f"{name} has no level on both sides of a cut at 1/16: {', '.join(map(str, levels))}")
    (at,) = pick_levels(levels, [16], name)
    with torch.inference_mode():
        expected = model(x)
        base, rest = split(model, at, name)
        maps = Levels(model, [at, levels[-1]], name)(x)
        torch.testing.assert_close(base(x), maps[0])
        torch.testing.assert_close(rest(base(x)), maps[1])
        torch.testing.assert_close(model(x), expected)
    assert maps[0].shape == (2, at.channels, 6, 4)
    assert maps[1].shape == (2, levels[-1].channels, 96 // levels[-1].reduction, 64 // levels[-1].reduction)
    keys = set(model.state_dict())
    ours = {*base.state_dict(), *rest.state_dict()}
    assert ours < keys, "the names of the tensors are the network's"
    assert set(base.state_dict()) & set(rest.state_dict()) <= {"_extra_state"}, "the form is of both"


@pytest.mark.parametrize("name", [*SAMPLE, "resnet18", "resnet50d"])
def test_the_subnet_keeps_the_size_of_its_maps(name: str) -> None:
    model = create_backbone(name, {})
    (at,) = pick_levels(levels_of(model, name), [16], name)
    _, rest = split(model, at, name)
    remove_strides(rest, at.channels, name)
    assert rest(torch.randn(2, at.channels, 7, 9)).shape[-2:] == (7, 9)


def test_frozen_batchnorm_computes_the_same_and_keeps_its_names() -> None:
    model = shake(create_backbone("menet_108_8x1_g3", {})).eval()
    names = {key for key in model.state_dict() if not key.endswith("num_batches_tracked")}
    x = torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        expected = model(x)
        frozen = freeze_batchnorm(model).train()
        torch.testing.assert_close(frozen(x), expected, rtol=1e-4, atol=1e-5)
    assert set(frozen.state_dict()) == names
    assert not [name for name, _ in frozen.named_parameters() if ".norm." in name]


class Skips(nn.Module):
    """A network whose last layer also reads what comes before the level 1/16."""

    def __init__(self) -> None:
        super().__init__()
        self.first = ConvNormAct(3, 8, 3, stride=16)
        self.last = ConvNormAct(8, 8, 3, stride=2)
        self.feature_info = [
            {"num_chs": 8, "reduction": 16, "module": "first"},
            {"num_chs": 8, "reduction": 32, "module": "last"},
        ]

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.first(x) + x.mean((1, 2, 3), keepdim=True))


class Branches(Skips):
    """A network that decides by its input, which no tracing follows."""

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.first(x)
        return self.last(y) if x.sum() > 0 else y


def wrong_channels() -> nn.Module:
    model = Skips()
    model.feature_info[0]["num_chs"] = 9
    return model


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (Skips, "mine cannot be cut at 1/16 .8 channels, first.: layers after it also read what comes before it"),
        (Branches, "mine cannot be a backbone: its graph cannot be traced"),
        (wrong_channels, r"feature_info says 1/16 \(9 channels, first\), but an image of 64 pixels gives \(8, 4, 4\)"),
        (lambda: nn.Conv2d(3, 8, 3), "mine cannot be a backbone: it has no feature_info"),
    ],
)
def test_networks_that_cannot_be_cut(make: Callable[[], nn.Module], message: str) -> None:
    model = make()
    with pytest.raises(InputError, match=message):
        split(model, levels_of(model, "mine")[0], "mine")


def test_levels_that_are_not_there() -> None:
    levels = [Level(8, 24, "a"), Level(16, 48, "b")]
    with pytest.raises(InputError, match=r"x has no level 1/4, 1/32: it has 1/8 \(24 channels, a\), 1/16 \(48 chann"):
        pick_levels(levels, [4, 8, 32], "x")


@pytest.mark.parametrize(
    ("name", "arguments", "message"),
    [
        (
            "menet_108",
            {},
            "no network of this package or of timm is called 'menet_108'; did you mean 'menet_10",
        ),
        ("resnet81", {}, "did you mean 'resnet18'"),
        ("resnet18", {"depth": 3}, "timm cannot build resnet18 with {'depth': 3}"),
        ("muffnet_x0_5", {"depth": 3}, "muffnet_x0_5 takes no argument 'depth'"),
    ],
)
def test_networks_that_cannot_be_built(name: str, arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        create_backbone(name, arguments)
