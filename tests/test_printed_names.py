"""Names of the user's, complete in what verbs print: like markup, wide, or longer than the terminal."""

from __future__ import annotations

import io
import os
import pty
import re
import struct
import subprocess
import sys
import termios
from collections.abc import Callable
from fcntl import ioctl
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image

from compactnets.classification import evaluation, judging, task
from compactnets.classification.evaluation import Evaluation
from compactnets.classification.judging import Guesses, judgement
from compactnets.classification.prediction import Guess, Prediction
from compactnets.console import PlainConsole
from compactnets.detection import tables as detection_tables
from compactnets.detection.metrics import ClassScores, CocoScores, Confusion, DetectionScores
from compactnets_cli import main

from .cli.helpers import stand_in
from .detection.data.helpers import write_tree

WIDE = "".join(map(chr, range(0x4E00, 0x4E00 + 60)))  # 120 columns, no blank
NAMES = ["[/b] stop", "cells [v2]", ":m: [red]x[/red]", "交通標識 [v2]", WIDE, "-".join(map(str, range(100, 140)))]


class Terminal(io.StringIO):
    """What is printed, as to a terminal."""

    encoding = "utf-8"

    def isatty(self) -> bool:
        return True


def shown_without_folds(text: str) -> str:
    return re.sub(r"\x1b\[[0-9;?]*[A-Za-z]|\s", "", text)


def parts_of(name: str) -> list[str]:
    """What must be seen of a name wherever a table folds it: names of a table's text go on in the next line."""
    return list(name.replace(" ", "")) if name == WIDE else re.findall(r"[^\s-]+", name)


def patch_loading(patch: pytest.MonkeyPatch) -> None:
    record = SimpleNamespace(model=NAMES[0], preprocess={}, class_names=NAMES)
    stand_in(patch, task.TASK, torch.nn.Identity(), record)
    patch.setattr("compactnets.data.Preprocess.from_dict", lambda _: None)


def judged(classes: int) -> tuple[Evaluation, Guesses, list[str]]:
    """Classes that are each taken for the next one."""
    targets = np.arange(classes)
    guesses = Guesses(targets, (targets + 1) % classes, np.full(classes, 0.75), np.full(classes, 0.125))
    return Evaluation(classes, 0, classes, 1.23456, 12.5), guesses, names_of(classes)


def names_of(classes: int) -> list[str]:
    return [NAMES[index % 6] + (f" {index}" if index >= 6 else "") for index in range(classes)]


def evaluate(folder: Path, patch: pytest.MonkeyPatch) -> list[object]:
    patch_loading(patch)
    patch.setattr(task, "judge", lambda *_, **__: (judgement(*judged(6)), None))
    patch.setattr(task, "match_classes", lambda *_: None)
    patch.setattr(task, "open_source", lambda *_, **__: None)
    return ["eval", "--checkpoint", "a.safetensors", "--data", " ".join(NAMES)]


def predict(folder: Path, patch: pytest.MonkeyPatch) -> list[object]:
    patch_loading(patch)
    guesses = tuple(Guess(name, name, 0.125) for name in NAMES)
    found = [Prediction(name, guesses, name=name) for name in NAMES]
    patch.setattr(task, "predict", lambda *_: iter(found))
    return ["predict", "--checkpoint", "a.safetensors", "a.jpg"]


def check_labels(folder: Path, patch: pytest.MonkeyPatch) -> list[object]:
    """Each name is at a place where it is said: of a class without images that can be read, and of copies."""
    for number, name in enumerate(NAMES):
        if "/" in name:  # no folder has such a name
            name = name.replace("/", "")
        place = folder / "train" / name
        place.mkdir(parents=True)
        Image.fromarray(np.full((8, 8, 3), 50, dtype=np.uint8)).save(place / f"{number}.png")
        (place / "broken.png").write_bytes(b"no image")
    return ["data", "check", folder, "--split", "train"]


def check_boxes(folder: Path, patch: pytest.MonkeyPatch) -> list[object]:
    write_tree(folder, {"val": {"1": [(name, 2, 3, 20, 16) for name in NAMES]}})
    return ["data", "check", folder, "--split", "val"]


VERBS: dict[str, Callable[[Path, pytest.MonkeyPatch], list[object]]] = {
    "eval": evaluate,
    "predict": predict,
    "data check of labels": check_labels,
    "data check of boxes": check_boxes,
}


@pytest.fixture(params=["terminal of 80", "terminal of 40", "pipe"])
def printed(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> io.StringIO:
    kind, _, columns = request.param.partition(" of ")
    file = Terminal() if columns else io.StringIO()
    monkeypatch.delenv("COLUMNS", raising=False)
    if columns:
        monkeypatch.setenv("COLUMNS", columns)
        monkeypatch.setenv("TERM", "xterm-256color")
    console = PlainConsole(file=file)
    assert console.is_terminal == bool(columns)
    monkeypatch.setattr("compactnets.console.stdout", console)
    for module in (detection_tables, evaluation, judging):
        monkeypatch.setattr(module, "stdout", console)
    return file


@pytest.mark.parametrize("verb", VERBS)
def test_names_are_complete(verb: str, printed: io.StringIO, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    arguments = VERBS[verb](tmp_path / "data [v2]", monkeypatch)
    monkeypatch.setattr(sys, "argv", ["compactnets", *map(str, arguments)])
    if verb == "data check of labels":
        with pytest.raises(SystemExit):
            main()
    else:
        main()
    text = printed.getvalue()
    assert "…" not in text
    for name in NAMES:
        said = name.replace("/", "") if verb == "data check of labels" else name
        assert said in text  # a line is never broken
    if verb == "data check of labels":
        assert "data [v2]" in text


@pytest.mark.parametrize("classes", [6, 24])
def test_scores_of_detection(classes: int, printed: io.StringIO) -> None:
    names = names_of(classes)
    rows = tuple(ClassScores(name, 1234, 5, 6, 12.34, 56.78, 9.01, 0.5, 12.3, 45.6, 20.1) for name in names)
    coco = CocoScores(**dict.fromkeys(CocoScores.__dataclass_fields__, 33.33))
    confusion = Confusion((0.5,) * classes, ((1234,) * (classes + 1),) * (classes + 1))
    scores = DetectionScores("coco", 0.5, 10, 12.34, 56.78, coco, rows, confusion)
    detection_tables.show(scores, 1.0, f"ssd, {' '.join(NAMES)} (val)")
    text = printed.getvalue()
    assert "…" not in text
    for name in NAMES:
        for part in parts_of(name):
            assert part in shown_without_folds(text), part
    for figure in ("1,234", "12.34 %", "56.78 %", "33.33 %", "45.60 %"):
        assert figure in text
    limit = int(os.environ.get("COLUMNS", "100000"))
    plain = [re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", line) for line in text.splitlines()]
    table = [line for line in plain if "1,234" in line and not line.startswith("confused")]
    assert max(map(len, table)) <= limit


@pytest.mark.parametrize("classes", [6, 24])
def test_classes_of_a_classifier(classes: int, printed: io.StringIO) -> None:
    judgement(*judged(classes)).show("a title")
    text = printed.getvalue()
    assert "…" not in text
    for name in NAMES:
        for part in parts_of(name):
            assert part in shown_without_folds(text), part
    assert "0.0 %" in text


@pytest.mark.slow  # a process of its own
@pytest.mark.parametrize("where", ["terminal", "pipe"])
@pytest.mark.parametrize("verb", ["data check of labels", "data check of boxes"])
def test_in_a_process_of_its_own(verb: str, where: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    command = [sys.executable, "-m", "compactnets", *map(str, VERBS[verb](tmp_path / "data [v2]", monkeypatch))]
    variables = {key: value for key, value in os.environ.items() if key != "COLUMNS"} | {"PYTHONUTF8": "1"}
    if where == "pipe":
        shown = subprocess.run(command, capture_output=True, env=variables, check=False).stdout.decode()
    else:
        main_end, terminal = pty.openpty()
        ioctl(terminal, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 80, 0, 0))
        variables |= {"TERM": "xterm"}
        process = subprocess.Popen(command, stdin=terminal, stdout=terminal, stderr=terminal, env=variables)
        os.close(terminal)
        data = b""
        try:
            while part := os.read(main_end, 65536):
                data += part
        except OSError:  # the other side is closed
            pass
        finally:
            os.close(main_end)
        process.wait()
        shown = data.decode()
    for name in NAMES:
        assert (name.replace("/", "") if "labels" in verb else name) in shown
