"""How well a network finds the labels of images: average precision and F1 of each class."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

from compactnets.classification.evaluation import match_classes
from compactnets.classification.judging import ALL_CLASSES, WORST
from compactnets.console import Table, Tracker, stdout
from compactnets.data import Preprocess
from compactnets.data.loading import EvalLoader, make_eval_loader
from compactnets.multilabel.checkpoint import MultilabelRecord
from compactnets.multilabel.data import LabelsSource
from compactnets.training.distributed import World
from compactnets.training.setup import EvaluationStopped, NotFiniteError


@dataclass(frozen=True)
class LabelFigures:
    """A class; figures are in percent, ``None`` where they would divide by zero.

    Attributes:
        images: number of images that have it.
        found: number of images with at least the threshold.
        right: number of these that have it.
        average_precision: mean precision over the ranks of its images, by falling probability (not interpolated).
        recall: ``right`` of ``images``.
        precision: ``right`` of ``found``.
        f1: the harmonic mean of both: ``2 right / (images + found)``.
    """

    class_name: str
    label: str
    images: int
    found: int
    right: int
    average_precision: float | None
    recall: float | None
    precision: float | None
    f1: float | None


@dataclass(frozen=True)
class LabelsScore:
    """Results on a whole source; every image is counted once.

    Attributes:
        images: number of images.
        loss: mean binary cross-entropy over images and classes, in nats.
        threshold: probability from which on an image counts as of a class.
        map_percent: mean average precision of the classes that have images.
        f1_percent: F1 over all pairs of image and class ("micro").
        mean_f1_percent: mean F1 of the classes that have images ("macro"); one that is never found counts as 0.
        exact_percent: share of the images whose classes are found exactly.
        classes: in the network's order.
    """

    images: int
    loss: float
    seconds: float
    threshold: float
    map_percent: float
    f1_percent: float
    mean_f1_percent: float
    exact_percent: float
    classes: tuple[LabelFigures, ...]

    @property
    def title(self) -> str:
        """The name of ``value`` in the log."""
        return "mAP"

    @property
    def value(self) -> float:
        """The score that ranks checkpoints: the mean average precision."""
        return self.map_percent

    def metrics(self) -> dict[str, float]:
        """Return the metrics for ``metrics.jsonl``."""
        return {"val_loss": self.loss, "map_percent": self.map_percent, "f1_percent": self.f1_percent}

    def summary(self) -> str:
        """Return a line for the log."""
        return f"val loss {self.loss:.4f}, mAP {self.map_percent:.2f} %, F1 {self.f1_percent:.2f} %"

    def to_dict(self) -> dict[str, Any]:
        """Return all figures for JSON."""
        return asdict(self)

    def show(self, title: str) -> None:
        """Print the figures, and a table of the classes (of the worst, if there are many)."""
        stdout.print(
            f"{title}: mAP {self.map_percent:.2f} %, F1 {self.f1_percent:.2f} % (mean of the classes "
            f"{self.mean_f1_percent:.2f} %) from a probability of {self.threshold:g} on, all labels right "
            f"{self.exact_percent:.2f} %, loss {self.loss:.4f}, {self.images / self.seconds:.0f} images/s"
        )
        rows: Sequence[LabelFigures] = self.classes
        if len(rows) > ALL_CLASSES:
            known = [row for row in rows if row.average_precision is not None]
            rows = sorted(known, key=lambda row: row.average_precision or 0.0)[:WORST]
            stdout.print(f"the {len(rows)} classes with the lowest average precision, of {len(self.classes)}:")
        table = Table("class")
        table.add_figures("images", "AP", "recall", "precision", "F1")
        for row in rows:
            figures = (row.average_precision, row.recall, row.precision, row.f1)
            shown = (f"{value:.1f} %" if value is not None else "-" for value in figures)
            table.add_row(row.label, f"{row.images:,}", *shown)
        stdout.print(table)


def measure_on(
    network: nn.Module,
    record: MultilabelRecord,
    source: LabelsSource,
    world: World | None = None,
    *,
    batch_size: int,
    workers: int = 0,
    threshold: float | None = None,
) -> LabelsScore:
    """Evaluate a network on the images of a source, whose classes may be some of the network's, in another order.

    Args:
        network: of the record; gives logits, (N, classes).
        threshold: default: the record's.

    Raises:
        InputError: a class that the network does not know, or an image that cannot be read.
        NotFiniteError: (an InputError) outputs that are not finite.
    """
    world, outputs = world or World(), match_classes(record, source)
    loader = make_eval_loader(
        source,
        Preprocess.from_dict(record.preprocess),
        batch_size=batch_size,
        workers=workers,
        rank=world.rank,
        world_size=world.size,
        device=world.device,
    )
    places = range(len(record.labels)) if outputs is None else outputs
    try:
        return measure(
            network,
            loader,
            world,
            tags=source.tags,
            class_names=[record.class_names[place] for place in places],
            labels=[record.labels[place] for place in places],
            outputs=outputs,
            threshold=record.threshold if threshold is None else threshold,
        )
    finally:
        loader.close()


def measure(
    model: nn.Module,
    loader: EvalLoader,
    world: World,
    *,
    tags: np.ndarray,
    class_names: Sequence[str],
    labels: Sequence[str] | None = None,
    outputs: Sequence[int] | None = None,
    threshold: float = 0.5,
    description: str = "evaluating",
    stop: Callable[[], bool] | None = None,
) -> LabelsScore:
    """Evaluate a network on a loader's images; the images of several processes count together.

    Args:
        model: gives logits, (N, classes).
        tags: (images, classes) bool, of the loader's source.
        class_names: of the columns of ``tags``.
        labels: their readable names.
        outputs: the network's output for each column; ``None``: the same order.
        threshold: probability from which on an image counts as of a class.
        stop: asked after each batch.

    Raises:
        InputError: an image that cannot be read.
        NotFiniteError: (an InputError) outputs that are not finite.
        EvaluationStopped: ``stop`` returned true in any process.
    """
    was_training = model.training
    model.eval()
    parts: list[tuple[np.ndarray, np.ndarray]] = []
    stopped = False
    start = time.perf_counter()
    with torch.inference_mode():
        for batch in Tracker(loader, len(loader), description):
            logits = model(batch.images).float()
            logits = logits if outputs is None else logits[:, list(outputs)]
            parts.append((batch.indices.numpy(), logits.cpu().numpy()))
            if stopped := stop is not None and stop():
                break
    model.train(was_training)
    if world.sum([float(stopped)])[0]:
        raise EvaluationStopped
    gathered = [part for process in world.gather(parts) for part in process]
    indices, found = (np.concatenate(column) for column in zip(*gathered, strict=True))
    assert len(found) == len(loader.source)
    if bad := int((~np.isfinite(found).all(axis=1)).sum()):
        raise NotFiniteError(f"the network gives outputs that are not finite for {bad} of {len(found)} images")
    ordered = np.empty_like(found)
    ordered[indices] = found
    return score(ordered, tags, class_names, labels, threshold, time.perf_counter() - start)


def score(
    logits: np.ndarray,
    tags: np.ndarray,
    class_names: Sequence[str],
    labels: Sequence[str] | None = None,
    threshold: float = 0.5,
    seconds: float = 1.0,
) -> LabelsScore:
    """Compute the figures from the logits and the classes of all images, (N, K) each.

    At least one image has a class.
    """
    from sklearn.metrics import average_precision_score  # loads scipy

    loss = F.binary_cross_entropy_with_logits(torch.from_numpy(logits).double(), torch.from_numpy(tags).double())
    chosen = torch.from_numpy(logits).sigmoid().numpy() >= threshold
    images, found, right = (each.sum(axis=0) for each in (tags, chosen, tags & chosen))
    precisions: list[float | None] = [
        100 * float(average_precision_score(tags[:, place], logits[:, place])) if images[place] else None
        for place in range(len(class_names))
    ]
    rows = tuple(
        LabelFigures(
            class_name=name,
            label=(labels or class_names)[place],
            images=int(images[place]),
            found=int(found[place]),
            right=int(right[place]),
            average_precision=precisions[place],
            recall=_percent(right[place], images[place]),
            precision=_percent(right[place], found[place]),
            f1=_percent(2 * right[place], images[place] + found[place]),
        )
        for place, name in enumerate(class_names)
    )
    return LabelsScore(
        images=len(tags),
        loss=float(loss),
        seconds=seconds,
        threshold=threshold,
        map_percent=float(np.mean([row.average_precision for row in rows if row.average_precision is not None])),
        f1_percent=100 * float(2 * right.sum() / (images.sum() + found.sum())),
        mean_f1_percent=float(np.mean([row.f1 for row in rows if row.images and row.f1 is not None])),
        exact_percent=100 * float((tags == chosen).all(axis=1).mean()),
        classes=rows,
    )


def _percent(part: int, whole: int) -> float | None:
    return 100 * float(part / whole) if whole else None
