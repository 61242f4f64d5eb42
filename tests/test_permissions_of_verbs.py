"""Every file that a verb writes has the permissions that the umask leaves."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from compactnets_cli import main

from .detection.helpers import scenes, tiny_recipe
from .full_disk import VERBS
from .permissions import check
from .training.helpers import digits_part, make_tiny_recipe

QUICK = ("data convert --to coco", "data convert --to voc", "data split", "benchmark --plot")
MASKS = (0o027, 0o077)


@pytest.fixture(params=MASKS, ids=oct)
def mask(request: pytest.FixtureRequest) -> Iterator[int]:
    before = os.umask(request.param)
    yield request.param
    os.umask(before)


@pytest.mark.parametrize(
    "verb", [verb if verb in QUICK else pytest.param(verb, marks=pytest.mark.slow) for verb in VERBS]
)
def test_of_a_verb(verb: str, mask: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    inputs, output = tmp_path / "inputs", tmp_path / "disk" / "out"
    inputs.mkdir()
    monkeypatch.setattr(sys, "argv", ["compactnets", *map(str, VERBS[verb](inputs, output, monkeypatch))])
    for path in inputs.rglob("*"):  # what is copied does not bring its own
        path.chmod(0o755)
    main()
    check(tmp_path / "disk", mask)


def train(folder: Path, scratch: Path) -> None:
    from compactnets.classification.task import TASK

    TASK.train(make_tiny_recipe(batch_size=16), *digits_part(32, 10), folder)


def train_a_detector(folder: Path, scratch: Path) -> None:
    from compactnets.detection.task import TASK

    TASK.train(tiny_recipe(), *scenes(scratch, train=4, val=2), folder)


@pytest.mark.slow
@pytest.mark.parametrize("run", [train, train_a_detector])
def test_of_a_run(run: Callable[[Path, Path], None], mask: int, tmp_path: Path) -> None:
    run(tmp_path / "new" / "run", tmp_path / "scenes")
    check(tmp_path / "new", mask)
