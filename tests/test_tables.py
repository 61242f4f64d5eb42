"""Every table of the package: complete at 80 columns and in a pipe, with names that rich would take for markup."""

from __future__ import annotations

import os
import pty
import re
import struct
import subprocess
import sys
import termios
from collections.abc import Callable
from fcntl import ioctl
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import timm

from compactnets import catalogue, quickstart
from compactnets.complexity import PartCost, profile, render
from compactnets.console import LEAST_TEXT, Table, stdout
from compactnets.deploy import tables as deploy_tables
from compactnets.deploy.int8.comparison import Accuracy
from compactnets.detection import tables as detection_tables
from compactnets.detection.cost import DetectorCost, render_cost
from compactnets.detection.metrics import ClassScores, CocoScores, Confusion, DetectionScores
from compactnets.latency import results as latency_results
from compactnets.papers import ablation
from compactnets.papers.cost import measure_rows, select_rows
from compactnets.papers.cost import render as render_papers

PADDING = 3  # of a column
NAME = "[/b] sign [v2] :m:"


def quantized_table() -> None:
    row = {"layer": NAME, "int8": True, "signal_to_noise_db": 12.34}
    times = [{"milliseconds": {"median": 1234.56}}, {"milliseconds": {"median": 617.28}}]
    report = {
        "latency": {"rows": times, "environment": {"cpu_features": ["avx512_vnni"]}},
        "bytes": {"float32": 123_456_789, "int8": 34_567_890}, "layers": [row], "kept_in_float": [NAME],
    }  # fmt: skip
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(deploy_tables, "show", lambda *_: None)
        compared = Accuracy(50_000, 49_999, 48_765, 0.987, 0.123)
        deploy_tables.show_quantized(None, report, Path("out [v2]"), compared)  # type: ignore[arg-type]


def found_table() -> None:
    classes = tuple(
        ClassScores(f"{NAME} {number} of a long name", 1234, 5, 6, 12.34, 56.78, 9.01, 0.5, 12.3, 45.6, 20.1)
        for number in range(3)
    )
    coco = CocoScores(**dict.fromkeys(CocoScores.__dataclass_fields__, 33.33))
    confusion = Confusion((0.5,) * 3, ((1234,) * 4,) * 4)
    scores = DetectionScores("coco", 0.5, 10, 12.34, 56.78, coco, classes, confusion)
    detection_tables.show(scores, 1.0, f"ssd on {NAME}, cells [v2] (val)")


def artifact_table() -> None:
    check = SimpleNamespace(
        score=0.125, detections=[100, 200, 300], max_score_difference=1e-7, max_box_difference=2e-5, rounding=3
    )
    taken = SimpleNamespace(size=None, resize="600 to 1000")
    verification = SimpleNamespace(
        images="2 photos", float16_difference=None, tolerance=1e-4, heads_difference=1e-7, checks=[check] * 2
    )
    network = SimpleNamespace(detector="ssd", model=NAME, class_names=[NAME])
    artifact = SimpleNamespace(
        network=network, input=taken, verification=verification, files={"a.onnx": ""}, bytes=10, cost={"macs": 10**9},
        heads="boxes", outputs={}, precision="float32",
    )  # fmt: skip
    detection_tables.show_artifact(artifact, NAME)  # type: ignore[arg-type]


def checks_table() -> None:
    check = SimpleNamespace(
        batch=8, size=224, images=16, max_difference=1e-5, relative_difference=2e-6, agreement=0.875
    )
    record = SimpleNamespace(verification=SimpleNamespace(checks=[check]), agreement="same top-1", agreement_digits=0)
    stdout.print(deploy_tables.checks_table(record))  # type: ignore[arg-type]


def ablation_table() -> None:
    row = {"label": NAME, "macs": 41_250_000, "params": 1_380_000, "stated_top1": 59.69}
    runs = [{"top1_percent": 12.34}, {"top1_percent": 13.34}, {"error": "no"}]
    ablation.show({"data": "cells [v2]", "rows": [{**row, "runs": runs}, {**row, "stated_top1": None, "runs": runs}]})


def latency_table() -> None:
    time = {"median": 1234.56, "p10": 1200.12, "p90": 1300.34, "n": 160}
    row = {
        "network": NAME, "format": "onnx@lanes16", "milliseconds": time, "limit_milliseconds": 500.25,
        "times_limit": 2.47, "macs": 41_800_000, "params": 1_380_000, "bytes": 5_500_000,
        "peak_memory_bytes": 155_500_000,
    }  # fmt: skip
    environment = {"processor": "a", "system": "b", "cpu_features": ["avx2"], "versions": {"torch": "2"}}
    settings = {"threads": 1, "batch_size": 1, "rounds": 2, "calls": 2, "matrix": 1024}
    latency_results.show({"environment": environment, "settings": settings, "limit_gflops": 99.0, "rows": [row] * 2})


def quickstart_table() -> None:
    guess = SimpleNamespace(label=NAME, probability=0.875)
    row = quickstart.QuickstartRow(
        network="muffnet_x0_5", params=1_234_567, macs=41_250_000, images=360, top1_percent=97.78, train_seconds=31.25,
        latency_ms=12.34, checkpoint="out [v2]/a.safetensors", predictions=(("out [v2]/7.png", "7", guess),),
    )  # fmt: skip
    quickstart.show(quickstart.QuickstartResult("out [v2]", 60.0, (row, row), ("out [v2]/a", "out [v2]/b")))


def detector_table() -> None:
    parts = tuple(PartCost(name, 10**9, 10**6, times) for name, times in (("backbone", 1), ("subnet", 300)))
    stdout.print(render_cost(DetectorCost("faster_rcnn", NAME, (600, 1000), 300, 2 * 10**9, 2 * 10**6, parts)))


TABLES: dict[str, Callable[[], None]] = {
    "list": lambda: catalogue.show(catalogue.list_rows("muffnet_x0_5")),
    "weights": lambda: catalogue.show_weights(catalogue.list_weights()),
    "recipes": lambda: catalogue.show_recipes([*catalogue.recipe_rows(), {"name": NAME, "description": NAME}]),
    "papers cost": lambda: stdout.print(render_papers(measure_rows(select_rows("menet VI")))),
    "papers ablation": ablation_table,
    "profile": lambda: stdout.print(render(profile(timm.create_model("muffnet_x0_5")), True, title=NAME)),
    "profile --detector": detector_table,
    "export": checks_table,
    "quantize": quantized_table,
    "detect export": artifact_table,
    "detect eval": found_table,
    "benchmark": latency_table,
    "quickstart": quickstart_table,
}


@pytest.fixture
def cells(monkeypatch: pytest.MonkeyPatch) -> list[tuple[bool, str]]:
    """The cells of the tables that a test prints, and whether each is a figure."""
    found: list[tuple[bool, str]] = []
    add = Table.add_row

    def record(self: Table, *given: Any, **options: Any) -> None:
        found.extend((column.no_wrap, str(cell)) for column, cell in zip(self.columns, given, strict=True))
        add(self, *given, **options)

    monkeypatch.setattr(Table, "add_row", record)
    return found


@pytest.mark.parametrize("name", TABLES)
def test_a_table_is_complete(
    name: str,
    cells: list[tuple[bool, str]],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    for columns in ("80", "40", None):
        if columns:
            monkeypatch.setenv("COLUMNS", columns)
        else:
            monkeypatch.delenv("COLUMNS", raising=False)
        cells.clear()
        TABLES[name]()
        shown = capsys.readouterr().out
        assert cells
        assert "…" not in shown
        for is_figure, cell in cells:
            for word in [cell] if is_figure else cell.split():
                # a word that is longer than a column of text is made goes on in the next line
                assert (word if is_figure else word[: LEAST_TEXT - PADDING]) in shown, (columns, word)


@pytest.mark.slow  # a process of its own
def test_in_a_terminal_of_80_columns() -> None:
    """A terminal of its own: what was `+0.…` is whole, and nothing passes the edge."""
    main, terminal = pty.openpty()
    ioctl(terminal, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 80, 0, 0))
    variables = {key: value for key, value in os.environ.items() if key != "COLUMNS"}
    command = [sys.executable, "-m", "compactnets", "papers", "cost", "menet VI"]
    process = subprocess.Popen(
        command, stdin=terminal, stdout=terminal, stderr=terminal, env={**variables, "TERM": "xterm", "NO_COLOR": "1"}
    )
    os.close(terminal)
    data = b""
    try:
        while part := os.read(main, 65536):
            data += part
    except OSError:  # the other side is closed
        pass
    finally:
        os.close(main)
    assert process.wait() == 0
    shown = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", data.decode()).replace("\r", "\n")
    assert "…" not in shown
    table = [line for line in shown.splitlines() if re.search(r"[+-]\d\.\d\d", line)]
    assert len(table) == 4
    assert max(map(len, table)) <= 80
