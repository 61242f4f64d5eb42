"""Checkpoints of networks for several labels."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import torch
from pydantic import Field
from torch import nn

from compactnets.classification.checkpoint import CheckpointRecord, load_as
from compactnets.training.checkpoint import task_of
from compactnets.training.foreign import is_foreign

NAME = "multilabel"


class MultilabelRecord(CheckpointRecord):
    """The JSON record stored with the weights: that of a classifier, whose outputs are of independent classes."""

    task: Literal["multilabel"] = "multilabel"  # type: ignore[assignment]
    threshold: float = Field(0.5, gt=0, lt=1, description="probability from which on an image counts as of a class")


def load_multilabel(path: str | Path, device: torch.device | str = "cpu") -> tuple[nn.Module, MultilabelRecord]:
    """Build the network of a checkpoint, in evaluation mode, and return it with its record.

    Raises:
        InputError: as :func:`compactnets.classification.checkpoint.load_checkpoint`.
    """
    return load_as(path, device, MultilabelRecord)


def record_type(init: Path | None) -> type[CheckpointRecord]:
    """Return the type of the record of initial weights: a classifier's, or that of a network for several labels."""
    if init is None or is_foreign(init):
        return CheckpointRecord
    return MultilabelRecord if task_of(init) == NAME else CheckpointRecord
