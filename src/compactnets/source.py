"""The commit of this package's files: from git in a checkout, otherwise recorded by the build.

``hatch_build.py`` loads this file by path when the package is not installed, so it only imports the standard library.
"""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any

BUILD = "build.json"  # next to this file in a wheel or sdist, never in a checkout
UNKNOWN = "unknown"
DIRTY = "+"


def checkout_commit(root: Path, paths: Sequence[str] = ("src",)) -> str | None:
    """Return the commit of a checkout, with ``+`` appended if files below ``paths`` differ from it.

    ``None`` if ``root`` is not the root of a checkout, or git fails.
    """
    if not (root / ".git").exists():
        return None
    # in a git hook, these variables name the hook's repository, which may be another one
    environment = {name: value for name, value in os.environ.items() if not name.startswith("GIT_")}

    def git(*arguments: str) -> str:
        command = ["git", "-C", str(root), *arguments]
        return subprocess.run(
            command, capture_output=True, encoding="utf-8", check=True, env=environment
        ).stdout.strip()

    try:
        return git("rev-parse", "--short", "HEAD") + (DIRTY if git("status", "--porcelain", "--", *paths) else "")
    except (OSError, subprocess.CalledProcessError):
        return None


def build_info(folder: Path = Path(__file__).parent) -> dict[str, Any]:
    """Return what the build recorded about the package in ``folder``: ``commit`` and, without a page, the reason.

    The reason is in ``page``. Empty in a checkout.
    """
    try:
        found = json.loads((folder / BUILD).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}
