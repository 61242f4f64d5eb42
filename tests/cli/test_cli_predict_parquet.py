"""``predict --parquet``: many images, by every task, also after kill -9."""

from __future__ import annotations

import csv
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from PIL import Image
from pyarrow import parquet

from compactnets import api
from compactnets.detection import prediction
from compactnets.detection.objects import Detections
from compactnets.detection.task import TASK as DETECTION

from ..data.helpers import noise
from .helpers import Outcome, save_digits, stand_in

Run = Callable[..., Outcome]


@pytest.fixture(scope="module")
def network(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_digits(tmp_path_factory.mktemp("network") / "a.safetensors", "shufflenet_g3_x0_25")


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """300 images in three folders: links to a few files, one of them broken."""
    root = tmp_path_factory.mktemp("photos")
    for number in range(6):
        noise(8, 8, "L", number).save(root / f".{number}.png")
    (root / ".5.png").write_bytes(b"no image")
    for number in range(300):
        path = root / str(number % 3) / f"{number:03d}.png"
        path.parent.mkdir(exist_ok=True)
        path.hardlink_to(root / (".5.png" if number in (40, 41) else f".{number % 5}.png"))
    return root


def paths(folder: Path) -> list[str]:
    return parquet.read_table(folder, columns=["image"])["image"].to_pylist()


def test_parts_hold_what_csv_holds(run: Run, network: Path, photos: Path, tmp_path: Path) -> None:
    done = run("predict", "--checkpoint", network, photos / "1", "--top", 2, "--csv", tmp_path / "a.csv")
    assert done.code == 2
    options = ("--top", 2, "--part-size", 30, "--workers", 1, "--batch-size", 7)
    done = run("predict", "--checkpoint", network, photos / "1", *options, "--parquet", tmp_path / "a")
    assert (done.code, "100 images in 4 parts" in done.out) == (2, True)
    assert "_errors.csv" in done.err.splitlines()[-1]
    table = parquet.read_table(tmp_path / "a").to_pylist()
    with (tmp_path / "a.csv").open(newline="") as file:
        for row, other in zip(table, csv.DictReader(file), strict=True):
            share, expected = row.pop("probability"), other.pop("probability")
            assert {key: "" if value is None else str(value) for key, value in row.items()} == other
            assert (share is None) == (expected == "")
            assert share is None or share == pytest.approx(float(expected), abs=1e-6)
    done = run("predict", "--checkpoint", network, photos / "1", *options, "--parquet", tmp_path / "a", "--json")
    assert done.code == 2
    assert {key: done.json[key] for key in ("images", "failed", "parts", "kept")} == {
        "images": 100,
        "failed": 1,
        "parts": 4,
        "kept": 4,
    }


def test_kill_9_loses_no_image_and_doubles_none(run: Run, network: Path, photos: Path, tmp_path: Path) -> None:
    output, whole = tmp_path / "killed", tmp_path / "whole"
    arguments = ["predict", "--checkpoint", str(network), str(photos), "--part-size", "20", "--workers", "1"]
    source = "from compactnets.tasks import parts\nimport time\nreal = parts.replace_bytes\n"
    source += "parts.replace_bytes = lambda *a: (real(*a), time.sleep(0.2))\n"  # so that it is killed in time
    source += "from compactnets_cli import main\nmain()\n"
    command = [sys.executable, "-c", source, *arguments, "--parquet", str(output)]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, start_new_session=True)
    end = time.monotonic() + 120
    while not (output / "part-00003.parquet").exists():
        assert process.poll() is None, process.communicate()[1].decode()
        assert time.monotonic() < end
        time.sleep(0.01)
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate()
    kept = len(list(output.glob("*.parquet")))
    assert 4 <= kept < 15
    assert len(paths(output)) < 1500
    done = run(*arguments, "--parquet", output, "--json")
    assert (done.json["images"], done.json["parts"], done.json["kept"]) == (300, 15, kept)
    run(*arguments, "--parquet", whole)
    assert parquet.read_table(output).equals(parquet.read_table(whole))
    assert len(set(paths(output))) == 300
    assert (output / "_errors.csv").read_text() == (whole / "_errors.csv").read_text()


def test_shards_and_lists(run: Run, network: Path, photos: Path, tmp_path: Path) -> None:
    (photos / "list.txt").write_text("".join(f"2/{number:03d}.png\n" for number in range(2, 300, 3) if number != 41))
    for share in ("2/2", "1/2"):
        found = run(
            *("predict", "--checkpoint", network, f"@{photos / 'list.txt'}", "--parquet", tmp_path / "a"),
            *("--shard", share, "--top", 1, "--workers", 0),
        )
        assert found.code == 0, found.err
    expected = sorted(str(photos / f"2/{number:03d}.png") for number in range(2, 300, 3) if number != 41)
    assert sorted(paths(tmp_path / "a")) == expected


@pytest.mark.parametrize(
    ("options", "told"),
    [
        (["--top", 3], "options"),
        (["--part-size", 9], "part_size"),
        (["--every", 2], "every"),
        (["--shard", "1/2"], "shards"),
        (["{network}"], "images"),
        (["--shard", "0/2"], "--shard"),
        (["--csv", "a.csv"], "--csv"),
        (["--score", "0.5"], "--score"),
    ],
)
def test_another_command_is_refused_in_one_line(
    run: Run, network: Path, photos: Path, tmp_path: Path, options: list[Any], told: str
) -> None:
    command = ("predict", "--checkpoint", network, photos / "0" / "000.png", "--parquet", tmp_path / "a")
    assert run(*command).code == 0
    before = {path.name: path.read_bytes() for path in (tmp_path / "a").iterdir()}
    done = run(*command, *(str(option).format(network=network) for option in options))
    assert (done.code, len(done.err.strip().splitlines())) == (2, 1)
    assert told in done.err
    assert {path.name: path.read_bytes() for path in (tmp_path / "a").iterdir()} == before
    assert run(*command, "--workers", 0, "--batch-size", 2).code == 0  # not what is predicted, but how


def test_other_weights_are_refused(run: Run, network: Path, photos: Path, tmp_path: Path) -> None:
    command = (photos / "0" / "000.png", "--parquet", tmp_path / "a")
    assert run("predict", "--checkpoint", network, *command).code == 0
    moved = network.with_name("moved.safetensors")
    moved.write_bytes(network.read_bytes())
    moved.with_suffix(".json").write_bytes(network.with_suffix(".json").read_bytes())
    assert run("predict", "--checkpoint", moved, *command).code == 0
    done = run("predict", "--weights", "muffnet_x0_5.cifar10", *command)
    assert (done.code, len(done.err.strip().splitlines())) == (2, 1)
    assert "weights" in done.err


def test_a_folder_that_cannot_be_written_is_refused_before_the_work(
    run: Run, network: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("compactnets.api.open_model", lambda *_, **__: pytest.fail("work was done"))
    (tmp_path / "file").write_text("mine")
    done = run("predict", "--checkpoint", network, "a.jpg", "--parquet", tmp_path / "file/x")
    assert (done.code, "--parquet" in done.err) == (2, True)
    for option in (("--shard", "1/2"), ("--part-size", 5)):
        done = run("predict", "--checkpoint", network, "a.jpg", *option)
        assert (done.code, "--parquet" in done.err, option[0] in done.err) == (2, True, True)


def test_detectors_write_parts_too(run: Run, photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    record = SimpleNamespace(class_names=("dog",), detector="ssd", model="a", faster_rcnn=None, ssd=None)
    stand_in(monkeypatch, DETECTION, torch.nn.Identity(), record)
    monkeypatch.setattr(api, "digest_of", lambda _: "a digest")
    box = Detections(torch.tensor([[0.0, 1.0, 4.0, 8.0]]), torch.tensor([0]), torch.tensor([0.75]))
    monkeypatch.setattr(prediction, "find_objects", lambda *_: [box])
    Image.new("RGB", (8, 8)).save(tmp_path / "a.png")
    output = tmp_path / "a"
    done = run("predict", "--checkpoint", "a", photos / "2", tmp_path / "a.png", "--parquet", output, "--part-size", 30)
    assert done.code == 2
    rows = parquet.read_table(output).to_pylist()
    assert len(rows) == 101
    assert [row["bottom"] for row in rows if row["error"] is None] == [8.0] * 100
    for option in ("--output", "--coco"):
        done = run("predict", "--checkpoint", "a", photos / "2", "--parquet", tmp_path / "b", option, tmp_path / "c")
        assert (done.code, len(done.err.strip().splitlines()), option in done.err) == (2, 1, True)
    assert not (tmp_path / "b").exists()
    done = run("predict", "--checkpoint", "a", photos / "2", "--parquet", tmp_path / "b", "--workers", 2)
    assert (done.code, "--workers" in done.err) == (2, True)
