"""Recorded results and the pages made of them."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def runs() -> ModuleType:
    spec = importlib.util.spec_from_file_location("runs", ROOT / "benchmarks" / "runs.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(ROOT / "benchmarks")  # as for a script
        spec.loader.exec_module(module)
    return module


def test_the_page_is_what_the_records_say(runs: ModuleType) -> None:
    assert (ROOT / "docs" / "results.md").read_text(encoding="utf-8") == runs.render()


RESULTS = ROOT / "benchmarks" / "results"


@pytest.mark.parametrize("path", sorted((RESULTS / "speed").glob("*.json")), ids=lambda path: path.stem)
def test_a_speed_names_its_spread_and_environment(path: Path) -> None:
    record = json.loads(path.read_text(encoding="utf-8"))
    assert all(record[key] for key in ("command", "commit", "date", "note", "rows"))
    assert {"versions", "processor", "threads", "device"} <= set(record["environment"])
    for row in record["rows"]:
        for key in ("reference_seconds", "our_seconds", "ratio"):
            assert 0 < row[key]["p10"] <= row[key]["median"] <= row[key]["p90"]
            assert row[key]["n"] >= 5


@pytest.mark.parametrize("path", sorted((RESULTS / "training").glob("*.json")), ids=lambda path: path.stem)
def test_a_record_names_what_its_numbers_rest_on(path: Path) -> None:
    record = json.loads(path.read_text(encoding="utf-8"))
    assert all(record[key] for key in ("command", "commit", "device", "runs"))
    for run in record["runs"]:
        assert {"seed", "recipe", "versions", "macs", "params", "epochs"} <= set(run)
        assert len(run["epochs"]) == run["recipe"]["epochs"]


def test_collect_reads_a_run(runs: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from compactnets.data import open_source
    from compactnets.training.classification import train
    from compactnets.training.recipe_files import load_recipe

    recipe = load_recipe("digits/quickstart", ["epochs=2", "preprocess.size=8"], "shufflenet_g3_x0_25")
    result = train(recipe, open_source("digits", "train"), open_source("digits", "val"), tmp_path / "run")
    monkeypatch.setattr(runs, "RESULTS", tmp_path / "results")
    runs.collect("digits", "compactnets train …", [tmp_path / "run"], "0000000", "A test.")
    page = runs.render()
    assert f"{result.final['top1_percent']:.2f}" in page
    assert "| shufflenet_g3_x0_25 |" in page
    assert str(tmp_path) not in (tmp_path / "results" / "training" / "digits.json").read_text()


@pytest.mark.parametrize("path", sorted((RESULTS / "int8").glob("*.json")), ids=lambda path: path.stem)
def test_an_int8_record_compares_the_same_images(path: Path) -> None:
    record = json.loads(path.read_text(encoding="utf-8"))
    assert all(record[key] for key in ("command", "network", "format", "versions", "settings", "layers"))
    assert {"commit", "date", "environment", "settings"} <= set(record["latency"])
    compared = record["evaluation"]
    lost = compared["float_correct"] - compared["int8_correct"]
    assert compared["drop_points"] == pytest.approx(100 * lost / compared["images"])
    assert compared["drop_points"] <= record["max_drop"]
    assert len(record["latency"]["rows"]) == 2
    assert not [word for word in record["command"] if word.startswith("/")]


@pytest.mark.parametrize("path", sorted((RESULTS / "latency").glob("*.json")), ids=lambda path: path.stem)
def test_a_latency_record_names_what_its_numbers_rest_on(path: Path) -> None:
    record = json.loads(path.read_text(encoding="utf-8"))
    assert all(record[key] for key in ("command", "commit", "date", "environment", "settings", "limit_gflops", "rows"))
    assert not [word for word in record["command"] if word.startswith("/")]
    settings = record["settings"]
    for row in record["rows"]:
        time = row["milliseconds"]
        assert time["n"] == settings["rounds"] * settings["calls"]
        assert time["p10"] <= time["median"] <= time["p90"]
        limit = 2 * row["macs"] * row["input"][0] / record["limit_gflops"] / 1e6
        assert row["times_limit"] == pytest.approx(time["median"] / limit)
        assert row["format"] == "eager" or row["relative_difference"] <= 1e-4
