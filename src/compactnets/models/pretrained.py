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
AUTHORS = "authors_in1k"  # tag of the MENet authors' checkpoints, once converted


@dataclass(frozen=True)
class Weights:
    """Trained weights of a network.

    Attributes:
        path: the ``.safetensors`` file; its record is beside it.
        record: the content of the record (:class:`compactnets.classification.checkpoint.CheckpointRecord`).
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
    """Return all installed weights by name, read once; files without a readable record are skipped."""
    found = {}
    own = os.environ.get(VARIABLE)
    for folder in (FOLDER, *([Path(own)] if own else [])):
        for path in sorted(folder.glob("*.*.safetensors")):
            try:
                record = json.loads(path.with_suffix(".json").read_text(encoding="utf-8"))
                weights = Weights(path, record)
                weights.timm_cfg()
            except (OSError, ValueError, KeyError, TypeError):
                continue  # the checkpoint's reader reports it when it is used
            if weights.name.partition(".")[0] == weights.model:
                found[weights.name] = weights
    return found


def authors_files() -> dict[str, dict[str, str]]:
    """Return file name, and sha256 if known, of the MENet authors' checkpoint of each network."""
    files: dict[str, dict[str, str]] = yaml.safe_load((FOLDER / "authors.yaml").read_text(encoding="utf-8"))
    return files


def weights_of(model: str) -> list[Weights]:
    """Return the weights of a network."""
    return [weights for weights in find_weights().values() if weights.model == model]


def locate(path: str | Path) -> Path:
    """Return the path of a checkpoint: the file of a name in :func:`find_weights`, otherwise the path unchanged."""
    weights = find_weights().get(str(path))
    return Path(path) if weights is None or Path(path).exists() else weights.path
