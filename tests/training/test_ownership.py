"""Two runs never share a folder: the second is refused while the first is there, and nothing of the first changes."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest
import yaml

from compactnets import locks
from compactnets.classification.grid import (
    LOG,
    Member,
    Place,
    train_grid,
)
from compactnets.classification.task import TASK
from compactnets.data import ImageSource
from compactnets.errors import InputError
from compactnets.locks import NAME, own_folder
from compactnets.training.distributed import World
from compactnets.training.run_folder import own_run_folder
from compactnets.training.step import Learner

from .helpers import digits_part, make_tiny_recipe


@pytest.fixture(autouse=True)
def _impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(locks, "PATIENCE", 0.1)


def test_a_second_run_with_another_seed_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """While the first is in the middle of a step; whether it has a state yet or not."""
    run, refused, take = tmp_path / "run", [], Learner.step
    sources = digits_part(32, 10)

    def second() -> None:
        before = {path: path.read_bytes() for path in run.rglob("*") if path.is_file()}
        try:
            TASK.train(make_tiny_recipe(batch_size=16, seed=1), *sources, run)
        except InputError as error:
            refused.append(str(error))
        assert {path: path.read_bytes() for path in run.rglob("*") if path.is_file()} == before

    def step(self: Learner, batch: Any, number: int) -> Any:
        thread = threading.Thread(target=second)
        thread.start()
        thread.join()
        return take(self, batch, number)

    monkeypatch.setattr(Learner, "step", step)
    TASK.train(make_tiny_recipe(batch_size=16), *sources, run)
    assert len(refused) == 2
    assert all(str(run) in message and "\n" not in message for message in refused)
    assert yaml.safe_load((run / "recipe.yaml").read_text())["seed"] == 0
    assert not (run / NAME).exists()


def test_what_is_refused_leaves_no_folder(tmp_path: Path) -> None:
    sources: tuple[ImageSource, ImageSource] = digits_part(32, 10)
    with pytest.raises(InputError, match="no network"):
        TASK.train(make_tiny_recipe(model="nothing"), *sources, tmp_path / "a" / "run")
    assert list(tmp_path.iterdir()) == []


class Two(World):
    """A process of two, whose other one says what it is told to."""

    def __init__(self, rank: int, other: int) -> None:
        super().__init__(rank=rank, size=2)
        object.__setattr__(self, "other", other)

    def largest(self, value: int) -> int:
        return max(value, self.other)  # type: ignore[attr-defined]


def test_all_processes_of_a_run_are_refused(tmp_path: Path) -> None:
    with own_run_folder(tmp_path, Two(0, 0)):
        assert (tmp_path / NAME).exists()
        with own_run_folder(tmp_path / "b", Two(1, 0)):
            assert not (tmp_path / "b").exists()  # the first owns it for all
        with pytest.raises(InputError, match=str(tmp_path)), own_run_folder(tmp_path, Two(1, 1)):
            pytest.fail("a process goes on alone")


def test_a_grid_and_its_runs_are_owned(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    members = [Member("a", make_tiny_recipe(batch_size=512)), Member("b", make_tiny_recipe(batch_size=512))]
    refused: list[BaseException] = []

    def other(call: Any) -> None:
        def run() -> None:
            try:
                call()
            except InputError as error:
                refused.append(error)

        thread = threading.Thread(target=run)
        thread.start()
        thread.join()

    with own_folder(tmp_path):
        other(lambda: train_grid(members, "digits", tmp_path, Place("cpu")))
    assert len(refused) == 1
    from compactnets.classification import grid

    outcomes = []
    with own_folder(tmp_path / "a"):
        other(lambda: outcomes.append(grid.train_member(members[0], "digits", tmp_path, Place("cpu"), 0)))
    assert str(tmp_path / "a") in (outcomes[0].error or "")
    assert not (tmp_path / "a" / LOG).exists()  # the log belongs to the run that has the folder


RUN = ["-m", "compactnets", "train", "digits/quickstart", "--data", "digits", "--model", "shufflenet_g3_x0_25"]
SET = ["--set", "epochs=3", "--set", "schedule.warmup_epochs=0.5", "--set", "workers=2", "--set", "print_frequency=1"]
SET += ["--set", "preprocess.size=8"]


@pytest.mark.slow
def test_two_commands_and_kill_9(tmp_path: Path) -> None:
    """The second command ends with one line and code 2; after kill -9 the first goes on at once, with workers."""
    command, run = [sys.executable, *RUN, *SET, "--output", str(tmp_path / "run")], tmp_path / "run"
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as first:
        assert first.stderr is not None
        next(line for line in first.stderr if ": 5/" in line)
        os.kill(first.pid, signal.SIGSTOP)  # or it ends while the second starts
        second = subprocess.run([*command, "--set", "seed=1"], capture_output=True, text=True, check=False)
        assert second.returncode == 2
        assert f"process {first.pid} on " in second.stderr.splitlines()[-1]
        assert "Traceback" not in second.stderr
        assert first.poll() is None
        os.kill(first.pid, signal.SIGKILL)
    again = subprocess.run(command, capture_output=True, text=True, check=False)
    assert again.returncode == 0, again.stderr
    assert yaml.safe_load((run / "recipe.yaml").read_text())["seed"] == 0
