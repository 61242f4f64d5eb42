"""WebDataset: images and labels in tar archives."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from compactnets.data.archives import divide, listed_classes
from compactnets.data.base import VAL_NAMES, ImageSource, MissingSplitError, Split, check_labels, shorten
from compactnets.data.content import digest_files
from compactnets.data.images import decode_image
from compactnets.data.listing import compose
from compactnets.data.tar_index import index_shards
from compactnets.errors import InputError

MOST_CLASSES = 1_000_000  # if only indices are given


class WebDatasetSource(ImageSource):
    """Shards in WebDataset format, with random access.

    A sample is an encoded image and its class: ``KEY.jpg`` with ``KEY.cls`` (the index as text) or ``KEY.json`` (see
    :mod:`compactnets.data.tar_index`). An index of all images is built once and cached. Images are then read in any
    order, so they can be shuffled, resumed and counted exactly, unlike a stream of archives.

    Class names come from a list beside the shards (:func:`compactnets.data.archives.listed_classes`), otherwise from
    names in the ``.json`` members, otherwise they are the indices as text.

    Args:
        shards: the archives of all splits (:func:`compactnets.data.archives.divide` says which is of which).
        split: ``"train"`` or ``"val"``; shards without a split in their names are ``"val"``.
        spec: the source as the user named it.
        cache: folder for the cached index.

    Raises:
        InputError: no shards of this split, an incomplete archive, a sample without image or label, or
            a label outside the class names.
    """

    kind = "webdataset"

    def __init__(self, shards: Sequence[Path], split: Split, spec: str, cache: Path) -> None:
        by_split = divide(shards)
        names = ("train",) if split == "train" else (*VAL_NAMES, "")
        found = next((name for name in names if name in by_split), None)
        if found is None:
            hint = "; shards without train or val in their names are for evaluation only" if "" in by_split else ""
            raise MissingSplitError(
                f"{spec} has no {split} split: expected {' or '.join(f'{name}-*.tar' for name in names if name)}, "
                f"found {shorten([shard.name for shard in shards], 3)}{hint}"
            )
        self.shards = by_split[found]
        self.index = index_shards(self.shards, cache)
        if not len(self.index.labels):
            raise InputError(f"{spec}: {shorten([shard.name for shard in self.shards], 3)} hold no images")
        others = [name for name in (VAL_NAMES if split == "train" else ("train",)) if name in by_split]
        class_names = listed_classes(self.shards[0])
        if class_names is None:  # then the labels of both splits together define the classes
            class_names = self._stated_classes(spec, found, {other: by_split[other] for other in others[:1]}, cache)
        labels = self._number(spec, class_names)
        check_labels(labels, len(class_names), self._place, "class")
        super().__init__(spec, split, class_names, labels)
        self.left_out = self.index.left_out.tolist()

    def image(self, index: int) -> Image.Image:
        return decode_image(io.BytesIO(self.encoded(index)), self._place(index))

    def encoded(self, index: int) -> bytes:
        try:
            # opened for every image: threads and forked workers then share no file position, and there may be
            # more shards than the limit on open files
            with self.shards[self.index.shards[index]].open("rb", buffering=0) as file:
                file.seek(int(self.index.offsets[index]))
                return file.read(int(self.index.sizes[index]))
        except OSError as error:
            raise InputError(f"{self._place(index)} cannot be read: {error.strerror}") from None

    def content(self) -> str:
        return digest_files([shard.name for shard in self.shards], self.shards)

    def name(self, index: int) -> str:
        return f"{self.shards[self.index.shards[index]].name}/{self.index.name(index)}"

    def _place(self, index: int) -> str:
        return f"{self.shards[self.index.shards[index]]}/{self.index.name(index)}"

    def _stated_classes(self, spec: str, found: str, others: dict[str, list[Path]], cache: Path) -> tuple[str, ...]:
        indexes = {found: self.index}
        indexes |= {
            name: index for name, shards in others.items() if len((index := index_shards(shards, cache)).labels)
        }
        if len({bool(index.label_names.size) for index in indexes.values()}) > 1:
            raise InputError(f"{spec}: {' and '.join(indexes)} must both state class indices or both class names")
        stated = {compose(name) for index in indexes.values() for name in index.label_names.tolist()}
        highest = max(int(index.labels.max(initial=-1)) for index in indexes.values())
        if highest >= MOST_CLASSES:
            raise InputError(f"{spec}: expected class indices below {MOST_CLASSES:,}, found {highest}")
        return tuple(sorted(stated)) or tuple(str(number) for number in range(highest + 1))

    def _number(self, spec: str, class_names: tuple[str, ...]) -> np.ndarray:
        """Return the labels as indices into ``class_names``."""
        if not self.index.label_names.size:
            return self.index.labels
        positions = {compose(name): position for position, name in enumerate(class_names)}
        stated = [compose(name) for name in self.index.label_names.tolist()]
        if unknown := [name for name in stated if name not in positions]:
            raise InputError(f"{spec}: the list of classes beside the shards lacks {shorten(unknown)}")
        return np.array([positions[name] for name in stated], dtype=np.int64)[self.index.labels]
