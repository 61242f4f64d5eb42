"""Trained weights by name, ``NETWORK.TAG``: those in the package, and those in the user's folder.

A name is a pair of files, ``NETWORK.TAG.safetensors`` and its record ``NETWORK.TAG.json``, in the package's folder
``weights`` or in the one that ``$COMPACTNETS_WEIGHTS`` names. Nothing is downloaded.
"""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import yaml

FOLDER = Path(__file__).parents[1] / "weights"
VARIABLE = "COMPACTNETS_WEIGHTS"
CLASSIFICATION = "classification"
AUTHORS = "authors_in1k"  # tag of the MENet authors' checkpoints, once converted


@dataclass(frozen=True)
class Weights:
    """Trained weights of a network.

    Attributes:
        path: the ``.safetensors`` file; its record is beside it.
        record: the content of the record, such as :class:`compactnets.classification.checkpoint.CheckpointRecord`.
    """

    path: Path
    record: dict[str, Any]

    @property
    def name(self) -> str:
        """``NETWORK.TAG``."""
        return self.path.stem

    @property
    def tag(self) -> str:
        """What comes after the network's name."""
        return self.name.partition(".")[2]

    @property
    def task(self) -> str:
        """What the network is for; a record without a task is of classification."""
        return str(self.record.get("task", CLASSIFICATION))

    @property
    def shipped(self) -> bool:
        """Whether they come with the package."""
        return self.path.parent == FOLDER

    @property
    def model(self) -> str:
        """The network's name; of a detector or segmenter, its backbone's."""
        return str(self.record["model"])

    @property
    def form(self) -> dict[str, Any]:
        """Arguments of the network besides classes and channels, such as ``stem``."""
        return {key: value for key, value in self.record["arguments"].items() if key not in ("num_classes", "in_chans")}

    def timm_cfg(self) -> dict[str, Any]:
        """Return the fields of timm's ``PretrainedCfg`` that these weights of a classifier set."""
        arguments, preprocess = self.record["arguments"], self.record["preprocess"]
        size = preprocess["size"]
        last_map = -(-size // (4 if arguments.get("stem") == "cifar" else 32))  # of every registered family
        return {
            "file": str(self.path),
            "num_classes": arguments["num_classes"],
            "input_size": (arguments["in_chans"], size, size),
            "pool_size": (last_map, last_map),
            "crop_pct": size / preprocess["resize"] if preprocess["resize"] else 1.0,
            "interpolation": preprocess["interpolation"],
            "mean": tuple(preprocess["mean"]),
            "std": tuple(preprocess["std"]),
            "label_names": tuple(self.record["class_names"]),
            "license": self.record["license"],
        }


@cache
def find_weights() -> dict[str, Weights]:
    """Return all installed weights by name, of every task, read once; :func:`left_out` names the files skipped."""
    found = {}
    for folder in (FOLDER, *([own] if (own := own_folder()) else [])):
        for path in sorted(folder.glob("*.safetensors")):
            if isinstance(weights := _read(path), Weights):
                found[weights.name] = weights
    return found


def own_folder() -> Path | None:
    """Return the folder that ``$COMPACTNETS_WEIGHTS`` names, if it is set."""
    own = os.environ.get(VARIABLE)
    return Path(own) if own else None


def left_out() -> dict[str, str]:
    """Return the ``.safetensors`` files of the user's folder that are no weights by name, and why."""
    folder = own_folder()
    read = {} if folder is None else {path.name: _read(path) for path in sorted(folder.glob("*.safetensors"))}
    return {name: why for name, why in read.items() if isinstance(why, str)}


def _read(path: Path) -> Weights | str:
    """Return the weights in a file, or why they have no name."""
    network, dot, tag = path.stem.partition(".")
    if not (dot and tag):
        return "its name is not NETWORK.TAG.safetensors"
    record = path.with_suffix(".json")
    try:
        weights = Weights(path, json.loads(record.read_text(encoding="utf-8")))
        weights.record["source"], weights.record["license"], weights.record["class_names"]
        if weights.task == CLASSIFICATION:
            weights.timm_cfg()
        if weights.model == network:
            return weights
    except FileNotFoundError:
        return f"its record {record.name} is missing"
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return f"{record.name} is no record that can be read"
    return f"{record.name} is a record of {weights.model}, not of {network}"


def authors_files() -> dict[str, dict[str, Any]]:
    """Return file name, and bytes and sha256 if known, of the MENet authors' checkpoint of each network."""
    files: dict[str, dict[str, Any]] = yaml.safe_load((FOLDER / "authors.yaml").read_text(encoding="utf-8"))
    return files


def weights_of(model: str) -> list[Weights]:
    """Return the weights of a classifier."""
    found = (each for each in find_weights().values() if each.task == CLASSIFICATION)
    return [weights for weights in found if weights.model == model]


def locate(path: str | Path) -> Path:
    """Return the path of a checkpoint: the file of a name in :func:`find_weights`, otherwise the path unchanged."""
    weights = find_weights().get(str(path))
    return Path(path) if weights is None or Path(path).exists() else weights.path
