"""YOLO's layout: where its files may lie, how data.yaml may name them, and lines that are none."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from compactnets.detection.data import open_detection, open_run, open_splits, review
from compactnets.errors import InputError

from .helpers import HEIGHT, WIDTH, write_image

BOX = [0.25 * WIDTH, 0.125 * HEIGHT, 0.75 * WIDTH, 0.375 * HEIGHT]
LINE = "1 0.5 0.25 0.5 0.25\n"
NAMES = "names: [ant, bee]\n"


def put(root: Path, images: str, labels: str, *stems: str, text: str = LINE) -> None:
    for stem in stems:
        write_image(root / images / f"{stem}.png")
        (root / labels).mkdir(parents=True, exist_ok=True)
        (root / labels / f"{stem}.txt").write_text(text)


ULTRALYTICS = ("images/{}", "labels/{}")
ROBOFLOW = ("{}/images", "{}/labels")


@pytest.mark.parametrize(
    ("form", "config"),
    [
        (ULTRALYTICS, "train: images/train\nval: images/val\n"),
        (ULTRALYTICS, "path: .\ntrain: images/train/\nval: ./images/val\n"),
        (ULTRALYTICS, "path: {root}\ntrain: images/train\nval: images/val\n"),
        (ULTRALYTICS, "path: ../datasets/mine\ntrain: images/train\nval: images/val\n"),
        (ULTRALYTICS, "train: [images/train]\nval:\n- images/val\n"),
        (ULTRALYTICS, "train: {root}/images/train\nval: /content/mine/images/val\n"),
        (ULTRALYTICS, "train: images\\train\nval: C:\\data\\images\\val\n"),
        (ROBOFLOW, "train: ../train/images\nval: ../val/images\ntest: \n"),
        (ROBOFLOW, "train: train/images\nval: val/images\nnc: 2\nroboflow:\n  version: 1\n"),
        (ULTRALYTICS, "train: train.txt\nval: val.txt\n"),
    ],
)
def test_where_files_lie(tmp_path: Path, form: tuple[str, str], config: str) -> None:
    for split in ("train", "val"):
        put(tmp_path, form[0].format(split), form[1].format(split), "a", "b")
        if "train.txt" in config:
            lines = [f"./images/{split}/a.png", f"C:\\far\\away\\images\\{split}\\b.png"]
            (tmp_path / f"{split}.txt").write_text("\n".join(lines))
    (tmp_path / "data.yaml").write_text(config.replace("{root}", str(tmp_path)) + NAMES)
    for spec in (tmp_path, tmp_path / "data.yaml"):
        train, val = open_run(str(spec))
        assert (train.kind, len(train), len(val), train.class_names) == ("yolo", 2, 2, ("ant", "bee"))
        assert train.objects(0).boxes.tolist() == [BOX]
        assert train.objects(0).labels.tolist() == [1]
        assert train.image(0).tobytes() != val.image(0).tobytes() or form == ROBOFLOW
        assert Path(train.annotation(0)).is_file()


@pytest.mark.parametrize(
    ("images", "labels"),
    [
        ("Images/{}", "Labels/{}"),
        ("images/{}", "annotations/{}"),
        ("JPEGImages/{}", "labels/{}"),
        ("{}/image", "{}/label"),
        ("{}", "{}"),
        ("data/images/{}", "data/labels/{}"),
        ("images/{}", "images/{}"),
    ],
)
@pytest.mark.parametrize("with_config", [True, False])
def test_other_names_of_folders(tmp_path: Path, images: str, labels: str, with_config: bool) -> None:
    for split in ("train", "val"):
        put(tmp_path, images.format(split), labels.format(split), "a", "b")
    if with_config:
        splits = "".join(f"{split}: {images.format(split)}\n" for split in ("train", "val"))
        (tmp_path / "data.yaml").write_text(splits + NAMES)
    else:
        root = tmp_path / Path(images).parts[0] if images.startswith("data") or labels == images != "{}" else tmp_path
        (root / "classes.txt").write_text("ant\nbee\n")
    train, val = open_run(str(tmp_path))
    assert [len(source.objects(1).labels) for source in (train, val)] == [1, 1]


@pytest.mark.parametrize(
    "names",
    ["names: [ant, bee]", "names:\n  0: ant\n  1: bee", "names:\n  1: bee\n  0: ant", "names:\n- ant\n- bee\nnc: 2"],
)
def test_names(tmp_path: Path, names: str) -> None:
    put(tmp_path, "images/train", "labels/train", "a")
    (tmp_path / "data.yaml").write_text(f"train: images/train\n{names}\n")
    assert open_detection(str(tmp_path), "train").class_names == ("ant", "bee")


@pytest.mark.parametrize("names", ["[no, 2024]", "{0: no, 1: 2024}"])
def test_names_are_text(tmp_path: Path, names: str) -> None:
    put(tmp_path, "images/train", "labels/train", "a")
    (tmp_path / "data.yaml").write_text(f"train: images/train\nnames: {names}\n")
    assert open_detection(str(tmp_path), "train").class_names == ("no", "2024")


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ("train: images/train\nnames: {0: ant, 2: bee}\n", "names must be numbered from 0"),
        ("train: images/train\nnames: []\n", "names must be a list"),
        ("train: images/train\nnames: [ant, ant]\n", "found twice: ant"),
        ("train: images/train\nnc: 3\nnames: [ant, bee]\n", "nc is 3"),
        ("train: images/trian\nnames: [ant, bee]\n", "no folder or file for train: 'images/trian'"),
        ("train: ../../etc\nnames: [ant, bee]\n", "no folder or file for train"),
        ("train: {a: b}\nnames: [ant, bee]\n", "train must be a path"),
        ("train: [images/train\nnames: [ant, bee]\n", "is not valid YAML"),
        ("train: images/train\nnames: [ant]\nnames: [ant, bee]\n", "the key 'names' .*twice .line 3"),
        ("train: images/train\nnames: {0: ant, 0: bee}\n", "the key '0' .*twice"),
        (NAMES.encode("utf-16"), "must be text in UTF-8"),
        ("path: .\nnames: [ant, bee]\n", "names no images"),
        (
            'path: "a\\0b"\ntrain: images/train\nnames: [ant, bee]\n',
            r"path must be the path of a folder, found 'a\\x00b'",
        ),
        ('train: "a\\0b"\nnames: [ant, bee]\n', r"no folder or file for train: 'a\\x00b'"),
    ],
)
def test_one_clear_line_for_data_yaml(tmp_path: Path, config: str | bytes, message: str) -> None:
    put(tmp_path, "images/train", "labels/train", "a")
    (tmp_path / "data.yaml").write_bytes(config if isinstance(config, bytes) else config.encode())
    with pytest.raises(InputError, match=message) as caught:
        open_detection(str(tmp_path), "train")
    assert str(tmp_path / "data.yaml") in str(caught.value)
    assert "\n" not in str(caught.value)


def test_darknet_as_cvat_exports_it(tmp_path: Path) -> None:
    put(tmp_path, "obj_train_data", "obj_train_data", "a", "b")
    (tmp_path / "obj.names").write_text("ant\nbee\n")
    (tmp_path / "obj.data").write_text("classes = 2\ntrain = data/train.txt\nnames = data/obj.names\n")
    (tmp_path / "train.txt").write_text("data/obj_train_data/a.png\ndata/obj_train_data/b.png\n")
    (source,) = open_splits(str(tmp_path))
    assert (source.split, len(source), source.objects(0).boxes.tolist()) == ("all", 2, [BOX])


def test_no_names(tmp_path: Path) -> None:
    put(tmp_path, "images/train", "labels/train", "a")
    with pytest.raises(InputError, match=r"YOLO.*data\.yaml.*names.*classes\.txt"):
        open_detection(str(tmp_path), "train")
    (tmp_path / "classes.txt").write_text("ant\nbee\n")
    assert open_detection(str(tmp_path), "train").class_names == ("ant", "bee")
    for text, message in (("ant\nant\n", "found twice: ant"), ("\n", "names must be a list")):
        (tmp_path / "classes.txt").write_text(text)
        with pytest.raises(InputError, match=rf"classes\.txt: .*{message}"):
            open_detection(str(tmp_path), "train")


@pytest.mark.parametrize(("images", "labels"), [("images", "labels"), (".", ".")])
def test_not_divided(tmp_path: Path, images: str, labels: str) -> None:
    """As Label Studio exports it, and labelImg."""
    for number in range(5):
        put(tmp_path, images, labels, f"{number}", text=f"0 0.5 0.{number + 1} 0.5 0.1\n")
    (tmp_path / labels / "classes.txt").write_text("ant\n")
    train, val = open_run(str(tmp_path), share=0.8)
    assert (len(train), len(val), train.class_names) == (4, 1, ("ant",))
    with pytest.raises(InputError, match=r"YOLO.*--split 0\.8"):
        open_run(str(tmp_path))


def open_text(root: Path, text: str | bytes, **settings: Any) -> Any:
    put(root, "images/train", "labels/train", "a")
    (root / "labels" / "train" / "a.txt").write_bytes(text if isinstance(text, bytes) else text.encode())
    more = "".join(f"{key}: {value}\n" for key, value in settings.items())
    (root / "data.yaml").write_text(f"train: images/train\n{NAMES}{more}")
    return open_detection(str(root), "train")


def test_lines(tmp_path: Path) -> None:
    source = open_text(tmp_path, "\ufeff1 0.5 0.25 0.5 0.25\r\n\r\n0 0.1 0.2 0.5 0.2 0.4 0.75 0.2 0.5\n7 0.5 0.5 1 1\n")
    expected = [BOX, [0.1 * WIDTH, 0.2 * HEIGHT, 0.5 * WIDTH, 0.75 * HEIGHT], [0, 0, WIDTH, HEIGHT]]
    for box, other in zip(source.objects(0).boxes.tolist(), expected, strict=True):
        assert box == pytest.approx(other)
    assert source.objects(0).labels.tolist() == [1, 0, -1]
    assert source.class_name(0, 2) == "class 7"
    assert "polygon" in source.notes[0]


def test_key_points(tmp_path: Path) -> None:
    source = open_text(tmp_path, "1 0.5 0.25 0.5 0.25 0.1 0.1 2 0.2 0.2 2\n", kpt_shape="[2, 3]")
    assert source.objects(0).boxes.tolist() == [BOX]
    assert source.extras == ("keypoints",)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("1 0.5 0.25 0.5\n", "line 1: expected a class"),
        ("0 0.5 0.5 0.1 0.1\nant 0.5 0.25 0.5 0.1\n", "line 2: expected a class and numbers, found 'ant"),
        ("0 0.5 0.25 0.5 0.1 0.9\n", "found 6 numbers"),
        ("0 12 8 10 6\n", "shares of the image from 0 to 1"),
        ("0.5 0.5 0.25 0.5 0.1\n", "class must be a number from 0"),
        ("-1 0.5 0.25 0.5 0.1\n", "class must be a number from 0"),
        (b"\xff\xfe0\x00", "must be text in UTF-8"),
    ],
)
def test_one_clear_line(tmp_path: Path, text: str | bytes, message: str) -> None:
    source = open_text(tmp_path, text)
    with pytest.raises(InputError, match=message) as caught:
        review(source, "train")
    assert str(tmp_path / "labels" / "train" / "a.txt") in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("line", ["0 nan 0.25 0.5 0.1", "0 0.5 0.5 0.001 0.5", "0 0.5 0.5 0 0"])
def test_bad_boxes(tmp_path: Path, line: str) -> None:
    source = open_text(tmp_path, f"1 0.5 0.25 0.5 0.25\n{line}\n")
    with pytest.raises(InputError, match=r"a\.txt"):
        review(source, "train")
    assert len(review(source, "train", bad_boxes="drop").objects(0)) == 1


def test_images_without_a_text_file_have_no_objects(tmp_path: Path) -> None:
    put(tmp_path, "images/train", "labels/train", "a")
    write_image(tmp_path / "images" / "train" / "b.png")
    (tmp_path / "data.yaml").write_text("train: images/train\n" + NAMES)
    source = open_detection(str(tmp_path), "train")
    assert [len(source.objects(index)) for index in range(2)] == [1, 0]
    assert "1 of 2 images" in source.notes[0]
    (tmp_path / "labels" / "train" / "a.txt").unlink()
    with pytest.raises(InputError, match="none of the 2 images"):
        open_detection(str(tmp_path), "train")


def test_all_splits(tmp_path: Path) -> None:
    for split in ("train", "valid", "test"):
        put(tmp_path, f"{split}/images", f"{split}/labels", "a")
    (tmp_path / "data.yaml").write_text("train: ../train/images\nval: ../valid/images\ntest: ../test/images\n" + NAMES)
    assert [source.split for source in open_splits(str(tmp_path))] == ["train", "val", "test"]
