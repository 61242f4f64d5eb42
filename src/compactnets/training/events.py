"""Scalars for TensorBoard.

Written here, with TensorBoard's own record format and messages, because its writer and torch's write in a thread: on a
full disk the thread prints a traceback, and the run fails later with another.
"""

from __future__ import annotations

import io
import os
import socket
import time
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from compactnets.files import refusals


class Events:
    """The events of one start of a run, in their own file in ``folder``, created on the first write.

    Writing methods raise InputError if the file cannot be written. Earlier events stay readable.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._pending = io.BytesIO()
        self._path: Path | None = None
        self._size = 0  # bytes of whole records in the file

    def add(self, scalars: Mapping[str, float], step: int) -> None:
        """Add the scalars of a step; they are written with the next :meth:`flush`."""
        from tensorboard.compat.proto.event_pb2 import Event, SessionLog  # here: it takes half a second
        from tensorboard.compat.proto.summary_pb2 import Summary

        if self._path is None:
            name = f"events.out.tfevents.{time.time():.0f}.{socket.gethostname()}.{os.getpid()}.{id(self)}"
            self._path = self.folder / name
            self._record(Event(wall_time=time.time(), file_version="brain.Event:2"))
            # hide events of a killed process after the state that the run resumes from
            purge = SessionLog(status=SessionLog.START)
            self._record(Event(wall_time=time.time(), step=step, session_log=purge))
        values = [Summary.Value(tag=tag, simple_value=value) for tag, value in scalars.items()]
        self._record(Event(wall_time=time.time(), step=step, summary=Summary(value=values)))

    def flush(self) -> None:
        """Write the scalars added since the last flush."""
        if self._path is None or not self._pending.tell():
            return
        data = self._pending.getvalue()
        with refusals(self._path):
            self.folder.mkdir(parents=True, exist_ok=True)
            with self._path.open("ab", buffering=0) as file:
                try:
                    written = 0
                    while written < len(data):
                        written += file.write(data[written:]) or 0
                except OSError:
                    with suppress(OSError):
                        file.truncate(self._size)  # readers stop at a truncated record
                    raise
        self._size += len(data)
        self._pending = io.BytesIO()

    def close(self) -> None:
        """Write the remaining scalars."""
        self.flush()

    def _record(self, event: Any) -> None:
        from tensorboard.summary.writer.record_writer import RecordWriter

        RecordWriter(self._pending).write(event.SerializeToString())
