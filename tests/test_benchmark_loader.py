"""The benchmark of the loaders runs, and its record names what its numbers rest on."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

ROOT = Path(__file__).parents[1]


@pytest.mark.slow
def test_photographs(tmp_path: Path) -> None:
    for index in range(6):
        folder = tmp_path / "data" / str(index % 2)
        folder.mkdir(parents=True, exist_ok=True)
        pixels = np.random.default_rng(index).integers(0, 256, (60 + index, 70, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"{index}.jpg")
    command = [sys.executable, str(ROOT / "benchmarks" / "loader.py"), "photographs", str(tmp_path / "data")]
    options = ["--batch-size", "3", "--rounds", "2", "--steps", "1", "--output", str(tmp_path / "record.json")]
    done = subprocess.run([*command, *options], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    record = json.loads((tmp_path / "record.json").read_text(encoding="utf-8"))
    assert {"command", "commit", "date", "environment", "settings", "rows"} <= set(record)
    assert [row["network"] for row in record["rows"]][-1] == "photographs, decoded by pillow"
    for row in record["rows"]:
        assert row["ratio"]["n"] == 2
        assert 0 < row["ratio"]["p10"] <= row["ratio"]["median"] <= row["ratio"]["p90"]
    assert f"ratio {record['rows'][0]['ratio']['median']:.2f}" in done.stdout
