"""Small data sets as people have them, with one thing each that went wrong: each ends in a run or in one clear line."""

from __future__ import annotations

from pathlib import Path

import pytest

from compactnets.detection.data import convert, open_run, review_both
from compactnets.detection.task import TASK
from compactnets.errors import InputError

from .helpers import tiny_recipe

# folder -> what the line names where a run is refused: the layout or file, and what to do
REFUSED = {
    "c19_roboflow_samename": ("_annotations.coco.json", "raccoon", "another name"),
    "l1_labelimg": ("Pascal VOC", "--split 0.8"),
    "l2_flat": ("Pascal VOC", "--split 0.8"),
    "l3_nosets": ("Pascal VOC", "--split 0.8"),
    "l4_cvat_voc": ("Pascal VOC", "--split 0.8"),
    "v17_all_negative_train": ("Annotations", "annotate"),
    "v26_truncated_val": ("JPEGImages/c.jpg", "on_error=skip"),
    "w7_all_swapped": ("Annotations/i0.xml", "bad_boxes=drop"),
    "w8_devkit": ("VOC2007", "--data"),
    "y2_ultralytics": ("YOLO", "data.yaml"),
}
TRUNCATED = "x5_one_broken"  # a training image, which is decoded when the run comes to it
READ = [
    *("c04_val_fewer_cats", "c08_backslash", "c09_absolute", "c11_seg_only", "c20_roboflow", "v07_difficult_text"),
    *("v09_size_zero", "v13_unicode", "v16_negatives", "v21_exif6", "v22_exif3_180", "v24_small", "w1_bad_val"),
    *("w9_extra_json", "x1_gbk", "x5_one_broken", "y1_roboflow_yolo"),
]
UNDIVIDED = [name for name in REFUSED if name.startswith("l")]


@pytest.fixture(scope="module")
def cases(shared: Path) -> Path:
    root = shared / "cases" / "detection"
    if not root.is_dir():
        pytest.skip("the shared cases are not here")
    return root


def test_every_case_is_here(cases: Path) -> None:
    assert {path.name for path in cases.iterdir()} == {*REFUSED, *READ}


@pytest.mark.parametrize("name", REFUSED)
def test_refused_in_one_line(name: str, cases: Path) -> None:
    with pytest.raises(InputError) as caught:
        review_both(*open_run(str(cases / name)))
    for word in REFUSED[name]:
        assert word in str(caught.value)
    assert str(cases / name) in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", READ)
def test_read_by_every_verb(name: str, cases: Path, tmp_path: Path) -> None:
    train, val = review_both(*open_run(str(cases / name)))
    assert min(len(train), len(val)) > 0
    assert len(train.table.labels) > 0
    convert(str(cases / name), "coco", tmp_path / "out")
    again = open_run(str(tmp_path / "out"))
    assert [len(source.table.labels) for source in again] == [len(train.table.labels), len(val.table.labels)]


@pytest.mark.parametrize("name", UNDIVIDED)
def test_read_with_a_share(name: str, cases: Path) -> None:
    train, val = review_both(*open_run(str(cases / name), share=0.7))
    assert (len(train), len(val)) == (2, 1)


def test_several_roots(cases: Path) -> None:
    train, val = review_both(*open_run([str(cases / "w8_devkit" / name) for name in ("VOC2007", "VOC2012")]))
    assert (len(train), len(val), train.class_names) == (8, 4, ("boltA", "boltB"))


@pytest.mark.slow
@pytest.mark.parametrize("name", [*READ, *UNDIVIDED])
def test_a_trained_step(name: str, cases: Path, tmp_path: Path) -> None:
    share = 0.7 if name in UNDIVIDED else None
    recipe = tiny_recipe(on_error="skip" if name == TRUNCATED else "raise", split=share)
    result = TASK.train(recipe, *open_run(str(cases / name), share=share), tmp_path / "run")
    assert result.epochs == 1
    assert (tmp_path / "run" / "best.safetensors").is_file()
