"""Artifacts of the small network, each format written once."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from functools import cache
from pathlib import Path

import pytest

from compactnets.deploy import FORMATS, export
from compactnets.errors import InputError

from ..conftest import Once
from .helpers import tiny_network, tiny_record

os.environ.setdefault("CFLAGS", "-O1")  # networks that run once are compiled quickly

Make = Callable[[str], Path]


def needs(name: str) -> None:
    """Skip where the extra of a format is not installed."""
    try:
        FORMATS[name].versions()
    except InputError as error:
        pytest.skip(str(error))


@pytest.fixture(scope="session")
def written(once: Once) -> Make:
    """Write each format once in a run of the tests, whichever of pytest's processes needs it first."""
    return cache(lambda name: once(name, lambda folder: export(tiny_network(), tiny_record(), name, folder)))


@pytest.fixture
def artifact(written: Make, tmp_path: Path) -> Make:
    """A copy of the artifact of a format, for a test to do with what it likes."""

    def make(name: str) -> Path:
        needs(name)
        return Path(shutil.copytree(written(name), tmp_path / name))

    return make
