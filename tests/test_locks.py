"""One owner of a folder at a time, and none that a dead process leaves behind."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from compactnets import locks
from compactnets.errors import InputError
from compactnets.locks import NAME, own_file, own_folder

OWNER = """
import sys, time, types
from pathlib import Path
package = sys.modules["compactnets"] = types.ModuleType("compactnets")  # its own imports take seconds
package.__path__ = [{package!r}]
from compactnets.locks import own_folder
with own_folder(Path(sys.argv[1])):
    {inside}
    print("owned", flush=True)
    sys.stdin.readline()
"""
# a worker that lives on after the process that forked it, as those that load images do for some seconds
FORKED = """import os
    child = os.fork()
    if child == 0:
        sys.stdout.close()
        time.sleep(20)
        os._exit(0)
    print(child, flush=True)"""


@contextmanager
def owner(folder: Path, inside: str = "pass") -> Iterator[subprocess.Popen[str]]:
    code = OWNER.format(package=str(Path(locks.__file__).parent), inside=inside)
    pipe = subprocess.PIPE
    with subprocess.Popen([sys.executable, "-c", code, str(folder)], stdin=pipe, stdout=pipe, text=True) as process:
        try:
            yield process
        finally:
            process.kill()


@pytest.fixture(autouse=True)
def _impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(locks, "PATIENCE", 0.2)


def test_the_second_process_is_refused_until_the_first_ends(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    with owner(folder) as process:
        assert process.stdout is not None
        assert process.stdin is not None
        assert process.stdout.readline() == "owned\n"
        with pytest.raises(InputError) as error, own_folder(folder):
            pytest.fail("owned twice")
        assert str(folder) in str(error.value)
        assert f"process {process.pid} on " in str(error.value)
        process.stdin.write("\n")
        process.stdin.flush()
        process.wait()
    assert not folder.exists()  # it was made for nothing
    with own_folder(folder):
        (folder / "file").touch()
    assert [path.name for path in folder.iterdir()] == ["file"]


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_kill_9_blocks_nobody_though_a_worker_lives_on(tmp_path: Path) -> None:
    with owner(tmp_path, FORKED) as process:
        assert process.stdout is not None
        child = int(process.stdout.readline())
        assert process.stdout.readline() == "owned\n"
        try:
            process.send_signal(signal.SIGKILL)
            process.wait()
            os.kill(child, 0)  # it is there
            assert (tmp_path / NAME).exists()
            with own_folder(tmp_path):
                pass
        finally:
            os.kill(child, signal.SIGKILL)
    assert not (tmp_path / NAME).exists()


def test_the_same_thread_may_own_it_again_and_another_may_not(tmp_path: Path) -> None:
    refused = []

    def try_it() -> None:
        try:
            with own_folder(tmp_path):
                pass
        except InputError as error:
            refused.append(str(error))

    alias = tmp_path.with_name(f"{tmp_path.name}-alias")
    alias.symlink_to(tmp_path)
    with own_folder(tmp_path):
        with own_folder(alias):
            pass
        for _ in range(2):
            thread = threading.Thread(target=try_it)
            thread.start()
            thread.join()
        assert (tmp_path / NAME).exists()
    assert len(refused) == 2
    assert all(str(tmp_path) in message for message in refused)
    try_it()
    assert len(refused) == 2


def test_it_waits_for_one_that_is_about_to_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(locks, "PATIENCE", 30)
    with owner(tmp_path) as process:
        assert process.stdout is not None
        process.stdout.readline()
        timer = threading.Timer(0.3, process.kill)
        timer.start()
        start = time.monotonic()
        with own_folder(tmp_path):
            assert time.monotonic() - start > 0.2
        timer.join()


def test_it_waits_as_long_as_it_takes_where_asked_to(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "file.json"
    code = OWNER.replace("own_folder", "own_file").format(package=str(Path(locks.__file__).parent), inside="pass")
    pipe = subprocess.PIPE
    with subprocess.Popen([sys.executable, "-c", code, str(path)], stdin=pipe, stdout=pipe, text=True) as process:
        assert process.stdout is not None
        process.stdout.readline()
        with pytest.raises(InputError), own_file(path):
            pytest.fail("owned twice")
        timer = threading.Timer(1.0, process.kill)
        timer.start()
        with own_file(path, wait=True):
            assert process.wait() != 0
        timer.join()
    assert capfd.readouterr().err.count(f"process {process.pid} on ") == 1


def test_one_file_and_its_neighbour(tmp_path: Path) -> None:
    with own_file(tmp_path / "new" / "a.safetensors"), own_file(tmp_path / "new" / "b.safetensors"):
        pass
    assert not (tmp_path / "new").exists()  # made for them, and nothing was written


def test_a_file_system_without_locks_is_said_and_used(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    import errno
    import fcntl

    def refuse(*arguments: object) -> None:
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr(fcntl, "lockf", refuse)
    with own_folder(tmp_path):
        pass
    assert os.strerror(errno.ENOLCK) in " ".join(capsys.readouterr().err.split())


def test_a_folder_that_cannot_be_made(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match=str(tmp_path / "file" / "run")), own_folder(tmp_path / "file" / "run"):
        pytest.fail("owned")
