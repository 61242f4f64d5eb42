"""Exclusive ownership of an output folder or file.

It is a kernel lock, not the existence of a file: a process that dies, even by kill -9, releases it. It is a POSIX
record lock (``fcntl.lockf``), not ``flock`` as in ``filelock``: a ``flock`` lives on in every forked process, and
data-loading workers outlive a killed run by seconds. Record locks also work between machines on NFS. Windows uses
``msvcrt.locking``.
"""

from __future__ import annotations

import errno
import os
import socket
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from compactnets.console import say
from compactnets.errors import InputError
from compactnets.files import make_parents

NAME = ".lock"  # in an owned folder
PATIENCE = 2.0  # seconds to wait for a just-killed process to disappear
BUSY = (errno.EACCES, errno.EAGAIN, errno.EDEADLK)
UNSUPPORTED = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, errno.EINVAL)  # file systems without locks


@dataclass
class _Held:
    """A lock of this process; re-entrant within its thread."""

    process: int
    thread: int
    times: int = 1


_held: dict[str, _Held] = {}
_guard = threading.Lock()


@contextmanager
def own_folder(folder: Path) -> Iterator[None]:
    """Create a folder and own it exclusively, by a lock on :data:`NAME` in it, until the block ends.

    Re-entrant within a thread. A folder created here is removed if it is still empty at the end.

    Raises:
        InputError: another process, or another thread of this one, owns it; or it cannot be created or written.
    """
    with _made(folder, f"to the output folder {folder}"), _own(folder / NAME, folder):
        yield


@contextmanager
def own_file(path: Path, *, wait: bool = False) -> Iterator[None]:
    """Own a file, and its companion files, exclusively until the block ends.

    Re-entrant as :func:`own_folder`. A parent folder created here is removed if it is still empty at the end.

    Args:
        wait: wait for as long as another process owns it, and say so, instead of raising.

    Raises:
        InputError: as :func:`own_folder`.
    """
    with _made(path.parent, str(path)), _own(path.with_name(f".{path.name}.lock"), path, wait):
        yield


@contextmanager
def _made(folder: Path, what: str) -> Iterator[None]:
    """Create a folder and its parents; those created are removed if still empty at the end.

    Raises:
        InputError: ``what`` cannot be written.
    """
    made: list[Path] = []
    try:
        try:
            make_parents(folder / NAME, made)
        except OSError as error:
            raise InputError(f"cannot write {what}: {error.strerror}") from None
        yield
    finally:
        with suppress(OSError):
            for path in reversed(made):
                path.rmdir()


@contextmanager
def _own(lock: Path, what: Path, wait: bool = False) -> Iterator[None]:
    key, process, thread = os.path.realpath(lock), os.getpid(), threading.get_ident()
    with _guard:
        held = _held.get(key)
        if held is not None and held.process != process:  # inherited from the parent process
            held = None
        if held is not None and held.thread != thread:
            raise InputError(f"{what} is being written by another thread of this process: wait until it is done")
        if held is not None:
            held.times += 1
        else:
            held = _held[key] = _Held(process, thread)
    number = None
    try:
        if held.times == 1:
            number = _take(lock, what, wait)
        yield
    finally:
        with _guard:
            held.times -= 1
            if held.times == 0 and os.getpid() == process:
                _held.pop(key, None)
        if number is not None and os.getpid() == process:
            _release(lock, number)


def _take(lock: Path, what: Path, wait: bool) -> int:
    """Open and lock the file; return its descriptor."""
    end = time.monotonic() + PATIENCE
    told = False
    while True:
        try:
            number = os.open(lock, os.O_RDWR | os.O_CREAT, 0o666)
        except OSError as error:
            raise InputError(f"cannot write to the output folder {lock.parent}: {error.strerror}") from None
        try:
            _lock(number)
        except OSError as error:
            owner = _owner(number)
            os.close(number)
            if error.errno not in BUSY:
                raise InputError(f"cannot lock {lock}: {error.strerror}") from None
            if time.monotonic() > end and wait and not told:
                say(f"{what} is being written by another process{owner}: waiting for it")
                told = True
            if time.monotonic() > end and not wait:
                raise InputError(
                    f"{what} is being written by another process{owner}: wait until it ends, or choose another --output"
                ) from None
            time.sleep(0.05)
            continue
        if _is_at(number, lock):
            with suppress(OSError):  # only informs the next process
                os.ftruncate(number, 0)
                now = datetime.now().astimezone().isoformat(sep=" ", timespec="seconds")
                os.write(number, f"process {os.getpid()} on {socket.gethostname()}, since {now}".encode())
            return number
        os.close(number)  # its previous owner removed it: this is a lock on a deleted file


def _release(lock: Path, number: int) -> None:
    if sys.platform == "win32":  # an open file cannot be removed
        os.close(number)
        with suppress(OSError):
            lock.unlink()
        return
    with suppress(OSError):
        if _is_at(number, lock):
            lock.unlink()  # before unlocking, so that nobody waits long for a deleted file
    os.close(number)


def _owner(number: int) -> str:
    with suppress(OSError, UnicodeDecodeError):
        os.lseek(number, 0, os.SEEK_SET)
        if text := os.read(number, 500).decode():
            return f" ({text})"
    return ""


def _is_at(number: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(number), path.stat())
    except OSError:
        return False


def _lock(number: int) -> None:
    """Lock an open file without waiting; report a file system without locks.

    Raises:
        OSError: with an errno of :data:`BUSY`, if another process has it.
    """
    if sys.platform == "win32":
        import msvcrt

        os.lseek(number, 1 << 20, os.SEEK_SET)  # past the text, so that others may read it
        msvcrt.locking(number, msvcrt.LK_NBLCK, 1)
        os.lseek(number, 0, os.SEEK_SET)
        return
    import fcntl

    try:
        fcntl.lockf(number, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno not in UNSUPPORTED:
            raise
        say(f"the file system cannot lock files ({error.strerror}): make sure that nothing else writes the same output")
