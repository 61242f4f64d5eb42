"""Files, folders, patterns and videos: what is found, in which order, and that one bad file costs no other."""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from compactnets.data.finding import find_files, stream_files
from compactnets.data.inputs import Picture, read_pictures
from compactnets.data.video import read_frames
from compactnets.errors import InputError

from .helpers import noise, write_video


def read(*named: Path | str, every: int = 1) -> list[Picture]:
    return list(read_pictures(find_files(named), every))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name in ("b.png", "a.png", "deep/c.jpg", "deep/.hidden.png"):
        path = tmp_path / "photos" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        noise(9, 7).save(path)
    (tmp_path / "photos/notes.txt").write_text("mine")
    return tmp_path / "photos"


def test_a_folder_is_its_images_and_those_below(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found = read(folder)
    assert [Path(one.path).name for one in found] == ["a.png", "b.png", "c.jpg"]
    assert all(one.image is not None and one.error is None for one in found)
    note = capsys.readouterr().err
    assert "notes.txt" in note
    assert ".hidden" not in note


@pytest.mark.parametrize(
    ("pattern", "names"),
    [("*.png", ["a.png", "b.png"]), ("**/*.jpg", ["c.jpg"]), ("[b].png", ["b.png"]), ("?.png", ["a.png", "b.png"])],
)
def test_patterns_are_the_shell_s(folder: Path, pattern: str, names: list[str]) -> None:
    assert [Path(one.path).name for one in read(folder / pattern)] == names


def test_a_file_that_is_called_like_a_pattern_is_that_file(folder: Path) -> None:
    noise(3, 3).save(folder / "[b].png")
    assert [Path(one.path).name for one in read(folder / "[b].png")] == ["[b].png"]


def test_what_cannot_be_read_is_named_and_costs_no_other(folder: Path, tmp_path: Path) -> None:
    (folder / "b.png").write_bytes(b"no image")
    (tmp_path / "empty").mkdir()
    found = read(tmp_path / "none.png", folder / "*.gif", tmp_path / "empty", folder, folder / "notes.txt")
    named = ["none.png", "*.gif", "empty", None, "b.png", None, "notes.txt"]
    assert len(found) == len(named)
    for one, name in zip(found, named, strict=True):
        assert (one.error is None) is (name is None)
        assert (one.image is None) is (name is not None)
        if name is not None:
            assert one.error is not None
            assert name in one.error
            assert "\n" not in one.error


def test_a_folder_comes_before_those_below_it_and_links_after_what_they_lead_to(tmp_path: Path) -> None:
    for name in ("b/z.png", "b/c/a.png", "b-c/a.png", "z.png", ".hidden/a.png", "@eaDir/a.png"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        noise(3, 3).save(tmp_path / name)
    (tmp_path / "b/c/up").symlink_to(tmp_path)
    (tmp_path / "a-link").symlink_to(tmp_path / "b-c")
    (tmp_path / "b/gone.png").symlink_to(tmp_path / "nowhere.png")
    found = [str(one).removeprefix(f"{tmp_path}/") for one in find_files([tmp_path])]
    assert found == ["z.png", "b/gone.png", "b/z.png", "b/c/a.png", "b-c/a.png"]


def test_a_folder_is_read_as_far_as_is_asked(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stream = stream_files([folder])
    assert [Path(str(next(stream))).name for _ in range(2)] == ["a.png", "b.png"]
    noise(3, 3).save(folder / "deep/added.png")  # after the start, into a folder that was not reached yet
    assert [Path(str(one)).name for one in stream] == ["added.png", "c.jpg"]


def test_a_folder_that_cannot_be_read_costs_no_other(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from compactnets.data import finding

    (folder / "locked").mkdir()
    real = finding.scan
    refusal = InputError(f"{folder / 'locked'} cannot be read: Permission denied")

    def scan(place: str) -> Any:
        if place.endswith("locked"):
            raise refusal
        return real(place)

    monkeypatch.setattr(finding, "scan", scan)
    *found, locked = find_files([folder])
    assert [Path(str(one)).name for one in found] == ["a.png", "b.png", "c.jpg"]
    assert isinstance(locked, Picture)
    assert locked.error == str(refusal)


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("list.txt", "photos/b.png\n\nphotos/deep/c.jpg\r\n"),
        ("list.txt", "photos/b.png\nphotos/deep/c.jpg"),
        ("table.csv", "label,Image Path\ncat,photos/b.png\n\ndog,photos/deep/c.jpg\n"),
        ("table.csv", 'sep=;\nfilename;label\n"photos/b.png";"a;b"\nphotos\\deep\\c.jpg;\n'),
        ("TABLE.TSV", "path\nphotos/b.png\nphotos/deep/c.jpg\n"),
    ],
)
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
def test_a_list_stands_for_its_files(folder: Path, name: str, content: str, encoding: str) -> None:
    (folder.parent / name).write_bytes(content.encode(encoding))
    found = read(f"@{folder.parent / name}")
    assert [(Path(one.path).relative_to(folder.parent).as_posix(), one.error) for one in found] == [
        ("photos/b.png", None),
        ("photos/deep/c.jpg", None),
    ]


@pytest.mark.parametrize(
    ("name", "content", "told"),
    [
        ("none.txt", None, "none.txt"),
        ("empty.txt", b"\n", "lists no file"),
        ("table.csv", b"a,b\n1,2\n", "a,b"),
        ("table.csv", b"", "nothing"),
        ("table.csv", b"a,image\n1\n", "without an image"),
        ("table.csv", b'image\n"a.png\n', "table.csv"),
        ("wide.txt", b"\xff\xfea\x00b", "UTF-8"),
    ],
)
def test_a_list_that_cannot_be_read_is_named(folder: Path, name: str, content: bytes | None, told: str) -> None:
    if content is not None:
        (folder / name).write_bytes(content)
    *_, one, last = find_files([f"@{folder / name}", folder / "a.png"])
    assert isinstance(one, Picture)
    assert name in str(one.error)
    assert told in str(one.error)
    assert "\n" not in str(one.error)
    assert last == str(folder / "a.png")


def test_a_file_that_is_called_like_a_list_is_that_file(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder)
    noise(3, 3).save("@a.png")
    assert [one.image is not None for one in read("@a.png")] == [True]


def test_frames_of_a_video(tmp_path: Path) -> None:
    video = write_video(tmp_path / "clip.mp4")
    found = read(video, every=5)
    assert [(one.frame, one.seconds) for one in found] == [(0, 0.0), (5, 0.5), (10, 1.0)]
    assert [one.name for one in found][1] == f"{video} (frame 5, 0.50 s)"
    levels = [int(np.asarray(one.image)[40, 40, 0]) for one in found if one.image is not None]
    assert np.abs(np.array(levels) - [0, 40, 80]).max() < 6
    assert len(read(video)) == 12
    assert [one.frame for one in read(tmp_path, every=100)] == [0]  # in a folder too


@pytest.mark.parametrize(("degrees", "corner"), [(90, (-1, 0)), (-90, (0, -1)), (180, (-1, -1))])
def test_videos_come_upright(tmp_path: Path, degrees: int, corner: tuple[int, int]) -> None:
    """The white corner goes where a player shows it: turned counter-clockwise by what the file says."""
    image = read(write_video(tmp_path / "clip.mp4", 1, degrees))[0].image
    assert image is not None
    assert image.size == ((64, 48) if degrees == 180 else (48, 64))
    pixels = np.asarray(image)[..., 0]
    height, width = pixels.shape
    corners = {
        (y, x): pixels[4 if y == 0 else height - 5, 4 if x == 0 else width - 5] for y in (0, -1) for x in (0, -1)
    }
    assert max(corners, key=lambda place: corners[place]) == corner


def test_a_damaged_video_gives_what_it_has(tmp_path: Path) -> None:
    pytest.importorskip("av", reason="the extra `video` is not installed")
    for name, content in (
        ("text.mp4", b"no video"),
        ("empty.avi", b""),
        ("playlist.mp4", b"#EXTM3U\n#EXTINF:1,\n/etc/x\n"),
    ):
        (tmp_path / name).write_bytes(content)
        (found,) = read(tmp_path / name)
        assert found.error is not None
        assert name in found.error
    whole = write_video(tmp_path / "whole.avi", 40).read_bytes()
    (tmp_path / "cut.avi").write_bytes(whole[: whole.index(b"movi") + 1500])
    found = read(tmp_path / "cut.avi")
    assert sum(one.image is not None for one in found) > 2
    assert found[-1].image is None
    assert "cut.avi" in str(found[-1].error)
    # some releases of FFmpeg see the damage, others only that frames are missing
    assert re.search(r"\b40\b|\bframe \d+", str(found[-1].error))
    (missing,) = read(tmp_path / "none.mp4")
    assert missing.error is not None
    assert "none.mp4" in missing.error


def test_a_video_without_the_extra_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "av", None)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    (tmp_path / "clip.mp4").write_bytes(b"x")
    noise(4, 4).save(tmp_path / "a.png")
    found = read(tmp_path / "clip.mp4", tmp_path / "a.png")
    assert "compactnets[video]" in str(found[0].error)
    assert found[1].image is not None


def test_read_frames_raises_where_it_is_called_itself(tmp_path: Path) -> None:
    pytest.importorskip("av", reason="the extra `video` is not installed")
    with pytest.raises(InputError, match=r"none\.mp4"):
        list(read_frames(tmp_path / "none.mp4"))
