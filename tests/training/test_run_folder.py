"""What a run leaves in its folder."""

from __future__ import annotations

import json
from importlib.metadata import version
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
import yaml
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from compactnets import InputError
from compactnets.classification.recipe import ClassificationRecipe
from compactnets.classification.task import TASK
from compactnets.pictures import write_figure
from compactnets.training.curves import Curves, draw_curves
from compactnets.training.distributed import World
from compactnets.training.recipe_files import load_recipe
from compactnets.training.run_folder import RunFolder
from compactnets.training.state import FOLDER, Progress

from .helpers import digits_part, make_tiny_recipe

RECIPE = make_tiny_recipe(epochs=3, eval_epochs=2)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("folder") / "run"
    TASK.train(RECIPE, *digits_part(64, 20), folder)
    return folder


def test_files(run: Path) -> None:
    names = {path.name for path in run.iterdir()}
    assert names == {
        *(f"{name}.{suffix}" for name in ("last", "best") for suffix in ("safetensors", "json")),
        "recipe.yaml",
        "environment.json",
        "metrics.jsonl",
        "curves.svg",
        "tensorboard",
        FOLDER,
    }
    assert load_recipe(ClassificationRecipe, str(run / "recipe.yaml")) == RECIPE


def test_metrics_have_an_evaluation_where_one_was_due(run: Path) -> None:
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert [line["epoch"] for line in lines] == [1, 2, 3]
    assert ["top1_percent" in line for line in lines] == [False, True, True]
    assert all(line["lr"] > 0 and line["images_per_second"] > 0 for line in lines)


def test_events_hold_the_metrics(run: Path) -> None:
    events = EventAccumulator(str(run / "tensorboard"))
    events.Reload()
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    points = events.Scalars("epoch/train_loss")
    assert [point.step for point in points] == [2, 4, 6]
    assert [point.value for point in points] == pytest.approx([line["train_loss"] for line in lines])
    assert [point.step for point in events.Scalars("epoch/top1_percent")] == [4, 6]


def test_the_plot_shows_both_losses_and_both_accuracies(run: Path) -> None:
    text = " ".join(ElementTree.parse(run / "curves.svg").getroot().itertext())
    for word in ("training", "validation", "top-1", "top-5", "epoch"):
        assert word in text


@pytest.mark.parametrize("epochs", [1, 2, 3, 300])
def test_epochs_on_the_plot_are_whole_numbers(epochs: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    figures = []

    def keep(figure: Any, file: Any, form: str) -> None:
        figures.append(figure)
        write_figure(figure, file, form)

    monkeypatch.setattr("compactnets.training.curves.write_figure", keep)
    history = [{"epoch": epoch, "train_loss": 1.0, "top1_percent": 5.0} for epoch in range(1, epochs + 1)]
    draw_curves(history, tmp_path / "curves.svg", Curves({"top1_percent": "top-1"}, "accuracy", "loss"))
    for axes in figures[0].axes:
        low, high = axes.get_xlim()
        ticks = [tick for tick in axes.get_xticks() if low <= tick <= high]
        assert ticks
        assert all(tick == round(tick) for tick in ticks)


def test_the_environment_names_versions_and_device(run: Path) -> None:
    (session,) = json.loads((run / "environment.json").read_text())["sessions"]
    assert session["versions"]["torch"] == version("torch")
    assert session["device"] == "cpu"
    assert session["processes"] == 1
    assert session["command"]


def test_each_start_is_recorded(tmp_path: Path) -> None:
    for _ in range(2):  # the second finds what a start left that was killed, by a version that wrote no state first
        folder = RunFolder(tmp_path, RECIPE, World(), Curves({}, "", ""))
        folder.start()
        folder.close(Progress())
    assert len(json.loads((tmp_path / "environment.json").read_text())["sessions"]) == 2


@pytest.mark.parametrize("name", ["last.safetensors", "best.safetensors", "metrics.jsonl", "recipe.yaml"])
def test_files_of_something_else_are_left_alone(name: str, tmp_path: Path) -> None:
    (tmp_path / name).write_text("precious")
    with pytest.raises(InputError, match=f"holds {name} but no checkpoint"):
        RunFolder(tmp_path, RECIPE, World(), Curves({}, "", ""))
    assert {path.name: path.read_text() for path in tmp_path.iterdir()} == {name: "precious"}


def test_a_folder_that_cannot_be_made(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    folder = RunFolder(tmp_path / "file" / "run", RECIPE, World(), Curves({}, "", ""))
    for call in (lambda: TASK.train(RECIPE, *digits_part(64, 20), tmp_path / "file" / "run"), folder.start):
        with pytest.raises(InputError, match=f"cannot write to the output folder {tmp_path / 'file' / 'run'}"):
            call()


def test_recipe_of_the_run_trains_the_same_again(run: Path, tmp_path: Path) -> None:
    recipe = load_recipe(ClassificationRecipe, str(run / "recipe.yaml"))
    assert yaml.safe_load((run / "recipe.yaml").read_text())["lr_batch_size"] == 32
    TASK.train(recipe, *digits_part(64, 20), tmp_path / "again")
    assert (tmp_path / "again" / "last.safetensors").read_bytes() == (run / "last.safetensors").read_bytes()


def test_an_environment_that_is_not_one_is_left_alone(tmp_path: Path) -> None:
    files = {"environment.json": "precious", "recipe.yaml": "model: precious"}
    for name, text in files.items():
        (tmp_path / name).write_text(text)
    with pytest.raises(InputError, match="environment.json is not"):
        RunFolder(tmp_path, RECIPE, World(), Curves({}, "", ""))
    assert {path.name: path.read_text() for path in tmp_path.iterdir()} == files
