"""A separate process for code that may crash and whose memory is measured."""

from __future__ import annotations

import multiprocessing
import os
import pickle
import signal
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager, suppress
from multiprocessing import connection, resource_tracker
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from compactnets.errors import InputError
from compactnets.failures import cause

CONTEXT = multiprocessing.get_context("spawn")


class CrashedError(InputError):
    """A process ended in the middle of a call."""


class Worker:
    """Runs functions of this package in sequence, in a process that :meth:`close` ends immediately.

    Ctrl-C in a terminal reaches all its processes; the worker ignores it, so only the main one reacts.

    Args:
        quiet: hide what it prints on standard error, such as a crashing runtime's output. Otherwise it prints there,
            and may have processes of its own, as those that load images.
    """

    def __init__(self, *, quiet: bool = True) -> None:
        self._pipe, theirs = CONTEXT.Pipe()
        self._process = CONTEXT.Process(target=_serve, args=(theirs, quiet), daemon=quiet)
        with _blocked_interrupt():
            self._process.start()
        theirs.close()

    def start(self, function: Callable[..., Any], *arguments: Any) -> None:
        """Start a call; :meth:`result` waits for its result. Both must be picklable.

        Raises:
            CrashedError: the process has ended.
        """
        try:
            self._pipe.send((function, arguments))
        except OSError:
            raise self._crashed() from None

    def result(self) -> Any:
        """Return the result of the call.

        Raises:
            InputError: the call's error, in one line.
            CrashedError: the process ended.
        """
        try:
            failed, value = self._pipe.recv()
        except (EOFError, OSError):
            raise self._crashed() from None
        if failed:
            raise InputError(value)
        return value

    def call(self, function: Callable[..., Any], *arguments: Any) -> Any:
        """Run a function there and return its result; see :meth:`result`."""
        self.start(function, *arguments)
        return self.result()

    def stop(self) -> None:
        """Ask the call to end, by SIGTERM; :meth:`result` tells how it did."""
        self._process.terminate()

    def close(self) -> None:
        """End the process immediately."""
        self._process.kill()
        self._process.join()
        self._pipe.close()

    def _crashed(self) -> CrashedError:
        self._process.join()
        code = self._process.exitcode
        how = f"exit code {code}"
        if code is not None and code < 0:
            how = f"signal {-code}"
            if -code in signal.Signals.__members__.values():
                how = signal.Signals(-code).name
        if how == "SIGKILL":
            how += ", possibly out of memory"
        return CrashedError(f"its process crashed ({how})")


def wait(workers: Collection[Worker]) -> list[Worker]:
    """Return those workers whose :meth:`Worker.result` is there, as soon as one is."""
    pipes = {worker._pipe: worker for worker in workers}
    return [pipes[ready] for ready in connection.wait(pipes)]  # type: ignore[index]


def _serve(pipe: Connection, quiet: bool) -> None:
    """Answer calls until the other end is closed."""
    if quiet:
        nothing = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nothing, 2)
        os.close(nothing)
    _be_the_first_to_go()
    while True:
        try:
            message = pipe.recv_bytes()
        except (EOFError, OSError):
            return
        try:
            function, arguments = pickle.loads(message)
            answer = False, function(*arguments)
        except InputError as error:
            answer = True, str(error)
        except BaseException as error:
            answer = True, cause(error)
        try:
            pipe.send(answer)
        except OSError:
            return


def _be_the_first_to_go() -> None:
    """Make Linux end this process, not the one that has all results, when memory runs out."""
    with suppress(OSError):  # other systems have no such file
        Path("/proc/self/oom_score_adj").write_text("1000", encoding="ascii")


@contextmanager
def _blocked_interrupt() -> Iterator[None]:
    """Start a process with SIGINT blocked permanently; a pending one is handled here afterwards."""
    if not hasattr(signal, "pthread_sigmask"):  # Windows
        yield
        return
    resource_tracker.ensure_running()  # otherwise started with the first process, which would lift the block
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
