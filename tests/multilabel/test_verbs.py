"""Several labels per image through the verbs: train, eval, predict and export."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from pyarrow import parquet

import compactnets
from compactnets import api, quantization
from compactnets.classification.checkpoint import load_checkpoint
from compactnets.data.images import read_image
from compactnets.data.preprocess import Preprocess
from compactnets.errors import InputError
from compactnets.multilabel.checkpoint import load_multilabel
from compactnets.multilabel.export import MultilabelSubject
from compactnets.multilabel.quantization import LabelsComparison, LabelsQuantization
from compactnets.training.recipe_files import load_recipe

from ..cli.conftest import run
from ..cli.helpers import Outcome
from .scenes import COLOURS, write_tables

__all__ = ["run"]

Run = Callable[..., Outcome]

SMALL = """
task: multilabel
model: shufflenet_g3_x0_25
model_arguments: {stem: cifar}
epochs: 30
eval_epochs: 30
batch_size: 16
lr: 0.01
compile: false
optimizer: {name: adamw}
augment: {flip: true}
threshold: 0.4
"""


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = write_tables(tmp_path_factory.mktemp("verbs"))
    (root / "small.yaml").write_text(SMALL)
    result = api.train(root / "small.yaml", root / "labels.csv", root / "run")
    assert result.best > 95
    return root


@pytest.fixture
def best(trained: Path) -> Path:
    return trained / "run" / "best.safetensors"


def test_eval_tells_every_class(run: Run, trained: Path, best: Path) -> None:
    found = run("eval", "--checkpoint", best, "--data", trained / "labels.csv", "--json").json
    assert (found["task"], found["images"], found["threshold"]) == ("multilabel", 15, 0.4)
    assert [row["class_name"] for row in found["classes"]] == list(COLOURS)
    history = [json.loads(line) for line in (trained / "run" / "metrics.jsonl").read_text().splitlines()]
    assert found["map_percent"] == pytest.approx(history[-1]["map_percent"])
    assert found["loss"] == pytest.approx(history[-1]["val_loss"], rel=1e-4)
    shown = run("eval", "--checkpoint", best, "--data", trained / "columns.csv", "--batch-size", 4)
    assert [name in shown.out for name in ("mAP", *COLOURS)] == [True] * 4
    all_found = run("eval", "--checkpoint", best, "--data", trained / "labels.csv", "--score", 0.000001, "--json").json
    assert [row["found"] for row in all_found["classes"]] == [15] * 3
    assert all_found["map_percent"] == found["map_percent"]


def test_a_table_with_some_of_the_classes_in_another_order(run: Run, trained: Path, best: Path) -> None:
    lines = (trained / "columns.csv").read_text().splitlines()
    cells = [line.split(",") for line in lines]
    some = trained / "some.csv"
    some.write_text("".join(f"{image},{red},{blue},{split}\n" for image, blue, _, red, split in cells))
    found = run("eval", "--checkpoint", best, "--data", some, "--json").json
    whole = run("eval", "--checkpoint", best, "--data", trained / "labels.csv", "--json").json
    assert [row["class_name"] for row in found["classes"]] == ["red", "blue"]
    by_name = {row["class_name"]: row for row in whole["classes"]}
    assert found["classes"] == [by_name["red"], by_name["blue"]]


def test_predict_tells_the_labels_above_the_threshold(run: Run, trained: Path, best: Path, tmp_path: Path) -> None:
    network, record = load_multilabel(best)
    prepare = Preprocess.from_dict(record.preprocess)
    images = trained / "images"
    paths = sorted(images.iterdir())
    with torch.inference_mode():
        logits = torch.cat([network(prepare(read_image(path))[None]) for path in paths])
    expected = (logits.sigmoid() >= 0.4).numpy()
    found = compactnets.predict(best, images)
    chosen = [{guess.class_name for guess in one.labels} for one in found]
    assert chosen == [{name for name, there in zip(COLOURS, row, strict=True) if there} for row in expected]
    assert (expected == np.array([[number >> place & 1 for place in range(3)] for number in range(60)])).mean() > 0.8
    for one, row in zip(found, logits.sigmoid().tolist(), strict=True):
        shares = [guess.probability for guess in one.labels]
        assert shares == pytest.approx(sorted((share for share in row if share >= 0.4), reverse=True), abs=1e-5)
    shown = run("predict", "--checkpoint", best, images / "00.png", images / "07.png", "--score", 0.99999)
    assert (shown.code, "no label" in shown.out) == (0, True)
    done = run("predict", "--checkpoint", best, images, "none.png", "--parquet", tmp_path / "a", "--part-size", 25)
    assert done.code == 2
    rows = parquet.read_table(tmp_path / "a").to_pylist()
    assert [row["class_name"] for row in rows if row["image"] == str(images / "05.png")] == [
        guess.class_name for guess in found[5].labels
    ]
    assert [row["image"] for row in rows if row["error"]] == ["none.png"]
    assert len({row["image"] for row in rows}) == 61


def test_exports_leave_a_sigmoid_to_the_caller(run: Run, trained: Path, best: Path, tmp_path: Path) -> None:
    done = run("export", best, "--format", "torch", "--output", tmp_path / "a")
    assert done.code == 0, done.err
    record = json.loads((tmp_path / "a/artifact.json").read_text())
    assert (record["task"], record["network"]["threshold"]) == ("multilabel", 0.4)
    assert "sigmoid" in record["after"]
    data = trained / "labels.csv"
    one, other = (run("eval", "--checkpoint", each, "--data", data, "--json").json for each in (best, tmp_path / "a"))
    assert other["loss"] == pytest.approx(one["loss"], rel=1e-3)
    image = trained / "images/07.png"
    found, expected = (compactnets.predict(each, image)[0].labels for each in (tmp_path / "a", best))
    assert [guess.class_name for guess in found] == [guess.class_name for guess in expected]


QUICK = ("--no-rounding", "--no-equalize", "--no-correction", "--ranges", "minmax", "--calibration-images", "8")


@pytest.mark.slow
def test_int8_loses_little_of_the_map(run: Run, trained: Path, best: Path, tmp_path: Path) -> None:
    data = trained / "labels.csv"
    arguments = ("--format", "onnx", "--calibration", data, "--eval", data, *QUICK)
    done = run("quantize", best, *arguments, "--max-drop", 20, "--output", tmp_path / "a", "--json")
    assert done.code == 0, done.err
    report = json.loads((tmp_path / "a" / "quantization.json").read_text())
    compared = report["evaluation"]
    assert compared["images"] == 15
    assert compared["drop_points"] == pytest.approx(compared["float_map"] - compared["int8_map"])
    assert [row["name"] for row in compared["classes"]] == list(COLOURS)
    int8, floating = (
        run("eval", "--checkpoint", each, "--data", data, "--json").json["map_percent"]
        for each in (tmp_path / "a", best)
    )
    assert (int8, floating) == (pytest.approx(compared["int8_map"]), pytest.approx(compared["float_map"], abs=0.01))
    artifact = json.loads((tmp_path / "a" / "artifact.json").read_text())
    assert (artifact["task"], artifact["precision"]) == ("multilabel", "int8")


@pytest.mark.slow
def test_int8_is_not_kept_past_its_limit(
    run: Run, trained: Path, best: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(quantization, "IN_FLOAT", ())  # no part in float: that search is the same for all tasks
    data = trained / "labels.csv"
    arguments = ("--format", "onnx", "--calibration", data, "--eval", data, *QUICK, "--max-drop", -99)
    done = run("quantize", best, *arguments, "--output", tmp_path / "a")
    assert (done.code, "mAP" in done.err, (tmp_path / "a").exists()) == (3, True, False)


def test_the_loss_of_int8_is_one_of_map() -> None:
    classes = [{"name": name, "float_ap": 90.0, "int8_ap": 90.0 - lost} for name, lost in (("a", 1.0), ("b", 4.0))]
    compared = LabelsComparison(5, 90.0, 87.5, [*classes, {"name": "c", "float_ap": None, "int8_ap": None}])
    assert (compared.measure, compared.drop) == ("mAP", 2.5)
    assert "b, 90.00 % to 86.00 %" in compared.note


def test_what_was_trained_on_a_share_is_compared_on_the_rest(trained: Path, best: Path) -> None:
    network, record = load_multilabel(best)
    training = {"recipe": {"split": 0.8}, "data": str(trained / "undivided.csv")}
    task = LabelsQuantization(MultilabelSubject(network, record.model_copy(update={"training": training})))
    task.take(str(trained / "undivided.csv"), str(trained / "undivided.csv"), 10)
    assert (len(task.images), len(task.rest)) == (10, 12)
    assert not {*task.images.paths} & {*task.rest.paths}
    other = LabelsQuantization(MultilabelSubject(network, record))
    other.take(str(trained / "undivided.csv"), str(trained / "undivided.csv"), 10)
    assert (len(other.images), len(other.rest)) == (10, 50)
    assert not {*other.images.paths} & {*other.rest.paths}


def test_profile_counts_a_checkpoint(run: Run, best: Path) -> None:
    found = run("profile", best, "--json").json
    _, record = load_multilabel(best)
    named = compactnets.profile(record.model, arguments=["num_classes=3", "stem=cifar"], input_size=(3, 16, 16))
    size = Preprocess.from_dict(record.preprocess).size
    assert size == 16
    assert (found["macs"], found["params"]) == (named.cost.macs, named.cost.params)


def test_data_check_counts_labels_and_finds_contradictions(run: Run, tmp_path: Path) -> None:
    root = write_tables(tmp_path / "data", 20)
    found = run("data", "check", root / "labels.csv", "--json").json
    assert (found["clean"], found["kind"]) == (True, "labels")
    assert {split: part["images"] for split, part in found["splits"].items()} == {"train": 15, "val": 5}
    assert any("train: 3 images have no label" in note for note in found["notes"])  # 0, 8 and 16
    images = root / "images"
    (images / "05.png").write_bytes((images / "06.png").read_bytes())  # blue;red = green;red, both to train on
    (images / "11.png").write_bytes((images / "03.png").read_bytes())  # the same labels, both to evaluate on
    (images / "09.png").write_bytes((images / "01.png").read_bytes())
    (images / "08.png").write_bytes(b"nothing")
    told = run("data", "check", root / "labels.csv", "--json")
    assert told.code == 1
    (conflict,) = told.json["conflicts"]
    assert {each["class_name"] for each in conflict} == {"blue;red", "green;red"}
    assert [each["name"] for each in told.json["unreadable"]] == ["images/08.png"]
    assert run("data", "check", root / "undivided.csv", "--split", 0.8, "--json").json["splits"]["val"]["images"] == 4


@pytest.mark.parametrize(
    "arguments",
    [
        (
            *("quantize", "{best}", "--format", "onnx", "--calibration", "{data}", "--eval", "{data}"),
            *("--output", "{new}", "--float", "{best}"),
        ),
        (
            *("quantize", "{best}", "--format", "onnx", "--calibration", "{images}", "--eval", "{data}"),
            *("--output", "{new}"),
        ),
        ("data", "check", "{data}", "--split", "test"),
        ("predict", "--checkpoint", "{best}", "{data}", "--top", "3"),
        ("eval", "--checkpoint", "{best}", "--data", "{data}", "--tta", "flip"),
        ("eval", "--checkpoint", "{best}", "--data", "{data}", "--split", "test"),
        ("train", "{recipe}", "--data", "{data}", "--output", "{new}", "--qat"),
        ("train", "{recipe}", "--data", "{data}", "--output", "{new}", "--set", "label_smoothing=0.1"),
        ("train", "{recipe}", "--data", "{data}", "--output", "{new}", "--set", "sampling=balanced"),
        ("train", "{recipe}", "--data", "{images}", "--output", "{new}"),
        ("train", "cifar/short", "--data", "{columns}", "--output", "{new}"),
    ],
)
def test_what_is_not_for_several_labels_is_one_line(
    run: Run, trained: Path, best: Path, tmp_path: Path, arguments: tuple[str, ...]
) -> None:
    names = {"best": best, "data": trained / "labels.csv", "columns": trained / "columns.csv", "new": tmp_path / "new"}
    names |= {"recipe": trained / "small.yaml", "images": trained / "images"}
    done = run(*(each.format(**names) for each in arguments))
    assert done.code == 2
    assert len(done.err.strip().splitlines()) == 1, done.err
    assert not (tmp_path / "new").exists()


def test_a_run_starts_from_a_classifier_and_goes_on(run: Run, trained: Path, best: Path, tmp_path: Path) -> None:
    """From another task's weights the classifier is replaced, from its own with the same classes it is kept."""
    data, settings = trained / "undivided.csv", ("--split", "0.8", "--set", "epochs=1", "--set", "batch_size=16")
    settings += ("--set", "compile=false", "--set", "kernels=torch")
    start = "muffnet_x0_5.cifar10"
    first = run("train", "multilabel", "--init", start, "--data", data, "--output", tmp_path / "a", *settings)
    assert first.code == 0, first.err
    assert "classifier replaced" in first.err
    again = tmp_path / "a" / "best.safetensors"
    second = run("train", "multilabel", "--init", again, "--data", data, "--output", tmp_path / "b", *settings)
    assert second.code == 0, second.err
    assert "classifier replaced" not in second.err
    with pytest.raises(InputError, match="multilabel"):
        load_checkpoint(again)
    noted = run("eval", "--checkpoint", again, "--data", data, "--json")
    assert "--split 0.8" in noted.err
    assert run("eval", "--checkpoint", again, "--data", data, "--split", "0.8", "--json").json["images"] == 12


def test_a_run_does_not_go_on_with_other_labels(trained: Path, tmp_path: Path) -> None:
    recipe, data = api.open_recipe(trained / "small.yaml", ["epochs=1"])[1], trained / "labels.csv"
    api.train(recipe, data, tmp_path / "run")
    changed = trained / "changed.csv"
    changed.write_text(data.read_text().replace("images/01.png,blue", "images/01.png,red"))
    with pytest.raises(InputError, match="training"):
        api.train(recipe, changed, tmp_path / "run")


def test_the_recipe_needs_no_setting() -> None:
    from compactnets.multilabel.recipe import MultilabelRecipe

    recipe = load_recipe(MultilabelRecipe, "multilabel", [], "muffnet_x0_5")
    assert (recipe.task, recipe.label_smoothing, recipe.min_steps) == ("multilabel", 0, 300)
