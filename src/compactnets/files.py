"""Files that are written whole or not at all."""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path


def replace_file(path: Path, write: Callable[[Path], object]) -> None:
    """Call ``write(partial)`` and move the result to ``path`` in one step; a failure leaves nothing behind."""
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        write(partial)
        os.replace(partial, path)
    finally:
        with suppress(FileNotFoundError):
            partial.unlink()


def replace_text(path: Path, text: str) -> None:
    """Write a text in UTF-8 as :func:`replace_file` does."""
    replace_file(path, lambda partial: partial.write_text(text, encoding="utf-8"))
