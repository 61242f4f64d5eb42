"""Index of the images in WebDataset shards: every tar archive is read once, header by header, and the index cached.

The rules are those of the `webdataset <https://github.com/webdataset/webdataset>`_ library (``tariterators.py``): the
members of one sample share their path up to the first dot of the file name, suffixes are compared in lower case,
members that are not regular files or whose names begin with ``__`` are ignored. Only image, class and JSON members
are read; nothing is extracted to disk or unpickled.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import tarfile
import tempfile
import warnings
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import BinaryIO

import numpy as np

from compactnets.console import Tracker
from compactnets.data.base import shorten
from compactnets.data.listing import ENDINGS, SYSTEM_FOLDERS
from compactnets.errors import InputError

FIRST = ("jpg", "jpeg", "png", "webp", "bmp", "gif", "tif", "tiff", "ppm")  # the first one present is used
IMAGE_SUFFIXES = tuple(dict.fromkeys([*FIRST, *(ending[1:] for ending in ENDINGS)]))
LABEL_SUFFIXES = ("cls", "class", "json")  # likewise
JSON_FIELDS = ("label", "cls", "class", "class_id", "target")
KEY = re.compile(r"((?:.*/)?[^./][^./]*)\.([^/]*)", re.DOTALL)
META = re.compile(r"__[^/]*__(/|$)")
LABEL_BYTES = 1 << 20  # a label or JSON member beyond this size is not one
TAIL_BYTES = 1 << 16  # how far after the end marker to look for stray data
VERSION = 2  # of the cached index

Label = int | str
Member = tuple[str, int, int]  # name, offset, size
Entry = tuple[str, int, int, Label]


@dataclass(frozen=True)
class TarIndex:
    """Place and label of every image of some shards, in the order of the shards and of their members."""

    shards: np.ndarray  # (N,) int32, which archive
    offsets: np.ndarray  # (N,) int64, first byte of the image in it
    sizes: np.ndarray  # (N,) int64, bytes
    labels: np.ndarray  # (N,) int64, as stated in the shards, or indices into label_names
    label_names: np.ndarray  # (C,) str, sorted; empty if the shards state numbers
    names: np.ndarray  # uint8, the members' names in UTF-8, concatenated
    name_ends: np.ndarray  # (N,) int64
    left_out: np.ndarray  # (K,) str, shard and name of members that belong to no sample

    def name(self, index: int) -> str:
        """Return the name of the image's member."""
        start = int(self.name_ends[index - 1]) if index else 0
        return self.names[start : int(self.name_ends[index])].tobytes().decode(errors="surrogateescape")


def index_shards(shards: Sequence[Path], cache: Path) -> TarIndex:
    """Index the images of ``shards``, using the folder ``cache`` if it has an index of the unchanged files.

    Raises:
        InputError: a shard is not a complete tar archive, or a sample of it lacks image or label.
    """
    stamps = np.array([(status.st_size, status.st_mtime_ns) for status in map(os.stat, shards)], dtype=np.int64)
    key = json.dumps([VERSION, [str(shard.resolve()) for shard in shards]])
    remembered = cache / f"{hashlib.sha256(key.encode(errors='surrogateescape')).hexdigest()[:24]}.npz"
    if (index := _load(remembered, stamps)) is not None:
        return index
    entries = [_read_shard(shard) for shard in Tracker(shards, len(shards), "indexing the shards")]
    index = _join(shards, [found for found, _ in entries], [name for _, names in entries for name in names])
    _save(remembered, stamps, index)
    return index


def _join(shards: Sequence[Path], entries: list[list[Entry]], left_out: list[str]) -> TarIndex:
    flat = [entry for shard in entries for entry in shard]
    labels = [label for *_, label in flat]
    names = [name.encode(errors="surrogateescape") for name, *_ in flat]
    label_names = sorted({label for label in labels if isinstance(label, str)})
    if label_names:
        if first := next((entry for entry in flat if not isinstance(entry[3], str)), None):
            raise InputError(f"{shards[0].parent}: {first[0]} is labelled {first[3]!r}, others {label_names[0]!r}")
        positions = {name: position for position, name in enumerate(label_names)}
        labels = [positions[str(label)] for label in labels]
    return TarIndex(
        shards=np.repeat(np.arange(len(shards), dtype=np.int32), [len(shard) for shard in entries]),
        offsets=np.array([offset for _, offset, _, _ in flat], dtype=np.int64),
        sizes=np.array([size for _, _, size, _ in flat], dtype=np.int64),
        labels=np.array(labels, dtype=np.int64),
        label_names=np.array(label_names, dtype=np.str_),
        names=np.frombuffer(b"".join(names), dtype=np.uint8),
        name_ends=np.cumsum([len(name) for name in names], dtype=np.int64),
        left_out=np.array(left_out, dtype=np.str_),
    )


def _read_shard(shard: Path) -> tuple[list[Entry], list[str]]:
    """Return the samples of one archive, and the members that belong to none."""
    images: dict[str, dict[str, Member]] = defaultdict(dict)
    labels: dict[str, dict[str, Member]] = defaultdict(dict)
    others: list[tuple[str, str]] = []  # key and name
    try:
        with shard.open("rb") as file, tarfile.open(fileobj=file, mode="r:") as tar:
            for member in tar:
                tar.members.clear()  # type: ignore[attr-defined]  # it would keep every header of the archive
                match = KEY.fullmatch(member.name)
                if not member.isreg() or match is None or META.match(member.name):
                    continue
                if not SYSTEM_FOLDERS.isdisjoint(member.name.lower().split("/")):
                    continue
                key, suffix = match[1], match[2].lower()
                is_image = suffix.rpartition(".")[2] in IMAGE_SUFFIXES
                if not is_image and suffix not in LABEL_SUFFIXES:
                    others.append((key, member.name))
                    continue
                found = (images if is_image else labels)[key]
                if suffix in found:
                    raise InputError(f"{shard}: two members of the same sample are called {member.name}")
                if member.issparse():
                    raise InputError(f"{shard}: {member.name} is stored as a sparse file; expected a plain file")
                found[suffix] = (member.name, member.offset_data, member.size)
            _check_end(file, tar.offset)
            classes = {key: _read_label(shard, file, found) for key, found in labels.items()}
    except (tarfile.TarError, EOFError, OSError, ValueError, OverflowError) as error:
        if isinstance(error, InputError):
            raise
        raise InputError(_not_tar(shard, error)) from None
    entries = _pair(shard, images, {key: label for key, label in classes.items() if label is not None})
    return entries, [f"{shard.name}/{name}" for key, name in others if key not in images]


def _read_label(shard: Path, file: BinaryIO, found: dict[str, Member]) -> Label | None:
    """Return the label of a sample, or ``None`` for JSON without one."""
    suffix = next(suffix for suffix in LABEL_SUFFIXES if suffix in found)
    name, offset, size = found[suffix]
    file.seek(offset)
    text = file.read(size).decode(errors="replace").strip() if size <= LABEL_BYTES else f"{size:,} bytes"
    if suffix != "json":
        if re.fullmatch(r"\d{1,18}", text):
            return int(text)
        raise InputError(f"{shard}: {name} must hold a class index (0, 1, …), found {text[:30]!r}")
    try:
        content = json.loads(text)
    except (ValueError, RecursionError):
        raise InputError(f"{shard}: {name} is not JSON: {text[:30]!r}") from None
    stated = [content[field] for field in JSON_FIELDS if field in content] if isinstance(content, dict) else []
    if not stated:
        return None
    value = stated[0].strip() if isinstance(stated[0], str) else stated[0]
    if type(value) not in (int, str) or not re.fullmatch(r"\d{1,18}|\D.*", str(value)):
        raise InputError(
            f"{shard}: the label in {name} must be a class index or a class name, found {str(value)[:30]!r}"
        )
    return int(value) if re.fullmatch(r"\d+", str(value)) else str(value)


def _check_end(file: BinaryIO, offset: int) -> None:
    """Raise unless the archive has its end marker: tarfile treats broken headers and a truncated file as the end."""
    file.seek(offset)
    tail = file.read(TAIL_BYTES)
    if not tail.startswith(bytes(tarfile.BLOCKSIZE)):
        raise tarfile.ReadError(f"no header and no end marker at byte {offset:,}: cut off or damaged")
    if tail.strip(b"\0"):
        raise tarfile.ReadError(f"data after the end marker at byte {offset:,}: joined from several archives?")


def _pair(shard: Path, images: dict[str, dict[str, Member]], labels: dict[str, Label]) -> list[Entry]:
    """Return the image and label of every sample; raise if one is missing."""
    if bare := [key for key in images if key not in labels]:
        raise InputError(
            f"{shard}: {len(bare):,} of {len(images):,} images have no label, the first is {bare[0]}; expected beside "
            f"it .cls with a class index, or .json with one of {', '.join(JSON_FIELDS)}"
        )
    if lost := [key for key in labels if key not in images]:
        raise InputError(
            f"{shard}: {len(lost):,} labels have no image, the first is {lost[0]}; expected beside it one of "
            f"{', '.join(f'.{suffix}' for suffix in IMAGE_SUFFIXES)}"
        )
    entries = []
    for key, found in images.items():
        suffix = next((suffix for suffix in IMAGE_SUFFIXES if suffix in found), None)
        if suffix is None and len(found) > 1:
            raise InputError(f"{shard}: {key} has several images ({shorten(sorted(found))}); expected one {key}.jpg")
        entries.append((*found[suffix or next(iter(found))], labels[key]))
    return entries


def _not_tar(shard: Path, error: Exception) -> str:
    hint = ""
    if shard.stat().st_size == 0:
        hint = ": it is empty (0 bytes)"
    elif shard.open("rb").read(24).startswith(b"version https://git-lfs"):
        hint = ": it is a Git LFS pointer, the file itself was not fetched (git lfs pull)"
    elif shard.name.endswith(("gz", "bz2", "xz", "zst")):
        hint = ": images are read at random, which compression prevents; unpack it to .tar"
    return f"{shard} cannot be read as a tar archive{hint or ': ' + ' '.join(str(error).split())[:150]}"


def _load(path: Path, stamps: np.ndarray) -> TarIndex | None:
    """Return the cached index, or ``None`` if it is missing, damaged or outdated."""
    try:
        with np.load(path, allow_pickle=False) as stored:
            if not np.array_equal(stored["stamps"], stamps):
                return None
            index = TarIndex(**{field.name: stored[field.name] for field in fields(TarIndex)})
        inside = index.offsets + index.sizes <= stamps[index.shards, 0]
        counts = {len(getattr(index, name)) for name in ("shards", "offsets", "sizes", "labels", "name_ends")}
        return index if len(counts) == 1 and inside.all() else None
    except Exception:  # damage can make zipfile and numpy raise anything
        return None


def _save(path: Path, stamps: np.ndarray, index: TarIndex) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=path.parent) as folder:
            written = Path(folder) / path.name
            np.savez(written, stamps=stamps, **{field.name: getattr(index, field.name) for field in fields(TarIndex)})
            os.replace(written, path)
    except OSError as error:
        warnings.warn(
            f"the index of the shards could not be cached in {path.parent} ({error.strerror}): the next run will "
            f"read them again",
            stacklevel=2,
        )
