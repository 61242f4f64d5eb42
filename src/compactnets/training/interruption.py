"""Handle Ctrl-C, SIGTERM and a closed terminal (SIGHUP): finish the step, save, exit."""

from __future__ import annotations

import os
import signal
import threading
from types import FrameType
from typing import Any

# Windows has no SIGHUP
HANG_UP = getattr(signal, "SIGHUP", None)
SIGNALS = (signal.SIGINT, signal.SIGTERM, *([HANG_UP] if HANG_UP else []))


class Interrupted(SystemExit):
    """A signal stopped the run after it was saved; the exit code is 128 + the signal's number (129, 130, 143)."""

    def __init__(self, signum: int) -> None:
        super().__init__(128 + signum)
        self.signum = signum


class Interruption:
    """While it is entered, the first of :data:`SIGNALS` sets :attr:`signum` for the loop to see after its step.

    A second one exits at once, and so does the first if nothing would be lost (:attr:`nothing_to_lose`: before the
    first step, which may compile for minutes). A SIGHUP counts neither as first nor as second: the shell and the kernel
    both send one when a terminal closes, and systemd one after its SIGTERM. An ignored signal stays ignored, as
    ``nohup`` requires for SIGHUP. Outside the main thread no handler can be set, and nothing changes.
    """

    def __init__(self) -> None:
        self.signum: int | None = None
        self.nothing_to_lose = True
        self._process = os.getpid()
        self._before: dict[int, Any] = {}

    def __enter__(self) -> Interruption:
        if threading.current_thread() is threading.main_thread():
            heeded = [number for number in SIGNALS if signal.getsignal(number) != signal.SIG_IGN]
            self._before = {number: signal.signal(number, self._handle) for number in heeded}
        return self

    def __exit__(self, *exception: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _handle(self, signum: int, frame: FrameType | None) -> None:
        if os.getpid() != self._process:  # a forked child that has not yet set its own handlers
            if signum == signal.SIGTERM:
                os._exit(128 + signum)
            return
        if self.nothing_to_lose:
            raise Interrupted(signum)
        if self.signum is None or self.signum == HANG_UP:
            self.signum = signum
        elif signum != HANG_UP:
            raise Interrupted(signum)
