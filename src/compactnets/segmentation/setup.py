"""Training of segmenters, on the common engine."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from compactnets.console import Tracker, say
from compactnets.data.batches import LoaderSettings
from compactnets.environment import software_versions
from compactnets.errors import InputError
from compactnets.segmentation.checking import Frequencies
from compactnets.segmentation.checkpoint import SegmenterRecord, first_segmenter
from compactnets.segmentation.data import MaskSource
from compactnets.segmentation.loading import MaskBatch, MaskEvalLoader, MaskLoader
from compactnets.segmentation.metrics import SegmentationScore, best_class, confusion
from compactnets.segmentation.networks import Segmenter, upscale
from compactnets.segmentation.recipe import IGNORED, SegmentationRecipe
from compactnets.segmentation.transform import MaskTransform
from compactnets.training.checkpoint import save_checkpoint
from compactnets.training.curves import Curves
from compactnets.training.distributed import World
from compactnets.training.preparation import fit_batch, fit_epochs
from compactnets.training.setup import EvaluationStopped, NotFiniteError, TrainingSetup


class MicroBatch(NamedTuple):
    """Images that go through the network together, and their labels."""

    images: Tensor
    labels: Tensor


class MaskObjective:
    """Cross entropy of every pixel with a class, and that of the auxiliary head.

    Args:
        weights: of the classes, (C,); ``None``: all the same.
    """

    def __init__(self, recipe: SegmentationRecipe, weights: Tensor | None) -> None:
        self.recipe, self.weights = recipe, weights

    def micro_batches(self, batch: MaskBatch, step: int) -> Sequence[MicroBatch]:
        """Cut a batch into the recipe's ``accumulate`` micro-batches."""
        size = len(batch.images) // self.recipe.accumulate
        starts = range(0, len(batch.images), size)
        return [MicroBatch(batch.images[start : start + size], batch.labels[start : start + size]) for start in starts]

    def losses(self, forward: Callable[..., Any], part: MicroBatch) -> Mapping[str, Tensor]:
        """Return the losses per image, ``(B,)``: the sum over its pixels, divided by the number that have a class."""
        found = forward(part.images)
        if isinstance(found, Tensor):
            return {"classes": self._loss(found, part.labels)}
        scores, others = found
        return {
            "classes": self._loss(scores, part.labels),
            "auxiliary": self.recipe.auxiliary * self._loss(others, part.labels),
        }

    def _loss(self, scores: Tensor, labels: Tensor) -> Tensor:
        wanted = labels.long()
        scores = upscale(scores, (labels.shape[-2], labels.shape[-1]))
        weights = None if self.weights is None else self.weights.to(scores)
        loss = F.cross_entropy(scores, wanted, weights, ignore_index=IGNORED, reduction="none")
        return loss.sum((1, 2)) / (wanted != IGNORED).sum((1, 2)).clamp_min(1)


class SegmentationSetup(TrainingSetup):
    """A segmenter and its two sources."""

    curves = Curves(
        {"miou_percent": "mean IoU", "pixel_accuracy_percent": "pixels"}, "mIoU and pixel accuracy, %", "cross entropy"
    )

    recipe: SegmentationRecipe
    model: Segmenter

    def __init__(
        self,
        recipe: SegmentationRecipe,
        train_source: MaskSource,
        val_source: MaskSource,
        frequencies: Frequencies,
        init: Path | None,
        world: World,
    ) -> None:
        fitted = fit_batch(recipe, len(train_source), train_source.spec, world)
        if recipe.head == "deeplabv3plus" and fitted.batch_size == world.size * recipe.accumulate:
            raise InputError(
                f"batch_size = {fitted.batch_size} gives each part one image, and the pooled map of DeepLabV3+ cannot "
                f"be normalised over one: expected at least {2 * fitted.batch_size}"
            )
        self.recipe = fit_epochs(fitted, len(train_source) // fitted.batch_size, train_source.spec)
        self.train_source, self.val_source, self.init = train_source, val_source, init
        self.model, self.record = first_segmenter(self.recipe, list(train_source.class_names), init)
        weights = None
        if recipe.class_weights != "none":
            found = frequencies.weights(recipe.class_weights)
            weights = torch.from_numpy(found).float()
            pairs = zip(train_source.class_names, found, strict=True)
            say(f"class weights: {', '.join(f'{name} {weight:.2g}' for name, weight in pairs)}")
        self.objective = MaskObjective(self.recipe, weights)

    def make_loader(self, world: World) -> MaskLoader:
        recipe = self.recipe
        settings = LoaderSettings(
            batch_size=recipe.batch_size,
            seed=recipe.seed,
            rank=world.rank,
            world_size=world.size,
            device=world.device,
            channels_last=recipe.channels_last,
            on_error=recipe.on_error,
            max_skipped=recipe.max_skipped,
        )
        transform = MaskTransform(recipe.augment)
        return MaskLoader(self.train_source, transform, self.record.statistics, settings, recipe.workers)

    def make_eval_loader(self, world: World) -> MaskEvalLoader:
        return MaskEvalLoader(self.val_source, self.recipe.size, self.record.statistics, world, self.recipe.workers)

    def evaluate(
        self, model: nn.Module, loader: MaskEvalLoader, world: World, description: str, stop: Callable[[], bool]
    ) -> SegmentationScore:
        return measure(model, loader, world, description, stop)

    def save(self, folder: Path, name: str, weights: Mapping[str, Tensor], metrics: Mapping[str, Any]) -> None:
        record = self.record.model_copy(
            update={
                "source": f"trained by compactnets on {self.train_source.spec}",
                "training": {
                    "recipe": self.recipe.model_dump(mode="json"),
                    "data": self.train_source.spec,
                    "init": None if self.init is None else str(self.init),
                    **metrics,
                },
                "versions": software_versions(),
            }
        )
        save_checkpoint(folder / f"{name}.safetensors", weights, record)


def measure(
    network: nn.Module,
    loader: MaskEvalLoader,
    world: World,
    description: str = "evaluating",
    stop: Callable[[], bool] | None = None,
    each: Callable[[int, Tensor, Tensor], None] | None = None,
) -> SegmentationScore:
    """Measure a network on a loader's images; the scores are scaled to the masks, at whose size pixels count.

    Args:
        each: called with an image's index, its classes as found (H, W) uint8, and its confusion.

    Raises:
        InputError: an image that cannot be used.
        NotFiniteError: (an InputError) outputs that are not finite.
        EvaluationStopped: ``stop`` returned true in any process.
    """
    was_training, start, stopped, bad, images = network.training, time.perf_counter(), False, 0, 0
    classes = len(loader.source.class_names)
    counts = torch.zeros(classes, classes, dtype=torch.int64)
    network.eval()
    for batch in Tracker(loader, len(loader), description):
        with torch.inference_mode():
            scores = network(batch.images)
            bad += 0 if bool(scores.isfinite().all()) else len(scores)
            found = best_class(upscale(scores, (batch.labels.shape[-2], batch.labels.shape[-1])))
            own = confusion(batch.labels, found, classes).cpu()
        counts, images = counts + own, images + len(scores)
        if each is not None:
            each(int(batch.indices[0]), found[0].cpu(), own)
        if stopped := stop is not None and stop():
            break
    network.train(was_training)
    if world.largest(int(stopped)):
        raise EvaluationStopped
    *totals, all_bad, all_images = (round(each) for each in world.sum([*counts.flatten().tolist(), bad, images]))
    if all_bad:
        raise NotFiniteError(f"the network gives outputs that are not finite for {all_bad} of {all_images} images")
    matrix = torch.tensor(totals, dtype=torch.int64).reshape(classes, classes)
    return SegmentationScore.of(matrix, loader.source.class_names, all_images, time.perf_counter() - start)


def evaluate_on(
    network: nn.Module,
    record: SegmenterRecord,
    source: MaskSource,
    world: World | None = None,
    workers: int = 0,
    each: Callable[[int, Tensor, Tensor], None] | None = None,
    without: Collection[int] = (),
) -> SegmentationScore:
    """Measure a network on the images of a source; several processes share them. See :func:`measure`.

    Args:
        without: indices of images to leave out.
    """
    world = world or World()
    loader = MaskEvalLoader(source, record.size, record.statistics, world, workers, without)
    try:
        return measure(network, loader, world, each=each)
    finally:
        loader.close()
