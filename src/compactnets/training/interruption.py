"""Ctrl-C and SIGTERM: finish the step, save, leave."""

from __future__ import annotations

import os
import signal
import threading
from types import FrameType
from typing import Any

SIGNALS = (signal.SIGINT, signal.SIGTERM)


class Interrupted(SystemExit):
    """A signal stopped the run after it was saved; the exit code is 128 + the signal's number (130, 143)."""

    def __init__(self, signum: int) -> None:
        super().__init__(128 + signum)
        self.signum = signum


class Interruption:
    """While it is entered, the first SIGINT or SIGTERM sets :attr:`signum` for the loop to see after its step.

    A second one leaves at once, and so does the first while nothing would be lost by it (:attr:`nothing_to_lose`:
    before the first step, which may compile for minutes). In a thread other than the main one no handler can be set,
    and nothing changes.
    """

    def __init__(self) -> None:
        self.signum: int | None = None
        self.nothing_to_lose = True
        self._process = os.getpid()
        self._before: dict[int, Any] = {}

    def __enter__(self) -> Interruption:
        if threading.current_thread() is threading.main_thread():
            self._before = {number: signal.signal(number, self._handle) for number in SIGNALS}
        return self

    def __exit__(self, *exception: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _handle(self, signum: int, frame: FrameType | None) -> None:
        if os.getpid() != self._process:  # a forked child that has not set handlers of its own yet
            if signum == signal.SIGTERM:
                os._exit(128 + signum)
            return
        if self.signum is not None or self.nothing_to_lose:
            raise Interrupted(signum)
        self.signum = signum
