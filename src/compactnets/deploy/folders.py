"""Folders that appear whole or not at all."""

from __future__ import annotations

import os
import shutil
from pathlib import Path


def partial_folder(output: Path) -> Path:
    """Return where a folder is written before it is moved to ``output``: hidden beside it, one per process."""
    return output.absolute().with_name(f".{output.absolute().name}.{os.getpid()}.partial")


def move_folder(partial: Path, output: Path) -> None:
    """Put the finished folder in place of what is there."""
    before = partial.with_suffix(".before")
    if output.exists():
        output.rename(before)
    partial.rename(output)
    shutil.rmtree(before, ignore_errors=True)
