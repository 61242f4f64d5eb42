"""Where the records of the package lie."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

FOLDER = Path(__file__).parent


def load_records(kind: str, folder: Path = FOLDER) -> dict[str, dict[str, Any]]:
    """Return the records of one kind, such as ``"training"``, by name; none where there is no such folder."""
    return {path.stem: json.loads(path.read_text(encoding="utf-8")) for path in sorted((folder / kind).glob("*.json"))}
