"""Add finished runs to the recorded results (``src/compactnets/recorded``), from which ``page.py`` makes the tables.

    python benchmarks/runs.py training NAME RUN… [--note TEXT]
    compactnets eval --checkpoint RUN/best.safetensors --data D --split test --json > RUN/test.json
    python benchmarks/runs.py detection NAME RUN… [--note TEXT]
    compactnets eval --checkpoint RUN/best.safetensors --data D --json > RUN/val.json
    python benchmarks/runs.py segmentation NAME RUN… [--note TEXT]
    python benchmarks/runs.py search NAME FOLDER --note TEXT      # a folder of `compactnets search`

A run replaces the recorded one with the same command.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from compactnets.files import json_text, replace_text
from compactnets.recorded import FOLDER, add_runs, read_classifier_run, read_detector_run, read_segmenter_run
from compactnets.values import read_json

TEST, VAL = "test.json", "val.json"  # in the folder of a run


def main() -> None:
    """Parse the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("kind", choices=("training", "detection", "segmentation", "search"))
    parser.add_argument("name")
    parser.add_argument("runs", nargs="+", type=Path)
    parser.add_argument("--note", help="what to know about all of the runs; required for a new result")
    given = parser.parse_args()
    if given.kind == "search":
        print(add_search(given.name, given.runs[0], given.note))
        return
    if given.kind == "training":
        runs = [read_classifier_run(folder) for folder in given.runs]
    elif given.kind == "detection":
        runs = [read_detector_run(folder, folder / TEST) for folder in given.runs]
    else:
        runs = [read_segmenter_run(folder, folder / VAL) for folder in given.runs]
    print(add_runs(given.kind, given.name, runs, given.note))


def add_search(name: str, folder: Path, note: str | None) -> Path:
    """Record a search under a name, without paths of this machine."""
    if note is None:
        raise SystemExit("a search needs a --note: what else ran, and what its data were")
    found = read_json(folder / "search.json", "the record of a search")
    request = found["request"]
    request.update({key: Path(request[key]).name for key in ("data", "output", "table") if request[key] is not None})
    path = FOLDER / "search" / f"{name}.json"
    replace_text(path, json_text({"note": note, **found}, indent=1) + "\n")
    return path


if __name__ == "__main__":
    main()
