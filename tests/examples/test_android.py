"""examples/android: its Java and its native library, on this machine's Java."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from pathlib import Path

import pytest
from PIL import Image

from .conftest import shares_of

EXAMPLE = Path(__file__).parents[2] / "examples" / "android"


@pytest.fixture(scope="module")
def built(in_c: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the library and the classes."""
    for tool in ("javac", "java", "cmake"):
        if shutil.which(tool) is None:
            pytest.skip(f"no {tool}: apt-get install default-jdk cmake")
    folder = tmp_path_factory.mktemp("android")
    home = Path(os.path.realpath(str(shutil.which("javac")))).parents[1]
    if not (home / "include" / "jni.h").exists():
        pytest.skip("no jni.h: apt-get install default-jdk")
    given = [
        f"-DARTIFACT={in_c}",
        "-DNETWORK=muffnet_x0_5",
        "-DCMAKE_C_FLAGS=-Wall -Wextra -Wpedantic -Werror",
        "-DOPTIMIZE=-O1",
    ]
    environment = {**os.environ, "JAVA_HOME": str(home)}
    subprocess.run(["cmake", "-S", str(EXAMPLE), "-B", str(folder), *given], check=True, env=environment)
    subprocess.run(["cmake", "--build", str(folder)], check=True)
    sources = [str(EXAMPLE / "Classifier.java"), str(Path(__file__).with_name("Run.java"))]
    subprocess.run(["javac", "-Xlint:all", "-Werror", "-d", str(folder), *sources], check=True)
    return folder


def run(built: Path, weights: Path, colors: bytes) -> subprocess.CompletedProcess[str]:
    (built / "colors").write_bytes(colors)
    words = ["java", f"-Djava.library.path={built}", "-Xcheck:jni", "-cp", str(built), "Run"]
    return subprocess.run([*words, str(weights), str(built / "colors")], capture_output=True, text=True, check=False)


def test_the_same_as_compactnets(built: Path, in_c: Path, frames: list[Path]) -> None:
    labels = json.loads((in_c / "artifact.json").read_text(encoding="utf-8"))["network"]["class_names"]
    for frame in frames:
        red, green, blue = Image.open(frame).split()
        done = run(
            built, in_c / "model.bin", Image.merge("RGBA", (Image.new("L", red.size, 255), red, green, blue)).tobytes()
        )
        assert done.returncode == 0, done.stderr
        *shares, size = done.stdout.splitlines()
        assert size == "32 32"
        found = dict(zip(labels, map(float, shares), strict=True))
        assert found == {label: pytest.approx(share, abs=2e-4) for label, share in shares_of(frame)}


@pytest.mark.parametrize("change", [lambda data: data[:-1], lambda data: data + b"\0", lambda data: b""])
def test_other_weights(built: Path, in_c: Path, tmp_path: Path, change: object) -> None:
    data = (in_c / "model.bin").read_bytes()
    (tmp_path / "model.bin").write_bytes(change(data))  # type: ignore[operator]
    refused = run(built, tmp_path / "model.bin", b"")
    assert refused.returncode == 1
    assert "IOException" in refused.stderr
    assert str(len(data)) in refused.stderr


def test_pixels_of_another_size(built: Path, in_c: Path) -> None:
    refused = run(built, in_c / "model.bin", b"\0" * 8)
    assert refused.returncode == 1
    assert "32 x 32" in refused.stderr
