"""examples/c: a stream of frames is classified as compactnets classifies each."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest
from PIL import Image

from compactnets.compiler import find_compiler

from .conftest import shares_of

SOURCE = Path(__file__).parents[2] / "examples" / "c" / "stream.c"


@pytest.fixture(scope="module")
def program(in_c: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("stream") / "stream"
    names = ["-DNETWORK=muffnet_x0_5", "-DSIZES=MUFFNET_X0_5"]
    checks = ["-std=c11", "-Wall", "-Wextra", "-Wpedantic", "-Werror"]
    sources = [str(SOURCE), str(in_c / "model.c")]
    command = [*find_compiler(), "-O1", *checks, "-I", str(in_c), *names, *sources, "-lm", "-o", str(made)]
    subprocess.run(command, check=True)
    return made


def run(program: Path, weights: Path, frames: bytes) -> subprocess.CompletedProcess[bytes]:
    return subprocess.run([str(program), str(weights)], input=frames, capture_output=True, check=False)


def test_changes_of_the_leading_class(program: Path, in_c: Path, frames: list[Path]) -> None:
    first, second = (Image.open(path).tobytes() for path in frames)
    done = run(program, in_c / "model.bin", 20 * first + 30 * second)
    assert done.returncode == 0, done.stderr
    labels = json.loads((in_c / "artifact.json").read_text(encoding="utf-8"))["network"]["class_names"]
    changes = [
        (int(number), labels[int(index)], float(share))
        for number, index, share in map(bytes.split, done.stdout.splitlines())
    ]
    (label, share), *_ = shares_of(frames[0])
    assert changes[0] == (0, label, pytest.approx(share, abs=2e-4))
    assert changes[-1][1] == shares_of(frames[1])[0][0]
    assert 20 < changes[-1][0] < 40  # not by its first frame alone


def test_what_cannot_be_used(program: Path, in_c: Path, tmp_path: Path) -> None:
    cut = run(program, in_c / "model.bin", b"\0" * 5000)
    assert cut.returncode == 1
    assert b"1928" in cut.stderr
    (tmp_path / "model.bin").write_bytes(b"other")
    wrong = run(program, tmp_path / "model.bin", b"")
    assert wrong.returncode == 1
    assert str((in_c / "model.bin").stat().st_size).encode() in wrong.stderr
    assert run(program, tmp_path / "missing.bin", b"").returncode == 1
