"""What a search may build: every proposal is a network, or is refused in one line."""

from __future__ import annotations

import pytest
import torch

from compactnets.data import Preprocess
from compactnets.errors import InputError
from compactnets.models.registry import create_model
from compactnets.models.sharing import make_sharing
from compactnets.search.space import SHARINGS, Candidate, build, parse_family, scale_of, suggest

from .helpers import Chance


@pytest.mark.parametrize("family", ["menet", "muffnet"])
def test_proposals_are_networks(family: str) -> None:
    built = 0
    for seed in range(20):
        candidate = suggest(Chance(seed), [family])
        try:
            with torch.device("meta"):
                model = build(candidate, "cifar", 10, 3).eval()
                assert model(torch.zeros(1, 3, 32, 32)).shape == (1, 10)
            built += 1
        except InputError:  # such as widths that the groups do not divide
            continue
    assert built >= 15


def test_the_same_proposal_is_the_same_network() -> None:
    one, two = (suggest(Chance(4), ["menet", "muffnet"], [24, 32]) for _ in range(2))
    photos = Preprocess(size=224, resize=256, mean=(0.5,), std=(0.5,))
    assert (one.key, one.settings(photos)) == (two.key, two.settings(photos))
    assert Candidate("a", {}, 112).settings(photos) == ["preprocess.size=112", "preprocess.resize=128"]
    assert one.size in (24, 32)
    assert Candidate(**one.to_dict()) == one
    assert Candidate(one.model, {**one.arguments, "stem_channels": 99}, one.size).key != one.key


@pytest.mark.parametrize("pattern", SHARINGS)
def test_layers_have_the_width_asked_for(pattern: str) -> None:
    widths = make_sharing(pattern, 8, scale_of(pattern, 8, 64)).layer_channels
    assert sum(widths) / len(widths) == pytest.approx(64, rel=0.03)


def test_families() -> None:
    assert parse_family("all") == ("menet", "muffnet")
    assert parse_family("muffnet, menet") == ("muffnet", "menet")
    with pytest.raises(InputError, match="menet, muffnet or all, found 'resnet'"):
        parse_family("resnet")


def test_menet_takes_depths() -> None:
    model = create_model("menet_108_8x1_g3", depths=[1, 2, 3], num_classes=10, stem="cifar")
    assert [len(stage) for stage in model.stages] == [1, 2, 3]
    for wrong in ([1, 2], [0, 2, 3]):
        with pytest.raises(InputError, match="depths must be 3 numbers of units"):
            create_model("menet_108_8x1_g3", depths=wrong)
