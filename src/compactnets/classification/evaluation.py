"""Accuracy of a network on a source of images."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from compactnets.classification.checkpoint import CheckpointRecord
from compactnets.console import Tracker, say, stdout
from compactnets.data import ImageSource, Preprocess
from compactnets.data.base import shorten
from compactnets.data.loading import EvalLoader, make_eval_loader
from compactnets.errors import InputError
from compactnets.training.distributed import World
from compactnets.training.setup import EvaluationStopped, NotFiniteError

# of a batch of B images: their indices in the source (B,), outputs (B, classes), and the outputs of their classes (B,)
Note = Callable[[Tensor, Tensor, Tensor], None]


@dataclass(frozen=True)
class Evaluation:
    """Results on a whole source; every image is counted once."""

    images: int
    top1_correct: int
    top5_correct: int
    loss: float  # mean cross-entropy, in nats
    seconds: float

    @property
    def top1(self) -> float:
        """Share of images whose class is the first guess, in percent."""
        return 100 * self.top1_correct / self.images

    @property
    def top5(self) -> float:
        """Share of images whose class is among the first five guesses, in percent."""
        return 100 * self.top5_correct / self.images

    @property
    def title(self) -> str:
        """The name of ``value`` in the log."""
        return "top-1"

    @property
    def value(self) -> float:
        """The score that ranks checkpoints: ``top1``."""
        return self.top1

    def metrics(self) -> dict[str, float]:
        """Return the metrics for ``metrics.jsonl``."""
        return {"val_loss": self.loss, "top1_percent": self.top1, "top5_percent": self.top5}

    def summary(self) -> str:
        """Return a line for the log."""
        return f"val loss {self.loss:.4f}, top-1 {self.top1:.2f} %"

    def to_dict(self) -> dict[str, Any]:
        """Return all figures for JSON; ``top1_percent`` and ``top5_percent`` are derived."""
        return {**asdict(self), "top1_percent": self.top1, "top5_percent": self.top5}

    def show(self, title: str) -> None:
        """Print the figures on one line."""
        stdout.print(
            f"{title}: top-1 {self.top1:.2f} % ({self.top1_correct}/{self.images}), top-5 {self.top5:.2f} % "
            f"({self.top5_correct}/{self.images}), loss {self.loss:.4f}, {self.images / self.seconds:.0f} images/s"
        )


def evaluate(
    model: nn.Module,
    source: ImageSource,
    preprocess: Preprocess,
    *,
    class_map: Sequence[int] | None = None,
    batch_size: int = 128,
    workers: int = 0,
    world: World | None = None,
    description: str = "evaluating",
    note: Note | None = None,
) -> Evaluation:
    """Evaluate ``model`` on every image of ``source``; several processes share them, each image counted once.

    Args:
        class_map: for each label of the source, the network's output for that class
            (:func:`match_classes`); ``None`` if they are the same.
        batch_size: images per step; the result does not depend on it.
        world: this process and its device; the CPU if not given.
        note: called with each batch of this process.

    Raises:
        InputError: an image that cannot be read; none is replaced or skipped.
        NotFiniteError: (an InputError) outputs that are not finite.
    """
    world = world or World()
    loader = make_eval_loader(
        source,
        preprocess,
        batch_size=batch_size,
        workers=workers,
        rank=world.rank,
        world_size=world.size,
        device=world.device,
    )
    try:
        return evaluate_batches(model, loader, world, class_map=class_map, description=description, note=note)
    finally:
        loader.close()


def evaluate_batches(
    model: nn.Module,
    loader: EvalLoader,
    world: World,
    *,
    class_map: Sequence[int] | None = None,
    description: str = "evaluating",
    stop: Callable[[], bool] | None = None,
    note: Note | None = None,
) -> Evaluation:
    """Evaluate ``model`` on a loader's images; see :func:`evaluate`. Training keeps its loader between epochs.

    Args:
        stop: asked after each batch.
        note: called with each batch of this process.

    Raises:
        InputError: an image that cannot be read.
        NotFiniteError: (an InputError) outputs that are not finite.
        EvaluationStopped: ``stop`` returned true in any process.
    """
    was_training = model.training
    model.eval()
    lookup = None if class_map is None else torch.tensor(class_map, device=world.device)
    sums = torch.zeros(5, dtype=torch.float64, device=world.device)  # images, top-1, top-5, not finite, loss
    stopped = False
    start = time.perf_counter()
    with torch.inference_mode():
        for batch in Tracker(loader, len(loader), description):
            logits = model(batch.images).float()
            targets = batch.labels if lookup is None else lookup[batch.labels]
            hits = logits.topk(min(5, logits.shape[1]), dim=1).indices == targets[:, None]
            losses = F.cross_entropy(logits, targets, reduction="none")
            bad = (~losses.isfinite()).sum()
            number = hits.new_tensor(len(hits), dtype=torch.float64)
            sums += torch.stack([number, hits[:, 0].sum(), hits.sum(), bad, losses.sum()])
            if note is not None:
                note(batch.indices, logits, targets)
            if stopped := stop is not None and stop():
                break
    model.train(was_training)
    *counts, loss_sum, stops = world.sum([*sums.tolist(), float(stopped)])
    images, top1, top5, bad_images = (round(count) for count in counts)
    if stops:
        raise EvaluationStopped
    assert images == len(loader.source)
    if bad_images or not math.isfinite(loss_sum):
        raise NotFiniteError(f"the network gives outputs that are not finite for {bad_images} of {images} images")
    return Evaluation(images, top1, top5, loss_sum / images, time.perf_counter() - start)


def note_trained(record: CheckpointRecord, source: ImageSource) -> None:
    """Say so if a network was trained on a share of the images of an undivided source."""
    share = record.share_trained(source.spec)
    if share is not None:
        say(f"note: {source.spec} has images that this network was trained on: --split {share:g} leaves them out")


def match_classes(record: CheckpointRecord, source: ImageSource) -> list[int] | None:
    """Return, for each class of ``source``, the output of the checkpoint's network with the same name.

    Classes are matched by name (identifier or label), never by position alone; a source may hold only some of them.
    ``None`` if the order is the same.

    Raises:
        InputError: a class unknown to the network.
    """
    for names in (record.class_names, record.class_labels or []):
        index = {name: position for position, name in enumerate(names)}
        if all(name in index for name in source.class_names):
            mapped = [index[name] for name in source.class_names]
            return None if mapped == list(range(len(names))) else mapped
    unknown = [name for name in source.class_names if name not in record.class_names]
    raise InputError(
        f"{source.spec} has {len(unknown)} classes that this checkpoint of {record.model} does not know "
        f"({shorten(unknown, 3)}); it knows {len(record.class_names)} ({shorten(record.class_names, 3)})"
    )
