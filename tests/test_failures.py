"""What libraries raise becomes one line, which names a full disk where there is one."""

from __future__ import annotations

import errno
from pathlib import Path
from typing import Any

import pytest

from compactnets import failures
from compactnets.errors import InputError, LimitError
from compactnets.failures import Space, cause, one_line
from compactnets.stopping import Stopped


class Panic(BaseException):
    """As PyO3 has it."""


def raise_in(what: str, error: BaseException, space: Space | None = None) -> None:
    with one_line(what, space):
        raise error


def chained(first: BaseException, *later: BaseException) -> BaseException:
    for error in later:
        error.__cause__ = first
        first = error
    return first


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (RuntimeError("first\nsecond\nthird"), ["RuntimeError: first"]),
        (RuntimeError("\n\n  after blank lines"), ["RuntimeError: after blank lines"]),
        (KeyError("x"), ["KeyError: 'x'"]),
        (AssertionError(), ["AssertionError"]),
        (ImportError("cannot import name 'a' from 'onnxscript'"), ["onnxscript"]),
        (Panic("index out of bounds"), ["Panic: index out of bounds"]),
        (MemoryError(), ["not enough memory"]),
        (OSError("only a text"), ["only a text"]),
        (PermissionError(13, "Permission denied", "/x/y"), ["Permission denied", "/x/y"]),
        (ValueError("x" * 5000), ["ValueError: xxx"]),
        (chained(TypeError("at the bottom"), RuntimeError("a page\nof advice")), ["TypeError: at the bottom"]),
    ],
    ids=repr,
)
def test_one_line_with_the_cause(error: BaseException, words: list[str]) -> None:
    with pytest.raises(InputError) as found:
        raise_in("tiny cannot be exported to onnx", error)
    text = str(found.value)
    assert text.startswith("tiny cannot be exported to onnx: ")
    assert all(word in text for word in words)
    assert len(text.splitlines()) == 1
    assert len(text) < 400
    assert "None" not in text
    assert found.value.__cause__ is error  # for whoever looks for it in Python


@pytest.mark.parametrize(
    "error", [InputError("a"), LimitError("b"), KeyboardInterrupt(), Stopped(15), SystemExit(3)], ids=repr
)
def test_what_is_ours_passes_as_it_is(error: BaseException) -> None:
    with pytest.raises(type(error)) as found:
        raise_in("what", error)
    assert found.value is error


def test_ours_inside_a_librarys() -> None:
    with pytest.raises(LimitError, match=r"^it differs$"):
        raise_in("what", chained(LimitError("it differs"), RuntimeError("a page")))


@pytest.fixture
def free(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> dict[str, int]:
    """Bytes that are free in the folder for results and in the temporary one."""
    found = {"out": 10**9, "tmp": 10**9}
    monkeypatch.setattr(failures.tempfile, "gettempdir", lambda: str(tmp_path / "scratch"))
    monkeypatch.setattr(failures, "_free", lambda folder: found["tmp" if folder.name == "scratch" else "out"])
    return found


@pytest.mark.parametrize(("full", "named"), [("out", "/out"), ("tmp", "temporary folder")])
@pytest.mark.parametrize("kind", ["before", "said by the system", "not said"])
def test_the_folder_that_is_full_is_named(tmp_path: Path, free: Any, full: str, named: str, kind: str) -> None:
    space = Space(tmp_path / "out", 10**6, 10**6)
    space.check()
    free[full] = 4000
    error: BaseException = RuntimeError("basic_ios::clear: iostream error")
    if kind == "said by the system":
        error = chained(OSError(errno.ENOSPC, "No space left on device"), RuntimeError("a page"))
    with pytest.raises(InputError) as found:
        space.check() if kind == "before" else raise_in("what", error, space)
    text = str(found.value)
    assert "no space left in" in text
    assert named in text
    assert ("TMPDIR" in text) == (full == "tmp")
    assert len(text.splitlines()) == 1


def test_a_full_disk_is_not_blamed_for_everything(tmp_path: Path, free: Any) -> None:
    space = Space(tmp_path / "out", 10**6, 10**6)
    with pytest.raises(InputError) as found:
        raise_in("what", RuntimeError("a"), space)
    assert "space" not in str(found.value)
    free["out"] = 4000
    with pytest.raises(InputError) as found:
        raise_in("what", AssertionError("the input is fixed"), space)
    assert "space" not in str(found.value)
    free["out"] = 10**9
    with pytest.raises(InputError, match="no space left in .*out or "):
        raise_in("what", OSError(errno.EDQUOT, "Disk quota exceeded"), space)


def test_the_first_cause_of_a_loop() -> None:
    error = RuntimeError("round")
    other = ValueError("and round")
    error.__cause__, other.__cause__ = other, error
    assert cause(error) == "ValueError: and round"
