"""Pascal VOC trees: coordinates, classes, files; one clear line for each that cannot be used."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from compactnets.data.base import MissingSplitError
from compactnets.detection.data import open_detection, open_splits, review
from compactnets.detection.data.voc import VocSource
from compactnets.errors import InputError

from .helpers import HEIGHT, WIDTH, annotation, voc_object, write_image, write_tree

SPLITS = {
    "train": {"a": [("wasp", 1, 1, WIDTH, HEIGHT), ("ant", 3, 4, 3, 4, 1)], "b": []},
    "val": {"c": [("bee", 2, 3, 7, 9)]},
}


def test_coordinates_and_flags(tmp_path: Path) -> None:
    source = open_detection(str(write_tree(tmp_path, SPLITS)), "train")
    assert isinstance(source, VocSource)
    assert (source.kind, source.split, source.spec, len(source)) == ("voc", "train", str(tmp_path), 2)
    assert source.class_names == ("ant", "bee", "wasp")  # bee is in val only
    objects = source.objects(0)
    # the whole image, and a single pixel: areas are those of the development kit, which adds one to every length
    assert objects.boxes.tolist() == [[0, 0, WIDTH, HEIGHT], [2, 3, 3, 4]]
    assert objects.areas.tolist() == [WIDTH * HEIGHT, 1]
    assert objects.labels.tolist() == [2, 0]
    assert objects.difficult.tolist() == [False, True]
    assert not objects.crowd.any()
    dtypes = [value.dtype for value in vars(objects).values()]
    assert dtypes == [torch.float32, torch.int64, torch.bool, torch.bool, torch.float32]
    assert len(source.objects(1)) == 0
    assert source.objects(1).boxes.shape == (0, 4)
    assert source.size(0) == (WIDTH, HEIGHT) == source.image(0).size
    assert source.name(1) == "JPEGImages/b.png"
    assert source.annotation(1) == str(tmp_path / "Annotations" / "b.xml")
    assert source.class_name(0, 1) == "ant"
    assert source.written_box(0, 1) == "xmin 3, ymin 4, xmax 3, ymax 4"
    assert repr(source) == f"VocSource({str(tmp_path)!r}, 'train'): 2 images with 2 objects of 3 classes"


def test_what_development_kits_hold(tmp_path: Path) -> None:
    """VOC2007's parts, VOC2012's fractions, the lists of single classes, and layouts with the kit's folders."""
    tree = write_tree(tmp_path / "VOCdevkit" / "VOC2007", {"trainval": {"000005": []}, "test": {"000001": []}})
    part = "<part><name>head</name><bndbox><xmin>1</xmin><ymin>1</ymin><xmax>2</xmax><ymax>2</ymax></bndbox></part>"
    person = voc_object("person", 45.7, 2, 50.25, 9).replace("</object>", f"<pose>Left</pose>{part}</object>")
    (tree / "Annotations" / "000005.xml").write_text(annotation(person))
    (tree / "ImageSets" / "Main" / "person_trainval.txt").write_text("000005  1\n")
    source = open_detection(str(tmp_path), "trainval")
    assert source.class_names == ("person",)
    assert source.table.boxes.tolist() == [[44.7, 1, 50.25, 9]]
    assert source.extras == ("parts", "pose")
    assert source.spec == str(tmp_path)
    assert source.root == tree
    assert [other.split for other in open_splits(str(tmp_path))] == ["test", "trainval"]
    for spec in (tmp_path / "VOCdevkit", tree):
        assert open_detection(str(spec), "trainval").fingerprint() == source.fingerprint()
    write_tree(tmp_path / "VOCdevkit" / "VOC2012", {"val": {"2008_1": []}})
    with pytest.raises(InputError, match=r"more than one set .* one of .*VOC2007 \(voc\), .*VOC2012 \(voc\)"):
        open_detection(str(tmp_path), "val")


def test_annotations_beside_the_images(tmp_path: Path) -> None:
    """As Roboflow exports them: one name can stand for an image of each split, and dots are part of names."""
    for split, name, objects in (
        ("train", "a_jpg.rf.1b2c", voc_object("ant", 1, 1, 4, 4)),
        ("train", "b_jpg.rf.3d4e", ""),
        ("valid", "a_jpg.rf.1b2c", voc_object("bee", 2, 3, 7, 9)),
    ):
        folder = tmp_path / "export" / split
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f"{name}.xml").write_text(annotation(objects, filename=f"{name}.png"))
        write_image(folder / f"{name}.png")
    (tmp_path / "export" / "notes").mkdir()
    (tmp_path / "export" / "notes" / "other.xml").write_text("<html/>")
    train, val = open_splits(str(tmp_path))
    assert (train.kind, train.split, val.split) == ("voc", "train", "valid")
    assert train.class_names == val.class_names == ("ant", "bee")
    assert train.names == ["train/a_jpg.rf.1b2c.png", "train/b_jpg.rf.3d4e.png"]
    assert train.image(0).size == (WIDTH, HEIGHT)
    assert train.annotation(0) == str(tmp_path / "export" / "train" / "a_jpg.rf.1b2c.xml")
    assert train.objects(0).boxes.tolist() == [[0, 0, 4, 4]]
    assert len(train.objects(1)) == 0
    assert open_detection(str(tmp_path / "export"), "val").objects(0).labels.tolist() == [1]
    write_image(tmp_path / "export" / "valid" / "bare.png")
    val = open_detection(str(tmp_path), "val")
    assert list(val.faults) == [1]
    assert str(tmp_path / "export" / "valid" / "bare.xml") in val.faults[1]
    assert not open_detection(str(tmp_path), "train").faults


def test_given_classes(tmp_path: Path) -> None:
    tree = str(write_tree(tmp_path, SPLITS))
    source = open_detection(tree, "train", class_names=["wasp", "fly"])
    assert source.class_names == ("wasp", "fly")
    assert source.objects(0).labels.tolist() == [0, -1]
    assert source.class_name(0, 1) == "ant"
    for names, message in (([], "class_names is empty"), (["ant", "bee", "ant"], "found twice: ant")):
        with pytest.raises(InputError, match=message):
            open_detection(tree, "train", class_names=names)


def test_image_files(tmp_path: Path) -> None:
    """The ending that the annotation names, else the only file of the name; a missing one is reported when read."""
    tree = write_tree(tmp_path, {"train": {"a": [("ant", 1, 1, 2, 2)], "b": [], "c": [], "d.v2": []}})
    images = tree / "JPEGImages"
    for name in ("a.bmp", "b.BMP", "._b.png"):
        write_image(images / name)
    (images / "b.png").unlink()
    (images / "c.png").unlink()
    (tree / "Annotations" / "d.v2.xml").write_text(annotation("", "another name.JPG"))
    (tree / "Annotations" / "._d.xml").write_text("hidden")
    source = open_detection(str(tree), "train")
    assert [source.name(index) for index in range(4)] == [
        "JPEGImages/a.png",
        "JPEGImages/b.BMP",
        "JPEGImages/c.png",
        "JPEGImages/d.v2.png",
    ]
    assert source.annotation(3).endswith("Annotations/d.v2.xml")
    with pytest.raises(InputError, match=r"no image at .*JPEGImages/c\.png"):
        source.image(2)
    (tree / "Annotations" / "a.xml").write_text(annotation(voc_object("ant", 1, 1, 2, 2)))
    with pytest.raises(InputError, match=r"a\.xml .*a\.bmp, a\.png"):
        open_detection(str(tree), "train")


BOX = "<bndbox><xmin>1</xmin><ymin>1</ymin><xmax>2</xmax><ymax>2</ymax></bndbox>"
BOMB = '<!DOCTYPE x [<!ENTITY a "aaaa"><!ENTITY b "&a;&a;&a;&a;">]>' + annotation(voc_object("&b;", 1, 1, 2, 2))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "not well-formed XML: no element found"),
        ("<annotation>", "not well-formed XML"),
        ("<html></html>", "expected <annotation>.*found <html>"),
        (BOMB, "declares a document type"),
        (BOMB.encode("utf-16"), "declares a document type"),
        (b"<?xml version='1.0' encoding='nothing'?><annotation/>", "not well-formed XML"),
        (b"<annotation>\xff</annotation>", "not well-formed XML"),
        (annotation("<object><difficult>0</difficult></object>"), "object 1 has no <name>"),
        (
            annotation(voc_object("ant", 1, 1, 2, 2) + "<object><name>bee</name></object>"),
            r"object 2 \(bee\) has no <bnd",
        ),
        (annotation(voc_object("ant", "one", 1, 2, 2)), r"object 1 \(ant\): <xmin> must be a number, found 'one'"),
        (
            annotation(f"<object><name>ant</name>{BOX}</object>".replace("<ymax>2</ymax>", "")),
            "<ymax> must be a number",
        ),
        (annotation(voc_object("ant", 1, 1, 2, 2, "maybe")), "<difficult> must be 0 or 1, found 'maybe'"),
        (annotation("", size=("wide", 2)), "<size>: <width> must be a number, found 'wide'"),
        (annotation("", size=(2.5, 2)), r"<size>: width and height must be whole numbers, found 2\.5 and 2"),
        (annotation("", size=("1e30", 2)), "must be whole numbers"),
    ],
)
def test_one_clear_line_for_an_annotation(tmp_path: Path, text: str | bytes, message: str) -> None:
    tree = write_tree(tmp_path, SPLITS)
    file = tree / "Annotations" / "b.xml"
    file.write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(InputError, match=message) as caught:
        review(open_detection(str(tree), "train"), "train")
    assert str(caught.value).startswith(f"{file}: ")
    assert "\n" not in str(caught.value)
    left = review(open_detection(str(tree), "train"), "train", bad_boxes="drop")
    assert left.names == ["JPEGImages/a.png"]
    (note,) = open_detection(str(tree), "val").notes  # no reason to refuse another split
    assert str(file) in note
    assert len(review(open_detection(str(tree), "val"), "val")) == 1


def test_how_many_annotations_are_broken(tmp_path: Path) -> None:
    tree = write_tree(tmp_path, SPLITS)
    for name in ("a", "c"):
        (tree / "Annotations" / f"{name}.xml").write_text("nothing")
    with pytest.raises(InputError, match=r"no annotation has an object.* 2 cannot be read, the first: .*a\.xml"):
        open_detection(str(tree), "train")
    (tree / "Annotations" / "b.xml").write_text("nothing")
    with pytest.raises(InputError, match=r"a\.xml: .*b\.xml, .*c\.xml"):
        open_detection(str(tree), "train")


@pytest.mark.parametrize("flag", ["", "0", "Unspecified", "False", "1", "true"])
def test_difficult_as_tools_write_it(tmp_path: Path, flag: str) -> None:
    tree = write_tree(tmp_path, {"train": {"a": [("ant", 1, 1, 9, 9, flag)]}})
    assert open_detection(str(tree), "train").table.difficult.tolist() == [flag in ("1", "true")]


@pytest.mark.parametrize("size", [("", ""), (0, 0), ("", 16), None])
def test_sizes_that_say_nothing(tmp_path: Path, size: tuple | None) -> None:
    tree = write_tree(tmp_path, {"train": {"a": [("ant", 1, 1, 9, 9)]}})
    (tree / "Annotations" / "a.xml").write_text(annotation(voc_object("ant", 1, 1, 9, 9), "a.png", size))
    source = open_detection(str(tree), "train")
    assert source.size(0) is None
    assert source.read_size(0) == (WIDTH, HEIGHT)


def test_one_clear_line_for_a_tree(tmp_path: Path) -> None:
    tree = write_tree(tmp_path, SPLITS)
    lists = tree / "ImageSets" / "Main"
    (lists / "empty.txt").write_text("\n")
    with pytest.raises(MissingSplitError, match=r"no split 'trian': found train, val; did you mean 'train'\?"):
        open_detection(str(tree), "trian")
    with pytest.raises(MissingSplitError, match="no split 'empty'"):
        open_detection(str(tree), "empty")
    for text, message in (
        ("a\nb\na\n", r"train\.txt must list an image once, found twice: .*a"),
        ("../a\n", r"a line must be a path within the folder of the images, found '\.\./a'"),
    ):
        (lists / "train.txt").write_text(text)
        with pytest.raises(InputError, match=message):
            open_detection(str(tree), "train")
    (lists / "train.txt").write_bytes(b"\xff\xfe")
    with pytest.raises(InputError, match=r"train\.txt is not text in UTF-8"):
        open_detection(str(tree), "train")
    (lists / "train.txt").write_text("a\nx\ny\n")
    with pytest.raises(InputError, match=r"train\.txt: no annotation of .*x, .*Annotations/x\.xml \(and 1 more\)"):
        review(open_detection(str(tree), "train"), "train")
    assert review(open_detection(str(tree), "train"), "train", bad_boxes="drop").names == ["JPEGImages/a.png"]


def test_no_objects_at_all(tmp_path: Path) -> None:
    tree = str(write_tree(tmp_path, {"train": {"a": []}}))
    with pytest.raises(InputError, match="no annotation has an object"):
        open_detection(tree, "train")
    assert len(open_detection(tree, "train", class_names=["ant"])) == 1


def test_fingerprint(tmp_path: Path) -> None:
    def digest(name: str, splits: dict = SPLITS, split: str = "train") -> str:
        return open_detection(str(write_tree(tmp_path / name, splits)), split).fingerprint()

    moved = {**SPLITS, "train": {**SPLITS["train"], "a": [("wasp", 1, 1, WIDTH, HEIGHT), ("ant", 3, 4, 3, 5, 1)]}}
    easier = {**SPLITS, "train": {**SPLITS["train"], "a": [("wasp", 1, 1, WIDTH, HEIGHT), ("ant", 3, 4, 3, 4, 0)]}}
    other_class = {**SPLITS, "val": {"c": [("fly", 2, 3, 7, 9)]}}
    assert digest("one") == digest("two")
    assert len({digest("one"), digest("moved", moved), digest("easy", easier), digest("fly", other_class)}) == 4
    assert digest("one") != digest("one", split="val")


def test_blood_cells(shared: Path) -> None:
    """BCCD, whose tree lies one level down; counts are those of its files."""
    sources = open_splits(str(shared / "data" / "bccd"))
    assert [(source.split, len(source)) for source in sources] == [
        ("train", 205),
        ("val", 87),
        ("test", 72),
        ("trainval", 292),
    ]
    assert {source.class_names for source in sources} == {("Platelets", "RBC", "WBC")}
    assert sum(len(source.table.labels) for source in sources[:3]) == 4888
    assert len(sources[3].table.labels) == len(sources[0].table.labels) + len(sources[1].table.labels)
    assert sources[0].image(0).size == (640, 480)
