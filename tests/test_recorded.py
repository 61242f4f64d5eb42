"""Recorded results, how runs become records, and the page made of them."""

from __future__ import annotations

import json
from pathlib import Path
from types import ModuleType

import pytest

from compactnets.classification.recipe import ClassificationRecipe
from compactnets.classification.task import TASK
from compactnets.data import open_source
from compactnets.deploy.verify import TOLERANCES
from compactnets.errors import InputError
from compactnets.hub.facts import recorded_int8
from compactnets.latency.benchmark import parse_format
from compactnets.latency.results import row_threads, thread_counts
from compactnets.models.pretrained import FOLDER as WEIGHTS
from compactnets.models.pretrained import authors_files
from compactnets.papers.ablation import ablation_rows
from compactnets.recorded import FOLDER, add_runs, load_results, read_classifier_run
from compactnets.search.alignment import Widths, choose, excess_of
from compactnets.tasks.parts import PART_SIZE
from compactnets.training.recipe_files import load_recipe

from .scripts import load_script

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def page() -> ModuleType:
    return load_script("benchmarks/page.py")


def records(kind: str) -> list:
    found = load_results(kind)
    assert found
    return [pytest.param(record, id=name) for name, record in found.items()]


def test_the_page_is_what_the_records_say(page: ModuleType) -> None:
    assert (ROOT / "docs" / "results.md").read_text(encoding="utf-8") == page.render()


def test_the_zoo_is_what_the_records_say(page: ModuleType) -> None:
    assert (ROOT / "docs" / "zoo.md").read_text(encoding="utf-8") == page.zoo.render()


def test_the_zoo_has_all_weights_and_what_is_recorded_of_them(page: ModuleType) -> None:
    found = {entry.row.name: entry for entry in page.zoo.entries()}
    shipped = {path.stem for path in WEIGHTS.glob("*.safetensors")}
    assert {*found} == shipped | {f"{model}.authors_in1k" for model in authors_files()}
    for name in shipped:
        record = json.loads((WEIGHTS / f"{name}.json").read_text(encoding="utf-8"))
        assert found[name].row.percent == record["training"]["top1_percent"]
        for each in found[name].int8:
            assert each.percent + each.drop_points == pytest.approx(found[name].row.percent, abs=0.02)
    theirs = found["menet_108_8x1_g3.authors_in1k"]
    assert {each.runtime for each in theirs.int8} >= {"c", "onnx", "openvino", "executorch"}
    of_default = load_results("int8")["menet_108_8x1_g3-onnx"]  # not the record of --no-equalize and the like
    (onnx,) = (each for each in theirs.int8 if each.runtime == "onnx")
    assert onnx.int8_bytes == of_default["bytes"]["int8"]
    assert "(c)" in page.zoo.render().partition("\n| [menet_108_8x1_g3.authors")[2].partition("\n")[0]


def test_int8_of_other_weights_is_not_in_the_zoo() -> None:
    """The same network, trained again: the accuracy in float says that the record is of other weights."""
    cost, names = (41_251_136, 367_361), {"muffnet_x0_5.cifar10"}
    known = load_results("int8")["muffnet_x0_5.cifar10-onnx"]["evaluation"]
    percent = 100 * known["float_correct"] / known["images"]
    assert recorded_int8(names, *cost, {"images": known["images"], "top1_percent": percent})
    assert not recorded_int8(names, *cost, {"images": known["images"], "top1_percent": percent + 1})
    assert not recorded_int8({"muffnet_x0_5.other"}, *cost, {})
    assert not recorded_int8(names, 41_251_136, 367_362, {})


def test_a_note_on_a_latency_stands_under_its_table(page: ModuleType) -> None:
    record = load_results("latency")["planar"]
    plain = page._latency("planar", {key: value for key, value in record.items() if key != "note"})
    noted = page._latency("planar", {**record, "note": "Another program ran on the second core."})
    note = "\nAnother program ran on the second core.\n"
    assert noted.replace(note, "", 1) == plain
    before, after = noted.split(note)
    assert before.endswith("|\n")
    assert after.startswith("\nThe fastest float32 format")


def test_levers_are_compared_with_the_recipe_as_it_is(page: ModuleType) -> None:
    rows = [
        {"lever": "as it is", "settings": [], "top1_percent": [80.0, 81.0], "mean": 80.5, "deviation": 0.71},
        {"lever": "muon", "settings": ["lr=0.005"], "top1_percent": [82.0, 82.5], "mean": 82.25, "deviation": 0.35},
        {"lever": "lr 9", "settings": ["lr=9"], "top1_percent": [], "mean": None, "deviation": None},
    ]
    record = {
        **dict.fromkeys(("commit", "date", "model", "recipe", "data", "note"), "a"),
        "command": ["python", "benchmarks/levers.py", "--only", "as it is"],
        "environment": {"processor": "p", "threads": 1},
        "epochs": 5,
        "common": ["hold_out=5000"],
        "rows": [{**row, "seconds": [60.0] * len(row["top1_percent"])} for row in rows],
    }
    text = page._levers("trial", record)
    assert "--only 'as it is'" in text
    last = text.rsplit("| --- |\n", 1)[1].splitlines()
    assert [line.split(" | ")[0] for line in last] == ["| muon", "| as it is", "| lr 9"]  # best first
    assert "| 82.25 ± 0.35 | 82.00, 82.50 | +1.75 | 2 |" in last[0]
    assert "| failed |" in last[2]


def test_every_record_is_of_a_known_kind() -> None:
    kinds = {"training", "ablation", "detection", "segmentation", "evaluation", "latency", "int8", "speed", "browser"}
    kinds |= {"levers", "int8_methods", "microcontroller", "latency_table", "fine_tuning", "search", "predict_scale"}
    kinds |= {"zero_cost"}
    found = {path.parent.name for path in FOLDER.rglob("*.json")}
    assert found == kinds


@pytest.mark.parametrize("record", records("speed"))
def test_a_speed_names_its_spread_and_environment(record: dict) -> None:
    assert all(record[key] for key in ("command", "commit", "date", "note", "rows"))
    assert {"versions", "processor", "threads", "device"} <= set(record["environment"])
    for row in record["rows"]:
        for key in ("reference_seconds", "our_seconds", "ratio"):
            assert 0 < row[key]["p10"] <= row[key]["median"] <= row[key]["p90"]
            assert row[key]["n"] >= 5


@pytest.mark.parametrize("record", records("latency_table"))
def test_widths_are_complete_and_give_the_multiple(record: dict) -> None:
    assert all(record[key] for key in ("command", "commit", "date", "environment", "note", "learned", "rows"))
    for row in record["rows"]:
        widths = [Widths.from_dict(each) for each in row["widths"]]
        assert [len(each.milliseconds) for each in widths] == [17, 17]
        assert choose(widths) == row["multiple"]
        assert {int(key): share for key, share in row["excess"].items()} == pytest.approx(excess_of(widths))
        assert [each["multiple"] for each in row["learned"]] == [1, 2, 4, 8, 16, None]
        assert all(each["milliseconds"] > 0 for each in row["learned"])


@pytest.mark.parametrize("record", records("browser"))
def test_a_page_names_its_browser_and_what_it_loaded(record: dict) -> None:
    assert all(record[key] for key in ("command", "commit", "date", "environment", "note", "rows"))
    assert "Chromium" in record["browser"]
    for row in record["rows"]:
        assert row["engines"].keys() == {"planar", "onnx"}
        assert all(set(each["bytes"]) >= {"page", "code", "weights"} for each in row["engines"].values())
        assert {turn["isolated"] for turn in row["turns"]} == {False, True}
        for turn in row["turns"]:
            for each in turn["engines"].values():
                assert 0 < each["milliseconds"]["p10"] <= each["milliseconds"]["p90"]


@pytest.mark.parametrize("record", records("predict_scale"))
def test_memory_does_not_grow_with_the_images(record: dict) -> None:
    assert all(record[key] for key in ("command", "commit", "date", "environment", "note", "weights", "data", "rows"))
    for row in record["rows"]:
        assert row["images_per_second"] == pytest.approx(row["images"] / row["seconds"], rel=0.01)
        assert row["parts"] == -(-row["images"] // PART_SIZE)
    few, *_, many = record["rows"]
    assert many["images"] >= 5 * few["images"]
    late = "allocated_mb_at_75%"
    assert many[late] < 1.05 * few[late]
    assert many[late] < 1.05 * many["allocated_mb_at_25%"]


@pytest.mark.parametrize("record", records("ablation"))
def test_an_ablation_names_its_runs(record: dict) -> None:
    assert all(record[key] for key in ("command", "commit", "date", "environment", "data", "recipe", "epochs", "rows"))
    assert record["command"].startswith(f"compactnets papers ablation {record['name']} ")
    assert not [word for word in record["command"].split() if word.startswith("/")]
    known = {row.key: row.top1 for row in ablation_rows(record["name"])}
    for row in record["rows"]:
        assert row["stated_top1"] == known.get(row["key"])
        assert len({run["seed"] for run in row["runs"]}) == len(row["runs"]) > 1
        assert all(10 < run["top1_percent"] < 100 for run in row["runs"])


@pytest.mark.parametrize("record", records("evaluation"))
def test_an_evaluation_names_its_images(record: dict) -> None:
    assert all(record[key] for key in ("command", "commit", "date", "environment", "weights", "of", "note", "data"))
    assert 0 < record["top1_percent"] <= record["top5_percent"] <= 100
    assert record["images"] > 0


@pytest.mark.parametrize("record", [*records("training"), *records("detection"), *records("segmentation")])
def test_a_run_names_what_its_numbers_rest_on(record: dict) -> None:
    assert record["note"]
    for run in record["runs"]:
        assert all(run[key] for key in ("command", "commit", "date", "device", "threads", "model", "versions"))
        assert run["command"].startswith("compactnets ")
        assert not [word for word in run["command"].split() if word.startswith("/")]
        assert len(run["epochs"]) == run["recipe"]["epochs"]
        assert isinstance(run["recipe"]["seed"], int)


def test_a_run_becomes_a_record(page: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    recipe = load_recipe(
        ClassificationRecipe, "digits/quickstart", ["epochs=2", "preprocess.size=8"], "shufflenet_g3_x0_25"
    )
    command = ["/somewhere/bin/compactnets", "train", "digits/quickstart", "--data", "/elsewhere/digits"]
    monkeypatch.setattr("sys.argv", command)
    folder = tmp_path / "run"
    result = TASK.train(recipe, open_source("digits", "train"), open_source("digits", "val"), folder)
    run = read_classifier_run(folder)
    assert run["command"] == "compactnets train digits/quickstart --data digits"
    assert run["epochs"][-1]["top1_percent"] == result.final["top1_percent"]
    add_runs("training", "test", [run], "A test.", tmp_path)
    path = add_runs("training", "test", [run, {**run, "command": "another"}], None, tmp_path)
    record = json.loads(path.read_text())
    assert [each["command"] for each in record["runs"]] == [run["command"], "another"]  # the first was replaced
    assert record["note"] == "A test."
    assert str(tmp_path) not in path.read_text()
    monkeypatch.setattr(page, "load_results", lambda kind: load_results(kind, tmp_path))
    text = page.render()
    assert f"{result.final['top1_percent']:.2f}" in text
    assert "| shufflenet_g3_x0_25 |" in text


def test_only_finished_runs_are_recorded(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"cannot read .*environment\.json: No such file"):
        read_classifier_run(tmp_path)
    (tmp_path / "environment.json").write_text("[]")
    with pytest.raises(InputError, match="is not the folder of a training run"):
        read_classifier_run(tmp_path)
    (tmp_path / "environment.json").write_text('{"sessions": [{}]}')
    (tmp_path / "recipe.yaml").write_text("epochs: 3")
    (tmp_path / "metrics.jsonl").write_text("{}\n{}\n")
    with pytest.raises(InputError, match="has 2 of 3 epochs"):
        read_classifier_run(tmp_path)
    with pytest.raises(InputError, match="--note"):
        add_runs("training", "new", [], None, tmp_path)


@pytest.mark.parametrize("record", records("int8"))
def test_an_int8_record_compares_the_same_images(record: dict) -> None:
    assert all(record[key] for key in ("command", "network", "format", "versions", "settings", "layers"))
    assert {"commit", "date", "environment", "settings"} <= set(record["latency"])
    compared = record["evaluation"]
    lost = compared["float_correct"] - compared["int8_correct"]
    assert compared["drop_points"] == pytest.approx(100 * lost / compared["images"])
    assert compared["drop_points"] <= record["max_drop"]
    assert len(record["latency"]["rows"]) == 2
    assert not [word for word in record["command"] if word.startswith("/")]


@pytest.mark.parametrize("record", records("latency"))
def test_a_latency_record_names_what_its_numbers_rest_on(record: dict) -> None:
    assert all(record[key] for key in ("command", "commit", "date", "environment", "settings", "limit_gflops", "rows"))
    assert not [word for word in record["command"] if word.startswith("/")]
    settings = record["settings"]
    for row in record["rows"]:
        time = row["milliseconds"]
        assert time["n"] == settings["rounds"] * settings["calls"]
        assert time["p10"] <= time["median"] <= time["p90"]
        assert row["times_limit"] == pytest.approx(time["median"] / row["limit_milliseconds"])
        if row_threads(row, record) == thread_counts(record)[0]:  # whose limit is the record's
            limit = 2 * row["macs"] * row["input"][0] / record["limit_gflops"] / 1e6
            assert row["limit_milliseconds"] == pytest.approx(limit)
        tolerance = TOLERANCES[parse_format(row["format"]).stored]
        assert row["format"] == "eager" or row["relative_difference"] <= tolerance
