"""Turn the folders of finished runs into recorded results."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from compactnets.classification.checkpoint import load_checkpoint
from compactnets.complexity import count
from compactnets.detection.anchors import anchors_of_record
from compactnets.detection.checkpoint import DetectorRecord
from compactnets.environment import portable_command
from compactnets.errors import InputError
from compactnets.files import as_path, json_text, replace_text
from compactnets.models.registry import own_arguments
from compactnets.recorded.files import FOLDER
from compactnets.segmentation.checkpoint import SegmenterRecord
from compactnets.segmentation.cost import segmenter_cost
from compactnets.training.checkpoint import read_record
from compactnets.values import read_yaml

Run = dict[str, Any]


def read_classifier_run(folder: str | Path) -> Run:
    """Return the result of a finished training run: its origin, its recipe, and its metrics per epoch.

    Raises:
        InputError: not the folder of a finished run.
    """
    folder = as_path(folder)
    described, recipe, epochs = _describe(folder)
    model, record = load_checkpoint(folder / "last.safetensors")
    size = record.preprocess["size"]
    macs, params = count(model, (record.arguments["in_chans"], size, size))
    return {
        **described,
        "model": record.model,
        "arguments": record.arguments,
        "macs": macs,
        "params": params,
        "data": Path(record.training["data"]).name,
        "init": _name(record.training.get("init")),
        "seed": recipe["seed"],
        "recipe": recipe,
        "epochs": epochs,
        "versions": record.versions,
    }


def read_detector_run(folder: str | Path, test: str | Path) -> Run:
    """Return the result of a finished training run of a detector, with its scores on the test split.

    Args:
        test: a file with the output of ``compactnets eval --json``.

    Raises:
        InputError: not the folder of a finished run, or the scores are missing.
    """
    folder = as_path(folder)
    test = as_path(test)
    described, recipe, epochs = _describe(folder)
    record = read_record(folder / "best.safetensors", DetectorRecord)
    scores = json.loads(_read(test))
    return {
        **described,
        "detector": record.detector,
        "model": record.model,
        "init": _name(record.training["init"]),
        "recipe": recipe,
        "anchors": anchors_of_record(record),
        "epochs": epochs,
        "test": {key: value for key, value in scores.items() if key not in ("checkpoint", "data")},
        "versions": record.versions,
    }


def read_segmenter_run(folder: str | Path, scores: str | Path) -> Run:
    """Return the result of a finished training run of a segmenter, with its scores of every class.

    Args:
        scores: a file with the output of ``compactnets eval --json``, for the run's ``best.safetensors``.

    Raises:
        InputError: not the folder of a finished run, or the scores are missing.
    """
    folder = as_path(folder)
    described, recipe, epochs = _describe(folder)
    record = read_record(folder / "best.safetensors", SegmenterRecord)
    cost = segmenter_cost(record)
    found = json.loads(_read(as_path(scores)))
    return {
        **described,
        "head": record.settings.head,
        "model": record.model,
        "title": record.title,
        "init": _name(record.training["init"]),
        "recipe": recipe,
        "size": list(cost.size),
        "macs": cost.macs,
        "params": cost.params,
        "epochs": epochs,
        "val": {key: value for key, value in found.items() if key not in ("checkpoint", "data")},
        "versions": record.versions,
    }


def network_label(run: Mapping[str, Any]) -> str:
    """Return the name of a run's network and its non-default arguments: ``muffnet_x0_5 (sharing=learned)``."""
    own = own_arguments(run["arguments"]).items()
    told = [f"its own {key}" if isinstance(value, list | dict) else f"{key}={value}" for key, value in own]
    return f"{run['model']} ({', '.join(told)})" if told else str(run["model"])


def add_runs(kind: str, name: str, runs: Sequence[Run], note: str | None = None, folder: str | Path = FOLDER) -> Path:
    """Add runs to the recorded results in ``KIND/NAME.json``, replacing those with the same command; return the path.

    Args:
        note: what to know about all of the runs; by default an existing file keeps its note.

    Raises:
        InputError: a new file without a note, or a folder that cannot be written.
    """
    folder = as_path(folder)
    path = folder / kind / f"{name}.json"
    before: Run = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {"runs": []}
    told: str | None = note or before.get("note")
    if told is None:
        raise InputError(f"no results are recorded as {name} yet: describe them with --note")
    again = {run["command"] for run in runs}
    kept = [run for run in before["runs"] if run["command"] not in again]
    replace_text(path, json_text({"name": name, "note": told, "runs": [*kept, *runs]}, indent=1) + "\n")
    return path


def _describe(folder: Path) -> tuple[Run, dict[str, Any], list[dict[str, Any]]]:
    """Return command, commit, date, device and threads of a run, its recipe, and its metrics per epoch."""
    try:
        sessions = json.loads(_read(folder / "environment.json"))["sessions"]
        recipe = read_yaml(folder / "recipe.yaml", str(folder / "recipe.yaml"))
        epochs = [json.loads(line) for line in _read(folder / "metrics.jsonl").splitlines()]
        finished = len(epochs), recipe["epochs"]
    except (ValueError, KeyError, TypeError) as error:
        raise InputError(f"{folder} is not the folder of a training run: {error}") from None
    if finished[0] != finished[1]:
        raise InputError(f"{folder} has {finished[0]} of {finished[1]} epochs: only finished runs are recorded")
    first, last = sessions[0], sessions[-1]
    device = last["device"] if last["device"] != "cpu" else last["processor"]
    described = {
        "command": portable_command(first["command"][1:]),
        "commit": ", ".join(dict.fromkeys(session.get("commit", "unknown") for session in sessions)),
        "date": first["started"][:10],
        "device": device,
        "threads": last["threads"],
    }
    return described, recipe, epochs


def _read(file: Path) -> str:
    try:
        return file.read_text(encoding="utf-8")
    except OSError as error:
        raise InputError(f"cannot read {file}: {error.strerror}") from None


def _name(path: str | None) -> str | None:
    return None if path is None else Path(path).name
