"""Training of detectors, on the common engine."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from torch import Tensor, nn

from compactnets.console import say
from compactnets.data.batches import LoaderSettings
from compactnets.detection.anchors import anchors_of, resolve_anchors, small_objects
from compactnets.detection.checkpoint import (
    Detector,
    DetectorRecord,
    first_detector,
    is_detector,
    load_detector,
)
from compactnets.detection.data.base import DetectionSource
from compactnets.detection.data.reviewing import announce, review_both
from compactnets.detection.detectors import describe_maps
from compactnets.detection.evaluation import evaluate_detector, evaluate_on, input_sides
from compactnets.detection.examples import write_examples
from compactnets.detection.loading import DetectionBatch, DetectionEvalLoader, DetectionLoader, Target
from compactnets.detection.metrics import METRIC_LABELS, DetectionEvaluator, DetectionScores
from compactnets.detection.recipe import DetectionRecipe
from compactnets.detection.tables import show
from compactnets.detection.transform import BoxTransform
from compactnets.environment import software_versions
from compactnets.errors import InputError
from compactnets.training.checkpoint import read_record, save_checkpoint
from compactnets.training.curves import Curves
from compactnets.training.distributed import World
from compactnets.training.preparation import fit_batch, fit_epochs
from compactnets.training.setup import TrainingSetup

ANCHORS = "fitted anchors"  # key of anchors=auto in states
LOSSES = {  # torchvision's names -> ours, the same for both detectors
    "loss_classifier": "classes",
    "loss_box_reg": "boxes",
    "loss_objectness": "proposals",
    "loss_rpn_box_reg": "proposal_boxes",
    "classification": "classes",
    "bbox_regression": "boxes",
}


def review_run(
    recipe: DetectionRecipe, train: DetectionSource, val: DetectionSource
) -> tuple[DetectionSource, DetectionSource]:
    """Review both splits of a run before its first step, and return the usable parts.

    Raises:
        InputError: images, annotations or boxes that do not fit
            (:func:`compactnets.detection.data.reviewing.review_both`).
    """
    train, val = review_both(
        train,
        val,
        bad_boxes=recipe.bad_boxes,
        on_error=recipe.on_error,
        max_skipped=recipe.max_skipped,
        workers=recipe.workers,
    )
    for source in (train, val):
        say(announce(source))
    if told := tell_small(train, recipe):
        say(told)
    return train, val


def write_page(recipe: DetectionRecipe, val: DetectionSource, output: Path, world: World) -> None:
    """Write ``examples.html`` with the best and the worst validation images of the best epoch, if it is outdated."""
    page, best = output / "examples.html", output / "best.safetensors"
    if page.exists() and page.stat().st_mtime >= best.stat().st_mtime:
        return
    detector, _ = load_detector(best, world.device)
    evaluator, _ = evaluate_on(detector, val, metric=recipe.metric, bad_boxes=recipe.bad_boxes)
    write_examples(page, evaluator, val)


def tell_small(source: DetectionSource, recipe: DetectionRecipe) -> str | None:
    """Return a note on training objects that are smaller than a pixel in the network's input, or ``None``.

    They are trained on, but there is hardly anything to learn from them.
    """
    small, total, first = small_objects(source, recipe)
    if first is None:
        return None
    key = "ssd.size" if recipe.detector == "ssd" else "faster_rcnn.shorter_side"
    return (
        f"note: {source.split}: {small:,} of {total:,} objects are less than a pixel wide or high at "
        f"the network's input size, the first in {source.name(first)}: increase {key} to keep more detail"
    )


class MicroBatch(NamedTuple):
    """Images that go through the detector together."""

    images: list[Tensor]
    targets: list[Target]


class DetectionObjective:
    """The detector's losses as in torchvision: classes and boxes; for Faster R-CNN also proposals."""

    def __init__(self, recipe: DetectionRecipe) -> None:
        self.recipe = recipe

    def micro_batches(self, batch: DetectionBatch, step: int) -> Sequence[MicroBatch]:
        """Cut a batch into the recipe's ``accumulate`` micro-batches."""
        size = len(batch.images) // self.recipe.accumulate
        starts = range(0, len(batch.images), size)
        return [MicroBatch(batch.images[start : start + size], batch.targets[start : start + size]) for start in starts]

    def losses(self, forward: Callable[..., Any], part: MicroBatch) -> Mapping[str, Tensor]:
        """Return the losses per image, ``(B,)``: torchvision itself only returns their means."""
        found: Mapping[str, Tensor] = forward(part.images, part.targets)
        return {LOSSES[name]: loss.float().expand(len(part.images)) for name, loss in found.items()}


@dataclass(frozen=True)
class DetectionScore:
    """The score of a detector for the training loop."""

    scores: DetectionScores
    seconds: float

    @property
    def title(self) -> str:
        """The name of the headline in the log."""
        return METRIC_LABELS[self.scores.metric]

    @property
    def value(self) -> float:
        """The headline; zero if no class has objects."""
        return self.scores.headline or 0.0

    def metrics(self) -> dict[str, float]:
        """Return the mean average precisions, in percent, and the time per image."""
        found = {"voc07_percent": self.scores.voc07, "voc10_percent": self.scores.voc10}
        if self.scores.coco is not None:
            found |= {"coco_percent": self.scores.coco.ap}
        times = {"eval_seconds_per_image": self.seconds / self.scores.images}
        return {key: value for key, value in found.items() if value is not None} | times

    def summary(self) -> str:
        """Return the headline and the average precision of each class."""
        scores = self.scores
        # of VOC's metrics, or COCO's over all IoU thresholds
        classes = ", ".join(
            f"{row.name} {value:.1f}" for row in scores.classes if (value := getattr(row, scores.metric)) is not None
        )
        headline = f"{self.title} {self.value:.2f} %"
        return f"{headline} ({classes})" if len(scores.classes) <= 5 else headline

    def to_dict(self) -> dict[str, Any]:
        """Return everything for JSON."""
        return {**self.scores.to_dict(), "seconds": self.seconds}

    def show(self, title: str) -> None:
        """Print the average precision of every class, and the means."""
        show(self.scores, self.seconds, title)


class DetectionSetup(TrainingSetup):
    """A detector and its two sources."""

    curves = Curves(
        {f"{metric}_percent": name for metric, name in METRIC_LABELS.items()},
        "mean average precision, %",
        loss_title="training loss",
    )

    recipe: DetectionRecipe
    model: Detector

    def __init__(
        self,
        recipe: DetectionRecipe,
        train_source: DetectionSource,
        val_source: DetectionSource,
        init: Path | None,
        world: World,
        anchors: Mapping[str, Any] | None = None,
    ) -> None:
        """Build the detector with its initial weights.

        Args:
            anchors: the run's existing anchors, if they were fitted.
        """
        fitted = fit_batch(recipe, len(train_source), train_source.spec, world)
        parts = world.size * recipe.accumulate
        if recipe.detector == "ssd" and fitted.batch_size == parts:
            raise InputError(
                f"batch_size = {fitted.batch_size} gives each of {parts} parts one image, and SSD's last map of 1x1 "
                f"cannot be normalised over one: expected at least {2 * parts}"
            )
        self.recipe = fit_epochs(fitted, len(train_source) // fitted.batch_size, train_source.spec)
        self.train_source, self.val_source, self.init = train_source, val_source, init
        if recipe.anchors == "auto" and anchors is None and init is not None and is_detector(init):
            anchors = anchors_of(read_record(init, DetectorRecord), recipe)
        resolved, self.anchors = resolve_anchors(self.recipe, train_source, anchors)
        self.model, self.first_record = first_detector(resolved, list(train_source.class_names), init)
        self.objective = DetectionObjective(self.recipe)
        say(str(describe_maps(self.model)))

    def describe(self) -> dict[str, Any]:
        described = super().describe()
        return described if self.anchors is None else {**described, ANCHORS: self.anchors}

    def make_loader(self, world: World) -> DetectionLoader:
        recipe = self.recipe
        return DetectionLoader(
            self.train_source,
            BoxTransform(recipe.augment, input_sides(self.model)),
            _settings(recipe, world),
            recipe.workers,
            recipe.bad_boxes,
        )

    def make_eval_loader(self, world: World) -> DetectionEvalLoader:
        return DetectionEvalLoader(self.val_source, world, self.recipe.workers, self.recipe.bad_boxes)

    def evaluate(
        self, model: nn.Module, loader: DetectionEvalLoader, world: World, description: str, stop: Callable[[], bool]
    ) -> DetectionScore:
        evaluator = DetectionEvaluator(self.train_source.class_names, metric=self.recipe.metric)
        seconds = evaluate_detector(model, loader, world, evaluator, description=description, stop=stop)
        return DetectionScore(evaluator.compute(), seconds)

    def save(self, folder: Path, name: str, weights: Mapping[str, Tensor], metrics: Mapping[str, Any]) -> None:
        record = self.first_record.model_copy(
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


def _settings(recipe: DetectionRecipe, world: World) -> LoaderSettings:
    return LoaderSettings(
        batch_size=recipe.batch_size,
        seed=recipe.seed,
        rank=world.rank,
        world_size=world.size,
        device=world.device,
        channels_last=False,  # images have different sizes until the detector batches them
        on_error=recipe.on_error,
        max_skipped=recipe.max_skipped,
    )
