"""MENet: the ME module against its equations, the network against Table I and an independent implementation."""

from __future__ import annotations

import re
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from compactnets import create_model
from compactnets.errors import InputError
from compactnets.models.legacy import convert_state_dict
from compactnets.models.menet import VARIANTS, MEModule, MENet
from compactnets.nn import ChannelShuffle, ConvNormAct


def randomize(network: nn.Module) -> nn.Module:
    """Give every parameter and every running statistic a random value, so that no two channels are alike."""
    generator = torch.Generator().manual_seed(0)
    for layer in network.modules():
        if isinstance(layer, nn.BatchNorm2d):
            for tensor in (layer.weight, layer.running_var):
                nn.init.uniform_(tensor, 0.5, 1.5, generator=generator)
            for tensor in (layer.bias, layer.running_mean):
                nn.init.normal_(tensor, 0, 0.3, generator=generator)
        elif isinstance(layer, (nn.Conv2d, nn.Linear)):
            nn.init.kaiming_normal_(layer.weight, generator=generator)
            if layer.bias is not None:
                nn.init.normal_(layer.bias, generator=generator)
    return network.eval()


# the module


def convolve(layer: ConvNormAct, x: Tensor, stride: int = 1, groups: int = 1) -> Tensor:
    """Convolution and batch normalisation from the layer's numbers alone; stride and groups are the caller's."""
    weight, norm = layer.conv.weight, layer.norm
    x = functional.conv2d(x, weight, stride=stride, padding=weight.shape[-1] // 2, groups=groups)
    scale = norm.weight / (norm.running_var + norm.eps).sqrt()
    return x * scale[:, None, None] + (norm.bias - norm.running_mean * scale)[:, None, None]


def equations(
    module: MEModule, x: Tensor, groups: int, *, compress_groups: int, stride: int, downsample: bool, fusion: str
) -> Tensor:
    """Figure 3 and equations 4 to 7, written down once more."""
    residual = convolve(module.compress, x, groups=compress_groups).relu()
    size = residual.shape[1] // groups
    residual = residual[:, [group * size + place for place in range(size) for group in range(groups)]]  # shuffle
    merged = convolve(module.merge, residual).relu()  # equation 4
    evolved = convolve(module.evolve, merged, stride).relu()  # equation 5
    matched = convolve(module.match, evolved)  # equation 6
    residual = convolve(module.depthwise, residual, stride, groups=residual.shape[1])
    fused = residual / (1 + torch.exp(-matched)) if fusion == "product" else residual + matched  # equation 7
    fused = convolve(module.expand, fused, groups=groups)
    if downsample:
        pooled = functional.avg_pool2d(x, 3, stride, padding=1)
        return torch.cat((fused, pooled), dim=1).relu()  # the residual branch first
    return (fused + x).relu()


@pytest.mark.parametrize("fusion", ["product", "add"])
@pytest.mark.parametrize(
    ("in_channels", "groups", "compress_groups", "stride", "downsample"),
    [
        (60, 3, 3, 1, False),
        (60, 5, 5, 1, False),
        (24, 3, 3, 2, True),
        (12, 3, 1, 2, True),  # the first module of stage 2
        (12, 3, 1, 1, True),  # the same in the cifar form
        (20, 5, 5, 2, True),
    ],
)
def test_module_computes_its_equations(
    fusion: str, in_channels: int, groups: int, compress_groups: int, stride: int, downsample: bool
) -> None:
    given: dict[str, Any] = {"compress_groups": compress_groups, "stride": stride, "downsample": downsample}
    module = randomize(MEModule(in_channels, 60, 7, groups, fusion=fusion, **given))
    assert isinstance(module, MEModule)
    x = torch.randn(2, in_channels, 9, 8, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        expected = equations(module, x, groups, fusion=fusion, **given)
        found = module(x.clone())
    assert found.shape == (2, 60, -(-9 // stride), -(-8 // stride))
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)


def test_shuffle_is_the_papers_figure_1() -> None:
    x = torch.arange(9.0).reshape(1, 9, 1, 1)
    assert ChannelShuffle(9, 3)(x).flatten().tolist() == [0, 3, 6, 1, 4, 7, 2, 5, 8]
    with pytest.raises(ValueError, match="9 channels cannot be shuffled in 4 groups"):
        ChannelShuffle(9, 4)


# the network


def units(network: nn.Module) -> list[list[MEModule]]:
    return [list(stage) for stage in network.stages]


@pytest.mark.parametrize("name", VARIANTS)
@pytest.mark.parametrize("stem", ["imagenet", "cifar"])
def test_structure_is_table_1(name: str, stem: str) -> None:
    match = re.fullmatch(r"menet_(\d+)_(\d+)x([\d_]+?)(_add)?_g(\d)", name)
    assert match is not None
    width, fusion_width, groups = int(match[1]), int(match[2]), int(match[5])
    stem_channels = {108: 12, 128: 12, 456: 48}.get(width, 24)
    network = create_model(name, stem=stem).eval()
    with torch.no_grad():
        _, maps = network.forward_intermediates(torch.zeros(1, 3, 32, 32))
    assert [tuple(level.shape[1:3]) for level in maps] == (
        [(stem_channels, 16), (stem_channels, 8), (width, 4), (2 * width, 2), (4 * width, 1)]
        if stem == "imagenet"
        else [(stem_channels, 32), (width, 32), (2 * width, 16), (4 * width, 8)]
    )
    assert [len(stage) for stage in units(network)] == [4, 8, 4]
    in_channels = stem_channels
    for index, stage in enumerate(units(network)):
        channels = width * 2**index
        for place, unit in enumerate(stage):
            first = place == 0
            assert unit.fusion == ("add" if match[4] else "product")
            assert unit.compress.conv.groups == (1 if first and index == 0 else groups)
            assert unit.shuffle.groups == unit.expand.conv.groups == groups
            assert unit.shuffle.channels == unit.depthwise.conv.groups == channels // 4
            assert unit.expand.conv.out_channels == channels - (in_channels if first else 0)
            assert (unit.pool is not None) == first
            strided = first and not (index == 0 and stem == "cifar")
            assert unit.depthwise.conv.stride == unit.evolve.conv.stride == ((2, 2) if strided else (1, 1))
            assert not hasattr(unit.depthwise, "act")
            assert not hasattr(unit.match, "act")
            assert not hasattr(unit.expand, "act")
        in_channels = channels
    assert fusion_width == units(network)[0][0].merge.conv.out_channels


@pytest.mark.parametrize(
    ("name", "widths"),
    [
        ("menet_228_12x1_g3", [12, 12, 12]),
        ("menet_228_12x1_5_g3", [12, 18, 27]),
        ("menet_228_12x2_g3", [12, 24, 48]),
        ("menet_228_12x2_5_g3", [12, 30, 75]),
    ],
)
def test_expansion_rate_of_table_6(name: str, widths: list[int]) -> None:
    with torch.device("meta"):
        network = create_model(name)
    for stage, width in zip(units(network), widths, strict=True):
        for unit in stage:
            assert unit.merge.conv.out_channels == unit.match.conv.in_channels == width
            assert unit.evolve.conv.in_channels == unit.evolve.conv.out_channels == width


@pytest.mark.parametrize(
    ("fusion_width", "expansion", "widths"),
    [(10, 1.25, [10, 13, 16]), (5, 1.5, [5, 8, 11]), (8, 0.5, [8, 4, 2]), (4, 0.4, [4, 2, 1])],
)
def test_fractional_widths_round_to_the_nearest_channel(fusion_width: int, expansion: float, widths: list[int]) -> None:
    """12.5 to 13, 15.625 to 16, 7.5 to 8, 11.25 to 11, 1.6 to 2, 0.64 to 1: a half goes up."""
    with torch.device("meta"):
        network = MENet(60, fusion_width, 3, expansion=expansion, stem_channels=12)
    assert [stage[0].merge.conv.out_channels for stage in units(network)] == widths


@pytest.mark.parametrize(("width", "groups", "stem_channels"), [(96, 1, 7), (96, 2, 24), (100, 5, 20), (140, 7, 14)])
@pytest.mark.parametrize("stem", ["imagenet", "cifar"])
def test_any_groups_that_divide(width: int, groups: int, stem_channels: int, stem: str) -> None:
    network = randomize(MENet(width, 6, groups, stem_channels=stem_channels, stem=stem, num_classes=3))
    with torch.no_grad():
        assert network(torch.randn(1, 3, 40, 33)).shape == (1, 3)


def test_add_has_no_sigmoid_and_the_parameters_of_product() -> None:
    """Table VII: without the sigmoid, a fusion branch of zeros leaves the residual branch as it is."""
    add, product = create_model("menet_228_12x1_add_g3"), create_model("menet_228_12x1_g3")
    assert {key: tensor.shape for key, tensor in add.named_parameters()} == {
        key: tensor.shape for key, tensor in product.named_parameters()
    }
    x = torch.randn(1, 228, 4, 4)
    for network, factor in ((add, 1.0), (product, 0.5)):  # sigmoid(0) = 0.5
        unit = units(network.eval())[0][1]
        nn.init.zeros_(unit.match.norm.weight)
        with torch.no_grad():
            residual = unit.depthwise(unit.shuffle(unit.compress(x)))
            torch.testing.assert_close(unit(x), (unit.expand(factor * residual) + x).relu())


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"fusion": "mul"}, r"fusion must be one of product, add, found 'mul'"),
        ({"groups": 5}, r"residual_width must be a multiple of 4 x groups = 20 .*, found 228"),
        ({"residual_width": 230}, r"residual_width must be a multiple of 4 x groups = 12 .*, found 230"),
        ({"stem_channels": 23}, r"positive multiple of groups = 3 .*, found 228 - 23"),
        ({"stem_channels": 228}, r"positive multiple of groups = 3 .*, found 228 - 228"),
        ({"groups": 0}, r"residual_width, fusion_width, groups, stem_channels and expansion must be positive"),
        ({"fusion_width": 0}, r"must be positive"),
        ({"stem_channels": 0}, r"must be positive"),
        ({"expansion": -1.0}, r"must be positive"),
        ({"expansion": 0.2}, r"fusion_width must leave a channel in the last stage: 12 x 0.2\^2 is rounded to none"),
        ({"stem": "tiny"}, r"stem must be one of imagenet, cifar, found 'tiny'"),
        ({"in_chans": 0}, r"in_chans must be positive, found 0"),
        ({"global_pool": "max"}, r"global_pool must be 'avg' or '' \(none\), found 'max'"),
        ({"global_pool": ""}, r"a classifier needs global_pool='avg'"),
    ],
)
def test_constructor_errors(arguments: dict[str, Any], message: str) -> None:
    with torch.device("meta"), pytest.raises(InputError, match=message) as caught:
        MENet(**{"residual_width": 228, "fusion_width": 12, "groups": 3, **arguments})
    assert "\n" not in str(caught.value)


def test_initialisation() -> None:
    """Kaiming normal by the fan-out of one group for convolutions, N(0, 0.01) for the classifier."""
    torch.manual_seed(0)
    network = create_model("menet_228_12x1_g3")
    classifier = network.classifier
    assert isinstance(classifier, nn.Linear)
    assert classifier.weight.std().item() == pytest.approx(0.01, rel=0.02)
    assert not classifier.bias.any()
    for key, fan_out in (
        ("stages.1.1.compress.conv", 114 // 3),
        ("stages.1.1.depthwise.conv", 9),
        ("stem.conv.conv", 216),
    ):
        weight = network.get_submodule(key).weight
        assert weight.std().item() == pytest.approx((2 / fan_out) ** 0.5, rel=0.1), key


# an independent implementation under the repository's key names, so that the key map serves every group and width

REPOSITORY = {
    "compress_conv1": "compress",
    "compress_bn1": "bn_compress",
    "dw_conv2": "depthwise",
    "dw_bn2": "bn_depthwise",
    "expand_conv3": "expand",
    "expand_bn3": "bn_expand",
    "s_merge_conv": "s_merge",
    "s_merge_bn": "s_bn_merge",
    "s_conv": "s_conv",
    "s_conv_bn": "s_bn_conv",
    "s_evolve_conv": "s_evolve",
    "s_evolve_bn": "s_bn_evolve",
}


def repository_key(key: str) -> str:
    """pytorchcv's key -> the MENet repository's."""
    if match := re.fullmatch(r"features\.stage(\d)\.unit(\d)\.(\w+)\.(\w+)", key):
        stage, unit, layer, tensor = match.groups()
        return f"features.stage_{stage}_{unit}.{REPOSITORY[layer]}.{tensor}"
    return key.replace("features.init_block.", "features.init.").replace("output.", "classifier.")


@pytest.mark.parametrize(
    ("theirs", "ours", "arguments"),
    [
        ("menet108_8x1_g3", "menet_108_8x1_g3", {}),
        ("menet128_8x1_g4", "menet_128_8x1_g4", {}),
        ("menet160_8x1_g8", "menet_160_8x1_g8", {"stem_channels": 16}),  # pytorchcv's; registered with 24
        ("menet228_12x1_g3", "menet_228_12x1_g3", {}),
        ("menet256_12x1_g4", "menet_256_12x1_g4", {}),
        ("menet348_12x1_g3", "menet_348_12x1_g3", {}),
        ("menet352_12x1_g8", "menet_352_12x1_g8", {}),
        ("menet456_24x1_g3", "menet_456_24x1_g3", {}),
    ],
)
def test_outputs_equal_an_independent_implementation(theirs: str, ours: str, arguments: dict[str, Any]) -> None:
    library = pytest.importorskip("pytorchcv.models.menet")
    reference = randomize(getattr(library, theirs)())
    reference.features.final_pool = nn.AdaptiveAvgPool2d(1)
    stored = {repository_key(key): tensor for key, tensor in reference.state_dict().items()}
    network = create_model(ours, **arguments).eval()
    network.load_state_dict(convert_state_dict(stored))
    x = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(2))
    with torch.no_grad():
        expected, found = reference(x), network(x)
    assert expected.std() > 0.1
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)


def test_the_table_gives_the_keys_of_the_published_checkpoint(shared: Any) -> None:
    """What the port above writes is what the authors' file has, so that the port speaks for their other files."""
    library = pytest.importorskip("pytorchcv.models.menet")
    file = shared / "weights" / "108-MENet-8x1-group-3.pth.tar"
    stored = torch.load(file, map_location="cpu", weights_only=True)["state_dict"]
    with torch.device("meta"):
        written = {repository_key(key): tensor.shape for key, tensor in library.menet108_8x1_g3().state_dict().items()}
    assert {key: shape for key, shape in written.items() if not key.endswith("num_batches_tracked")} == {
        key: tensor.shape for key, tensor in stored.items()
    }
