"""Files are written whole or not at all, with one line where they cannot be; JSON is always JSON."""

from __future__ import annotations

import errno
import json
import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from compactnets import files
from compactnets.errors import InputError
from compactnets.files import json_text, replace_bytes, replace_text

FULL = Path("/dev/full")


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.EROFS, errno.EACCES, errno.EFBIG])
@pytest.mark.parametrize("call", ["fsync", "replace"])
def test_a_failed_write_leaves_the_old_file_and_one_line(
    number: int, call: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "file.txt"
    path.write_text("old")

    def fail(*arguments: object) -> None:
        raise OSError(number, os.strerror(number))

    with monkeypatch.context() as patch:
        patch.setattr(files.os, call, fail)
        with pytest.raises(InputError) as error:
            replace_text(path, "new")
    assert str(path) in str(error.value)
    assert os.strerror(number) in str(error.value)
    assert "\n" not in str(error.value)
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_a_file_larger_than_may_be_written(tmp_path: Path) -> None:
    """The kernel's own refusal, in the middle of the data."""
    code = f"""
import resource, sys, types
from pathlib import Path
package = sys.modules["compactnets"] = types.ModuleType("compactnets")  # its own imports take seconds
package.__path__ = [{str(Path(files.__file__).parent)!r}]
from compactnets.files import replace_bytes
resource.setrlimit(resource.RLIMIT_FSIZE, (5000, 5000))
replace_bytes(Path({str(tmp_path / "file")!r}), bytes(4000))
replace_bytes(Path({str(tmp_path / "file")!r}), bytes(9000))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    last = done.stderr.splitlines()[-1]
    assert last.startswith("compactnets.errors.InputError: ")
    assert os.strerror(errno.EFBIG) in last
    assert (tmp_path / "file").stat().st_size == 4000
    assert len(list(tmp_path.iterdir())) == 1


@pytest.mark.skipif(not FULL.exists(), reason="Linux has it")
def test_a_device_is_written_to_and_not_replaced(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=f"{FULL}: {os.strerror(errno.ENOSPC)}"):
        replace_text(FULL, "text")
    replace_text(Path("/dev/null"), "text")
    for device in (FULL, Path("/dev/null")):
        assert stat.S_ISCHR(device.stat().st_mode)
    (tmp_path / "folder").mkdir()
    with pytest.raises(InputError, match=os.strerror(errno.EISDIR)):
        replace_text(tmp_path / "folder", "text")


@pytest.mark.parametrize("mask", [0o022, 0o027, 0o077, 0o002])
def test_permissions_are_those_of_the_umask(mask: int, tmp_path: Path) -> None:
    before = os.umask(mask)
    try:
        replace_bytes(tmp_path / "file", b"data")
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "file").stat().st_mode) == 0o666 & ~mask


def test_a_link_is_followed(tmp_path: Path) -> None:
    real, link = tmp_path / "real" / "file", tmp_path / "link"
    real.parent.mkdir()
    link.symlink_to(real)
    for text in ("first", "second"):  # the first makes the file
        replace_text(link, text)
        assert link.is_symlink()
        assert real.read_text() == text


def test_half_a_character_of_a_file_name(tmp_path: Path) -> None:
    value = {"path": os.fsdecode(b"caf\xe9"), "nan": "NaN"}
    replace_text(tmp_path / "file", json_text(value, ensure_ascii=False))
    assert json.loads((tmp_path / "file").read_bytes()) == value


def test_json_has_no_number_that_is_none() -> None:
    def refuse(constant: str) -> None:
        raise AssertionError(constant)

    nan, inf = float("nan"), float("inf")
    value = {"a": [nan, 1.5, (inf, -inf)], "b": {"c": nan, "d": True, "e": None}, "f": "NaN"}
    found = json.loads(json_text(value), parse_constant=refuse)
    assert found == {"a": [None, 1.5, [None, None]], "b": {"c": None, "d": True, "e": None}, "f": "NaN"}


def test_no_other_json_of_the_package_can_hold_nan() -> None:
    """What is written or printed goes through ``json_text``; digests and keys alone use ``json.dumps``."""
    source = Path(files.__file__).parents[1]
    allowed = {  # digests, keys and what goes back into a setting
        "compactnets/classification/task.py",
        "compactnets/files.py",
        "compactnets/data/base.py",
        "compactnets/data/tar_index.py",
        "compactnets/detection/data/base.py",
        "compactnets/detection/data/coco_json.py",
        "compactnets/models/form.py",
        "compactnets/papers/ablation.py",
        "compactnets/report/evidence.py",
        "compactnets/search/space.py",
        "compactnets/values.py",
    }
    found = {
        str(path.relative_to(source))
        for package in ("compactnets", "compactnets_cli")
        for path in (source / package).rglob("*.py")
        if "json.dump" in path.read_text(encoding="utf-8")
    }
    assert found <= allowed
