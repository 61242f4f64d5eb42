"""Checkpoints of segmenters: safetensors with a record for rebuilding the network."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

import torch
from pydantic import BaseModel, ConfigDict, Field
from timm.data import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD

from compactnets.classification.backbone import backbone_from_classifier
from compactnets.classification.checkpoint import CheckpointRecord
from compactnets.console import say
from compactnets.errors import InputError
from compactnets.files import as_path
from compactnets.models.form import with_form
from compactnets.models.pretrained import locate
from compactnets.segmentation.loading import Statistics
from compactnets.segmentation.networks import TITLES, Segmenter, build_segmenter
from compactnets.segmentation.recipe import SegmentationRecipe, SegmenterSettings
from compactnets.training.checkpoint import ClassName, load_weights, read_record, read_tensors, task_name, task_of
from compactnets.training.foreign import is_foreign
from compactnets.training.preparation import begin_with


class SegmenterRecord(BaseModel):
    """The JSON record stored with a segmenter's weights."""

    model_config = ConfigDict(extra="forbid")

    format: int = 1
    task: Literal["segmentation"] = "segmentation"
    model: str = Field(description="the backbone: a network of compactnets or of timm")
    arguments: dict[str, Any] = Field(description="of the backbone")
    settings: SegmenterSettings = Field(description="of the head, and the output stride")
    class_names: list[ClassName] = Field(description="in the order of the outputs", min_length=1)
    ignore: list[int] = Field(default_factory=list, description="values of masks without a class, besides 255")
    size: tuple[int, int] | None = Field(None, description="height and width of the network's input; null: any")
    mean: tuple[float, float, float] = Field(description="subtracted from pixels from 0 to 1")
    std: tuple[float, float, float] = Field(description="by which the rest is divided")
    source: str = Field(description="where the weights come from")
    license: str = Field(description="licence of the weights, if known")
    training: dict[str, Any] = Field(default_factory=dict, description="recipe, data, epochs, results")
    versions: dict[str, str] = Field(default_factory=dict)

    @property
    def title(self) -> str:
        """The network's name in messages."""
        return f"{TITLES[self.settings.head]} on {self.model}"

    @property
    def statistics(self) -> Statistics:
        """How pixels are normalised."""
        return Statistics(self.mean, self.std)

    @property
    def preprocess(self) -> dict[str, Any]:
        """How images become the input, in the words of :class:`compactnets.data.Preprocess`."""
        how = {"size": self.size and list(self.size), "resize": None, "interpolation": "bilinear", "antialias": True}
        return {**how, "mean": list(self.mean), "std": list(self.std)}

    @property
    def labels(self) -> list[str]:
        """The classes, for a reader."""
        return self.class_names


def build(record: SegmenterRecord) -> Segmenter:
    """Build the network of a record, without its weights."""
    arguments = {key: value for key, value in record.arguments.items() if key != "pretrained"}
    return build_segmenter(record.model, arguments, len(record.class_names), record.settings)


def load_segmenter(path: str | Path, device: torch.device | str = "cpu") -> tuple[Segmenter, SegmenterRecord]:
    """Build the network of a checkpoint, in evaluation mode, and return it with its record.

    Raises:
        InputError: a file or record that cannot be read, or weights that do not fit.
    """
    path = as_path(path)
    record = read_record(path, SegmenterRecord)
    network = build(record)
    load_weights(network, read_tensors(path), record.title, path)
    return network.to(device).eval(), record


def first_segmenter(
    recipe: SegmentationRecipe, class_names: list[str], init: Path | None
) -> tuple[Segmenter, SegmenterRecord]:
    """Build the initial network of a run, and the record for its checkpoints.

    Args:
        init: a classifier of this package or of the MENet repository (``.pth.tar``) for the backbone, or a segmenter,
            whose classifiers are replaced if the classes differ.

    Raises:
        InputError: an unknown network, one that cannot be a backbone, or a checkpoint of another one.
    """
    torch.manual_seed(recipe.seed)
    record = SegmenterRecord(
        model=recipe.model,
        arguments=dict(recipe.model_arguments),
        settings=recipe.segmenter,
        class_names=class_names,
        ignore=list(recipe.ignore),
        size=recipe.size,
        mean=IMAGENET_DEFAULT_MEAN,
        std=IMAGENET_DEFAULT_STD,
        source="trained by compactnets",
        license="that of whoever trained it",
    )
    if init is None:
        return build_segmenter(recipe.model, recipe.model_arguments, len(class_names), record.settings), record
    if not is_foreign(init := locate(init)) and task_of(init) == task_name(SegmenterRecord):
        return _from_segmenter(recipe, record, init)
    if not is_foreign(init):
        pixels = read_record(init, CheckpointRecord).preprocess
        if len(pixels["mean"]) != 3:
            raise InputError(f"{init} takes grey images, and a segmenter takes colour: start from another checkpoint")
        record = record.model_copy(update={"mean": tuple(pixels["mean"]), "std": tuple(pixels["std"])})
    model = backbone_from_classifier(recipe, init)
    return Segmenter(model, recipe.model, len(class_names), record.settings), record


def _from_segmenter(
    recipe: SegmentationRecipe, record: SegmenterRecord, init: Path
) -> tuple[Segmenter, SegmenterRecord]:
    found = read_record(init, SegmenterRecord)
    for key, theirs, ours in (
        ("model", found.model, recipe.model),
        *((key, getattr(found.settings, key), getattr(recipe, key)) for key in ("head", recipe.head, "auxiliary")),
    ):
        if theirs != ours and not (key == "auxiliary" and bool(theirs) == bool(ours)):
            raise InputError(f"{init} has {key} = {theirs}, the recipe has {ours}")
    network = build_segmenter(recipe.model, recipe.model_arguments, len(record.class_names), record.settings)
    weights = begin_with(with_form(read_tensors(init), build(found)), network, init, recipe.init_form)
    if found.class_names != record.class_names:
        fresh = network.state_dict()
        replaced = {key: fresh[key] for key in weights if weights[key].shape != fresh[key].shape}
        say(f"classifiers replaced: {init} has {len(found.class_names)} classes, the data {len(record.class_names)}")
        if len(found.class_names) == len(record.class_names):
            raise InputError(f"{init} has as many classes as the data, with other names: rename them in its record")
        weights |= replaced
    load_weights(network, weights, record.title, init)
    return network, record.model_copy(update={"mean": found.mean, "std": found.std})
