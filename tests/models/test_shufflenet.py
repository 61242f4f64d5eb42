"""ShuffleNet v1: an independent implementation by weight port, and the counts that the papers state."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from compactnets import create_model
from compactnets.errors import InputError
from compactnets.models.shufflenet import SCALES, VARIANTS, WIDTHS, ShuffleNet
from compactnets.nn import ChannelShuffle

LAYERS = {
    "compress_conv1": "compress.conv",
    "compress_bn1": "compress.norm",
    "dw_conv2": "depthwise.conv",
    "dw_bn2": "depthwise.norm",
    "expand_conv3": "expand.conv",
    "expand_bn3": "expand.norm",
}


def randomize(network: nn.Module) -> None:
    """Give every parameter and every running statistic a random value, so that no two channels are alike."""
    torch.manual_seed(0)
    for layer in network.modules():
        if isinstance(layer, nn.BatchNorm2d):
            nn.init.uniform_(layer.weight, 0.5, 1.5)
            nn.init.uniform_(layer.running_var, 0.5, 1.5)
            nn.init.normal_(layer.bias, 0, 0.3)
            nn.init.normal_(layer.running_mean, 0, 0.3)
        elif isinstance(layer, (nn.Conv2d, nn.Linear)):
            nn.init.kaiming_normal_(layer.weight)


def our_key(key: str) -> str:
    """pytorchcv's key -> ours."""
    if key.startswith("features.stage"):
        _, stage, unit, layer, tensor = key.split(".")
        return f"stages.{int(stage[5:]) - 1}.{int(unit[4:]) - 1}.{LAYERS[layer]}.{tensor}"
    return (
        key.replace("features.init_block.conv.", "stem.conv.conv.")
        .replace("features.init_block.bn.", "stem.conv.norm.")
        .replace("output.", "classifier.")
    )


@pytest.mark.parametrize(
    ("theirs", "ours"),
    [
        ("shufflenet_g1_w1", "shufflenet_g1_x1_0"),
        ("shufflenet_g2_w1", "shufflenet_g2_x1_0"),
        ("shufflenet_g3_w1", "shufflenet_g3_x1_0"),
        ("shufflenet_g4_w1", "shufflenet_g4_x1_0"),
        ("shufflenet_g8_w1", "shufflenet_g8_x1_0"),
        ("shufflenet_g1_wd4", "shufflenet_g1_x0_25"),
        ("shufflenet_g3_wd4", "shufflenet_g3_x0_25"),
        ("shufflenet_g1_wd2", "shufflenet_g1_x0_5"),
        ("shufflenet_g3_wd2", "shufflenet_g3_x0_5"),
        ("shufflenet_g1_w3d4", "shufflenet_g1_x0_75"),
        ("shufflenet_g3_w3d4", "shufflenet_g3_x0_75"),
    ],
)
def test_outputs_equal_an_independent_implementation(theirs: str, ours: str) -> None:
    library = pytest.importorskip("pytorchcv.models.shufflenet")
    reference = getattr(library, theirs)().eval()
    randomize(reference)
    reference.features.final_pool = nn.AdaptiveAvgPool2d(1)
    network = create_model(ours).eval()
    network.load_state_dict({our_key(key): tensor for key, tensor in reference.state_dict().items()})
    x = torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        expected, found = reference(x), network(x)
    assert expected.std() > 0.1
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    ("name", "stated"),
    [
        ("shufflenet_g3_x1_0", 137),  # MENet, Tables III and IV
        ("shufflenet_g4_x1_0", 134),
        ("shufflenet_g8_x1_0", 138),
        ("shufflenet_g3_x0_5", 38),
        ("shufflenet_g3_x1_5", 292),
        ("shufflenet_g3_x2_0", 524),
        ("shufflenet_g1_x1_0", 143),  # ShuffleNet, Table 1
        ("shufflenet_g2_x1_0", 140),
    ],
)
def test_macs_are_those_of_the_papers(name: str, stated: int) -> None:
    network = create_model(name, num_classes=1000).eval()
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        network(torch.zeros(1, 3, 224, 224))
    macs = counter.get_total_flops() / 2e6
    assert abs(macs - stated) < 1, macs  # some are rounded, some cut off


@pytest.mark.parametrize("stem", ["imagenet", "cifar"])
@pytest.mark.parametrize("name", VARIANTS)
def test_every_scale_builds(name: str, stem: str) -> None:
    groups = int(name.split("_")[1][1:])
    scale = float(name.split("_x")[1].replace("_", "."))
    network = create_model(name, stem=stem, num_classes=7).eval()
    with torch.no_grad():
        final, maps = network.forward_intermediates(torch.zeros(1, 3, 32, 32))
        assert network(torch.zeros(1, 3, 32, 32)).shape == (1, 7)
    width = maps[-3].shape[1]
    assert [level.shape[1] for level in maps[-3:]] == [width, 2 * width, 4 * width]
    assert 0 <= width - WIDTHS[groups] * scale < groups  # raised to the next multiple of the groups at most
    assert [level.shape[2] for level in maps] == ([16, 8, 4, 2, 1] if stem == "imagenet" else [32, 32, 16, 8])
    assert maps[0].shape[1] >= (24 if scale == 1.5 else 24 * scale)
    assert final.shape[1] == network.num_features == 4 * width


def test_names_cover_all_groups_and_scales() -> None:
    assert len(VARIANTS) == len(WIDTHS) * len(SCALES) == 30
    assert "shufflenet_g8_x0_75" in VARIANTS


def test_one_group_has_no_shuffle_and_first_pointwise_layer_is_ungrouped() -> None:
    assert not [layer for layer in create_model("shufflenet_g1_x0_5").modules() if isinstance(layer, ChannelShuffle)]
    network = create_model("shufflenet_g4_x0_5")
    first, *others = [unit for stage in network.stages for unit in stage]
    assert first.compress.conv.groups == 1
    assert {unit.compress.conv.groups for unit in others} == {4}
    assert {unit.expand.conv.groups for unit in (first, *others)} == {4}
    assert {unit.shuffle.groups for unit in (first, *others)} == {4}


def test_concatenation_has_the_residual_branch_first() -> None:
    unit = create_model("shufflenet_g3_x0_5").eval().stages[0][0]
    x = torch.randn(1, 12, 8, 8)
    with torch.no_grad():
        residual = unit.expand(unit.depthwise(unit.shuffle(unit.compress(x))))
        output = unit(x)
    assert residual.shape[1] == 120 - 12
    assert torch.equal(output[:, :-12], residual.relu())
    torch.testing.assert_close(output[:, -12:], nn.AvgPool2d(3, 2, padding=1)(x).relu())


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"groups": 5}, "groups must be one of 1, 2, 3, 4, 8, or give a width; found 5"),
        ({"groups": 0, "width": 24}, "groups must be positive, found 0"),
        ({"groups": 3, "scale": 0.0}, "found 0 and 0"),
        ({"groups": 3, "scale": 0.01}, "found 3 and 0"),
        ({"groups": 3, "width": 25}, "both be positive multiples of groups = 3; found 25 and 24"),
        ({"groups": 3, "stem_channels": 25}, "found 240 and 25"),
        ({"groups": 3, "stem_channels": 240}, "width must exceed stem_channels"),
        ({"groups": 3, "stem": "tiny"}, "stem must be one of imagenet, cifar, found 'tiny'"),
    ],
)
def test_constructor_errors(arguments: dict[str, Any], message: str) -> None:
    with torch.device("meta"), pytest.raises(InputError, match=message):
        ShuffleNet(**arguments)


def test_other_groups_with_a_width() -> None:
    network = ShuffleNet(5, width=200, stem_channels=20, num_classes=3).eval()
    assert network(torch.zeros(1, 3, 32, 32)).shape == (1, 3)
