"""Run a network on any number of image files: worker processes decode, and the network gets batches."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Generic, TypeVar

import torch
from PIL import Image
from torch import Tensor, nn
from torch.utils.data import Dataset

from compactnets.data.batches import LoaderSettings, to_device
from compactnets.data.images import read_image
from compactnets.data.inputs import Picture, run_on
from compactnets.data.pool import Loaded, Pool
from compactnets.data.preprocess import Preprocess
from compactnets.data.video import is_video
from compactnets.errors import InputError
from compactnets.failures import one_line

Found = TypeVar("Found")
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


class BatchRunner(Generic[Found]):
    """Runs a network on files in batches; its worker processes are kept from one call to the next.

    Args:
        network: in evaluation mode; gives (N, classes).
        preprocess: of the images.
        device: where the network is.
        read: from outputs (N, classes) to the result of each image, or to the error of those that have none.
        every: use every n-th frame of a video. Videos are decoded in this process, one frame at a time.
        batch_size: images at once.
        workers: processes that decode; ``None``: one for each core, or none where there is one core. 0 decodes in this
            process.
    """

    def __init__(
        self,
        network: nn.Module,
        preprocess: Preprocess,
        device: torch.device,
        read: Callable[[Tensor], Sequence[Found | InputError]],
        *,
        every: int = 1,
        batch_size: int = BATCH_SIZE,
        workers: int | None = None,
    ) -> None:
        self.network, self.preprocess, self.device, self.read = network, preprocess, device, read
        self.every, self.batch_size = every, batch_size
        if workers is None:
            workers = cores if (cores := usable_cores()) > 1 else 0
        settings = LoaderSettings.in_order(batch_size, 0, 1, device)
        self._pool = Pool(PreparedFiles(preprocess), settings, workers)

    def __call__(self, images: Iterable[str | Picture]) -> Iterator[tuple[Picture, Found | None]]:
        """Yield each image and video frame with its result, in order; without one, its ``error`` says why.

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
                yield from run_on([unit], self.every, self.one)

    def one(self, image: Image.Image) -> Found:
        """Return the result for one image.

        Raises:
            InputError: it has none.
        """
        (found,) = self.read(self._outputs(self.preprocess.pixels(image)[None]))
        if isinstance(found, InputError):
            raise found
        return found

    def _batch(self, paths: list[str], loaded: Loaded) -> Iterator[tuple[Picture, Found | None]]:
        results: dict[int, Found | InputError] = {place: InputError(text) for place, text in loaded.failures}
        if loaded.items is not None:
            with one_line(f"a batch of {len(loaded.items)} images from {paths[0]} on"):
                found = self.read(self._outputs(loaded.items))
            results |= zip(loaded.indices.tolist(), found, strict=True)
        for place, path in enumerate(paths):
            result, picture = results[place], Picture(path)
            if isinstance(result, InputError):
                yield picture.failed(result), None
            else:
                yield picture, result

    def _outputs(self, pixels: Tensor) -> Tensor:
        """Run the network: (N, S, S, C) uint8 -> (N, classes) float32, on the CPU."""
        images = self.preprocess.normalize(to_device(pixels.permute(0, 3, 1, 2).contiguous(), self.device))
        with torch.inference_mode():
            outputs: Tensor = self.network(images).float().cpu()
        return outputs

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
