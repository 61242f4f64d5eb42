"""A run that cannot write: one line, nothing torn, and the same command goes on from whatever reached the disk."""

from __future__ import annotations

import errno
import json
import os
import stat
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from compactnets import files
from compactnets.classification.recipe import ClassificationRecipe
from compactnets.classification.task import TASK
from compactnets.errors import InputError
from compactnets.training.events import Events
from compactnets.training.loop import TrainResult

from .helpers import digits_part, make_tiny_recipe

WRITES = [  # of a run of one epoch, in their order
    "step-000000000.pt",
    "recipe.yaml",
    "environment.json",
    "metrics.jsonl",
    "last.safetensors",
    "last.json",
    "best.safetensors",
    "best.json",
    "step-000000002.pt",
    "curves.svg",
]
FIRST = ("recipe.yaml", "last.safetensors", "best.json", "step-000000002.pt")  # the others are slow tests
ERRORS = [errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.EROFS, errno.EACCES]
SMALL: dict[str, Any] = {"batch_size": 16}


def train(run: Path, **changes: Any) -> TrainResult:
    return TASK.train(make_tiny_recipe(**{**SMALL, **changes}), *digits_part(32, 10), run)


def content(run: Path) -> dict[str, Any]:
    """What must be the same however often a run was stopped."""
    weights = {name: (run / f"{name}.safetensors").read_bytes() for name in ("last", "best")}
    records = {name: json.loads((run / f"{name}.json").read_text())["training"] for name in ("last", "best")}
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    for clocked in (*records.values(), *lines):
        for key in ("seconds", "images_per_second"):
            del clocked[key]
    names = {str(path.relative_to(run)) for path in run.rglob("*") if "tfevents" not in path.name}
    recipe = yaml.safe_load((run / "recipe.yaml").read_text())
    return {"weights": weights, "records": records, "metrics": lines, "names": names, "recipe": recipe}


@pytest.fixture(scope="module")
def straight(tmp_path_factory: pytest.TempPathFactory) -> Path:
    run = tmp_path_factory.mktemp("straight") / "run"
    train(run)
    return run


@pytest.fixture
def fail_from(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[int, int], list[str]]]:
    """Let the first so many writes pass and every later one fail with an errno; the names of all are collected."""
    write = files._write

    def arrange(passing: int, number: int) -> list[str]:
        names: list[str] = []

        def maybe(path: Path, data: Any) -> None:
            names.append(path.name.removeprefix(".").rsplit(f".{os.getpid()}.", 1)[0])
            if len(names) > passing:
                path.write_bytes(bytes(data)[: len(data) // 2])
                raise OSError(number, os.strerror(number))
            write(path, data)

        monkeypatch.setattr(files, "_write", maybe)
        return names

    yield arrange
    monkeypatch.setattr(files, "_write", write)


def test_the_order_of_the_writes(straight: Path, tmp_path: Path, fail_from: Any) -> None:
    names = fail_from(1000, 0)
    train(tmp_path / "run")
    assert names == WRITES


@pytest.mark.parametrize(
    "passing",
    [
        pytest.param(index, id=name, marks=() if name in FIRST else pytest.mark.slow)
        for index, name in enumerate(WRITES)
    ],
)
def test_any_prefix_of_the_writes_goes_on(
    passing: int, straight: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fail_from: Any
) -> None:
    run, number = tmp_path / "run", ERRORS[passing % len(ERRORS)]
    fail_from(passing, number)
    with pytest.raises(InputError) as error:
        train(run)
    monkeypatch.undo()
    message = str(error.value)
    assert WRITES[passing] in message
    assert os.strerror(number) in message
    assert "\n" not in message
    assert not list(run.rglob("*.partial"))
    if run.exists():  # what a kill in the middle of a write would leave
        for folder in (run, run / "checkpoints"):
            folder.mkdir(exist_ok=True)
            (folder / ".last.safetensors.1.partial").write_bytes(b"half")
    train(run)
    assert content(run) == content(straight)


def test_events_that_cannot_be_written(straight: Path, tmp_path: Path) -> None:
    """TensorBoard's own writer would print a traceback from a thread, and end the run at some later write."""
    (tmp_path / "tensorboard").write_text("in the way")
    with pytest.raises(InputError, match=f"cannot write {tmp_path / 'tensorboard'}"):
        train(tmp_path)
    (tmp_path / "tensorboard").unlink()
    train(tmp_path)
    assert content(tmp_path) == content(straight)


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="Linux has it")
def test_events_on_a_full_disk_end_with_a_whole_record(tmp_path: Path) -> None:
    from tensorboard.backend.event_processing.event_file_loader import EventFileLoader

    events = Events(tmp_path)
    events.add({"a": 1.0}, 1)
    events.flush()
    path = events._path
    assert path is not None
    moved = path.with_name("moved")
    path.rename(moved)
    path.symlink_to("/dev/full")
    events.add({"a": 2.0}, 2)
    with pytest.raises(InputError, match=os.strerror(errno.ENOSPC)):
        events.flush()
    path.unlink()
    moved.rename(path)
    events.close()  # there is space again
    found = [value.tag for event in EventFileLoader(str(path)).Load() for value in event.summary.value]
    assert found == ["a", "a"]


def test_checkpoints_have_the_permissions_of_the_umask(straight: Path, tmp_path: Path) -> None:
    mask = os.umask(0o022)
    os.umask(mask)
    modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in straight.rglob("*") if path.is_file()}
    assert set(modes.values()) == {0o666 & ~mask}, modes


TMPFS = """
mount -t tmpfs -o size={size} none {folder} || exit 77
{python} -m compactnets train {recipe} --data digits --output {folder}/run --set checkpoint_minutes=0 > {log} 2>&1
echo "$? $(tail -n 1 {log})"
mount -o remount,size=64m {folder}
exec {python} -m compactnets train {recipe} --data digits --output {folder}/run --set checkpoint_minutes=0 --json
"""


@pytest.mark.slow
@pytest.mark.parametrize("size", ["4k", "100k", "400k", "900k", "1200k", "1600k", "2000k"])
def test_a_full_disk(size: str, tmp_path: Path) -> None:
    """A real one, that fills up at some write or other; once there is space, the same command goes on."""
    recipe, log, folder = tmp_path / "tiny.yaml", tmp_path / "log", tmp_path / "disk"
    folder.mkdir()
    settings: ClassificationRecipe = make_tiny_recipe(batch_size=512)
    recipe.write_text(yaml.safe_dump(settings.model_dump(mode="json")))
    script = TMPFS.format(size=size, folder=folder, recipe=recipe, log=log, python=sys.executable)
    done = subprocess.run(["unshare", "-m", "sh", "-c", script], capture_output=True, text=True, check=False)
    if done.returncode == 77 or "unshare:" in done.stderr:
        pytest.skip("mounting is not allowed here")
    first, _, rest = done.stdout.partition("\n")
    code, _, line = first.partition(" ")
    assert code in ("0", "2"), log.read_text()
    if code == "2":
        assert line.startswith("compactnets: error: cannot write ")
        assert os.strerror(errno.ENOSPC) in line
    assert "Traceback" not in log.read_text()
    assert done.returncode == 0, done.stderr
    assert json.loads(rest)["final"]["images"] == 360
