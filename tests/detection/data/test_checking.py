"""The check of images with boxes: every problem that was planted is found, and nothing else."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from compactnets.data.base import MissingSplitError
from compactnets.detection.data import check_detection
from compactnets.detection.data.checking import role_of

from .helpers import HEIGHT, WIDTH, annotation, coco_document, voc_object, write_coco_file, write_tree

CLEAN = {
    "train": {"a": [("ant", 1, 1, 4, 9), ("bee", 3, 4, 6, 7, 1)], "b": [("bee", 2, 2, 5, 5)]},
    "val": {"c": [("ant", 2, 3, 7, 9), ("bee", 2, 3, 7, 9)]},
}
TRAINVAL = {**CLEAN["train"], **CLEAN["val"]}


def names(groups: list) -> list[list[str]]:
    return [[str(found) for found in group] for group in groups]


def test_clean(tmp_path: Path) -> None:
    report = check_detection(str(write_tree(tmp_path, {**CLEAN, "trainval": TRAINVAL})))
    assert report.clean
    assert list(report.splits) == ["train", "val"]
    train = report.splits["train"]
    assert (train.images, train.unreadable, train.empty, train.objects, train.difficult) == (2, 0, 0, 3, 1)
    assert train.classes == {"ant": 1, "bee": 2}
    assert train.box_sizes == (4, 4, 6)
    assert (train.widths, train.heights, train.formats) == ((WIDTH,) * 3, (HEIGHT,) * 3, {"PNG": 2})
    assert report.notes == ["trainval: 3 images, all of them also in train and val and not checked again"]
    lines = list(report.lines())
    assert lines[1:] == [
        "  train: 2 images with 3 objects of 2 classes: ant 1, bee 2",
        "    width 20, height 16 pixels; PNG 2, RGB 2",
        "    boxes 4 to 6 (median 4) pixels, as the square root of the area; 1 difficult",
        "  val: 1 images with 2 objects of 2 classes: ant 1, bee 1",
        "    width 20, height 16 pixels; PNG 1, RGB 1",
        "    boxes 6 pixels, as the square root of the area",
        "cannot be read: 0",
        "bad boxes: 0",
        "same image with different boxes: 0",
        "same image in two splits: 0",
        f"note: {report.notes[0]}",
    ]


def test_one_split_alone(tmp_path: Path) -> None:
    tree = str(write_tree(tmp_path, {**CLEAN, "trainval": TRAINVAL}))
    for split, images in (("val", 1), ("trainval", 3)):
        report = check_detection(tree, split)
        assert report.clean
        assert {name: summary.images for name, summary in report.splits.items()} == {split: images}
    with pytest.raises(MissingSplitError, match="no split 'test'"):
        check_detection(tree, "test")


@pytest.mark.parametrize("workers", [0, 2])
def test_planted_problems(tmp_path: Path, workers: int) -> None:
    tree = write_tree(
        tmp_path,
        {
            "train": {
                **CLEAN["train"],
                "broken": [("ant", 9, 9, 8, 9)],
                "cut": [("bee", 0, 1, 4, 4), ("bee", 30, 1, 40, 4)],
                "twice": [("ant", 1, 1, 4, 4), ("bee", 1, 1, 4, 4), ("ant", 1, 1, 4, 4)],
                "copy": [("bee", 3, 4, 6, 7), ("ant", 1, 1, 4, 9)],  # of a, the same objects in another order
                "empty": [],
                "thin": [("ant", 3, 3, 3, 8)],
            },
            "val": {**CLEAN["val"], "leak": [("bee", 2, 2, 5, 5)], "other": [("ant", 2, 2, 5, 5)]},
            "test": {"missing": [("ant", 1, 1, 2, 2)]},
        },
    )
    images = tree / "JPEGImages"
    for source, target in (("a", "copy"), ("b", "leak"), ("c", "other")):
        shutil.copyfile(images / f"{source}.png", images / f"{target}.png")
    (images / "broken.png").write_bytes((images / "broken.png").read_bytes()[:60])
    (images / "missing.png").unlink()
    (tree / "Annotations" / "empty.xml").write_text(annotation("", size=(HEIGHT, WIDTH)))
    report = check_detection(str(tree), workers=workers)
    assert not report.clean
    assert [str(found) for found in report.unreadable] == [
        "JPEGImages/broken.png (train)",
        "JPEGImages/missing.png (test)",
    ]
    assert "no image at" in report.unreadable[1].reason
    assert {
        split: [(problem.image, problem.number, problem.kind) for problem in problems]
        for split, problems in report.boxes.items()
    } == {
        # that of the broken image by the size that its annotation has
        "train": [("JPEGImages/broken.png", 1, "degenerate"), ("JPEGImages/cut.png", 2, "outside")],
        "val": [],
        "test": [],
    }
    assert [problem.kind for problem in report.remarks["train"]] == ["partly outside", "size differs"]
    assert names(report.conflicts) == [["JPEGImages/c.png (val)", "JPEGImages/other.png (val)"]]
    assert names(report.leaks) == [["JPEGImages/b.png (train)", "JPEGImages/leak.png (val)"]]
    notes = report.notes
    assert notes[0] == "train: 1 of 8 images have no object"
    assert notes[1].startswith("train: 1 boxes reach past the edge of their image and will be clipped; the first: ")
    assert notes[2].startswith("train: 1 images differ in size from their annotation; the first: ")
    assert notes[3:] == [
        "train: 1 boxes are no more than a pixel wide or high: JPEGImages/thin.png, object 1 (ant; xmin 3, ymin 3, "
        "xmax 3, ymax 8)",
        "train: 1 images have the same box of the same class twice: JPEGImages/twice.png (1)",
        "test: 1 classes have no object: bee",
        "train: 1 images are copies of another with the same boxes",
    ]
    lines = list(report.lines())
    for line in ("cannot be read: 2", "bad boxes: 2", "same image in two splits: 1"):
        assert line in lines
    assert any("cut.png, object 2 (bee; xmin 30, ymin 1, xmax 40, ymax 4): less than a pixel" in line for line in lines)
    record = json.loads(json.dumps(report.to_dict()))
    assert record["clean"] is False
    assert record["boxes"]["train"][1]["number"] == 2


def test_leaks_are_between_roles(tmp_path: Path) -> None:
    """The same file in train and val is one; in train and a part of it, or in trainval, it is none."""
    tree = write_tree(tmp_path, {**CLEAN, "train_small": {"a": CLEAN["train"]["a"]}})
    report = check_detection(str(tree))
    assert report.clean
    assert report.notes == ["train_small: 1 images, all of them also in train and not checked again"]
    (tree / "ImageSets" / "Main" / "val.txt").write_text("c\na\n")
    assert names(check_detection(str(tree)).leaks) == [["JPEGImages/a.png (train)", "JPEGImages/a.png (val)"]]
    tree = write_tree(tmp_path / "other", {"trainval": CLEAN["train"], "test": {"a": CLEAN["train"]["a"]}})
    assert names(check_detection(str(tree)).leaks) == [["JPEGImages/a.png (test)", "JPEGImages/a.png (trainval)"]]


def test_roles() -> None:
    splits = ("train2017", "val2017", "trainval", "minival")
    assert [role_of(split, splits) for split in splits] == ["train", "val", None, None]
    assert role_of("trainval", ("trainval", "test")) == "train"
    assert [role_of(split, ()) for split in ("valid", "validation", "test2007")] == ["val", "val", "test"]


def test_coco(tmp_path: Path) -> None:
    document = coco_document()
    document["annotations"].append({"id": 9, "image_id": 20, "category_id": 3, "bbox": [5, 5, -2, 3]})
    document["annotations"].append({"id": 10, "image_id": 20, "category_id": 5, "bbox": [5, 5, 2, float("nan")]})
    write_coco_file(tmp_path / "annotations" / "instances_val2017.json", document, tmp_path / "val2017")
    report = check_detection(str(tmp_path))
    kinds = [(problem.kind, problem.class_name) for problem in report.boxes["val2017"]]
    assert kinds == [("degenerate", "wasp"), ("not finite", "category 5"), ("unknown label", "category 5")]
    assert report.splits["val2017"].crowd == 1
    assert "bbox [5, 5, -2, 3]" in str(report.boxes["val2017"][0])
    json.loads(json.dumps(report.to_dict(), allow_nan=False))


def test_given_classes(tmp_path: Path) -> None:
    report = check_detection(str(write_tree(tmp_path, CLEAN)), class_names=["ant"])
    assert {problem.kind for problem in report.boxes["train"]} == {"unknown label"}


def test_long_lists_are_cut_in_text_only(tmp_path: Path) -> None:
    objects = "".join(voc_object("ant", 9, 9, 8, number) for number in range(30))
    tree = write_tree(tmp_path, {"val": {"a": []}})
    (tree / "Annotations" / "a.xml").write_text(annotation(objects, "a.png"))
    report = check_detection(str(tree))
    assert list(report.lines(20)).count("  and 10 more (--json lists all)") == 1
    assert len(report.to_dict()["boxes"]["val"]) == 30


def test_many_classes_in_one_line(tmp_path: Path) -> None:
    objects = [(f"c{number:02d}", 1, 1, 4, 4) for number in range(11)] + [("c03", 2, 2, 5, 5)]
    report = check_detection(str(write_tree(tmp_path, {"train": {"a": objects}})))
    assert list(report.lines())[1] == "  train: 1 images with 12 objects of 11 classes, from 1 (c00) to 2 (c03) each"


def test_blood_cells(shared: Path) -> None:
    report = check_detection(str(shared / "data" / "bccd"), "val", workers=0)
    assert report.splits["val"].images == 87
    assert not report.unreadable


def test_files_beside_the_images_are_listed(tmp_path: Path) -> None:
    """Those that no split names; an annotation and the system's own are none."""
    tree = write_tree(tmp_path / "voc", CLEAN)
    shutil.copy(tree / "JPEGImages" / "a.png", tree / "JPEGImages" / "unlisted.png")
    (tree / "JPEGImages" / "z.heic").touch()
    (tree / "JPEGImages" / "Thumbs.db").touch()
    report = check_detection(str(tree))
    assert report.left_out == ["JPEGImages/unlisted.png", "JPEGImages/z.heic"]
    assert report.clean
    assert "files left out (.png 1, .heic 1): 2" in list(report.lines())
    assert check_detection(str(tree), "train").left_out == [], "another split may name them"
    for split in ("train", "val"):
        folder = tmp_path / "coco" / split
        write_coco_file(folder / "_annotations.coco.json", coco_document(), folder)
    (folder / "extra.gif").touch()
    assert check_detection(str(tmp_path / "coco")).left_out == ["val/extra.gif"]
