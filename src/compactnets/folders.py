"""Folders that are written completely or not at all.

A new folder is written beside its final path and renamed. An existing folder is kept, with its permissions and open
handles: it may be a mount point, the current folder, or the target of a link. New files are written to a hidden folder
inside it and then moved, so each is on the right disk from the start.
"""

from __future__ import annotations

import os
import re
import secrets
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from compactnets.errors import InputError, reason
from compactnets.files import make_parents
from compactnets.stopping import stoppable

PARTIAL = re.compile(r"\.compactnets-[0-9a-f]{8}\.partial")
GRACE = 60.0  # seconds before a hidden folder without a lock counts as left over from a killed process


def check_folder(output: Path, option: str = "--output") -> Path:
    """Resolve ``output`` and raise unless it can be written; nothing is created.

    Args:
        output: a folder that exists or can be created.
        option: its name in the message.

    Raises:
        InputError: a file, a path under a file, a folder without write permission, or an empty path.
    """
    target, existing = _nearest(output, option)
    if not existing.is_dir():
        where = f"{output} is a file" if existing == target else f"{existing}, on the way to {output}, is a file"
        raise InputError(f"{option} must be a folder, {where}")
    if not os.access(existing, os.W_OK | os.X_OK):
        raise InputError(f"{option} {output} cannot be written: {existing} is read-only for this user")
    return target


def check_file(path: Path, option: str = "--output") -> None:
    """Raise unless a file can be written at ``path``; nothing is created.

    Args:
        path: a file that exists or can be created, with its parent folders.
        option: its name in the message.

    Raises:
        InputError: a folder, a path under a file, or a location without write permission.
    """
    target, existing = _nearest(path, option)
    if target.is_dir():
        raise InputError(f"{option} must be a file, {path} is a folder")
    if existing != target and not existing.is_dir():
        raise InputError(f"{option} {path} cannot be written: {existing}, on the way to it, is a file")
    home = existing if existing.is_dir() or not existing.is_file() else existing.parent
    if not os.access(home, os.W_OK):
        raise InputError(f"{option} {path} cannot be written: {home} is read-only for this user")


def _nearest(path: Path, option: str) -> tuple[Path, Path]:
    """Return a path's target, and the target or its nearest existing parent."""
    try:
        target = Path(os.path.realpath(path))
        existing = target
        while not os.path.lexists(existing):
            existing = existing.parent
        if existing.is_symlink():  # realpath's result for a loop
            raise InputError(f"{option} {path} cannot be resolved: {existing} is a symbolic link in a loop")
        with suppress(FileNotFoundError, NotADirectoryError):
            os.stat(target)  # detects names that are too long
    except InputError:
        raise
    except (OSError, ValueError) as error:
        raise InputError(f"{option} {path} cannot be used: {reason(error)}") from None
    return target, existing


def entries(folder: Path) -> set[str]:
    """Return the names in a folder, without files of :func:`writing` in progress or left over.

    Raises:
        InputError: a folder that cannot be read.
    """
    try:
        return {name for name in os.listdir(folder) if not PARTIAL.fullmatch(name)}
    except OSError as error:
        raise InputError(f"cannot read the folder {folder}: {reason(error)}") from None


@contextmanager
def writing(output: Path, option: str = "--output") -> Iterator[Path]:
    """Yield a folder to write to; if the block succeeds, its content replaces that of ``output``.

    Errors, Ctrl-C, SIGTERM and SIGHUP leave ``output`` unchanged. The caller decides whether existing content may be
    replaced. If an :class:`InputError` of the block names a path in the temporary folder, it is reported under
    ``output`` instead.

    Raises:
        InputError: the folder cannot be written.
    """
    target = check_folder(output, option)
    with stoppable():
        made: list[Path] = []
        stage, lock, done = None, None, False
        try:
            try:
                inside = target.is_dir()
                before = entries(target) if inside else set()
                make_parents(target, made)
                home = target if inside else target.parent
                _sweep(home)
                stage = home / f".compactnets-{secrets.token_hex(4)}.partial"
                stage.mkdir()
                lock = _lock(stage)
                (stage / "new").mkdir()
            except OSError as error:
                raise InputError(f"cannot write {output}: {reason(error)}") from None
            try:
                yield stage / "new"
            except InputError as error:
                if str(stage) not in str(error):
                    raise
                raise InputError(str(error).replace(str(stage / "new"), str(output))) from error
            try:
                if inside:
                    _exchange(stage, target, before)
                else:
                    (stage / "new").rename(target)
                done = True
            except OSError as error:
                raise InputError(f"cannot write {output}: {reason(error)}") from None
        finally:
            if stage is not None:
                shutil.rmtree(stage, ignore_errors=True)
            if lock is not None:
                os.close(lock)
            for folder in [] if done else reversed(made):
                with suppress(OSError):
                    folder.rmdir()


def _exchange(stage: Path, target: Path, before: set[str]) -> None:
    """Move what was in ``target`` out and the new files in; an error or signal in between restores everything."""
    old, new = stage / "old", stage / "new"
    old.mkdir()
    moves: list[tuple[Path, Path]] = []
    try:
        for name in sorted(before):
            if os.path.lexists(target / name):
                moves.append((target / name, old / name))
                (target / name).rename(old / name)
        for name in sorted(os.listdir(new)):
            if os.path.lexists(target / name):
                raise FileExistsError(0, f"{name} was created there in the meantime")
            moves.append((new / name, target / name))
            (new / name).rename(target / name)
    except BaseException:
        for source, place in reversed(moves):
            with suppress(OSError):
                place.rename(source)
        raise


def _lock(folder: Path) -> int | None:
    """Lock a folder until the process ends, however it ends; ``None`` if the system has no such locks."""
    try:
        import fcntl
    except ImportError:
        return None
    handle = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(handle)
        return None
    return handle


def _sweep(home: Path) -> None:
    """Remove hidden folders left over from killed processes."""
    for name in os.listdir(home):
        with suppress(OSError):
            if PARTIAL.fullmatch(name) and time.time() - (home / name).stat().st_mtime > GRACE:
                lock = _lock(home / name)
                if lock is not None:
                    shutil.rmtree(home / name, ignore_errors=True)
                    os.close(lock)
