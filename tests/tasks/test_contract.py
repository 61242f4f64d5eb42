"""The contract of tasks: a new one is one file and one line, and every verb takes it."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from PIL import Image

import compactnets
from compactnets.errors import InputError
from compactnets.tasks import TASKS, find_task, task_of_data
from compactnets.tasks.contract import Options, Task

from ..cli.helpers import Outcome

Run = Callable[..., Outcome]


@pytest.fixture
def toy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(TASKS, "colour", "tests.tasks.colour:TASK")


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    draw = np.random.default_rng(0)
    for split, count in (("train", 32), ("val", 8)):
        for number in range(count):
            colour = draw.integers(0, 256, 3)
            path = tmp_path / "pictures" / split / "any" / f"{number}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(np.broadcast_to(colour, (20, 20, 3)).astype(np.uint8)).save(path)
    (tmp_path / "colour.yaml").write_text(
        "task: colour\nepochs: 30\nbatch_size: 8\nlr: 0.1\neval_epochs: 30\noptimizer: {name: adamw}\n"
    )
    return tmp_path


def test_the_toy_is_small() -> None:
    lines = (Path(__file__).parent / "colour.py").read_text(encoding="utf-8").splitlines()
    assert sum(bool(line.strip()) for line in lines) < 150


@pytest.mark.usefixtures("toy")
def test_every_verb_takes_a_new_task(run: Run, pictures: Path) -> None:
    pytest.importorskip("onnxruntime")
    data, output = pictures / "pictures", pictures / "run"
    done = run("train", pictures / "colour.yaml", "--data", data, "--output", output)
    assert done.code == 0, done.err
    assert f"checkpoints in {output}" in done.out
    best = output / "best.safetensors"
    assert json.loads(best.with_suffix(".json").read_text())["task"] == "colour"
    found = run("eval", "--checkpoint", best, "--data", data, "--json").json
    assert (found["task"], found["split"]) == ("colour", "val")
    assert found["closeness_percent"] > 90

    exported = run("export", best, "--format", "onnx", "--output", pictures / "artifact")
    assert exported.code == 0, exported.err
    again = run("eval", "--checkpoint", pictures / "artifact", "--data", data, "--json").json
    assert again["error"] == pytest.approx(found["error"], rel=1e-3)

    image = data / "val" / "any" / "0.png"
    for checkpoint in (best, pictures / "artifact"):
        told = run("predict", "--checkpoint", checkpoint, image, "nowhere.png", "--csv", pictures / "a.csv")
        assert told.code == 2
        assert "nowhere.png" in told.err
        assert len(told.out.split()) == 4
        assert len((pictures / "a.csv").read_text().splitlines()) == 3
    for arguments in (("eval", "--checkpoint", best, "--data", data, "--metric", "coco"), ("profile", best)):
        refused = run(*arguments)
        assert refused.code == 2
        assert "colour" in refused.err
        assert len(refused.err.splitlines()) == 1


@pytest.mark.usefixtures("toy")
def test_the_python_api_takes_a_new_task(pictures: Path) -> None:
    data = pictures / "pictures"
    result = compactnets.train(pictures / "colour.yaml", data, pictures / "run", settings=["epochs=1"])
    assert result.epochs == 1
    model = compactnets.load(pictures / "run" / "last.safetensors")
    assert model.task.name == "colour"
    assert compactnets.evaluate(model, data).figures.value == pytest.approx(result.best)
    grey = np.full((9, 7, 3), 128, np.uint8)
    one, other = compactnets.predict(model, [grey, Image.fromarray(grey)])
    assert one.values == other.values


def test_tasks_are_found_by_name_and_by_data(tmp_path: Path) -> None:
    for name in TASKS:
        task = find_task(name)
        assert (task.name, task.recipe.model_fields["task"].default) == (name, name)
        assert task.record.model_fields["task"].default == name
        assert task.artifact is not None
        assert task.artifact.model_fields["task"].default == name
    with pytest.raises(InputError, match="did you mean 'detection'"):
        find_task("detections")
    assert task_of_data(["digits"]).name == "classification"
    assert task_of_data([str(tmp_path)]).name == "classification"


def test_options_of_other_tasks_are_refused() -> None:
    class Own(Options):
        size: int = 3

    assert Own.take({"size": 4, "other": None}, "toy").size == 4
    for given, facts in (({"sise": 4}, ("--sise", "toy", "--size")), ({"size": "x"}, ("--size", "'x'"))):
        with pytest.raises(InputError) as error:
            Own.take(given, "toy")
        assert all(fact in str(error.value) for fact in facts)
        assert "\n" not in str(error.value)


def test_a_task_without_more_says_what_it_lacks() -> None:
    class Bare(Task[Any]):
        name = "bare"
        holds = open_run = open_split = setup = load = evaluate = predict = None  # type: ignore[assignment]

    bare = Bare()  # type: ignore[abstract]
    for call in (
        lambda: bare.check(None, "", None),  # type: ignore[arg-type]
        lambda: bare.export(SimpleNamespace(name="a"), Path(), "", None),  # type: ignore[arg-type]
        lambda: bare.quantize("", "", Path(), None),
        lambda: bare.load_artifact(Path(), None, None),
        lambda: bare.profile("", [], None),
        lambda: bare.build("x", {}),
    ):
        with pytest.raises(InputError, match="^bare has no "):
            call()
