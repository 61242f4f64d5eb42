"""What a run can use of its two splits is found before its first step, told and counted."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from compactnets.detection.data import check_detection, open_detection, open_run, review, review_both
from compactnets.detection.data.reviewing import announce
from compactnets.errors import InputError

from .helpers import HEIGHT, WIDTH, coco_document, write_coco_file, write_tree

GOOD, THIN, SWAPPED, OUTSIDE = (2, 2, 9, 9), (5, 5, 4.6, 9), (9, 5, 4, 9), (WIDTH + 3, 1, WIDTH + 9, 5)
Err = pytest.CaptureFixture[str]


def tree(root: Path, train: list[tuple], val: list[tuple] | None = None, name: str = "ant") -> str:
    """A training and a validation image with boxes, and a good one of either."""
    images = {
        "train": {"a": [("ant", *box) for box in train], "b": [("ant", *GOOD)]},
        "val": {"c": [(name, *box) for box in val or []], "d": [("ant", *GOOD)]},
    }
    return str(write_tree(root, images))


@pytest.mark.parametrize("split", ["train", "val"])
@pytest.mark.parametrize("box", [SWAPPED, OUTSIDE, ("nan", 1, 2, 2)])
def test_a_bad_box_of_either_split(tmp_path: Path, split: str, box: tuple, capsys: Err) -> None:
    boxes = [GOOD, box, box]
    root = tree(tmp_path, **{"train": [], split: boxes})
    with pytest.raises(InputError, match=r"object 2 \(ant; .*\(and 1 more\).*bad_boxes=drop") as caught:
        review_both(*open_run(root))
    assert f"Annotations/{'a' if split == 'train' else 'c'}.xml" in str(caught.value)
    capsys.readouterr()
    reviewed = review_both(*open_run(root), bad_boxes="drop")
    source = reviewed[0 if split == "train" else 1]
    assert len(source.table.labels) == 2
    (told,) = capsys.readouterr().err.splitlines()
    assert "2 of 4 objects" in told
    assert "bad_boxes=drop" in told
    assert ".xml" in told


def test_thin_boxes(tmp_path: Path, capsys: Err) -> None:
    """They cannot be trained on; in validation data they are looked for, as by other tools, and told."""
    root = tree(tmp_path, [THIN, GOOD], [THIN])
    with pytest.raises(InputError, match=r"a\.xml.*object 1 .*pixels, thinner than one"):
        review_both(*open_run(root))
    capsys.readouterr()
    train, val = review_both(*open_run(root), bad_boxes="drop")
    assert (len(train.table.labels), len(val.table.labels)) == (2, 2)
    err = capsys.readouterr().err
    assert "thin 1" in err
    assert "1 objects are thinner than a pixel" in err
    report = check_detection(root)
    assert [problem.kind for problem in report.boxes["train"]] == ["thin"]
    assert report.boxes["val"] == []
    assert any("thinner" in note for note in report.notes)


def normalised(root: Path, *boxes: list[float]) -> str:
    """COCO files with shares of the image where pixels belong, and with pixels in the other split."""
    shares = [
        {"id": number, "image_id": 10, "category_id": 3, "bbox": box} for number, box in enumerate(boxes, start=1)
    ]
    for split, objects in (("train", shares), ("val", coco_document()["annotations"])):
        document = coco_document(annotations=objects)
        write_coco_file(root / "annotations" / f"instances_{split}.json", document, root / "images")
    return str(root)


@pytest.mark.parametrize("boxes", [([0.1, 0.2, 0.3, 0.4],), ([0, 0, 1, 1], [0.5, 0.5, 0.5, 0.25])])
def test_coordinates_that_are_shares_of_the_image(tmp_path: Path, boxes: tuple[list[float], ...]) -> None:
    root = normalised(tmp_path, *boxes)
    with pytest.raises(InputError, match=r"instances_train\.json.*from 0 to 1, where pixels are expected"):
        review_both(*open_run(root))
    with pytest.raises(InputError, match=r"no object of train can be used.*0 to 1"):
        review_both(*open_run(root), bad_boxes="drop")
    assert len(check_detection(root).boxes["train"]) == len(boxes)
    with pytest.raises(InputError, match="0 to 1"):  # as validation data they are no thin objects to look for
        review(open_detection(root, "train"), "val")


@pytest.mark.parametrize("train", [{"a": [], "b": []}, {"a": [("ant", *GOOD, 1)], "b": []}])
def test_training_without_an_object(tmp_path: Path, train: dict[str, Any]) -> None:
    root = str(write_tree(tmp_path, {"train": train, "val": {"c": [("ant", *GOOD)]}}))
    with pytest.raises(InputError, match=r"no object to train on: the 2 images of train \(.*a\.xml"):
        review_both(*open_run(root))


def test_nothing_is_left(tmp_path: Path) -> None:
    root = str(write_tree(tmp_path, {"train": {"a": [("ant", *SWAPPED)]}, "val": {"c": [("ant", *GOOD)]}}))
    with pytest.raises(InputError, match=r"no object of train can be used: all 1 .*a\.xml"):
        review_both(*open_run(root), bad_boxes="drop")


def test_a_class_that_only_validation_has(tmp_path: Path, capsys: Err) -> None:
    """Of Pascal VOC it is a class, of COCO an unknown one: told in either case, before the first step."""
    review_both(*open_run(tree(tmp_path / "voc", [GOOD], [GOOD], "bee")))
    (told,) = capsys.readouterr().err.splitlines()
    assert "bee" in told
    root = tmp_path / "coco"
    write_coco_file(root / "annotations" / "instances_train.json", coco_document(), root / "images")
    categories = [{"id": 3, "name": "wasp"}, {"id": 7, "name": "bee"}]
    document = coco_document(categories=categories)
    write_coco_file(root / "annotations" / "instances_val.json", document, root / "images")
    with pytest.raises(InputError, match=r"instances_val\.json: .*\(bee; .*not among those"):
        review_both(*open_run(str(root)))
    _, val = review_both(*open_run(str(root)), bad_boxes="drop")
    assert val.table.labels.tolist() == [0, 0]
    assert [problem.class_name for problem in check_detection(str(root)).boxes["val"]] == ["bee"]


def test_images_that_cannot_be_read(tmp_path: Path, capsys: Err) -> None:
    root = tree(tmp_path, [GOOD], [GOOD])
    broken = tmp_path / "JPEGImages" / "c.png"
    broken.write_bytes(broken.read_bytes()[:-40])  # its header is whole
    with pytest.raises(InputError, match=r"c\.png .*on_error=skip"):
        review_both(*open_run(root))
    capsys.readouterr()
    _, val = review_both(*open_run(root), on_error="skip")
    assert val.names == ["JPEGImages/d.png"]
    (told,) = capsys.readouterr().err.splitlines()
    assert "1 of 2 images" in told
    assert str(broken) in told
    (tmp_path / "JPEGImages" / "d.png").unlink()
    with pytest.raises(InputError, match="2 of 2 images of val cannot be read"):
        review_both(*open_run(root), on_error="skip")
    (tmp_path / "JPEGImages" / "b.png").write_bytes(b"")
    with pytest.raises(InputError, match=r"b\.png .*on_error=skip"):
        review_both(*open_run(root))


def test_the_listed_classes_alone(tmp_path: Path, capsys: Err) -> None:
    images = {
        "train": {"a": [("ant", *GOOD), ("bee", *GOOD), ("wasp", *GOOD)]},
        "val": {"b": [("bee", *GOOD), ("fly", *GOOD)]},
    }
    root = str(write_tree(tmp_path, images))
    train, val = review_both(*open_run(root, classes=("wasp", "bee")))
    assert train.class_names == val.class_names == ("wasp", "bee")
    assert sorted(train.table.labels.tolist()) == [0, 1]
    assert val.table.labels.tolist() == [1]
    err = capsys.readouterr().err
    assert "train: 1 objects of other classes left out: ant" in err
    assert "val: 1 objects of other classes left out: fly" in err
    with pytest.raises(InputError, match="did you mean 'wasp'"):
        open_run(root, classes=("bee", "waps"))
    with pytest.raises(InputError, match="found twice"):
        open_run(root, classes=("bee", "bee"))
    with pytest.raises(InputError, match=r"no class 'zebra'.*ant, bee, fly, wasp"):
        open_run(root, classes=("zebra",))


def test_a_missing_split_says_how_to_name_another(tmp_path: Path) -> None:
    root = str(write_tree(tmp_path, {"train": {"a": [("ant", *GOOD)]}, "test": {"b": [("ant", *GOOD)]}}))
    with pytest.raises(InputError, match="no split 'val': found train, test; .*val_split"):
        open_run(root)
    assert len(open_run(root, val_split="test")[1]) == 1


def test_what_is_announced_is_what_is_trained_on(tmp_path: Path) -> None:
    root = tree(tmp_path, [GOOD, SWAPPED, THIN, (*GOOD, 1)])
    train, _ = review_both(*open_run(root), bad_boxes="drop")
    told = announce(train)
    assert "2 images with 3 objects of 1 class: ant 3" in told
    assert "1 difficult" in told


def test_size_is_that_of_the_file(tmp_path: Path) -> None:
    source = open_detection(tree(tmp_path, [GOOD]), "train")
    assert source.read_size(0) == source.image(0).size == (WIDTH, HEIGHT)
