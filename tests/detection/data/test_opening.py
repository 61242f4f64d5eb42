"""What is taken for images with boxes, and what a user is told of everything else."""

from __future__ import annotations

import unicodedata
from pathlib import Path

import pytest

from compactnets.detection.data import is_detection, open_detection
from compactnets.errors import InputError

from .helpers import annotation, coco_document, voc_object, write_coco_file, write_image, write_tree


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
        ("photos", "photos holds class folders of images without boxes .*train"),
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


def test_capitals_system_folders_and_other_endings(tmp_path: Path) -> None:
    """As with class folders: what the decoder reads is an image, and what a drive or an archiver left is none."""
    for split in ("Train", "Val"):
        folder = tmp_path / "folders" / split
        write_image(folder / "1.gif")
        (folder / "1.xml").write_text(annotation(voc_object("café", 1, 1, 9, 9)))
    write_image(tmp_path / "folders" / "__MACOSX" / "train" / "1.png")
    source = open_detection(str(tmp_path / "folders"), "train")
    assert (source.split, source.names, source.image(0).format) == ("train", ["Train/1.gif"], "GIF")
    tree = write_tree(tmp_path / "kit" / "VOC2007", {"train": {"a": [("cat", 1, 1, 9, 9)]}})
    for inner in ("__MACOSX", "@eaDir"):
        write_tree(tmp_path / "kit" / inner, {"train": {"a": []}})
        (tree / "Annotations" / inner).mkdir()
        (tree / "Annotations" / inner / "a.xml").write_text("not an annotation")
    assert open_detection(str(tmp_path / "kit"), "train").class_names == ("cat",)


def test_accents_are_one_class_however_they_are_encoded(tmp_path: Path) -> None:
    composed, decomposed = (unicodedata.normalize(form, "café") for form in ("NFC", "NFD"))
    objects = {"a": [(decomposed, 1, 1, 9, 9)], "b": [(composed, 1, 1, 9, 9)]}
    source = open_detection(str(write_tree(tmp_path / "voc", {"train": objects})), "train")
    assert (source.class_names, source.table.labels.tolist()) == ((composed,), [0, 0])
    document = coco_document(categories=[{"id": 7, "name": decomposed}, {"id": 3, "name": "wasp"}])
    write_coco_file(tmp_path / "coco" / "annotations" / "val.json", document, tmp_path / "coco" / "images")
    for names in (None, (composed, "wasp"), (decomposed, "wasp")):
        source = open_detection(str(tmp_path / "coco"), "val", class_names=names)
        assert composed in source.class_names
        assert min(source.table.labels) == 0
    surrogate = coco_document(categories=[{"id": 7, "name": "\ud800"}, {"id": 3, "name": "wasp"}])
    write_coco_file(tmp_path / "bad" / "annotations" / "val.json", surrogate, tmp_path / "bad" / "images")
    with pytest.raises(InputError, match="not UTF-8"):
        open_detection(str(tmp_path / "bad"), "val")
