"""Atomic file writes, valid JSON, and one-line errors from the system."""

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

PARTIAL = ".*.partial"  # pattern of half-written files of killed processes


@contextmanager
def refusals(path: Path | str, doing: str = "write") -> Iterator[None]:
    """Report system errors (no space, quota, permission, a device error) in one line with ``path``.

    Raises:
        InputError: an ``OSError`` in the block.
    """
    try:
        yield
    except OSError as error:
        raise InputError(f"cannot {doing} {path}: {error.strerror or error}") from None


def replace_bytes(path: Path, data: bytes | memoryview) -> None:
    """Write a file atomically: it has either its old or its new content, even after a kill or a power cut.

    Libraries that write files wrap system errors in their own exceptions, or lose them, so callers create the bytes in
    memory first. Permissions follow the umask. Symbolic links are followed; special files (``/dev/stdout``) are written
    to, not replaced. Missing folders are created.

    Raises:
        InputError: the file cannot be written; no part of it remains, and an existing file is unchanged.
    """
    replace_files({path: data})


def replace_files(contents: Mapping[Path, bytes | memoryview]) -> None:
    """Write related files like :func:`replace_bytes`: none is replaced before all are written.

    Raises:
        InputError: one of them cannot be written; none is left behind.
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
    """Write a text atomically; see :func:`replace_bytes` and :func:`as_bytes`."""
    replace_bytes(path, as_bytes(text))


def as_bytes(text: str) -> bytes:
    """Encode a text as UTF-8; a lone surrogate, from a file name that is not UTF-8, becomes ``\\udcXX``."""
    return text.encode("utf-8", errors="backslashreplace")


def make_parents(path: Path, made: list[Path]) -> None:
    """Create missing parent folders of ``path``, and record each in ``made`` for removal."""
    missing = [folder for folder in path.parents if not folder.exists()]
    for folder in reversed(missing):
        folder.mkdir(exist_ok=True)
        made.append(folder)


def remove_partials(folder: Path) -> None:
    """Remove half-written files of killed processes from a folder with no other writers."""
    for partial in folder.glob(PARTIAL):
        with suppress(OSError):
            partial.unlink()


def json_text(value: Any, indent: int | None = None, *, ensure_ascii: bool = True) -> str:
    """Return ``value`` as JSON (RFC 8259), which lacks NaN and infinity: they become ``null``, as in pydantic.

    Non-finite results are rejected where they are computed; this handles the rest.
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
            os.fsync(file.fileno())  # some file systems report a full disk only now


def _sync_folder(folder: Path) -> None:
    """Make a rename survive a power cut, if the system supports it."""
    with suppress(OSError):  # Windows opens no folders, some network file systems sync none
        number = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(number)
        finally:
            os.close(number)


def as_path(path: str | os.PathLike[str]) -> Path:
    """Return the user's path; ``~`` is the home folder, and ``~name`` without such a user is a plain name."""
    return Path(os.path.expanduser(path))


def replace_csv(path: Path, columns: Iterable[str], rows: Iterable[Sequence[Any]]) -> None:
    """Write a table as CSV, atomically; ``None`` is an empty field.

    Raises:
        InputError: the file cannot be written.
    """
    text = io.StringIO()
    table = csv.writer(text, lineterminator="\n")
    table.writerow(columns)
    table.writerows(rows)
    replace_text(path, text.getvalue())
