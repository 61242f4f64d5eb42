"""Artifacts for the examples, and pictures of the network's size."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import compactnets
from compactnets.compiler import find_compiler
from compactnets.errors import InputError

from ..conftest import Once

NETWORK = "muffnet_x0_5.cifar10"


@pytest.fixture(scope="session")
def in_c(once: Once) -> Path:
    """The shipped MuffNet in the format c."""
    try:
        find_compiler()
    except InputError as error:
        pytest.skip(str(error))
    return once("examples-c", lambda folder: compactnets.export(NETWORK, "c", folder) and None)


@pytest.fixture
def frames(tmp_path: Path) -> list[Path]:
    """Two pictures of 32 x 32 pixels of different classes."""
    rows, columns = np.mgrid[:32, :32]
    sky = np.stack([90 + 2 * rows, 140 + 2 * rows, np.full((32, 32), 230)], -1)
    noise = np.random.default_rng(0).integers(0, 256, (32, 32, 3))
    found = []
    for name, levels in (("sky", sky), ("noise", noise)):
        Image.fromarray(levels.astype(np.uint8)).save(tmp_path / f"{name}.png")
        found.append(tmp_path / f"{name}.png")
    first, second = (compactnets.predict(NETWORK, path)[0].guesses[0].label for path in found)
    assert first != second
    return found


def shares_of(picture: Path) -> list[tuple[str, float]]:
    """The probabilities of compactnets, the best first."""
    (prediction,) = compactnets.predict(NETWORK, picture, top=10)
    return [(guess.label, guess.probability) for guess in prediction.guesses]
