"""What runs in a process of its own, and how it ends."""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from compactnets.errors import InputError
from compactnets.latency.process import CrashedError, Worker


@pytest.fixture
def worker() -> Iterator[Worker]:
    found = Worker()
    yield found
    found.close()


def refuse() -> None:
    raise InputError("a line of ours")


def fail() -> None:
    raise RuntimeError("a line of a library\nand another")


def _unreadable() -> None:
    raise ValueError("cannot be unpickled")


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="Linux's choice of what to end")
def test_memory_that_runs_out_costs_one_measurement(worker: Worker) -> None:
    """The system ends a worker first; the process with the results goes on, and says which is left out."""
    assert worker.call(Path.read_text, Path("/proc/self/oom_score_adj")).strip() == "1000"
    with pytest.raises(CrashedError, match="out of memory"):
        worker.call(os.kill, worker.call(os.getpid), signal.SIGKILL)


class Unreadable:
    def __reduce__(self) -> tuple[object, ...]:
        return _unreadable, ()

    def __call__(self) -> None:
        """Never reached: the process that is to call it cannot read it."""


def test_answers_errors_and_crashes(worker: Worker) -> None:
    """One after the other, and Ctrl-C in between, which a terminal sends to every process."""
    assert worker.call(abs, -3) == 3
    with pytest.raises(InputError, match=r"^a line of ours$"):
        worker.call(refuse)
    with pytest.raises(InputError, match=r"^RuntimeError: a line of a library$"):
        worker.call(fail)
    with pytest.raises(InputError, match="cannot be unpickled"):
        worker.call(Unreadable())  # a module that is missing there raises in the same place
    process = worker.call(os.getpid)
    assert process != os.getpid()
    os.kill(process, signal.SIGINT)
    assert worker.call(os.getpid) == process
    with pytest.raises(CrashedError, match="SIGABRT"):
        worker.call(os.abort)
    with pytest.raises(CrashedError, match="SIGABRT"):
        worker.call(abs, 1)


def test_closing_does_not_wait() -> None:
    worker = Worker()
    worker.start(time.sleep, 600)
    start = time.monotonic()
    worker.close()
    assert time.monotonic() - start < 60
