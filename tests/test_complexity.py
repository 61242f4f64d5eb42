"""Costs against closed forms, hand-counted examples and independent counters."""

from __future__ import annotations

import io
import itertools
import json
from collections.abc import Iterator
from pathlib import Path

import pytest
import timm
import torch
from rich.console import Console
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from compactnets.complexity import (
    CONVENTION,
    count,
    counted_connections,
    inter_group_connections,
    lost_share,
    profile,
    render,
)
from compactnets.errors import InputError
from compactnets.models.menet import MEModule
from compactnets.models.registry import FAMILIES
from compactnets.nn import ChannelShuffle, ConvNormAct, channel_shuffle, depthwise

from .names import one_of_each_kind

SIZE = (3, 10, 10)
FLOAT = 4  # bytes


class Through(nn.Module):
    """Runs one function of its input and of its modules."""

    def __init__(self, function, *modules: nn.Module) -> None:
        super().__init__()
        self.parts = nn.ModuleList(modules)
        self.function = function

    def forward(self, x: Tensor) -> Tensor:
        return self.function(x, *self.parts)


# ---------------------------------------------------------------------------------------------------- counting rules


@pytest.mark.parametrize("groups", [1, 2, 6])
@pytest.mark.parametrize("bias", [False, True])
def test_convolution(groups: int, bias: bool) -> None:
    cost = profile(nn.Conv2d(6, 12, (3, 5), stride=2, padding=1, groups=groups, bias=bias), (6, 11, 17))
    height, width = 6, 8  # (11 + 2 - 3) // 2 + 1, (17 + 2 - 5) // 2 + 1
    assert cost.macs == 12 * (6 // groups) * 3 * 5 * height * width
    assert cost.other_operations == (12 * height * width if bias else 0)
    assert cost.params == 12 * (6 // groups) * 15 + (12 if bias else 0)
    assert cost.layers[0].output_shape == (1, 12, height, width)


def test_transposed_convolution() -> None:
    assert profile(nn.ConvTranspose2d(3, 4, 2, stride=2, bias=False), SIZE).macs == 10 * 10 * 3 * 4 * 4


def test_linear_layers() -> None:
    cost = profile(nn.Sequential(nn.Linear(10, 7), nn.Flatten(), nn.Linear(210, 5, bias=False)), SIZE)
    assert [layer.macs for layer in cost.layers] == [3 * 10 * 10 * 7, 210 * 5]
    assert cost.other_operations == 3 * 10 * 7  # the bias of the first


@pytest.mark.parametrize(
    ("module", "expected"),
    [
        (nn.BatchNorm2d(3), 2 * 300),
        (nn.InstanceNorm2d(3), 4 * 300),
        (nn.GroupNorm(1, 3), 4 * 300),
        (nn.LayerNorm(10), 4 * 300),
        (nn.ReLU(), 300),
        (nn.ReLU(inplace=True), 300),
        (nn.Hardswish(), 300),
        (nn.Softmax(dim=1), 300),
        (nn.MaxPool2d(3, stride=2, padding=1), 9 * 75),
        (nn.AvgPool2d((2, 5)), 10 * 30),
        (nn.AdaptiveAvgPool2d(1), 300),
        (nn.AdaptiveAvgPool2d(5), 300),
        (nn.Identity(), 0),
        (nn.Flatten(), 0),
        (nn.Dropout(0.5), 0),
        (Through(lambda x: x.mean((2, 3))), 300),
        (Through(lambda x: x * x.new_ones(1, 3, 1, 1)), 300),
        (Through(lambda x: x.transpose(2, 3)[:, 1:]), 0),
    ],
    ids=repr,
)
def test_other_operations(module: nn.Module, expected: int) -> None:
    cost = profile(module, SIZE)
    assert (cost.macs, cost.other_operations, cost.moved_elements) == (0, expected, 0)


@pytest.mark.parametrize(
    ("module", "expected"),
    [
        (ChannelShuffle(6, 3), 600),
        (nn.ChannelShuffle(3), 600),
        (Through(lambda x: torch.cat((x, x[:, :2]), dim=1)), 800),
        (Through(lambda x: x.transpose(2, 3).contiguous()), 600),
        (Through(lambda x: x.contiguous()), 0),
        (nn.ZeroPad2d(1), 6 * 144),
    ],
    ids=repr,
)
def test_moved_elements(module: nn.Module, expected: int) -> None:
    cost = profile(module, (6, 10, 10))
    assert (cost.macs, cost.other_operations, cost.moved_elements) == (0, 0, expected)


def test_work_in_forward_belongs_to_the_module_that_does_it() -> None:
    layers = {layer.name: layer for layer in profile(MEModule(24, 24, 4, 2), (24, 8, 8)).layers}
    # the module's own forward: sigmoid and product on the bottleneck's 6 channels, then the sum of 24
    assert layers[""].type == "MEModule"
    assert (layers[""].other_operations, layers[""].macs, layers[""].params) == ((6 + 6 + 24) * 64, 0, 0)
    assert layers["shuffle"].moved_elements == 6 * 64
    assert layers["compress.conv"].macs == 6 * 12 * 64
    assert layers["compress.norm"].other_operations == 2 * 6 * 64
    assert layers["act"].other_operations == 24 * 64
    assert "merge" not in layers  # a container without work of its own


def test_counts_are_per_image_and_memory_per_batch() -> None:
    model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(128, 2))
    one, four = profile(model, SIZE), profile(model, SIZE, batch_size=4)
    assert (four.macs, four.other_operations) == (one.macs, one.other_operations)
    assert four.peak_activation_bytes == 4 * one.peak_activation_bytes
    assert four.layers[0].output_shape == (4, 8, 8, 8)


def test_shared_layers_count_their_parameters_once_and_their_work_twice() -> None:
    conv = nn.Conv2d(3, 3, 1, bias=False)
    tied = nn.Conv2d(3, 3, 1, bias=False)
    tied.weight = conv.weight
    cost = profile(nn.Sequential(conv, conv, tied), SIZE)
    assert (cost.params, cost.weight_bytes, cost.macs) == (9, 9 * FLOAT, 3 * 900)
    assert [(layer.name, layer.macs, layer.params) for layer in cost.layers] == [("0", 1800, 9), ("2", 900, 0)]


def test_a_module_that_does_not_run_keeps_its_parameters() -> None:
    unused = profile(Through(lambda x, used, unused: used(x), nn.Conv2d(3, 2, 1), nn.Conv2d(3, 4, 1)), SIZE).layers[-1]
    assert (unused.name, unused.output_shape, unused.macs, unused.params) == ("parts.1", None, 0, 16)


def test_weight_bytes_are_float32() -> None:
    model = nn.Sequential(nn.Conv2d(3, 8, 1, bias=False), nn.BatchNorm2d(8))
    expected = FLOAT * (24 + 16 + 16) + 8  # weights, affine, running statistics, the int64 counter
    for dtype in (torch.float32, torch.float16):
        cost = profile(model.to(dtype), SIZE)
        assert (cost.params, cost.buffers, cost.weight_bytes) == (40, 17, expected)
        assert cost.peak_activation_bytes == FLOAT * (3 + 8 + 8) * 100


# ------------------------------------------------------------------------------------------------ published networks


@pytest.mark.parametrize(
    ("name", "macs", "params"), [("menet_228_12x1_g3", "144.09", "1.807"), ("menet_108_8x1_g3", "38.29", "0.655")]
)
def test_published_networks(name: str, macs: str, params: str) -> None:
    cost = profile(timm.create_model(name))
    assert (f"{cost.macs / 1e6:.2f}", f"{cost.params / 1e6:.3f}") == (macs, params)


@pytest.mark.parametrize("name", one_of_each_kind(FAMILIES))
def test_every_network_against_independent_counters(name: str) -> None:
    """Layers sum to the total; the total is what the library counts on a real run; ``count`` agrees."""
    model = timm.create_model(name).eval()
    cost = profile(model, (3, 64, 64))
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        model(torch.randn(1, 3, 64, 64))
    assert cost.macs == counter.get_total_flops() / 2
    assert cost.params == sum(parameter.numel() for parameter in model.parameters())
    assert count(model, (3, 64, 64)) == (cost.macs, cost.params)
    for quantity in ("macs", "other_operations", "moved_elements", "params"):
        assert sum(getattr(layer, quantity) for layer in cost.layers) == getattr(cost, quantity)
    assert sum(layer.macs_share for layer in cost.layers) == pytest.approx(1)


@pytest.mark.parametrize("name", ["resnext50_32x4d", "efficientnet_b0", "densenet121"])
def test_networks_of_other_libraries(name: str) -> None:
    model = timm.create_model(name).eval()
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        model(torch.randn(1, 3, 224, 224))
    assert profile(model).macs == counter.get_total_flops() / 2


def test_attention_counts_its_two_matrix_products() -> None:
    """By hand: whether a release of PyTorch has a formula for the kernel that it fuses attention into makes no odds."""
    tokens, width, blocks, classes = 14 * 14 + 1, 192, 12, 1000
    linear = tokens * width * (3 * width + width + 4 * width + 4 * width)
    attention = 2 * tokens * tokens * width
    macs = 14 * 14 * 3 * 16 * 16 * width + blocks * (linear + attention) + width * classes
    model = timm.create_model("vit_tiny_patch16_224")
    assert profile(model).macs == macs
    assert count(model, (3, 224, 224))[0] == macs


def test_attention_of_torch_counts_alike_where_inference_would_fuse_the_layer() -> None:
    tokens, width = 9, 16
    layer = nn.TransformerEncoderLayer(width, nhead=4, dim_feedforward=32, batch_first=True, dropout=0.0)
    model = Through(lambda x, inner: inner(x.flatten(2)), layer)
    macs = tokens * width * (4 * width + 2 * 32) + 2 * tokens * tokens * width
    assert profile(model, (tokens, 4, 4)).macs == macs


# ------------------------------------------------------------------------------------------------- activation memory


def _add(x: Tensor, first: nn.Module, second: nn.Module) -> Tensor:
    y = first(x)
    y = second(y)
    return x + y


def _concatenate(x: Tensor, first: nn.Module, second: nn.Module) -> Tensor:
    return torch.cat((first(x), second(x)), dim=1)


@pytest.mark.parametrize(
    ("model", "values"),
    [
        # the input stays with the caller; a layer holds its own input and output
        (nn.Sequential(nn.Conv2d(3, 8, 1), nn.ReLU(inplace=True), nn.Conv2d(8, 4, 1)), (3 + 8 + 4) * 100),
        (nn.Sequential(nn.Conv2d(3, 8, 1), nn.ReLU(), nn.Conv2d(8, 4, 1)), (3 + 8 + 8) * 100),
        # a nested container keeps its input for as long as it runs
        (
            nn.Sequential(nn.Conv2d(3, 8, 1), nn.Sequential(nn.Conv2d(8, 2, 1), nn.Conv2d(2, 9, 1))),
            (3 + 8 + 2 + 9) * 100,
        ),
        (Through(_add, nn.Conv2d(3, 16, 1), nn.Conv2d(16, 3, 1)), (3 + 16 + 3) * 100),
        (Through(_concatenate, nn.Conv2d(3, 4, 1), nn.Conv2d(3, 6, 1)), (3 + 4 + 6 + 10) * 100),
        (Through(lambda x: x.transpose(2, 3).flatten(2)[:, 1:]), 3 * 100 + 3 * 100),  # only the flattening copies
        (nn.Sequential(nn.Flatten(), nn.Unflatten(1, (3, 100))), 3 * 100),  # views hold nothing of their own
        (nn.MaxPool2d(2), 300 + 75 + 2 * 75),  # eager max-pooling also returns its indices, 8 bytes each
        (nn.BatchNorm2d(3), 300 + 300),
    ],
)
def test_peak_activations_by_hand(model: nn.Module, values: int) -> None:
    assert profile(model, SIZE).peak_activation_bytes == values * FLOAT


def test_peak_layer() -> None:
    assert profile(nn.Sequential(nn.Conv2d(3, 8, 1), nn.ReLU(), nn.Conv2d(8, 4, 1)), SIZE).peak_layer == "1"


def _allocated(model: nn.Module, size: tuple[int, int, int], trace: Path) -> int:
    """Peak that PyTorch's own profiler saw its allocator hold during a real run, with the input."""
    x = torch.randn(1, *size)
    with torch.no_grad():
        model.eval()(x)
        with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True) as run:
            model(x)
    run.export_chrome_trace(str(trace))
    events = [event for event in json.loads(trace.read_text())["traceEvents"] if event["name"] == "[memory]"]
    held = peak = 0
    for event in sorted(events, key=lambda event: event["ts"]):
        held += event["args"]["Bytes"]
        peak = max(peak, held)
    return peak + x.untyped_storage().nbytes()


def test_peak_activations_are_what_the_allocator_holds(tmp_path: Path) -> None:
    def branches(x: Tensor) -> Tensor:
        left = torch.relu_(torch.nn.functional.max_pool2d(x, 3, 1, 1))
        right = channel_shuffle(torch.sigmoid(x), 2)
        return torch.cat((left * right, x), dim=1)

    model = Through(branches)
    assert profile(model, (8, 32, 32)).peak_activation_bytes == _allocated(model, (8, 32, 32), tmp_path / "trace.json")


def test_peak_activations_of_a_network_leave_out_only_scratch_memory(tmp_path: Path) -> None:
    model = timm.create_model("menet_228_12x1_g3")
    peak, allocated = profile(model).peak_activation_bytes, _allocated(model, (3, 224, 224), tmp_path / "trace.json")
    assert peak <= allocated <= 1.25 * peak  # the convolutions' scratch memory depends on the processor


# -------------------------------------------------------------------------------------------- the caller's own network


def _tensors(model: nn.Module) -> Iterator[tuple[str, Tensor]]:
    return itertools.chain(model.named_parameters(), model.named_buffers())


def test_the_callers_network_is_not_changed() -> None:
    model = timm.create_model("menet_108_8x1_g3").train()
    before = {key: value.clone() for key, value in model.state_dict().items()}
    pointers = {key: value.data_ptr() for key, value in _tensors(model)}
    calls: list[str] = []
    model.stages.register_forward_hook(lambda *_: calls.append("hook"))
    model.stem.register_forward_pre_hook(lambda *_: calls.append("pre-hook"))
    model.classifier.eval()
    modes = [module.training for module in model.modules()]

    profile(model, (3, 64, 64))
    count(model, (3, 64, 64))

    assert [module.training for module in model.modules()] == modes
    assert all(parameter.requires_grad and not parameter.is_meta for parameter in model.parameters())
    assert {key: value.data_ptr() for key, value in _tensors(model)} == pointers
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
    assert [sum(len(module._forward_hooks) for module in model.modules()), calls] == [1, []]
    model(torch.randn(2, 3, 64, 64))
    assert calls == ["pre-hook", "hook"]


def test_nothing_is_allocated_or_computed() -> None:
    with torch.device("meta"):
        model = nn.Sequential(nn.Flatten(), nn.Linear(3_000_000, 1_000_000, bias=False))  # 12 TB of weights
    assert profile(model, (3, 1000, 1000)).macs == 3 * 10**12
    assert count(model.eval(), (3, 1000, 1000)) == (3 * 10**12, 3 * 10**12)


def test_tensors_that_are_neither_parameters_nor_buffers() -> None:
    model = Through(lambda x: x)
    model.scale = torch.ones(3, 1, 1, requires_grad=True) * 2  # not a leaf: PyTorch refuses to deep-copy it
    model.function = lambda x: x * model.scale if x.device == model.scale.device else x.relu()
    assert profile(model, SIZE).other_operations == 300


@pytest.mark.parametrize("function", [profile, count])
@pytest.mark.parametrize(
    ("name", "size", "message"),
    [
        ("menet_108_8x1_g3", (1, 64, 64), "takes images of 3 channels, found 1.*in_chans=1"),
        ("menet_108_8x1_g3", (3, 0, 64), "three positive numbers .*found 1 and 3 0 64"),
        ("menet_108_8x1_g3", (3, 64), "three positive numbers"),
        ("vit_tiny_patch16_224", (3, 64, 64), "cannot run on an input of 3 x 64 x 64; it is made for 3 x 224 x 224"),
    ],
)
def test_input_that_the_network_does_not_take(function, name: str, size: tuple[int, ...], message: str) -> None:
    with pytest.raises(InputError, match=message) as error:
        function(timm.create_model(name), size)
    assert "\n" not in str(error.value)


def test_any_complaint_of_a_forward_is_one_line() -> None:
    def bare_assertion(x: Tensor) -> Tensor:
        assert x.shape[1] == 4
        return x

    with pytest.raises(InputError, match=r"Through cannot run on an input of 3 x 10 x 10 \("):
        profile(Through(bare_assertion), SIZE)
    with pytest.raises(InputError, match="Sequential cannot run on an input of 3 x 4 x 4"):
        profile(nn.Sequential(nn.AvgPool2d(7)), (3, 4, 4))


def test_count_leaves_out_what_only_training_runs() -> None:
    def with_auxiliary(x: Tensor, main: nn.Module, auxiliary: nn.Module) -> Tensor:
        return main(x) + auxiliary(x) if auxiliary.training else main(x)

    with torch.device("meta"):
        model = Through(with_auxiliary, nn.Conv2d(3, 8, 1, bias=False), nn.Conv2d(3, 8, 1, bias=False)).train()
    assert count(model, SIZE) == count(model.eval(), SIZE) == (2400, 48)


# ------------------------------------------------------------------------------------------- inter-group connections


def _count_pairs(channels: int, groups: int, shuffle_groups: int) -> float:
    """Count, connection by connection, what equation 2 of MENet states."""
    size = channels // groups
    order = channel_shuffle(torch.arange(channels).view(1, -1, 1, 1), shuffle_groups).flatten().tolist()
    pairs = [
        (order[position], output)
        for output in range(channels)
        for position in range(channels)
        if position // size == output // size  # the output channel sees this position
    ]
    return sum(former // size != output // size for former, output in pairs) / 2


@pytest.mark.parametrize(
    ("channels", "groups"), [(9, 3), (27, 3), (16, 4), (64, 4), (64, 8), (128, 8), (36, 6), (5, 1)]
)
def test_equations(channels: int, groups: int) -> None:
    total, actual = inter_group_connections(channels, groups)
    assert (
        total
        == sum(i * groups // channels != j * groups // channels for i in range(channels) for j in range(channels)) / 2
    )
    assert actual == _count_pairs(channels, groups, groups)
    assert lost_share(groups) == pytest.approx(1 - actual / total if total else 0)


def test_lost_share_of_the_paper() -> None:
    assert [f"{lost_share(groups):.1%}" for groups in (3, 8)] == ["66.7%", "87.5%"]  # section III-A


@pytest.mark.parametrize(("channels", "groups"), [(57, 3), (88, 8), (60, 3), (40, 8), (6, 3)])
def test_counted_connections_where_the_equation_only_approximates(channels: int, groups: int) -> None:
    size = channels // groups
    labels = channel_shuffle((torch.arange(channels) // size).view(1, -1, 1, 1), groups).flatten().tolist()
    assert counted_connections(labels, groups)[1] == _count_pairs(channels, groups, groups)
    assert counted_connections(labels, groups)[0] == inter_group_connections(channels, groups)[0]


def _expected(name: str) -> tuple[float, float]:
    """Sum of the counted pairs of a MENet: every module but the first, whose first convolution is dense."""
    modules = [module for module in timm.create_model(name).modules() if isinstance(module, MEModule)][1:]
    shuffles = [(module.shuffle.channels, module.shuffle.groups) for module in modules]
    return (
        sum(inter_group_connections(*shuffle)[0] for shuffle in shuffles),
        sum(_count_pairs(channels, groups, groups) for channels, groups in shuffles),
    )


@pytest.mark.parametrize("name", ["menet_108_8x1_g3", "menet_228_12x1_g3", "menet_160_8x1_g8", "menet_256_12x1_add_g4"])
def test_connections_of_a_network(name: str) -> None:
    connections = profile(timm.create_model(name), (3, 64, 64)).inter_group
    assert connections is not None
    total, actual = _expected(name)
    assert (connections.pairs, connections.total, connections.actual) == (15, total, actual)
    assert connections.lost_share == pytest.approx(1 - actual / total)
    assert connections.merged


def _unit(*middle: nn.Module, groups: int = 4) -> nn.Sequential:
    return nn.Sequential(ConvNormAct(16, 32, groups=groups), *middle, ConvNormAct(32, 16, groups=groups))


def test_connections_of_hand_made_units() -> None:
    def lost(model: nn.Module) -> tuple[float, bool] | None:
        connections = profile(model, (16, 8, 8)).inter_group
        return connections and (connections.lost_share, connections.merged)

    shuffle = ChannelShuffle(32, 4)
    assert lost(_unit(shuffle, depthwise(32))) == (0.75, False)
    assert lost(_unit(nn.ChannelShuffle(4))) == (0.75, False)
    assert lost(_unit(depthwise(32, stride=2), shuffle, nn.AvgPool2d(3))) == (0.75, False)
    assert lost(_unit(depthwise(32))) == (1.0, False)  # no shuffle: no group ever meets another
    assert lost(_unit(ChannelShuffle(32, 8))) == (0.75, False)  # another shuffle: each group still meets all four
    assert lost(_unit(shuffle, ConvNormAct(32, 32))) is None  # a dense layer in between reconnects everything
    assert lost(_unit(nn.Conv2d(32, 32, 3, groups=4))) is None  # not a pair of pointwise convolutions
    resnext = nn.Sequential(ConvNormAct(16, 32), ConvNormAct(32, 32, 3, groups=4), ConvNormAct(32, 16))
    assert lost(resnext) is None
    assert lost(ConvNormAct(16, 16, groups=4)) is None
    other_groups = nn.Sequential(ConvNormAct(16, 32, groups=4), shuffle, ConvNormAct(32, 16, groups=8))
    assert lost(other_groups) is None  # the equations are for one number of groups
    assert lost(_unit(Through(lambda x: x.flip(1)))) is None  # an order that is not followed is not claimed


def test_only_a_fusion_branch_that_mixes_the_groups_merges() -> None:
    def merged(function, *modules: nn.Module) -> bool | None:
        connections = profile(_unit(ChannelShuffle(32, 4), Through(function, *modules)), (16, 8, 8)).inter_group
        return connections and connections.merged

    bottleneck = nn.Sequential(ConvNormAct(32, 4), ConvNormAct(4, 4, 3), ConvNormAct(4, 32, activation=False))
    assert merged(lambda x, fuse: x * torch.sigmoid(fuse(x)), bottleneck) is True
    assert merged(lambda x, fuse: fuse(x) + x, bottleneck) is True
    assert merged(lambda x, squeeze: x * torch.sigmoid(squeeze(x.mean((2, 3), keepdim=True))), bottleneck) is True
    assert merged(lambda x, branch: x * torch.sigmoid(branch(x)), depthwise(32)) is False
    assert merged(lambda x: x * torch.sigmoid(x)) is False


def test_a_branch_with_other_groups_of_its_own_breaks_the_pair() -> None:
    mixes_others = nn.Sequential(ConvNormAct(32, 32, groups=4), ConvNormAct(32, 32))
    product = Through(lambda x, branch: x * branch(x), mixes_others)
    connections = profile(_unit(ChannelShuffle(32, 4), product), (16, 8, 8)).inter_group
    assert connections is not None
    assert (connections.pairs, connections.merged) == (1, False)  # into the branch; what leaves the product is neither


def test_a_pair_does_not_reach_across_an_identity_branch() -> None:
    unit = Through(lambda x, residual: x + residual(x), _unit(ChannelShuffle(32, 4)))
    connections = profile(nn.Sequential(unit, unit), (16, 8, 8)).inter_group
    assert connections is not None
    assert connections.pairs == 2  # one in each unit, none from unit to unit


@pytest.mark.parametrize(("channels", "groups"), [(10, 3), (0, 1), (4, 0)])
def test_groups_that_do_not_divide_the_channels(channels: int, groups: int) -> None:
    with pytest.raises(InputError, match=f"found {channels} channels, {groups} groups"):
        inter_group_connections(channels, groups)


# ------------------------------------------------------------------------------------------------------------ output


def test_the_record_is_json_ready_and_states_its_convention() -> None:
    cost = profile(timm.create_model("menet_108_8x1_g3"), (3, 64, 64))
    record = json.loads(json.dumps(cost.to_dict()))
    assert record["convention"] == CONVENTION
    assert "multiply-adds" in CONVENTION
    assert record["macs"] == cost.macs
    assert record["input_size"] == [3, 64, 64]
    assert record["layers"][0]["name"] == "stem.conv.conv"
    assert record["layers"][0]["output_shape"] == [1, 12, 32, 32]
    assert record["inter_group"]["pairs"] == 15
    assert json.loads(json.dumps(profile(nn.ReLU(), SIZE).to_dict()))["inter_group"] is None


@pytest.mark.parametrize("per_layer", [False, True])
def test_the_table(per_layer: bool) -> None:
    console = Console(width=100, record=True, file=io.StringIO())
    console.print(render(profile(timm.create_model("menet_228_12x1_g3")), per_layer, title="menet_228_12x1_g3"))
    text = console.export_text()
    for stated in ("144.09 M", "1,806.57 K", "7,167.5 KiB", "67.0% of 107,217"):
        assert stated in text
    assert " ".join(text.split()).endswith(CONVENTION)
    assert ("stages.2.3.shuffle" in text) == per_layer
    assert max(map(len, text.splitlines())) <= 100


def test_the_table_of_a_network_without_groups() -> None:
    console = Console(width=100, record=True, file=io.StringIO())
    console.print(render(profile(nn.Conv2d(3, 4, 1), SIZE, batch_size=2), per_layer=True))
    text = console.export_text()
    for stated in ("(network)", "none: no consecutive grouped", "(2 images; at (network))"):
        assert stated in text
