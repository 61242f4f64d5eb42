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
    expected, average = [], dict.fromkeys(labels, 0.0)
    one, other = (dict(shares_of(path)) for path in frames)
    for number in range(50):
        new = one if number < 20 else other
        average = {name: old + (new[name] - old) * (1 / 8 if number else 1) for name, old in average.items()}
        leader = max(average, key=lambda name: average[name])
        if not expected or leader != expected[-1][1]:
            expected.append((number, leader, pytest.approx(average[leader], abs=2e-4)))
    assert changes == expected
    assert len(changes) >= 2


def test_what_cannot_be_used(program: Path, in_c: Path, tmp_path: Path) -> None:
    cut = run(program, in_c / "model.bin", b"\0" * 5000)
    assert cut.returncode == 1
    assert b"1928" in cut.stderr
    (tmp_path / "model.bin").write_bytes(b"other")
    wrong = run(program, tmp_path / "model.bin", b"")
    assert wrong.returncode == 1
    assert str((in_c / "model.bin").stat().st_size).encode() in wrong.stderr
    assert run(program, tmp_path / "missing.bin", b"").returncode == 1
