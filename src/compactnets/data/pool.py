"""Lazy batch loading over DataLoader workers."""

from __future__ import annotations

import signal
from abc import ABC, abstractmethod
from collections.abc import Collection, Iterable, Iterator, Sequence
from typing import Any, Generic, NamedTuple, TypeVar

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler

from compactnets.console import say
from compactnets.data.batches import LoaderSettings, Named, TrainLoader
from compactnets.data.handover import hand_over, lost_workers, receive, starting_workers
from compactnets.data.order import local_share, mix_seed
from compactnets.errors import InputError

Given = TypeVar("Given")


class Wanted(NamedTuple):
    """A batch to load: draws of an epoch (:meth:`LoaderSettings.order`), and the position of the first in its order."""

    epoch: int
    place: int
    indices: list[int]


class Loaded(NamedTuple):
    """The loaded batch, or the errors."""

    items: Any  # what the data set joined: (B, C, S, S) uint8 of a classifier; None where the batch is incomplete
    indices: Tensor  # (B,) int64, the draws that were loaded; empty if the batch is incomplete
    replaced: int  # how many images were replaced by others
    failures: list[tuple[int, str]]  # unreadable images with the error; the batch is incomplete if that is not accepted


class BatchesOf(Dataset[Loaded]):
    """Item ``Wanted`` -> ``Loaded``; errors are returned, because raising one would print the worker's traceback."""

    def __init__(self, source: Named, settings: LoaderSettings) -> None:
        self.source, self.seed, self._settings = source, settings.seed, settings
        # unreadable images to skip in a batch
        self.max_failures = settings.max_skipped if settings.on_error == "skip" else 0

    @abstractmethod
    def load(self, epoch: int, index: int) -> Any:
        """Load image ``index % len(source)`` of the source, and augment it with the random numbers of ``index``.

        Raises:
            InputError: it cannot be read.
        """

    @abstractmethod
    def join(self, items: Sequence[Any]) -> Any:
        """Join the results of :meth:`load` into a batch."""

    def __getitem__(self, wanted: Wanted) -> Loaded:
        items: list[Any] = []
        indices: list[int] = []
        failures: dict[int, str] = {}
        for offset, index in enumerate(wanted.indices):
            for candidate in self._candidates(wanted.epoch, wanted.place + offset, index):
                if candidate % len(self.source) in failures:
                    continue
                try:
                    items.append(self.load(wanted.epoch, candidate))
                except InputError as error:
                    failures[candidate % len(self.source)] = str(error)
                    if len(failures) > self.max_failures:
                        return Loaded(None, torch.empty(0), 0, list(failures.items()))
                else:
                    indices.append(candidate)
                    break
            else:
                return Loaded(None, torch.empty(0), 0, list(failures.items()))
        replaced = sum(found != index for found, index in zip(indices, wanted.indices, strict=True))
        return Loaded(self.join(items), torch.tensor(indices), replaced, list(failures.items()))

    def _candidates(self, epoch: int, place: int, index: int) -> Iterator[int]:
        """Yield the draw, then those after it in the epoch's order."""
        yield index
        order = self._settings.order(len(self.source), epoch)
        for following in range(place + 1, place + len(order)):
            yield int(order[following % len(order)])


class _Plan(Sampler[Any]):
    """The batches to load next; set before each pass."""

    def __init__(self) -> None:
        self.batches: Iterable[Any] = ()

    def __iter__(self) -> Iterator[Any]:
        return iter(self.batches)


class Pool:
    """Torch's worker processes over a data set of batches (:class:`BatchesOf`), kept from one pass to the next."""

    def __init__(self, dataset: Dataset[Loaded], settings: LoaderSettings, workers: int) -> None:
        self._plan = _Plan()
        self._workers, self._told = workers, False
        self._loader: DataLoader[Any] | None = DataLoader(
            dataset,
            batch_size=None,  # an item is a batch
            sampler=self._plan,
            num_workers=workers,
            collate_fn=hand_over,
            pin_memory=settings.device.type == "cuda",
            persistent_workers=workers > 0,
            worker_init_fn=_start_worker,
            # of its own, because the workers' seeds would be drawn from the caller's
            generator=torch.Generator().manual_seed(mix_seed(settings.seed, settings.rank)),
        )

    def load(self, batches: Iterable[Any]) -> Iterator[Loaded]:
        """Yield each loaded batch, in order; of the ``batches``, a few are taken ahead.

        Args:
            batches: items of the data set.

        Raises:
            InputError: worker processes could not be started, or one of them ended.
        """
        assert self._loader is not None, "the loader was closed"
        self._plan.batches = batches
        with starting_workers(self._workers):
            batches_of_workers = iter(self._loader)
        with lost_workers():
            for handed in batches_of_workers:
                loaded, sent = receive(handed)
                if sent and not self._told:
                    self._told = True
                    say(
                        "note: shared memory (/dev/shm) has no room for the batches of the worker processes; they come "
                        "through pipes, which is slower: give it more (docker run --shm-size=2g)"
                    )
                yield loaded

    def close(self) -> None:
        """End the processes."""
        self._loader = None


def _start_worker(number: int) -> None:
    """Ignore signals to the whole process group (Ctrl-C, SIGTERM, a closed terminal): the training process handles
    them.

    The training process finishes its step and saves; torch would treat a worker that ends earlier as a failure. Workers
    end when told to, or when the training process is gone. Torch gives each its own seed and one thread.
    """
    for name in ("SIGINT", "SIGTERM", "SIGHUP"):
        if hasattr(signal, name):
            signal.signal(getattr(signal, name), signal.SIG_IGN)


class PooledLoader(TrainLoader):
    """Batches of a data set through a :class:`Pool`."""

    def __init__(self, source: Named, settings: LoaderSettings, dataset: BatchesOf, workers: int) -> None:
        super().__init__(source, settings)
        self._pool = Pool(dataset, settings, workers)

    @abstractmethod
    def finish(self, loaded: Loaded, epoch: int) -> Any:
        """Copy a batch to the device and apply the batch-level changes there."""

    def epoch(self, epoch: int, start: int = 0) -> Iterator[Any]:
        settings = self.settings
        order = settings.order(len(self.source), epoch)
        batches = (
            Wanted(
                epoch,
                step * self.batch_size + settings.rank * settings.share,
                local_share(order, self.batch_size, step, settings.rank, settings.world_size).tolist(),
            )
            for step in range(start, self.steps)
        )
        for loaded in self._pool.load(batches):
            self._report(loaded.failures)
            if len(loaded.indices) < settings.share:
                raise InputError(f"{self.source.spec}: no training image can be read, {loaded.failures[-1][1]}")
            self.skipped += loaded.replaced
            yield self.finish(loaded, epoch)

    def close(self) -> None:
        self._pool.close()


class InOrderLoader(ABC, Generic[Given]):
    """Images to evaluate on: each once over all processes, in the order of the source; the last batch may be short.

    Args:
        settings: of :meth:`LoaderSettings.in_order`.
        dataset: loads the images; ``None`` where :meth:`loaded` has them from elsewhere.
        workers: processes that decode; 0 decodes in the main process.
        without: indices of batches to leave out, by their first image.
    """

    def __init__(
        self,
        source: Named,
        settings: LoaderSettings,
        dataset: BatchesOf | None,
        workers: int,
        without: Collection[int] = (),
    ) -> None:
        self.settings = settings
        length, size = len(source), settings.batch_size
        first, last = (length * rank // settings.world_size for rank in (settings.rank, settings.rank + 1))
        starts = [start for start in range(first, last, size) if start not in without]
        self._batches = [Wanted(0, start, list(range(start, min(start + size, last)))) for start in starts]
        self._pool = None if dataset is None else Pool(dataset, settings, workers)

    @abstractmethod
    def finish(self, loaded: Loaded) -> Given:
        """Copy a batch to the device and make of it what is evaluated."""

    def loaded(self) -> Iterator[Loaded]:
        """Yield the batches as they were loaded."""
        assert self._pool is not None
        return self._pool.load(self._batches)

    def __len__(self) -> int:
        """Number of batches of this process."""
        return len(self._batches)

    def __iter__(self) -> Iterator[Given]:
        """Yield the batches.

        Raises:
            InputError: an image that cannot be used.
        """
        for loaded in self.loaded():
            for _, message in loaded.failures:
                raise InputError(message)
            yield self.finish(loaded)

    def close(self) -> None:
        """End worker processes."""
        if self._pool is not None:
            self._pool.close()
