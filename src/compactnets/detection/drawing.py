"""Boxes drawn into an image: what a detector finds, and what is there."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

from compactnets.detection.objects import Detections, Objects

Colour = tuple[int, int, int]
Corners = tuple[float, float, float, float]  # left, top, right, bottom

WHITE, BLACK = (255, 255, 255), (0, 0, 0)
# Okabe and Ito, "Color Universal Design", 2008, without black: told apart with every kind of colour vision
PALETTE: tuple[Colour, ...] = (
    (230, 159, 0),
    (86, 180, 233),
    (0, 158, 115),
    (240, 228, 66),
    (0, 114, 178),
    (213, 94, 0),
    (204, 121, 167),
)


@dataclass(frozen=True)
class LabelledBox:
    """A box to draw, with the text beside it; ``dashed`` for what is there, or not to be taken as found."""

    corners: Corners
    text: str
    colour: Colour
    dashed: bool = False


def class_colour(label: int) -> Colour:
    """Return the colour of a class: seven that anyone can tell apart, then the same darker, then lighter.

    From the 22nd class on they repeat; the text beside a box always names its class.
    """
    colour, round_ = PALETTE[label % len(PALETTE)], label // len(PALETTE) % 3
    if round_ == 0:
        return colour
    other = BLACK if round_ == 1 else WHITE
    red, green, blue = ((2 * own + mixed) // 3 for own, mixed in zip(colour, other, strict=True))
    return red, green, blue


def draw(
    image: Image.Image, detections: Detections, class_names: Sequence[str], objects: Objects | None = None
) -> Image.Image:
    """Draw detections with class and score, each class in its colour, and objects, where given, dashed in white.

    Args:
        image: of any mode and size; it stays as it is.
        detections: in pixels of the image; choose by score before, with :meth:`Detections.above`.
        class_names: those that labels index.
        objects: what the annotation says.

    Returns:
        A new image of the same size, RGB.
    """
    boxes = [] if objects is None else object_boxes(objects, class_names, white=True)
    return draw_boxes(image, [*boxes, *detection_boxes(detections, class_names)])


def detection_boxes(detections: Detections, class_names: Sequence[str]) -> list[LabelledBox]:
    """Return the boxes of detections, the best last, so that it lies on top."""
    rows = zip(detections.boxes.tolist(), detections.labels.tolist(), detections.scores.tolist(), strict=True)
    boxes = [
        LabelledBox(tuple(corners), f"{class_names[label]} {score:.2f}", class_colour(label))
        for corners, label, score in rows
    ]
    return boxes[::-1]


def object_boxes(objects: Objects, class_names: Sequence[str], *, white: bool = False) -> list[LabelledBox]:
    """Return the boxes of objects: dashed and white, or in the colour of the class and dashed where one is ignored."""
    ignored = (objects.difficult | objects.crowd).tolist()
    boxes = []
    for corners, label, ignore in zip(objects.boxes.tolist(), objects.labels.tolist(), ignored, strict=True):
        text = class_names[label] + (" (ignored)" if ignore else "")
        boxes.append(LabelledBox(tuple(corners), text, WHITE if white else class_colour(label), white or ignore))
    return boxes


def draw_boxes(image: Image.Image, boxes: Sequence[LabelledBox]) -> Image.Image:
    """Draw boxes and then their labels, so that none is hidden by a box.

    Line width and text grow with the image. A label stands above its box, or at the nearest free place around it.

    Returns:
        A new image of the same size, RGB.
    """
    picture = image.convert("RGB")
    if picture is image:
        picture = image.copy()
    pen = ImageDraw.Draw(picture)
    side = sum(picture.size) / 2
    line = max(1, round(side / 190))
    font = _font(max(10, round(side / 30)))
    for box in boxes:
        _outline(pen, box, line)
    taken: list[Corners] = []
    for box in reversed(boxes):  # the last one lies on top, and has the first choice of a place
        if box.text:
            taken.append(_label(pen, box, font, line, picture.size, taken))
    return picture


@cache
def _font(size: int) -> ImageFont.FreeTypeFont:
    """Return matplotlib's DejaVu Sans, which is there without a network and has accents, Greek and Cyrillic.

    Pillow's built-in font has ASCII only.
    """
    from matplotlib import get_data_path  # here, because importing it takes time

    return ImageFont.truetype(Path(get_data_path(), "fonts", "ttf", "DejaVuSans.ttf"), size)


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


def _label(
    pen: ImageDraw.ImageDraw,
    box: LabelledBox,
    font: ImageFont.FreeTypeFont,
    line: int,
    size: tuple[int, int],
    taken: Sequence[Corners],
) -> Corners:
    """Write the text of a box where it covers the least, labels before the box itself, and return the place."""
    _, up, _, down = font.getbbox("Ág")
    margin = max(2, line)
    width, height = font.getlength(box.text) + 2 * margin, down - up + 2 * margin
    left, top, right, bottom = box.corners
    wanted = (
        (left, top - height),
        (right - width, top - height),
        (left, bottom),
        (right - width, bottom),
        (right, top),
        (left - width, top),
        (left, top),
        (right - width, top),
        (left, bottom - height),
        (right - width, bottom - height),
    )
    places = [_inside((x, y, x + width, y + height), size) for x, y in wanted]
    place = min(  # the first of equals
        places,
        key=lambda place: 4 * sum(_shared(place, other) for other in taken) + _shared(place, box.corners),
    )
    pen.rectangle(place, fill=box.colour)
    pen.text((place[0] + margin, place[1] + margin - up), box.text, fill=_readable_on(box.colour), font=font)
    return place


def _inside(corners: Corners, size: tuple[int, int]) -> Corners:
    """Move a rectangle into the image; where it is too wide its beginning shows."""
    left, top, right, bottom = corners
    x = max(0.0, min(left, size[0] - (right - left)))
    y = max(0.0, min(top, size[1] - (bottom - top)))
    return x, y, x + right - left, y + bottom - top


def _shared(one: Corners, other: Corners) -> float:
    """Return the area that two rectangles share."""
    width = min(one[2], other[2]) - max(one[0], other[0])
    height = min(one[3], other[3]) - max(one[1], other[1])
    return max(width, 0.0) * max(height, 0.0)


def _readable_on(colour: Colour) -> Colour:
    """Return black or white, whichever has the larger contrast (WCAG 2.2, relative luminance)."""
    linear = [((part / 255 + 0.055) / 1.055) ** 2.4 if part > 10 else part / 255 / 12.92 for part in colour]
    luminance = 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]
    return BLACK if luminance > 0.179 else WHITE
