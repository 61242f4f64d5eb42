"""Trained weights by name, ``NETWORK.TAG``: those that the package brings, and those in a folder of the user's.

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
AUTHORS = "authors_in1k"  # tag of the MENet authors' checkpoints, once converted


@dataclass(frozen=True)
class Weights:
    """Trained weights of a network.

    Attributes:
        path: the ``.safetensors`` file; its record lies beside it.
        record: what the record holds (:class:`compactnets.classification.checkpoint.CheckpointRecord`).
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
    def model(self) -> str:
        """The network's name."""
        return str(self.record["model"])

    @property
    def form(self) -> dict[str, Any]:
        """Arguments of the network besides classes and channels, such as ``stem``."""
        return {key: value for key, value in self.record["arguments"].items() if key not in ("num_classes", "in_chans")}

    def timm_cfg(self) -> dict[str, Any]:
        """Return the fields of timm's ``PretrainedCfg`` that these weights set."""
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
    """Return all weights that are here by their names, read once; a file without a readable record is left out."""
    found = {}
    own = os.environ.get(VARIABLE)
    for folder in (FOLDER, *([Path(own)] if own else [])):
        for path in sorted(folder.glob("*.*.safetensors")):
            try:
                record = json.loads(path.with_suffix(".json").read_text(encoding="utf-8"))
                weights = Weights(path, record)
                weights.timm_cfg()
            except (OSError, ValueError, KeyError, TypeError):
                continue  # who names it is told by the checkpoint's own reader
            if weights.name.partition(".")[0] == weights.model:
                found[weights.name] = weights
    return found


def authors_files() -> dict[str, dict[str, str]]:
    """Return file name, and sha256 where it is known, of the MENet authors' checkpoint of each network."""
    files: dict[str, dict[str, str]] = yaml.safe_load((FOLDER / "authors.yaml").read_text(encoding="utf-8"))
    return files


def weights_of(model: str) -> list[Weights]:
    """Return the weights of a network."""
    return [weights for weights in find_weights().values() if weights.model == model]


def locate(path: str | Path) -> Path:
    """Return where a checkpoint lies: a name of :func:`find_weights` is its file, anything else stays as it is."""
    weights = find_weights().get(str(path))
    return Path(path) if weights is None or Path(path).exists() else weights.path
