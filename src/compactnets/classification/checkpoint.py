"""Checkpoints of classifiers."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal, TypeVar

import torch
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor, nn

from compactnets.data import Preprocess
from compactnets.errors import InputError
from compactnets.files import as_path
from compactnets.models.form import with_form
from compactnets.models.registry import build_on_meta, create_model
from compactnets.training.checkpoint import ClassName, check_forms, load_weights, read_record, read_tensors


class Int8Training(BaseModel):
    """The int8 part of a ``train --qat`` checkpoint's record: its network is quantised, with trained scales."""

    model_config = ConfigDict(extra="forbid")

    init: str = Field(description="the float checkpoint that training started from")
    calibration_images: int = Field(description="training images used to measure the first ranges")
    quantizers: list[str] = Field(description="names of the quantised tensors, in the order of the network")
    logits: str | None = Field(description="the quantizer of the logits, omitted if a runtime keeps them in float")
    weight_bits: Literal[7, 8] = Field(8, description="of the weights; 8 in checkpoints that do not say")


class CheckpointRecord(BaseModel):
    """The JSON record stored with the weights."""

    model_config = ConfigDict(extra="forbid")

    format: int = 1
    task: Literal["classification"] = "classification"
    model: str = Field(description="name for compactnets.create_model")
    arguments: dict[str, Any] = Field(description="its arguments, num_classes among them")
    class_names: list[ClassName] = Field(description="identifiers of the classes, in the order of the outputs")
    class_labels: list[str] | None = Field(None, description="readable names, if the identifiers are codes")
    preprocess: dict[str, Any] = Field(description="fields of compactnets.data.Preprocess")
    source: str = Field(description="where the weights come from")
    license: str = Field(description="licence of the weights, if known")
    training: dict[str, Any] = Field(default_factory=dict, description="recipe, data, epochs, results")
    int8: Int8Training | None = Field(None, description="set if the network was trained for int8")
    versions: dict[str, str] = Field(default_factory=dict)

    @property
    def labels(self) -> list[str]:
        """The readable names of the classes."""
        return self.class_labels or self.class_names

    def share_trained(self, spec: str) -> float | None:
        """Return the share of an undivided source that was trained on (the recipe's ``split``), if it was this one."""
        share: float | None = (self.training.get("recipe") or {}).get("split")
        return share if self.training.get("data") == spec else None


Kind = TypeVar("Kind", bound=CheckpointRecord)


def read_weights(path: Path, record: CheckpointRecord) -> dict[str, Tensor]:
    """Read the weights of a checkpoint. Older files do not state their form (:mod:`compactnets.models.form`): the
    record's form is used.

    Raises:
        InputError: a file that cannot be read, or a record and weights with different forms.
    """
    network, tensors = build_on_meta(record.model, record.arguments), read_tensors(path)
    check_forms(tensors, network.state_dict(), path)
    return with_form(tensors, network)


def check_float(record: CheckpointRecord, name: str | Path) -> None:
    """Check that a checkpoint's network is in float, not a simulation of int8 from int8 training.

    Raises:
        InputError: it is a simulation; the message has its float checkpoint, and the verbs that take it.
    """
    if record.int8 is not None:
        raise InputError(
            f"{name} was trained for int8 (train --qat): expected a float checkpoint, such as the one it was made "
            f"from, {record.int8.init}; eval, predict and quantize take it"
        )


def check_outputs(record: CheckpointRecord, outputs: int) -> None:
    """Check that a record names as many classes as its network has outputs.

    Raises:
        InputError: both numbers.
    """
    for field, names in (("class_names", record.class_names), ("class_labels", record.class_labels)):
        if names is not None and len(names) != outputs:
            raise InputError(
                f"the record of {record.model} names {len(names)} classes in {field}, and the network has {outputs} "
                "outputs: they must match"
            )


def load_checkpoint(path: str | Path, device: torch.device | str = "cpu") -> tuple[nn.Module, CheckpointRecord]:
    """Build the network of a checkpoint, in evaluation mode, and return it with its record.

    Raises:
        InputError: a file or record that cannot be read, weights that do not fit the network, or a checkpoint that was
            trained for int8 (:func:`compactnets.deploy.int8.training.load_int8` loads those).
    """
    return load_as(path, device, CheckpointRecord)


def load_as(path: str | Path, device: torch.device | str, kind: type[Kind]) -> tuple[nn.Module, Kind]:
    """Load a checkpoint as :func:`load_checkpoint`, with a record of this type."""
    path = as_path(path)
    record = read_record(path, kind)
    check_float(record, path)
    model = create_model(record.model, **record.arguments)
    load_weights(model, read_tensors(path), record.model, path)
    check_outputs(record, getattr(model, "num_classes", len(record.class_names)))
    Preprocess.from_dict(record.preprocess)  # reject an unusable record now, not at the first image
    return model.to(device).eval(), record
