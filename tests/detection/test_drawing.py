"""Boxes drawn into images."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from PIL import Image, ImageChops

from compactnets.detection.drawing import (
    LabelledBox,
    _texts,
    detection_boxes,
    draw,
    draw_boxes,
)
from compactnets.drawing.colours import PALETTE, class_colour
from tests.detection.scenes import detections, objects

NAMES = ("cat", "dog")
GREY = (90, 90, 90)


def grey(width: int, height: int) -> Image.Image:
    return Image.new("RGB", (width, height), GREY)


def colours(picture: Image.Image, box: tuple[int, int, int, int]) -> set[tuple[int, int, int]]:
    return {colour for _, colour in picture.crop(box).getcolors(picture.width * picture.height)}


def test_a_box_has_the_colour_of_its_class_at_its_edges() -> None:
    """The box [100, 200) has its outermost pixels at 100 and 199, and none of its colour outside."""
    picture = draw(grey(300, 300), detections([[100, 100, 200, 200]], [0.9], [1]), NAMES)
    colour = class_colour(1)
    assert picture.getpixel((100, 150)) == picture.getpixel((199, 150)) == colour
    assert picture.getpixel((150, 100)) == picture.getpixel((150, 199)) == colour
    assert picture.getpixel((150, 150)) == GREY
    assert colour not in colours(picture, (200, 100, 300, 300)) | colours(picture, (0, 200, 300, 300))


def test_objects_are_dashed_in_white_and_detections_on_top() -> None:
    picture = draw(
        grey(300, 300),
        detections([[20, 150, 120, 250]], [0.9]),
        NAMES,
        objects([[150, 150, 250, 250], [20, 150, 120, 250]]),
    )
    edge = {picture.getpixel((x, 249)) for x in range(150, 250)}
    assert edge == {(255, 255, 255), (0, 0, 0)}
    assert {picture.getpixel((x, 249)) for x in range(20, 120)} == {class_colour(0)}


@pytest.mark.parametrize("mode", ["1", "L", "P", "RGBA", "CMYK", "I;16"])
def test_any_mode_and_the_image_stays(mode: str) -> None:
    image = Image.new(mode, (80, 60))
    before = image.tobytes()
    picture = draw(image, detections([[10, 20, 50, 40]], [0.5]), NAMES)
    assert (picture.mode, picture.size) == ("RGB", (80, 60))
    assert image.tobytes() == before
    rgb = grey(80, 60)
    draw(rgb, detections([[10, 20, 50, 40]], [0.5]), NAMES)
    assert colours(rgb, (0, 0, 80, 60)) == {GREY}


@pytest.mark.parametrize("size", [(1, 1), (30, 20), (500, 40), (2400, 1800)])
@pytest.mark.parametrize("box", [(0, 0, 1, 1), (-50, -50, 9000, 9000), (5, 5, 5, 5), (900, 900, 950, 950)])
def test_any_size_and_boxes_past_the_image(size: tuple[int, int], box: tuple[int, ...]) -> None:
    assert draw(grey(*size), detections([box], [0.5]), NAMES, objects([box])).size == size


@pytest.mark.parametrize("side", [200, 640, 3000])
@pytest.mark.parametrize("corner", [(0.0, 0.0), (0.9, 0.0), (0.0, 0.9), (0.9, 0.9)])
def test_a_label_lies_in_the_image_and_grows_with_it(side: int, corner: tuple[float, float]) -> None:
    x, y = (side * part for part in corner)
    box = LabelledBox((x, y, x + side / 10, y + side / 10), "cat 0.50", (0, 158, 115))
    labelled = draw_boxes(grey(side, side), [box])
    unlabelled = draw_boxes(grey(side, side), [LabelledBox(box.corners, "", box.colour)])
    left, top, right, bottom = ImageChops.difference(labelled, unlabelled).getbbox()
    assert 2 < (right - left) / (bottom - top) < 4, "the whole text shows"
    assert max(10, side / 40) <= bottom - top <= max(20, side / 20)


def test_labels_make_room_for_each_other() -> None:
    corners = (100.0, 100.0, 300.0, 300.0)

    def pixels(*boxes: LabelledBox) -> dict[tuple[int, int, int], int]:
        return {colour: count for count, colour in draw_boxes(grey(400, 400), boxes).getcolors(400 * 400)}

    boxes = [LabelledBox(corners, "cat 0.50", colour) for colour in PALETTE[:3]]
    label = pixels(boxes[0])[PALETTE[0]] - pixels(replace(boxes[0], text=""))[PALETTE[0]]
    assert label > 200
    together = pixels(*boxes)
    assert all(together[colour] >= label for colour in PALETTE[:3])


def test_a_label_does_not_hide_its_box() -> None:
    picture = draw_boxes(grey(300, 300), [LabelledBox((0, 0, 20, 20), "cat 0.50", PALETTE[0])])
    assert picture.getpixel((10, 10)) == GREY


@pytest.mark.parametrize("number", [1, 12, 40, 140])
@pytest.mark.parametrize("side", [320, 640])
def test_crowded_objects_stay_visible_under_labels(number: int, side: int) -> None:
    """Labels hide little of any box, however many there are, and every box of a few has its label."""
    numbers = np.random.default_rng(number)
    corners = numbers.uniform(0, 0.9 * side, (number, 2))
    boxes = np.hstack([corners, corners + numbers.uniform(0.05, 0.12, (number, 2)) * side])
    found = detections(boxes.tolist(), np.linspace(0.99, 0.5, number).tolist(), (np.arange(number) % 2).tolist())
    drawn = detection_boxes(found, ("Platelets", "red blood cells"))
    labelled = draw_boxes(grey(side, side), drawn)
    outlines = draw_boxes(grey(side, side), [replace(box, text="", short=None) for box in drawn])
    changed = np.asarray(ImageChops.difference(labelled, outlines)).any(axis=2)
    covered = [changed[int(top) : int(bottom), int(left) : int(right)].mean() for left, top, right, bottom in boxes]
    assert np.mean(covered) < 0.15
    assert np.max(covered) < 0.75
    assert changed.sum() > 10 * number, "labels are there"


def test_in_a_crowd_one_box_of_each_kind_names_its_colour() -> None:
    drawn = detection_boxes(detections([[0, 0, 9, 9]] * 4, [0.9, 0.8, 0.7, 0.6], [0, 1, 0, 1]), NAMES)
    assert [box.text for box in drawn] == _texts(drawn, short=False)
    assert _texts(drawn, short=True) == ["0.60", "0.70", "dog 0.80", "cat 0.90"]
    many = detection_boxes(detections([[0, 0, 9, 9]] * 2, [0.9, 0.8]), [str(label) for label in range(80)])
    assert _texts(many, short=True) == ["0 0.80", "0 0.90"], "colours repeat"
