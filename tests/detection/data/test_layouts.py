"""Layouts that are near to those of the development kits: what is read of them, and where others are sent."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from compactnets.data.base import MissingSplitError
from compactnets.detection.data import convert, is_detection, open_detection, open_run, open_splits
from compactnets.errors import InputError

from .helpers import HEIGHT, WIDTH, annotation, coco_document, voc_object, write_coco_file, write_image, write_tree

ONE = voc_object("ant", 1, 1, 9, 9)


def put(root: Path, annotations: str, images: str, *stems: str) -> Path:
    for stem in stems:
        (root / annotations).mkdir(parents=True, exist_ok=True)
        (root / annotations / f"{stem}.xml").write_text(annotation(ONE, f"{stem}.png"))
        write_image(root / images / f"{stem}.png")
    return root


@pytest.mark.parametrize(
    ("annotations", "images"),
    [
        (".", "."),
        ("annotations", "images"),
        ("Annotations", "Images"),
        ("xml", "imgs"),
        ("Annotations", "JPEGImages"),
        ("labels", "images"),
        ("Annotations", "."),
        ("export/Annotations", "export/JPEGImages"),
        ("photos", "photos"),
    ],
)
def test_pascal_voc_that_is_not_divided(tmp_path: Path, annotations: str, images: str) -> None:
    root = put(tmp_path / "set", annotations, images, "a", "b", "c", "d", "e")
    (source,) = open_splits(str(root))
    assert (source.split, len(source), source.class_names, source.faults) == ("all", 5, ("ant",), {})
    assert {source.image(index).size for index in range(5)} == {(WIDTH, HEIGHT)}
    with pytest.raises(MissingSplitError, match=r"Pascal VOC.*--split 0\.8"):
        open_detection(str(root), "train")
    train, val = open_run(str(root), share=0.6)
    assert (len(train), len(val), train.split, val.split) == (3, 2, "train", "val")
    assert sorted(train.names + val.names) == sorted(source.names)


@pytest.mark.parametrize("form", ["Annotations/{}|JPEGImages/{}", "{}/annotations|{}/images", "{}|{}"])
def test_pascal_voc_with_a_folder_for_each_split(tmp_path: Path, form: str) -> None:
    annotations, images = form.split("|")
    for split in ("train", "valid"):
        put(tmp_path, annotations.format(split), images.format(split), "a", "b")
    train, val = open_run(str(tmp_path))
    assert (train.split, val.split, len(train), len(val)) == ("train", "valid", 2, 2)
    assert train.image(0).tobytes() != val.image(0).tobytes() or form == "{}/annotations|{}/images"


def test_an_image_without_annotation_is_no_image_without_objects(tmp_path: Path) -> None:
    root = put(tmp_path, ".", ".", "a", "b")
    write_image(root / "c.png")
    (source,) = open_splits(str(root))
    assert list(source.faults) == [2]
    assert "c.xml" in source.faults[2]


@pytest.mark.parametrize("line", ["a", "a.png", "JPEGImages/a.png", "JPEGImages\\a.png", "/data/up/a.png"])
def test_lines_of_a_list(tmp_path: Path, line: str) -> None:
    root = write_tree(tmp_path, {"train": {"a": [("ant", 1, 1, 9, 9)], "b": []}})
    (root / "ImageSets" / "Main" / "train.txt").write_text(f"{line}\n")
    source = open_detection(str(root), "train")
    assert (source.names, source.faults) == (["JPEGImages/a.png"], {})


def test_a_list_that_cannot_be_read_is_that_of_its_split(tmp_path: Path) -> None:
    root = write_tree(tmp_path, {"train": {"a": [("ant", 1, 1, 9, 9)]}, "val": {"b": []}, "test": {"c": []}})
    broken = root / "ImageSets" / "Main" / "test.txt"
    broken.write_bytes(b"\xff\xfe\x00")
    train, val = open_run(str(root))
    assert (len(train), len(val)) == (1, 1)
    with pytest.raises(InputError, match=r"test\.txt is not text in UTF-8"):
        open_detection(str(root), "test")


@pytest.mark.parametrize("encoding", ["gbk", "GB18030", "shift_jis", "utf-16", "big5"])
def test_an_encoding_that_the_annotation_names(tmp_path: Path, encoding: str) -> None:
    root = write_tree(tmp_path, {"train": {"a": []}})
    text = f'<?xml version="1.0" encoding="{encoding}"?>\n' + annotation(voc_object("犬", 1, 1, 9, 9), "a.png")
    (root / "Annotations" / "a.xml").write_bytes(text.encode(encoding))
    source = open_detection(str(root), "train")
    assert (source.class_names, source.faults) == (("犬",), {})


@pytest.mark.parametrize(("named", "written"), [("gb2312", "gbk"), ("GB2312", "gb18030"), ("shift_jis", "cp932")])
def test_an_encoding_that_is_called_by_its_smaller_kin(tmp_path: Path, named: str, written: str) -> None:
    """Windows writes more characters than the encoding has that it names: 镕 is not in GB 2312, ① not in Shift JIS."""
    name = "镕" if written != "cp932" else "①"
    with pytest.raises(UnicodeEncodeError):
        name.encode(named)
    root = write_tree(tmp_path, {"train": {"a": []}})
    text = f'<?xml version="1.0" encoding="{named}"?>\n' + annotation(voc_object(name, 1, 1, 9, 9), "a.png")
    (root / "Annotations" / "a.xml").write_bytes(text.encode(written))
    source = open_detection(str(root), "train")
    assert (source.class_names, source.faults) == ((name,), {})


@pytest.mark.parametrize("encoding", ["latin-1", "gbk"])
def test_an_annotation_that_says_utf_8_and_is_not(tmp_path: Path, encoding: str) -> None:
    root = write_tree(tmp_path, {"train": {"a": [], "b": [("ant", 1, 1, 9, 9)]}})
    name = "Käfer" if encoding == "latin-1" else "小狗"
    text = '<?xml version="1.0" encoding="utf-8"?>\n' + annotation(voc_object(name, 1, 1, 9, 9), "a.png")
    (root / "Annotations" / "a.xml").write_bytes(text.encode(encoding))
    fault = open_detection(str(root), "train").faults[0]
    assert "save it in UTF-8" in fault
    assert str(root / "Annotations" / "a.xml") in fault


@pytest.mark.parametrize("encoding", ["latin-1", "gbk"])
def test_a_coco_file_that_is_not_in_utf_8(tmp_path: Path, encoding: str) -> None:
    put(tmp_path / "voc", "train", "train", "a")
    convert(str(tmp_path / "voc"), "coco", tmp_path / "coco")
    (file,) = (tmp_path / "coco" / "annotations").glob("*.json")
    name = "小狗" if encoding == "gbk" else "Käfer"
    file.write_bytes(file.read_text().replace('"categories"', f'"info": "{name}", "categories"').encode(encoding))
    with pytest.raises(InputError, match="UTF-8") as caught:
        open_detection(str(tmp_path / "coco"), "train")
    assert str(file) in str(caught.value)


def test_an_encoding_that_nothing_names(tmp_path: Path) -> None:
    root = write_tree(tmp_path, {"train": {"a": [], "b": [("ant", 1, 1, 9, 9)]}})
    (root / "Annotations" / "a.xml").write_bytes(annotation(voc_object("小狗和猫", 1, 1, 9, 9)).encode("gbk"))
    source = open_detection(str(root), "train")
    assert "save it in UTF-8" in source.faults[0]


@pytest.mark.parametrize("names", [("training", "validation", "testing"), ("Train", "VALID", "Test")])
def test_what_folders_of_splits_are_called(tmp_path: Path, names: tuple[str, ...]) -> None:
    for name in names:
        put(tmp_path / "voc", name, name, "a")
    write_coco_file(
        tmp_path / "coco" / names[0] / "_annotations.coco.json", coco_document(), tmp_path / "coco" / names[0]
    )
    write_coco_file(
        tmp_path / "coco" / names[1] / "_annotations.coco.json", coco_document(), tmp_path / "coco" / names[1]
    )
    for root in ("voc", "coco"):
        train, val = open_run(str(tmp_path / root))
        assert (train.split, val.split) == (names[0].lower(), names[1].lower())
    assert len(open_detection(str(tmp_path / "voc"), "test")) == 1


def test_lists_beside_main(tmp_path: Path) -> None:
    root = write_tree(tmp_path, {"train": {"a": [("ant", 1, 1, 9, 9)]}, "val": {"b": []}})
    for file in (root / "ImageSets" / "Main").iterdir():
        file.rename(root / "ImageSets" / file.name)
    (root / "ImageSets" / "Main").rmdir()
    assert [source.split for source in open_splits(str(root))] == ["train", "val"]


def test_the_classes_are_those_of_the_objects(tmp_path: Path) -> None:
    """Names that Pascal VOC has too do not become its twenty."""
    root = write_tree(tmp_path, {"train": {"a": [("dog", 1, 1, 9, 9), ("cat", 1, 1, 9, 9)]}, "val": {"b": []}})
    assert open_detection(str(root), "train").class_names == ("cat", "dog")


@pytest.mark.parametrize(
    ("file", "images", "splits"),
    [
        ("annotations/train_coco.json", "images", ["train"]),
        ("annotations/coco_val2017.json", "images", ["val2017"]),
        ("Annotations/instances_train.json", "images", ["train"]),
        ("annotations/instances_default.json", "images", ["default"]),
        ("annotations/person_keypoints_val.json", "images", ["val"]),
        ("train/annotations.json", "train/images", ["train"]),
        ("train/labels.json", "train/data", ["train"]),
        ("result.json", "images", ["all"]),
        ("_annotations.coco.json", ".", ["all"]),
        ("test.json", "images", ["test"]),
    ],
)
def test_names_of_cocos_files(tmp_path: Path, file: str, images: str, splits: list[str]) -> None:
    write_coco_file(tmp_path / file, coco_document(), tmp_path / images)
    sources = open_splits(str(tmp_path))
    assert [source.split for source in sources] == splits
    assert sources[0].image(2).size == (WIDTH, HEIGHT)


def test_other_json_beside_the_annotations(tmp_path: Path) -> None:
    for split in ("train", "val"):
        write_coco_file(tmp_path / "annotations" / f"{split}.json", coco_document(), tmp_path / "images")
    for name, text in (("label_map", '{"1": "cat"}'), ("stats", "[1, 2]"), ("draft", "{")):
        (tmp_path / "annotations" / f"{name}.json").write_text(text)
    sources = open_splits(str(tmp_path))
    assert [source.split for source in sources] == ["train", "val"]
    (note,) = sources[0].notes
    assert "label_map.json" in note
    assert "draft.json" in note
    (tmp_path / "annotations" / "val.json").write_text("{")  # that one was meant
    with pytest.raises(InputError, match=r"val\.json: it is not JSON"):
        open_splits(str(tmp_path))


@pytest.mark.parametrize(
    "written",
    [
        "images\\1.png",
        ".\\images\\1.png",
        "/data/up/1.png",
        "C:\\Users\\me\\1.png",
        "\\\\server\\share\\1.png",
        "../../media/1.png",
        "upload/2024/1.png",
        "1.png",
    ],
)
@pytest.mark.parametrize("every", [True, False])
def test_paths_of_other_machines(tmp_path: Path, written: str, every: bool) -> None:
    document = coco_document()
    write_coco_file(tmp_path / "annotations" / "val.json", document, tmp_path / "images")
    for number, image in enumerate(document["images"]):
        if every or number == 0:
            image["file_name"] = written.replace("1.png", image["file_name"])
    (tmp_path / "annotations" / "val.json").write_text(json.dumps(document))
    source = open_detection(str(tmp_path), "val")
    assert source.names == ["images/1.png", "images/2.png", "images/3.png"]
    moved = "images" not in written and written != "1.png"
    assert bool(source.notes) == moved, source.notes


def test_two_images_that_would_be_one(tmp_path: Path) -> None:
    document = coco_document()
    for number, image in enumerate(document["images"]):
        image["file_name"] = f"/data/{number}/1.png"
    path = tmp_path / "annotations" / "val.json"
    path.parent.mkdir()
    path.write_text(json.dumps(document))
    write_image(tmp_path / "images" / "1.png")
    with pytest.raises(InputError, match=r"val\.json: /data/0/1\.png .*two "):
        open_detection(str(tmp_path), "val")


RUNS = {"size": [HEIGHT, WIDTH], "counts": [2 * HEIGHT + 3, 4, HEIGHT - 4, 4, HEIGHT * (WIDTH - 4) + HEIGHT - 7]}


@pytest.mark.parametrize(
    ("mask", "box"),
    [
        ([[1, 2, 9, 2, 9, 8, 1, 8]], [1, 2, 9, 8]),
        ([1, 2, 9, 2, 9, 8, 1, 8], [1, 2, 9, 8]),
        ([[1, 2, 5, 2, 5, 8], [7, 4, 9.5, 4, 9, 12]], [1, 2, 9.5, 12]),
        (RUNS, [2, 3, 4, 7]),
    ],
)
def test_boxes_of_masks(tmp_path: Path, mask: Any, box: list[float]) -> None:
    if isinstance(mask, dict):
        pytest.importorskip("faster_coco_eval")
    document = coco_document(annotations=[{"id": 1, "image_id": 10, "category_id": 3, "segmentation": mask}])
    write_coco_file(tmp_path / "annotations" / "val.json", document, tmp_path / "images")
    source = open_detection(str(tmp_path), "val")
    assert source.objects(0).boxes.tolist() == [box]
    assert "mask" in source.notes[0]


def test_runs_that_are_compressed(tmp_path: Path) -> None:
    library = pytest.importorskip("faster_coco_eval.core.mask")
    runs = library.frPyObjects(RUNS, HEIGHT, WIDTH)
    mask = {"size": RUNS["size"], "counts": runs["counts"].decode()}
    document = coco_document(annotations=[{"id": 1, "image_id": 10, "category_id": 3, "segmentation": mask}])
    write_coco_file(tmp_path / "annotations" / "val.json", document, tmp_path / "images")
    assert open_detection(str(tmp_path), "val").objects(0).boxes.tolist() == [[2, 3, 4, 7]]


@pytest.mark.parametrize("mask", [[[1, 2]], [[1, 2, "x", 4, 5, 6]], {"size": [2, 2], "counts": [1]}, "mask", [3]])
def test_masks_that_are_none(tmp_path: Path, mask: Any) -> None:
    if isinstance(mask, dict):
        pytest.importorskip("faster_coco_eval")
    document = coco_document(annotations=[{"id": 1, "image_id": 10, "category_id": 3, "segmentation": mask}])
    write_coco_file(tmp_path / "annotations" / "val.json", document, tmp_path / "images")
    assert list(open_detection(str(tmp_path), "val").faults) == [0]


def test_the_optional_fields_of_coco(tmp_path: Path) -> None:
    annotations = [{"image_id": 10, "category_id": 3, "bbox": [1, 2, 3, 4], "area": None, "iscrowd": None}]
    write_coco_file(tmp_path / "annotations" / "val.json", coco_document(annotations=annotations), tmp_path / "images")
    source = open_detection(str(tmp_path), "val")
    assert (source.faults, source.objects(0).areas.tolist()) == ({}, [12])


TASK = {"id": 1, "data": {"image": "/data/upload/1.png"}, "annotations": [{"result": []}]}
SHORT = [{"image": "/data/1.png", "label": [{"x": 1, "rectanglelabels": ["cat"]}], "annotator": 1}]
VIA = {"_via_img_metadata": {"1.png9": {"filename": "1.png", "regions": []}}}
CVAT = '<?xml version="1.0"?><annotations><version>1.1</version><image name="1.png"></image></annotations>'


@pytest.mark.parametrize(
    ("file", "text", "named"),
    [
        ("tasks.json", json.dumps([TASK]), ("Label Studio", "COCO")),
        ("min.json", json.dumps(SHORT), ("Label Studio", "label-studio-converter")),
        ("annotations.xml", CVAT, ("CVAT", "COCO 1.0")),
        ("images/1.json", json.dumps({"shapes": [], "imagePath": "1.png"}), ("LabelMe", "labelme2coco")),
        ("via.json", json.dumps(VIA), ("VGG Image Annotator", "COCO")),
        (
            "_annotations.createml.json",
            json.dumps([{"image": "1.png", "annotations": [{"coordinates": {}}]}]),
            ("CreateML",),
        ),
        ("_annotations.csv", "filename,width,height,class,xmin,ymin,xmax,ymax\n", ("CSV", "COCO")),
        ("train.tfrecord", "", ("TensorFlow",)),
        ("obj.data", "classes = 1\n", ("Darknet", "data.yaml")),
        ("imglab.xml", "<dataset><images/></dataset>", ("dlib", "imglab")),
    ],
)
def test_a_layout_that_is_not_read_is_named(tmp_path: Path, file: str, text: str, named: tuple[str, ...]) -> None:
    write_image(tmp_path / "images" / "1.png")
    (tmp_path / file).write_text(text)
    assert is_detection(str(tmp_path))  # so that no verb takes it for class folders
    with pytest.raises(InputError) as caught:
        open_detection(str(tmp_path), "train")
    for word in (*named, str(tmp_path / file)):
        assert word in str(caught.value)
    assert "\n" not in str(caught.value)


def classes(root: Path) -> None:
    for name in ("cat", "dog"):
        write_image(root / "train" / name / "1.png")


def photographs(root: Path) -> None:
    write_image(root / "1.png")


def archive(root: Path) -> None:
    root.mkdir()
    (root / "set.zip").write_bytes(b"")


@pytest.mark.parametrize(
    ("write", "named"), [(classes, "compactnets train"), (photographs, "draw boxes"), (archive, "unpack")]
)
def test_images_without_boxes(tmp_path: Path, write: Callable[[Path], None], named: str) -> None:
    write(tmp_path / "set")
    assert not is_detection(str(tmp_path / "set"))
    with pytest.raises(InputError, match=named) as caught:
        open_detection(str(tmp_path / "set"), "train")
    assert "\n" not in str(caught.value)
