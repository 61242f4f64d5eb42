"""Tables of images with several labels."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from compactnets.data.base import MissingSplitError
from compactnets.errors import InputError
from compactnets.multilabel.data import holds_labels, open_divided, open_labels
from compactnets.tasks import task_of_data

from .scenes import COLOURS, write_table, write_tables


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tables(tmp_path_factory.mktemp("labels"), 16)


def test_both_kinds_of_tables_say_the_same(root: Path) -> None:
    for split in ("train", "val"):
        one, other = (open_labels(str(root / name), split) for name in ("labels.csv", "columns.csv"))
        assert one.class_names == other.class_names == tuple(COLOURS)
        assert one.names == other.names
        assert (one.tags == other.tags).all()
        assert one.fingerprint() == other.fingerprint()
        assert one.content() == other.content()
    assert one.names == [f"images/{number:02d}.png" for number in (3, 7, 11, 15)]
    assert one.tags.tolist() == [[True, True, False], [True, True, True], [True, True, False], [True, True, True]]
    assert one.image(0).size == (16, 16)


def test_what_an_image_has_is_part_of_the_fingerprint(root: Path) -> None:
    text = (root / "labels.csv").read_text()
    assert "images/01.png,blue,train" in text
    changed = root / "changed.csv"
    changed.write_text(text.replace("images/01.png,blue,train", "images/01.png,red,train"))
    one, other = (open_labels(str(path), "train") for path in (root / "labels.csv", changed))
    assert one.fingerprint() != other.fingerprint()
    assert open_labels(str(changed), "val").fingerprint() == open_labels(str(root / "labels.csv"), "val").fingerprint()


@pytest.mark.parametrize(
    ("cell", "labels"),
    [("", []), ("red", ["red"]), (" red ;green;; red", ["green", "red"]), ("a b|  c   d ", ["a b", "c d"])],
)
def test_a_cell_has_any_number_of_labels(root: Path, cell: str, labels: list[str]) -> None:
    rows = [("image", "labels"), ("images/00.png", cell), ("images/01.png", "other")]
    source = open_labels(str(write_table(root / "cell.csv", rows)), "val")
    found = [source.class_names[place] for place in np.flatnonzero(source.tags[0])]
    assert found == labels
    assert source.tags[1].sum() == 1


@pytest.mark.parametrize(
    ("rows", "told"),
    [
        ([("image", "red"), ("images/00.png", "2")], ["line 2", "red", "2"]),
        ([("image", "red"), ("images/00.png", "")], ["line 2", "red"]),
        ([("image",), ("images/00.png",)], ["labels"]),
        ([("image", "red", "red"), ("images/00.png", "1", "0")], ["red"]),
        ([("image", "a;b"), ("images/00.png", "1")], ["a;b"]),
        ([("image", "labels"), ("images/00.png", "")], ["no label"]),
        ([("image", "labels")], ["no image"]),
        ([("image", "labels"), ("images/99.png", "red")], ["line 2", "99.png"]),
        ([("image", "labels"), ("images/00.png", "red"), ("images/00.png", "red;blue")], ["line 3", "line 2"]),
        ([("a", "b"), ("1", "2")], ["image"]),
        (
            [("image", "labels", "split"), ("images/00.png", "red", "train"), ("images/01.png", "red;new", "val")],
            ["new", "train"],
        ),
    ],
)
def test_a_table_that_cannot_be_used_is_one_line(root: Path, rows: list[tuple[str, ...]], told: list[str]) -> None:
    path = write_table(root / "bad.csv", rows)
    with pytest.raises(InputError) as refused:
        open_labels(str(path), "val")
    assert [word for word in [*told, "bad.csv"] if word not in str(refused.value)] == []
    assert "\n" not in str(refused.value)


def test_only_tables_are_read(root: Path) -> None:
    with pytest.raises(InputError, match="table"):
        open_labels(str(root / "images"), "val")
    with pytest.raises(InputError, match=r"none\.csv"):
        open_labels(str(root / "none.csv"), "val")
    with pytest.raises(MissingSplitError, match="--split"):
        open_labels(str(root / "undivided.csv"), "train")


def test_an_undivided_table_is_divided(root: Path) -> None:
    train, val = open_divided(str(root / "undivided.csv"), 0.75)
    assert sorted([*train.names, *val.names]) == [f"images/{number:02d}.png" for number in range(16)]
    assert len(train) == 12
    assert train.class_names == val.class_names
    whole = open_labels(str(root / "undivided.csv"), "val")
    for part in (train, val):
        for index, name in enumerate(part.names):
            assert (part.tags[index] == whole.tags[whole.names.index(name)]).all()
            assert part.paths[index] == whole.paths[whole.names.index(name)]
    with pytest.raises(InputError, match="already split"):
        open_divided(str(root / "labels.csv"), 0.75)
    rows = [("image", "labels"), *((f"images/{number:02d}.png", f"c{number}") for number in range(8))]
    with pytest.raises(InputError, match="no image to train on"):
        open_divided(str(write_table(root / "single.csv", rows)), 0.5)


def test_tables_of_several_labels_are_recognised(root: Path) -> None:
    single = write_table(root / "one.csv", [("image", "label"), ("images/00.png", "red"), ("images/01.png", "blue")])
    held = {name: holds_labels(str(root / name)) for name in ("labels.csv", "columns.csv", "undivided.csv", "one.csv")}
    assert held == {"labels.csv": True, "columns.csv": True, "undivided.csv": True, "one.csv": False}
    assert not holds_labels(str(root / "images"))
    assert not holds_labels(str(root / "none.csv"))
    for rows in ([("image", "width"), ("a.png", "32")], [("image", "red")], [("image", "red"), ("a.png",)]):
        assert not holds_labels(str(write_table(root / "others.csv", rows)))
    (root / "broken.csv").write_bytes(b"\xff\x00")
    assert not holds_labels(str(root / "broken.csv"))
    assert task_of_data([str(root / "labels.csv")]).name == "multilabel"
    assert task_of_data([str(single)]).name == "classification"
