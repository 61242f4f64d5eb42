"""Detection metrics: average precision per class and its mean, as defined by Pascal VOC and COCO."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from statistics import fmean
from typing import Any, Literal, TypeVar, get_args

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torchvision.ops import box_iou

from compactnets.detection.coco import CocoScores, coco_scores, require_coco
from compactnets.detection.matching import match
from compactnets.detection.objects import Detections, Objects
from compactnets.detection.voc import area_under_precision, eleven_point_precision, precision_recall
from compactnets.errors import InputError, did_you_mean

Metric = Literal["voc07", "voc10", "coco"]
METRIC_TITLES = {
    "voc07": "VOC 2007 mAP (11 points)",
    "voc10": "VOC 2010 mAP (area)",
    "coco": "COCO AP (mean over IoU 0.50 to 0.95)",
}
METRIC_LABELS = {"voc07": "VOC07 AP", "voc10": "VOC10 AP", "coco": "COCO AP"}  # short names for the log
Boxes = TypeVar("Boxes", Detections, Objects)


@dataclass(frozen=True)
class ClassScores:
    """The scores of one class; average precisions in percent, ``None`` for a class without objects that count.

    Attributes:
        name: of the class.
        objects: number of objects that count.
        ignored: number of difficult objects and crowds, which do not count.
        detections: of any score.
        voc07: at eleven recalls.
        voc10: the area.
        coco: mean over ten IoU thresholds; ``None`` also if the metric is not COCO's.
        threshold: the score threshold with the highest F1; ``None`` if no detection is right.
        precision: share of right detections from that score on, in percent.
        recall: share of objects found by these, in percent.
        f1: harmonic mean of both, in percent.
    """

    name: str
    objects: int
    ignored: int
    detections: int
    voc07: float | None
    voc10: float | None
    coco: float | None
    threshold: float | None = None
    precision: float | None = None
    recall: float | None = None
    f1: float | None = None


@dataclass(frozen=True)
class Confusion:
    """Confusion of classes among the detections above each class's best threshold.

    Attributes:
        thresholds: score of each class from which its detections count: of the highest F1, 0.5 where there is none.
        matrix: (C + 1) rows of (C + 1) numbers. Row i, column j: objects of class i detected as class j. Last column:
            missed objects. Last row: detections without an object.
    """

    thresholds: tuple[float, ...]
    matrix: tuple[tuple[int, ...], ...]

    def mistaken(self, class_names: Sequence[str]) -> list[tuple[str, str, int]]:
        """Return the confused pairs (object, detected as, count), most frequent first."""
        pairs = [
            (class_names[i], class_names[j], self.matrix[i][j])
            for i in range(len(class_names))
            for j in range(len(class_names))
            if i != j and self.matrix[i][j]
        ]
        return sorted(pairs, key=lambda pair: -pair[2])


@dataclass(frozen=True)
class DetectionScores:
    """The result of an evaluation; average precisions in percent.

    Attributes:
        metric: the metric of the :attr:`headline`.
        iou_threshold: smallest IoU of a right detection in VOC's metrics.
        images: number of evaluated images.
        voc07: mean over the classes that have objects, or ``None``.
        voc10: likewise.
        coco: ``None`` if the metric is not COCO's.
        classes: one entry per class, in order.
        confusion: the confusion of classes.
    """

    metric: Metric
    iou_threshold: float
    images: int
    voc07: float | None
    voc10: float | None
    coco: CocoScores | None
    classes: tuple[ClassScores, ...]
    confusion: Confusion

    @property
    def headline(self) -> float | None:
        """The mean average precision of the metric, in percent; ``None`` if no class has objects."""
        if self.metric == "coco":
            return None if self.coco is None else self.coco.ap
        return self.voc07 if self.metric == "voc07" else self.voc10

    def to_dict(self) -> dict[str, Any]:
        """Return everything for JSON; ``headline`` is derived."""
        return {"headline": self.headline, "unit": "percent", **asdict(self)}


class DetectionEvaluator:
    """Collects the detections of each image, and computes the scores over all of them.

    Several processes share the images, each counted once::

        states = [None] * world_size
        torch.distributed.all_gather_object(states, evaluator.state())
        together = DetectionEvaluator(class_names)
        for state in states:
            together.add_state(state)
        scores = together.compute()

    Images are evaluated in the order of their indices, independent of the order of arrival: it only decides between
    equal scores.

    Args:
        class_names: those that labels index.
        metric: the headline. VOC's two are always computed; COCO's only if it is ``"coco"``.
        iou_threshold: smallest IoU of a right detection in VOC's metrics.

    Raises:
        InputError: an unknown metric, an invalid IoU threshold, or the packages for COCO's metrics are not installed.
    """

    def __init__(self, class_names: Sequence[str], *, metric: Metric = "voc07", iou_threshold: float = 0.5) -> None:
        if metric not in get_args(Metric):
            known = get_args(Metric)
            raise InputError(f"unknown metric {metric!r}, known: {', '.join(known)}{did_you_mean(metric, known)}")
        if not 0 < iou_threshold <= 1:
            raise InputError(f"iou_threshold must lie above 0 and at most at 1, found {iou_threshold}")
        if metric == "coco":
            require_coco()  # now, not after running the network
        self.class_names = tuple(class_names)
        self.metric = metric
        self.iou_threshold = iou_threshold
        self._images: dict[int, tuple[Detections, Objects]] = {}

    def __len__(self) -> int:
        return len(self._images)

    def __iter__(self) -> Iterator[tuple[int, Detections, Objects]]:
        """Iterate over index, detections and objects of the images, in the order of the indices."""
        return ((index, *self._images[index]) for index in sorted(self._images))

    def update(self, detections: Detections, objects: Objects, index: int | None = None) -> None:
        """Add one image.

        Args:
            detections: on any device.
            objects: of the same image, in the same coordinates.
            index: of the image in its source, from 0; by default the images are counted. Processes that share the
                images must give it.

        Raises:
            InputError: an image that was already added, labels outside the class names, or boxes or scores that are not
                finite, as after diverged training.
        """
        index = len(self) if index is None else index
        if index in self._images:
            raise InputError(f"image {index} is evaluated twice")
        for what, labels in (("detections", detections.labels), ("objects", objects.labels)):
            if len(labels) and not 0 <= int(labels.min()) <= int(labels.max()) < len(self.class_names):
                raise InputError(
                    f"image {index}: its {what} have labels from {int(labels.min())} to {int(labels.max())}, "
                    f"but there are {len(self.class_names)} class names"
                )
        finite = detections.boxes.isfinite().all(dim=1) & detections.scores.isfinite()
        if not finite.all():
            raise InputError(f"image {index}: {int((~finite).sum())} of {len(finite)} detections are not finite")
        self._images[index] = (_to_cpu(detections), _to_cpu(objects))

    def state(self) -> dict[str, Any]:
        """Return all images as plain tensors, for :meth:`add_state` of another evaluator; empty without images."""
        if not self._images:
            return {}
        indices, detections, objects = zip(*self, strict=True)
        return {"index": torch.tensor(indices), "detections": _join(detections), "objects": _join(objects)}

    def add_state(self, state: Mapping[str, Any]) -> None:
        """Add the images of another evaluator's :meth:`state`.

        Raises:
            InputError: as :meth:`update`.
        """
        if not state:
            return
        detections, objects = _split(Detections, state["detections"]), _split(Objects, state["objects"])
        for index, found, annotated in zip(state["index"].tolist(), detections, objects, strict=True):
            self.update(found, annotated, index)

    def compute(self) -> DetectionScores:
        """Compute the scores of all images.

        Raises:
            InputError: there are none.
        """
        if not self._images:
            raise InputError("no image was evaluated")
        images = [(detections, objects) for _, detections, objects in self]
        coco: CocoScores | None = None
        coco_of_class: list[float | None] = [None] * len(self.class_names)
        if self.metric == "coco":
            coco, coco_of_class = coco_scores(images, len(self.class_names))
        classes = self._class_scores(images, coco_of_class)
        return DetectionScores(
            metric=self.metric,
            iou_threshold=self.iou_threshold,
            images=len(images),
            voc07=_mean([scores.voc07 for scores in classes]),
            voc10=_mean([scores.voc10 for scores in classes]),
            coco=coco,
            classes=classes,
            confusion=_confusion(images, classes, self.iou_threshold),
        )

    def _class_scores(
        self, images: Sequence[tuple[Detections, Objects]], coco: Sequence[float | None]
    ) -> tuple[ClassScores, ...]:
        matches = [match(detections, objects, self.iou_threshold) for detections, objects in images]
        right = torch.cat([verdicts.right for verdicts in matches]).numpy()
        judged = right | torch.cat([verdicts.wrong for verdicts in matches]).numpy()
        labels = torch.cat([detections.labels for detections, _ in images]).numpy()
        scores = torch.cat([detections.scores for detections, _ in images]).numpy()
        object_labels = torch.cat([objects.labels for _, objects in images]).numpy()
        ignored = torch.cat([objects.difficult | objects.crowd for _, objects in images]).numpy()
        rows = []
        for label, name in enumerate(self.class_names):
            own, of_class = labels == label, object_labels == label
            voc07 = voc10 = None
            best: tuple[float | None, ...] = (None,) * 4
            if count := int((of_class & ~ignored).sum()):
                recall, precision = precision_recall(scores[own & judged], right[own & judged], count)
                voc07 = 100 * eleven_point_precision(recall, precision)
                voc10 = 100 * area_under_precision(recall, precision)
                best = _best_threshold(scores[own & judged], recall, precision)
            ignored_count = int((of_class & ignored).sum())
            rows.append(ClassScores(name, count, ignored_count, int(own.sum()), voc07, voc10, coco[label], *best))
        return tuple(rows)


def _best_threshold(
    scores: NDArray[np.floating], recall: NDArray[np.float64], precision: NDArray[np.float64]
) -> tuple[float | None, ...]:
    """Return the threshold with the highest F1 (the highest one on a tie), and precision, recall and F1 there, in
    percent.
    """
    ranked = np.sort(scores)[::-1]
    last = np.append(ranked[1:] != ranked[:-1], True)[: len(ranked)]  # equal scores are taken together
    f1 = np.where(last, 2 * precision * recall / np.maximum(precision + recall, 1e-12), 0.0)
    if not f1.any():
        return (None,) * 4
    at = int(f1.argmax())
    return float(ranked[at]), *(100 * float(values[at]) for values in (precision, recall, f1))


def _confusion(
    images: Sequence[tuple[Detections, Objects]], classes: Sequence[ClassScores], iou_threshold: float
) -> Confusion:
    """Count the confusion of classes. Right detections (:func:`match`) are on the diagonal. Each of the rest takes the
    object of another class that it overlaps most, with at least ``iou_threshold``, best pair first.
    """
    count = len(classes)
    thresholds = tuple(0.5 if row.threshold is None else row.threshold for row in classes)
    matrix = np.zeros((count + 1, count + 1), dtype=np.int64)
    limits = torch.tensor(thresholds, dtype=torch.float64)
    for detections, objects in images:
        keep = detections.scores.double() >= limits[detections.labels]
        shown = Detections(detections.boxes[keep], detections.labels[keep], detections.scores[keep])
        verdicts = match(shown, objects, iou_threshold)
        right = shown.labels[verdicts.right].numpy()
        np.add.at(matrix, (right, right), 1)
        found, missed = shown.labels[verdicts.wrong].numpy(), objects.labels[verdicts.missed].numpy()
        overlaps = box_iou(shown.boxes[verdicts.wrong].double(), objects.boxes[verdicts.missed].double()).numpy()
        overlaps[found[:, None] == missed] = 0
        while overlaps.size and overlaps.max() >= iou_threshold:
            i, j = np.unravel_index(overlaps.argmax(), overlaps.shape)
            matrix[missed[j], found[i]] += 1
            found, missed = np.delete(found, i), np.delete(missed, j)
            overlaps = np.delete(np.delete(overlaps, i, axis=0), j, axis=1)
        np.add.at(matrix, (missed, np.full(len(missed), count)), 1)
        np.add.at(matrix, (np.full(len(found), count), found), 1)
    return Confusion(thresholds, tuple(tuple(row) for row in matrix.tolist()))


def _mean(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return fmean(known) if known else None


def _to_cpu(item: Boxes) -> Boxes:
    return type(item)(*(getattr(item, field.name).detach().cpu() for field in fields(item)))


def _join(items: Sequence[Detections] | Sequence[Objects]) -> dict[str, Tensor]:
    joined = {field.name: torch.cat([getattr(item, field.name) for item in items]) for field in fields(items[0])}
    return {"count": torch.tensor([len(item) for item in items]), **joined}


def _split(kind: type[Boxes], joined: Mapping[str, Tensor]) -> list[Boxes]:
    columns = [joined[field.name].split(joined["count"].tolist()) for field in fields(kind)]
    return [kind(*row) for row in zip(*columns, strict=True)]
