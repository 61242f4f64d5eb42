"""``compactnets data check`` as a user meets it."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from ..detection.data.helpers import write_tree
from .helpers import Outcome

Run = Callable[..., Outcome]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    random = np.random.default_rng(0)
    for split in ("train", "val"):
        for name in ("cat [a]", "dog"):
            (tmp_path / split / name).mkdir(parents=True)
            for number in range(2):
                pixels = random.integers(0, 256, (9, 7, 3), dtype=np.uint8)
                Image.fromarray(pixels).save(tmp_path / split / name / f"{number}.png")
    return tmp_path


def test_clean(run: Run, folder: Path) -> None:
    code, out, _ = run("data", "check", folder)
    assert code == 0
    lines = out.splitlines()
    assert lines[0].startswith(f"{folder} (folder), ")
    assert lines[1:] == [
        "  train: 4 images of 2 classes, 2 each",
        "    width 7, height 9 pixels; PNG 4, RGB 4",
        "  val: 4 images of 2 classes, 2 each",
        "    width 7, height 9 pixels; PNG 4, RGB 4",
        "cannot be read: 0",
        "same image under two classes: 0",
        "same image in both splits: 0",
    ]


def test_problems(run: Run, folder: Path) -> None:
    broken = folder / "val" / "dog" / "1.png"
    broken.write_bytes(broken.read_bytes()[:50])
    (folder / "train" / "dog" / "copy.png").write_bytes((folder / "train" / "cat [a]" / "0.png").read_bytes())
    code, out, _ = run("data", "check", folder)
    assert code == 1
    assert "cannot be read: 1\n" in out
    assert str(broken) in out
    assert "  train/cat [a]/0.png (train, cat [a]) = train/dog/copy.png (train, dog)\n" in out
    assert run("data", "check", folder, "--split", "val")[0] == 1
    code, out, _ = run("data", "check", folder, "--json", "--workers", 1)
    assert code == 1
    report = json.loads(out)
    assert report["clean"] is False
    assert [found["name"] for found in report["unreadable"]] == ["val/dog/1.png"]
    assert [[found["class_name"] for found in group] for group in report["conflicts"]] == [["cat [a]", "dog"]]
    assert report["splits"]["train"]["images"] == 5


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("check", "nowhere/at/all"), "no folder at nowhere/at/all"),
        (("check", "hf:no such name"), "expected hf:OWNER/NAME"),
        (("check", "digits", "--split", "both", "--workers", "-1"), r"--workers.*(greater than or equal to 0|x>=0)"),
        (
            ("check", "digits", "--split", "test"),
            "--split must be train, val, both or a share such as 0.8 for images with labels, found",
        ),
        (("check",), "Missing argument"),
        (("convert", "digits", "--to", "coco", "--output", "out"), "no folder at 'digits'"),
        (("convert", "digits", "--to", "yolo", "--output", "out"), "yolo"),
    ],
)
def test_bad_input_is_code_2(run: Run, arguments: tuple[str, ...], message: str) -> None:
    code, out, err = run("data", *arguments)
    assert code == 2
    assert re.search(message, err, re.DOTALL)
    assert not out


@pytest.fixture
def boxes(tmp_path: Path) -> Path:
    train = {"a": [("ant", 1, 1, 4, 9), ("bee [b]", 3, 4, 6, 7, 1)], "b": []}
    return write_tree(tmp_path / "boxes", {"train": train, "test": {"c": [("ant", 2, 3, 7, 9)]}})


def test_images_with_boxes(run: Run, boxes: Path) -> None:
    code, out, err = run("data", "check", boxes, "--download")
    assert code == 0
    assert f"--download has no effect on the folder {boxes}" in err
    lines = out.splitlines()
    assert lines[0].startswith(f"{boxes} (voc), ")
    assert lines[1] == "  train: 2 images with 2 objects of 2 classes: ant 1, bee [b] 1"
    assert "bad boxes: 0" in lines
    assert "note: train: 1 of 2 images have no object" in lines
    assert run("data", "check", boxes, "--split", "test")[0] == 0
    code, out, err = run("data", "check", boxes, "--split", "val")
    assert code == 2
    assert "has no split 'val': found train, test" in err


def test_bad_boxes(run: Run, boxes: Path) -> None:
    file = boxes / "Annotations" / "c.xml"
    file.write_text(file.read_text().replace("<xmax>7</xmax>", "<xmax>1</xmax>"))
    code, out, _ = run("data", "check", boxes)
    assert code == 1
    assert f"  {file}: JPEGImages/c.png, object 1 (ant; xmin 2, ymin 3, xmax 1, ymax 9): its right edge" in out
    code, out, _ = run("data", "check", boxes, "--json", "--workers", 1)
    assert code == 1
    report = json.loads(out)
    assert report["clean"] is False
    assert [problem["kind"] for problem in report["boxes"]["test"]] == ["degenerate"]
    assert report["splits"]["train"]["classes"] == {"ant": 1, "bee [b]": 1}


def test_convert(run: Run, boxes: Path, tmp_path: Path) -> None:
    output = tmp_path / "coco [1]"
    code, out, _ = run("data", "convert", boxes, "--to", "coco", "--output", output, "--link")
    assert code == 0
    assert out.splitlines() == [
        f"{boxes} -> {output} (coco): 3 images (train 2, test 1), 3 objects",
        'note: 1 difficult objects have "ignore": 1, which pycocotools ignores: it counts them',
    ]
    code, out, _ = run("data", "convert", output, "--to", "voc", "--output", tmp_path / "voc", "--json")
    assert code == 0
    assert json.loads(out)["splits"] == {"train": 2, "test": 1}
    code, out, err = run("data", "convert", output, "--to", "voc", "--output", tmp_path / "voc")
    assert code == 2
    assert "must be an empty folder" in err
    assert not out


def test_help(run: Run) -> None:
    code, out, _ = run("data", "--help")
    assert code == 0
    assert "check" in out
    assert "convert" in out
    code, out, _ = run("data", "check", "--help")
    assert code == 0
    for option in ("--split", "--workers", "--json", "--download"):
        assert option in out
