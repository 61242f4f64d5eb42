"""Checkpoints of detectors: safetensors with a record for rebuilding the detector."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import torch
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor, nn

from compactnets.classification.backbone import backbone_from_classifier
from compactnets.console import say
from compactnets.detection.detectors import build_faster_rcnn, build_ssd
from compactnets.detection.recipe import DetectionRecipe, FasterRCNNSettings, SSDSettings
from compactnets.errors import InputError
from compactnets.files import as_path
from compactnets.models.backbone import create_backbone
from compactnets.models.form import with_form
from compactnets.training.checkpoint import (
    ClassName,
    load_weights,
    read_record,
    read_tensors,
    task_name,
    task_of,
)
from compactnets.training.foreign import is_foreign
from compactnets.training.preparation import begin_with

Detector = nn.Module  # torchvision's FasterRCNN or SSD, which have no types


class DetectorRecord(BaseModel):
    """The JSON record stored with a detector's weights."""

    model_config = ConfigDict(extra="forbid")

    format: int = 1
    task: Literal["detection"] = "detection"
    detector: Literal["faster_rcnn", "ssd"]
    model: str = Field(description="the backbone: a network of compactnets or of timm")
    arguments: dict[str, Any] = Field(description="of the backbone")
    faster_rcnn: FasterRCNNSettings | None = Field(None, description="settings, if it is one")
    ssd: SSDSettings | None = Field(None, description="settings, if it is one")
    frozen_batchnorm: bool = Field(description="of the backbone")
    class_names: list[ClassName] = Field(description="in the order of the labels, without the background")
    source: str = Field(description="where the weights come from")
    license: str = Field(description="licence of the weights, if known")
    training: dict[str, Any] = Field(default_factory=dict, description="recipe, data, epochs, results")
    versions: dict[str, str] = Field(default_factory=dict)


def is_detector(init: Path) -> bool:
    """Whether a run starts from a detector; otherwise from a classifier, for the backbone."""
    return init.suffix == ".safetensors" and not is_foreign(init) and task_of(init) == task_name(DetectorRecord)


def build_detector(record: DetectorRecord, model: nn.Module) -> Detector:
    """Build the detector of a record on its backbone."""
    name, classes, frozen = record.model, len(record.class_names), record.frozen_batchnorm
    if record.detector == "ssd":
        return build_ssd(model, name, classes, record.ssd or SSDSettings(), frozen_batchnorm=frozen)
    return build_faster_rcnn(model, name, classes, record.faster_rcnn or FasterRCNNSettings(), frozen_batchnorm=frozen)


def check_classes(record: DetectorRecord, columns: int) -> None:
    """Check that a record names as many classes as its detector has outputs, not counting the background.

    Raises:
        InputError: both numbers.
    """
    if len(record.class_names) != columns - 1:
        raise InputError(
            f"the record of {record.detector} on {record.model} names {len(record.class_names)} classes in "
            f"class_names, and the detector has outputs for {columns - 1}: they must match"
        )


def load_detector(
    path: str | Path, device: torch.device | str = "cpu", *, class_agnostic_nms: bool = False
) -> tuple[Detector, DetectorRecord]:
    """Build the detector of a checkpoint, in evaluation mode, and return it with its record.

    Args:
        class_agnostic_nms: also suppress boxes by better ones of other classes, overriding the record.

    Raises:
        InputError: a file or record that cannot be read, or weights that do not fit.
    """
    path = as_path(path)
    record = read_record(path, DetectorRecord)
    if class_agnostic_nms:
        settings = record.ssd or SSDSettings() if record.detector == "ssd" else record.faster_rcnn
        settings = (settings or FasterRCNNSettings()).model_copy(update={"class_agnostic_nms": True})
        record = record.model_copy(update={record.detector: settings})
    arguments = {key: value for key, value in record.arguments.items() if key != "pretrained"}
    detector = build_detector(record, create_backbone(record.model, arguments))
    weights = _without_counters(read_tensors(path), detector)
    load_weights(detector, weights, f"{record.detector} on {record.model}", path)
    return detector.to(device).eval(), record


def first_detector(
    recipe: DetectionRecipe, class_names: list[str], init: Path | None
) -> tuple[Detector, DetectorRecord]:
    """Build the initial detector of a run, and the record for its checkpoints.

    Args:
        init: a classifier of this package or of the MENet repository (``.pth.tar``) for the backbone, or a detector,
            whose predictors are replaced if the classes differ.

    Raises:
        InputError: an unknown network, one that cannot be a backbone, or a checkpoint of another one.
    """
    torch.manual_seed(recipe.seed)
    record = DetectorRecord(
        detector=recipe.detector,
        model=recipe.model,
        arguments=dict(recipe.model_arguments),
        faster_rcnn=recipe.faster_rcnn if recipe.detector == "faster_rcnn" else None,
        ssd=recipe.ssd if recipe.detector == "ssd" else None,
        frozen_batchnorm=recipe.frozen_batchnorm,
        class_names=class_names,
        source="trained by compactnets",
        license="that of whoever trained it",
    )
    if init is not None and is_detector(init):
        return _from_detector(recipe, record, init), record
    if init is None:
        if recipe.frozen_batchnorm and not recipe.model_arguments.get("pretrained"):
            say("frozen_batchnorm is off: the backbone's weights are fresh, and so are its statistics")
            record = record.model_copy(update={"frozen_batchnorm": False})
        return build_detector(record, create_backbone(recipe.model, recipe.model_arguments)), record
    return build_detector(record, backbone_from_classifier(recipe, init)), record


def _from_detector(recipe: DetectionRecipe, record: DetectorRecord, init: Path) -> Detector:
    found = read_record(init, DetectorRecord)
    for key in ("detector", "model"):
        if getattr(found, key) != getattr(recipe, key):
            raise InputError(f"{init} has {key} = {getattr(found, key)}, the recipe has {getattr(recipe, key)}")
    detector = build_detector(record, create_backbone(recipe.model, recipe.model_arguments))
    stated = build_detector(
        found, create_backbone(found.model, found.arguments)
    )  # for its form, if its weights have none
    weights = begin_with(with_form(read_tensors(init), stated), detector, init, recipe.init_form)
    weights, fresh = _without_counters(weights, detector), detector.state_dict()
    if found.class_names != record.class_names:
        # of both detectors: the layers that predict each class
        parts = ("roi_heads.box_predictor.", "head.classification_head.")
        replaced = [key for key in fresh if key.startswith(parts)]
        say(f"predictors replaced: {init} has {len(found.class_names)} classes, the data {len(record.class_names)}")
        weights |= {key: fresh[key] for key in replaced}
    load_weights(detector, weights, f"{recipe.detector} on {recipe.model}", init)
    return detector


def _without_counters(weights: Mapping[str, Tensor], detector: nn.Module) -> dict[str, Tensor]:
    """Drop the counters of batch normalisation if it is frozen and has none."""
    expected = detector.state_dict()
    return {key: value for key, value in weights.items() if key in expected or not key.endswith("num_batches_tracked")}
