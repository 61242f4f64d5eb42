"""A digest of a data set's content: equal for a copy elsewhere, different for other images.

It covers the names and sizes of all files and their bytes: every byte up to 256 MB in total, otherwise 64 KiB at each
of 1,024 places spread evenly over all files. Timestamps and the folder's location do not count, so a copy or a
``touch`` changes nothing. Names count in the composed form of Unicode, because macOS writes the other one.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np

from compactnets.console import Tracker
from compactnets.data.listing import compose

WHOLE = 256 << 20  # up to this many bytes, all are read
PLACES, BLOCK = 1024, 64 << 10  # above that: places, and bytes at each
CHUNK = 1 << 20


def digest_files(names: Sequence[str], paths: Sequence[str | Path]) -> str:
    """Return a digest of files, in their order: 64 hexadecimal digits.

    An unreadable file is not an error here: whoever needs the image reports it.

    Args:
        names: of the files, relative to the data set.
        paths: where they are now.
    """
    digest = hashlib.sha256()
    sizes = np.zeros(len(paths), dtype=np.int64)
    for index, path in enumerate(Tracker(paths, len(paths), "reading file sizes")):
        sizes[index] = _size(path)
        digest.update(f"{sizes[index]} {compose(names[index])}\n".encode(errors="surrogateescape"))
    ends = np.cumsum(sizes.clip(0))
    total = int(ends[-1]) if len(ends) else 0
    if total <= WHOLE:
        for path, size in Tracker(list(zip(paths, sizes, strict=True)), len(paths), "comparing the files"):
            _add(digest, path, 0, int(size))
        return digest.hexdigest()
    for place in Tracker(np.linspace(0, total - 1, PLACES, dtype=np.int64), PLACES, "comparing the files"):
        index = int(np.searchsorted(ends, place, side="right"))
        start = int(ends[index] - sizes[index])
        # the last bytes of a file where it ends before the block
        offset = max(0, min(int(place) - start, int(sizes[index]) - BLOCK))
        _add(digest, paths[index], offset, BLOCK)
    return digest.hexdigest()


def digest_parts(parts: Iterable[bytes]) -> str:
    """Return a digest of pieces of data in their order: 64 hexadecimal digits."""
    digest = hashlib.sha256()
    for part in parts:
        digest.update(f"{len(part)}\n".encode())
        digest.update(part)
    return digest.hexdigest()


def spread(length: int, count: int = PLACES) -> list[int]:
    """Return up to ``count`` indices below ``length``, spread evenly."""
    return [int(index) for index in np.unique(np.linspace(0, length - 1, min(count, length), dtype=np.int64))]


def _size(path: str | Path) -> int:
    try:
        return os.stat(path).st_size
    except OSError:
        return -1


def _add(digest: hashlib._Hash, path: str | Path, offset: int, length: int) -> None:
    try:
        with Path(path).open("rb", buffering=0) as file:
            file.seek(offset)
            while length > 0 and (chunk := file.read(min(length, CHUNK))):
                digest.update(chunk)
                length -= len(chunk)
    except OSError:
        digest.update(b"cannot be read")
