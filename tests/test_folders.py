"""Folders are written whole or not at all: links, mount points, the current folder, signals."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from compactnets import folders
from compactnets.errors import InputError
from compactnets.folders import check_file, check_folder, entries, writing
from compactnets.stopping import Stopped, stoppable


def fill(output: Path, text: str = "new") -> None:
    with writing(output) as partial:
        assert not (partial / "a").exists()
        (partial / "a").write_text(text)
        (partial / "deep").mkdir()
        (partial / "deep" / "b").write_text(text)


def content(folder: Path) -> dict[str, str]:
    return {path.relative_to(folder).as_posix(): path.read_text() for path in folder.rglob("*") if path.is_file()}


def fail_in(output: Path, error: BaseException) -> None:
    with writing(output) as partial:
        (partial / "a").write_text("half")
        raise error


def interfere(output: Path) -> None:
    with writing(output) as partial:
        (partial / "a").write_text("new")
        (output / "a").write_text("theirs")


def kill_in(output: Path, number: int) -> None:
    with writing(output) as partial:
        (partial / "a").touch()
        os.kill(os.getpid(), number)
        time.sleep(5)


NEW = {"a": "new", "deep/b": "new"}


@pytest.mark.parametrize("there", ["nothing", "empty", "full"])
@pytest.mark.parametrize("by", ["path", "link", "link to a link", "current folder", "relative"])
def test_written_through(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, there: str, by: str) -> None:
    """Whatever leads to the folder stays, and so does the folder itself, with its permissions."""
    real = tmp_path / "disk" / "real"
    real.parent.mkdir()
    if there != "nothing":
        real.mkdir(mode=0o750)
    if there == "full":
        (real / "a").write_text("old")
        (real / "gone").mkdir()
        (real / "gone" / "c").write_text("old")
    before = real.stat() if real.exists() else None
    output = real
    if by.startswith("link"):
        output = tmp_path / "link"
        output.symlink_to(real)
        if by == "link to a link":
            (tmp_path / "second").symlink_to("link")
            output = tmp_path / "second"
    elif by == "current folder":
        if there == "nothing":
            pytest.skip("it is there")
        monkeypatch.chdir(real)
        output = Path()
    elif by == "relative":
        monkeypatch.chdir(tmp_path)
        output = Path("disk/../disk/real")
    fill(output)
    assert content(real) == NEW
    if by.startswith("link"):
        assert output.is_symlink()
    if before is not None:
        assert (real.stat().st_ino, real.stat().st_mode) == (before.st_ino, before.st_mode)
    assert os.listdir(real.parent) == ["real"]
    assert sorted(os.listdir(real)) == ["a", "deep"]


@pytest.mark.parametrize("error", [RuntimeError("no"), KeyboardInterrupt(), Stopped(15)])
@pytest.mark.parametrize("there", [True, False])
def test_an_error_leaves_everything_as_it_was(tmp_path: Path, error: BaseException, there: bool) -> None:
    output = tmp_path / "deep" / "er" / "out"
    if there:
        output.mkdir(parents=True)
        (output / "a").write_text("old")
    with pytest.raises(type(error)):
        fail_in(output, error)
    assert content(tmp_path) == ({"deep/er/out/a": "old"} if there else {})
    if not there:
        assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("at", range(4))
def test_an_error_while_files_are_moved_puts_all_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, at: int) -> None:
    (tmp_path / "a").write_text("old")
    (tmp_path / "z").write_text("old")
    rename, calls = Path.rename, 0

    def fail(self: Path, target: Path) -> Path:
        nonlocal calls
        calls += 1
        if calls == at + 1:
            raise OSError(5, "Input/output error")
        return rename(self, target)

    monkeypatch.setattr(Path, "rename", fail)
    with pytest.raises(InputError, match="Input/output error"):
        fill(tmp_path)
    assert content(tmp_path) == {"a": "old", "z": "old"}


def test_what_comes_meanwhile_is_not_lost(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="a was created there"):
        interfere(tmp_path)
    assert content(tmp_path) == {"a": "theirs"}


@pytest.mark.parametrize(
    ("output", "words"),
    [
        ("file", ["file", "is a file"]),
        ("file/below", ["file", "on the way", "is a file"]),
        ("file/below/more", ["file", "on the way"]),
        ("to-file", ["to-file", "is a file"]),
        ("loop", ["loop"]),
        ("loop/below", ["loop"]),
        ("x" * 300, ["File name too long"]),
        ("nul\0l", ["null"]),
    ],
)
def test_no_folder_can_be_there(tmp_path: Path, output: str, words: list[str]) -> None:
    (tmp_path / "file").touch()
    (tmp_path / "to-file").symlink_to("file")
    (tmp_path / "loop").symlink_to("loop")
    before = sorted(os.listdir(tmp_path))
    for check in (check_folder, fill):
        with pytest.raises(InputError) as found:
            check(tmp_path / output)  # type: ignore[operator]
        assert all(word in str(found.value) for word in words), found.value
        assert len(str(found.value).splitlines()) == 1
    assert sorted(os.listdir(tmp_path)) == before


def test_no_file_can_be_there(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    (tmp_path / "loop").symlink_to("loop")
    check_file(tmp_path / "file")
    check_file(tmp_path / "new" / "er" / "file")
    check_file(Path(os.devnull))
    for path in (tmp_path, tmp_path / "file" / "below", tmp_path / "loop", tmp_path / ("x" * 300)):
        with pytest.raises(InputError, match="--plot"):
            check_file(path, "--plot")


def test_what_a_killed_process_left_is_removed_and_what_a_living_one_has_is_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("fcntl")
    left = tmp_path / ".compactnets-0123abcd.partial"
    left.mkdir()
    assert entries(tmp_path) == set()
    fill(tmp_path)
    assert left.exists()  # it may have been made a moment ago
    monkeypatch.setattr(folders, "GRACE", 0.0)
    with writing(tmp_path) as other:
        assert not left.exists()
        fill(tmp_path / "b")
        assert other.exists()
    assert not list(tmp_path.glob(".*"))


@pytest.mark.parametrize("name", ["SIGTERM", "SIGHUP"])
def test_a_signal_is_an_exception(tmp_path: Path, name: str) -> None:
    number = getattr(signal, name)
    with pytest.raises(Stopped) as stopped:
        kill_in(tmp_path / "out", number)
    assert stopped.value.code == 128 + number
    assert not list(tmp_path.iterdir())
    assert signal.getsignal(number) is signal.SIG_DFL


def test_signals_that_are_ignored_or_handled_are_left_alone() -> None:
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with stoppable():
            os.kill(os.getpid(), signal.SIGHUP)
            assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGHUP, before)
    found = []

    def elsewhere() -> None:
        with stoppable():
            found.append(signal.getsignal(signal.SIGTERM))

    thread = threading.Thread(target=elsewhere)
    thread.start()
    thread.join()
    assert found == [signal.SIG_DFL]


MOUNTED = """
import os, sys, types
from pathlib import Path
package = types.ModuleType("compactnets")  # without torch, which takes seconds
package.__path__ = [sys.argv[2]]
sys.modules["compactnets"] = package
from compactnets.errors import InputError
from compactnets.folders import check_file, check_folder, writing
base = Path(sys.argv[1])
for output in (base / "disk", base / "link"):
    with writing(output) as partial:
        (partial / "a").write_bytes(b"1" * 1000)
    assert os.listdir(base / "disk") == ["a"], os.listdir(base / "disk")
assert os.path.ismount(base / "disk") and (base / "link").is_symlink()
try:
    with writing(base / "disk") as partial:
        (partial / "a").write_bytes(b"1" * 2_000_000)
except OSError as error:
    assert error.errno == 28, error
assert (base / "disk" / "a").read_bytes() == b"1" * 1000
for look in (check_folder, check_file):
    try:
        look(base / "fixed" / "new")
    except InputError as error:
        assert "read-only" in str(error), error
    else:
        raise AssertionError("a read-only disk")
assert sorted(os.listdir(base)) == ["disk", "fixed", "link"], os.listdir(base)
"""


def test_mount_points_and_disks_that_are_full_or_read_only(tmp_path: Path) -> None:
    """On small disks of its own: Linux, as root."""
    if not sys.platform.startswith("linux") or os.geteuid() != 0 or shutil.which("unshare") is None:
        pytest.skip("mounting takes Linux and root")
    if subprocess.run(["unshare", "-m", "true"], capture_output=True, check=False).returncode:
        pytest.skip("this container may not mount")
    for name in ("disk", "fixed"):
        (tmp_path / name).mkdir()
    (tmp_path / "link").symlink_to("disk")
    mounts = (
        'mount -t tmpfs -o size=1m none "$1/disk" && mount -t tmpfs -o size=1m,ro none "$1/fixed" '
        '&& exec "$2" -c "$3" "$1" "$4"'
    )
    command = ["unshare", "-m", "sh", "-c", mounts, "sh", tmp_path, sys.executable, MOUNTED]
    command.append(Path(folders.__file__).parent)
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
