"""Metadata inside an artifact's file, for use without its ``artifact.json``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from compactnets import __version__
from compactnets.deploy.formats.registry import INPUT, OUTPUT
from compactnets.files import json_text

PREFIX = "compactnets."
Shape = Sequence[int | None]


def texts(values: Mapping[str, Any]) -> dict[str, str]:
    """Return metadata under the keys of this package: text unchanged, anything else as JSON, ``None`` omitted."""
    return {
        f"{PREFIX}{key}": value if isinstance(value, str) else json_text(value, ensure_ascii=False)
        for key, value in {"version": __version__, **values}.items()
        if value is not None
    }


def image_metadata(
    record: Any, title: str, preprocess: Mapping[str, Any], precision: str, taken: Shape, given: Shape, meaning: str
) -> dict[str, str]:
    """Return the metadata of a network that takes images and gives one tensor, the same for the same network.

    Args:
        record: its checkpoint's.
        title: its name.
        preprocess: how images become its input.
        precision: ``"float32"``, ``"float16"`` or ``"int8"``, of the weights.
        taken: (N, C, H, W) of the input; ``None`` for a dynamic axis.
        given: shape of the output, as ``taken``.
        meaning: of the output.
    """
    layout = "(N, C, H, W): pixels from 0 to 1, less preprocess.mean, divided by preprocess.std"
    return texts(
        {
            "task": record.task,
            "network": title,
            "precision": precision,
            "class_names": record.class_names,
            "class_labels": getattr(record, "class_labels", None),
            "preprocess": preprocess,
            "inputs": [{"name": INPUT, "shape": list(taken), "dtype": "float32", "meaning": layout}],
            "outputs": [{"name": OUTPUT, "shape": list(given), "dtype": "float32", "meaning": meaning}],
            "source": record.source,
            "license": record.license,
        }
    )
