"""Ablations: which networks, what is recorded, and the command."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from pathlib import Path

import pytest

from compactnets.classification.checkpoint import CheckpointRecord
from compactnets.classification.grid import Member, Outcome, Place
from compactnets.errors import InputError
from compactnets.papers.ablation import (
    ABLATIONS,
    ablation_rows,
    contrast,
    describe,
    describe_contrast,
    own_sharings,
    rank_correlation,
    run_ablation,
    summarize,
)
from compactnets.papers.stated import stated_rows
from compactnets.training.checkpoint import read_record

QUICK = ["epochs=1", "preprocess.size=8", "batch_size=256", "lr=0.001", "schedule.warmup_epochs=0"]


def test_every_ablation_has_the_rows_of_its_tables_once() -> None:
    numbers = {name: len(ablation_rows(name)) for name in ABLATIONS}
    assert numbers == {"sharing": 22, "fusion_width": 4, "expansion": 4, "fusion_operation": 4}
    for name, (paper, tables) in ABLATIONS.items():
        stated = {row.key for table in tables for row in stated_rows(paper, table)}
        assert {row.key for row in ablation_rows(name)} == stated
    assert ablation_rows("sharing")[0].key == "none+none+none"


def test_rows_are_chosen_by_pattern() -> None:
    found = [row.key for row in ablation_rows("sharing", ["average+*", "none+none+none"])]
    assert found[0] == "none+none+none"
    assert set(found[1:]) == {
        "average+none+none",
        "average+geometric+none",
        "average+average+none",
        "average+linear+none",
    }


@pytest.mark.parametrize(
    ("name", "patterns", "message"),
    [
        ("shering", [], "no ablation is called 'shering'; did you mean 'sharing'"),
        ("width", [], "expected one of sharing, fusion_width"),
        ("sharing", ["average+geometric"], "sharing has no row 'average[+]geometric'; did you mean"),
    ],
)
def test_wrong_names(name: str, patterns: list[str], message: str) -> None:
    with pytest.raises(InputError, match=message):
        ablation_rows(name, patterns)


def test_an_ablation_is_recorded(tmp_path: Path) -> None:
    record = run_ablation(
        "sharing",
        "digits",
        tmp_path,
        recipe="digits/quickstart",
        settings=QUICK,
        seeds=2,
        patterns=["none+none+none", "average+geometric+none"],
        place=Place("cpu"),
    )
    assert record == json.loads((tmp_path / "ablation.json").read_text())
    plain, shared = record["rows"]
    assert [plain["key"], shared["key"]] == ["none+none+none", "average+geometric+none"]
    assert [plain["stated_top1"], shared["stated_top1"]] == [59.69, 60.60]
    assert shared["macs"] == pytest.approx(plain["macs"], rel=0.02)
    for row in record["rows"]:
        assert [run["seed"] for run in row["runs"]] == [0, 1]
        for run in row["runs"]:
            line = json.loads((tmp_path / row["key"] / f"seed-{run['seed']}" / "metrics.jsonl").read_text())
            assert run["top1_percent"] == line["top1_percent"]
    assert record["epochs"] == 1
    assert {"command", "commit", "date", "environment", "data", "recipe", "settings"} <= set(record)


def test_a_network_of_ones_own_stands_beside_the_rows(own_network: Path, tmp_path: Path) -> None:
    sharing = read_record(own_network, CheckpointRecord).arguments["sharing"]
    record = run_ablation(
        "sharing",
        "digits",
        tmp_path / "runs",
        recipe="digits/quickstart",
        settings=QUICK,
        seeds=1,
        patterns=["none+none+none"],
        networks=[own_network],
        place=Place("cpu"),
    )
    paper, own = record["rows"]
    assert [paper["stated_top1"], own["stated_top1"]] == [59.69, None]
    assert [own["key"], own["label"]] == ["found", "found (muffnet_x0_5)"]
    assert own["arguments"] == {"sharing": sharing}  # the form is the ablation's, not the file's
    trained = read_record(tmp_path / "runs" / "found" / "seed-0" / "last.safetensors", CheckpointRecord)
    assert trained.arguments["sharing"] == sharing
    assert [trained.arguments["stem"], trained.arguments["num_classes"]] == ["cifar", 10]
    assert trained.training["init"] is None  # its weights are not taken


def test_networks_of_ones_own_need_names_of_their_own(own_network: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="two networks .*same name, found"):
        run_ablation("sharing", "digits", tmp_path / "runs", networks=[own_network] * 2, place=Place("cpu"))
    assert not (tmp_path / "runs").exists()


def row(stated: float | None, *accuracies: float | None) -> dict:
    runs = [{"seed": 0, "error": "no"} if each is None else {"seed": 0, "top1_percent": each} for each in accuracies]
    return {"stated_top1": stated, "runs": runs}


def test_each_m_of_ones_own_has_one_name() -> None:
    def row(key: str, sharing: object, stated: float | None = None) -> dict:
        return {"key": key, "model": "muffnet_x0_5", "arguments": {"sharing": sharing}, "stated_top1": stated}

    paper, named = row("p", "dense", 60.0), row("n", "none")
    first, second, third = row("found", [[[1]]]), row("found", [[[2]]]), row("found-2", [[[3]]])
    records = [{"rows": [paper, first]}, {"rows": [third, second, first, named]}]
    assert own_sharings(records) == {"found": first, "found-2": third, "found-3": second}


def test_mean_and_spread() -> None:
    assert summarize(row(1, 60, 62, 64)) == (62, 2, 3)
    assert describe(row(1, 60, 62, 64)) == ("1.00", "62.00 ± 2.00", "3")
    assert describe(row(1, 60, None)) == ("1.00", "60.00", "1, 1 failed")
    assert describe(row(1, None)) == ("1.00", "-", "0, 1 failed")
    assert describe(row(None, 60)) == ("-", "60.00", "1")


def test_the_difference_to_another_row() -> None:
    """Welch's formulas by hand: equal variances and numbers give 2 n - 2 degrees of freedom."""
    found = contrast(row(1, 63, 65, 67), row(1, 60, 62, 64))
    assert found is not None
    error = math.sqrt(2 * 4 / 3)
    half = 2.7764 * error  # t of 4 degrees of freedom at 97.5 %
    assert (found.difference, found.low, found.high) == pytest.approx((3, 3 - half, 3 + half), abs=1e-3)
    assert found.p == pytest.approx(0.1399, abs=5e-4)  # of t = 1.837
    same = row(1, 60, 62)
    assert describe_contrast(same, same) == ("-", "-", "-")
    assert contrast(row(1, 60), same) is None
    assert contrast(row(1, 60, 60), row(1, 61, 61)) is None  # no spread to judge by
    assert describe_contrast(row(1, 50, 52, None), same)[0] == "-10.00"


def test_rank_correlation() -> None:
    assert rank_correlation({"rows": [row(1, 10), row(2, 20), row(3, 30)]}) == pytest.approx(1)
    assert rank_correlation({"rows": [row(1, 10), row(2, 30), row(3, 20)]}) == pytest.approx(0.5)
    assert rank_correlation({"rows": [row(1, 10), row(2, 30), row(3, None)]}) is None
    assert rank_correlation({"rows": [row(1, 10), row(2, 30), row(None, 20)]}) is None


def test_arguments_of_the_network_go_to_every_row(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def not_trained(members: Sequence[Member], *_: object, **__: object) -> list[Outcome]:
        return [Outcome(member, {"final": {"top1_percent": 10.0}, "seconds": 1.0}, None) for member in members]

    monkeypatch.setattr("compactnets.papers.ablation.train_grid", not_trained)
    settings = ["model_arguments.drop_rate=0.25", "model_arguments.head_channels=64"]
    plain, changed = (
        run_ablation("sharing", "digits", tmp_path, settings=given, seeds=1, patterns=["none*"], place=Place("cpu"))
        for given in ([], settings)
    )
    assert changed["rows"][0]["params"] < plain["rows"][0]["params"]
    arguments = changed["rows"][0]["arguments"]
    assert (arguments["drop_rate"], arguments["head_channels"]) == (0.25, 64)
    assert arguments["sharing"] == "none+none+none"
    assert "stem" not in arguments  # it is the ablation's


@pytest.mark.parametrize(
    ("setting", "named"),
    [
        ("model_arguments.sharing=dense", "sharing"),
        ("model_arguments={sharing: dense, stem: cifar}", "sharing"),
        ("model_arguments.stem=imagenet", "stem"),
        ("model_arguments.shering=none", "shering"),
        ("model_arguments.drop_rate=true", "drop_rate"),
        ("model=muffnet_x1_0", "muffnet_x1_0"),
    ],
)
def test_settings_that_would_change_the_rows(
    setting: str, named: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("compactnets.papers.ablation.train_grid", lambda *_, **__: pytest.fail("trained"))
    with pytest.raises(InputError) as error:
        run_ablation("sharing", "digits", tmp_path / "a", settings=[setting], patterns=["none*"], place=Place("cpu"))
    assert named in str(error.value)
    assert not (tmp_path / "a").exists()
