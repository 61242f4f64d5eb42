"""Bad boxes: each kind is found and named; what is left can be used."""

from __future__ import annotations

from pathlib import Path

import pytest

from compactnets.detection.data import DetectionSource, find_problems, open_detection, usable
from compactnets.errors import InputError

from .helpers import HEIGHT, WIDTH, coco_document, write_coco_file, write_tree


def source_of(root: Path, *boxes: tuple) -> DetectionSource:
    """One image; boxes are xmin, ymin, xmax, ymax."""
    tree = write_tree(root, {"train": {"a": [("ant", *box) for box in boxes]}})
    return open_detection(str(tree), "train")


@pytest.mark.parametrize(
    ("box", "kind", "detail"),
    [
        ((1, 1, WIDTH, HEIGHT), None, ""),
        ((5, 5, 5, 5), None, ""),
        ((5, 5, 5.2, 9), None, ""),
        ((5, 5, 4.5, 9), "thin", "it is 0.5 x 5 pixels"),
        ((5, 5, 9, 4.01), "thin", "5 x 0.01"),
        ((-3, 5, -2.5, 9), "outside", "less than a pixel"),
        ((0.2, 0.3, 0.6, 0.9), "outside", "from 0 to 1"),
        (("nan", 1, 2, 2), "not finite", "not a finite number"),
        ((1, 1, "inf", 2), "not finite", "not a finite number"),
        ((1, 1, 1e300, 2), "not finite", "not a finite number"),  # beyond float32
        ((5, 5, 4, 9), "degenerate", "right edge is not beyond its left"),
        ((5, 9, 6, 3), "degenerate", "lower edge is not below its upper"),
        ((WIDTH + 1, 1, WIDTH + 5, 5), "outside", "less than a pixel"),
        ((-9, 1, 0, 5), "outside", "less than a pixel"),
        ((1, -9, 5, 0.5), "outside", "less than a pixel"),
        ((1, HEIGHT + 0.5, 5, HEIGHT + 9), "outside", "less than a pixel"),
        ((0, 1, 5, 5), "partly outside", "reaches 1 pixels past the edge of the image of 20 x 16"),
        ((1, 1, 5, HEIGHT + 2.5), "partly outside", "reaches 2.5 pixels past"),
        ((-100, -100, 100, 100), "partly outside", "reaches 101 pixels past"),
    ],
)
def test_kinds(tmp_path: Path, box: tuple, kind: str | None, detail: str) -> None:
    source = source_of(tmp_path, (2, 2, 3, 3), box)
    problems = find_problems(source, 0, WIDTH, HEIGHT)
    assert [problem.kind for problem in problems] == ([kind] if kind else [])
    for problem in problems:
        assert problem.number == 2
        assert problem.class_name == "ant"
        assert detail in problem.detail
        assert problem.is_note == (kind == "partly outside")
    objects, noted = usable(source, 0, WIDTH, HEIGHT, "drop")
    assert noted == problems
    assert len(objects) == (2 if kind in (None, "partly outside") else 1)
    measured, _ = usable(source, 0, WIDTH, HEIGHT, "drop", measured=True)
    assert len(measured) == (2 if kind in (None, "partly outside", "thin") else 1)
    assert (objects.boxes >= 0).all()
    assert (objects.boxes[:, 2] <= WIDTH).all()
    assert (objects.boxes[:, 3] <= HEIGHT).all()


def test_clipping(tmp_path: Path) -> None:
    source = source_of(tmp_path, (0, -3, 5, 5), (18, 14, 30, 30))
    objects, _ = usable(source, 0, WIDTH, HEIGHT, "raise")
    assert objects.boxes.tolist() == [[0, 0, 5, 5], [17, 13, 20, 16]]
    assert objects.areas.tolist() == [25, 9]
    assert source.objects(0).boxes.tolist()[0] == [-1, -4, 5, 5]  # the source keeps what the file says


def test_the_area_of_a_mask_stays(tmp_path: Path) -> None:
    document = coco_document()
    document["annotations"] = [
        {"id": 1, "image_id": 10, "category_id": 3, "bbox": [-2, 0, 6, 4.4], "area": 11},
        {"id": 2, "image_id": 10, "category_id": 3, "bbox": [-2, 0, 6, 4.4], "area": 26.4},
    ]
    write_coco_file(tmp_path / "annotations" / "val.json", document, tmp_path / "images")
    objects, problems = usable(open_detection(str(tmp_path), "val"), 0, WIDTH, HEIGHT, "raise")
    assert len(problems) == 2
    assert objects.areas.tolist() == pytest.approx([11, 17.6])


def test_raising_names_everything(tmp_path: Path) -> None:
    source = source_of(tmp_path, (2, 2, 3, 3), (5, 5, 4, 9), (9, 9, 8, 9))
    with pytest.raises(InputError) as caught:
        usable(source, 0, WIDTH, HEIGHT, "raise")
    assert str(caught.value) == (
        f"{tmp_path}/Annotations/a.xml: JPEGImages/a.png, object 2 (ant; xmin 5, ymin 5, xmax 4, ymax 9): its right "
        f"edge is not beyond its left, and 1 more of this image; fix it, or skip such boxes with the recipe's "
        f"bad_boxes=drop"
    )


def test_unknown_classes_and_sizes(tmp_path: Path) -> None:
    tree = write_tree(tmp_path, {"train": {"a": [("ant", 1, 1, 2, 2), ("bee", 5, 5, 4, 4), ("bee", 1, 1, 2, 2)]}})
    source = open_detection(str(tree), "train", class_names=["ant"])
    problems = find_problems(source, 0, HEIGHT, WIDTH)
    assert [(problem.kind, problem.number, problem.class_name) for problem in problems] == [
        ("size differs", 0, ""),
        ("degenerate", 2, "bee"),
        ("unknown label", 2, "bee"),
        ("unknown label", 3, "bee"),
    ]
    assert "says 20 x 16 pixels, the image has 16 x 20: perhaps the image was turned afterwards" in str(problems[0])
    objects, _ = usable(source, 0, HEIGHT, WIDTH, "drop")
    assert objects.labels.tolist() == [0]
    assert "EXIF" not in str(find_problems(source, 0, 40, 32)[0])


def test_no_objects(tmp_path: Path) -> None:
    tree = write_tree(tmp_path, {"train": {"a": [], "b": [("ant", 1, 1, 2, 2)]}})
    objects, problems = usable(open_detection(str(tree), "train"), 0, WIDTH, HEIGHT, "raise")
    assert len(objects) == 0
    assert problems == []
