"""A subset of a source, and its division into training images and images held out."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from PIL import Image

from compactnets.data.base import ImageSource, Split
from compactnets.data.order import epoch_order
from compactnets.errors import InputError


class PartOfSource(ImageSource):
    """The images ``indices`` of ``source``, in this order, with all its classes; ``split`` renames the split."""

    kind = "part"

    def __init__(self, source: ImageSource, indices: Sequence[int] | np.ndarray, split: Split | None = None) -> None:
        self._source, self._indices = source, np.asarray(indices, dtype=np.int64)
        super().__init__(source.spec, split or source.split, source.class_names, source.labels[self._indices])

    def image(self, index: int) -> Image.Image:
        return self._source.image(int(self._indices[index]))

    def encoded(self, index: int) -> bytes | None:
        return self._source.encoded(int(self._indices[index]))

    def prepare_for_shuffling(self) -> None:
        self._source.prepare_for_shuffling()

    def name(self, index: int) -> str:
        return self._source.name(int(self._indices[index]))


def hold_out(source: ImageSource, count: int) -> tuple[PartOfSource, PartOfSource]:
    """Divide a source: the images to train on, and ``count`` held out, each class in its share.

    The division is always the same for the same labels, and independent of a run's seed.

    Raises:
        InputError: too many.
    """
    classes = np.bincount(source.labels, minlength=len(source.class_names))
    if count > len(source) - np.count_nonzero(classes):
        raise InputError(
            f"hold_out = {count:,} leaves too few of the {len(source):,} training images of {source.spec}: expected at "
            f"least one of each class to train on"
        )
    exact = classes * count / len(source)
    quota = np.minimum(np.floor(exact).astype(np.int64), np.maximum(classes - 1, 0))
    while (missing := count - int(quota.sum())) > 0:  # the classes that lost most by rounding
        open_classes = np.flatnonzero(quota < classes - 1)
        lost = open_classes[np.argsort(quota[open_classes] - exact[open_classes], kind="stable")]
        quota[lost[:missing]] += 1
    order = epoch_order(len(source), 0, 0)
    labels = source.labels[order]
    held = np.zeros(len(source), dtype=bool)
    for label, number in enumerate(quota):
        held[order[labels == label][:number]] = True
    return PartOfSource(source, np.flatnonzero(~held)), PartOfSource(source, np.flatnonzero(held))
