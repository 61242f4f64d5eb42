"""``compactnets weights``: what is here, what can be fetched, and all about one of them."""

from __future__ import annotations

import hashlib
import shlex
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from typer.main import get_command

import compactnets
from compactnets.models.pretrained import FOLDER, VARIABLE, authors_files, find_weights
from compactnets.segmentation.checkpoint import build
from compactnets.segmentation.cost import planned_record
from compactnets.training.checkpoint import save_checkpoint
from compactnets_cli.app import app

from .helpers import Outcome

Run = Callable[..., Outcome]
SHIPPED = "muffnet_x0_5.cifar10"
ABSENT, UNKNOWN = "menet_108_8x1_g3.authors_in1k", "menet_228_12x1_g3.authors_in1k"
SEGMENTER = "menet_108_8x1_g3.street"


@pytest.fixture
def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder of weights: a segmenter with its score, and files that are no weights by name."""
    folder = tmp_path / "weights of mine"
    record = planned_record("menet_108_8x1_g3", "lraspp", settings=[])
    record = record.model_copy(
        update={
            "size": (64, 96),
            "class_names": ["road", "car"],
            "license": "CC-BY-4.0",
            "training": {"data": str(tmp_path / "street"), "miou_percent": 61.234, "epochs": 3, "seed": 7},
        }
    )
    folder.mkdir()
    save_checkpoint(folder / f"{SEGMENTER}.safetensors", build(record).state_dict(), record)
    (folder / "best.safetensors").write_bytes(b"")
    (folder / "muffnet_x0_5.alone.safetensors").write_bytes(b"")
    for name, text in (("muffnet_x0_5.broken", "[]"), ("muffnet_x1_0.other", record.model_dump_json())):
        (folder / f"{name}.safetensors").write_bytes(b"")
        (folder / f"{name}.json").write_text(text, encoding="utf-8")
    monkeypatch.setenv(VARIABLE, str(folder))
    find_weights.cache_clear()
    yield folder
    find_weights.cache_clear()


@pytest.fixture(autouse=True)
def _terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")


def line_of(name: str, text: str) -> str:
    (line,) = (line for line in text.splitlines() if line.startswith(f"{name} "))
    return line


def test_the_list_fits_a_terminal(run: Run) -> None:
    """A row is a line, whatever command trained the weights."""
    found = run("weights")
    assert found.code == 0, found
    assert max(map(len, found.out.splitlines())) <= 80
    row = line_of(SHIPPED, found.out).split()
    weights = find_weights()[SHIPPED]
    assert row[1:] == [
        "classification", "cifar10", f"{weights.record['training']['top1_percent']:.2f}",
        f"{weights.path.stat().st_size / 1e6:.1f}", "Apache-2.0",
    ]  # fmt: skip
    for model in authors_files():
        assert line_of(f"{model}.authors_in1k", found.out).split()[-1] == "none"
    assert line_of(ABSENT, found.out).split()[1:] == ["classification", "ImageNet", "56.08", "2.7", "none"]
    assert line_of(UNKNOWN, found.out).split()[-2] == "?"  # no copy of it was seen
    assert VARIABLE in found.out


def test_in_a_pipe_a_row_is_a_line(run: Run, own: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("COLUMNS")
    found = run("weights").out
    assert line_of(SEGMENTER, found).split()[1:4] == ["segmentation", "street", "61.23"]
    assert str(own) in found
    for name in ("best", "muffnet_x0_5.alone", "muffnet_x0_5.broken", "muffnet_x1_0.other"):
        assert f"{name}.safetensors: " in found, "files that are left out are named"
        assert name not in find_weights()


def test_a_folder_that_is_not_there(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(VARIABLE, str(tmp_path / "nothing"))
    found = run("weights")
    assert found.code == 0
    assert "no such folder" in found.out
    assert not (tmp_path / "nothing").exists()


def test_as_json(run: Run, own: Path) -> None:
    rows = {row["name"]: row for row in run("weights", "--json").json}
    assert {name: rows[name]["where"] for name in (SHIPPED, SEGMENTER, ABSENT)} == {
        SHIPPED: "shipped", SEGMENTER: "folder", ABSENT: "fetch",
    }  # fmt: skip
    assert (rows[SEGMENTER]["metric"], rows[SEGMENTER]["percent"]) == ("mean IoU", 61.234)
    assert Path(rows[SEGMENTER]["path"]).parent == own
    assert rows[ABSENT]["path"] is None
    assert [row.to_dict() for row in compactnets.list_weights()] == [*rows.values()]


@pytest.mark.parametrize("name", [name for name, each in find_weights().items() if each.path.parent == FOLDER])
def test_all_about_shipped_weights(name: str, run: Run) -> None:
    found, text = run("weights", name, "--json").json, run("weights", name).out
    weights = find_weights()[name]
    data = weights.path.read_bytes()
    assert found["bytes"] == len(data)
    assert found["sha256"] == hashlib.sha256(data).hexdigest()
    assert found["commands"]["train"] == weights.record["source"].partition(": ")[2]
    assert found["training"]["images"] == 10_000
    card = weights.path.with_suffix(".md").read_text(encoding="utf-8")
    assert f"{found['params']:,}, {found['macs'] / 1e6:.1f} M" in card
    for part in (str(weights.path), found["sha256"], f"{found['params']:,}", f"{found['percent']:.2f} %", "Apache-2.0"):
        assert part in text
    assert all(f"\n  {command}\n" in text for command in found["commands"].values()), "whole, to be copied"


def test_its_commands_are_taken(run: Run, own: Path) -> None:
    for name in (SHIPPED, SEGMENTER, ABSENT):
        for command in run("weights", name, "--json").json["commands"].values():
            words = shlex.split(command)
            assert words[0] == "compactnets"
            verb = get_command(app).commands[words[1]]  # type: ignore[attr-defined]
            verb.make_context(words[1], words[2:])


def test_of_another_task(run: Run, own: Path, tmp_path: Path) -> None:
    found = run("weights", SEGMENTER).out
    assert "61.23 % mean IoU" in found
    assert "timm" not in found
    (tmp_path / "street").mkdir()
    command = run("weights", SEGMENTER, "--json").json["commands"]["measure"]
    assert shlex.split(command)[-1] == str(tmp_path / "street"), "the path, unlike the table"
    assert compactnets.load(SEGMENTER).task.name == "segmentation"
    with pytest.raises(compactnets.InputError, match="menet_108_8x1_g3.cifar10"):
        compactnets.create_model(SEGMENTER, pretrained=True)  # its weights are not those of a classifier
    refused = run("eval", "--weights", SEGMENTER, "--data", tmp_path / "street")
    assert refused.code == 2
    assert str(tmp_path / "street") in refused.err, "the weights are taken, and the data are refused"


def test_what_is_to_be_fetched(run: Run, shared: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The command that is printed makes weights whose name is found."""
    assert f"export {VARIABLE}=" in run("weights", ABSENT).out
    folder = tmp_path / "of mine"
    monkeypatch.setenv(VARIABLE, str(folder))
    found = run("weights", ABSENT, "--json").json
    assert f"export {VARIABLE}=" not in run("weights", ABSENT).out
    words = shlex.split(found["commands"]["convert"])
    file = shared / "weights" / words[2]
    assert (found["bytes"], found["sha256"]) == (file.stat().st_size, hashlib.sha256(file.read_bytes()).hexdigest())
    find_weights.cache_clear()
    try:
        done = run(words[1], file, *words[3:])
        assert done.code == 0, done
        find_weights.cache_clear()
        (row,) = (row for row in run("weights", "--json").json if row["name"] == ABSENT)
        assert row["where"] == "folder"
        details = run("weights", ABSENT, "--json").json
        assert (details["macs"], details["classes"]) == (found["macs"], found["classes"])
        assert details["params"] == found["params"]
    finally:
        find_weights.cache_clear()
    unknown = run("weights", UNKNOWN, "--json").json
    assert (unknown["bytes"], unknown["sha256"]) == (None, None)


def test_other_names(run: Run, own: Path) -> None:
    for name, told in (
        ("muffnet_x0_5", SHIPPED),
        ("muffnet_x0_5.cifar", SHIPPED),
        ("muffnet_x0_5.alone", "muffnet_x0_5.alone.json is missing"),
        ("nothing", "compactnets weights"),
    ):
        refused = run("weights", name)
        assert refused.code == 2, name
        assert len(refused.err.strip().splitlines()) == 1
        assert told in refused.err
        assert not refused.out
