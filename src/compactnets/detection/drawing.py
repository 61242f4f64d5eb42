"""Draw boxes into an image: detections and annotated objects."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from compactnets.detection.objects import Detections, Objects
from compactnets.drawing.colours import BLACK, PALETTE, WHITE, Colour, class_colour
from compactnets.drawing.lettering import Writing, write

FloatArray = NDArray[np.float64]
Corners = tuple[float, float, float, float]  # left, top, right, bottom

# steps of shrinking labels until the objects are visible: share of the text size, and whether shortened
LEVELS = ((1.0, False), (0.8, False), (0.62, False), (0.8, True), (0.62, True))
# largest share of a box that labels may cover, mean of these shares over the boxes, and largest share of a label that
# others may cover: found by looking at crowded pictures
MOST_COVERED, MEAN_COVERED, MOST_SHARED = 0.4, 0.1, 0.1


@dataclass(frozen=True)
class LabelledBox:
    """A box to draw, with the text beside it.

    Attributes:
        dashed: for annotated objects, or detections that do not count.
        short: text for a picture with many boxes, for all but one box of each ``kind``; empty for none.
        kind: the meaning of the colour, such as the class.
    """

    corners: Corners
    text: str
    colour: Colour
    dashed: bool = False
    short: str | None = None
    kind: str = ""


def draw(
    image: Image.Image, detections: Detections, class_names: Sequence[str], objects: Objects | None = None
) -> Image.Image:
    """Draw detections with class and score, each class in its colour, and objects, if given, dashed in white.

    Args:
        image: of any mode and size; not modified.
        detections: in pixels of the image; select them by score first, with :meth:`Detections.above`.
        class_names: those that labels index.
        objects: the annotated objects.

    Returns:
        A new image of the same size, RGB.
    """
    boxes = [] if objects is None else object_boxes(objects, class_names, white=True)
    return draw_boxes(image, [*boxes, *detection_boxes(detections, class_names)])


def detection_boxes(detections: Detections, class_names: Sequence[str]) -> list[LabelledBox]:
    """Return the boxes of detections, best last, so that it is on top."""
    rows = zip(detections.boxes.tolist(), detections.labels.tolist(), detections.scores.tolist(), strict=True)
    boxes = [
        LabelledBox(
            tuple(corners),
            f"{class_names[label]} {score:.2f}",
            class_colour(label),
            short=f"{score:.2f}" if len(class_names) <= 3 * len(PALETTE) else None,
            kind=class_names[label],
        )
        for corners, label, score in rows
    ]
    return boxes[::-1]


def object_boxes(objects: Objects, class_names: Sequence[str], *, white: bool = False) -> list[LabelledBox]:
    """Return the boxes of objects: dashed and white, or in the class colour and dashed if ignored."""
    ignored = (objects.difficult | objects.crowd).tolist()
    boxes = []
    for corners, label, ignore in zip(objects.boxes.tolist(), objects.labels.tolist(), ignored, strict=True):
        text = class_names[label] + (" (ignored)" if ignore else "")
        colour, short = (WHITE, None) if white else (class_colour(label), "")
        boxes.append(LabelledBox(tuple(corners), text, colour, white or ignore, short, class_names[label]))
    return boxes


def draw_boxes(image: Image.Image, boxes: Sequence[LabelledBox]) -> Image.Image:
    """Draw boxes and then their labels, so that boxes do not hide labels.

    Line width and text grow with the image. A label is placed above its box, or nearby where it covers the least. If
    labels would hide objects in a crowded picture, they shrink; then all but one of each kind are shortened; finally,
    labels that would still hide a box or label are omitted.

    Returns:
        A new image of the same size, RGB.
    """
    picture = image.convert("RGB")
    if picture is image:
        picture = image.copy()
    pen = ImageDraw.Draw(picture)
    side = sum(picture.size) / 2
    line = max(1, round(side / 190))
    for box in boxes:
        _outline(pen, box, line)
    for box, place, writing in _arrange(boxes, picture.size, line, side / 30):
        margin = max(2, line)
        pen.rectangle(place, fill=box.colour)
        writing.draw(pen, place[0] + margin, place[1] + margin, _readable_on(box.colour))
    return picture


def _outline(pen: ImageDraw.ImageDraw, box: LabelledBox, line: int) -> None:
    """Draw a rectangle with a dark rim, or dark between its dashes, which sets it off from any background."""
    left, top, right, bottom = (round(value) for value in box.corners)
    right, bottom = max(left, right - 1), max(top, bottom - 1)  # Pillow's corners belong to the rectangle
    if not box.dashed:
        rim = max(1, line // 3)
        pen.rectangle((left - rim, top - rim, right + rim, bottom + rim), outline=BLACK, width=line + 2 * rim)
        pen.rectangle((left, top, right, bottom), outline=box.colour, width=line)
        return
    pen.rectangle((left, top, right, bottom), outline=BLACK, width=line)
    dash = 5 * line
    for x in range(left, right + 1, 2 * dash):
        for y in (top, bottom - line + 1):
            pen.rectangle((x, y, min(x + dash, right), y + line - 1), fill=box.colour)
    for y in range(top, bottom + 1, 2 * dash):
        for x in (left, right - line + 1):
            pen.rectangle((x, y, x + line - 1, min(y + dash, bottom)), fill=box.colour)


Label = tuple[LabelledBox, Corners, Writing]


def _arrange(boxes: Sequence[LabelledBox], size: tuple[int, int], line: int, text_size: float) -> list[Label]:
    """Return the placed labels of the boxes, at the first level that leaves the objects visible."""
    areas = np.array([box.corners for box in boxes], dtype=float).reshape(-1, 4)
    areas = np.clip(areas, 0, [*size, *size])
    for scale, short in LEVELS:
        height = max(10, round(text_size * scale))
        last = (scale, short) == LEVELS[-1]
        labels = _place(boxes, areas, _texts(boxes, short), height, line, size, leave_out=last)
        places = np.array([place for _, place, _ in labels]).reshape(-1, 4)
        covered = _shares(areas, places).sum(axis=1)
        shared = _shares(places, places).sum(axis=1) - 1
        if last or not len(labels):
            return labels
        quiet = covered.max() <= MOST_COVERED and covered.mean() <= MEAN_COVERED and shared.max() <= MOST_SHARED
        if quiet or len(boxes) == 1:
            return labels
    raise AssertionError("the last level always returns")


def _texts(boxes: Sequence[LabelledBox], short: bool) -> list[str]:
    """Return the text of each box; if short, only the topmost box of each kind keeps the full text and explains its
    colour.
    """
    leaders = {box.kind: number for number, box in enumerate(boxes) if box.short is not None}
    return [
        box.short if short and box.short is not None and leaders[box.kind] != number else box.text
        for number, box in enumerate(boxes)
    ]


def _place(
    boxes: Sequence[LabelledBox],
    areas: FloatArray,
    texts: Sequence[str],
    text_size: int,
    line: int,
    size: tuple[int, int],
    *,
    leave_out: bool,
) -> list[Label]:
    """Place each label where it covers the least.

    Args:
        areas: (number of boxes, 4), the boxes within the image.
        leave_out: omit labels that would hide another box or label, except those that name a kind.
    """
    margin = max(2, line)
    labels: list[Label] = []
    taken, covered = np.zeros((0, 4)), np.zeros(len(boxes))
    # the last one is on top and is placed first; short ones fill the rest
    order = sorted(range(len(boxes)), key=lambda number: (leave_out and texts[number] != boxes[number].text, -number))
    for number in order:
        box, text = boxes[number], texts[number]
        if not text:
            continue
        writing = write(text, text_size)
        width, height = writing.width + 2 * margin, writing.height + 2 * margin
        places = np.array(_places(box.corners, width, height, size))
        on_boxes, on_labels = _shares(areas, places), _shares(places, taken)
        weight = np.ones(len(boxes))
        weight[number] = 2  # its own box before others
        cost = weight @ on_boxes + 4 * on_labels.sum(axis=1)
        chosen = int(cost.argmin())  # the first of equals
        now = covered + on_boxes[:, chosen]
        hides = now[on_boxes[:, chosen] > 0].max(initial=0) > MOST_COVERED or now.mean() > MEAN_COVERED
        if leave_out and text != box.text and (hides or on_labels[chosen].max(initial=0) > MOST_SHARED):
            continue
        place: Corners = tuple(places[chosen].tolist())
        labels.append((box, place, writing))
        taken, covered = np.vstack([taken, place]), now
    return labels


def _places(corners: Corners, width: float, height: float, size: tuple[int, int]) -> list[Corners]:
    """Return possible label positions, best first: outside its box, then in a corner of it."""
    left, top, right, bottom = corners
    wanted = (
        (left, top - height),
        (right - width, top - height),
        (left, bottom),
        (right - width, bottom),
        (right, top),
        (left - width, top),
        (right, bottom - height),
        (left - width, bottom - height),
        (left, top),
        (right - width, top),
        (left, bottom - height),
        (right - width, bottom - height),
    )
    return [_inside((x, y, x + width, y + height), size) for x, y in wanted]


def _inside(corners: Corners, size: tuple[int, int]) -> Corners:
    """Move a rectangle into the image; if it is too wide, its start is visible."""
    left, top, right, bottom = corners
    x = max(0.0, min(left, size[0] - (right - left)))
    y = max(0.0, min(top, size[1] - (bottom - top)))
    return x, y, x + right - left, y + bottom - top


def _shares(ones: FloatArray, others: FloatArray) -> FloatArray:
    """Return (N, M), the share of the area of each of N rectangles that each of M others covers."""
    inner = np.minimum(ones[:, None, 2:], others[None, :, 2:]) - np.maximum(ones[:, None, :2], others[None, :, :2])
    area = np.maximum(ones[:, 2:] - ones[:, :2], 1.0).prod(axis=1)
    shares: FloatArray = np.maximum(inner, 0.0).prod(axis=2) / area[:, None]
    return shares


def _readable_on(colour: Colour) -> Colour:
    """Return black or white, whichever has the larger contrast (WCAG 2.2, relative luminance)."""
    linear = [((part / 255 + 0.055) / 1.055) ** 2.4 if part > 10 else part / 255 / 12.92 for part in colour]
    luminance = 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]
    return BLACK if luminance > 0.179 else WHITE
