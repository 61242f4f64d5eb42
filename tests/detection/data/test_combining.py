"""Several folders as one set, and one split as two."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest

from compactnets.data.base import MissingSplitError
from compactnets.detection.data import check_detection, convert, open_detection, open_run, open_splits, review
from compactnets.detection.data.conversion import split_detection
from compactnets.errors import InputError

from .helpers import annotation, coco_document, voc_object, write_coco_file, write_image, write_tree

BOX = (2, 2, 9, 9)


def roots(root: Path) -> list[str]:
    """As VOC2007 and VOC2012 lie beside each other: the same names, and a test split in one of them."""
    one = {"trainval": {"a": [("ant", *BOX)], "b": []}, "test": {"c": [("bee", *BOX)]}}
    other = {"trainval": {"a": [("bee", 3, 3, 4, 4), ("cow", *BOX)]}}
    return [str(write_tree(root / name, splits)) for name, splits in (("VOC2007", one), ("VOC2012", other))]


def test_several_folders(tmp_path: Path) -> None:
    folders = roots(tmp_path)
    with pytest.raises(InputError, match="--data .*VOC2007 --data .*VOC2012"):
        open_detection(str(tmp_path), "trainval")
    train, test = open_run(folders, "trainval", "test")
    assert train.names == ["VOC2007/JPEGImages/a.png", "VOC2007/JPEGImages/b.png", "VOC2012/JPEGImages/a.png"]
    assert train.class_names == test.class_names == ("ant", "bee", "cow")
    assert [train.objects(index).labels.tolist() for index in range(3)] == [[0], [], [1, 2]]
    Path(folders[1], "JPEGImages", "a.png").unlink()
    with pytest.raises(InputError, match="VOC2012/JPEGImages/a.png"):
        train.image(2)
    assert train.annotation(2) == f"{folders[1]}/Annotations/a.xml"
    assert train.written_box(2, 0) == "xmin 3, ymin 3, xmax 4, ymax 4"
    assert len(test) == 1
    assert any(folders[1] in note for note in test.notes)
    picked = train.pick([2, 0])
    assert picked.annotation(0) == f"{folders[1]}/Annotations/a.xml"
    assert picked.written_box(0, 1) == "xmin 2, ymin 2, xmax 9, ymax 9"
    with pytest.raises(MissingSplitError, match="no split 'val'"):
        open_detection(folders, "val")
    with pytest.raises(InputError, match="given twice"):
        open_detection([folders[0], folders[0]], "test")


def test_several_folders_of_several_layouts(tmp_path: Path) -> None:
    voc = str(write_tree(tmp_path / "voc", {"train": {"a": [("wasp", *BOX)]}, "val": {"b": []}}))
    for split in ("train", "val"):
        file = tmp_path / "coco" / "annotations" / f"instances_{split}.json"
        write_coco_file(file, coco_document(), tmp_path / "coco" / "images")
    sources = open_splits([voc, str(tmp_path / "coco")])
    assert [(source.split, len(source)) for source in sources] == [("train", 4), ("val", 4)]
    assert set(sources[0].class_names) == {"wasp", "ant"}
    assert "bbox" in sources[0].written_box(1, 0)
    assert check_detection([voc, str(tmp_path / "coco")]).splits["train"].objects == 4
    result = convert([voc, str(tmp_path / "coco")], "coco", tmp_path / "out")
    assert result.splits == {"train": 4, "val": 4}


def test_faults_of_several_folders(tmp_path: Path) -> None:
    folders = roots(tmp_path)
    broken = Path(folders[1]) / "Annotations" / "a.xml"
    broken.write_text("nothing")
    with pytest.raises(InputError, match="broken|a.xml"):
        review(open_detection(folders, "trainval", class_names=["ant"]), "train")
    broken.write_text(annotation(voc_object("fly", *BOX)))
    source = open_detection(folders, "trainval", class_names=["ant"])
    assert source.class_name(2, 0) == "fly"


def write_flat(root: Path, count: int) -> Path:
    for number in range(count):
        write_image(root / f"{number}.png")
        (root / f"{number}.xml").write_text(annotation(voc_object("ant", 1, 1, 2 + number, 9), f"{number}.png"))
    return root


def boxes(source: object) -> list[float]:
    return sorted(np.asarray(source.table.boxes)[:, 2].tolist())  # type: ignore[attr-defined]


def test_a_division_follows_from_the_files(tmp_path: Path) -> None:
    root = write_flat(tmp_path / "one", 10)
    train, val = open_run(str(root), share=0.7)
    assert (len(train), len(val)) == (7, 3)
    assert sorted(train.names + val.names) == sorted(f"{number}.png" for number in range(10))
    for number in range(10):  # other names, in another order
        for ending in ("png", "xml"):
            target = tmp_path / "two" / f"x{9 - number}.{ending}"
            target.parent.mkdir(exist_ok=True)
            shutil.copy(root / f"{number}.{ending}", target)
        file = tmp_path / "two" / f"x{9 - number}.xml"
        file.write_text(file.read_text().replace(f"{number}.png", f"x{9 - number}.png"))
    again = open_run(str(tmp_path / "two"), share=0.7)
    assert [boxes(source) for source in again] == [boxes(train), boxes(val)]


def test_copies_are_in_one_part(tmp_path: Path) -> None:
    root = write_flat(tmp_path, 8)
    for number in range(0, 8, 2):
        shutil.copy(root / f"{number}.png", root / f"{number + 1}.png")
    train, val = open_run(str(root), share=0.5)
    assert (len(train), len(val)) == (4, 4)
    assert not {source.image(i).tobytes() for source in (train,) for i in range(4)} & {
        val.image(index).tobytes() for index in range(4)
    }
    for number in range(1, 8):
        shutil.copy(root / "0.png", root / f"{number}.png")
    with pytest.raises(InputError, match="two different images"):
        open_run(str(root), share=0.5)


def test_what_is_divided_is_not_divided_again(tmp_path: Path) -> None:
    root = str(write_tree(tmp_path, {"train": {"a": [("ant", *BOX)]}, "val": {"b": []}}))
    with pytest.raises(InputError, match="already split into train, val"):
        open_run(root, share=0.5)


def test_data_split(tmp_path: Path) -> None:
    root = write_flat(tmp_path / "photos", 10)
    result = split_detection(str(root), tmp_path / "out")
    assert (result.format, result.splits) == ("voc", {"train": 8, "val": 2})
    for one, other in zip(open_run(str(root), share=0.8), open_run(str(tmp_path / "out")), strict=True):
        assert boxes(one) == boxes(other)
    with pytest.raises(InputError, match="already exists"):
        split_detection(str(root), tmp_path / "out")
    with pytest.raises(InputError, match="already split"):
        split_detection(str(tmp_path / "out"), tmp_path / "other")
    write_coco_file(tmp_path / "coco" / "result.json", coco_document(), tmp_path / "coco" / "images")
    result = split_detection(str(tmp_path / "coco"), tmp_path / "other", 0.5)
    assert (result.format, sum(result.splits.values())) == ("coco", 3)


def test_conversion_without_what_cannot_be_read(tmp_path: Path) -> None:
    root = write_flat(tmp_path / "photos", 4)
    (root / "1.xml").write_text("nothing")
    (root / "2.xml").write_text(annotation(voc_object("ant", "nan", 1, 5, 5), "2.png"))
    with pytest.raises(InputError, match=r"1\.xml.*--bad-boxes drop"):
        convert(str(root), "coco", tmp_path / "out")
    result = convert(str(root), "coco", tmp_path / "out", bad_boxes="drop")
    assert (result.images, result.objects) == (3, 2)
    assert any("1.xml" in line for line in result.losses)
    with pytest.raises(InputError, match=r"1\.xml.*--bad-boxes drop"):
        split_detection(str(root), tmp_path / "divided", 0.5)
    divided = split_detection(str(root), tmp_path / "divided", 0.5, bad_boxes="drop")
    assert sum(divided.splits.values()) == 3
    assert any("finite" in line for line in result.losses)
