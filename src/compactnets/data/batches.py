"""What every loader gives, and what the loaders of the training images share."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple, Protocol

import torch
from torch import Tensor

from compactnets.console import say
from compactnets.errors import InputError

OnError = Literal["raise", "skip"]


class Named(Protocol):
    """What loaders ask of a source of any kind."""

    spec: str

    def __len__(self) -> int: ...


class Batch(NamedTuple):
    """Images of one process for one step."""

    images: Tensor  # (B, C, S, S) float32, normalised, on the device; in channels_last where that was asked for
    labels: Tensor  # (B,) int64, on the device
    indices: Tensor  # (B,) int64, on the CPU: the images' places in the source


@dataclass(frozen=True, kw_only=True)
class LoaderSettings:
    """How the images of a source are dealt out; ``batch_size`` is that of all processes together."""

    batch_size: int
    seed: int
    rank: int
    world_size: int
    device: torch.device
    channels_last: bool
    on_error: OnError
    max_skipped: int

    @property
    def share(self) -> int:
        """Images that this process gets of each batch."""
        return self.batch_size // self.world_size


class TrainLoader(ABC):
    """Batches of training images, changed at random, in an order of their own in each epoch.

    What a batch holds follows from seed, epoch and step alone (:mod:`compactnets.data.order`): not from the number of
    worker processes, nor from what was loaded before. The shares of several processes are together the batch that one
    process would get.

    Attributes:
        steps: batches per epoch; the images that fill no batch are left out, others in each epoch.
        batch_size: images per batch, of all processes together.
        skipped: how often another image took the place of one that cannot be read.
        unreadable: those images: each once, however often an epoch came upon it.
    """

    def __init__(self, source: Named, settings: LoaderSettings) -> None:
        self.source, self.settings = source, settings
        self.batch_size = settings.batch_size
        self.steps = len(source) // settings.batch_size
        self.skipped = 0
        self.unreadable: set[int] = set()

    @abstractmethod
    def epoch(self, epoch: int, start: int = 0) -> Iterator[Any]:
        """Yield this process's share of the batches ``start`` to the last of ``epoch``.

        Raises:
            InputError: an image that cannot be read; with ``on_error="skip"``, more than ``max_skipped`` of them.
        """

    @abstractmethod
    def close(self) -> None:
        """End worker processes and release memory; the loader is of no use afterwards."""

    def _report(self, failures: Iterable[tuple[int, str]], *, quiet: bool = False) -> None:
        """Say which images cannot be read, each once, and stop where that is not, or no longer, accepted."""
        for index, message in failures:
            if self.settings.on_error == "raise":
                raise InputError(f"{message}; replace it, or go on without training images like it with on_error=skip")
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
    """Copy to the device without waiting for it."""
    if device.type == "cuda":
        tensor = tensor.pin_memory()
    return tensor.to(device, non_blocking=True)
