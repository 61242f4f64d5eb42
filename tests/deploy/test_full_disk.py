"""A full disk, in the folder for the artifact or in the temporary one: one line that names it, and nothing is left.

The disks are real ones of 1 or 4 MB, which takes Linux and root.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from compactnets.deploy import FORMATS

from .conftest import needs

ROOT = Path(__file__).parents[2]

# exports a network of 2.6 MB in every format that is named, and prints what came of each
SCRIPT = """
import os, sys, tempfile
from pathlib import Path
base, full, checked, size = Path(sys.argv[1]), sys.argv[2], sys.argv[3] == "checked", int(sys.argv[4])
output = base / ("disk" if full == "output" else "large") / "artifact"
tempfile.tempdir = str(base / ("disk" if full == "scratch" else "large"))
os.environ["TMPDIR"] = tempfile.tempdir
import torch
from torch import nn
from compactnets.deploy import export
from compactnets.errors import InputError
from compactnets.failures import Space
from tests.deploy.helpers import tiny_record

CLASSES = 10000

class Wide(nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.act = nn.Conv2d(3, 64, 3, 2, 1), nn.ReLU()
        self.pool = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten())
        self.classifier = nn.Linear(64, CLASSES)

    def forward(self, x):
        return self.classifier(self.pool(self.act(self.first(x))))

if not checked:  # as where another program fills the disk meanwhile
    Space.check = lambda self: None
names = [str(index) for index in range(CLASSES)]
record = tiny_record().model_copy(update={"class_names": names, "class_labels": None})
for form in sys.argv[5:]:
    try:
        export(Wide().eval(), record, form, output)
        text = "it was written"
    except InputError as error:
        text = str(error)
    except BaseException as error:
        text = f"{type(error).__name__} escaped: {error}"
    names = sorted({path.name for folder in ("disk", "large") for path in (base / folder).iterdir()})
    left = [name for name in names if not name.startswith(("torchinductor", ".ses"))]
    print(f"RESULT {form}|{text}|{left}", flush=True)
"""


def outcomes(tmp_path: Path, full: str, checked: str, size: int, formats: list[str]) -> dict[str, tuple[str, str]]:
    """Return, by format, what was said and what was left."""
    if not sys.platform.startswith("linux") or os.geteuid() != 0 or shutil.which("unshare") is None:
        pytest.skip("mounting takes Linux and root")
    if subprocess.run(["unshare", "-m", "true"], capture_output=True, check=False).returncode:
        pytest.skip("this container may not mount")
    for name in ("disk", "large"):
        (tmp_path / name).mkdir()
    mount = 'mount -t tmpfs -o size="$3"m none "$1/disk" && shift 3 && exec "$@"'
    program = [sys.executable, "-c", SCRIPT, tmp_path, full, checked, size, *formats]
    command = ["unshare", "-m", "sh", "-c", mount, "sh", tmp_path, "-", size, *program]
    done = subprocess.run([str(part) for part in command], capture_output=True, text=True, check=False, cwd=ROOT)
    lines = [line.removeprefix("RESULT ") for line in done.stdout.splitlines() if line.startswith("RESULT ")]
    found = {form: (text, left) for form, text, left in (line.split("|") for line in lines)}
    assert list(found) == formats, f"exit code {done.returncode}: {done.stderr[-2000:]}"
    return found


@pytest.mark.parametrize("full", ["scratch", pytest.param("output", marks=pytest.mark.slow)])
def test_seen_before_the_work(tmp_path: Path, full: str) -> None:
    formats = [form.name for form in FORMATS.values() if full == "output" or form.scratch]
    for name in formats:
        needs(name)
    for text, left in outcomes(tmp_path, full, "checked", 1, formats).values():
        assert "no space left in" in text
        assert str(tmp_path / "disk") in text
        assert ("TMPDIR" in text) == (full == "scratch")
        assert left == "[]"


@pytest.mark.slow
@pytest.mark.timeout(1200)
@pytest.mark.parametrize("full", ["output", "scratch"])
@pytest.mark.parametrize("name", FORMATS)
def test_found_in_the_middle(tmp_path: Path, full: str, name: str) -> None:
    """In C++ this is any error or the end of the process, unless its files are written by Python."""
    needs(name)
    ((text, left),) = outcomes(tmp_path, full, "unchecked", 1, [name]).values()
    if full == "scratch" and not FORMATS[name].scratch:
        assert text == "it was written"
        return
    assert "no space left in" in text, text
    assert str(tmp_path / "disk") in text
    assert len(text.splitlines()) == 1
    assert "None" not in text
    assert left == "[]"
