"""Batches and loader settings, and the base of the training loaders."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple, Protocol, Self

import numpy as np
import torch
from torch import Tensor

from compactnets.console import say
from compactnets.data.order import balanced_order, epoch_order
from compactnets.errors import InputError

OnError = Literal["raise", "skip"]


class Named(Protocol):
    """What loaders need from a source of any kind."""

    spec: str

    def __len__(self) -> int: ...


class Batch(NamedTuple):
    """One process's images for one step."""

    images: Tensor  # (B, C, S, S) float32, normalised, on the device; in channels_last if requested
    labels: Tensor  # (B,) int64, on the device
    indices: Tensor  # (B,) int64, on the CPU: the images' indices in the source


@dataclass(frozen=True, kw_only=True)
class LoaderSettings:
    """How a source's images are batched; ``batch_size`` covers all processes together.

    Attributes:
        balanced: the labels ``(N,)`` int64 of the images, if every class is drawn equally often; ``None``: every image
            once an epoch.
    """

    batch_size: int
    seed: int
    rank: int
    world_size: int
    device: torch.device
    channels_last: bool
    on_error: OnError
    max_skipped: int
    balanced: np.ndarray | None = None

    @classmethod
    def in_order(
        cls, batch_size: int, rank: int, world_size: int, device: torch.device | str, *, channels_last: bool = False
    ) -> Self:
        """Return those of images to evaluate on, of which none is replaced; ``batch_size`` is per process."""
        return cls(
            batch_size=batch_size,
            seed=0,
            rank=rank,
            world_size=world_size,
            device=torch.device(device),
            channels_last=channels_last,
            on_error="raise",
            max_skipped=0,
        )

    @property
    def share(self) -> int:
        """Images of each batch that this process gets."""
        return self.batch_size // self.world_size

    def order(self, images: int, epoch: int) -> np.ndarray:
        """Return the draws of an epoch in their order, int64: draw d shows image ``d % images``.

        Every number is there once, whichever images are drawn repeatedly
        (:func:`compactnets.data.order.balanced_order`).
        """
        if self.balanced is None:
            return epoch_order(images, self.seed, epoch)
        return balanced_order(self.balanced, self.seed, epoch, images // self.batch_size * self.batch_size)


class TrainLoader(ABC):
    """Batches of augmented training images, in a new order each epoch.

    A batch depends only on seed, epoch and step (:mod:`compactnets.data.order`), not on the number of worker processes
    or on earlier batches. The shares of several processes together equal the batch of a single process.

    Attributes:
        steps: batches per epoch; images that do not fill a batch are dropped, different ones each epoch.
        batch_size: images per batch, of all processes together.
        skipped: how often an unreadable image was replaced by another.
        unreadable: the unreadable images, each once.
    """

    def __init__(self, source: Named, settings: LoaderSettings) -> None:
        self.source, self.settings = source, settings
        self.batch_size = settings.batch_size
        self.steps = len(source) // settings.batch_size
        self.skipped = 0
        self.unreadable: set[int] = set()

    @abstractmethod
    def epoch(self, epoch: int, start: int = 0) -> Iterator[Any]:
        """Yield this process's share of each batch of ``epoch``, from batch ``start`` on.

        Raises:
            InputError: an image that cannot be read; with ``on_error="skip"``, more than ``max_skipped`` of them.
        """

    @abstractmethod
    def close(self) -> None:
        """End worker processes and release memory; the loader cannot be used afterwards."""

    def _report(self, failures: Iterable[tuple[int, str]], *, quiet: bool = False) -> None:
        """Report each unreadable image once, and raise if that is not, or no longer, accepted."""
        for index, message in failures:
            if self.settings.on_error == "raise":
                raise InputError(f"{message}; replace it, or skip unreadable training images with on_error=skip")
            if index in self.unreadable:
                continue
            self.unreadable.add(index)
            if len(self.unreadable) > self.settings.max_skipped:
                raise InputError(
                    f"{self.source.spec}: more than max_skipped = {self.settings.max_skipped} training images cannot "
                    f"be read, the last one is {message}"
                )
            if not quiet:
                say(f"skipped: {message}")


def to_device(tensor: Tensor, device: torch.device) -> Tensor:
    """Copy to the device asynchronously."""
    if device.type == "cuda":
        tensor = tensor.pin_memory()
    return tensor.to(device, non_blocking=True)
