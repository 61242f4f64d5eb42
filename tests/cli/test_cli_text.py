"""Names of the user's that rich would take for markup or emoji, and terminals that cannot show them, in the verbs."""

from __future__ import annotations

import io
import json
import os
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image

from compactnets.training.checkpoint import save_checkpoint
from compactnets_cli import main

from ..detection.helpers import write_scenes
from ..detection.lively import lively_detector
from .helpers import Outcome

Run = Callable[..., Outcome]
CLASSES = ("[b] sign", ":m: café 日本 😀")
FOLDER = "cells [v2] é"


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of images with such names, also one that is not UTF-8, as the working directory has it."""
    monkeypatch.chdir(tmp_path)
    for shade, split in enumerate(("train", "val")):
        for name in CLASSES:
            inner = Path(FOLDER, split, name)
            inner.mkdir(parents=True)
            Image.new("RGB", (8, 8), (40 * shade, len(name), 0)).save(inner / "[i] 0.png")
            data = io.BytesIO()
            Image.new("RGB", (8, 8), (40 * shade, len(name), 90)).save(data, "PNG")
            (inner / os.fsdecode(b"\xff.png")).write_bytes(data.getvalue())
    Path(FOLDER, "train", CLASSES[0], os.fsdecode(b"[b]\xfe.png")).write_bytes(b"no image")
    return Path(FOLDER)


def test_names_are_printed_as_they_are(folder: Path, run: Run) -> None:
    done = run("data", "check", folder)
    assert done.code == 1
    assert f"{FOLDER} (folder)" in done.out
    assert "[b]\\udcfe.png" in done.out
    assert "\udcfe" not in done.out
    done = run("eval", "--checkpoint", "out [v2] :m:.safetensors", "--data", folder)
    assert done.err == "compactnets: error: no checkpoint at out [v2] :m:.safetensors\n"


@pytest.mark.parametrize("encoding", ["ascii", "cp1252", "utf-8"])
@pytest.mark.parametrize(
    "words", [("data", "check", FOLDER), ("data", "check", FOLDER, "--json"), ("profile", "é\udcff😀")]
)
def test_a_terminal_that_cannot_show_a_name(
    encoding: str, words: tuple[str, ...], folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out, err = io.BytesIO(), io.BytesIO()
    monkeypatch.setattr(sys, "argv", ["compactnets", *words])
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(out, encoding=encoding))
    monkeypatch.setattr(sys, "stderr", io.TextIOWrapper(err, encoding=encoding))
    with pytest.raises(SystemExit) as stop:
        main()
    for stream in (sys.stdout, sys.stderr):
        stream.flush()
    assert stop.value.code == (2 if words[0] == "profile" else 1)
    printed, said = out.getvalue().decode(encoding), err.getvalue().decode(encoding)
    assert "Traceback" not in said
    if "--json" in words:
        assert FOLDER in json.loads(printed)["spec"]
        assert any("\udcfe" in found["name"] for found in json.loads(printed)["unreadable"])
    elif words[0] == "profile":
        assert len(said.splitlines()) == 1
    else:
        assert "cells [v2] " in printed


def test_detect_eval_and_predict_with_such_classes(tmp_path: Path, run: Run) -> None:
    """A class called ``[/b] sign`` ended in a traceback, and ``[v2]`` of the folder was lost."""
    root = write_scenes(tmp_path / FOLDER, val=1)
    for file in (root / "Annotations").iterdir():
        file.write_text(file.read_text().replace("<name>red<", "<name>[/b] sign<").replace("<name>blue<", "<name>:m:<"))
    detector, record = lively_detector("ssd")
    checkpoint = tmp_path / "out [v2].safetensors"
    names = ["[/b] sign", ":m:", *record.class_names[2:]]
    save_checkpoint(checkpoint, detector.state_dict(), record.model_copy(update={"class_names": names}))
    done = run("eval", "--checkpoint", checkpoint, "--data", root)
    assert done.code == 0, done.err
    assert f"{root} (val)" in done.out
    for name in names:
        assert f"\n{name} " in done.out
    image = next((root / "JPEGImages").iterdir())
    found = run("predict", "--checkpoint", checkpoint, image, "--score", "0")
    assert found.code == 0, found.err
    assert str(image) in found.out
    assert any(f"  {name}  " in found.out for name in names)
