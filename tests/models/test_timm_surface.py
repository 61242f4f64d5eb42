"""timm's surface on every family: what timm's own conformance tests ask of a model, TorchScript excepted."""

from __future__ import annotations

import fnmatch
import socket
from itertools import product
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from safetensors.torch import save_model
from timm.data import resolve_data_config
from timm.layers import DropPath
from timm.models import group_parameters
from timm.optim import create_optimizer_v2
from torch import Tensor, nn
from torch.nn import functional

from compactnets.errors import InputError
from compactnets.models.registry import FAMILIES
from compactnets.models.staged import STEMS, StagedNet

from ..names import one_of_each_kind

EXAMPLES = (
    "menet_108_8x1_g3",
    "menet_256_12x1_add_g4",
    "muffnet_x0_5",
    "shufflenet_g3_x0_5",
    "resnet15_38m",
    "resnext15_38m",
    "xception15_38m",
)
FEATURE_CLASSES = ("getter", "hook", "fx", "list", "dict")

every_name = pytest.mark.parametrize("name", FAMILIES)
every_kind = pytest.mark.parametrize("name", one_of_each_kind(FAMILIES))
every_example = pytest.mark.parametrize("name", EXAMPLES)
# both forms of the two families of the papers, one of the others
every_form = pytest.mark.parametrize(
    ("name", "stem"),
    [
        pytest.param(
            name,
            stem,
            marks=() if stem == "imagenet" or name in ("menet_108_8x1_g3", "muffnet_x0_5") else pytest.mark.slow,
        )
        for name, stem in product(EXAMPLES, STEMS)
    ],
)


def build(name: str, **arguments: Any) -> StagedNet:
    torch.manual_seed(0)
    network = timm.create_model(name, **arguments)
    assert isinstance(network, StagedNet)
    return network.eval()


def images(batch: int = 2, size: int = 32, channels: int = 3) -> Tensor:
    return torch.randn(batch, channels, size, size, generator=torch.Generator().manual_seed(1))


def small(stem: str) -> int:
    """The side of an image whose last map is more than one pixel."""
    return 64 if stem == "imagenet" else 16


def expected_levels(stem: str) -> list[int]:
    """The reduction of every level of ``feature_info``."""
    return [2, 4, 8, 16, 32] if stem == "imagenet" else [1, 1, 2, 4]


# registration


@pytest.mark.parametrize(
    "pattern", ["menet*", "muffnet*", "shufflenet_g?_x*", "resnet15*", "resnext15*", "xception15*", "*_g3*"]
)
def test_list_models(pattern: str) -> None:
    listed = timm.list_models(pattern)
    expected = fnmatch.filter(FAMILIES, pattern)
    assert expected
    assert set(expected) <= set(listed)
    assert all(timm.is_model(name) for name in expected)
    assert not set(expected) & set(timm.list_models(pattern, pretrained=True))


@pytest.mark.parametrize("module", ["menet", "muffnet", "shufflenet", "fifteen"])
def test_list_by_module(module: str) -> None:
    expected = {name for name, family in FAMILIES.items() if family == module}
    assert set(timm.list_models(module=module)) == expected


@every_name
def test_entry_point_is_the_packages_own(name: str) -> None:
    """No name of the package hides one of timm's, and each entry point is an attribute of its family's module."""
    entry = timm.model_entrypoint(name)
    assert entry.__module__ == f"compactnets.models.{FAMILIES[name]}"
    assert entry.__name__ == name
    assert entry.__doc__ is not None
    assert entry.__doc__.startswith(name)


@every_example
def test_pretrained_weights_need_a_tag_or_do_not_exist(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def connect(*arguments: object) -> None:
        raise AssertionError("the network was touched")

    monkeypatch.setattr(socket.socket, "connect", connect)
    monkeypatch.setattr(socket, "getaddrinfo", connect)
    tagged = name in ("menet_108_8x1_g3", "muffnet_x0_5")
    told = f"{name}.cifar10" if tagged else f"No pretrained weights exist for {name}"
    with pytest.raises(ValueError if tagged else RuntimeError, match=told):
        timm.create_model(name, pretrained=True)


def test_weights_load_through_checkpoint_path(tmp_path: Path) -> None:
    network = build("menet_108_8x1_g3", num_classes=5)
    save_model(network, str(tmp_path / "weights.safetensors"))
    torch.manual_seed(7)
    loaded = timm.create_model(
        "menet_108_8x1_g3", num_classes=5, checkpoint_path=str(tmp_path / "weights.safetensors")
    ).eval()
    assert torch.equal(loaded(images()), network(images()))


# configuration and heads


@every_kind
def test_default_configuration(name: str) -> None:
    network = build(name)
    cfg = network.default_cfg
    assert isinstance(cfg, dict)
    assert cfg["architecture"] == name
    config = resolve_data_config(model=network)
    assert config["input_size"] == (3, 224, 224)
    assert (config["crop_pct"], config["interpolation"]) == (0.875, "bilinear")
    state_dict = network.state_dict()
    assert state_dict[f"{cfg['classifier']}.weight"].shape == (1000, network.num_features)
    assert state_dict[f"{cfg['first_conv']}.weight"].shape[1] == 3
    assert network.get_submodule(cfg["classifier"]) is network.get_classifier()
    with torch.no_grad():
        features = network.forward_features(torch.randn(1, 3, 224, 224))
    assert features.shape == (1, network.num_features, *cfg["pool_size"])
    assert network.forward_head(features, pre_logits=True).shape == (1, network.head_hidden_size)
    assert network.forward_head(features).shape == (1, network.num_classes)


@every_form
def test_heads(name: str, stem: str) -> None:
    network = build(name, stem=stem)
    x = images(size=small(stem))
    side = small(stem) // expected_levels(stem)[-1]
    with torch.no_grad():
        features = network.forward_features(x)
        pooled = network.forward_head(features, pre_logits=True)
        torch.testing.assert_close(network(x), network.forward_head(features))
        torch.testing.assert_close(pooled, features.mean(dim=(2, 3)))
        network.reset_classifier(0)
        assert network.num_classes == 0
        assert torch.equal(network(x), pooled)
        network.reset_classifier(0, "")
        assert torch.equal(network(x), features)
        assert features.shape == (2, network.num_features, side, side)
        network.reset_classifier(7, "avg")
        assert network(x).shape == (2, 7)
        assert build(name, stem=stem, num_classes=0, global_pool="")(x).shape == features.shape
        assert build(name, stem=stem, num_classes=0)(x).shape == (2, network.num_features)


def test_a_new_classifier_brings_the_pooling_back() -> None:
    """As timm's suite asks: a classifier can be set whatever the head was before."""
    network = build("shufflenet_g3_x0_25", num_classes=0, global_pool="")
    network.reset_classifier(2)
    assert network(images()).shape == (2, 2)
    assert not any(module.training for module in network.modules())
    with pytest.raises(ValueError, match="global_pool"):
        network.reset_classifier(2, "")


def test_networks_are_built_where_and_as_what_they_are_asked_to_be() -> None:
    """timm's ``device`` and ``dtype``, which no context or later conversion replaces."""
    network = timm.create_model("shufflenet_g3_x0_25", device="meta", dtype=torch.float64)
    tensors = [*network.named_parameters(), *network.named_buffers()]
    assert all(tensor.is_meta for _, tensor in tensors)
    assert {tensor.dtype for _, tensor in tensors} == {torch.float64, torch.int64}
    backbone = timm.create_model("shufflenet_g3_x0_25", device="meta", features_only=True)
    assert all(parameter.is_meta for parameter in backbone.parameters())


def test_new_classifier_keeps_type_device_and_mode() -> None:
    network = build("shufflenet_g3_x0_5", drop_rate=0.5).to(torch.bfloat16).train()
    network.reset_classifier(3)
    assert network.classifier.weight.dtype == torch.bfloat16
    assert network.classifier.training
    assert isinstance(network.dropout, nn.Dropout)
    assert network.dropout.p == 0.5
    with torch.device("meta"):
        meta = timm.create_model("shufflenet_g3_x0_5")
    meta.reset_classifier(3)
    assert meta.classifier.weight.is_meta


@every_form
@pytest.mark.parametrize("channels", [1, 4])
def test_other_channels(name: str, stem: str, channels: int) -> None:
    network = build(name, stem=stem, in_chans=channels, num_classes=6)
    with torch.no_grad():
        assert network(images(channels=channels)).shape == (2, 6)
    assert network.get_submodule(network.default_cfg["first_conv"]).weight.shape[1] == channels


@every_example
@pytest.mark.parametrize("output_stride", [8, 16])
def test_output_stride(name: str, output_stride: int) -> None:
    """Every k-th pixel of the larger map is what the network computes without it; the weights are the same."""
    plain, dilated = build(name), build(name, output_stride=output_stride)
    dilated.load_state_dict(plain.state_dict())
    assert [entry["reduction"] for entry in dilated.feature_info] == [
        min(level, output_stride) for level in expected_levels("imagenet")
    ]
    step = 32 // output_stride
    with torch.no_grad():
        features = dilated.forward_features(images(size=64))
        assert features.shape[-1] == 64 // output_stride
        expected = plain.forward_features(images(size=64))
    torch.testing.assert_close(features[..., ::step, ::step], expected, rtol=1e-3, atol=1e-3 * float(expected.std()))
    backbone = timm.create_model(name, features_only=True, output_stride=output_stride)
    assert [each.shape[-1] for each in backbone(images(size=64))] == [
        64 // each for each in backbone.feature_info.reduction()
    ]


def test_a_stride_that_no_map_has_is_refused() -> None:
    with pytest.raises(InputError, match="one of 2, 4, 8, 16, 32.*found 12"):
        timm.create_model("muffnet_x0_5", output_stride=12)
    assert timm.create_model("muffnet_x0_5", stem="cifar", output_stride=2).feature_info[-1]["reduction"] == 2


@pytest.mark.parametrize("name", ["menet_108_8x1_g3", "muffnet_x0_5", "resnet15_38m"])
def test_drop_path(name: str) -> None:
    """Rates rise to the last branch; nothing changes in evaluation, and branches are left out in training."""
    plain, dropping = build(name), build(name, drop_path_rate=0.5)
    dropping.load_state_dict(plain.state_dict())
    rates = [module.drop_prob for module in dropping.modules() if isinstance(module, DropPath)]
    assert rates == sorted(rates)
    assert rates[-1] == 0.5
    x = images(batch=1)
    with torch.no_grad():
        assert torch.equal(dropping(x), plain(x))
        ends = [module for module in dropping.modules() if isinstance(module, DropPath)]
        zero = []
        for end in ends:
            end.register_forward_hook(lambda *given: zero.extend(not image.any() for image in given[2]))
        dropping.train()
        for _ in range(8):
            dropping(images(batch=2)[:1].repeat(2, 1, 1, 1))
    assert any(zero)
    assert not all(zero)


def test_drop_path_needs_branches() -> None:
    with pytest.raises(InputError, match="needs residual branches"):
        timm.create_model("muffnet_x0_5", sharing="average+geometric+average", drop_path_rate=0.1)
    with pytest.raises(InputError, match="found 1.5"):
        timm.create_model("menet_108_8x1_g3", drop_path_rate=1.5)


# forward and backward


@every_kind
def test_forward_and_backward(name: str) -> None:
    """The output is finite, and every parameter gets a gradient."""
    network = build(name, num_classes=42).train()
    output = network(images(size=64))
    assert output.shape == (2, 42)
    functional.cross_entropy(output, torch.tensor([3, 17])).backward()
    for key, parameter in network.named_parameters():
        assert parameter.grad is not None, key
        assert parameter.grad.isfinite().all(), key
        assert parameter.grad.any(), key


@every_form
def test_any_input_size(name: str, stem: str) -> None:
    network = build(name, stem=stem, num_classes=3)
    for height, width in ((32, 32), (17, 45)):
        with torch.no_grad():
            assert network(torch.randn(1, 3, height, width)).isfinite().all()


@every_form
def test_gradient_checkpointing(name: str, stem: str) -> None:
    """Same outputs and gradients, and the stages run a second time in the backward pass."""
    x = images(size=small(stem))
    results = []
    for enable in (False, True):
        network = build(name, stem=stem, num_classes=5).train()
        network.set_grad_checkpointing(enable)
        calls: list[int] = []
        for stage in network.stages:
            stage.register_forward_pre_hook(lambda *_, calls=calls: calls.append(1))
        features, maps = network.forward_intermediates(x)
        network.forward_head(features).sum().backward()
        gradients = {key: parameter.grad for key, parameter in network.named_parameters()}
        assert len(calls) == (6 if enable else 3)
        network.zero_grad(set_to_none=True)
        output = network(x)
        output.sum().backward()
        assert len(calls) == (12 if enable else 6)
        results.append([output, *maps, *gradients.values()])
        torch.testing.assert_close(gradients, {key: parameter.grad for key, parameter in network.named_parameters()})
    torch.testing.assert_close(*results, rtol=1e-4, atol=1e-5)


# features


@every_kind
def test_features_only(name: str) -> None:
    network = timm.create_model(name, features_only=True).eval()
    assert network.feature_info.reduction() == [2, 4, 8, 16, 32]
    with torch.no_grad():
        maps = network(torch.randn(1, 3, 64, 64))
    assert [tuple(level.shape) for level in maps] == [
        (1, channels, 64 // reduction, 64 // reduction)
        for channels, reduction in zip(network.feature_info.channels(), network.feature_info.reduction(), strict=True)
    ]


FEATURE_CASES: list[tuple[str, str, int | tuple[int, ...] | None]] = [
    *((name, kind, None) for name in EXAMPLES for kind in ("getter", "hook", "fx")),
    *((name, kind, (-3, -2)) for name in ("menet_108_8x1_g3", "muffnet_x0_5") for kind in FEATURE_CLASSES),
    *(("muffnet_x0_5", "getter", indices) for indices in ((1, 3), (-1,), 2)),
    *(("menet_108_8x1_g3", kind, None) for kind in ("list", "dict")),
]


@pytest.mark.parametrize(("name", "feature_class", "indices"), FEATURE_CASES, ids=str)
@pytest.mark.parametrize("stem", ["imagenet", pytest.param("cifar", marks=pytest.mark.slow)])
def test_every_feature_class_gives_the_intermediates(
    name: str, stem: str, feature_class: str, indices: int | tuple[int, ...] | None
) -> None:
    x = images(1, 32)
    whole = build(name, stem=stem)
    given = {} if indices is None else {"out_indices": indices}
    torch.manual_seed(0)
    network = timm.create_model(name, stem=stem, features_only=True, feature_cls=feature_class, **given).eval()
    with torch.no_grad():
        maps = network(x)
        _, expected = whole.forward_intermediates(
            x, indices if indices is None or isinstance(indices, int) else [*indices]
        )
    maps = list(maps.values()) if isinstance(maps, dict) else maps
    assert len(maps) == len(expected)
    assert all(torch.equal(one, other) for one, other in zip(maps, expected, strict=True))
    assert network.feature_info.channels() == [level.shape[1] for level in expected]
    assert network.feature_info.reduction() == [32 // level.shape[2] for level in expected]


def test_feature_cfg_is_merged() -> None:
    network = timm.create_model("menet_108_8x1_g3", features_only=True, feature_cfg={"feature_cls": "hook"})
    assert type(network).__name__ == "FeatureHookNet"
    assert network.feature_info.reduction() == [2, 4, 8, 16, 32]
    with pytest.raises(AssertionError, match="feature index 4 is out of range"):
        timm.create_model("menet_108_8x1_g3", features_only=True, stem="cifar", out_indices=(4,))


@every_form
def test_intermediates(name: str, stem: str) -> None:
    network = build(name, stem=stem)
    reductions = expected_levels(stem)
    size = small(stem)
    x = images(size=size)
    with torch.no_grad():
        features = network.forward_features(x)
        final, maps = network.forward_intermediates(x)
        assert torch.equal(final, features)
        assert [(level.shape[1], size // level.shape[2]) for level in maps] == [
            (info["num_chs"], info["reduction"]) for info in network.feature_info
        ]
        assert [info["reduction"] for info in network.feature_info] == reductions
        for indices, taken in ((2, [-2, -1]), ([0, 2], [0, 2]), ([-1, -3], [-3, -1]), ([1], [1])):
            final, some = network.forward_intermediates(x, indices=indices)
            assert torch.equal(final, features)
            only = network.forward_intermediates(x, indices=indices, intermediates_only=True)
            for found in (some, only):
                assert all(torch.equal(level, maps[place]) for level, place in zip(found, taken, strict=True))
    named = dict(network.named_modules())
    assert all(info["module"] in named for info in network.feature_info)
    with pytest.raises(ValueError, match="output_fmt must be 'NCHW', found 'NHWC'"):
        network.forward_intermediates(x, output_fmt="NHWC")


@every_form
def test_stop_early_runs_no_later_stage(name: str, stem: str) -> None:
    network = build(name, stem=stem)
    ran: list[int] = []
    for index, stage in enumerate(network.stages):
        stage.register_forward_hook(lambda *_, index=index: ran.append(index))
    network.final.register_forward_hook(lambda *_: ran.append(-1))
    second = len(network.feature_info) - 2
    with torch.no_grad():
        last, maps = network.forward_intermediates(images(), indices=[0, second], stop_early=True)
        assert ran == [0, 1]
        assert torch.equal(last, maps[-1])
        assert len(maps) == 2
        ran.clear()
        network.forward_intermediates(images(), indices=[0, second])
        assert ran == [0, 1, 2, -1]
        final, _ = network.forward_intermediates(images(), stop_early=True)
        assert torch.equal(final, network.forward_features(images()))


@every_form
def test_pruning_drops_what_is_not_needed(name: str, stem: str) -> None:
    network, whole = build(name, stem=stem), build(name, stem=stem)
    second = len(whole.feature_info) - 2
    assert network.prune_intermediate_layers([0, second]) == [0, second]
    assert not [key for key, _ in network.named_parameters() if key.startswith(("stages.2", "final", "classifier"))]
    with torch.no_grad():
        last, maps = network.forward_intermediates(images(), indices=[0, second])
        _, expected = whole.forward_intermediates(images(), indices=[0, second])
        assert all(torch.equal(one, other) for one, other in zip(maps, expected, strict=True))
        assert last.shape[1] == network.num_features
    kept = build(name, stem=stem)
    kept.prune_intermediate_layers(1, prune_head=False)
    with torch.no_grad():
        assert torch.equal(kept(images()), whole(images()))


# FX


@every_form
def test_fx_forward(name: str, stem: str) -> None:
    """The traced network computes the same, also at another batch and image size."""
    network = build(name, stem=stem)
    traced = torch.fx.symbolic_trace(network)
    with torch.inference_mode():
        for batch, size in ((1, 32), (3, 40)):
            x = images(batch, size)
            assert torch.equal(traced(x), network(x))


@every_form
def test_fx_backward(name: str, stem: str) -> None:
    network = build(name, stem=stem, num_classes=42).train()
    traced = torch.fx.symbolic_trace(network)
    functional.cross_entropy(traced(images(size=small(stem))), torch.tensor([3, 17])).backward()
    assert all(parameter.grad is not None and parameter.grad.any() for parameter in traced.parameters())
    assert sum(1 for _ in traced.parameters()) == sum(1 for _ in network.parameters())


@pytest.mark.slow
@every_name
@pytest.mark.parametrize("stem", STEMS)
def test_fx_of_every_name(name: str, stem: str) -> None:
    network = build(name, stem=stem)
    with torch.inference_mode():
        assert torch.equal(torch.fx.symbolic_trace(network)(images(2, 64)), network(images(2, 64)))


@pytest.mark.slow
@every_name
@pytest.mark.parametrize("feature_class", FEATURE_CLASSES)
@pytest.mark.parametrize("stem", STEMS)
def test_features_of_every_name(name: str, feature_class: str, stem: str) -> None:
    network = timm.create_model(name, stem=stem, features_only=True, feature_cls=feature_class).eval()
    with torch.no_grad():
        maps = network(images(1, 64))
    maps = list(maps.values()) if isinstance(maps, dict) else maps
    assert [(level.shape[1], 64 // level.shape[2]) for level in maps] == [
        *zip(network.feature_info.channels(), expected_levels(stem), strict=True)
    ]


# layer-wise learning rates


@every_form
@pytest.mark.parametrize("coarse", [False, True])
def test_layer_groups_follow_the_order_of_the_network(name: str, stem: str, coarse: bool) -> None:
    network = build(name, stem=stem)
    groups = group_parameters(network, network.group_matcher(coarse=coarse))
    assert [*groups] == [*range(5 if coarse else 18)]  # stem, 3 stages or 16 units, classifier
    assert all(key.startswith("stem.") for key in groups[0])
    assert set(groups[max(groups)]) == {"classifier.weight", "classifier.bias"}
    order = [key for _, keys in groups.items() for key in keys]
    assert sorted(order) == sorted(key for key, _ in network.named_parameters())
    for index, keys in groups.items():
        if 0 < index < max(groups):
            places = {".".join(key.split(".")[: 2 if coarse else 3]) for key in keys if key.startswith("stages")}
            places = {place for place in places if not place.endswith(".units")}
            assert len(places) <= 1, places
    finals = [index for index, keys in groups.items() for key in keys if key.startswith("final")]
    assert set(finals) <= {max(groups) - 1}


@every_form
def test_layer_decay(name: str, stem: str) -> None:
    """The deeper a layer, the smaller its learning rate: 0.5 per unit, counted from the classifier."""
    network = build(name, stem=stem)
    optimizer = create_optimizer_v2(network, opt="sgd", lr=0.1, weight_decay=1e-4, layer_decay=0.5)
    scales = {id(parameter): group["lr_scale"] for group in optimizer.param_groups for parameter in group["params"]}
    assert len(scales) == sum(1 for _ in network.parameters())
    scale = {key: scales[id(parameter)] for key, parameter in network.named_parameters()}
    assert scale["classifier.weight"] == 1
    assert scale["stem.conv.conv.weight"] == 0.5**17
    for index, stage in enumerate(network.stages):
        found = [scale[f"stages.{index}.{key}"] for key, _ in stage.named_parameters()]
        first = (0, 4, 12)[index]
        assert sorted(set(found)) == [0.5 ** (16 - place) for place in range(first, first + (4, 8, 4)[index])]
