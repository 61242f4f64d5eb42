"""Class folders divided into train and val: the same files whatever they are called, and copies together."""

from __future__ import annotations

import shutil
from collections import Counter
from pathlib import Path

import pytest

from compactnets import InputError
from compactnets.data import open_source
from compactnets.data.dividing import divide, divide_folder, group_copies

from .helpers import noise


def write_classes(root: Path, **counts: int) -> Path:
    seed = 0
    for name, count in counts.items():
        for number in range(count):
            path = root / name / ("inner" if number % 2 else ".") / f"{number}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            noise(8, 8, seed=seed).save(path)
            seed += 1
    return root


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
