"""A look at every image of a source before a run meets it: what cannot be read, and what is there twice."""

from __future__ import annotations

import hashlib
import os
import time
import warnings
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any, Literal

import numpy as np
from torch.utils.data import DataLoader, Dataset

from compactnets.console import Tracker
from compactnets.data.base import ImageSource, MissingSplitError, Split, shorten
from compactnets.data.images import to_channels
from compactnets.data.opening import open_source
from compactnets.data.report import Found, SourceReport, SplitSummary
from compactnets.errors import InputError

DIGEST = 16  # bytes of an image's hash; two different images among 10^8 share one with a chance of about 10^-23
FEW = 1_000  # images that are not worth worker processes
BATCH = 64  # images that a worker hands over at once
IMBALANCE = 10  # a note is made where the largest class is this many times the smallest


def check_source(
    spec: str,
    split: Literal["train", "val", "both"] = "both",
    *,
    workers: int | None = None,
    download: bool = False,
) -> SourceReport:
    """Decode every image of a source (:func:`compactnets.data.open_source`) and compare all with all.

    Memory: about 100 bytes for each image, and the images being decoded.

    Args:
        split: ``"both"`` checks those that are there, and each image of one against those of the other.
        workers: processes that decode; ``None``: one per core, or none for fewer than 1,000 images.

    Raises:
        InputError: the source cannot be opened, or has no such split.
    """
    sources: list[ImageSource] = []
    absent: list[MissingSplitError] = []
    wanted: tuple[Split, ...] = ("train", "val") if split == "both" else (split,)
    for name in wanted:
        try:
            sources.append(open_source(spec, name, download=download))
        except MissingSplitError as error:
            absent.append(error)
    if not sources:
        raise absent[0]
    report = check_images(sources, workers=workers)
    report.notes.extend(str(error) for error in absent)
    return report


def check_images(sources: Sequence[ImageSource], *, workers: int | None = None) -> SourceReport:
    """Check splits of one source that are open already; see :func:`check_source`."""
    start = time.perf_counter()
    report = SourceReport(sources[0].spec, sources[0].kind, {})
    digests = [_examine(source, report, workers) for source in sources]
    _compare(sources, digests, report)
    report.seconds = time.perf_counter() - start
    return report


class _Examined(Dataset[tuple[Any, ...]]):
    """Item -> (index, digest, size, mode, format), or (index, reason) of an image that cannot be decoded."""

    def __init__(self, source: ImageSource) -> None:
        self.source = source

    def __len__(self) -> int:
        return len(self.source)

    def __getitem__(self, index: int) -> tuple[Any, ...]:
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # of the decoders; what can be read is used
                image = self.source.image(index)
                pixels = to_channels(image, 3).tobytes()
        except InputError as error:
            return index, str(error)
        digest = hashlib.sha256(str(image.size).encode())  # twice as quick as blake2b where the processor helps
        digest.update(pixels)
        return index, digest.digest()[:DIGEST], image.size, image.mode, image.format


def _examine(source: ImageSource, report: SourceReport, workers: int | None) -> np.ndarray:
    """Add a split to the report; return the digests, ``(N, 2)`` uint64, zero where an image cannot be read."""
    if workers is None:
        cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
        workers = cores if len(source) >= FEW and cores > 1 else 0
    loader: Any = DataLoader(_Examined(source), batch_size=BATCH, num_workers=workers, collate_fn=list)
    items = Tracker((item for batch in loader for item in batch), len(source), f"checking {source.split}")
    digests = np.zeros((len(source), 2), dtype=np.uint64)
    sizes = np.zeros((len(source), 2), dtype=np.int32)
    modes: Counter[str] = Counter()
    formats: Counter[str] = Counter()
    bad = 0
    for index, *seen in items:
        if len(seen) == 1:
            bad += 1
            items.note(f"{bad:,} unreadable")
            report.unreadable.append(_found(source, index, seen[0]))
            continue
        digest, sizes[index], mode, image_format = seen
        digests[index] = np.frombuffer(digest, dtype=np.uint64)
        modes[mode] += 1
        formats.update([image_format] if image_format else [])
    counts = np.bincount(source.labels, minlength=len(source.class_names))
    least, most = int(counts.argmin()), int(counts.argmax())
    readable = sizes[sizes[:, 0] > 0]
    widths, heights = (_spread(readable[:, axis]) if len(readable) else None for axis in (0, 1))
    report.splits[source.split] = SplitSummary(
        images=len(source),
        unreadable=bad,
        classes=len(source.class_names),
        smallest_class=(source.class_names[least], int(counts[least])),
        largest_class=(source.class_names[most], int(counts[most])),
        widths=widths,
        heights=heights,
        modes=dict(modes.most_common()),
        formats=dict(formats.most_common()),
    )
    if empty := [source.class_names[index] for index in np.flatnonzero(counts == 0)]:
        report.notes.append(f"{source.split}: {len(empty):,} classes have no image: {shorten(empty)}")
    elif counts[most] >= IMBALANCE * counts[least]:
        report.notes.append(
            f"{source.split}: {source.class_names[most]} has {counts[most]:,} images, {source.class_names[least]} only "
            f"{counts[least]:,}"
        )
    return digests


def _spread(values: np.ndarray) -> tuple[int, int, int]:
    return int(values.min()), int(np.median(values)), int(values.max())


def _found(source: ImageSource, index: int, reason: str = "") -> Found:
    try:
        name = source.name(index)
    except InputError:  # where the name is stored with the image
        name = f"image {index}"
    return Found(source.split, index, name, source.class_names[source.labels[index]], reason)


def _compare(sources: Sequence[ImageSource], digests: Sequence[np.ndarray], report: SourceReport) -> None:
    """Add to the report which images are the same."""
    copies: Counter[str] = Counter()
    for group in _groups(np.concatenate(digests)):
        places = [_locate(sources, int(position)) for position in group]
        classes = {source.class_names[source.labels[index]] for source, index in places}
        splits = {source.split for source, _ in places}
        if len(classes) == 1 and len(splits) == 1:
            copies.update({places[0][0].split: len(places) - 1})
            continue
        found = [_found(source, index) for source, index in places]
        if len(classes) > 1:
            report.conflicts.append(found)
        if len(splits) > 1:
            report.leaks.append(found)
    for split, number in copies.items():
        report.notes.append(f"{split}: {number:,} images are copies of another of the same class")


def _groups(digests: np.ndarray) -> Iterator[np.ndarray]:
    """Yield the positions, ascending, of every digest that is there more than once; zero stands for none."""
    order = np.lexsort((digests[:, 1], digests[:, 0]))  # stable
    ordered = digests[order]
    first = np.r_[True, (ordered[1:] != ordered[:-1]).any(axis=1)][: len(ordered)]
    starts = np.flatnonzero(first)
    lengths = np.diff(np.r_[starts, len(ordered)])
    repeated = np.flatnonzero((lengths > 1) & ordered[starts].any(axis=1))
    groups = [order[starts[run] : starts[run] + lengths[run]] for run in repeated]
    yield from sorted(groups, key=lambda group: int(group[0]))


def _locate(sources: Sequence[ImageSource], position: int) -> tuple[ImageSource, int]:
    for source in sources:
        if position < len(source):
            return source, position
        position -= len(source)
    raise IndexError(position)
