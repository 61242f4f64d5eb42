"""A subset of a source."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from PIL import Image

from compactnets.data.base import ImageSource


class PartOfSource(ImageSource):
    """The images ``indices`` of ``source``, in this order, with all its classes."""

    kind = "part"

    def __init__(self, source: ImageSource, indices: Sequence[int]) -> None:
        self._source, self._indices = source, np.asarray(indices, dtype=np.int64)
        super().__init__(source.spec, source.split, source.class_names, source.labels[self._indices])

    def image(self, index: int) -> Image.Image:
        return self._source.image(int(self._indices[index]))

    def encoded(self, index: int) -> bytes | None:
        return self._source.encoded(int(self._indices[index]))

    def name(self, index: int) -> str:
        return self._source.name(int(self._indices[index]))
