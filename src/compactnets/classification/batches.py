"""Classify any number of image files: worker processes decode, and the network gets batches."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Iterable, Iterator

import torch
from torch import nn
from torch.utils.data import Dataset

from compactnets.classification.checkpoint import CheckpointRecord
from compactnets.classification.prediction import Guess, Prediction, guesses_of, not_finite, predict
from compactnets.data.batches import LoaderSettings, to_device
from compactnets.data.images import read_image
from compactnets.data.inputs import Picture
from compactnets.data.pool import Loaded, Pool
from compactnets.data.preprocess import Preprocess
from compactnets.data.video import is_video
from compactnets.errors import InputError
from compactnets.failures import one_line

BATCH_SIZE = 64


def usable_cores() -> int:
    """Return the number of cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


class PreparedFiles(Dataset[Loaded]):
    """Item: paths of image files -> their pixels, (B, S, S, C) uint8 of those that can be used, and the errors."""

    def __init__(self, preprocess: Preprocess) -> None:
        self.preprocess = preprocess

    def __getitem__(self, paths: list[str]) -> Loaded:
        pixels, places, failures = [], [], []
        for place, path in enumerate(paths):
            try:
                image = read_image(path)
                with one_line(path):
                    pixels.append(self.preprocess.pixels(image))
            except InputError as error:
                failures.append((place, str(error)))
            else:
                places.append(place)
        return Loaded(torch.stack(pixels) if pixels else None, torch.tensor(places), 0, failures)


class BatchClassifier:
    """Classifies files in batches; its worker processes are kept from one call to the next.

    Args:
        network: in evaluation mode.
        record: its classes and preprocessing.
        device: where the network is.
        top_k: guesses for each image.
        every: use every n-th frame of a video. Videos are decoded in this process, one frame at a time.
        batch_size: images at once.
        workers: processes that decode; ``None``: one for each core, or none where there is one core. 0 decodes in this
            process.
    """

    def __init__(
        self,
        network: nn.Module,
        record: CheckpointRecord,
        device: torch.device,
        *,
        top_k: int = 5,
        every: int = 1,
        batch_size: int = BATCH_SIZE,
        workers: int | None = None,
    ) -> None:
        self.network, self.record, self.device = network, record, device
        self.top_k, self.every, self.batch_size = top_k, every, batch_size
        self.preprocess = Preprocess.from_dict(record.preprocess)
        if workers is None:
            workers = cores if (cores := usable_cores()) > 1 else 0
        settings = LoaderSettings.in_order(batch_size, 0, 1, device)
        self._pool = Pool(PreparedFiles(self.preprocess), settings, workers)

    def __call__(self, images: Iterable[str | Picture]) -> Iterator[Prediction]:
        """Yield the prediction for each image and video frame, in order; of an unusable one, an ``error``.

        Raises:
            InputError: the network cannot run, or a worker process was lost.
        """
        waiting: deque[list[str] | str | Picture] = deque()  # what the workers were given, and no result came of yet

        def given() -> Iterator[list[str]]:
            for unit in _units(images, self.batch_size):
                waiting.append(unit)
                yield unit if isinstance(unit, list) else []  # keeps the order

        for loaded in self._pool.load(given()):
            unit = waiting.popleft()
            if isinstance(unit, list):
                yield from self._batch(unit, loaded)
            else:
                yield from predict(self.network, self.record, [unit], self.top_k, self.every)

    def _batch(self, paths: list[str], loaded: Loaded) -> Iterator[Prediction]:
        failures, found = dict(loaded.failures), iter(list[tuple[Guess, ...] | None]())
        if loaded.items is not None:
            pixels = to_device(loaded.items.permute(0, 3, 1, 2).contiguous(), self.device)
            with torch.inference_mode(), one_line(f"a batch of {len(pixels)} images from {paths[0]} on"):
                logits = self.network(self.preprocess.normalize(pixels)).float().cpu()
            found = iter(guesses_of(self.record, logits, self.top_k))
        for place, path in enumerate(paths):
            picture = Picture(path)
            if place in failures:
                picture = picture.failed(InputError(failures[place]))
            elif (guesses := next(found)) is not None:
                yield Prediction(guesses=guesses, **picture.facts)
                continue
            else:
                picture = picture.failed(not_finite(self.record))
            yield Prediction(**picture.facts)

    def close(self) -> None:
        """End the worker processes."""
        self._pool.close()


def _units(images: Iterable[str | Picture], size: int) -> Iterator[list[str] | str | Picture]:
    """Yield batches of image files, and between them each video and each picture that is in memory or unreadable."""
    batch: list[str] = []
    for image in images:
        if isinstance(image, str) and not is_video(image):
            batch.append(image)
            if len(batch) == size:
                yield batch
                batch = []
            continue
        if batch:
            yield batch
            batch = []
        yield image
    if batch:
        yield batch
