"""The temporary folder, files that belong together, and errors that name what the user gave."""

from __future__ import annotations

import errno
import os
import shutil
import tempfile
from pathlib import Path
from typing import Any

import pytest

from compactnets import failures, files
from compactnets.classification.prediction import COLUMNS
from compactnets.errors import InputError
from compactnets.failures import Space, one_line, scratch_folder
from compactnets.files import replace_csv, replace_files
from compactnets.folders import writing


def refuse(*_: object, **__: object) -> Any:
    raise FileNotFoundError(errno.ENOENT, "No usable temporary directory found in ['/tmp', '/']")


def test_no_temporary_folder_is_one_line(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """As where the whole system is read-only."""
    monkeypatch.setattr(tempfile, "gettempdir", refuse)
    with pytest.raises(InputError, match="No usable temporary directory .*TMPDIR"), scratch_folder():
        pass
    monkeypatch.setattr(tempfile, "gettempdir", lambda: str(tmp_path / "gone"))
    with pytest.raises(InputError, match=f"{tmp_path / 'gone'}.*TMPDIR"), scratch_folder():
        pass


def test_a_result_in_the_temporary_folder_is_no_output(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(failures, "_free", lambda _: 5)
    with scratch_folder() as scratch:
        space = Space(scratch / "site", 10**6, 10**6)
        for text in (str(pytest.raises(InputError, space.check).value), space.full(certain=False)):
            assert f"the temporary folder {tempfile.gettempdir()}" in str(text)
            assert "TMPDIR" in str(text)
            assert "--output" not in str(text)
        assert "2.0 MB are needed" in str(pytest.raises(InputError, space.check).value)
    assert not scratch.exists()
    assert "--output" in str(pytest.raises(InputError, space.check).value)  # another of that name


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT])
def test_why_a_write_failed(number: int, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    error, space = OSError(number, os.strerror(number)), Space(tmp_path / "out", 100)
    assert os.strerror(number) in space.why(error)  # a quota shows in no figure
    assert str(tmp_path / "out") in space.why(error)
    assert tempfile.gettempdir() not in space.why(error).replace(str(tmp_path), "")
    monkeypatch.setattr(failures, "_free", lambda _: 5)
    assert f"no space left in {tmp_path / 'out'} (0.0 MB free)" in space.why(error)
    assert space.why(PermissionError(errno.EACCES, "Permission denied")) == "Permission denied"


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT, errno.EACCES])
def test_a_folder_that_could_not_be_copied(number: int, tmp_path: Path) -> None:
    """Of which Python says what happened to each file, in words."""
    said = OSError(number, os.strerror(number), "a", None, str(tmp_path / "out" / "b"))
    error = shutil.Error([("c", "d", "[Errno 2] No such file or directory: 'c'"), ("a", "b", str(said))])
    with pytest.raises(InputError) as found, one_line("what", Space(tmp_path / "out", 100)):
        raise error
    assert ("no space left in" in str(found.value)) == (number != errno.EACCES)
    assert (str(tmp_path / "out") in str(found.value)) == (number != errno.EACCES)


@pytest.mark.parametrize("failing", [0, 1])
def test_files_that_belong_together(failing: int, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    old, new, write = tmp_path / "a", tmp_path / "deep" / "er" / "b", files._write
    old.write_text("old")
    calls: list[Path] = []

    def maybe(path: Path, data: Any) -> None:
        calls.append(path)
        write(path, data)
        if len(calls) > failing:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr(files, "_write", maybe)
        with pytest.raises(InputError, match=str((old, new)[failing])):
            replace_files({old: b"1", new: b"2"})
    assert list(tmp_path.iterdir()) == [old]
    assert old.read_text() == "old"
    replace_files({old: b"1", new: b"2"})
    assert (old.read_text(), new.read_text()) == ("1", "2")


def test_an_error_names_what_the_user_gave(tmp_path: Path) -> None:
    """And not the hidden folder, which is gone by then."""
    for output in (tmp_path / "new", tmp_path):
        with pytest.raises(InputError) as found, writing(output) as partial:
            raise InputError(f"cannot write {partial / 'model.onnx'}: why")
        assert str(found.value) == f"cannot write {output / 'model.onnx'}: why"
        assert list(tmp_path.iterdir()) == []


def test_a_table_of_results_makes_its_folder(tmp_path: Path) -> None:
    replace_csv(tmp_path / "new" / "results.csv", COLUMNS, [])
    assert (tmp_path / "new" / "results.csv").read_text().startswith("image,")
