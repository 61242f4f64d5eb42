"""examples/board: the same classes and probabilities as compactnets, in a process without it and without PyTorch."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

import compactnets

from ..deploy.conftest import needs

SCRIPT = Path(__file__).parents[2] / "examples" / "board" / "classify.py"
BLOCKED = "import runpy, sys; sys.modules.update(torch=None, torchvision=None, timm=None, compactnets=None); "
BLOCKED += "sys.argv = sys.argv[1:]; runpy.run_path(sys.argv[0], run_name='__main__')"


def call(*arguments: object) -> subprocess.CompletedProcess[str]:
    words = [sys.executable, "-c", BLOCKED, str(SCRIPT), *map(str, arguments)]
    return subprocess.run(words, capture_output=True, text=True, check=False)


@pytest.fixture(scope="module")
def artifact(tmp_path_factory: pytest.TempPathFactory) -> Path:
    needs("onnx")
    folder = tmp_path_factory.mktemp("board") / "photos"
    compactnets.export("muffnet_x0_5.cifar10", "onnx", folder)
    return folder


@pytest.fixture
def photos(tmp_path: Path) -> list[Path]:
    """Two shapes, one of them turned by its EXIF tag, and one in grey."""
    base = Image.effect_mandelbrot((90, 61), (-2.0, -1.2, 0.8, 1.2), 40)
    coloured = Image.merge("RGB", (base, base.transpose(Image.FLIP_LEFT_RIGHT), base.rotate(180)))
    turned = Image.Exif()
    turned[0x0112] = 6
    coloured.save(tmp_path / "wide.png")
    coloured.save(tmp_path / "turned.jpg", exif=turned)
    base.save(tmp_path / "grey.png")
    return [tmp_path / name for name in ("wide.png", "turned.jpg", "grey.png")]


def test_the_same_as_compactnets(artifact: Path, photos: list[Path]) -> None:
    done = call(artifact, *photos, "--top", 10)
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert len(lines) == len(photos)
    for line, photo in zip(lines, photos, strict=True):
        (prediction,) = compactnets.predict("muffnet_x0_5.cifar10", photo, top=10)
        assert line.startswith(f"{photo}: ")
        found = {name: float(share) for name, share in re.findall(r"(\w+) ([\d.]+)(?:,|$)", line.partition(": ")[2])}
        assert len(found) == 10
        for guess in prediction.guesses:
            assert found[guess.label] == pytest.approx(guess.probability, abs=2e-4)


def test_what_cannot_be_read(artifact: Path, photos: list[Path], tmp_path: Path) -> None:
    (tmp_path / "broken.jpg").write_bytes(b"no image")
    done = call(artifact, tmp_path / "broken.jpg", photos[0])
    assert done.returncode == 0
    assert "broken.jpg" in done.stdout.splitlines()[0]
    assert str(photos[0]) in done.stdout.splitlines()[1]
    refused = call(tmp_path, photos[0])
    assert refused.returncode != 0
    assert "Traceback" not in refused.stderr
    assert "artifact.json" in refused.stderr
