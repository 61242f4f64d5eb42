"""Add finished runs to the recorded results (``src/compactnets/recorded``), from which ``page.py`` makes the tables.

    python benchmarks/runs.py training NAME RUN… [--note TEXT]
    compactnets eval --checkpoint RUN/best.safetensors --data D --split test --json > RUN/test.json
    python benchmarks/runs.py detection NAME RUN… [--note TEXT]
    compactnets eval --checkpoint RUN/best.safetensors --data D --json > RUN/val.json
    python benchmarks/runs.py segmentation NAME RUN… [--note TEXT]

A run replaces the recorded one with the same command.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from compactnets.recorded import add_runs, read_classifier_run, read_detector_run, read_segmenter_run

TEST, VAL = "test.json", "val.json"  # in the folder of a run


def main() -> None:
    """Parse the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("kind", choices=("training", "detection", "segmentation"))
    parser.add_argument("name")
    parser.add_argument("runs", nargs="+", type=Path)
    parser.add_argument("--note", help="what to know about all of the runs; required for a new result")
    given = parser.parse_args()
    if given.kind == "training":
        runs = [read_classifier_run(folder) for folder in given.runs]
    elif given.kind == "detection":
        runs = [read_detector_run(folder, folder / TEST) for folder in given.runs]
    else:
        runs = [read_segmenter_run(folder, folder / VAL) for folder in given.runs]
    print(add_runs(given.kind, given.name, runs, given.note))


if __name__ == "__main__":
    main()
