"""How well a classifier knows each class: precision, recall, what it takes for what, and how sure it is.

The counts are of whole sets: several processes share the images, and the first one judges.
"""

from __future__ import annotations

import io
import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from compactnets.classification.checkpoint import CheckpointRecord
from compactnets.classification.evaluation import Evaluation, evaluate, match_classes
from compactnets.console import Table, stdout
from compactnets.data import ImageSource, Preprocess
from compactnets.errors import InputError
from compactnets.files import as_bytes, replace_bytes, replace_csv
from compactnets.training.distributed import World

BINS = 15  # of the calibration error, as in its source
ALL_CLASSES = 20  # up to so many, a table has all of them; the worst of more
WORST = 10
PAIRS = 5  # of classes taken for one another, in the text
COLUMNS = ("image", "class_name", "found", "probability", "class_probability", "right")  # of a file of predictions
SUFFIXES = (".csv", ".parquet")


class Guesses(NamedTuple):
    """The first guess of each of N images, in the order of the source."""

    targets: np.ndarray  # (N,) int64: the output of the image's class
    found: np.ndarray  # (N,) int64: the highest output
    probability: np.ndarray  # (N,) float64: of the first guess, from 0 to 1
    target_probability: np.ndarray  # (N,) float64: of the image's class

    @property
    def right(self) -> np.ndarray:
        """Which images were recognised: (N,) bool."""
        return np.asarray(self.targets == self.found)


@dataclass(frozen=True)
class ClassFigures:
    """A class; figures are in percent, ``None`` where they would divide by zero.

    Attributes:
        images: number of its images.
        found: number of images found as it.
        right: number of its images found as it.
        recall: ``right`` of ``images``: the accuracy on this class.
        precision: ``right`` of ``found``.
        f1: the harmonic mean of both.
    """

    class_name: str
    label: str
    images: int
    found: int
    right: int
    recall: float | None
    precision: float | None
    f1: float | None


@dataclass(frozen=True)
class Judgement(Evaluation):
    """An evaluation with figures for each class.

    Attributes:
        mean_recall: mean recall of the classes that have images, in percent: the accuracy if all had equally many.
        calibration_error: the mean distance, over images, of accuracy from the probability of the first guess, in
            percent: expected calibration error with 15 bins of equal width (Guo et al. 2017, arXiv:1706.04599, eq. 3).
        confidence: mean probability of the first guess, in percent.
        classes: in the network's order; of more than 20 those that have images or were found.
        confusions: class, what it was taken for, and how often; the most frequent first.
        tta: the test-time augmentation: ``"flip"`` if probabilities are the mean of an image's and its mirror image's.
    """

    mean_recall: float
    calibration_error: float
    confidence: float
    classes: tuple[ClassFigures, ...]
    confusions: tuple[tuple[str, str, int], ...]
    tta: str | None = None

    def show(self, title: str) -> None:
        """Print the figures, a table of the classes (of the worst, if there are many), and what is confused."""
        super().show(f"{title}, mean of each image and its mirror image" if self.tta else title)
        rows: Sequence[ClassFigures] = self.classes
        if len(rows) > ALL_CLASSES:
            known = [row for row in rows if row.recall is not None]
            rows = sorted(known, key=lambda row: row.recall or 0.0)[:WORST]
            stdout.print(f"the {len(rows)} classes with the lowest recall, of {len(self.classes)}:")
        table = Table("class")
        table.add_figures("images", "recall", "precision", "F1")
        for row in rows:
            shown = (f"{value:.1f} %" if value is not None else "-" for value in (row.recall, row.precision, row.f1))
            table.add_row(row.label, f"{row.images:,}", *shown)
        stdout.print(table)
        stdout.print(
            f"mean recall {self.mean_recall:.2f} %; first guesses are {self.confidence:.1f} % sure and "
            f"{self.top1:.1f} % right (calibration error {self.calibration_error:.1f} %)"
        )
        if self.confusions:
            labels = {row.class_name: row.label for row in self.classes}
            pairs = (f"{labels[one]} as {labels[other]} ({count:,})" for one, other, count in self.confusions[:PAIRS])
            stdout.print(f"most often mistaken: {', '.join(pairs)}")


class Mirrored(nn.Module):
    """A classifier that also looks at the mirror image: (N, C, H, W) -> (N, classes), logarithms of probabilities.

    The probability of a class is the mean of that of the image and that of its mirror image.
    """

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, images: Tensor) -> Tensor:
        both = [self.network(view).float().log_softmax(1) for view in (images, images.flip(3))]
        return torch.logaddexp(*both) - math.log(2)


def judge(
    network: nn.Module,
    record: CheckpointRecord,
    source: ImageSource,
    *,
    batch_size: int = 128,
    workers: int = 0,
    world: World | None = None,
    tta: Literal["flip"] | None = None,
) -> tuple[Judgement, Guesses]:
    """Evaluate a network on every image of ``source``, class by class; the arguments are those of ``evaluate``.

    Args:
        tta: test-time augmentation (:class:`Mirrored`), which takes twice the time.

    Returns:
        the figures and the guesses of all images; in every process alike.

    Raises:
        InputError: an image that cannot be read, a class unknown to the network, or outputs that are not finite.
    """
    world = world or World()
    parts: list[tuple[np.ndarray, ...]] = []

    def note(indices: Tensor, logits: Tensor, targets: Tensor) -> None:
        probabilities = logits.double().softmax(1)
        highest, found = probabilities.max(1)
        own = probabilities.gather(1, targets[:, None])[:, 0]
        parts.append(tuple(each.cpu().numpy() for each in (indices, targets, found, highest, own)))

    evaluation = evaluate(
        network if tta is None else Mirrored(network),
        source,
        Preprocess.from_dict(record.preprocess),
        class_map=match_classes(record, source),
        batch_size=batch_size,
        workers=workers,
        world=world,
        note=note,
    )
    gathered = [part for process in world.gather(parts) for part in process]
    indices, *columns = (np.concatenate(column) for column in zip(*gathered, strict=True))
    order = np.argsort(indices)
    guesses = Guesses(*(column[order] for column in columns))
    return replace(judgement(evaluation, guesses, record.class_names, record.labels), tta=tta), guesses


def judgement(
    evaluation: Evaluation, guesses: Guesses, class_names: Sequence[str], labels: Sequence[str] | None = None
) -> Judgement:
    """Compute the figures of each class from the guesses of all images."""
    from sklearn.metrics import precision_recall_fscore_support  # loads scipy

    count = len(class_names)
    precision, recall, f1, images = precision_recall_fscore_support(
        guesses.targets, guesses.found, labels=range(count), zero_division=np.nan
    )
    found = np.bincount(guesses.found, minlength=count)
    right = np.bincount(guesses.targets[guesses.right], minlength=count)
    f1 = np.where((images > 0) & (found > 0), f1, np.nan)
    rows = tuple(
        ClassFigures(
            class_name=class_names[index],
            label=(labels or class_names)[index],
            images=int(images[index]),
            found=int(found[index]),
            right=int(right[index]),
            recall=_percent(recall[index]),
            precision=_percent(precision[index]),
            f1=_percent(f1[index]),
        )
        for index in range(count)
        if images[index] or found[index] or count <= ALL_CLASSES
    )
    wrong = ~guesses.right
    pairs = Counter(zip(guesses.targets[wrong].tolist(), guesses.found[wrong].tolist(), strict=True))
    return Judgement(
        **vars(evaluation),
        mean_recall=100 * float(np.nanmean(recall)),
        calibration_error=100 * calibration_error(guesses.probability, guesses.right),
        confidence=100 * float(guesses.probability.mean()),
        classes=rows,
        confusions=tuple(
            (class_names[one], class_names[other], number)
            for (one, other), number in sorted(pairs.items(), key=lambda pair: (-pair[1], pair[0]))
        ),
    )


def calibration_error(probability: np.ndarray, right: np.ndarray) -> float:
    """Return the expected calibration error, from 0 to 1: a bin's share of images times its gap, over 15 bins.

    Args:
        probability: (N,) of the first guess; a bin includes its upper end, as in Guo et al. 2017.
        right: (N,) bool.
    """
    bins = np.clip(np.ceil(probability * BINS).astype(np.int64) - 1, 0, BINS - 1)
    gaps = np.bincount(bins, probability - right, BINS)
    return float(np.abs(gaps).sum() / len(probability))


def write_guesses(path: Path, source: ImageSource, guesses: Guesses, class_names: Sequence[str]) -> None:
    """Write a row per image as CSV or Parquet, by the file's suffix; see :data:`COLUMNS`.

    Raises:
        InputError: another suffix, or a file that cannot be written.
    """
    names = [source.name(index) for index in range(len(source))]
    columns: list[Sequence[Any]] = [
        names,
        [class_names[index] for index in guesses.targets],
        [class_names[index] for index in guesses.found],
        guesses.probability.tolist(),
        guesses.target_probability.tolist(),
        guesses.right.tolist(),
    ]
    if check_suffix(path) == ".csv":
        replace_csv(path, COLUMNS, zip(*columns, strict=True))
        return
    import pyarrow as pa
    from pyarrow import parquet

    columns[0] = [as_bytes(name).decode() for name in names]  # a name that is not UTF-8 is written as in CSV
    buffer = io.BytesIO()
    parquet.write_table(pa.table(dict(zip(COLUMNS, columns, strict=True))), buffer)
    replace_bytes(path, buffer.getbuffer())


def check_suffix(path: Path) -> str:
    """Return the suffix of a file of predictions, in small letters.

    Raises:
        InputError: neither .csv nor .parquet.
    """
    if (suffix := path.suffix.lower()) not in SUFFIXES:
        raise InputError(f"--predictions must end in .csv or .parquet, found {path}")
    return suffix


def _percent(share: float) -> float | None:
    return None if np.isnan(share) else 100 * float(share)
