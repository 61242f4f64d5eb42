"""The peers: one surface for all, the libraries' networks unchanged, and the costs that the papers state."""

from __future__ import annotations

import functools
import importlib.util
import sys
from typing import Any, NamedTuple

import pytest
import torch
from torch import nn
from torch.nn import functional
from torch.utils.flop_counter import FlopCounterMode

from compactnets.errors import InputError
from compactnets.models.igcv2 import IGCV2, InterleavedBlock
from compactnets.models.peer_builders import ChannelSelect
from compactnets.models.peers import PEERS, create_peer
from compactnets.models.staged import StagedNet

from ..names import one_of_each_kind

every_name = pytest.mark.parametrize("name", one_of_each_kind(PEERS, heavy=()))
every_form = pytest.mark.parametrize(
    ("name", "stem"),
    [
        pytest.param(*each.values, stem, marks=each.marks)
        for each in one_of_each_kind(PEERS, heavy=())
        for stem in PEERS[each.values[0]].stems
    ],
)


def build(name: str, device: str = "meta", **arguments: Any) -> StagedNet:
    """Build a peer, on the meta device (shapes without arithmetic) unless told otherwise."""
    if PEERS[name].needs_extra and importlib.util.find_spec("pytorchcv") is None:
        pytest.skip("pytorchcv is not installed")
    with torch.device(device):
        return create_peer(name, **arguments)


@functools.cache
def build_once(name: str, stem: str) -> StagedNet:
    """Build a peer as the papers count it, on the meta device; the tests that share it do not change it."""
    return build(name, stem=stem, num_classes=10 if stem == "cifar" else 1000).eval()


def images(size: int, channels: int = 3, device: str = "meta") -> torch.Tensor:
    return torch.randn(2, channels, size, size, device=device)


@every_name
def test_options_and_heads(name: str) -> None:
    net = build(name, in_chans=1, drop_rate=0.25, num_classes=0).eval()
    assert {layer.p for layer in net.modules() if isinstance(layer, nn.Dropout)} == {0.25}
    features = net.forward_features(images(64, channels=1))
    assert features.shape[:2] == (2, net.num_features)
    assert net.forward_head(features).shape == (2, net.num_features)
    net.reset_classifier(5)
    assert net.forward_head(features, pre_logits=True).shape == (2, net.num_features)
    assert net.forward_head(features).shape == (2, 5)
    net.reset_classifier(0, global_pool="")
    assert net.forward_head(features).shape == features.shape


@every_form
def test_shapes_at_any_input_size(name: str, stem: str) -> None:
    net = build_once(name, stem)
    assert net(images(40)).shape == (2, net.num_classes)
    final, maps = net.forward_intermediates(torch.empty(1, 3, 96, 128, device="meta"))
    assert final.shape[1] == net.num_features
    assert net.forward_head(final).shape == (1, net.num_classes)
    assert [tuple(level.shape[1:]) for level in maps] == [
        (info["num_chs"], 96 // info["reduction"], 128 // info["reduction"]) for info in net.feature_info
    ]
    halved = 32 if stem == "imagenet" else 8 if name == "plainnet7" else 4  # cifar: without the first 3 halvings
    assert maps[-1].shape[2] == 96 // halved
    named = dict(net.named_modules())
    assert all(info["module"] in named for info in net.feature_info)


@every_form
def test_fx_traces(name: str, stem: str) -> None:
    net = build_once(name, stem)
    assert torch.fx.symbolic_trace(net)(images(64)).shape == (2, net.num_classes)


@every_name
def test_train_step_reaches_every_parameter(name: str) -> None:
    torch.manual_seed(0)
    stem = PEERS[name].stems[-1]  # cifar, where it has that: the smaller image
    net = build(name, device="cpu", stem=stem, num_classes=4).train()
    functional.cross_entropy(
        net(images(64 if stem == "imagenet" else 16, device="cpu")), torch.tensor([1, 3])
    ).backward()
    for key, parameter in net.named_parameters():
        assert parameter.grad is not None, key
        assert parameter.grad.abs().sum().isfinite(), key
        assert parameter.grad.any(), key


# the libraries' networks, unchanged: same weights, same features


def library_features(module: str, constructor: str, *arguments: Any, **keywords: Any) -> nn.Module:
    """Return what the library has before its pooling."""
    library = pytest.importorskip(module)
    return getattr(library, constructor)(*arguments, **keywords).features


LIBRARY = {
    "mobilenet_x0_25": ("pytorchcv.models.mobilenet", "mobilenet_wd4"),
    "mobilenetv2_x0_75": ("pytorchcv.models.mobilenetv2", "mobilenetv2_w3d4"),
    "mobilenetv2_x1_0": ("torchvision.models", "mobilenet_v2"),
    "shufflenetv2_x1_0": ("pytorchcv.models.shufflenetv2b", "shufflenetv2b_w1"),
    "igcv3_x1_0": ("pytorchcv.models.igcv3", "igcv3_w1"),
    "resnet20": ("pytorchcv.models.resnet_cifar", "resnet20_cifar10"),
    "densenet40_k12": ("pytorchcv.models.densenet_cifar", "densenet40_k12_cifar10"),
}


@pytest.mark.parametrize("name", LIBRARY)
def test_features_equal_the_library(name: str) -> None:
    torch.manual_seed(0)
    library = library_features(*LIBRARY[name]).eval()
    if hasattr(library, "final_pool"):
        library.final_pool = nn.Identity()
    net = build(name, device="cpu", num_classes=0).eval()
    ours, theirs = net.state_dict(), library.state_dict()
    ours.pop("_extra_state", None)  # the form, which the library's has not
    assert [tensor.shape for tensor in ours.values()] == [tensor.shape for tensor in theirs.values()]
    net.load_state_dict(dict(zip(ours, theirs.values(), strict=True)))
    x = images(64, device="cpu")
    with torch.no_grad():
        torch.testing.assert_close(net.forward_features(x), library(x))


def test_vgg16_hidden_layers_are_fully_connected() -> None:
    net = build("vgg16", num_classes=0)
    final = net.final.to_empty(device="cpu")
    fc6, fc7 = (layer for layer in final if isinstance(layer, nn.Conv2d))
    torch.manual_seed(0)
    for parameter in final.parameters():
        nn.init.uniform_(parameter, -0.01, 0.01)
    x = torch.rand(1, 512, 9, 9)
    with torch.no_grad():
        flat = functional.adaptive_avg_pool2d(x, 7).flatten(1)
        hidden = functional.relu(functional.linear(flat, fc6.weight.flatten(1), fc6.bias))
        hidden = functional.relu(functional.linear(hidden, fc7.weight.flatten(1), fc7.bias))
        torch.testing.assert_close(final.eval()(x).flatten(1), hidden, rtol=1e-4, atol=1e-5)


def test_condensenet_uses_every_channel_once_and_mixes_depths() -> None:
    net = build("condensenet_74_c8_g8", device="cpu")
    *inner, last = [layer.index for layer in net.modules() if isinstance(layer, ChannelSelect)]
    assert len(inner) == 36  # the 74 layers are 36 units of two, the first convolution and the classifier
    for index in inner:
        assert torch.equal(index.sort().values, torch.arange(len(index)))
        group = index[: len(index) // 8]
        assert torch.equal(group, torch.arange(0, len(index), 8))
    assert torch.equal(last, torch.arange(0, 2064, 2))


# IGCV2


def test_igcv2_block_connects_every_output_to_every_input() -> None:
    torch.manual_seed(0)
    block = InterleavedBlock(64, 128, stride=1).eval()
    for layer in block.modules():
        if isinstance(layer, nn.Conv2d):
            nn.init.constant_(layer.weight, 0.1)
    x = torch.ones(1, 64, 1, 1, requires_grad=True)
    for output in block(x).flatten():
        (gradient,) = torch.autograd.grad(output, x, retain_graph=True)
        assert (gradient != 0).all()


def test_igcv2_groups_and_widths() -> None:
    net = build("igcv2_x0_5")
    pointwise = [m for m in net.stages.modules() if isinstance(m, nn.Conv2d) and m.kernel_size == (1, 1)]
    assert len(pointwise) == 2 * 13  # MobileNet's 13 blocks
    assert [conv.groups for conv in pointwise] == [8] * 25 + [4]
    with pytest.raises(InputError, match=r"multiple of 0.125 .* found 0.3"):
        IGCV2(0.3)
    with pytest.raises(InputError, match="stem must be one of"):
        IGCV2(1.0, stem="tiny")


# the papers' counts


class Row(NamedTuple):
    """One row of a paper: millions of multiply-adds and of parameters, and what we may differ by, in percent."""

    name: str
    table: str
    macs: float
    macs_off: float
    params: float | None = None
    params_off: float = 0.0

    @property
    def stem(self) -> str:
        return "cifar" if self.table == "MuffNet 5" else "imagenet"


ROWS = [
    # a count that leaves out the fully connected layers; no GoogLeNet has 1550 M
    Row("vgg16", "MENet II", 15300, 1.2),
    Row("googlenet", "MENet II", 1550, 2.2),
    Row("mobilenet_x1_0", "MENet IV", 569, 0.1),
    Row("mobilenet_x0_75", "MENet IV", 325, 0.2),
    Row("mobilenet_x0_5", "MENet IV", 149, 0.4),
    Row("mobilenet_x0_25", "MENet IV", 41, 0.2),
    Row("shufflenetv2_x0_5", "MuffNet 5", 40, 0.5),
    Row("mobilenet_x0_25", "MuffNet 5", 41, 0.5),
    Row("mobilenetv2_x0_35", "MuffNet 5", 45, 0.4),
    Row("resnet20", "MuffNet 5", 41, 0.5),
    Row("shufflenetv2_x1_0", "MuffNet 5", 174, 0.6),
    Row("mobilenet_x0_5", "MuffNet 5", 156, 0.3),
    Row("mobilenetv2_x0_75", "MuffNet 5", 175, 0.3),
    Row("resnet56", "MuffNet 5", 126, 0.3),
    Row("resnet110", "MuffNet 5", 253, 0.1),
    Row("densenet40_k12", "MuffNet 5", 206, 0.1),
    Row("shufflenetv2_x1_5", "MuffNet 5", 370, 0.8),
    Row("mobilenet_x0_75", "MuffNet 5", 345, 0.5),
    Row("mobilenet_x1_0", "MuffNet 5", 612, 0.1),
    Row("mobilenetv2_x1_0", "MuffNet 5", 298, 0.6),
    Row("densenet_bc_100_k12", "MuffNet 5", 288, 0.1),
    Row("shufflenetv2_x0_5", "MuffNet 6", 41, 1.3, 1.4, 2.4),  # rounded by its authors
    Row("mobilenet_x0_25", "MuffNet 6", 41, 0.1, 0.5, 6.0),  # 0.470 M
    Row("mobilenetv2_x0_35", "MuffNet 6", 50, 1.5),  # rounded to 10 M
    Row("igcv2_x0_25", "MuffNet 6", 46, 0.2, 0.5, 4.0),  # 0.480 M
    Row("shufflenetv2_x1_0", "MuffNet 6", 146, 0.2, 2.3, 0.9),
    Row("mobilenet_x0_5", "MuffNet 6", 149, 0.4, 1.3, 2.5),
    Row("mobilenetv2_x0_75", "MuffNet 6", 190, 1.8, 2.7, 2.7),  # rounded to 10 M; 2.65 M with running statistics
    Row("igcv2_x0_5", "MuffNet 6", 156, 0.3, 1.3, 2.4),
    Row("igcv3_x0_7", "MuffNet 6", 210, 0.7, 2.8, 1.5),
    Row("shufflenetv2_x1_5", "MuffNet 6", 299, 0.1, 3.5, 0.3),
    Row("mobilenet_x0_75", "MuffNet 6", 325, 0.2, 2.6, 0.6),
    Row("mobilenet_x1_0", "MuffNet 6", 569, 0.1, 4.2, 0.8),
    Row("mobilenetv2_x1_0", "MuffNet 6", 300, 0.3, 3.4, 3.1),  # every implementation has 3.50 M
    Row("condensenet_74_c8_g8", "MuffNet 6", 274, 4.6, 2.9, 1.3),  # also counts ReLU and pooling
    Row("igcv2_x1_0", "MuffNet 6", 564, 0.2, 4.1, 1.1),
    Row("igcv3_x1_0", "MuffNet 6", 318, 1.6, 3.5, 0.3),  # also counts ReLU6
]


def count_macs(net: nn.Module, size: int) -> float:
    """Millions of multiply-adds of convolutions and linear layers for one image."""
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        net(torch.empty(1, 3, size, size, device="meta"))
    return counter.get_total_flops() / 2e6


SEEN = {row.name.partition("_")[0]: row for row in reversed(ROWS)}  # of each kind the first


@pytest.mark.parametrize(
    "row",
    [row if row in SEEN.values() else pytest.param(row, marks=pytest.mark.slow) for row in ROWS],
    ids=lambda row: f"{row.table}-{row.name}".replace(" ", "-"),
)
def test_cost_is_what_the_paper_states(row: Row) -> None:
    cifar = row.stem == "cifar"
    net = build_once(row.name, row.stem)
    assert count_macs(net, 32 if cifar else 224) == pytest.approx(row.macs, rel=row.macs_off / 100)
    if row.params is not None:
        params = sum(parameter.numel() for parameter in net.parameters()) / 1e6
        assert params == pytest.approx(row.params, rel=row.params_off / 100)


@pytest.mark.parametrize("name", ["igcv3_x1_0", "condensenet_74_c8_g8"])
def test_authors_count_adds_activations_and_pooling(name: str) -> None:
    """The deviations of these two rows are explained: with outputs of ReLU and average pooling the counts agree."""
    net = build(name).eval()
    extra = 0

    def add(layer: nn.Module, inputs: tuple[torch.Tensor, ...], output: torch.Tensor) -> None:
        nonlocal extra
        extra += output.numel() * (layer.kernel_size**2 if isinstance(layer, nn.AvgPool2d) else 1)  # type: ignore[operator]

    for layer in net.modules():
        if isinstance(layer, (nn.ReLU, nn.ReLU6, nn.AvgPool2d)):
            layer.register_forward_hook(add)
    macs = count_macs(net, 224)
    stated = {"igcv3_x1_0": 318, "condensenet_74_c8_g8": 274}[name]
    assert macs + extra / 1e6 == pytest.approx(stated, abs=0.5)


# errors


def test_unknown_name_gets_the_near_match() -> None:
    with pytest.raises(InputError, match="did you mean 'mobilenetv2_x1_0'"):
        create_peer("mobilenetv2_x10")


@pytest.mark.parametrize(
    ("name", "stem", "message"),
    [
        ("resnet20", "imagenet", "resnet20 has no imagenet stem: use stem='cifar'"),
        ("vgg16", "cifar", "vgg16 has no cifar stem: use stem='imagenet'"),
        ("googlenet", "tiny", "stem must be one of imagenet, cifar, found 'tiny'"),
    ],
)
def test_form_that_a_network_does_not_have(name: str, stem: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        create_peer(name, stem=stem)


def test_default_stem_is_the_form_it_has() -> None:
    assert build("densenet40_k12").feature_info[-1]["reduction"] == 4
    assert build("googlenet").feature_info[-1]["reduction"] == 32


@every_name
def test_missing_extra(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pytorchcv", None)
    with torch.device("meta"):
        if PEERS[name].needs_extra:
            with pytest.raises(InputError, match=rf"{name} needs pytorchcv, .*'compactnets\[peers\]'"):
                create_peer(name)
        else:
            assert create_peer(name).num_classes == 1000
