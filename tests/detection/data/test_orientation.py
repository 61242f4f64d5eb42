"""Boxes of photographs that lie on their side: by the size that the annotation states, else of the upright picture."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from compactnets.data.orientation import TURNS, turned_size
from compactnets.detection.anchors import check_anchors, seen_objects, small_objects
from compactnets.detection.data import review, usable
from compactnets.detection.data.base import DetectionSource
from compactnets.detection.data.checking import check_detection
from compactnets.detection.data.conversion import convert
from compactnets.detection.data.opening import open_detection
from compactnets.detection.loading import DetectionEvalLoader
from compactnets.training.distributed import World

from ..helpers import tiny_recipe
from .helpers import annotation, voc_object

STORED = (40, 24)
WHITE = (7, 3, 17, 9)  # left, top, right, bottom of the object in the stored pixels


def photograph(orientation: int) -> tuple[Image.Image, Image.Exif]:
    image = Image.new("RGB", STORED)
    image.paste((255, 255, 255), WHITE)
    exif = Image.Exif()
    exif[0x0112] = orientation
    return image, exif


def upright_box(orientation: int) -> tuple[int, int, int, int]:
    """Find the object in the picture as Pillow turns it."""
    swap, flip_x, flip_y = TURNS[orientation]
    pixels = np.asarray(photograph(1)[0])[..., 0]
    pixels = pixels.T if swap else pixels
    pixels = pixels[:: -1 if flip_y else 1, :: -1 if flip_x else 1]
    rows, columns = np.nonzero(pixels)
    return columns.min(), rows.min(), columns.max() + 1, rows.max() + 1


def write(root: Path, kind: str, orientation: int, box: tuple[int, ...], size: tuple[int, int] | None) -> Path:
    """Write one photograph, in both splits, with one box."""
    image, exif = photograph(orientation)
    left, top, right, bottom = map(int, box)
    if kind == "voc":
        for part in ("Annotations", "JPEGImages", "ImageSets/Main"):
            (root / part).mkdir(parents=True)
        image.save(root / "JPEGImages/a.png", exif=exif)
        text = annotation(voc_object("cat", left + 1, top + 1, right, bottom), "a.png", size)
        (root / "Annotations/a.xml").write_text(text)
        for split in ("train", "val"):
            (root / f"ImageSets/Main/{split}.txt").write_text("a\n")
        return root
    assert size is not None
    for split in ("train", "val"):
        (root / "images" / split).mkdir(parents=True)
        image.save(root / "images" / split / "a.png", exif=exif)
        document = {
            "images": [{"id": 1, "file_name": "a.png", "width": size[0], "height": size[1]}],
            "annotations": [
                {"id": 1, "image_id": 1, "category_id": 1, "bbox": [left, top, right - left, bottom - top]}
            ],
            "categories": [{"id": 1, "name": "cat"}],
        }
        (root / "annotations").mkdir(exist_ok=True)
        (root / f"annotations/instances_{split}.json").write_text(json.dumps(document))
    return root


def covered(source: DetectionSource) -> tuple[np.ndarray, np.ndarray]:
    """Return the brightness within the box and outside of it, as a loader gives both."""
    loader = DetectionEvalLoader(source, World(torch.device("cpu")), workers=0, on_bad="raise")
    batch = next(iter(loader))
    pixels = batch.images[0].numpy()[0]
    left, top, right, bottom = batch.objects[0].boxes[0].round().int().tolist()
    inside = np.zeros(pixels.shape, dtype=bool)
    inside[top:bottom, left:right] = True
    return pixels[inside], pixels[~inside]


@pytest.mark.parametrize("orientation", list(TURNS))
@pytest.mark.parametrize("made_of", ["upright", "stored"])
@pytest.mark.parametrize("kind", ["voc", "coco"])
def test_boxes_lie_on_their_objects(kind: str, made_of: str, orientation: int, tmp_path: Path) -> None:
    swaps = TURNS[orientation].swap
    if made_of == "stored" and not swaps:
        pytest.skip("both sizes are the same: the upright picture is taken")
    box = upright_box(orientation) if made_of == "upright" else WHITE
    size = turned_size(*STORED, orientation) if made_of == "upright" else STORED
    root = write(tmp_path / "set", kind, orientation, box, size)
    for split in ("train", "val"):
        inside, outside = covered(open_detection(str(root), split))
        assert inside.min() == 1
        assert outside.max() == 0


@pytest.mark.parametrize("orientation", list(TURNS))
def test_without_a_stated_size_boxes_are_of_the_upright_picture(orientation: int, tmp_path: Path) -> None:
    root = write(tmp_path / "set", "voc", orientation, upright_box(orientation), None)
    inside, outside = covered(open_detection(str(root), "train"))
    assert inside.min() == 1
    assert outside.max() == 0


def test_data_check_says_which_is_taken(tmp_path: Path) -> None:
    for name, orientation, box, size, expected in (
        ("upright", 6, upright_box(6), (24, 40), None),
        ("stored", 6, WHITE, STORED, "stored"),
        ("both", 3, upright_box(3), STORED, "upright"),
        ("unstated", 6, upright_box(6), None, "upright"),
        ("no tag", 1, WHITE, STORED, None),
    ):
        root = write(tmp_path / name, "voc", orientation, box, size)
        report = check_detection(str(root))
        assert not any(report.boxes.values()), name
        notes = [note for note in report.notes if "EXIF" in note]
        assert bool(notes) is (expected is not None), (name, report.notes)
        assert all(expected in note and "a.png" in note for note in notes)


def test_the_shared_cases_are_of_the_upright_picture(shared: Path) -> None:
    cases = shared / "cases" / "detection"
    for case in ("v21_exif6", "v22_exif3_180"):
        source = open_detection(str(cases / case), "train")
        for index in range(len(source)):
            image = source.image(index)
            assert image.size == source.size(index)
            objects, problems = usable(source, index, *image.size, on_bad="raise")
            assert not problems
            assert (objects.boxes == source.objects(index).boxes).all()


@pytest.mark.parametrize("to", ["voc", "coco"])
@pytest.mark.parametrize("size", [STORED, (24, 40), None], ids=["stored", "upright", "unstated"])
def test_conversion_keeps_what_boxes_are_of(to: str, size: tuple[int, int] | None, tmp_path: Path) -> None:
    box = WHITE if size == STORED else upright_box(6)
    root = write(tmp_path / "set", "voc", 6, box, size)
    convert(str(root), to, tmp_path / "out")  # type: ignore[arg-type]
    inside, outside = covered(open_detection(str(tmp_path / "out"), "train"))
    assert inside.min() == 1
    assert outside.max() == 0


@pytest.mark.parametrize("orientation", [number for number, turn in TURNS.items() if turn.swap])
@pytest.mark.parametrize("kind", ["voc", "coco"])
def test_anchors_are_fitted_to_upright_objects(kind: str, orientation: int, tmp_path: Path) -> None:
    """Boxes of the stored pixels are turned before they are scaled: a flat object of the file may be a tall one."""
    trees = {
        "stored": write(tmp_path / "stored", kind, orientation, WHITE, STORED),
        "upright": write(tmp_path / "upright", kind, orientation, upright_box(orientation), STORED[::-1]),
    }
    left, top, right, bottom = upright_box(orientation)
    assert (right - left, bottom - top) == (6, 10)
    for detector, factors in (("ssd", (128 / 24, 128 / 40)), ("faster_rcnn", (3.2, 3.2))):  # a longer side of 128
        recipe = tiny_recipe(detector)
        for name, root in trees.items():
            source = open_detection(str(root), "train")
            box = seen_objects(source, recipe).boxes[0]
            wanted = [left * factors[0], top * factors[1], right * factors[0], bottom * factors[1]]
            assert box.tolist() == pytest.approx(wanted), (detector, name)
            # data check, and a run, which has looked at the sizes before
            reviewed = review(source, "train").pick([0])
            assert seen_objects(reviewed, recipe).boxes.tolist() == [box.tolist()]
        fits = [check_anchors(str(root), {"own": recipe}) for root in trees.values()]
        assert fits[0]["train"] == fits[1]["train"]
        sizes = fits[0]["val"][0].sizes
        assert sizes[0] == pytest.approx((6 * factors[0] * 10 * factors[1]) ** 0.5)


def test_what_is_less_than_a_pixel_is_counted_upright(tmp_path: Path) -> None:
    """0.2 pixels high in the stored 40 x 24 are 0.2 wide in the upright 24 x 40, which 128 pixels make 1.07."""
    source = open_detection(str(write(tmp_path / "set", "voc", 6, WHITE, STORED)), "train")
    for thickness, expected in ((0.15, (1, 1, 0)), (0.2, (0, 1, None))):
        source.table.boxes[0] = (7.0, 3.0, 17.0, 3.0 + thickness)
        assert small_objects(source, tiny_recipe("ssd")) == expected
