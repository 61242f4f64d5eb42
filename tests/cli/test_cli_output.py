"""An output that cannot be written is refused before the work, by every verb that takes one."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from typer.main import get_command

from compactnets.detection.task import TASK
from compactnets_cli.app import app

from .helpers import Outcome, stand_in

Run = Callable[..., Outcome]

# arguments without the output, and the work that must not begin
VERBS: dict[str, tuple[list[str], str]] = {  # a verb, with its task where it has several
    "train": (["cifar/muffnet", "--data", "digits"], "tasks.contract.run"),
    "train (detection)": (["small/ssd512", "--data", "cells"], "tasks.contract.run"),
    "quickstart": ([], "quickstart._run_one"),
    "export": (["{network}", "--format", "torch"], "deploy.formats.registry.Format.write"),
    "export (detection)": (["a", "--format", "onnx"], "detection.deploy.export.copy.deepcopy"),
    "quantize": (
        ["{network}", "--format", "onnx", "--calibration", "digits", "--eval", "digits"],
        "quantization.calibrated",
    ),
    "benchmark": (["muffnet_x0_5"], "latency.benchmark.benchmark"),
    "web": (["--checkpoint", "{network}", "--no-serve"], "web.site.export_subject"),
    "convert": (["a.pth.tar", "--model", "menet_108_8x1_g3"], "classification.legacy.load_legacy"),
    "discretize": (["{network}"], "classification.discretization.load_checkpoint"),
    "pull": (["someone/network"], "hub.repository._api"),
    "draw": (["{network}"], "plots.sharing_figure"),
    "data convert": (["{boxes}", "--to", "coco"], "detection.data.conversion.writing"),
    "data split": (["{boxes}"], "data.dividing.writing"),
    "eval --examples": (["--checkpoint", "a", "--data", "b"], "api.open_model"),
    "search": (["--budget", "macs=4M", "--data", "digits"], "search.study.open_training"),
    "predict": (["--checkpoint", "a", "{network}"], "detection.prediction.find_objects"),
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
    assert set(verbs(get_command(app))) == {verb.partition(" (")[0] for verb in VERBS}


@pytest.mark.parametrize("verb", VERBS)
def test_refused_before_the_work(
    verb: str, run: Run, own_network: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    arguments, work = VERBS[verb]
    monkeypatch.setattr(f"compactnets.{work}", lambda *_, **__: pytest.fail(f"{verb} began its work"))
    record = SimpleNamespace(class_names=("a",), detector="ssd", model="a", faster_rcnn=None, ssd=None)
    monkeypatch.setattr("compactnets.detection.task.open_run", lambda *_, **__: (record, record))
    if "detection" in verb or verb in ("predict", "eval --examples"):
        stand_in(monkeypatch, TASK, torch.nn.Identity(), record)
        monkeypatch.setattr(f"compactnets.{work}", lambda *_, **__: pytest.fail(f"{verb} began its work"))
    (tmp_path / "file").write_text("mine")
    output = tmp_path / "file" / "under" / "it.svg"
    *words, option = verb.split(" --") if " --" in verb else (verb.partition(" (")[0], "output")
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
