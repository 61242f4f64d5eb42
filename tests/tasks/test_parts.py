"""Predictions in Parquet parts: streamed, resumed, never lost, never twice, and of one command."""

from __future__ import annotations

import csv
import gc
import itertools
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from pyarrow import parquet

from compactnets.data.inputs import Picture
from compactnets.errors import InputError
from compactnets.tasks import parts
from compactnets.tasks.parts import Shard, Written, write_parts

COLUMNS = {"image": str, "rank": int, "share": float, "error": str}
SETTINGS = {"weights": "abc", "options": {"top": 2}}


class Row(tuple[Any, ...]):
    """A row that is counted while it lives."""

    live = most = 0

    def __init__(self, *_: Any) -> None:
        Row.live += 1
        Row.most = max(Row.most, Row.live)

    def __del__(self) -> None:
        Row.live -= 1


@dataclass
class Found:
    """Two rows for an image, or its error."""

    image: str
    error: str | None = None
    name: str = ""

    def to_dict(self) -> dict[str, Any]:
        return vars(self)

    def lines(self) -> Iterator[str]:
        yield self.image

    def rows(self) -> Iterator[Sequence[Any]]:
        if self.error:
            yield Row((self.image, None, None, self.error))
            return
        for rank in (1, 2):
            yield Row((self.image, rank, 0.5 / rank, None))


def predict(files: Iterable[str | Picture]) -> Iterator[Found]:
    for file in files:
        if isinstance(file, Picture):
            yield Found(file.path, file.error)
        else:
            yield Found(file, "broken" if "broken" in file else None)


def names(count: int) -> list[str]:
    return [f"photos/{number:04d}.jpg" for number in range(count)]


def write(folder: Path, files: Iterable[str | Picture], run: Callable[..., Any] = predict, **options: Any) -> Written:
    settings = options.pop("settings", SETTINGS)
    return write_parts(run, files, folder, settings, COLUMNS, **options)


def images(folder: Path) -> list[str]:
    """The images of the first rows and of the errors, in the order of the parts."""
    table = parquet.read_table(folder).to_pydict()
    return [image for image, rank in zip(table["image"], table["rank"], strict=True) if rank in (1, None)]


def test_every_image_is_in_one_part(tmp_path: Path) -> None:
    files = [*names(7), "photos/broken.jpg", Picture("*.gif", error="*.gif matches no file")]
    done = write(tmp_path / "new", files, part_size=4)
    assert (done.images, done.failed, done.parts, done.kept) == (9, 2, 3, 0)
    found = sorted(path.name for path in (tmp_path / "new").iterdir())
    assert found == ["_errors.csv", "_predict.json", *(f"part-0000{number}.parquet" for number in range(3))]
    assert images(tmp_path / "new") == [*names(7), "photos/broken.jpg", "*.gif"]
    assert str(parquet.read_schema(tmp_path / "new/part-00002.parquet").field("rank").type) == "int64"  # all null here
    with Path(str(done.errors)).open(newline="") as file:
        assert list(csv.reader(file))[1:] == [["photos/broken.jpg", "broken"], ["*.gif", "*.gif matches no file"]]


@pytest.mark.parametrize("part_size", [50, 400])
def test_the_rows_in_memory_are_bounded(tmp_path: Path, part_size: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parts, "ROW_GROUP", 30)
    gc.collect()
    Row.live = Row.most = taken = done = ahead = 0

    def stream() -> Iterator[str]:
        nonlocal taken
        for name in names(400):
            taken += 1
            yield name

    def run(files: Sequence[str | Picture]) -> Iterator[Found]:
        nonlocal ahead, done
        for found in predict(files):
            ahead = max(ahead, taken - done)
            yield found
            done += 1

    write(tmp_path, stream(), run, part_size=part_size)
    assert Row.most <= 34
    assert ahead == part_size
    assert images(tmp_path) == names(400)
    sizes = [
        parquet.read_metadata(path).row_group(group).num_rows
        for path in tmp_path.glob("*.parquet")
        for group in range(parquet.read_metadata(path).num_row_groups)
    ]
    assert max(sizes) <= 31
    assert sum(sizes) == 800


def test_a_run_that_stopped_goes_on(tmp_path: Path) -> None:
    asked: list[str] = []

    def run(files: Iterable[str | Picture], limit: int | None) -> Iterator[Found]:
        for found in predict(files):
            if len(asked) == limit:
                raise KeyboardInterrupt
            asked.append(found.image)
            yield found

    with pytest.raises(KeyboardInterrupt):
        write(tmp_path, names(20), lambda files: run(files, 11), part_size=4)
    assert images(tmp_path) == names(8)
    (tmp_path / ".part-00002.parquet.123.partial").write_bytes(b"half")  # as kill -9 leaves it
    (tmp_path / "part-00000.parquet").unlink()
    asked.clear()
    done = write(tmp_path, names(20), lambda files: run(files, None), part_size=4)
    assert (done.images, done.parts, done.kept) == (20, 5, 1)
    assert asked == [*names(4), *names(20)[8:]]
    assert images(tmp_path) == names(20)
    assert not list(tmp_path.glob(".part*"))
    again = write(tmp_path, names(20), lambda _: pytest.fail("it is done"), part_size=4)
    assert (again.images, again.kept) == (20, 5)


@pytest.mark.parametrize(
    ("files", "settings", "part_size", "shard", "told"),
    [
        (names(10), {**SETTINGS, "weights": "other"}, 4, None, ["weights", "abc", "other"]),
        (names(10), {**SETTINGS, "options": {"top": 3}}, 4, None, ["options"]),
        (names(10), SETTINGS, 5, None, ["part_size"]),
        (names(10), SETTINGS, 4, Shard(1, 2), ["shards"]),
        (["a.jpg", *names(9)], SETTINGS, 4, None, ["part-00000.parquet", "changed"]),
        (names(9), SETTINGS, 4, None, ["part-00002.parquet", "changed"]),
        (names(12), SETTINGS, 4, None, ["part-00002.parquet", "changed"]),
        (names(8), SETTINGS, 4, None, ["part-00002.parquet", "changed"]),
    ],
)
def test_another_command_is_refused(
    tmp_path: Path, files: list[str], settings: Any, part_size: int, shard: Shard | None, told: list[str]
) -> None:
    write(tmp_path, names(10), part_size=4)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    with pytest.raises(InputError) as refused:
        write(
            tmp_path,
            files,
            lambda _: pytest.fail("work was done"),
            settings=settings,
            part_size=part_size,
            shard=shard,
        )
    assert [word for word in told if word not in str(refused.value)] == []
    assert "\n" not in str(refused.value)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_files_of_others_are_left_alone(tmp_path: Path) -> None:
    (tmp_path / "mine.parquet").write_bytes(b"PAR1")
    with pytest.raises(InputError, match=r"mine\.parquet"):
        write(tmp_path, names(3))
    assert [path.name for path in tmp_path.iterdir()] == ["mine.parquet"]


def test_a_damaged_part_is_named(tmp_path: Path) -> None:
    write(tmp_path, names(10), part_size=4)
    whole = (tmp_path / "part-00001.parquet").read_bytes()
    for content in (b"", whole[:-40], (tmp_path / "part-00000.parquet").read_bytes()):
        (tmp_path / "part-00001.parquet").write_bytes(content)
        with pytest.raises(InputError, match=r"part-00001\.parquet.* remove"):
            write(tmp_path, names(10), part_size=4)


def test_shards_are_all_images_together(tmp_path: Path) -> None:
    for number in (3, 1, 2):
        done = write(tmp_path, names(20), part_size=3, shard=Shard.parse(f"{number}/3"))
        assert done.images == len(names(20)[number - 1 :: 3])
    assert sorted(images(tmp_path)) == names(20)
    assert len(list(tmp_path.glob("_predict-*.json"))) == 3
    with pytest.raises(InputError, match="shards"):
        write(tmp_path, names(20), part_size=3, shard=Shard(1, 4))


@pytest.mark.parametrize("text", ["0/3", "4/3", "3", "a/b", "-1/3", "1/0", ""])
def test_a_share_is_a_number_of_a_count(text: str) -> None:
    with pytest.raises(InputError, match="--shard"):
        Shard.parse(text)


def test_many_unusable_images_are_not_a_flood(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    done = write(tmp_path, (f"broken{number}.jpg" for number in range(300)), part_size=100)
    assert done.failed == 300
    assert len(capsys.readouterr().err.splitlines()) < 20
    assert len(Path(str(done.errors)).read_text().splitlines()) == 301


def test_names_that_are_not_utf8_are_kept_apart(tmp_path: Path) -> None:
    files = [b"a\xff.jpg".decode(errors="surrogateescape"), b"a\xfe.jpg".decode(errors="surrogateescape")]
    write(tmp_path, files)
    assert len(set(images(tmp_path))) == 2
    assert write(tmp_path, files).kept == 1
    (tmp_path / "b").mkdir()
    write(tmp_path / "b", files[:1])
    with pytest.raises(InputError, match="changed"):
        write(tmp_path / "b", files[1:])


def test_two_processes_do_not_write_the_same_parts(tmp_path: Path) -> None:
    """Another thread stands for the other process: it has the lock."""
    from threading import Thread

    refused: list[str] = []

    def other() -> None:
        try:
            write(tmp_path, names(4))
        except InputError as error:
            refused.append(str(error))

    def run(files: Iterable[str | Picture]) -> Iterator[Found]:
        thread = Thread(target=other)
        thread.start()
        thread.join()
        yield from predict(files)

    write(tmp_path, names(4), run)
    assert len(refused) == 1
    assert images(tmp_path) == names(4)


def test_a_full_disk_leaves_no_half_part(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real, calls = parts.replace_bytes, itertools.count()

    def full(path: Path, data: Any) -> None:
        if next(calls) == 1:
            raise InputError(f"cannot write {path}: No space left on device")
        real(path, data)

    monkeypatch.setattr(parts, "replace_bytes", full)
    with pytest.raises(InputError, match="No space left"):
        write(tmp_path, names(10), part_size=4)
    assert images(tmp_path) == names(4)
    assert write(tmp_path, names(10), part_size=4).kept == 1
    assert images(tmp_path) == names(10)
