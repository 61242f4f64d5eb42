"""Checkpoints: what is written can be read, and what cannot be read says why."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from compactnets import InputError, create_model
from compactnets.classification.checkpoint import CheckpointRecord, load_checkpoint
from compactnets.training.checkpoint import read_record, record_path, save_checkpoint

Write = Callable[..., Path]


def test_round_trip(tiny_checkpoint: Write) -> None:
    path = tiny_checkpoint()
    model, record = load_checkpoint(path)
    assert not model.training
    assert record.labels == ["cat", "dog", "owl"]
    again = path.with_name("again.safetensors")
    save_checkpoint(again, model.state_dict(), record)
    copy, copied_record = load_checkpoint(again)
    x = torch.randn(2, 3, 16, 16)
    assert torch.equal(model(x), copy(x))
    assert copied_record == record
    assert sorted(file.name for file in path.parent.iterdir()) == [
        "again.json",
        "again.safetensors",
        "tiny.json",
        "tiny.safetensors",
    ]


def _corrupt_record(path: Path, change: Callable[[dict[str, Any]], None]) -> None:
    record = json.loads(record_path(path).read_text())
    change(record)
    record_path(path).write_text(json.dumps(record))


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda path: path.unlink(), "no checkpoint at"),
        (lambda path: record_path(path).unlink(), "expected tiny.json"),
        (lambda path: record_path(path).write_text("{"), "is not valid JSON"),
        (lambda path: record_path(path).write_bytes(b"\xff\xfe\x00"), "must be text in UTF-8"),
        (lambda path: record_path(path).write_text("{}"), ": model: Field required"),
        (lambda path: path.write_bytes(path.read_bytes()[:1000]), "is not a readable safetensors file"),
        (lambda path: path.write_bytes(b""), "is not a readable safetensors file"),
        (lambda path: _corrupt_record(path, lambda record: record.update(model="muffnet")), "no network is called"),
        (lambda path: _corrupt_record(path, lambda record: record["preprocess"].pop("size")), "lacks size"),
        (
            lambda path: _corrupt_record(path, lambda record: record["arguments"].update(num_classes=7)),
            "classifier.weight is (3, 240), shufflenet_g3_x0_25 has (7, 240)",
        ),
        (
            lambda path: _corrupt_record(path, lambda record: record.update(model="muffnet_x0_5")),
            "is not a checkpoint of muffnet_x0_5",
        ),
    ],
)
def test_what_cannot_be_read_is_one_line(tiny_checkpoint: Write, spoil: Callable[[Path], None], message: str) -> None:
    path = tiny_checkpoint()
    spoil(path)
    with pytest.raises(InputError) as error:
        load_checkpoint(path)
    assert message in str(error.value)
    assert "\n" not in str(error.value)


def test_mismatch_names_keys_and_shapes(tiny_checkpoint: Write) -> None:
    path = tiny_checkpoint()
    tensors = load_file(path)
    del tensors["stem.conv.conv.weight"]
    tensors["extra"] = torch.zeros(1)
    save_file(tensors, path)
    with pytest.raises(InputError, match=r"1 .*missing.*\(stem\.conv\.conv\.weight\).*1 .*unknown.*\(extra\)"):
        load_checkpoint(path)


def test_a_pickle_is_not_read_as_a_checkpoint(tmp_path: Path) -> None:
    path = tmp_path / "model.pth"
    torch.save(create_model("shufflenet_g3_x0_25").state_dict(), path)
    with pytest.raises(InputError, match="is not a .safetensors checkpoint.*compactnets convert"):
        read_record(path, CheckpointRecord)


def test_wrong_names_are_refused(tiny_checkpoint: Write) -> None:
    path = tiny_checkpoint()
    model, record = load_checkpoint(path)
    with pytest.raises(InputError, match=r"ends in \.safetensors"):
        save_checkpoint(path.with_suffix(".pt"), model.state_dict(), record)
    with pytest.raises(InputError, match="cannot write"):
        save_checkpoint(path / "inside" / "a.safetensors", model.state_dict(), record)
