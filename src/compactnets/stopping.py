"""Turn SIGTERM and SIGHUP into exceptions, so that half-written files are cleaned up as after Ctrl-C."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

NAMES = ("SIGTERM", "SIGHUP")  # Windows has no SIGHUP


class Stopped(SystemExit):
    """A signal ended the work; the exit code is 128 + the signal's number (143, 129)."""

    def __init__(self, signum: int) -> None:
        super().__init__(128 + signum)
        self.signum = signum


@contextmanager
def stoppable() -> Iterator[None]:
    """Raise :class:`Stopped` at the first SIGTERM or SIGHUP in the block; further ones do not interrupt the clean-up.

    It has no effect outside the main thread, where no handler can be set, or for a signal that already has a handler
    or is ignored (``nohup``).
    """
    process, came = os.getpid(), False

    def handle(signum: int, frame: FrameType | None) -> None:
        nonlocal came
        if os.getpid() != process:  # a forked child must not clean up its parent's files
            os._exit(128 + signum)
        if not came:
            came = True
            raise Stopped(signum)

    before: dict[int, Any] = {}
    if threading.current_thread() is threading.main_thread():
        for number in (getattr(signal, name) for name in NAMES if hasattr(signal, name)):
            if signal.getsignal(number) is signal.SIG_DFL:
                before[number] = signal.signal(number, handle)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
