"""Files that are written whole or not at all, JSON that is always JSON, and one line where the system refuses."""

from __future__ import annotations

import csv
import io
import json
import math
import os
import stat
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from compactnets.errors import InputError

PARTIAL = ".*.partial"  # pattern of what a killed process leaves of a file that was being written


@contextmanager
def refusals(path: Path | str, doing: str = "write") -> Iterator[None]:
    """Turn what the system refuses (no space, quota, permission, a device's error) into one line with ``path``.

    Raises:
        InputError: an ``OSError`` in the block.
    """
    try:
        yield
    except OSError as error:
        raise InputError(f"cannot {doing} {path}: {error.strerror or error}") from None


def replace_bytes(path: Path, data: bytes | memoryview) -> None:
    """Write a file in one step: it has its old content or the new one, also after a kill or a power cut.

    Libraries that write files wrap what the system says in exceptions of their own, or lose it; so whoever writes a
    file here makes its bytes in memory first. The permissions are those that the umask leaves. A symbolic link is
    followed, and what is no plain file (``/dev/stdout``) is written to, not replaced. Folders that are missing are
    made.

    Raises:
        InputError: the file cannot be written; nothing is left of it, and what was there before stays.
    """
    replace_files({path: data})


def replace_files(contents: Mapping[Path, bytes | memoryview]) -> None:
    """Write files that belong together as :func:`replace_bytes` does: no name changes before all are written.

    Raises:
        InputError: one of them cannot be written; nothing is left of any.
    """
    partials: list[tuple[Path, Path, Path]] = []
    made: list[Path] = []
    done = False
    try:
        for path, data in contents.items():
            with refusals(path):
                target = Path(os.path.realpath(path))
                if target.exists() and not stat.S_ISREG(target.stat().st_mode):
                    _write(target, data)
                    continue
                make_parents(target, made)
                partial = target.with_name(f".{target.name}.{os.getpid()}.partial")
                partials.append((path, partial, target))
                _write(partial, data)
        for path, partial, target in partials:
            with refusals(path):
                os.replace(partial, target)
        done = True
    finally:
        for _, partial, _ in partials:
            with suppress(OSError):
                partial.unlink()
        for folder in [] if done else reversed(made):
            with suppress(OSError):
                folder.rmdir()
    for folder in {target.parent for _, _, target in partials}:
        _sync_folder(folder)


def replace_text(path: Path, text: str) -> None:
    """Write a text as :func:`replace_bytes` does, as the bytes of :func:`as_bytes`."""
    replace_bytes(path, as_bytes(text))


def as_bytes(text: str) -> bytes:
    """Return a text in UTF-8; half a character of a file name that is not UTF-8 (a lone surrogate) is ``\\udcXX``."""
    return text.encode("utf-8", errors="backslashreplace")


def make_parents(path: Path, made: list[Path]) -> None:
    """Make the folders above ``path`` that are missing, and note each, to take it away again."""
    missing = [folder for folder in path.parents if not folder.exists()]
    for folder in reversed(missing):
        folder.mkdir(exist_ok=True)
        made.append(folder)


def remove_partials(folder: Path) -> None:
    """Remove what killed processes left half-written in a folder that nobody else writes to."""
    for partial in folder.glob(PARTIAL):
        with suppress(OSError):
            partial.unlink()


def json_text(value: Any, indent: int | None = None, *, ensure_ascii: bool = True) -> str:
    """Return ``value`` as JSON (RFC 8259), which has no NaN and no infinity: those become ``null``, as pydantic does.

    Whoever computes a figure refuses one that is not finite where it would be a result; this is for what remains.
    """
    return json.dumps(_finite(value), indent=indent, ensure_ascii=ensure_ascii, allow_nan=False)


def _finite(value: Any) -> Any:
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {key: _finite(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(each) for each in value]
    return value


def _write(path: Path, data: bytes | memoryview) -> None:
    with path.open("wb") as file:
        file.write(data)
        file.flush()
        if stat.S_ISREG(os.fstat(file.fileno()).st_mode):
            os.fsync(file.fileno())  # some file systems say only now that there is no space


def _sync_folder(folder: Path) -> None:
    """Make a new name survive a power cut, where the system can."""
    with suppress(OSError):  # Windows opens no folders, some network file systems sync none
        number = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(number)
        finally:
            os.close(number)


def as_path(path: str | os.PathLike[str]) -> Path:
    """Return a path that a user gave; ``~`` is the home folder, and ``~name`` of nobody a name like any other."""
    return Path(os.path.expanduser(path))


def replace_csv(path: Path, columns: Sequence[str], rows: Iterable[Sequence[Any]]) -> None:
    """Write a table as CSV, whole or not at all; ``None`` is an empty field.

    Raises:
        InputError: the file cannot be written.
    """
    text = io.StringIO()
    table = csv.writer(text, lineterminator="\n")
    table.writerow(columns)
    table.writerows(rows)
    replace_text(path, text.getvalue())
