"""What is taken for images with boxes, and what a user is told of everything else."""

from __future__ import annotations

from pathlib import Path

import pytest

from compactnets.detection.data import is_detection, open_detection
from compactnets.errors import InputError

from .helpers import coco_document, write_coco_file, write_image, write_tree


def test_is_detection(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    voc = write_tree(tmp_path / "kit" / "VOC2007", {"train": {"a": []}})
    write_coco_file(tmp_path / "coco" / "annotations" / "val.json", coco_document(), tmp_path / "coco" / "images")
    write_image(tmp_path / "photos" / "train" / "cat" / "1.png")
    (tmp_path / "partly" / "Annotations").mkdir(parents=True)
    (tmp_path / "partly" / "JPEGImages").mkdir()
    for spec in (voc, voc.parent, tmp_path / "coco", tmp_path / "partly"):
        assert is_detection(str(spec))
    others = (tmp_path / "photos", tmp_path / "missing", voc / "Annotations" / "a.xml", "", "x{0..9}.tar" * 100)
    for spec in others:
        assert not is_detection(str(spec))
    monkeypatch.chdir(tmp_path)
    (tmp_path / "kit").rename("digits")
    assert not is_detection("digits")  # the word, as everywhere
    assert is_detection("./digits")
    assert not is_detection("hf:owner/name")


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("phots", r"no folder at '.*phots'; did you mean 'photos'\?"),
        ("photos", r"holds no images with boxes: expected Annotations/\*\.xml, .*COCO\); found train/"),
        ("photos/train/1.png", "is a file: expected a folder"),
        (".", r"more than one set of images with boxes: give the path of one of .*one \(voc\), .*two \(coco\)"),
        ("partly", r"partly has no JPEGImages/: expected .* found Annotations/, ImageSets/"),
    ],
)
def test_one_clear_line(tmp_path: Path, spec: str, message: str) -> None:
    write_image(tmp_path / "photos" / "train" / "1.png")
    write_tree(tmp_path / "one", {"train": {"a": []}})
    write_coco_file(tmp_path / "two" / "annotations" / "val.json", coco_document(), tmp_path / "two" / "images")
    if spec == "partly":
        (tmp_path / "partly" / "ImageSets" / "Main").mkdir(parents=True)
        (tmp_path / "partly" / "Annotations").mkdir()
    with pytest.raises(InputError, match=message) as caught:
        open_detection(str(tmp_path / spec), "train")
    assert "\n" not in str(caught.value)


def test_no_spec() -> None:
    with pytest.raises(InputError, match="no folder at ''"):
        open_detection("", "train")
