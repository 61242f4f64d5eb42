"""Accuracy of a network on a source of images."""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader

from compactnets.console import Tracker
from compactnets.data import ImageDataset, ImageSource, Preprocess
from compactnets.data.base import shorten
from compactnets.errors import InputError
from compactnets.training.checkpoint import CheckpointRecord


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

    def to_dict(self) -> dict[str, Any]:
        """Return all figures for JSON; ``top1_percent`` and ``top5_percent`` are derived."""
        return {**asdict(self), "top1_percent": self.top1, "top5_percent": self.top5}


def evaluate(
    model: nn.Module,
    source: ImageSource,
    preprocess: Preprocess,
    *,
    class_map: Sequence[int] | None = None,
    batch_size: int = 128,
    workers: int = 0,
    device: torch.device | str = "cpu",
    description: str = "evaluating",
) -> Evaluation:
    """Evaluate ``model`` on every image of ``source``.

    Args:
        class_map: for each label of the source, the output of the network that stands for it
            (:func:`match_classes`); ``None`` where they are the same.
        batch_size: images per step; the result does not depend on it.

    Raises:
        InputError: an image that cannot be read; none is replaced or left out.
    """
    was_training = model.training
    model.eval()
    loader: Any = DataLoader(ImageDataset(source, preprocess), batch_size=batch_size, num_workers=workers)
    batches: Iterable[tuple[Tensor, Tensor]] = Tracker(loader, len(loader), description)
    lookup = None if class_map is None else torch.tensor(class_map, device=device)
    top1 = top5 = 0
    loss = 0.0
    start = time.perf_counter()
    with torch.inference_mode():
        for images, labels in batches:
            logits = model(images.to(device)).float()
            targets = labels.to(device) if lookup is None else lookup[labels.to(device)]
            guesses = logits.topk(min(5, logits.shape[1]), dim=1).indices
            hits = guesses == targets[:, None]
            top1 += int(hits[:, 0].sum())
            top5 += int(hits.any(dim=1).sum())
            loss += float(F.cross_entropy(logits, targets, reduction="sum"))
    model.train(was_training)
    return Evaluation(len(source), top1, top5, loss / len(source), time.perf_counter() - start)


def match_classes(record: CheckpointRecord, source: ImageSource) -> list[int] | None:
    """Return, for each class of ``source``, the output of the checkpoint's network with the same name.

    Classes are matched by name (identifier or label), never by position alone; a source may hold some of them only.
    ``None`` where the order is the same.

    Raises:
        InputError: a class that the network does not know.
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
