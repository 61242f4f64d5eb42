"""What the tests of the space share."""

from __future__ import annotations

import json
import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

RECIPE = "digits/quickstart"
SETTINGS = ["batch_size=256", "lr=0.01", "schedule.warmup_epochs=0"]


class Chance:
    """Proposes at random."""

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)

    def suggest_int(self, name: str, low: int, high: int, *, step: int = 1) -> int:
        return self.random.randrange(low, high + 1, step)

    def suggest_categorical(self, name: str, choices: Sequence[Any]) -> Any:
        return self.random.choice(choices)


def toy(trial: Any, multiple: int = 1) -> tuple[str, dict[str, Any]]:
    """Ask for one of five small networks."""
    width = trial.suggest_int("toy.width", 12, 60, step=12)
    return "menet_108_8x1_g3", {
        "residual_width": width,
        "groups": 3,
        "stem_channels": 6,
        "fusion_width": 2,
        "depths": [1, 1, 1],
    }


def fake_benchmark(paths: list[str], formats: list[str], **options: Any) -> dict[str, Any]:
    """Measure as many milliseconds as a tenth of the toy's width."""
    rows = []
    for path in paths:
        record = json.loads(Path(path).with_suffix(".json").read_text())
        width = record["arguments"].get("residual_width", 100)
        row = {"network": path, "milliseconds": {"median": width / 10}, "macs": 1, "params": 1, "bytes": 1}
        rows.append({**row, "peak_memory_bytes": None})
    options["artifacts"].mkdir(exist_ok=True)
    return {"rows": rows, "failed": [], "commit": "", "date": "", "environment": {}, "settings": {}}
