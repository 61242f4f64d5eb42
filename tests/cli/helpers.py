"""What a call of the command line gives."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
from torch import nn

from compactnets import api
from compactnets.classification.checkpoint import CheckpointRecord
from compactnets.models.registry import create_model
from compactnets.tasks.contract import Model, Task
from compactnets.tasks.opening import Found
from compactnets.training.checkpoint import save_checkpoint

# of a detector, trained in a second
RECIPE = """
task: detection
detector: ssd
model: shufflenet_g3_x0_25
epochs: 1
batch_size: 2
lr: 0.01
frozen_batchnorm: false
ssd: {size: 128, strides: [8, 16, 32], extra_channels: [32, 32], smallest: 0.15, ratios: [[2]]}
"""


class Outcome(NamedTuple):
    """Exit code and what was printed."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        return json.loads(self.out)


def stand_in(patch: pytest.MonkeyPatch, task: Task[Any], network: nn.Module, record: Any) -> None:
    """Have the verbs open this network, whatever they are given."""
    model = Model(task, network, record, "a", "checkpoint", torch.device("cpu"))
    patch.setattr(api, "look", lambda _: Found(model, "checkpoint", task))
    patch.setattr(api, "open_model", lambda *_, **__: model)


def save_digits(path: Path, name: str) -> Path:
    """Write a checkpoint of a network with fresh weights for the digits, 8 x 8 and grey."""
    arguments = {"num_classes": 10, "in_chans": 1, "stem": "cifar"}
    torch.manual_seed(0)
    model = create_model(name, **arguments)
    preprocess = {
        "size": 8,
        "resize": None,
        "interpolation": "bilinear",
        "antialias": True,
        "mean": [0.4],
        "std": [0.3],
    }
    record = CheckpointRecord(
        model=name,
        arguments=arguments,
        class_names=[str(digit) for digit in range(10)],
        preprocess=preprocess,
        source="a test",
        license="none",
    )
    save_checkpoint(path, model.state_dict(), record)
    return path
