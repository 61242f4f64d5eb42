"""A disk that fills up while a verb writes: one line that names the right folder, exit code 2, nothing half-written."""

from __future__ import annotations

import ast
import os
import shutil
import subprocess
import sys
import tempfile
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from compactnets.deploy.formats.registry import Format
from compactnets.failures import Space
from compactnets.report.page import Drawn

from ..full_disk import SCRATCH, VERBS, MadeUpDisk, everything
from ..web.conftest import needs_compilers
from .helpers import Outcome

Run = Callable[..., Outcome]
ROOT = Path(__file__).parents[2]


def check(done: Outcome, named: Path) -> None:
    assert done.code == 2, done.err
    (line,) = [line for line in done.err.splitlines() if line.startswith("compactnets: ")]
    assert done.err.rstrip().endswith(line)
    assert str(named) in line
    assert ".partial" not in line  # which is gone by then
    assert "o space left" in line
    assert "Traceback" not in done.err


@pytest.fixture
def _small_work(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is written is written at the same places, and its content is not worked out."""

    def write(folder: Path) -> dict[str, Any]:
        (folder / "model.onnx").write_bytes(bytes(9000))
        return {}

    real = Format.write

    def stand_in(form: Format, model: Any, x: Any, folder: Path, *more: Any, **named: Any) -> dict[str, Any]:
        # the page compiles what the format c wrote
        return real(form, model, x, folder, *more, **named) if form.name == "c" else write(folder)

    monkeypatch.setattr(Format, "write", stand_in)
    monkeypatch.setattr("compactnets.quantization.calibrated", lambda model, *_, **__: model)
    detector = "compactnets.detection.deploy.export"
    part = SimpleNamespace(name="model", inputs=[], outputs=[])
    monkeypatch.setattr(f"{detector}.take_apart", lambda *_: [part])
    monkeypatch.setattr(f"{detector}.write_part", lambda _, __, path, *more: write(path.parent))
    monkeypatch.setattr(f"{detector}.find_objects", lambda *_: None)
    page = "compactnets.report.page"
    monkeypatch.setattr(f"{page}.measure_rows", lambda _: [])
    monkeypatch.setattr(f"{page}._figures", lambda *_: [Drawn("a", "b", f"{name}.svg", "c" * 3000) for name in "de"])
    monkeypatch.setattr(f"{page}._own_matrices", lambda _: [])
    monkeypatch.setattr(
        f"{page}._values", lambda *_: {"summary": {"rows_with_costs": 0, "accuracies": defaultdict(int)}}
    )
    monkeypatch.setattr(f"{page}._render", lambda *_: "f" * 3000)


@pytest.mark.usefixtures("_small_work")
@pytest.mark.parametrize("verb", [verb for verb in VERBS if verb != "benchmark --artifacts"])
def test_in_the_middle_of_the_writing(verb: str, run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if verb == "web":
        needs_compilers()
    disk, inputs = tmp_path / "disk", tmp_path / "inputs"
    disk.mkdir()
    inputs.mkdir()
    arguments = VERBS[verb](inputs, disk / "out", monkeypatch)
    monkeypatch.setattr(Space, "check", lambda self: None)
    if verb == "quantize":  # it writes the network in float first
        monkeypatch.setattr(tempfile, "tempdir", str(disk))
    MadeUpDisk(disk, 1000, monkeypatch)
    check(run(*arguments), disk if verb == "quantize" else disk / "out")
    assert everything(disk) == {}


@pytest.mark.usefixtures("_small_work")
@pytest.mark.parametrize(
    ("verb", "room"), [("convert", 2_750_000), ("papers report", 7000), ("benchmark --output", 100)]
)
def test_what_was_there_stays(verb: str, room: int, run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of files that belong together, some of which have room, none is new."""
    disk, inputs = tmp_path / "disk", tmp_path / "inputs"
    disk.mkdir()
    inputs.mkdir()
    arguments = VERBS[verb](inputs, disk / "out", monkeypatch)
    assert run(*arguments).code == 0
    files = [path for path in disk.rglob("*") if path.is_file()]
    sizes = sorted(path.stat().st_size for path in files)
    assert sum(sizes) > room, sizes
    assert sizes[-1] < room or len(files) == 1, sizes
    for path in files:
        path.write_text("old")
    before = everything(disk)
    with monkeypatch.context() as patch:
        MadeUpDisk(disk, room, patch)
        check(run(*arguments), disk / "out")
    assert everything(disk) == before


@pytest.mark.slow
@pytest.mark.timeout(1200)
@pytest.mark.parametrize(
    ("verb", "where"), [*((verb, "output") for verb in VERBS), *((verb, "scratch") for verb in SCRATCH)]
)
def test_a_real_disk(verb: str, where: str, tmp_path: Path) -> None:
    """Of 4 kB, 16 kB and so on, until it is large enough."""
    if not sys.platform.startswith("linux") or os.geteuid() != 0 or shutil.which("unshare") is None:
        pytest.skip("mounting takes Linux and root")
    if subprocess.run(["unshare", "-m", "true"], capture_output=True, check=False).returncode:
        pytest.skip("this container may not mount")
    disk = tmp_path / "disk"
    for name in ("disk", "large"):
        (tmp_path / name).mkdir()
    mount = 'mount -t tmpfs -o size=4k none "$1" && shift && exec "$@"'
    program = [sys.executable, "-m", "tests.full_disk", verb, tmp_path, where]
    command = ["unshare", "-m", "sh", "-c", mount, "sh", disk, *program]
    done = subprocess.run([str(part) for part in command], capture_output=True, text=True, check=False, cwd=ROOT)
    lines = [line.removeprefix("RESULT ") for line in done.stdout.splitlines() if line.startswith("RESULT ")]
    assert done.returncode == 0, done.stderr[-3000:]
    *refused, (_, _, code, said, _) = map(ast.literal_eval, lines)
    assert code == 0, said
    assert refused  # by the first of 4 kB at least
    for size, checked, code, said, left in refused:
        assert code == 2, (size, checked, said)
        (line,) = said
        assert line.startswith("compactnets: error: "), line
        assert "o space left" in line, line
        assert str(disk) in line, line
        assert ".partial" not in line, line
        assert ("TMPDIR" in line) == (where == "scratch"), line
        assert left == [], (size, checked, line)
