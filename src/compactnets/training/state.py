"""The state of a run on disk: enough to resume bit-identically, and to refuse resuming a different run."""

from __future__ import annotations

import io
import pickle
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch

from compactnets.console import say
from compactnets.errors import InputError
from compactnets.files import refusals, replace_bytes
from compactnets.training.recipe import BY_CONTENT, FREE_TO_CHANGE, RunRecipe

FOLDER = "checkpoints"
FORMAT = 4
WITHOUT_CONTENT = 3  # the previous format: identifies images only by their labels, and --init by its path
CONTENT = ("content of the training images", "content of the validation images")
TRAINING, VALIDATION = ("training data", CONTENT[0]), ("validation data", CONTENT[1])
INIT = "--init"
LENGTH = ("epochs", "min_steps", "eval_epochs", "patience")  # the length of a run, which may be extended
# settings missing in runs of earlier versions, with their behaviour
BEFORE: dict[str, Any] = {
    "min_steps": None,
    "anchors": "given",
    "ssd.least_negatives": 0,
    "ssd.class_agnostic_nms": False,
    "faster_rcnn.class_agnostic_nms": False,
    "distillation.temperature": 4.0,
    "distillation.weight": 0.9,
    "zero_init_residual": False,
    "whiten_stem": False,
    "batchnorm_momentum": None,
    "progressive": [],
    "hold_out": 0,
    "split": None,
    "class_weights": "none",
    "sampling": "uniform",
    "optimizer.layer_decay": 1.0,
    "freeze_epochs": 0,
    "patience": None,
}
KEPT = 2  # the newest, and the previous one in case the newest is damaged
NAME = re.compile(r"step-(\d+)\.pt")


@dataclass
class Progress:
    """The loop's state besides the learner's weights."""

    step: int = 0  # taken since the start of the run
    epoch: int = 0  # epochs that ended, with their evaluation
    loss_totals: dict[str, float] = field(default_factory=dict)  # of the epoch's steps so far, by name
    loss_count: int = 0
    seconds: float = 0.0  # spent so far, over all starts
    epoch_seconds: float = 0.0  # spent on training steps in this epoch
    skipped: int = 0  # how often an unreadable image was replaced by another
    unreadable: list[int] = field(default_factory=list)  # the unreadable images, each once
    best: float = -1.0  # the best score so far
    best_title: str = ""  # its name
    best_epoch: int = 0  # the epoch that it was reached in, from 1
    stale: int = 0  # evaluations since then, but for those of a frozen backbone
    compiled: bool | None = None  # whether the step is compiled, once decided (compiling.py)
    kernels: str = "torch"  # that computed the last step: own or torch
    final: dict[str, Any] | None = None  # the last evaluation
    history: list[dict[str, Any]] = field(default_factory=list)  # the lines of metrics.jsonl


def describe_run(recipe: RunRecipe, data: Mapping[str, Any]) -> dict[str, Any]:
    """Return what must not change on resume: settings by their dotted keys, and the task's description."""
    settings = _flatten(recipe.model_dump(mode="json"))
    kept = {key: value for key, value in settings.items() if key.partition(".")[0] not in FREE_TO_CHANGE}
    return {key: value for key, value in kept.items() if key not in BY_CONTENT} | dict(data)


def save_state(output: Path, described: Mapping[str, Any], progress: Progress, learner: Mapping[str, Any]) -> None:
    """Write ``checkpoints/step-N.pt`` atomically and remove all but the last two.

    Raises:
        InputError: the folder cannot be written (no space, no permission).
    """
    folder = output / FOLDER
    document = {"format": FORMAT, "run": dict(described), "progress": asdict(progress), "learner": dict(learner)}
    data = io.BytesIO()
    torch.save(document, data)
    with refusals(folder):
        folder.mkdir(parents=True, exist_ok=True)
    replace_bytes(folder / f"step-{progress.step:09d}.pt", data.getbuffer())
    with refusals(folder):
        for old in _states(output)[KEPT:]:
            old.unlink()


def load_state(output: Path, described: Mapping[str, Any]) -> tuple[Progress, dict[str, Any]] | None:
    """Read the newest readable state of a run; ``None`` if it has none yet.

    Raises:
        InputError: states of another run, or of one with more epochs (the message says what differs), or no readable
            state. Changed validation data do not make a different run, but are reported. More epochs do not, either.
    """
    states = _states(output)
    for path in states:
        try:
            document = torch.load(path, map_location="cpu", weights_only=True)
            if document["format"] not in (FORMAT, WITHOUT_CONTENT):
                raise ValueError(f"its format is {document['format']}, expected {FORMAT}")
            progress, found, learner = Progress(**document["progress"]), document["run"], document["learner"]
        except (OSError, RuntimeError, EOFError, KeyError, TypeError, ValueError, pickle.UnpicklingError) as error:
            reason = (str(error).splitlines() or [type(error).__name__])[0]
            say(f"{path} cannot be read ({reason[:120]}): trying the previous checkpoint")
            continue
        if document["format"] == WITHOUT_CONTENT:
            say(f"{output} was started by a version that did not compare images: they are assumed unchanged")
            found = _with_content(found, described)
        found = {**{key: value for key, value in BEFORE.items() if key in described}, **found}
        before, now = found.get("epochs", 0), described.get("epochs", 0)
        if now >= before:
            found = {**found, **{key: described[key] for key in LENGTH if key in described}}
        if _other_validation(found, described):
            say(
                f"the validation data changed since {output} was last written: evaluations and the best checkpoint up "
                f"to step {progress.step} are for the previous data; the run resumes"
            )
            found = {**found, **{key: described.get(key) for key in VALIDATION}}
        if differences := _differences(found, described):
            raise InputError(
                f"{output} holds another run: {'; '.join(differences)}. Give the same recipe and data to resume, or "
                f"another --output"
            )
        if now > before:
            say(
                f"{output}: epochs were {before:,} and are {now:,} now: after step {progress.step} the learning rate "
                f"follows the schedule for the new number"
            )
        return progress, learner
    if states:
        raise InputError(
            f"no checkpoint in {output / FOLDER} can be read: choose another --output, or remove {output} to start "
            f"again"
        )
    return None


def read_run(output: Path) -> dict[str, Any] | None:
    """Return the description of the run in the newest readable state; ``None`` if there is none."""
    for path in _states(output):
        try:
            found = torch.load(path, map_location="cpu", weights_only=True)["run"]
        except (OSError, RuntimeError, EOFError, KeyError, TypeError, ValueError, pickle.UnpicklingError):
            continue  # load_state reports it
        return dict(found)
    return None


def has_state(output: Path) -> bool:
    """Whether the folder holds a state of a run."""
    return bool(_states(output))


def _states(output: Path) -> list[Path]:
    """The states of a run, newest first."""
    folder = output / FOLDER
    if not folder.is_dir():
        return []
    found = [path for path in folder.iterdir() if NAME.fullmatch(path.name)]
    return sorted(found, key=lambda path: path.name, reverse=True)


def _other_validation(found: Mapping[str, Any], wanted: Mapping[str, Any]) -> bool:
    """Whether a run differs only in its validation data, which do not affect training."""
    changed = {key for key in {*found, *wanted} if found.get(key) != wanted.get(key)}
    return bool(changed) and changed <= set(VALIDATION)


def _differences(found: Mapping[str, Any], wanted: Mapping[str, Any]) -> list[str]:
    keys = list(dict.fromkeys([*wanted, *found]))
    changed = [key for key in keys if found.get(key) != wanted.get(key)]
    told = [f"{key} was {found.get(key)!r}, now {wanted.get(key)!r}" for key in changed[:4]]
    if "epochs" in changed[:4]:
        told[changed.index("epochs")] += " (they may be raised, not lowered)"
    return [*told, f"{len(changed) - 4} more"] if len(changed) > 4 else told


def _with_content(found: Mapping[str, Any], described: Mapping[str, Any]) -> dict[str, Any]:
    """Complete an older run's description with current values; with or without --init must agree."""
    known = {key: described[key] for key in CONTENT if key in described}
    if found.get(INIT) is not None and described.get(INIT) is not None:
        known[INIT] = described[INIT]
    return {**found, **known}


def _flatten(settings: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in settings.items():
        if isinstance(value, Mapping):
            flat |= _flatten(value, f"{prefix}{key}.")
        else:
            flat[f"{prefix}{key}"] = value
    return flat
