"""One name for every network: families and peers through the same call, and what a wrong name or argument says."""

from __future__ import annotations

import importlib.util
from typing import Any

import pytest
import timm
import torch
from torch import nn

import compactnets
from compactnets import InputError, create_model, list_models
from compactnets.models import fifteen, menet, muffnet, shufflenet
from compactnets.models.peers import PEERS
from compactnets.models.registry import FAMILIES, accepted_arguments
from compactnets.models.staged import StagedNet


def need_extra(name: str) -> None:
    if PEERS[name].needs_extra and importlib.util.find_spec("pytorchcv") is None:
        pytest.skip("pytorchcv is not installed")


# names


def test_families_come_first_and_no_name_occurs_twice() -> None:
    names = list_models()
    assert names == [*FAMILIES, *PEERS]
    assert len(names) == len(set(names))
    assert [*FAMILIES] == [*menet.VARIANTS, *muffnet.VARIANTS, *shufflenet.VARIANTS, *fifteen.VARIANTS]
    assert FAMILIES["muffnet_x0_5"] == "muffnet"
    assert compactnets.list_models is list_models


@pytest.mark.parametrize(
    ("pattern", "expected"),
    [
        ("muffnet*", ["muffnet_x0_5", "muffnet_x1_0", "muffnet_x1_5"]),
        ("muffnet", ["muffnet_x0_5", "muffnet_x1_0", "muffnet_x1_5"]),
        ("muffnet_x1", ["muffnet_x1_0", "muffnet_x1_5"]),
        ("menet_1", ["menet_108_8x1_g3", "menet_128_8x1_g4", "menet_160_8x1_g8"]),
        ("*add*", ["menet_228_12x1_add_g3", "menet_256_12x1_add_g4"]),
        ("menet_*_g8", ["menet_160_8x1_g8", "menet_352_12x1_g8"]),
        ("shufflenet_g[38]_x1_0", ["shufflenet_g3_x1_0", "shufflenet_g8_x1_0"]),
        ("resne?t15_38m", ["resnext15_38m"]),
        ("res*110", ["resnet110"]),
        ("vgg16", ["vgg16"]),
        ("net", []),
    ],
)
def test_list_models(pattern: str, expected: list[str]) -> None:
    assert list_models(pattern) == expected


# building


@pytest.mark.parametrize("name", [*FAMILIES, *PEERS])
def test_every_name_builds(name: str) -> None:
    if name in PEERS:
        need_extra(name)
    with torch.device("meta"):
        network = create_model(name, num_classes=6, in_chans=1, drop_rate=0.1)
    assert isinstance(network, StagedNet)
    assert (network.num_classes, network.in_chans, network.drop_rate) == (6, 1, 0.1)
    assert {"stem", "num_classes", "in_chans", "drop_rate", "global_pool"} <= accepted_arguments(name)


@pytest.mark.parametrize("name", ["menet_108_8x1_g3", "muffnet_x0_5", "shufflenet_g3_x0_5", "xception15_38m"])
@pytest.mark.parametrize("stem", ["imagenet", "cifar"])
def test_is_what_timm_builds(name: str, stem: str) -> None:
    torch.manual_seed(0)
    ours = create_model(name, stem=stem, num_classes=4)
    torch.manual_seed(0)
    theirs = timm.create_model(name, stem=stem, num_classes=4)
    assert type(ours) is type(theirs)
    state, expected = ours.state_dict(), theirs.state_dict()
    assert state.keys() == expected.keys()
    assert all(torch.equal(state[key], expected[key]) for key in state)


@pytest.mark.parametrize(
    ("name", "arguments", "key", "shape"),
    [
        ("menet_228_12x1_g3", {"fusion_width": 10}, "stages.0.0.merge.conv.weight", (10, 57, 1, 1)),
        ("menet_228_12x1_g3", {"expansion": 2}, "stages.2.0.merge.conv.weight", (48, 228, 1, 1)),
        ("muffnet_x0_5", {"head_channels": 64}, "final.conv.weight", (64, 136, 1, 1)),
        ("shufflenet_g3_x1_0", {"width": 120}, "stages.0.1.compress.conv.weight", (30, 40, 1, 1)),
        ("resnet15_38m", {"stem_channels": 8}, "stem.conv.conv.weight", (8, 3, 3, 3)),
    ],
)
def test_arguments_of_a_family_change_the_named_variant(
    name: str, arguments: dict[str, Any], key: str, shape: tuple[int, ...]
) -> None:
    assert set(arguments) <= accepted_arguments(name)
    with torch.device("meta"):
        assert create_model(name, **arguments).state_dict()[key].shape == shape


@pytest.mark.parametrize("name", ["resnet20", "mobilenetv2_x1_0", "igcv2_x0_25"])
def test_peers_have_the_same_surface(name: str) -> None:
    need_extra(name)
    network = create_model(name, stem="cifar", num_classes=5).eval()
    with torch.no_grad():
        assert network(torch.zeros(2, 3, 16, 16)).shape == (2, 5)
    assert isinstance(network.classifier, nn.Linear)


# wrong input


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("menet_108_8x1_g4", r"no network is called 'menet_108_8x1_g4'; did you mean .*'menet_108_8x1_g3'"),
        ("muffnet_0_5", r"did you mean 'muffnet_x0_5'"),
        ("resnet22", r"did you mean 'resnet20'"),
        ("resnet50", r"no network is called 'resnet50'"),  # timm has it; only the package's own are built
        ("zzz", r"no network is called 'zzz' \(compactnets list\)$"),
        ("", r"no network is called ''"),
    ],
)
def test_unknown_name(name: str, message: str) -> None:
    for call in (create_model, accepted_arguments):
        with pytest.raises(InputError, match=message) as caught:
            call(name)
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("name", "argument", "message"),
    [
        ("menet_108_8x1_g3", "num_class", r"takes no argument 'num_class'; did you mean 'num_classes'\?$"),
        ("muffnet_x0_5", "sharin", r"muffnet_x0_5 takes no argument 'sharin'; did you mean 'sharing'\?$"),
        (
            "menet_108_8x1_g3",
            "sharing",
            r"takes no argument 'sharing', but depths, drop_path_rate, drop_rate, .*, stem_channels$",
        ),
        (
            "shufflenet_g3_x0_5",
            "fusion",
            r"takes no argument 'fusion', but drop_path_rate, drop_rate, .*, width$",
        ),
        ("vgg16", "width", r"vgg16 takes no argument 'width', but drop_rate, .*num_classes, stem$"),
        ("menet_228_12x1_g3", "pretrained", r"there are no weights 'menet_228_12x1_g3' .*: it has none"),
    ],
)
def test_unknown_argument(name: str, argument: str, message: str) -> None:
    with pytest.raises(InputError, match=message) as caught:
        create_model(name, **{argument: 1})
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("name", "arguments", "message"),
    [
        ("menet_108_8x1_g3", {"groups": "three"}, r"menet_108_8x1_g3: groups must be .*'three'"),
        ("menet_108_8x1_g3", {"num_classes": -1}, r"cannot be built with num_classes=-1: .*negative dimension"),
        ("shufflenet_g3_x0_5", {"drop_rate": 2}, r"cannot be built with drop_rate=2: .*between 0 and 1"),
        ("muffnet_x0_5", {"stem_channels": 2.5}, r"muffnet_x0_5: stem_channels must be .*2.5"),
        ("muffnet_x0_5", {"in_chans": 0}, r"in_chans must be positive, found 0"),
        ("resnet15_38m", {"stem": "tiny"}, r"^stem must be one of imagenet, cifar, found 'tiny'$"),
        ("vgg16", {"stem": "cifar"}, r"^vgg16 has no cifar stem: use stem='imagenet'"),
        ("googlenet", {"in_chans": -1}, r"googlenet cannot be built with in_chans=-1: "),
    ],
)
def test_value_that_does_not_fit(name: str, arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message) as caught:
        create_model(name, **arguments)
    assert "\n" not in str(caught.value)
