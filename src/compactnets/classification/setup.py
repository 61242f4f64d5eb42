"""Training a network to classify: the losses of labels, mixed or not, and accuracy as the score."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from timm.data.mixup import Mixup
from torch import Tensor, nn
from torch.nn import functional as F

from compactnets.classification.checkpoint import CheckpointRecord
from compactnets.classification.distillation import Teacher, distillation_loss, open_teacher
from compactnets.classification.evaluation import Evaluation, evaluate_batches
from compactnets.classification.preparation import Prepare
from compactnets.classification.recipe import ClassificationRecipe
from compactnets.classification.weighting import class_weights, note_sampling
from compactnets.data import ImageSource
from compactnets.data.loading import Batch, EvalLoader, TrainLoader, make_eval_loader, make_train_loader
from compactnets.data.order import mix_seed
from compactnets.environment import software_versions
from compactnets.errors import InputError
from compactnets.failures import one_line
from compactnets.training.checkpoint import save_checkpoint
from compactnets.training.curves import Curves
from compactnets.training.distributed import World
from compactnets.training.preparation import fit_batch, fit_epochs
from compactnets.training.setup import TrainingSetup

TEACHER = "--teacher"  # what a run's description calls the digest of the teacher


class MicroBatch(NamedTuple):
    """Images that go through the network together."""

    images: Tensor  # (B, C, S, S)
    targets: Tensor  # (B,) int64 classes, or (B, K) float shares of the K classes where images are mixed
    whole: Tensor  # the same images at full size, for the teacher


class ClassificationObjective:
    """Cross-entropy of every image, in nats, with the recipe's mixing, and what a teacher adds.

    Args:
        steps: steps of an epoch.
        num_classes: outputs of the network, for mixed labels.
        teacher: of the recipe's distillation.
        weights: ``(K,)`` of the classes, on the device of the outputs; ``None``: all are one.
    """

    def __init__(
        self,
        recipe: ClassificationRecipe,
        steps: int,
        num_classes: int,
        teacher: Teacher | None = None,
        weights: Tensor | None = None,
    ) -> None:
        self.recipe, self.steps, self.teacher, self.weights = recipe, steps, teacher, weights
        mix = recipe.mix
        self.mixer = (
            Mixup(
                mixup_alpha=mix.mixup,
                cutmix_alpha=mix.cutmix,
                prob=mix.probability,
                switch_prob=mix.switch_probability,
                label_smoothing=recipe.label_smoothing,
                num_classes=num_classes,
            )
            if mix.active
            else None
        )

    def micro_batches(self, batch: Batch, step: int) -> Sequence[MicroBatch]:
        """Mix a batch, shrink it to the step's size, and cut it into the recipe's ``accumulate`` micro-batches."""
        whole, targets = self._mix(batch, step)
        count = self.recipe.accumulate
        parts = [each.chunk(count) for each in (self._shrink(whole, step), targets, whole)]
        return [MicroBatch(*part) for part in zip(*parts, strict=True)]

    def losses(self, forward: Callable[..., Any], part: MicroBatch) -> Mapping[str, Tensor]:
        """Return the cross-entropy of every image, ``(B,)``; with a teacher both parts, with their weights."""
        logits = forward(part.images)
        mixed = part.targets.is_floating_point()  # those are smoothed already
        smoothing = 0.0 if mixed else self.recipe.label_smoothing
        loss = F.cross_entropy(logits.float(), part.targets, self.weights, label_smoothing=smoothing, reduction="none")
        if self.teacher is None:
            return {"cross_entropy": loss}
        settings = self.recipe.distillation
        from_teacher = distillation_loss(logits, self.teacher(part.whole), settings.temperature)
        return {"cross_entropy": (1 - settings.weight) * loss, "distillation": settings.weight * from_teacher}

    def _shrink(self, images: Tensor, step: int) -> Tensor:
        """Resize (B, C, S, S) images as the recipe's ``progressive`` says."""
        full = images.shape[-1]
        size = self.recipe.size_at(step / (self.recipe.epochs * self.steps), full)
        if size == full:
            return images
        layout = torch.channels_last if self.recipe.channels_last else torch.contiguous_format
        small = F.interpolate(images, (size, size), mode="bilinear", antialias=True)
        return small.contiguous(memory_format=layout)

    def _mix(self, batch: Batch, step: int) -> tuple[Tensor, Tensor]:
        recipe, epoch = self.recipe, step // self.steps
        if self.mixer is None or epoch >= recipe.epochs - recipe.mix.last_epochs_without:
            return batch.images, batch.labels
        np.random.seed(mix_seed(recipe.seed, step) % 2**32)  # timm draws from numpy's global generator
        images, targets = self.mixer(batch.images, batch.labels)
        return images, targets


class ClassificationSetup(TrainingSetup):
    """A classifier and its two sources."""

    curves = Curves(
        {"top1_percent": "top-1", "top5_percent": "top-5"}, "validation accuracy, %", loss_title="cross-entropy, nats"
    )

    recipe: ClassificationRecipe

    def __init__(
        self,
        recipe: ClassificationRecipe,
        train_source: ImageSource,
        val_source: ImageSource,
        init: Path | None,
        world: World,
        prepare: Prepare,
    ) -> None:
        pairs = 2 if recipe.mix.active else 1  # images are mixed in pairs
        fitted = fit_batch(recipe, len(train_source), train_source.spec, world, pairs)
        self.recipe = fit_epochs(fitted, len(train_source) // fitted.batch_size, train_source.spec)
        self.train_source, self.val_source, self.init = train_source, val_source, init
        self.prepared = prepare(self.recipe, train_source, init)
        self.model, self.compile = self.prepared.model, self.prepared.compile
        self.fusible = self.prepared.int8 is None  # the layers that simulate int8 are not those that the kernels know
        self.preprocess = self.prepared.preprocess
        self._set_momentum()
        self._check_sizes()
        self._check_tuning()
        self.teacher = self._open_teacher(world)
        steps = len(train_source) // self.recipe.batch_size
        note_sampling(self.recipe, train_source)
        weights = class_weights(self.recipe, train_source)
        weights = None if weights is None else weights.to(world.device)
        classes = len(train_source.class_names)
        self.objective = ClassificationObjective(self.recipe, steps, classes, self.teacher, weights)

    def _set_momentum(self) -> None:
        """Give batch normalisation the recipe's momentum."""
        if (momentum := self.recipe.batchnorm_momentum) is None:
            return
        norms = [each for each in self.model.modules() if isinstance(each, nn.modules.batchnorm._BatchNorm)]
        if not norms:
            raise InputError("batchnorm_momentum: the network has no batch normalisation to train: remove it")
        for norm in norms:
            norm.momentum = momentum

    def _check_tuning(self) -> None:
        """Check that a backbone that is frozen has trained weights, and that the network is one of ours or timm's."""
        recipe = self.recipe
        if recipe.freeze_epochs and self.init is None and not recipe.model_arguments.get("pretrained"):
            raise InputError(
                "freeze_epochs trains the classifier on the trained weights of the rest, and these are fresh: give "
                "--init CHECKPOINT, or --set freeze_epochs=0"
            )
        if self.prepared.int8 is not None and (recipe.freeze_epochs or recipe.optimizer.layer_decay < 1):
            raise InputError(
                "--qat trains all layers alike: give it --set freeze_epochs=0 --set optimizer.layer_decay=1"
            )

    def _check_sizes(self) -> None:
        """Check that the network takes the smaller images of ``progressive``, and that they are smaller."""
        full, model = self.preprocess.size, self.model
        training = model.training
        for phase in self.recipe.progressive:
            if phase.size >= full:
                raise InputError(f"progressive: sizes must be below the images' {full} pixels, found {phase.size}")
            told = f"progressive: {self.recipe.model} does not take images of {phase.size} x {phase.size} pixels"
            with one_line(told), torch.no_grad():
                model.eval()(torch.zeros(1, self.preprocess.channels, phase.size, phase.size))
        model.train(training)

    def _open_teacher(self, world: World) -> Teacher | None:
        recipe, name = self.recipe, self.recipe.distillation.teacher
        if name is None:
            return None
        return open_teacher(
            name,
            self.train_source,
            self.preprocess,
            precision=recipe.precision,
            device=world.device,
            channels_last=recipe.channels_last,
        )

    def describe(self) -> dict[str, Any]:
        described = super().describe() | ({"--qat": True} if self.prepared.int8 is not None else {})
        return described | ({} if self.teacher is None else {TEACHER: self.teacher.digest})

    def make_loader(self, world: World) -> TrainLoader:
        recipe = self.recipe
        return make_train_loader(
            self.train_source,
            recipe.augment,
            self.preprocess,
            batch_size=recipe.batch_size,
            seed=recipe.seed,
            workers=recipe.workers,
            rank=world.rank,
            world_size=world.size,
            micro_batches=recipe.accumulate,
            device=world.device,
            channels_last=recipe.channels_last,
            on_error=recipe.on_error,
            max_skipped=recipe.max_skipped,
            sampling=recipe.sampling,
        )

    def make_eval_loader(self, world: World) -> EvalLoader:
        return make_eval_loader(
            self.val_source,
            self.preprocess,
            batch_size=self.recipe.batch_size,
            workers=self.recipe.workers,
            rank=world.rank,
            world_size=world.size,
            device=world.device,
            channels_last=self.recipe.channels_last,
        )

    def evaluate(
        self, model: nn.Module, loader: EvalLoader, world: World, description: str, stop: Callable[[], bool]
    ) -> Evaluation:
        return evaluate_batches(model, loader, world, description=description, stop=stop)

    def save(self, folder: Path, name: str, weights: Mapping[str, Tensor], metrics: Mapping[str, Any]) -> None:
        save_checkpoint(folder / f"{name}.safetensors", weights, self.make_record(metrics))

    def make_record(self, metrics: Mapping[str, Any]) -> CheckpointRecord:
        """Return the record of a checkpoint with an epoch's metrics."""
        training = {
            "recipe": self.recipe.model_dump(mode="json"),
            "data": self.train_source.spec,
            "init": None if self.init is None else str(self.init),
            **metrics,
        }
        if self.teacher is not None:
            training["teacher"] = self.teacher.describe()
        return CheckpointRecord(
            model=self.recipe.model,
            arguments=self.prepared.arguments,
            class_names=list(self.train_source.class_names),
            preprocess=self.preprocess.to_dict(),
            source=f"trained by compactnets on {self.train_source.spec}",
            license="that of whoever trained it",
            training=training,
            versions=software_versions(),
            int8=self.prepared.int8,
        )
