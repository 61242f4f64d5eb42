"""The objects of many images in a few arrays: COCO's training images have 860,000."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
import torch

from compactnets.data.listing import compose
from compactnets.detection.objects import Objects


@dataclass(frozen=True, eq=False)
class ObjectTable:
    """The M objects of N images, image after image, each in the order of its annotation.

    Boxes are float64, so that a file's values can be written back unchanged.

    Attributes:
        offsets: (N + 1,) int64; the objects of image ``i`` are the rows ``offsets[i]`` to ``offsets[i + 1]``.
        boxes: (M, 4) float64: left, top, right, bottom in the coordinates of :class:`Objects`.
        labels: (M,) int64, indices into the class names; -1 for an unknown class.
        difficult: (M,) bool.
        crowd: (M,) bool.
        areas: (M,) float64, square pixels.
        sizes: (N, 2) int64: width and height of each image as annotated, or 0.
        unknown: row -> annotated class name, for every row with label -1.
    """

    offsets: np.ndarray
    boxes: np.ndarray
    labels: np.ndarray
    difficult: np.ndarray
    crowd: np.ndarray
    areas: np.ndarray
    sizes: np.ndarray
    unknown: Mapping[int, str] = field(default_factory=dict)

    def __len__(self) -> int:
        """Return the number of images."""
        return len(self.sizes)

    @cached_property
    def normalised(self) -> bool:
        """Whether coordinates are shares of the image instead of pixels: every box lies within 0 to 1."""
        inside = (self.boxes >= 0) & (self.boxes <= 1 + 1e-6)
        return bool(len(self.boxes) and inside.all() and (box_sides(self.boxes) < 1).any())

    def rows(self, index: int) -> slice:
        """Return the rows of image ``index``."""
        return slice(int(self.offsets[index]), int(self.offsets[index + 1]))

    def objects(self, index: int) -> Objects:
        """Return the objects of image ``index``, as copies; numbers beyond float32 become infinite."""
        rows = self.rows(index)
        with np.errstate(over="ignore"):
            boxes, areas = self.boxes[rows].astype(np.float32), self.areas[rows].astype(np.float32)
        return Objects(
            torch.from_numpy(boxes),
            torch.from_numpy(self.labels[rows].copy()),
            torch.from_numpy(self.difficult[rows].copy()),
            torch.from_numpy(self.crowd[rows].copy()),
            torch.from_numpy(areas),
        )

    def pick(self, images: Sequence[int] | np.ndarray) -> ObjectTable:
        """Return the table of the images at these indices, in their order."""
        chosen = np.asarray(images, dtype=np.int64)
        counts = np.diff(self.offsets)[chosen]
        offsets = offsets_of(counts)
        rows = np.arange(offsets[-1]) + np.repeat(self.offsets[chosen] - offsets[:-1], counts)
        strange = rows.tolist() if self.unknown else ()
        return ObjectTable(
            offsets,
            self.boxes[rows],
            self.labels[rows],
            self.difficult[rows],
            self.crowd[rows],
            self.areas[rows],
            self.sizes[chosen],
            {new: self.unknown[row] for new, row in enumerate(strange) if row in self.unknown},
        )

    def without(self, rows: np.ndarray) -> ObjectTable:
        """Return the table of all images without the objects in these rows, ``(M,)`` bool."""
        images = np.repeat(np.arange(len(self)), np.diff(self.offsets))
        keep = np.flatnonzero(~rows)
        unknown = {new: self.unknown[old] for new, old in enumerate(keep.tolist()) if old in self.unknown}
        return ObjectTable(
            offsets_of(np.bincount(images[keep], minlength=len(self))),
            self.boxes[keep],
            self.labels[keep],
            self.difficult[keep],
            self.crowd[keep],
            self.areas[keep],
            self.sizes,
            unknown,
        )

    def content(self, index: int) -> bytes:
        """Return classes and boxes of image ``index``: equal if these are, in any order."""
        rows = self.rows(index)
        objects = np.column_stack([self.labels[rows], self.boxes[rows]])
        return objects[np.lexsort(objects.T)].tobytes()

    def arrays(self) -> Iterator[np.ndarray]:
        """Yield the arrays of the fingerprint, in a fixed byte order."""
        for name in ("offsets", "boxes", "labels", "difficult", "crowd", "areas"):
            array = getattr(self, name)
            yield np.ascontiguousarray(array, dtype=array.dtype.newbyteorder("<"))


def offsets_of(counts: Sequence[int] | np.ndarray) -> np.ndarray:
    """Return the start of each image's objects and finally the end: (N + 1,) int64."""
    return np.concatenate([[0], np.cumsum(np.asarray(counts, dtype=np.int64))]).astype(np.int64)


def box_areas(boxes: np.ndarray) -> np.ndarray:
    """Return the areas of (M, 4) boxes; 0 if the edges are in the wrong order."""
    sides = box_sides(boxes)
    with np.errstate(invalid="ignore", over="ignore"):
        areas: np.ndarray = np.where((sides < 0).any(axis=1), 0.0, sides.prod(axis=1))
    return areas


def box_sides(boxes: np.ndarray) -> np.ndarray:
    """Return width and height of (M, 4) boxes as (M, 2), without warnings about non-finite ones."""
    with np.errstate(invalid="ignore", over="ignore"):
        sides: np.ndarray = boxes[:, 2:] - boxes[:, :2]
    return sides


def label_names(names: Sequence[str], class_names: Sequence[str]) -> tuple[np.ndarray, dict[int, str]]:
    """Turn the class names of objects into labels.

    Returns:
        ``(M,)`` int64 with -1 for unknown names, and the name in each of these rows.
    """
    indices = {compose(name): index for index, name in enumerate(class_names)}
    labels = np.fromiter((indices.get(compose(name), -1) for name in names), dtype=np.int64, count=len(names))
    return labels, {row: names[row] for row in np.flatnonzero(labels < 0).tolist()}
