"""An output that cannot be written is refused before the work, by every verb that takes one."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from typer.main import get_command

from compactnets_cli.app import app

from .helpers import Outcome

Run = Callable[..., Outcome]

# arguments without the output, and the work that must not begin
VERBS: dict[str, tuple[list[str], str]] = {
    "train": (["cifar/muffnet", "--data", "digits"], "training.classification.run"),
    "quickstart": ([], "quickstart._run_one"),
    "export": (["{network}", "--format", "torch"], "deploy.formats.Format.write"),
    "quantize": (
        ["{network}", "--format", "onnx", "--calibration", "digits", "--eval", "digits"],
        "deploy.quantization.post_training.calibrated",
    ),
    "benchmark": (["muffnet_x0_5"], "deploy.latency.benchmark"),
    "web": (["--checkpoint", "{network}", "--no-serve"], "deploy.web.export"),
    "convert": (["a.pth.tar", "--model", "menet_108_8x1_g3"], "training.conversion.load_legacy"),
    "discretize": (["{network}"], "training.discretization.load_checkpoint"),
    "draw": (["{network}"], "plots.sharing_figure"),
    "data convert": (["{boxes}", "--to", "coco"], "detection.data.conversion.writing"),
    "data split": (["{boxes}"], "data.dividing.writing"),
    "detect train": (["small/ssd512", "--data", "cells"], "detection.task.run"),
    "detect eval --examples": (["--checkpoint", "a", "--data", "b"], "detection.deploy.runtime.load_any_detector"),
    "detect predict": (["--checkpoint", "a", "{network}"], "detection.prediction.find_objects"),
    "detect export": (["{network}"], "detection.deploy.export.copy.deepcopy"),
    "papers ablation": (["sharing", "--data", "digits"], "papers.ablation.train_grid"),
    "papers report": ([], "report.page.measure_rows"),
}
OPTIONS = {"output", "examples"}


def verbs(command: Any, before: str = "") -> list[str]:
    found = []
    for name, inner in getattr(command, "commands", {}).items():
        found += verbs(inner, f"{before}{name} ")
    for option in command.params:
        if option.name == "output":
            found.append(before.strip())
        elif option.name in OPTIONS:
            found.append(f"{before}--{option.name}")
    return found


def test_every_verb_that_writes_is_here() -> None:
    assert set(verbs(get_command(app))) == set(VERBS)


@pytest.mark.parametrize("verb", VERBS)
def test_refused_before_the_work(
    verb: str, run: Run, own_network: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    arguments, work = VERBS[verb]
    monkeypatch.setattr(f"compactnets.{work}", lambda *_, **__: pytest.fail(f"{verb} began its work"))
    record = SimpleNamespace(class_names=("a",), detector="ssd", model="a", faster_rcnn=None, ssd=None)
    loaded = (SimpleNamespace(parameters=lambda: iter(())), record)
    monkeypatch.setattr("compactnets.detection.data.opening.open_detection", lambda *_, **__: record)
    monkeypatch.setattr("compactnets.detection.data.opening.open_run", lambda *_, **__: (record, record))
    monkeypatch.setattr("compactnets.detection.data.reviewing.review", lambda source, *_, **__: source)
    monkeypatch.setattr("compactnets.detection.deploy.runtime.detector_device", lambda *_: "cpu")
    monkeypatch.setattr("compactnets.detection.checkpoint.load_detector", lambda *_, **__: loaded)
    if "examples" not in verb:
        monkeypatch.setattr("compactnets.detection.deploy.runtime.load_any_detector", lambda *_, **__: loaded)
    (tmp_path / "file").write_text("mine")
    output = tmp_path / "file" / "under" / "it.svg"
    *words, option = verb.split(" --") if " --" in verb else (verb, "output")
    filled = [each.format(network=own_network, boxes=tmp_path) for each in arguments]
    found = run(*words[0].split(), *filled, f"--{option}", output)
    assert found.code == 2, found
    last = found.err.strip().splitlines()[-1]
    assert str(tmp_path / "file") in last
    assert "Traceback" not in found.err
    assert (tmp_path / "file").read_text() == "mine"
    assert {path.name for path in tmp_path.iterdir()} <= {
        "file",
        own_network.name,
        own_network.with_suffix(".json").name,
    }
