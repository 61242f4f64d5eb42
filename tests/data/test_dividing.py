"""Class folders divided into train and val: the same files whatever they are called, and copies together."""

from __future__ import annotations

import shutil
from collections import Counter
from pathlib import Path

import pytest

from compactnets import InputError
from compactnets.data import open_source
from compactnets.data.dividing import divide, divide_folder, group_copies, open_parts, share_of

from .helpers import write_classes


def contents(root: Path) -> dict[str, list[bytes]]:
    return {split: sorted(path.read_bytes() for path in (root / split).rglob("*.png")) for split in ("train", "val")}


def test_each_class_is_divided_and_nothing_is_lost(tmp_path: Path) -> None:
    root = write_classes(tmp_path / "photos", ant=10, bee=20, wasp=5)
    (root / "ant" / "notes.txt").write_text("left out")
    result = divide_folder(str(root), tmp_path / "out")
    assert result.splits == {"train": 28, "val": 7}
    assert len(result.left_out) == 1
    for split, expected in (("train", [8, 16, 4]), ("val", [2, 4, 1])):
        source = open_source(str(tmp_path / "out"), split)  # type: ignore[arg-type]
        assert source.class_names == ("ant", "bee", "wasp")
        assert [Counter(source.labels.tolist())[label] for label in range(3)] == expected
    found = contents(tmp_path / "out")
    before = sorted(path.read_bytes() for path in root.rglob("*.png"))
    assert sorted(found["train"] + found["val"]) == before


def test_a_run_sees_the_parts_that_would_be_written(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = write_classes(tmp_path / "photos", ant=10, bee=20, wasp=5)
    shutil.copy(root / "bee" / "3.png" if (root / "bee" / "3.png").exists() else root / "bee" / "inner" / "3.png", root)
    shutil.move(root / "3.png", root / "bee" / "copy.png")
    train, val = open_parts(str(root), 0.8)
    divide_folder(str(root), tmp_path / "out")
    read = {part.split: sorted(part.encoded(index) or b"" for index in range(len(part))) for part in (train, val)}
    assert read == contents(tmp_path / "out")
    assert train.class_names == val.class_names == ("ant", "bee", "wasp")
    for part in (train, val):
        assert all(part.name(index).startswith(part.class_names[part.labels[index]]) for index in range(len(part)))
    assert capsys.readouterr().err == (
        f"split: {root}: {len(train)} images to train on, {len(val)} to evaluate on (0.8 of a class); 1 exact copies "
        "stay with the first\n"
    )
    # renamed files in another place, the same images
    other = tmp_path / "elsewhere"
    for number, path in enumerate(sorted(root.rglob("*.png"), reverse=True)):
        target = other / path.relative_to(root).parts[0] / f"{number:03}.png"
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(path, target)
    again = open_parts(str(other), 0.8)[1]
    assert sorted(again.encoded(index) or b"" for index in range(len(again))) == read["val"]


def test_a_class_of_one_image_is_trained_on(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = write_classes(tmp_path / "photos", ant=1, bee=6)
    train, val = open_parts(str(root), 0.5)
    assert [*train.labels].count(0) == 1
    assert val.labels.tolist() == [1, 1, 1]
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 2
    assert lines[1] == f"note: {root}: no image to evaluate on for ant: expected two different ones of a class"


def test_what_is_not_divided(tmp_path: Path) -> None:
    single = write_classes(tmp_path / "single", ant=1, bee=1)
    with pytest.raises(InputError, match="no class has two different images"):
        open_parts(str(single), 0.8)
    mixed = write_classes(tmp_path / "mixed", ant=2, bee=2)
    shutil.rmtree(mixed / "bee")
    shutil.copytree(mixed / "ant", mixed / "bee")  # its images are all the other class's
    with pytest.raises(InputError, match=r"(train|mixed).*no image of (ant|bee)|at least two"):
        divide_folder(str(mixed), tmp_path / "out")
    divided = write_classes(tmp_path / "divided" / "train", ant=2)
    write_classes(tmp_path / "divided" / "val", ant=2)
    with pytest.raises(InputError, match=r"already split into train and val: remove --split 0\.8"):
        open_parts(str(divided.parent), 0.8)
    with pytest.raises(InputError, match=r"divides class folders.*, and digits is of digits"):
        open_parts("digits", 0.8)
    assert (share_of("val"), share_of("0.25")) == (None, 0.25)
    for wrong in ("0", "1.0", "-0.5", "nan", "7"):
        with pytest.raises(InputError, match="a share between 0 and 1"):
            share_of(wrong)


def test_the_same_files_are_divided_alike(tmp_path: Path) -> None:
    """Names, places and times decide nothing."""
    root = write_classes(tmp_path / "photos", ant=9, bee=9)
    divide_folder(str(root), tmp_path / "one", 0.6)
    other = tmp_path / "elsewhere"
    for number, path in enumerate(sorted(root.rglob("*.png"), reverse=True)):
        target = other / path.relative_to(root).parts[0] / f"{number:03}.png"
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(path, target)
    divide_folder(str(other), tmp_path / "two", 0.6, link=True)
    assert contents(tmp_path / "one") == contents(tmp_path / "two")
    assert any(path.stat().st_nlink == 2 for path in (tmp_path / "two").rglob("*.png"))


def test_exact_copies_are_in_one_part(tmp_path: Path) -> None:
    root = write_classes(tmp_path / "photos", ant=6, bee=6)
    for number in range(6):
        shutil.copy(
            root / "ant" / ("inner" if number % 2 else ".") / f"{number}.png", root / "ant" / f"copy{number}.png"
        )
    result = divide_folder(str(root), tmp_path / "out", 0.5)
    assert result.copies == 6
    found = contents(tmp_path / "out")
    assert not set(found["train"]) & set(found["val"])
    assert sum(map(len, found.values())) == 18


def test_refused_in_one_line(tmp_path: Path) -> None:
    root = write_classes(tmp_path / "photos", ant=3, bee=1)
    (tmp_path / "there").mkdir()
    with pytest.raises(InputError, match="there already exists"):
        divide_folder(str(root), tmp_path / "there")
    with pytest.raises(InputError, match="the class bee cannot be split"):
        divide_folder(str(root), tmp_path / "out")
    divided = write_classes(tmp_path / "divided" / "train", ant=2).parent
    write_classes(divided / "val", ant=2)
    with pytest.raises(InputError, match="already split"):
        divide_folder(str(divided), tmp_path / "out")
    with pytest.raises(InputError, match="found digits"):
        divide_folder("digits", tmp_path / "out")
    with pytest.raises(InputError, match="compactnets data split"):
        open_source(str(root), "train")
    assert not (tmp_path / "out").exists()


def test_an_error_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = write_classes(tmp_path / "photos", ant=4)
    copied = []

    def fill(source: Path, target: Path, **_: object) -> None:
        if len(copied) == 2:
            raise OSError(28, "No space left on device")
        copied.append(target)

    monkeypatch.setattr("compactnets.data.dividing.shutil.copyfile", fill)
    with pytest.raises(InputError, match="No space left"):
        divide_folder(str(root), tmp_path / "out")
    assert {path.name for path in tmp_path.iterdir()} == {"photos"}


@pytest.mark.parametrize("share", [0.01, 0.5, 0.8, 0.99])
@pytest.mark.parametrize("sizes", [[1, 1], [3, 1, 1], [1] * 10, [5, 5], [1, 9]])
def test_shares(share: float, sizes: list[int]) -> None:
    """As near as whole groups allow when they are taken in their order; both parts have some."""
    groups, start = [], 0
    for size in sizes:
        groups.append(list(range(start, start + size)))
        start += size
    train, val = divide(groups, share, "x")
    assert sorted(train + val) == list(range(start))
    assert train
    assert val
    if max(sizes) == 1:
        assert abs(len(train) - share * start) < max(0.5, 1 - share * start, 1 - (1 - share) * start) + 1e-9


def test_groups_follow_from_the_bytes(tmp_path: Path) -> None:
    for name, text in (("a", "x"), ("b", "y"), ("c", "x")):
        (tmp_path / name).write_text(text)
    paths = [tmp_path / name for name in "abc"]
    groups = group_copies(paths)
    assert sorted(map(sorted, groups)) == [[0, 2], [1]]
    again = group_copies([*reversed(paths)])
    assert [{2 - index for index in group} for group in again] == [set(group) for group in groups]
