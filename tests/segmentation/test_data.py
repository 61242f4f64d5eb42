"""The layouts of images with masks, and what is wrong with masks."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import compactnets.api as api
from compactnets.errors import InputError
from compactnets.segmentation.checking import check_masks, survey
from compactnets.segmentation.data import MaskSource, find_masks, holds_masks
from compactnets.tasks import task_of_data

from .scenes import NAMES, save_palette, scene, write_cityscapes, write_coco, write_folders, write_voc


def labels_of(source: MaskSource, index: int = 0) -> np.ndarray:
    return source.pair(index)[1]


def test_folders(tmp_path: Path) -> None:
    tree = find_masks(str(write_folders(tmp_path)))
    train, val = tree.open("train"), tree.open("validation" if "validation" in tree.splits else "val")
    assert (len(train), len(val), train.class_names, tree.kind) == (4, 2, NAMES, "folders")
    for index in range(4):
        assert np.array_equal(labels_of(train, index), scene(index)[1])
    assert train.fingerprint() != val.fingerprint()
    assert train.content() == find_masks(str(tmp_path)).open("train").content()
    with pytest.raises(InputError, match="no split 'test'"):
        tree.open("test")


def test_a_list_of_pairs(tmp_path: Path) -> None:
    write_folders(tmp_path / "set")
    for split, number in (("train", 1), ("val", 100)):
        line = f"set/images/{split}/{number}.png set/masks/{split}/{number}.png\n"
        (tmp_path / f"{split}.txt").write_text(line)
    source = find_masks(str(tmp_path)).open("train", NAMES)
    assert (source.kind, len(source)) == ("listed", 1)
    assert np.array_equal(labels_of(source), scene(1)[1])
    (tmp_path / "train.txt").write_text("../a.png ../b.png\n")
    with pytest.raises(InputError, match="within the folder"):
        find_masks(str(tmp_path)).open("train", NAMES)


def test_pascal_voc_ignores_255_and_reads_the_palette_as_values(tmp_path: Path) -> None:
    source = find_masks(str(write_voc(tmp_path / "VOCdevkit" / "VOC2012").parents[1])).open("val")
    assert (source.kind, len(source), len(source.class_names)) == ("voc", 2, 21)
    wanted = scene(100)[1]
    wanted[0] = 255
    assert np.array_equal(labels_of(source), wanted)


def test_cityscapes_ids_become_the_19_classes(tmp_path: Path) -> None:
    source = find_masks(str(write_cityscapes(tmp_path))).open("train")
    assert len(source.class_names) == 19
    wanted = np.array([0, 13, 255])[scene(0)[1]]
    assert [source.class_names[label] for label in (0, 13)] == ["road", "car"]
    assert np.array_equal(labels_of(source), wanted)


def test_coco_draws_polygons_and_run_lengths(tmp_path: Path) -> None:
    pytest.importorskip("faster_coco_eval")
    source = find_masks(str(write_coco(tmp_path))).open("train")
    assert source.class_names == ("background", "ball", "box")
    labels = labels_of(source)
    assert set(labels[21:24, 11:29].ravel()) == {255}  # both classes
    assert set(labels[11:19, 11:29].ravel()) == {2}
    assert set(labels[26:30, 10:30].ravel()) == {1}
    assert set(labels[:, :5].ravel()) == {255}  # the crowd
    assert set(labels[40:, 40:].ravel()) == {0}


def test_which_task_a_folder_is_for(tmp_path: Path) -> None:
    write_folders(tmp_path / "folders")
    write_coco(tmp_path / "coco")
    write_voc(tmp_path / "voc")
    write_voc(tmp_path / "boxes")
    (tmp_path / "boxes" / "Annotations").mkdir()
    kinds = {name: task_of_data([str(tmp_path / name)]).name for name in ("folders", "coco", "voc", "boxes")}
    assert kinds == {"folders": "segmentation", "coco": "detection", "voc": "segmentation", "boxes": "detection"}
    assert not holds_masks(str(tmp_path / "nowhere"))
    assert not holds_masks("digits")


def faulty(root: Path) -> Path:
    write_folders(root, train=9, val=1)
    masks = root / "masks" / "train"
    labels = scene(0)[1]
    Image.fromarray(labels[:-1]).save(masks / "0.png")
    Image.fromarray(np.where(labels == 2, 77, labels).astype(np.uint8)).save(masks / "1.png")
    (masks / "2.png").unlink()
    Image.fromarray(labels).save(masks / "spare.png")
    (masks / "3.png").unlink()
    Image.fromarray(labels).save(masks / "3.jpg")
    save_palette(scene(4)[1], masks / "4.png")
    Image.open(masks / "4.png").convert("RGB").save(masks / "4.png")
    (masks / "5.png").write_bytes(b"nothing")
    (root / "classes.txt").write_text("\n".join([*NAMES, "cloud"]))
    (root / "images" / "val" / "100.png").write_bytes((root / "images" / "train" / "8.png").read_bytes())
    return root


def test_the_check_names_every_fault_with_file_and_value(tmp_path: Path) -> None:
    report = check_masks(str(faulty(tmp_path)))
    wanted = {
        "size differs": ("masks/train/0.png", "96 x 63", "96 x 64"),
        "value without a class": ("masks/train/1.png", "77"),
        "image without mask": ("images/train/2.png", "masks/train/2.png"),
        "mask without image": ("masks/train/spare.png",),
        "mask saved with loss": ("masks/train/3.jpg", "JPEG"),
        "colours instead of values": ("masks/train/4.png", "RGB"),
        "cannot be read": ("masks/train/5.png",),
        "class never seen": ("cloud",),
        "same image in two splits": ("images/train/8.png", "images/val/100.png"),
    }
    assert not report.clean
    for kind, facts in wanted.items():
        (found,) = report.problems[kind]
        assert all(fact in found for fact in facts), (kind, found)
    assert report.problems["no pixel with a class"] == []
    assert report.splits["train"].images == 8
    assert sum("cloud" in note for note in report.notes) == 1  # of val: only a note
    text = "\n".join(report.lines(20))
    assert all(fact in text for facts in wanted.values() for fact in facts)


@pytest.mark.parametrize("fault", ["0", "1", "3", "4", "5"])
def test_a_run_stops_at_a_fault_before_its_first_step(tmp_path: Path, fault: str) -> None:
    faulty(tmp_path)
    for name in ("images", "masks"):
        for path in (tmp_path / name / "train").iterdir():
            if path.stem != fault:
                path.unlink()
    with pytest.raises(InputError) as error:
        survey(find_masks(str(tmp_path)).open("train"), decode=False)
    assert f"masks/train/{fault}" in str(error.value)
    assert "\n" not in str(error.value)


def test_a_run_needs_names_and_pairs(tmp_path: Path) -> None:
    write_folders(tmp_path, classes=False)
    with pytest.raises(InputError, match=r"classes\.txt"):
        survey(find_masks(str(tmp_path)).open("train"), decode=False)
    (tmp_path / "masks" / "train" / "0.png").unlink()
    with pytest.raises(InputError, match=r"images/train/0\.png has no mask"):
        survey(find_masks(str(tmp_path)).open("train", NAMES), decode=False)


def test_a_clean_folder_without_names(tmp_path: Path) -> None:
    report = check_masks(str(write_folders(tmp_path, classes=False)))
    assert report.clean
    assert report.splits["train"].classes.keys() == {"value 0", "value 1", "value 2"}
    assert "classes.txt" in report.notes[0]


def test_frequencies_and_weights(tmp_path: Path) -> None:
    found = survey(find_masks(str(write_folders(tmp_path))).open("train"), decode=True)
    counts = [np.bincount(scene(number)[1].ravel(), minlength=3) for number in range(4)]
    assert found.pixels.tolist() == np.sum(counts, axis=0).tolist()
    share = found.pixels / found.pixels.sum()
    for how in ("median", "log"):
        weights = found.weights(how)
        assert (weights * share).sum() == pytest.approx(1)
        assert list(np.argsort(weights)) == list(np.argsort(-share))
    plain = 1 / np.log(1.02 + share)
    assert found.weights("log") == pytest.approx(plain / (plain * share).sum())


def test_camvid_is_clean(shared: Path) -> None:
    data = shared / "data" / "camvid"
    if not data.is_dir():
        pytest.skip("CamVid is not there")
    tree = find_masks(str(data))
    assert {split: len(tree.open(split)) for split in tree.splits} == {"train": 367, "val": 101}
    _, recipe = api.open_recipe("camvid/lraspp")
    assert recipe.ignore == (11,)
    source = tree.open("val", recipe.classes, recipe.ignore)
    assert set(np.unique(labels_of(source))) <= {*range(11), 255}
