"""Searches of several processes on a toy space, in which nothing is trained: they share the work, and end alike."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from compactnets.errors import InputError
from compactnets.search import workers

from .helpers import RECIPE, SETTINGS

optuna = pytest.importorskip("optuna", reason="optuna is not installed")

OPTIONS = {"family": "menet", "recipe": RECIPE, "settings": SETTINGS, "trials": 3, "epochs": 2, "rungs": 1}
WAIT = 250  # seconds, on a busy machine
POSIX = pytest.mark.skipif(sys.platform == "win32", reason="signals as POSIX has them")


def _start(output: Path, log: Path, **options: Any) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "tests.search.one_process", str(output), str(log), json.dumps(OPTIONS | options)]
    pipe, root = subprocess.PIPE, Path(__file__).parents[2]
    return subprocess.Popen(command, stdout=pipe, stderr=pipe, text=True, cwd=root, start_new_session=True)


def _until(holds: Callable[[], bool]) -> None:
    end = time.monotonic() + WAIT
    while not holds():
        assert time.monotonic() < end
        time.sleep(0.05)


def _lines(log: Path, what: str) -> list[list[str]]:
    """The words of the lines: for trainings, the network, its epochs, and the process."""
    lines = [line.split() for line in log.read_text().splitlines()] if log.exists() else []
    return [words[1:] for words in lines if words[0] == what]


def _trained(log: Path) -> Counter[tuple[str, ...]]:
    return Counter(tuple(words[:2]) for words in _lines(log, "train"))


def _gone(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return True
    return False


def _ended(process: subprocess.Popen[str]) -> tuple[dict[str, Any], str]:
    out, notes = process.communicate(timeout=WAIT)
    assert process.returncode == 0, notes
    return json.loads(out), notes


def test_two_processes_train_as_many_as_asked_for_and_tell_the_same(tmp_path: Path) -> None:
    log = tmp_path / "log"
    both = [_start(tmp_path / "search", log, compared=["shufflenet_g3_x0_25"]) for _ in range(2)]
    (one, _), (two, _) = map(_ended, both)
    assert one == two
    assert one["trained"] == 3
    trained = _trained(log)
    assert len({name for name, _ in trained}) == 4  # one for comparison
    assert set(trained.values()) == {1}
    assert len(_lines(log, "measure")) == 1


def test_two_machines_share_a_database(tmp_path: Path) -> None:
    """Each has its own folder and measures what it has trained."""
    logs = [tmp_path / "log0", tmp_path / "log1"]
    options = {"storage": f"sqlite:///{tmp_path / 'study.db'}", "trials": 4}
    logs[0].with_suffix(".hang").touch()
    first = _start(tmp_path / "0", logs[0], **options)
    _until(lambda: bool(_lines(logs[0], "train")))
    second = _start(tmp_path / "1", logs[1], **options)
    _until(lambda: bool(_lines(logs[1], "train")))
    logs[0].with_suffix(".hang").unlink()
    found = [_ended(process)[0] for process in (first, second)]
    trained = [{name for name, _ in _trained(log)} for log in logs]
    assert not trained[0] & trained[1]
    assert len(trained[0] | trained[1]) == 4 == found[0]["trained"] == found[1]["trained"]
    for each, ours, theirs in zip(found, trained, reversed(trained), strict=True):
        assert {one["name"] for one in each["finalists"]} <= ours
        assert set(each["elsewhere"]) <= theirs
        assert len(each["finalists"]) + len(each["elsewhere"]) == 4 - each["stopped"]
        assert "storage" not in each["request"]
    assert not any((tmp_path / number / "study.log").exists() for number in "01")


@POSIX
def test_the_other_goes_on_where_one_is_killed(tmp_path: Path) -> None:
    """First as it trains what the other waits for, and then as it measures."""
    log = tmp_path / "log"
    hang, hold = log.with_suffix(".hang"), log.with_suffix(".hold")
    hang.touch()
    first = _start(tmp_path / "search", log, trials=1)
    _until(lambda: bool(_lines(log, "train")))
    second = _start(tmp_path / "search", log, trials=1)
    assert second.stderr is not None
    assert f"process {first.pid}" in second.stderr.readline()
    assert len(_lines(log, "train")) == 1
    hold.touch()
    first.send_signal(signal.SIGKILL)
    first.communicate()
    hang.unlink()
    _until(lambda: bool(_lines(log, "measure")))
    assert len({name for name, _ in _trained(log)}) == 1
    third = _start(tmp_path / "search", log, trials=1)
    assert third.stderr is not None
    assert f"process {second.pid}" in third.stderr.readline()
    hold.unlink()
    second.send_signal(signal.SIGKILL)
    second.communicate()
    found, _ = _ended(third)
    assert found["trained"] == 1
    assert len({name for name, _ in _trained(log)}) == 1
    assert len(_lines(log, "measure")) == 2


@POSIX
def test_workers_share_the_candidates_and_go_on_where_one_is_killed(tmp_path: Path) -> None:
    log = tmp_path / "log"
    hang = log.with_suffix(".hang")
    hang.touch()
    process = _start(tmp_path / "search", log, trials=3, workers=2)
    _until(lambda: len(_lines(log, "train")) == 2)
    killed = _lines(log, "train")[0]
    os.kill(int(killed[2]), signal.SIGKILL)
    hang.unlink()
    found, notes = _ended(process)
    assert found["trained"] == 3
    trained = _trained(log)
    assert len({name for name, _ in trained}) == 3
    assert [each for each, times in trained.items() if times > 1] == [tuple(killed[:2])]
    assert len({worker for *_, worker in _lines(log, "train")}) == 2
    assert _lines(log, "measure") == [[str(process.pid)]]  # by the main process
    assert all(f"worker {number}: candidate" in notes for number in (1, 2))
    assert notes.count("failed: its process crashed (SIGKILL") == 1


@POSIX
def test_ctrl_c_stops_the_workers_and_the_command_goes_on(tmp_path: Path) -> None:
    log = tmp_path / "log"
    process, begun = _two_workers(tmp_path / "search", log)
    os.killpg(process.pid, signal.SIGINT)  # as a terminal does
    process.communicate(timeout=WAIT)
    assert process.returncode != 0
    assert all(_gone(int(worker)) for *_, worker in begun)
    log.with_suffix(".hang").unlink()
    found, _ = _ended(_start(tmp_path / "search", log, trials=2))
    assert found["trained"] == 2
    assert {name for name, _ in _trained(log)} == {name for name, *_ in begun}


@POSIX
def test_no_worker_outlives_a_main_process_that_is_killed(tmp_path: Path) -> None:
    process, begun = _two_workers(tmp_path / "search", tmp_path / "log")
    process.kill()
    process.communicate()
    _until(lambda: all(_gone(int(worker)) for *_, worker in begun))


def _two_workers(output: Path, log: Path) -> tuple[subprocess.Popen[str], list[list[str]]]:
    """A search with two workers, both of which are training, and what they train."""
    log.with_suffix(".hang").touch()
    process = _start(output, log, trials=2, workers=2)
    _until(lambda: len(_lines(log, "train")) == 2)
    return process, _lines(log, "train")


class _Failing:
    """In place of a worker: it fails at once."""

    def __init__(self, **_: Any) -> None:
        pass

    def start(self, *_: Any) -> None:
        pass

    def result(self) -> None:
        raise InputError("no memory")

    def close(self) -> None:
        pass


@pytest.mark.parametrize("done", [1, 2])
def test_where_every_worker_fails_the_command_does_unless_enough_are_trained(
    done: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(workers, "Worker", _Failing)
    monkeypatch.setattr(workers, "wait", list)
    search: Any = SimpleNamespace(
        request=SimpleNamespace(workers=2, trials=2), claims=SimpleNamespace(done=done), optuna=optuna
    )
    with pytest.raises(InputError, match="2 of 2 workers failed.*no memory") if done < 2 else nullcontext():
        workers.train_by_workers(search)
    assert capsys.readouterr().err.splitlines() == [f"worker {number} failed: no memory" for number in (1, 2)]
