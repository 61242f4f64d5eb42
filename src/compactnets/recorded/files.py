"""The recorded results that ship with the package."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

FOLDER = Path(__file__).parent


def load_results(kind: str, folder: Path = FOLDER) -> dict[str, dict[str, Any]]:
    """Return the recorded results of one kind, such as ``"training"``, by name; empty if there is no such folder."""
    return {path.stem: json.loads(path.read_text(encoding="utf-8")) for path in sorted((folder / kind).glob("*.json"))}
