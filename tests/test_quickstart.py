"""The first command of the README."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from compactnets import quickstart
from compactnets.classification.checkpoint import load_checkpoint

SHORT = ["epochs=1", "schedule.warmup_epochs=0", "batch_size=256", "lr=0.001", "preprocess.size=8"]


def test_quickstart_does_the_whole_job(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    result = quickstart.run(tmp_path / "q", SHORT)
    quickstart.show(result)
    text = capsys.readouterr().out
    assert [row.network for row in result.rows] == ["menet_108_8x1_g3", "muffnet_x0_5"]
    for row in result.rows:
        assert row.network in text
        assert row.images == 360
        assert row.macs > row.params > 0
        assert row.latency_ms > 0
        model, record = load_checkpoint(row.checkpoint)
        assert sum(parameter.numel() for parameter in model.parameters()) == row.params
        assert record.arguments["stem"] == "cifar"
        assert len(row.predictions) == quickstart.EXAMPLES
    assert all(Path(file).is_file() for file in result.files)
    assert str(tmp_path / "q" / "images" / "digit-0.png") in result.files


def test_quickstart_never_writes_over_an_earlier_one(tmp_path: Path) -> None:
    (tmp_path / "q").mkdir()
    (tmp_path / "q-2").mkdir()
    assert quickstart._make_new(tmp_path / "q") == tmp_path / "q-3"
    assert (tmp_path / "q-3").is_dir()  # taken, so that a second one that starts now gets another
    assert quickstart._make_new(tmp_path / "new") == tmp_path / "new"


@pytest.mark.slow
def test_quickstart_meets_its_promise(tmp_path: Path) -> None:
    """At least 98 % for both networks, in under two minutes on two idle cores."""
    code = f"""
import socket, sys
def refuse(*arguments, **options):
    raise AssertionError("the quickstart opened a connection")
socket.socket.connect = refuse
sys.argv = ["compactnets", "quickstart", "--output", {str(tmp_path / "q")!r}, "--json"]
from compactnets_cli import main
main()
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    result = json.loads(done.stdout)
    assert all(row["top1_percent"] >= 98 for row in result["rows"]), result["rows"]
    assert result["seconds"] < 120
