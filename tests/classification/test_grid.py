"""Grids of runs: in this process, in several, on a Ray cluster; the same results, and the same call goes on."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

import pytest
import torch

from compactnets.classification.grid import (
    LOG,
    Member,
    Place,
    train_grid,
)
from compactnets.classification.recipe import ClassificationRecipe
from compactnets.errors import InputError
from compactnets.training.recipe_files import load_recipe

TINY = ["epochs=2", "preprocess.size=8", "batch_size=256", "lr=0.01", "schedule.warmup_epochs=0"]


def members(*names: str) -> list[Member]:
    return [
        Member(
            name, load_recipe(ClassificationRecipe, "digits/quickstart", [*TINY, f"seed={seed}"], "shufflenet_g3_x0_25")
        )
        for seed, name in enumerate(names)
    ]


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[float]]:
    folder = tmp_path_factory.mktemp("alone")
    threads = torch.get_num_threads()
    torch.set_num_threads(max(1, (os.cpu_count() or 1) // 2))  # as in one of two processes
    outcomes = train_grid(members("a", "b/c"), "digits", folder, Place("cpu"))
    torch.set_num_threads(threads)
    return folder, [outcome.result["final"]["top1_percent"] for outcome in outcomes if outcome.result]


def test_in_this_process(alone: tuple[Path, list[float]]) -> None:
    folder, accuracies = alone
    assert len(accuracies) == 2
    for name, accuracy in zip(("a", "b/c"), accuracies, strict=True):
        last = json.loads((folder / name / "metrics.jsonl").read_text().splitlines()[-1])
        assert last["top1_percent"] == accuracy
    assert not (folder / "a" / LOG).exists()


def test_the_same_call_reads_what_is_there(alone: tuple[Path, list[float]], monkeypatch: pytest.MonkeyPatch) -> None:
    folder, accuracies = alone
    monkeypatch.setattr("compactnets.training.step.Learner.step", lambda *_: pytest.fail("trained again"))
    outcomes = train_grid(members("a", "b/c"), "digits", folder, Place("cpu"))
    assert [outcome.result["final"]["top1_percent"] for outcome in outcomes if outcome.result] == accuracies


def check_other_place(alone: tuple[Path, list[float]], folder: Path, place: Place) -> None:
    outcomes = train_grid(members("a", "b/c"), "digits", folder, place)
    found = [outcome.result["final"]["top1_percent"] for outcome in outcomes if outcome.result]
    assert found == pytest.approx(alone[1], abs=3)  # other threads, other rounding
    for name in ("a", "b/c"):
        assert "epoch 2/2: loss" in (folder / name / LOG).read_text()


@pytest.mark.slow
def test_several_processes(alone: tuple[Path, list[float]], tmp_path: Path) -> None:
    check_other_place(alone, tmp_path, Place("cpu", jobs=2))


@pytest.mark.slow
def test_a_ray_cluster(alone: tuple[Path, list[float]], tmp_path: Path) -> None:
    pytest.importorskip("ray")
    check_other_place(alone, tmp_path, Place("cpu", jobs=2, ray="local"))


def test_a_run_that_cannot_be_done_does_not_stop_the_others(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    good, bad = members("good", "bad")
    recipe = bad.recipe.model_copy(update={"model_arguments": {"groups": 5}})
    outcomes = train_grid([Member("bad", recipe), good], "digits", tmp_path, Place("cpu"))
    assert outcomes[0].result is None
    assert "groups must be one of" in (outcomes[0].error or "")
    assert outcomes[1].result is not None
    assert "[1/2] bad: groups must be one of" in capsys.readouterr().err


def test_wrong_input(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(InputError, match="same name.* a, a"):
        train_grid(members("a", "a"), "digits", tmp_path, Place("cpu"))
    with pytest.raises(InputError, match="jobs must be at least 1, found 0"):
        train_grid(members("a"), "digits", tmp_path, Place("cpu", jobs=0))
    with pytest.raises(InputError, match="no device 'cuda:7' here"):
        train_grid(members("a"), "digits", tmp_path, Place("cuda:7"))
    with pytest.raises(InputError, match="no folder at"):
        train_grid(members("a"), str(tmp_path / "nothing"), tmp_path, Place("cpu"))
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(InputError, match=r"--ray needs ray, which is not installed: .*compactnets\[ray\]"):
        train_grid(members("a"), "digits", tmp_path, Place("cpu", ray="auto"))


@pytest.mark.slow
def test_no_ray_cluster(tmp_path: Path) -> None:
    pytest.importorskip("ray")
    with pytest.raises(InputError, match="no Ray cluster at 'auto'"):
        train_grid(members("a"), "digits", tmp_path, Place("cpu", ray="auto"))
