"""Metadata inside an artifact's file, for use without its ``artifact.json``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from compactnets import __version__
from compactnets.classification.checkpoint import CheckpointRecord
from compactnets.deploy.formats.registry import INPUT, OUTPUT
from compactnets.files import json_text

PREFIX = "compactnets."


def texts(values: Mapping[str, Any]) -> dict[str, str]:
    """Return metadata under the keys of this package: text unchanged, anything else as JSON, ``None`` omitted."""
    return {
        f"{PREFIX}{key}": value if isinstance(value, str) else json_text(value, ensure_ascii=False)
        for key, value in {"version": __version__, **values}.items()
        if value is not None
    }


def classifier_metadata(network: CheckpointRecord, shape: Sequence[int | None], precision: str) -> dict[str, str]:
    """Return the metadata of a classifier, the same for the same network.

    Args:
        network: its record.
        shape: (N, C, H, W) of the input; ``None`` for a dynamic axis.
        precision: ``"float32"``, ``"float16"`` or ``"int8"``, of the weights.
    """
    layout = "(N, C, H, W): pixels from 0 to 1, less preprocess.mean, divided by preprocess.std"
    return texts(
        {
            "task": "classification",
            "network": network.model,
            "precision": precision,
            "class_names": network.class_names,
            "class_labels": network.class_labels,
            "preprocess": network.preprocess,
            "inputs": [{"name": INPUT, "shape": list(shape), "dtype": "float32", "meaning": layout}],
            "outputs": [
                {
                    "name": OUTPUT,
                    "shape": [shape[0], len(network.class_names)],
                    "dtype": "float32",
                    "meaning": "logits, one for each of class_names; softmax makes probabilities of them",
                }
            ],
            "source": network.source,
            "license": network.license,
        }
    )
