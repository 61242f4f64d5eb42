"""From one format to the other and back: what both can hold is the same after it, what one cannot is said."""

from __future__ import annotations

import json
import os
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest
from PIL import Image

from compactnets.detection.data import convert, open_detection, open_splits
from compactnets.errors import InputError

from .helpers import HEIGHT, WIDTH, annotation, coco_document, voc_object, write_coco_file, write_tree

TRAIN = {"a": [("wasp", 1, 1, WIDTH, HEIGHT), ("ant", 3, 4, 3, 4, 1), ("ant", 9, 9, 8, 8)], "e": []}
VAL = {"c": [("bee", 2, 3, 7, 9)]}
SPLITS = {"train": TRAIN, "val": VAL, "trainval": {**TRAIN, **VAL}}


def assert_same(first: Path, second: Path) -> None:
    """Splits, classes and order of both, and of every image its pixels and objects."""
    for one, other in zip(open_splits(str(first)), open_splits(str(second)), strict=True):
        assert one.split == other.split
        assert one.class_names == other.class_names
        for mine, theirs in zip(one.table.arrays(), other.table.arrays(), strict=True):
            assert mine.tolist() == theirs.tolist()
        assert one.table.sizes.tolist() == other.table.sizes.tolist()
        for index in range(len(one)):
            assert (one.root / one.names[index]).read_bytes() == (other.root / other.names[index]).read_bytes()


def test_round_trip_from_voc(tmp_path: Path) -> None:
    tree = write_tree(tmp_path / "voc", SPLITS)
    first = convert(str(tree), "coco", tmp_path / "coco")
    assert first.splits == {"train": 2, "val": 1, "trainval": 3}
    assert (first.images, first.objects) == (3, 4)  # of trainval, none twice
    assert first.losses == ['2 difficult objects have "ignore": 1, which pycocotools ignores: it counts them']
    second = convert(str(tmp_path / "coco"), "voc", tmp_path / "again")
    assert second.losses == []
    assert_same(tree, tmp_path / "coco")
    assert_same(tree, tmp_path / "again")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["again", "coco", "voc"]
    assert open_detection(str(tree), "train").fingerprint() == (
        open_detection(str(tmp_path / "again"), "train").fingerprint()
    )


def test_what_is_written_as_voc(tmp_path: Path) -> None:
    convert(str(write_tree(tmp_path / "one", SPLITS)), "voc", tmp_path / "two")
    root = ElementTree.parse(tmp_path / "two" / "Annotations" / "a.xml").getroot()
    assert [root.findtext(f"size/{tag}") for tag in ("width", "height", "depth")] == ["20", "16", "3"]
    assert root.findtext("filename") == "a.png"
    texts = [[box.findtext(tag) for tag in ("xmin", "ymin", "xmax", "ymax")] for box in root.iter("bndbox")]
    assert texts == [["1", "1", "20", "16"], ["3", "4", "3", "4"], ["9", "9", "8", "8"]]
    assert (tmp_path / "two" / "ImageSets" / "Main" / "trainval.txt").read_text() == "a\ne\nc\n"


def test_what_is_written_as_coco(tmp_path: Path) -> None:
    convert(str(write_tree(tmp_path / "one", SPLITS)), "coco", tmp_path / "two")
    document = json.loads((tmp_path / "two" / "annotations" / "instances_trainval.json").read_text())
    assert document["categories"][0] == {"id": 1, "name": "ant", "supercategory": "none"}
    assert document["images"][2] == {"id": 3, "file_name": "c.png", "width": WIDTH, "height": HEIGHT}
    assert document["annotations"][1] == {
        "id": 2,
        "image_id": 1,
        "category_id": 1,
        "bbox": [2, 3, 1, 1],
        "area": 1,
        "iscrowd": 0,
        "ignore": 1,
        "segmentation": [],
    }
    val = json.loads((tmp_path / "two" / "annotations" / "instances_val.json").read_text())
    assert val["images"][0]["id"] == 3  # an image has one id in all splits
    assert sorted(path.name for path in (tmp_path / "two" / "images").iterdir()) == ["a.png", "c.png", "e.png"]


def test_what_voc_cannot_hold(tmp_path: Path) -> None:
    document = coco_document()
    document["annotations"][0]["segmentation"] = [[1, 2, 3]]
    write_coco_file(tmp_path / "coco" / "annotations" / "val.json", document, tmp_path / "coco" / "images")
    result = convert(str(tmp_path / "coco"), "voc", tmp_path / "voc")
    assert result.losses == [
        "left out: masks",
        "1 crowd boxes are written as difficult: Pascal VOC has no crowds",
        "2 areas are mask areas and left out: Pascal VOC only has box areas",
        "1 boxes have fractions of pixels and are written as decimals, which some readers reject",
        "Pascal VOC has no list of classes: on reading, the classes are those of the objects, by name (here they "
        "were wasp, ant)",
    ]
    before = open_detection(str(tmp_path / "coco"), "val")
    after = open_detection(str(tmp_path / "voc"), "val", class_names=before.class_names)
    assert np.allclose(after.table.boxes, before.table.boxes, atol=1e-9)
    assert after.table.labels.tolist() == before.table.labels.tolist()
    assert after.table.offsets.tolist() == before.table.offsets.tolist()
    assert after.table.difficult.tolist() == [True, False, False]
    assert "<xmin>1.5</xmin>" in (tmp_path / "voc" / "Annotations" / "1.xml").read_text()
    convert(str(tmp_path / "coco"), "coco", tmp_path / "same")
    assert_same(tmp_path / "coco", tmp_path / "same")


def test_names_that_two_splits_share(tmp_path: Path) -> None:
    """Roboflow's and COCO's splits have folders of their own: one name can stand for two images."""
    for split in ("train", "valid"):
        folder = tmp_path / "in" / split
        document = coco_document()
        document["images"][0]["file_name"] = "with blanks.PNG"
        write_coco_file(folder / "_annotations.coco.json", document, folder)
    result = convert(str(tmp_path / "in"), "voc", tmp_path / "out")
    assert result.losses[0] == (
        "4 images have new names: train/with blanks.PNG as with_blanks.PNG, valid/with blanks.PNG as "
        "valid_with_blanks.PNG, valid/2.png as valid_2.png and 1 more"
    )
    one, other = open_splits(str(tmp_path / "out"), class_names=["wasp", "ant"])
    assert [other.name(index) for index in range(3)] == [
        "JPEGImages/valid_with_blanks.PNG",
        "JPEGImages/valid_2.png",
        "JPEGImages/valid_3.png",
    ]
    assert one.image(1).tobytes() != other.image(1).tobytes()


def test_sizes_and_channels_come_from_the_file_where_no_annotation_has_them(tmp_path: Path) -> None:
    tree = write_tree(tmp_path / "voc", {"train": {"a": []}})
    (tree / "Annotations" / "a.xml").write_text(annotation(voc_object("ant", 1, 1, 2, 2), "a.png", size=None))
    Image.new("L", (9, 7)).save(tree / "JPEGImages" / "a.png")
    convert(str(tree), "voc", tmp_path / "again")
    root = ElementTree.parse(tmp_path / "again" / "Annotations" / "a.xml").getroot()
    assert [root.findtext(f"size/{tag}") for tag in ("width", "height", "depth")] == ["9", "7", "1"]
    convert(str(tree), "coco", tmp_path / "coco")
    assert open_detection(str(tmp_path / "coco"), "train").size(0) == (9, 7)


def test_links(tmp_path: Path) -> None:
    tree = write_tree(tmp_path / "voc", SPLITS)
    (tree / "JPEGImages" / "a.png").rename(tmp_path / "elsewhere.png")
    (tree / "JPEGImages" / "a.png").symlink_to(tmp_path / "elsewhere.png")
    convert(str(tree), "coco", tmp_path / "coco", link=True)
    for name, source in (("a", tmp_path / "elsewhere.png"), ("c", tree / "JPEGImages" / "c.png")):
        written = tmp_path / "coco" / "images" / f"{name}.png"
        assert not written.is_symlink()
        assert os.path.samefile(written, source)


def test_nothing_is_left_behind(tmp_path: Path) -> None:
    tree = write_tree(tmp_path / "voc", SPLITS)
    (tmp_path / "empty").mkdir()
    convert(str(tree), "coco", tmp_path / "empty")
    (tree / "JPEGImages" / "c.png").unlink()
    for to, message in (
        ("coco", r"no image at .*c\.png"),
        ("voc", r"c\.png cannot be opened as an image: No such file"),
    ):
        with pytest.raises(InputError, match=message):
            convert(str(tree), to, tmp_path / "out")  # type: ignore[arg-type]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["empty", "voc"]


def test_what_cannot_be_written(tmp_path: Path) -> None:
    tree = write_tree(tmp_path / "voc", {"train": {"b": [("ant", 1, 1, 2, 2)], "a": [("ant", "nan", 1, 2, 2)]}})
    with pytest.raises(InputError, match=r"a\.xml: JPEGImages/a\.png, object 1 \(ant; xmin nan, .*\) .*box"):
        convert(str(tree), "coco", tmp_path / "out")
    for name in ("wa\x01sp", " wasp"):
        document = coco_document(categories=[{"id": 3, "name": name}, {"id": 7, "name": "ant"}])
        write_coco_file(tmp_path / "coco" / "annotations" / "val.json", document, tmp_path / "coco" / "images")
        with pytest.raises(InputError, match="XML cannot hold the class name"):
            convert(str(tmp_path / "coco"), "voc", tmp_path / "out")


def test_one_clear_line(tmp_path: Path) -> None:
    tree = write_tree(tmp_path / "voc", SPLITS)
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "notes.txt").write_text("mine")
    for output, message in (
        (tmp_path / "full", r"full must be an empty folder .*: found in it notes\.txt"),
        (tmp_path / "full" / "notes.txt", r"must be a folder, .*notes\.txt is a file"),
        (tmp_path / "full" / "notes.txt" / "out", r"must be a folder, .*notes\.txt, on the way to .*out, is a file"),
    ):
        with pytest.raises(InputError, match=message):
            convert(str(tree), "coco", output)
    with pytest.raises(InputError, match=r"to must be voc or coco, found 'cocoa'; did you mean 'coco'\?"):
        convert(str(tree), "cocoa", tmp_path / "out")  # type: ignore[arg-type]
    assert (tmp_path / "full" / "notes.txt").read_text() == "mine"


def test_what_two_splits_of_coco_contradict(tmp_path: Path) -> None:
    document = coco_document(categories=[{"id": 3, "name": "wasp"}])
    document["annotations"] = document["annotations"][1:]
    for split in ("train", "minitrain"):
        write_coco_file(tmp_path / "in" / "annotations" / f"{split}.json", document, tmp_path / "in" / "images")
        document["annotations"][0]["bbox"] = [1, 1, 2, 2]
    assert convert(str(tmp_path / "in"), "coco", tmp_path / "coco").images == 3
    with pytest.raises(InputError, match=r"images/1\.png .*minitrain"):
        convert(str(tmp_path / "in"), "voc", tmp_path / "voc")
    document["images"][1]["file_name"] = "1.png"
    write_coco_file(tmp_path / "in" / "annotations" / "train.json", document, tmp_path / "in" / "images")
    with pytest.raises(InputError, match=r"images/1\.png .*train.*twice"):
        convert(str(tmp_path / "in"), "coco", tmp_path / "out")
    document = coco_document(categories=[{"id": 3, "name": "wasp"}])
    write_coco_file(tmp_path / "new" / "annotations" / "train.json", document, tmp_path / "new" / "images")
    with pytest.raises(InputError, match=r"object 1 \(category 7; bbox .*\) .*class"):
        convert(str(tmp_path / "new"), "coco", tmp_path / "out")


def test_blood_cells(shared: Path, tmp_path: Path) -> None:
    tree = shared / "data" / "bccd"
    convert(str(tree), "coco", tmp_path / "coco")
    convert(str(tmp_path / "coco"), "voc", tmp_path / "voc")
    assert_same(tree, tmp_path / "voc")
