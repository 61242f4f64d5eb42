"""Find objects that cannot be used for training or evaluation, and return those that can.

Images are upright. Boxes are assumed to be in the upright picture too, as most annotation tools show it, unless the
annotation states the size of the stored, rotated pixels: then they are turned with the picture.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal, get_args

import numpy as np
import torch
from torch import Tensor

from compactnets.data.orientation import TURNS, UPRIGHT, turn_boxes
from compactnets.detection.data.base import DetectionSource
from compactnets.detection.data.table import box_sides
from compactnets.detection.objects import Objects
from compactnets.errors import InputError

BadKind = Literal["not finite", "degenerate", "outside", "thin", "unknown label"]
NoteKind = Literal["partly outside", "size differs"]
OnBad = Literal["raise", "drop"]
NOTES = get_args(NoteKind)
LEAST = 1.0  # pixels: boxes with a shorter side cannot be learned
ROUNDING = 1e-3  # of float32 at the largest sides of images


@dataclass(frozen=True)
class Problem:
    """A problem, or a note, about an object or its image.

    Attributes:
        kind: the kind of problem; kinds in ``NOTES`` do not exclude an object.
        annotation: path of the file of annotations.
        image: path of the image in the source.
        number: the object, from 1 in the order of the annotation; 0 for the image itself.
        class_name: its class, as annotated.
        box: its box in the annotation's notation.
        detail: a description with the numbers.
    """

    kind: BadKind | NoteKind
    annotation: str
    image: str
    number: int
    class_name: str
    box: str
    detail: str

    @property
    def is_note(self) -> bool:
        """Whether the object can still be used."""
        return self.kind in NOTES

    def __str__(self) -> str:
        what = f"object {self.number} ({self.class_name}; {self.box})" if self.number else "size"
        return f"{self.annotation}: {self.image}, {what}: {self.detail}"


def find_problems(source: DetectionSource, index: int, width: int, height: int) -> list[Problem]:
    """Find problems with the objects of image ``index``, which has ``width`` x ``height`` pixels when upright.

    ``"not finite"``: a coordinate is infinite or NaN. ``"degenerate"``: the right edge is not beyond the left, or
    the bottom not beyond the top. ``"outside"``: no pixel is in the image, or less than one in width or height at its
    edge. ``"thin"``: a side is less than a pixel; it can be evaluated, but not trained on. ``"unknown label"``: a class
    outside the source's. As notes, ``"partly outside"``: the box reaches past the edge, where :func:`usable` clips it;
    ``"size differs"``: the annotation states another size.
    """
    objects, orientation = upright_objects(source, index, width, height)
    problems = _find_in(source, index, objects, width, height)
    stated = source.size(index)
    if stated is not None and stated != (width, height) and orientation == UPRIGHT:
        detail = f"the annotation says {stated[0]} x {stated[1]} pixels, the image has {width} x {height}"
        if stated == (height, width):
            detail += ": perhaps the image was turned afterwards"
        problems.insert(0, Problem("size differs", source.annotation(index), source.name(index), 0, "", "", detail))
    return problems


def upright_objects(source: DetectionSource, index: int, width: int, height: int) -> tuple[Objects, int]:
    """Return the objects of image ``index`` in the coordinates of the upright picture, good or bad.

    Args:
        source: the images.
        index: of the image.
        width: of the upright picture, in pixels.
        height: of the upright picture, in pixels.

    Returns:
        The objects, and the EXIF orientation by which they were turned: 1 if the annotation is for the upright picture.
    """
    objects = source.objects(index)
    if width == height or source.size(index) != (height, width):
        return objects, UPRIGHT
    orientation = source.orientation(index)
    if not TURNS[orientation].swap:
        return objects, UPRIGHT
    boxes = turn_boxes(objects.boxes.numpy(), width, height, orientation)
    return replace(objects, boxes=torch.from_numpy(boxes)), orientation


def usable(
    source: DetectionSource, index: int, width: int, height: int, on_bad: OnBad, *, measured: bool = False
) -> tuple[Objects, list[Problem]]:
    """Return the usable objects of image ``index``, clipped to the image, and all problems.

    The area of a clipped object is that of the remaining box, unless it was a mask's area.

    Args:
        source: the images.
        index: of the image.
        width: of the upright picture, in pixels.
        height: of the upright picture, in pixels.
        on_bad: ``"drop"`` drops objects with a problem that is not a note.
        measured: the objects are for evaluation, not for training: thin ones are kept.

    Raises:
        InputError: such an object, with ``on_bad="raise"``; the message names file, object, class, box and what to do.
            Also, in either case, an unreadable annotation.
    """
    if index in source.faults:
        raise InputError(source.faults[index])
    problems = find_problems(source, index, width, height)
    bad = [problem for problem in problems if not problem.is_note and not (measured and problem.kind == "thin")]
    if bad and on_bad == "raise":
        more = f", and {len(bad) - 1} more of this image" if len(bad) > 1 else ""
        raise InputError(f"{bad[0]}{more}; fix it, or skip such boxes with the recipe's bad_boxes=drop")
    objects, _ = upright_objects(source, index, width, height)
    if not problems:
        return objects, problems
    keep = torch.ones(len(objects), dtype=torch.bool)
    keep[[problem.number - 1 for problem in bad]] = False
    kept = objects.pick(keep)
    boxes = kept.boxes.clamp(min=0).minimum(kept.boxes.new_tensor([width, height, width, height]))
    of_box = torch.isclose(kept.areas, _areas(kept.boxes), rtol=1e-5)
    areas = torch.where(of_box, _areas(boxes), kept.areas)
    return Objects(boxes, kept.labels, kept.difficult, kept.crowd, areas), problems


def _find_in(source: DetectionSource, index: int, objects: Objects, width: int, height: int) -> list[Problem]:
    boxes = objects.boxes.numpy()  # more than twice as fast as torch for so few numbers
    clipped = boxes.clip(0, (width, height, width, height))
    finite = np.all(np.isfinite(boxes), axis=1)
    ordered = np.all(box_sides(boxes) > 0, axis=1)
    whole = np.all(clipped == boxes, axis=1)
    known = objects.labels.numpy() >= 0
    sides = box_sides(clipped)
    thick = np.all(sides >= LEAST - ROUNDING, axis=1) & (not source.table.normalised)
    fine = finite & ordered & whole & known & thick
    if fine.all():
        return []
    before = box_sides(boxes)
    inside = ~np.any((sides < before) & (sides < 1), axis=1)  # a box that was already this thin may stay
    problems: list[Problem] = []
    for position in np.flatnonzero(~fine).tolist():
        left, top, right, bottom = boxes[position].tolist()
        if not finite[position]:
            _add(problems, source, index, position, "not finite", "a coordinate is not a finite number")
        elif not ordered[position]:
            edges = "right edge is not beyond its left" if right <= left else "lower edge is not below its upper"
            _add(problems, source, index, position, "degenerate", f"its {edges}")
        elif not inside[position]:
            detail = f"less than a pixel of it is inside the image of {width} x {height}{_hint(boxes[position])}"
            _add(problems, source, index, position, "outside", detail)
        elif not thick[position]:
            wide, high = sides[position].tolist()
            detail = f"it is {wide:.3g} x {high:.3g} pixels, thinner than one{_hint(boxes[position])}"
            _add(problems, source, index, position, "thin", detail)
        elif not whole[position]:
            over = max(-left, -top, right - width, bottom - height)
            detail = f"it reaches {over:.6g} pixels past the edge of the image of {width} x {height}"
            _add(problems, source, index, position, "partly outside", detail)
        if not known[position]:
            _add(problems, source, index, position, "unknown label", "its class is not among those of the source")
    return problems


def _hint(box: np.ndarray) -> str:
    """Hint if coordinates look like shares of the image."""
    left, top, right, bottom = box.tolist()
    # Pascal VOC's are one less here
    shares = left >= -1 and top >= -1 and right <= 1.001 and bottom <= 1.001
    return ": coordinates from 0 to 1, where pixels are expected?" if shares else ""


def _add(
    problems: list[Problem], source: DetectionSource, index: int, position: int, kind: BadKind | NoteKind, detail: str
) -> None:
    name, box = source.class_name(index, position), source.written_box(index, position)
    problems.append(Problem(kind, source.annotation(index), source.name(index), position + 1, name, box, detail))


def _areas(boxes: Tensor) -> Tensor:
    return (boxes[:, 2:] - boxes[:, :2]).prod(dim=1)
