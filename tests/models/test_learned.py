"""Sharing that is learned: its cost, its gradient, what becomes of it, and that it finds what the data ask for."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import timm
import torch
from torch import Tensor

import compactnets
from compactnets.classification.checkpoint import CheckpointRecord
from compactnets.complexity import count
from compactnets.errors import InputError
from compactnets.models.budget import stage_macs
from compactnets.models.learned import LearnedMuffNet, LearnedStage, discretize, stage_costs
from compactnets.models.muffnet import VARIANTS
from compactnets.models.sharing import make_sharing
from compactnets.training.checkpoint import read_record

from ..cli.conftest import run  # noqa: F401  (a fixture)

NAMES = sorted(VARIANTS)


@pytest.fixture
def search() -> LearnedMuffNet:
    torch.manual_seed(0)
    model = compactnets.create_model("muffnet_x0_5", sharing="learned", stem="cifar", num_classes=10)
    assert isinstance(model, LearnedMuffNet)
    return model


def stages(model: LearnedMuffNet) -> list[LearnedStage]:
    return [stage for stage in model.stages if isinstance(stage, LearnedStage)]


@pytest.mark.parametrize("name", NAMES)
def test_the_cost_of_a_stage_is_that_of_the_budget(name: str) -> None:
    """Of even widths, whose inner ones are whole."""
    widths = (8, 32, 136)
    plans = [make_sharing("none", depth, width) for depth, width in zip((4, 8, 4), widths, strict=True)]
    costs = stage_costs(plans, 24, 1024)
    found = [float(cost.macs(torch.tensor(plan.entries))) for cost, plan in zip(costs, plans, strict=True)]  # type: ignore[union-attr]
    assert found == pytest.approx(stage_macs(plans, 24, 1024))


@pytest.mark.parametrize("name", NAMES)
def test_counts_always_cost_what_the_variant_does(name: str) -> None:
    with torch.device("meta"):
        shape = compactnets.create_model(name, sharing="learned")
    assert isinstance(shape, LearnedMuffNet)
    torch.manual_seed(1)
    for stage in stages(shape):
        stage.logits = torch.nn.Parameter(torch.randn(stage.logits.shape))
        counts = stage.counts().detach()
        assert float(stage.cost.macs(counts)) == pytest.approx(stage.target, rel=1e-5)
        assert torch.equal(counts, counts.triu())
    variant = stage_macs(shape.base, 24, 1024)
    assert [stage.target for stage in stages(shape)] == pytest.approx(variant, rel=5e-3)  # odd widths are rounded


def test_room_is_what_the_patterns_need(search: LearnedMuffNet) -> None:
    for stage in stages(search):
        room = torch.tensor(stage.sharing.entries)  # type: ignore[union-attr]
        size = len(room)
        for pattern in ("none", "average", "linear", "geometric"):
            if pattern == "none":
                proportions: Tensor = torch.eye(size)
            else:
                proportions = torch.tensor(make_sharing(pattern, size, 1000).entries).float()  # type: ignore[union-attr]
            assert (stage.cost.fit(proportions, stage.target) <= room + 1e-3).all()
        assert (stage.counts() <= room).all()


def test_every_logit_has_a_gradient(search: LearnedMuffNet) -> None:
    torch.nn.functional.cross_entropy(search(torch.rand(4, 3, 32, 32)), torch.arange(4)).backward()
    for stage in stages(search):
        upper = torch.ones_like(stage.logits).triu().bool()
        assert (stage.logits.grad[upper] != 0).all()  # type: ignore[index]
        assert (stage.logits.grad[~upper] == 0).all()  # type: ignore[index]
    assert all(parameter.grad is not None for parameter in search.parameters())


def test_gates_let_the_first_channels_through(search: LearnedMuffNet) -> None:
    stage = stages(search)[0]
    counts = torch.tensor([[3.0, 2.0, 1.0, 0.0]] * 4)
    gates = stage._gates(counts, 0).flatten()
    sizes = [size for _, size in stage.sharing.splits(0)]  # type: ignore[union-attr]
    for group, count_ in zip(gates.split(sizes), (3, 2, 1, 0), strict=True):
        assert (group.diff() < 0).all()
        assert int((group > 0.5).sum()) == count_
        assert float(group.sum()) == pytest.approx(count_, abs=0.75)


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_discrete_matrices_cost_what_the_variant_does(search: LearnedMuffNet, seed: int) -> None:
    torch.manual_seed(seed)
    for stage in stages(search):
        stage.logits.data += torch.randn_like(stage.logits)
    matrices = discretize(search)
    found, wanted = stage_macs(matrices, 24, 1024), stage_macs(search.base, 24, 1024)
    assert found == pytest.approx(wanted, rel=0.01)
    for matrix, stage in zip(matrices, stages(search), strict=True):
        large = stage.counts() > 16  # of these rounding changes little: they are the learned ones, scaled
        scales = torch.tensor(matrix.entries)[large] / stage.counts()[large]
        assert scales.max() / scales.min() < 1.07
    model = timm.create_model("muffnet_x0_5", sharing=matrices, stem="cifar", num_classes=10)
    macs, _ = count(model, (3, 32, 32))
    assert macs == pytest.approx(41_251_136, rel=0.03)


def test_a_group_that_helps_grows(search: LearnedMuffNet) -> None:
    """A loss that asks for the group from layer 1 to the output of stage 1 gets it, at the others' expense."""
    stage = stages(search)[0]
    before = stage.counts().detach()
    optimizer = torch.optim.SGD([stage.logits], lr=0.05)
    for _ in range(20):
        optimizer.zero_grad()
        (-stage._gates(stage.counts(), 0).flatten()[-stage.sharing.splits(0)[-1][1] :].sum()).backward()  # type: ignore[union-attr]
        optimizer.step()
    after = stage.counts().detach()
    assert after[0, 3] > before[0, 3] + 1
    assert after[0, 0] < before[0, 0]


def test_how_far_a_search_has_moved(search: LearnedMuffNet) -> None:
    stage = stages(search)[1]
    assert stage.moved() == pytest.approx(1, abs=1e-6)
    before = stage.counts().detach()
    with torch.no_grad():
        stage.logits[0, 0] += 0.5
    ratio = (stage.counts().detach() / before)[torch.ones(8, 8).triu() > 0]
    assert stage.moved() == pytest.approx(float(ratio.log().square().mean().sqrt().exp()))
    assert stage.moved() > 1.05


def test_the_start_can_be_had_back(search: LearnedMuffNet) -> None:
    fresh = discretize(search)
    for stage in stages(search):
        stage.logits.data += torch.randn_like(stage.logits).mul(0.5)
    assert discretize(search) != fresh
    search.reset()
    assert discretize(search) == fresh


def test_wrong_input() -> None:
    with pytest.raises(InputError, match="takes its widths from the variant"):
        compactnets.create_model("muffnet_x0_5", sharing="learned", widths=(8, 32, 136))
    with pytest.raises(InputError, match="has an M to discretise, found MuffNet"):
        discretize(compactnets.create_model("muffnet_x0_5"))


def test_search_discretize_and_train(run: Callable, tmp_path: Path) -> None:  # noqa: F811
    quick = ["--data", "digits", "--set", "epochs=1", "--set", "preprocess.size=8", "--set", "lr=0.004"]
    quick += ["--set", "batch_size=256", "--set", "schedule.warmup_epochs=0", "--device", "cpu"]
    words = ["train", "digits/quickstart", "--model", "muffnet_x0_5", *quick]
    learned = ["--set", "model_arguments={stem: cifar, sharing: learned}"]
    search = tmp_path / "search" / "last.safetensors"
    done = run(*words, *learned, "--output", search.parent)
    assert done.code == 0, done.err
    found = tmp_path / "found.safetensors"
    document = run("discretize", search, "--output", found, "--json").json
    assert document["macs"] == pytest.approx(document["variant_macs"], rel=0.03)
    assert [len(matrix) for matrix in document["sharing"]] == [4, 8, 4]
    assert read_record(found, CheckpointRecord).arguments["sharing"] == document["sharing"]
    assert all(moved > 1.001 for moved in document["moved"])
    done = run(*words, "--init", found, "--output", tmp_path / "trained")
    assert done.code == 0, done.err
    trained = read_record(tmp_path / "trained" / "last.safetensors", CheckpointRecord)
    assert trained.arguments["sharing"] == document["sharing"]
    coarse = run("discretize", search, "--align", "8", "--output", tmp_path / "coarse.safetensors", "--json").json
    assert coarse["multiple"] == 8
    assert {entry % 8 for matrix in coarse["sharing"] for row in matrix for entry in row} == {0}
    assert coarse["macs"] <= 1.01 * coarse["variant_macs"]  # the budget is of 224 x 224 with the other stem
    text = run("discretize", search, "--output", tmp_path / "again.safetensors").out
    assert f"a group typically moved by a factor of {document['moved'][1]:.2f}" in text
    began = run("discretize", search, "--start", "--output", tmp_path / "began.safetensors")
    assert "stage 2, 73 channels out; " in began.out
    assert " 32 11  7  6  5  4  4  4\n" in began.out
    refused = run("discretize", found, "--output", tmp_path / "no.safetensors")
    assert refused.code == 2
    assert "has an M to discretise" in refused.err
    assert not (tmp_path / "no.safetensors").exists()
