"""The benchmark of the training step runs, and its record can be rendered."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


@pytest.mark.slow  # nothing but the script uses what it tests
def test_step_time(tmp_path: Path) -> None:
    command = [sys.executable, str(ROOT / "benchmarks" / "step_time.py"), "shufflenet_g3_x0_25", "--set"]
    command += ["compile=false", "--batch-size", "4", "--size", "16", "--rounds", "2", "--steps", "1", "--output"]
    done = subprocess.run([*command, str(tmp_path / "record.json")], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "shufflenet_g3_x0_25: ours " in done.stdout
    record = json.loads((tmp_path / "record.json").read_text(encoding="utf-8"))
    (row,) = record["rows"]
    assert row["ratio"]["n"] == 2
    assert row["reference_seconds"]["median"] > 0 < row["our_seconds"]["median"]
    assert {"command", "commit", "date", "environment", "note"} <= set(record)
