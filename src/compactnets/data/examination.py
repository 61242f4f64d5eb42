"""Decode every image of a source once: find unreadable ones and digest the pixels of the rest."""

from __future__ import annotations

import hashlib
import os
import warnings
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol, TypeVar

import numpy as np
from PIL import Image
from torch.utils.data import DataLoader, Dataset

from compactnets.console import Tracker
from compactnets.data.handover import lost_workers, starting_workers
from compactnets.data.images import to_channels
from compactnets.errors import InputError

DIGEST = 16  # bytes of an image's hash; two different images among 10^8 share one with a chance of about 10^-23
FEW = 1_000  # below this, worker processes do not pay off
BATCH = 64  # images per message from a worker


class Images(Protocol):
    """One split of images, with labels or with boxes."""

    @property
    def split(self) -> str: ...

    def __len__(self) -> int: ...

    def image(self, index: int) -> Image.Image: ...

    def name(self, index: int) -> str: ...


Source = TypeVar("Source", bound=Images)
Item = TypeVar("Item")


@dataclass
class Examination:
    """The findings from decoding N images.

    Attributes:
        digests: ``(N, 2)`` uint64, equal if all pixels are equal as RGB; zero for an unreadable image.
        sizes: ``(N, 2)`` int32, width and height; zero for an unreadable image.
        unreadable: index -> why the image cannot be read.
        modes: Pillow modes, with the number of images of each.
        formats: encodings, with the number of images of each.
    """

    digests: np.ndarray
    sizes: np.ndarray
    unreadable: dict[int, str] = field(default_factory=dict)
    modes: Counter[str] = field(default_factory=Counter)
    formats: Counter[str] = field(default_factory=Counter)

    def spread(self, axis: int) -> tuple[int, int, int] | None:
        """Return the smallest, median and largest width (axis 0) or height (1); ``None`` if nothing is readable."""
        readable = self.sizes[self.sizes[:, 0] > 0][:, axis]
        return (int(readable.min()), int(np.median(readable)), int(readable.max())) if len(readable) else None


def examine(
    source: Images, workers: int | None = None, use: Callable[[Image.Image], object] | None = None
) -> Examination:
    """Decode every image of a split.

    Args:
        source: the split.
        use: also called with each image; it may reject one. Must be picklable.
        workers: processes that decode; ``None``: one per core, or none for fewer than 1,000 images.
    """
    if workers is None:
        cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
        workers = cores if len(source) >= FEW and cores > 1 else 0
    loader: Any = DataLoader(_Examined(source, use), batch_size=BATCH, num_workers=workers, collate_fn=list)
    with starting_workers(workers):
        batches = iter(loader)
    items = Tracker((item for batch in batches for item in batch), len(source), f"checking {source.split}")
    seen = Examination(np.zeros((len(source), 2), dtype=np.uint64), np.zeros((len(source), 2), dtype=np.int32))
    for index, *found in _watched(items):
        if len(found) == 1:
            seen.unreadable[index] = found[0]
            items.note(f"{len(seen.unreadable):,} unreadable")
            continue
        digest, seen.sizes[index], mode, image_format = found
        seen.digests[index] = np.frombuffer(digest, dtype=np.uint64)
        seen.modes[mode] += 1
        seen.formats.update([image_format] if image_format else [])
    return seen


def _watched(items: Iterable[Item]) -> Iterator[Item]:
    with lost_workers():
        yield from items


class _Examined(Dataset[tuple[Any, ...]]):
    """Item -> (index, digest, size, mode, format), or (index, reason) of an image that cannot be decoded."""

    def __init__(self, source: Images, use: Callable[[Image.Image], object] | None) -> None:
        self.source, self.use = source, use

    def __len__(self) -> int:
        return len(self.source)

    def __getitem__(self, index: int) -> tuple[Any, ...]:
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # decoder warnings: readable images are used
                image = self.source.image(index)
                try:
                    pixels = to_channels(image, 3).tobytes()
                    if self.use is not None:
                        self.use(image)
                except InputError as error:
                    raise InputError(f"{self.source.name(index)}: {error}") from None
        except InputError as error:
            return index, str(error)
        digest = hashlib.sha256(str(image.size).encode())  # twice as fast as blake2b with CPU support
        digest.update(pixels)
        return index, digest.digest()[:DIGEST], image.size, image.mode, image.format


def same_images(digests: np.ndarray) -> Iterator[np.ndarray]:
    """Yield the ascending positions of every repeated digest; zero means no digest."""
    order = np.lexsort((digests[:, 1], digests[:, 0]))  # stable
    ordered = digests[order]
    first = np.r_[True, (ordered[1:] != ordered[:-1]).any(axis=1)][: len(ordered)]
    starts = np.flatnonzero(first)
    lengths = np.diff(np.r_[starts, len(ordered)])
    repeated = np.flatnonzero((lengths > 1) & ordered[starts].any(axis=1))
    groups = [order[starts[run] : starts[run] + lengths[run]] for run in repeated]
    yield from sorted(groups, key=lambda group: int(group[0]))


def locate(sources: Sequence[Source], position: int) -> tuple[Source, int]:
    """Return source and index for a position in the concatenated sources."""
    for source in sources:
        if position < len(source):
            return source, position
        position -= len(source)
    raise IndexError(position)
