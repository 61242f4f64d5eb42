"""Training for several labels per image: binary cross-entropy of every class, scored by mean average precision."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from compactnets.classification.checkpoint import CheckpointRecord
from compactnets.classification.preparation import prepare
from compactnets.classification.setup import ClassificationObjective, ClassificationSetup, MicroBatch
from compactnets.data.loading import Batch, EvalLoader
from compactnets.errors import InputError
from compactnets.multilabel.checkpoint import MultilabelRecord, record_type
from compactnets.multilabel.data import LabelsSource
from compactnets.multilabel.metrics import LabelsScore, measure
from compactnets.multilabel.recipe import MultilabelRecipe
from compactnets.training.curves import Curves
from compactnets.training.distributed import World


class LabelsObjective(ClassificationObjective):
    """Binary cross-entropy of every image, in nats: the mean over the classes, as in torch and timm.

    Args:
        tags: (images, classes) float32, of the training images.
    """

    def __init__(self, recipe: MultilabelRecipe, steps: int, tags: Tensor) -> None:
        super().__init__(recipe, steps, tags.shape[1])
        self.tags = tags

    def losses(self, forward: Callable[..., Any], part: MicroBatch) -> Mapping[str, Tensor]:
        """Return the binary cross-entropy of every image, ``(B,)``."""
        logits = forward(part.images).float()
        loss = F.binary_cross_entropy_with_logits(logits, part.targets, reduction="none")
        return {"binary_cross_entropy": loss.mean(dim=1)}

    def _mix(self, batch: Batch, step: int) -> tuple[Tensor, Tensor]:
        return batch.images, self.tags[batch.indices].to(batch.images.device, non_blocking=True)


class MultilabelSetup(ClassificationSetup):
    """A network and its two sources."""

    curves = Curves(
        {"map_percent": "mAP", "f1_percent": "F1"}, "validation, %", loss_title="binary cross-entropy, nats"
    )

    recipe: MultilabelRecipe
    train_source: LabelsSource
    val_source: LabelsSource

    def __init__(
        self, recipe: MultilabelRecipe, train: LabelsSource, val: LabelsSource, init: Path | None, world: World
    ) -> None:
        if not val.tags.any():
            raise InputError(
                f"{val.spec}: no image to evaluate on has a label: none of the {len(val):,} lines names one"
            )
        super().__init__(recipe, train, val, init, world, functools.partial(prepare, kind=record_type(init)))
        steps = len(train) // self.recipe.batch_size
        self.objective = LabelsObjective(self.recipe, steps, torch.from_numpy(train.tags).float())

    def evaluate(  # type: ignore[override]
        self, model: nn.Module, loader: EvalLoader, world: World, description: str, stop: Callable[[], bool]
    ) -> LabelsScore:
        return measure(
            model,
            loader,
            world,
            tags=self.val_source.tags,
            class_names=self.val_source.class_names,
            threshold=self.recipe.threshold,
            description=description,
            stop=stop,
        )

    def make_record(self, metrics: Mapping[str, Any]) -> CheckpointRecord:
        found = super().make_record(metrics).model_dump(exclude={"task"})
        return MultilabelRecord(**found, threshold=self.recipe.threshold)
