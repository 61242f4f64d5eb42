"""Small sources, recipes and checkpoints for the tests of training."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from compactnets.classification.checkpoint import CheckpointRecord
from compactnets.classification.recipe import ClassificationRecipe
from compactnets.environment import software_versions
from compactnets.training.checkpoint import save_checkpoint

from .helpers import TINY, make_tiny_recipe


@pytest.fixture
def tiny_recipe() -> Callable[..., ClassificationRecipe]:
    """A recipe that takes a second on the digits; keyword arguments replace its settings."""
    return make_tiny_recipe


@pytest.fixture
def tiny_checkpoint(tmp_path: Path) -> Callable[..., Path]:
    """Write an untrained network of three classes and return the path of its weights."""

    def write(name: str = "tiny.safetensors", **changes: Any) -> Path:
        from compactnets import create_model

        arguments = {"stem": "cifar", "num_classes": 3, "in_chans": 3}
        record = CheckpointRecord(
            model=TINY,
            arguments=arguments,
            class_names=["cat", "dog", "owl"],
            preprocess={
                "size": 16,
                "resize": None,
                "interpolation": "bilinear",
                "antialias": True,
                "mean": [0.5] * 3,
                "std": [0.25] * 3,
            },
            source="a test",
            license="none",
            versions=software_versions(),
        ).model_copy(update=changes)
        path = tmp_path / name
        save_checkpoint(path, create_model(TINY, **arguments).state_dict(), record)
        return path

    return write
