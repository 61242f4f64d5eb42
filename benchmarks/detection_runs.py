"""Record finished training runs of detectors, with what ``detect eval`` says of them, for docs/results.md.

    compactnets detect eval --checkpoint RUN/best.safetensors --data D --split test --json > RUN/test.json
    python benchmarks/detection_runs.py NAME RUN… --note TEXT  # -> results/detection/NAME.json

``benchmarks/runs.py render`` makes the tables.
"""

from __future__ import annotations

import argparse
import json
import os
import shlex
from pathlib import Path
from statistics import median
from typing import Any

import yaml

from compactnets.detection.checkpoint import read_detector_record
from compactnets.environment import cpu_name

RESULTS = Path(__file__).parent / "results" / "detection"
TEST = "test.json"  # in the run folder
COLUMNS = (
    "detector", "backbone", "side, pixels", "begins from", "epochs", "seed", "AP50 of each class, %", "VOC07 mAP, %",
    "VOC10 mAP, %", "VOC07 mAP of val, %", "training, s/image", "test, s/image", "hours in all"
)  # fmt: skip


def read_run(folder: Path) -> dict[str, Any]:
    """Return one run: its command, recipe, metrics per epoch, and its scores on the test split."""
    record = read_detector_record(folder / "best.safetensors")
    sessions = json.loads((folder / "environment.json").read_text(encoding="utf-8"))["sessions"]
    lines = (folder / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    init = record.training["init"]
    test = json.loads((folder / TEST).read_text(encoding="utf-8"))
    return {
        "command": shlex.join(["compactnets", *map(_portable, sessions[0]["command"][1:])]),
        "detector": record.detector,
        "model": record.model,
        "init": None if init is None else Path(init).name,
        "recipe": yaml.safe_load((folder / "recipe.yaml").read_text(encoding="utf-8")),
        "threads": sessions[-1].get("threads"),
        "epochs": [json.loads(line) for line in lines],
        "test": {key: value for key, value in test.items() if key not in ("checkpoint", "data")},
        "versions": record.versions,
    }


def _portable(argument: str) -> str:
    """Leave of an absolute path what does not depend on the machine: its last part."""
    return Path(argument).name if argument.startswith("/") else argument


def collect(name: str, folders: list[Path], commit: str, note: str) -> None:
    """Write ``benchmarks/results/detection/NAME.json``."""
    document = {
        "name": name,
        "commit": commit,
        "device": f"{cpu_name()}, {os.cpu_count()} cores",
        "note": note,
        "runs": [read_run(folder) for folder in folders],
    }
    RESULTS.mkdir(parents=True, exist_ok=True)
    (RESULTS / f"{name}.json").write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")


def render(path: Path) -> tuple[str, list[list[str]]]:
    """Return what stands above a record's table, and the rows of the table, for :data:`COLUMNS`."""
    record = json.loads(path.read_text(encoding="utf-8"))
    commands = "\n".join(run["command"] for run in record["runs"])
    head = (
        f"## Detection: {record['name']}\n\n```sh\n{commands}\n```\n\n{record['device']}; commit {record['commit']}. "
        f"{record['note']}\n\n"
    )
    return head, [_cells(run) for run in record["runs"]]


def _cells(run: dict[str, Any]) -> list[str]:
    test, last, recipe = run["test"], run["epochs"][-1], run["recipe"]
    pace = median(1 / epoch["images_per_second"] for epoch in run["epochs"])
    classes = ", ".join(f"{row['name']} {row['voc07']:.1f}" for row in test["classes"] if row["voc07"] is not None)
    return [
        run["detector"],
        run["model"],
        str(recipe["ssd"]["size"] if run["detector"] == "ssd" else recipe["faster_rcnn"]["shorter_side"]),
        run["init"] or "random weights",
        str(last["epoch"]),
        str(recipe["seed"]),
        classes,
        f"**{test['voc07']:.2f}**",
        f"{test['voc10']:.2f}",
        f"{max(epoch.get('voc07_percent', 0) for epoch in run['epochs']):.2f}",
        f"{pace:.2f}",
        f"{test['seconds'] / test['images']:.2f}",
        f"{last['seconds'] / 3600:.2f}",
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("name")
    parser.add_argument("runs", nargs="+", type=Path)
    parser.add_argument("--commit", required=True)
    parser.add_argument("--note", required=True)
    given = parser.parse_args()
    collect(given.name, given.runs, given.commit, given.note)


if __name__ == "__main__":
    main()
