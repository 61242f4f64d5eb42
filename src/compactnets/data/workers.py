"""Images that are decoded as they are needed, by worker processes or in this one."""

from __future__ import annotations

import signal
from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler

from compactnets.data.base import ImageSource
from compactnets.data.batches import Batch, LoaderSettings, TrainLoader
from compactnets.data.memory import SmallImages, arrange
from compactnets.data.order import Draws, epoch_order, local_share, mix_seed
from compactnets.data.transform import TrainTransform
from compactnets.errors import InputError


class Wanted(NamedTuple):
    """A batch to load: images of an epoch, and the first one's place in its order."""

    epoch: int
    place: int
    indices: list[int]


class Loaded(NamedTuple):
    """What became of it."""

    pixels: Tensor  # (B, C, S, S) uint8, in the layout that was asked for
    indices: Tensor  # (B,) int64, of the images that were loaded
    replaced: int  # how many are not those that were wanted
    failures: list[tuple[int, str]]  # images that could not be read, and why; the batch is incomplete if it may not be


class PixelBatches(Dataset[Loaded]):
    """Item ``Wanted`` -> ``Loaded``; an error is returned, because raising it would print the worker's traceback.

    Args:
        fast: decode JPEG files no further than the crop needs.
    """

    def __init__(self, source: ImageSource, transform: TrainTransform, settings: LoaderSettings, *, fast: bool) -> None:
        self.source, self.transform, self.seed, self.fast = source, transform, settings.seed, fast
        self.layout = torch.channels_last if settings.channels_last else torch.contiguous_format
        # unreadable images to pass over in a batch
        self.max_failures = settings.max_skipped if settings.on_error == "skip" else 0

    def __getitem__(self, wanted: Wanted) -> Loaded:
        preprocess = self.transform.preprocess
        shape = (len(wanted.indices), preprocess.channels, preprocess.size, preprocess.size)
        pixels = torch.empty(shape, dtype=torch.uint8, memory_format=self.layout)
        indices: list[int] = []
        failures: dict[int, str] = {}
        for offset, index in enumerate(wanted.indices):
            for candidate in self._candidates(wanted.epoch, wanted.place + offset, index):
                if candidate in failures:
                    continue
                try:
                    pixels[offset] = self._load(wanted.epoch, candidate).permute(2, 0, 1)
                except InputError as error:
                    failures[candidate] = str(error)
                    if len(failures) > self.max_failures:
                        return Loaded(torch.empty(0), torch.empty(0), 0, list(failures.items()))
                else:
                    indices.append(candidate)
                    break
            else:
                return Loaded(torch.empty(0), torch.empty(0), 0, list(failures.items()))
        replaced = sum(found != index for found, index in zip(indices, wanted.indices, strict=True))
        return Loaded(pixels, torch.tensor(indices), replaced, list(failures.items()))

    def _candidates(self, epoch: int, place: int, index: int) -> Iterator[int]:
        """Yield the image, then those after it in the epoch's order."""
        yield index
        order = epoch_order(len(self.source), self.seed, epoch)
        for following in range(place + 1, place + len(order)):
            yield int(order[following % len(order)])

    def _load(self, epoch: int, index: int) -> Tensor:
        draws = Draws.of(self.seed, epoch, index)
        if self.fast and (data := self.source.encoded(index)) is not None:
            pixels = self.transform.decode(data, draws)
            if pixels is not None:
                return pixels
        image = self.source.image(index)
        try:
            return self.transform.pixels(image, draws)
        except InputError as error:
            raise InputError(f"{self.source.name(index)}: {error}") from None


class _Plan(Sampler[Wanted]):
    """The batches to load next; set before each pass."""

    def __init__(self) -> None:
        self.batches: Iterable[Wanted] = ()

    def __iter__(self) -> Iterator[Wanted]:
        return iter(self.batches)


class _Pool:
    """Torch's worker processes over :class:`PixelBatches`, kept from one pass to the next."""

    def __init__(self, dataset: PixelBatches, settings: LoaderSettings, workers: int) -> None:
        self._plan = _Plan()
        self._loader: DataLoader[Any] | None = DataLoader(
            dataset,
            batch_size=None,  # an item is a batch
            sampler=self._plan,
            num_workers=workers,
            collate_fn=_as_it_is,
            pin_memory=settings.device.type == "cuda",
            persistent_workers=workers > 0,
            worker_init_fn=_start_worker,
            # of its own, because the workers' seeds would be drawn from the caller's
            generator=torch.Generator().manual_seed(mix_seed(settings.seed, settings.rank)),
        )

    def load(self, batches: Iterable[Wanted]) -> Iterator[Loaded]:
        assert self._loader is not None, "the loader was closed"
        self._plan.batches = batches
        return iter(self._loader)

    def close(self) -> None:
        self._loader = None  # what ends the processes


def _as_it_is(loaded: Any) -> Any:
    return loaded


def _start_worker(number: int) -> None:
    """Leave Ctrl-C and a scheduler's SIGTERM, which reach the whole group of processes, to the training process.

    It finishes its step and saves; torch would take a worker that ends before for a failure. Workers end when it tells
    them to, or when it is gone. Torch has given each its own seed and one thread.
    """
    for signum in (signal.SIGINT, signal.SIGTERM):
        signal.signal(signum, signal.SIG_IGN)


class WorkerLoader(TrainLoader):
    """Batches of a source of any kind and any size of images."""

    def __init__(
        self, source: ImageSource, transform: TrainTransform, settings: LoaderSettings, workers: int, *, fast: bool
    ) -> None:
        super().__init__(source, transform, settings)
        self._pool = _Pool(PixelBatches(source, transform, settings, fast=fast), settings, workers)
        self._labels = torch.from_numpy(source.labels)

    def epoch(self, epoch: int, start: int = 0) -> Iterator[Batch]:
        settings = self.settings
        order = epoch_order(len(self.source), settings.seed, epoch)
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
            yield _finish(loaded, self.transform, settings, self._labels, epoch)

    def close(self) -> None:
        self._pool.close()


class EvalLoader:
    """Batches of the images of a source, in order; process ``rank`` has its part of the range, the last batch is short.

    Args:
        images: the source in memory, or ``None``.
    """

    def __init__(
        self,
        source: ImageSource,
        transform: TrainTransform,
        settings: LoaderSettings,
        workers: int,
        images: SmallImages | None,
        *,
        fast: bool,
    ) -> None:
        self.source, self.transform, self.settings, self.images = source, transform, settings, images
        first, last = (len(source) * rank // settings.world_size for rank in (settings.rank, settings.rank + 1))
        self._batches = [
            Wanted(0, start, list(range(start, min(start + settings.batch_size, last))))
            for start in range(first, last, settings.batch_size)
        ]
        self._labels = torch.from_numpy(source.labels)
        self._pool = None
        if images is None:
            self._pool = _Pool(PixelBatches(source, transform, settings, fast=fast), settings, workers)
        elif images.unreadable:
            raise InputError(next(iter(images.unreadable.values())))

    def __len__(self) -> int:
        """Batches of this process."""
        return len(self._batches)

    def __iter__(self) -> Iterator[Batch]:
        """Yield the batches.

        Raises:
            InputError: an image that cannot be read.
        """
        for loaded in self._from_memory() if self._pool is None else self._pool.load(self._batches):
            for _, message in loaded.failures:
                raise InputError(message)
            yield _finish(loaded, self.transform, self.settings, self._labels, epoch=0)

    def close(self) -> None:
        """End worker processes."""
        if self._pool is not None:
            self._pool.close()

    def _from_memory(self) -> Iterator[Loaded]:
        assert self.images is not None
        size = self.transform.preprocess.size
        height, width = self.images.pixels.shape[1:3]
        top, left = round((height - size) / 2), round((width - size) / 2)
        for wanted in self._batches:
            indices = torch.tensor(wanted.indices)
            pixels = self.images.pixels[wanted.indices[0] : wanted.indices[-1] + 1]
            cropped = pixels[:, top : top + size, left : left + size].contiguous()
            yield Loaded(arrange(cropped, self.settings.channels_last), indices, 0, [])


def _finish(loaded: Loaded, transform: TrainTransform, settings: LoaderSettings, labels: Tensor, epoch: int) -> Batch:
    """Copy a batch to the device, and do there what is done to a whole batch."""
    device = settings.device
    pixels = loaded.pixels.to(device, non_blocking=True)
    draws = Draws.of(settings.seed, epoch, np.asarray(loaded.indices))
    return Batch(transform.finish(pixels, draws), labels[loaded.indices].to(device, non_blocking=True), loaded.indices)
