"""The interface of a source of labelled images, and the dataset over it."""

from __future__ import annotations

import hashlib
import json
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import cached_property
from pathlib import Path
from typing import ClassVar, Literal

import numpy as np
from PIL import Image
from torch import Tensor
from torch.utils.data import Dataset

from compactnets.data.content import digest_parts, spread
from compactnets.data.listing import check_names, compose
from compactnets.data.preprocess import Preprocess
from compactnets.data.presets import choose_preprocess
from compactnets.errors import InputError

Split = Literal["train", "val"]
SPLITS: tuple[Split, ...] = ("train", "val")
VAL_NAMES = ("val", "valid", "validation", "test")  # the first one present is the split "val"
SAMPLE = 64  # images that default_preprocess looks at


class ImageSource(ABC):
    """One split of a set of labelled images; images are decoded on access.

    Attributes:
        kind: the layout (``"folder"``, ``"parquet"``, …).
        spec: what the user named the source by.
        split: ``"train"`` or ``"val"``.
        class_names: name of every class, in the order of the labels.
        labels: ``(len,)`` int64, indices into ``class_names``.
        left_out: paths of files among the images that are not read, without hidden and system files; folders end in
            ``/``.

    Raises:
        InputError: the name of a class is not UTF-8.
    """

    kind: ClassVar[str]

    def __init__(self, spec: str, split: Split, class_names: Sequence[str], labels: np.ndarray) -> None:
        self.spec = spec
        self.split = split
        self.class_names = check_names(spec, class_names)
        self.left_out: list[str] = []
        self.labels = labels.astype(np.int64, copy=False)

    def __len__(self) -> int:
        return len(self.labels)

    def __repr__(self) -> str:
        return (
            f"{type(self).__name__}({self.spec!r}, {self.split!r}): {len(self):,} images of "
            f"{len(self.class_names):,} classes"
        )

    @abstractmethod
    def image(self, index: int) -> Image.Image:
        """Decode image ``index`` (0 <= index < len): a PIL image of 8 bits per channel, of any mode and size.

        Raises:
            InputError: it cannot be read; the message names its path, or shard and row.
        """

    def encoded(self, index: int) -> bytes | None:
        """Return the file of image ``index``, undecoded, or ``None`` if there is none.

        Training decodes only the needed part of a JPEG file from it; :meth:`image` reports a missing file.
        """
        return None

    def prepare_for_shuffling(self) -> None:
        """Make random access fast if it is slow; a training loader calls this before it reads."""
        return

    @abstractmethod
    def name(self, index: int) -> str:
        """Return a name of image ``index`` for reports and errors: a path, or a shard and row."""

    def class_counts(self) -> np.ndarray:
        """Return the number of images of each class, ``(classes,)`` int64."""
        return np.bincount(self.labels, minlength=len(self.class_names))

    def remarks(self) -> list[str]:
        """Return what a data check should tell that may be intended."""
        return []

    def classes_of(self, index: int) -> str:
        """Return what image ``index`` is labelled with, for reports."""
        return self.class_names[self.labels[index]]

    @cached_property
    def default_preprocess(self) -> Preprocess:
        """Preprocessing that suits the images (see :func:`compactnets.data.presets.choose_preprocess`).

        Raises:
            InputError: an image of the sample cannot be read.
        """
        return choose_preprocess((self.image(index) for index in spread(len(self), SAMPLE)), self.class_names)

    @property
    def readable_preprocess(self) -> Preprocess:
        """``default_preprocess`` that replaces an unreadable image by the next readable one."""
        sample = readable(self, spread(len(self), SAMPLE))
        return choose_preprocess((self.image(index) for index in sample), self.class_names)

    def fingerprint(self) -> str:
        """Return a digest of layout, split, count, class names and labels in order; :meth:`content` covers the images.

        The location is not part of it, so the data may be moved.
        """
        record = [self.kind, self.split, len(self), self.class_names]
        digest = hashlib.sha256(json.dumps(record).encode())
        digest.update(self.labels.astype("<i8").tobytes())
        return digest.hexdigest()

    def content(self) -> str:
        """Return a digest of the images (:mod:`compactnets.data.content`): the same for a copy of the data elsewhere.

        By default, up to 1,024 evenly spread images: their files or, where there are none, their pixels.
        """
        return digest_parts(self._content(index) for index in spread(len(self)))

    def _content(self, index: int) -> bytes:
        try:
            data = self.encoded(index)
            return data if data is not None else self.image(index).tobytes()
        except InputError:  # whoever needs the image reports the error
            return b"cannot be read"


class ImageDataset(Dataset[tuple[Tensor, int]]):
    """The images of ``source`` after ``transform``: item -> ((C, H, W), label).

    ``transform`` (a :class:`Preprocess`, or a ``TrainTransform``) converts to grey or RGB.

    Raises:
        InputError: on access, an image that cannot be read or transformed; the message names it.
    """

    def __init__(self, source: ImageSource, transform: Callable[[Image.Image], Tensor]) -> None:
        self.source = source
        self.transform = transform

    def __len__(self) -> int:
        return len(self.source)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        image = self.source.image(index)
        try:
            tensor = self.transform(image)
        except InputError as error:
            raise InputError(f"{self.source.name(index)}: {error}") from None
        return tensor, int(self.source.labels[index])


def readable(
    source: ImageSource, wanted: Iterable[int], use: Callable[[Image.Image], object] = Image.Image.load
) -> Iterator[int]:
    """Yield each index in ``wanted``, or the next readable one if its image cannot be read.

    No index is yielded twice and no image is tried twice; fewer indices come if too few images are readable.

    Args:
        use: called with each image; it may also reject one.
    """
    tried: set[int] = set()
    for index in wanted:
        for following in range(index, index + len(source)):
            candidate = following % len(source)
            if candidate in tried:
                continue
            tried.add(candidate)
            try:
                use(source.image(candidate))
            except InputError:
                continue
            yield candidate
            break


class MissingSplitError(InputError):
    """The source is fine, but lacks the requested split."""


def check_labels(labels: np.ndarray, num_classes: int, place: Callable[[int], str], what: str = "label") -> None:
    """Raise :class:`InputError` unless all labels are indices below ``num_classes``.

    Args:
        labels: ``(N,)`` integers.
        place: names the image of an index in an error.
        what: names a label in an error.
    """
    if (wrong := np.flatnonzero((labels < 0) | (labels >= num_classes))).size:
        index = int(wrong[0])
        unlabelled = "; -1 marks a split published without labels" if labels[index] == -1 else ""
        raise InputError(
            f"{place(index)}: {what} {labels[index]} is outside the {num_classes} class names (0 to {num_classes - 1})"
            f"{unlabelled}"
        )


def check_same_classes(
    spec: str, first: str, first_names: Iterable[str], second: str, second_names: Iterable[str]
) -> None:
    """Raise :class:`InputError` unless two splits have the same classes in the same order."""
    first_names, second_names = tuple(map(compose, first_names)), tuple(map(compose, second_names))
    if first_names == second_names:
        return
    found = [
        f"only {split} has {shorten(sorted(set(names) - set(others)))}"
        for split, names, others in ((first, first_names, second_names), (second, second_names, first_names))
        if set(names) - set(others)
    ]
    raise InputError(
        f"{spec}: {first} and {second} must have the same classes, found that "
        f"{' and '.join(found) or 'their order differs'}"
    )


def shorten(names: Sequence[str], limit: int = 5) -> str:
    """Join names for an error message; names past ``limit`` are only counted."""
    rest = f" and {len(names) - limit:,} more" if len(names) > limit else ""
    return ", ".join(names[:limit]) + rest


def describe(folder: Path) -> str:
    """Describe what a folder holds: its sub-folders and files, without hidden ones."""
    entries = sorted(entry for entry in folder.iterdir() if not entry.name.startswith("."))
    folders = [f"{entry.name}/" for entry in entries if entry.is_dir()]
    files = [entry.name for entry in entries if not entry.is_dir()]
    return shorten([*folders[:4], *files[:4], *folders[4:], *files[4:]], limit=8) or "nothing"
