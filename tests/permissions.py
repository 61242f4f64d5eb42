"""What a umask leaves of permissions."""

from __future__ import annotations

import stat
from pathlib import Path


def check(folder: Path, mask: int) -> None:
    """Compare all files and folders in ``folder`` with what ``mask`` leaves of 666 and 777."""
    found = list(folder.rglob("*"))
    assert any(path.is_file() for path in found)
    for path in found:
        expected = (0o777 if path.is_dir() else 0o666) & ~mask
        assert stat.S_IMODE(path.stat().st_mode) == expected, path
