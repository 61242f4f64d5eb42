"""COCO's format and layouts, against another reader of them; one clear line for each file that cannot be used."""

from __future__ import annotations

import contextlib
import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from compactnets.data.base import MissingSplitError
from compactnets.detection.data import check_detection, open_detection, open_splits, review
from compactnets.detection.data.coco import CocoSource
from compactnets.errors import InputError

from .helpers import HEIGHT, WIDTH, coco_document, write_coco_file


def write(root: Path, document: Any = None) -> Path:
    document = coco_document() if document is None else document
    write_coco_file(root / "annotations" / "instances_train2017.json", document, root / "train2017")
    return root


def test_coordinates_and_flags(tmp_path: Path) -> None:
    source = open_detection(str(write(tmp_path)), "train2017")
    assert isinstance(source, CocoSource)
    assert source.class_names == ("wasp", "ant")  # in the order of the ids 3 and 7
    assert source.image_ids == [10, 20, 30]
    first, empty, third = (source.objects(index) for index in range(3))
    assert np.allclose(first.boxes, [[0.5, 0.25, 10.6, 5.25]], rtol=1e-6)
    assert first.crowd.tolist() == [True]
    assert first.areas.tolist() == [9]
    assert len(empty) == 0
    assert third.boxes.tolist() == [[1, 2, 4, 6], [0, 0, WIDTH, HEIGHT]]
    assert third.labels.tolist() == [1, 0]
    assert third.areas.tolist() == [7.5, WIDTH * HEIGHT]  # of the mask; of the box where none is given
    assert not third.crowd.any()
    assert source.name(2) == "train2017/3.png"
    assert source.image(2).size == source.size(2) == (WIDTH, HEIGHT)
    assert source.annotation(2).endswith("annotations/instances_train2017.json")
    assert source.written_box(0, 0) == "bbox [0.5, 0.25, 10.1, 5]"


@pytest.mark.parametrize(
    ("file", "folder", "split"),
    [
        ("annotations/instances_val2017.json", "val2017", "val2017"),
        ("annotations/instances_val2017.json", "images/val2017", "val2017"),
        ("annotations/instances_val.json", "images", "val"),
        ("annotations/val.json", "images", "val"),
        ("annotations/instances_valid.json", "", "valid"),
        ("valid/_annotations.coco.json", "valid", "valid"),
        ("inner/annotations/val.json", "inner/val", "val"),
        ("two/down/test/_annotations.coco.json", "two/down/test", "test"),
    ],
)
def test_layouts(tmp_path: Path, file: str, folder: str, split: str) -> None:
    write_coco_file(tmp_path / file, coco_document(), tmp_path / folder)
    for asked in {split, "test" if split == "test" else "val"}:
        source = open_detection(str(tmp_path), asked)
        assert source.split == split
        assert source.image(0).size == (WIDTH, HEIGHT)
        assert (source.root / source.name(0)).parent == tmp_path / folder


def test_splits(tmp_path: Path) -> None:
    """Other kinds of COCO's files are no splits; a year can be left out where there is one; near names are said."""
    write(tmp_path)
    for name in ("captions_train2017", "person_keypoints_train2017", "instances_val2014", "instances_val2017"):
        write_coco_file(tmp_path / "annotations" / f"{name}.json", coco_document(), tmp_path / "images")
    assert [source.split for source in open_splits(str(tmp_path))] == ["train2017", "val2014", "val2017"]
    assert open_detection(str(tmp_path), "train").split == "train2017"
    with pytest.raises(InputError, match="has val2014 and val2017: .* 'val'"):
        open_detection(str(tmp_path), "val")
    with pytest.raises(MissingSplitError, match=r"no split 'test': found train2017, val2014, val2017"):
        open_detection(str(tmp_path), "test")
    other = coco_document(categories=[{"id": 3, "name": "wasp"}, {"id": 7, "name": "bee"}])
    write_coco_file(tmp_path / "annotations" / "instances_val2014.json", other, tmp_path / "images")
    sources = open_splits(str(tmp_path))
    assert {source.class_names for source in sources} == {("wasp", "ant")}  # those of the training images
    assert list(sources[1].table.unknown.values()) == ["bee"]
    union = open_splits(str(tmp_path), union=True)
    assert {source.class_names for source in union} == {("wasp", "ant", "bee")}
    assert not union[1].table.unknown


def test_unknown_classes(tmp_path: Path) -> None:
    document = coco_document(categories=[{"id": 3, "name": "wasp"}])
    source = open_detection(str(write(tmp_path, document)), "train")
    assert source.objects(2).labels.tolist() == [-1, 0]
    assert source.class_name(2, 0) == "category 7"
    source = open_detection(str(write(tmp_path)), "train", class_names=["bee", "ant"])
    assert source.objects(2).labels.tolist() == [1, -1]
    assert source.class_name(2, 1) == "wasp"


def test_difficult_and_masks(tmp_path: Path) -> None:
    document = coco_document()
    document["annotations"][0] |= {"ignore": 1, "segmentation": [[1, 2, 3, 4, 5, 6]]}
    document["annotations"][1] |= {"difficult": True, "segmentation": {"counts": [1], "size": [2, 2]}}
    document["annotations"][2] |= {"segmentation": [], "keypoints": [1, 2, 2]}
    source = open_detection(str(write(tmp_path, document)), "train")
    assert source.table.difficult.tolist() == [True, True, False]
    assert source.extras == ("keypoints", "masks")


def changed(part: str, position: int, **fields: Any) -> dict[str, Any]:
    document = coco_document()
    document[part][position] |= fields
    return document


@pytest.mark.parametrize(
    ("document", "message"),
    [
        ("{", "it is not JSON: "),
        ("[" * 100_000, "it is not JSON: "),
        ("[]", "expected COCO's object instances, .* found no images and no annotations and no categories"),
        ({"images": [], "categories": []}, "found no annotations; a test set published without boxes cannot be used"),
        (coco_document(images=[]), "list of images is empty"),
        (coco_document(categories=[]), "list of categories is empty"),
        (coco_document(images=[3]), r"images\[0\]: id must be an integer or a text, found null"),
        (changed("images", 1, file_name=""), r'images\[1\]: file_name must be a text, found ""'),
        (changed("images", 1, file_name="../../secret.png"), "path within the folder of the images"),
        (changed("images", 1, file_name="/etc/secret.png"), "path within the folder of the images"),
        (changed("images", 1, file_name="a\0b.png"), r"images\[1\]: file_name must be the name of a file"),
        (changed("images", 2, id=10), r"images\[2\]: the id 10 .* another image"),
        (changed("images", 0, width="20"), r'images\[0\]: width and height must be whole numbers, found \["20", 16\]'),
        (changed("images", 0, width=10**30), "must be whole numbers"),
        (changed("categories", 1, id=7), r"categories\[1\]: the id 7 .*'ant' and 'wasp'"),
        (changed("categories", 1, name="ant"), r"categories\[1\]: the name 'ant' .*7 and 3"),
    ],
)
def test_one_clear_line(tmp_path: Path, document: Any, message: str) -> None:
    file = tmp_path / "annotations" / "instances_train.json"
    file.parent.mkdir()
    file.write_text(document if isinstance(document, str) else json.dumps(document))
    with pytest.raises(InputError, match=message) as caught:
        open_detection(str(tmp_path), "train")
    assert str(caught.value).startswith(f"{file}: ")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("document", "message"),
    [
        (changed("annotations", 1, bbox=[1, 2, 3]), r"annotations\[1\] \(id 6\): bbox must be the four .* \[1, 2, 3\]"),
        (changed("annotations", 1, bbox="box"), "bbox must be a list"),
        (changed("annotations", 1, bbox=[1, 2, "x", 4]), "bbox must be the four numbers"),
        (changed("annotations", 1, bbox=[1, 2, 10**400, 4]), "bbox must be the four numbers"),
        (changed("annotations", 1, area="big"), 'area must be a number, found "big"'),
        (changed("annotations", 1, category_id="3"), 'category_id must be an integer, found "3"'),
        (changed("annotations", 1, category_id=[3]), "category_id must be an integer"),
        (
            changed("annotations", 1, image_id=11),
            r"lacks those of 1 annotations: annotations\[1\] \(id 6\) of image 11",
        ),
        (changed("annotations", 1, image_id=None), "image_id must be an integer or a text, found null"),
        (coco_document(annotations=[3]), r"annotations\[0\]: image_id must be"),
        (coco_document(annotations=[{"image_id": 10, "category_id": 3, "bbox": [[1, 2], [3, 4]]}]), "four numbers"),
    ],
)
def test_an_annotation_that_cannot_be_read(
    tmp_path: Path, document: Any, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """It is refused before a run, and with ``bad_boxes=drop`` its image is left out: it is no image without objects."""
    file = write_coco_file(tmp_path / "annotations" / "instances_train.json", document, tmp_path / "images")
    source = open_detection(str(tmp_path), "train")
    with pytest.raises(InputError, match=message) as caught:
        review(source, "val")
    assert str(caught.value).startswith(f"{file}: ")
    assert "bad_boxes=drop" in str(caught.value)
    assert "\n" not in str(caught.value)
    left = review(source, "val", bad_boxes="drop")
    assert len(left) == 3 - len(source.faults)
    (told,) = [line for line in capsys.readouterr().err.splitlines() if "cannot be read" in line]
    assert str(file) in told
    report = check_detection(str(tmp_path))
    assert not report.clean
    assert report.faults["train"] == [*source.faults.values(), *source.strays]


def test_bytes_that_are_no_text(tmp_path: Path) -> None:
    file = write_coco_file(tmp_path / "annotations" / "train.json", "", tmp_path)
    file.write_bytes(b'{"images": "\xff"}')
    with pytest.raises(InputError, match=r"UTF-8.*0xff"):
        open_detection(str(tmp_path), "train")


def test_missing_images(tmp_path: Path) -> None:
    """One that is missing is reported when it is read; where all are, the folder is wrong."""
    write(tmp_path)
    (tmp_path / "train2017" / "1.png").unlink()
    source = open_detection(str(tmp_path), "train")
    assert source.image(1).size == (WIDTH, HEIGHT)
    with pytest.raises(InputError, match=r"no image at .*train2017/1\.png"):
        source.image(0)
    (tmp_path / "train2017").rename(tmp_path / "pictures")
    with pytest.raises(InputError, match=r"found none of its images, such as 1\.png; looked in .*train2017, .*images"):
        open_detection(str(tmp_path), "train")


def test_no_annotations(tmp_path: Path) -> None:
    source = open_detection(str(write(tmp_path, coco_document(annotations=[]))), "train")
    assert [len(source.objects(index)) for index in range(3)] == [0, 0, 0]


def test_agrees_with_the_reader_of_faster_coco_eval(tmp_path: Path) -> None:
    """Everything that pycocotools' interface reads from a file of 60 images and 400 objects is read here too."""
    coco = pytest.importorskip("faster_coco_eval", reason="faster-coco-eval is not installed").COCO
    random = np.random.default_rng(0)
    image_ids = random.permutation(1000)[:60].tolist()
    category_ids = sorted(random.permutation(90)[:20].tolist())
    document = {
        "images": [{"id": key, "file_name": f"{key}.png", "width": WIDTH, "height": HEIGHT} for key in image_ids],
        "categories": [{"id": key, "name": f"class {key}"} for key in category_ids[::-1]],
        "annotations": [
            {
                "id": number + 1,
                "image_id": int(random.choice(image_ids[:50])),
                "category_id": int(random.choice(category_ids)),
                "bbox": random.uniform(0, 10, 4).round(2).tolist(),
                "iscrowd": int(random.integers(2)),
                "area": float(random.uniform(0, 9)),
            }
            for number in range(400)
        ],
    }
    file = write_coco_file(tmp_path / "annotations" / "instances_val.json", document, tmp_path / "images")
    source = open_detection(str(tmp_path), "val")
    with contextlib.redirect_stdout(io.StringIO()):
        reference = coco(str(file))
    assert isinstance(source, CocoSource)
    assert source.image_ids == list(reference.imgs)
    assert list(source.class_names) == [reference.cats[key]["name"] for key in sorted(reference.getCatIds())]
    for index, key in enumerate(source.image_ids):
        expected = reference.loadAnns(reference.getAnnIds(imgIds=[key]))
        rows = source.table.rows(index)
        boxes = source.table.boxes[rows]
        assert np.allclose(
            np.c_[boxes[:, :2], boxes[:, 2:] - boxes[:, :2]],
            np.array([record["bbox"] for record in expected]).reshape(-1, 4),
            atol=1e-12,
        )
        assert source.table.areas[rows].tolist() == [record["area"] for record in expected]
        assert source.objects(index).crowd.tolist() == [bool(record["iscrowd"]) for record in expected]
        names = [source.class_name(index, number) for number in range(len(expected))]
        assert names == [reference.cats[record["category_id"]]["name"] for record in expected]
