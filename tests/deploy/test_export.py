"""What export keeps, refuses and leaves behind."""

from __future__ import annotations

import hashlib
import json
import os
import re
import signal
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from compactnets.classification.checkpoint import CheckpointRecord
from compactnets.classification.prediction import classify
from compactnets.deploy import FORMATS, export, load_artifact
from compactnets.deploy.export import finish_artifact
from compactnets.deploy.formats import torch as torch_format
from compactnets.deploy.record import NAME
from compactnets.deploy.subject import Classifier, load_pictures
from compactnets.errors import InputError, LimitError
from compactnets.tasks.opening import open_model
from compactnets.training.checkpoint import read_record, save_checkpoint

from .conftest import Make, needs
from .helpers import CLASSES, SIZE, Small, opened, tiny_network, tiny_record


def test_the_record_says_how_it_was_checked(artifact: Make) -> None:
    """Batch 1, 2 and 5 at two sizes, on real images."""
    record = json.loads((artifact("torch") / NAME).read_text())
    checks = record["verification"]["checks"]
    assert [(check["batch"], check["size"]) for check in checks] == [
        (1, 24), (1, 56), (2, 24), (2, 56), (5, 24), (5, 56),
    ]  # fmt: skip
    assert all(0 <= check["relative_difference"] < 1e-5 for check in checks)
    assert all(check["agreement"] == 1 and check["images"] == 5 for check in checks)
    assert record["input"] == [None, 3, None, None]


@pytest.mark.slow
def test_fixed_formats_are_written_again_for_other_batches_and_sizes(artifact: Make) -> None:
    record = json.loads((artifact("executorch") / NAME).read_text())
    assert [(check["batch"], check["size"]) for check in record["verification"]["checks"]] == [(1, 24), (5, 56)]
    assert record["input"] == [1, 3, 24, 24]


@pytest.mark.slow
def test_size_and_batch(tmp_path: Path) -> None:
    """The crop keeps its share of the image: 28 of 24 pixels is 56 of 48."""
    needs("executorch")
    record = export(tiny_network(), tiny_record(), "executorch", tmp_path / "a", size=48, batch_size=4)
    assert record.input == [4, 3, 48, 48]
    assert (record.network.preprocess["size"], record.network.preprocess["resize"]) == (48, 56)
    loaded, images = load_artifact(tmp_path / "a"), torch.randn(6, 3, 48, 48)
    with torch.inference_mode():
        torch.testing.assert_close(loaded(images), tiny_network()(images), rtol=1e-4, atol=1e-5)


def test_past_the_tolerance_nothing_is_left(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write = torch_format.write

    def wrong(model: torch.nn.Module, example: torch.Tensor, folder: Path) -> dict[str, Any]:
        next(model.parameters()).data[0] += 0.1
        return write(model, example, folder)

    monkeypatch.setattr(torch_format, "write", wrong)
    with pytest.raises(LimitError, match=r"^the torch artifact differs from PyTorch by .* at batch 1 and 24 x 24"):
        export(Small(), tiny_record(), "torch", tmp_path / "a")
    assert not list(tmp_path.iterdir())


def test_results_that_are_not_numbers_are_refused(tmp_path: Path) -> None:
    model = Small()
    next(model.parameters()).data[0] = float("nan")
    with pytest.raises(LimitError, match="differs from PyTorch by nan"):
        export(model, tiny_record(), "torch", tmp_path / "a")
    assert not list(tmp_path.iterdir())


def test_compare_counts_classes_and_differences() -> None:
    expected = np.array([[1.0, 2.0], [4.0, -8.0]], np.float32)
    subject = Classifier(Small(), tiny_record())
    check = subject.compare(expected, np.array([[2.0, 1.0], [4.0, -8.0]], np.float32), 2)
    assert (check.max_difference, check.relative_difference, check.agreement) == (1.0, 0.125, 0.5)
    assert (check.batch, check.size) == (2, 24)
    with pytest.raises(LimitError, match=r"\(1, 2\).*\(2, 2\)"):
        subject.compare(expected, expected[:1], 2)


def test_an_artifact_is_replaced_and_nothing_else(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "a"
    export(Small(), tiny_record(), "torch", folder)
    before = (folder / NAME).read_text()
    export(Small(), tiny_record(), "torch", folder, size=32)
    assert (folder / NAME).read_text() != before
    assert [path.name for path in tmp_path.iterdir()] == ["a"]
    (folder / "notes.txt").touch()
    with pytest.raises(InputError, match=r"holds notes.txt, which no export wrote"):
        export(Small(), tiny_record(), "torch", folder)
    file = tmp_path / "file"
    file.touch()
    with pytest.raises(InputError, match="must be a folder"):
        export(Small(), tiny_record(), "torch", file)
    other = tmp_path / "other"
    other.mkdir()
    (other / "model.onnx").touch()
    with pytest.raises(InputError, match=r"holds model.onnx, which no export wrote"):
        export(Small(), tiny_record(), "torch", other)


def test_a_failed_export_keeps_the_artifact_before(tmp_path: Path) -> None:
    folder = tmp_path / "a"
    export(Small(), tiny_record(), "torch", folder)
    before = (folder / NAME).read_text()
    with pytest.raises(LimitError):
        export(Small(), tiny_record(), "torch", folder, tolerance=0.0)
    assert (folder / NAME).read_text() == before
    assert load_artifact(folder).record.format == "torch"


class Panic(BaseException):
    """As PyO3 has it."""


@pytest.mark.parametrize(
    "error", [RuntimeError("no kernel\nfor this"), KeyError("x"), Panic("no kernel"), MemoryError()]
)
@pytest.mark.parametrize("there", [True, False])
def test_what_a_library_raises_is_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: BaseException, there: bool
) -> None:
    """With the network, the format and the cause; and what was there stays."""

    def fail(model: torch.nn.Module, example: torch.Tensor, folder: Path) -> dict[str, Any]:
        (folder / "model.pt2").write_bytes(b"half")
        raise error

    monkeypatch.setattr(torch_format, "write", fail)
    folder = tmp_path / "deep" / "a"
    if there:
        folder.mkdir(parents=True)
    with pytest.raises(InputError) as found:
        export(Small(), tiny_record(), "torch", folder)
    text = str(found.value)
    assert text.startswith("tiny cannot be exported to torch: ")
    assert len(text.splitlines()) == 1
    assert list(tmp_path.rglob("*")) == ([tmp_path / "deep", folder] if there else [])


@pytest.mark.parametrize("name", ["SIGINT", "SIGTERM", "SIGHUP"])
def test_a_signal_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    def interrupted(model: torch.nn.Module, example: torch.Tensor, folder: Path) -> dict[str, Any]:
        (folder / "model.pt2").write_bytes(b"half")
        os.kill(os.getpid(), getattr(signal, name))
        time.sleep(10)
        return {}

    monkeypatch.setattr(torch_format, "write", interrupted)
    with pytest.raises(KeyboardInterrupt if name == "SIGINT" else SystemExit):
        export(Small(), tiny_record(), "torch", tmp_path / "deep" / "a")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("tolerance", [float("nan"), float("inf"), -0.1, 1.5])
def test_a_tolerance_is_a_share(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tolerance: float) -> None:
    monkeypatch.setattr(torch_format, "write", lambda *_: pytest.fail("work was done"))
    with pytest.raises(InputError, match=r"--tolerance must be a share from 0 to 1, found"):
        export(Small(), tiny_record(), "torch", tmp_path / "a", tolerance=tolerance)


@pytest.mark.parametrize("output", ["file", "file/a", "loop", "full"])
def test_the_folder_is_looked_at_before_the_work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, output: str) -> None:
    (tmp_path / "file").touch()
    (tmp_path / "loop").symlink_to("loop")
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "thesis.txt").touch()
    monkeypatch.setattr(torch_format, "write", lambda *_: pytest.fail("work was done"))
    with pytest.raises(InputError):
        export(Small(), tiny_record(), "torch", tmp_path / output)


@pytest.mark.parametrize(
    "name",
    ["model.onnx", "model.xml", "model.bin", "model.pte", "model.ncnn.param", "model.mlpackage", "net.pt2", "model.c"],
)
def test_a_file_of_an_artifact_gets_advice_that_fits(tmp_path: Path, name: str) -> None:
    """Not to convert it from the MENet repository: to give the folder, or to export again."""
    (tmp_path / name).mkdir() if name.endswith("mlpackage") else (tmp_path / name).touch()
    for load in (opened, open_model, lambda path: read_record(path, CheckpointRecord)):
        with pytest.raises(InputError, match=rf"{re.escape(name)} .*artifact\.json.*compactnets export") as found:
            load(str(tmp_path / name))
        assert "convert" not in str(found.value)
    (tmp_path / NAME).touch()
    with pytest.raises(InputError, match=r"exported network.*\.safetensors") as found:
        opened(str(tmp_path / name))
    assert f"folder {tmp_path}" in str(found.value)


def test_a_folder_gets_advice_that_fits(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="without artifact.json.*no checkpoint either"):
        opened(str(tmp_path))
    (tmp_path / "best.safetensors").touch()
    with pytest.raises(InputError, match=r"without artifact\.json.*best\.safetensors"):
        opened(str(tmp_path))
    (tmp_path / NAME).touch()
    with pytest.raises(InputError, match=r"exported network.*\.safetensors"):
        opened(str(tmp_path))


def test_the_network_is_left_alone(tmp_path: Path) -> None:
    model = tiny_network().double().train()
    export(model, tiny_record(), "torch", tmp_path / "a")
    assert model.training
    assert all(parameter.dtype == torch.float64 for parameter in model.parameters())


def test_by_name_and_by_checkpoint(tmp_path: Path) -> None:
    model, record = opened("muffnet_x0_5", {"stem": "cifar", "num_classes": 4})
    assert (record.preprocess["size"], len(record.class_names)) == (32, 4)
    assert "not trained" in record.source
    again, _ = opened("muffnet_x0_5", {"stem": "cifar", "num_classes": 4})
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), again.parameters(), strict=True))
    grey, record = opened("muffnet_x0_5", {"in_chans": 1})
    assert len(record.preprocess["mean"]) == 1
    save_checkpoint(tmp_path / "c.safetensors", model.state_dict(), opened("muffnet_x0_5", record.arguments)[1])
    with pytest.raises(InputError, match="num_classes cannot be set for"):
        opened(str(tmp_path / "c.safetensors"), {"num_classes": 3})
    with pytest.raises(InputError, match="no network is called 'muffnet_x0_6'"):
        opened("muffnet_x0_6")
    with pytest.raises(InputError, match="needs a classifier"):
        opened("muffnet_x0_5", {"num_classes": 0})
    with pytest.raises(InputError, match="1 or 3 channels, found in_chans = 4"):
        opened("muffnet_x0_5", {"in_chans": 4})


def test_grey_networks(tmp_path: Path) -> None:
    record = export(tiny_network(1), tiny_record(1), "torch", tmp_path / "a", images="digits")
    assert record.input == [None, 1, None, None]
    assert record.verification.images == "the first images of digits"


def test_pictures_are_five_different_photographs() -> None:
    pictures, origin = load_pictures(None)
    assert len({picture.tobytes() for picture in pictures}) == 5
    assert "photographs" in origin


def test_a_record_names_as_many_classes_as_there_are_outputs(tmp_path: Path) -> None:
    """At export, and where the record of an artifact or a checkpoint was changed afterwards."""
    record = tiny_record()
    for changed in (
        record.model_copy(update={"class_names": ["a"], "class_labels": None}),
        record.model_copy(update={"class_labels": ["a", "b"]}),
    ):
        with pytest.raises(InputError, match=r"names [12] classes in class_\w+, and the network has 5 outputs"):
            export(Small(), changed, "torch", tmp_path / "a")
        assert not list(tmp_path.iterdir())
    export(Small(), record, "torch", tmp_path / "a")
    written = json.loads((tmp_path / "a" / NAME).read_text())
    written["network"]["class_names"] = ["a", "b"]
    (tmp_path / "a" / NAME).write_text(json.dumps(written))
    with pytest.raises(InputError, match="names 2 classes in class_names, and the network has 5 outputs"):
        load_artifact(tmp_path / "a")
    with pytest.raises(InputError, match="names 1 classes in class_names, and the network has 5 outputs"):
        finish_artifact(
            FORMATS["torch"],
            Classifier(Small(), record.model_copy(update={"class_names": ["a"]})),
            tmp_path / "a",
            {},
            lambda example, folder: {},
            tolerance=1.0,
        )
    model, other = opened("muffnet_x0_5", {"stem": "cifar", "num_classes": 4})
    save_checkpoint(tmp_path / "c.safetensors", model.state_dict(), other.model_copy(update={"class_names": ["a"]}))
    with pytest.raises(InputError, match="names 1 classes in class_names, and the network has 4 outputs"):
        opened(str(tmp_path / "c.safetensors"))


def test_logits_that_are_not_numbers_are_no_prediction() -> None:
    model = tiny_network()
    next(model.parameters()).data[0] = float("nan")
    with pytest.raises(InputError, match="not finite"):
        classify(model, tiny_record(), load_pictures(None)[0][0])


def test_model_onnx_says_by_itself_what_it_is(tmp_path: Path) -> None:
    """Read by onnx and ONNX Runtime alone, as someone does who has nothing but the file."""
    onnx, onnxruntime = pytest.importorskip("onnx"), pytest.importorskip("onnxruntime")
    needs("onnx")
    names = ["n0", "caf\u00e9", 'a "quote"', "\u732b", ""]
    files = []
    for folder, labels in (("a", None), ("b", None), ("c", ["cat", "dog", "bird", "fish", "ant"])):
        record = tiny_record().model_copy(update={"class_names": names, "class_labels": labels})
        export(Small(), record, "onnx", tmp_path / folder, size=32)
        files.append((tmp_path / folder / "model.onnx").read_bytes())
        found = onnxruntime.InferenceSession(files[-1], providers=["CPUExecutionProvider"])
        metadata = found.get_modelmeta().custom_metadata_map
        assert metadata == {entry.key: entry.value for entry in onnx.load_from_string(files[-1]).metadata_props}
        artifact = json.loads((tmp_path / folder / NAME).read_text(encoding="utf-8"))
        network = artifact["network"]
        for key, value in (
            ("version", artifact["versions"]["compactnets"]),
            ("task", "classification"),
            ("network", network["model"]),
            ("precision", artifact["precision"]),
            ("source", network["source"]),
            ("license", network["license"]),
        ):
            assert metadata[f"compactnets.{key}"] == value
        for key in ("class_names", "class_labels", "preprocess"):
            assert json.loads(metadata.get(f"compactnets.{key}", "null")) == network[key]
        assert json.loads(metadata["compactnets.preprocess"])["size"] == 32
        (taken,) = json.loads(metadata["compactnets.inputs"])
        (given,) = json.loads(metadata["compactnets.outputs"])
        assert (taken["name"], taken["shape"]) == (found.get_inputs()[0].name, artifact["input"])
        assert (given["name"], given["shape"][1]) == (found.get_outputs()[0].name, len(names))
        assert artifact["files"]["model.onnx"] == hashlib.sha256(files[-1]).hexdigest()
        assert artifact["bytes"] == len(files[-1])
    assert files[0] == files[1]
    documented = (Path(__file__).parents[2] / "docs" / "deploy.md").read_text(encoding="utf-8")
    assert [key for key in metadata if f"`{key}`" not in documented] == []


class OneSize(nn.Module):
    """Like networks of timm that look at the size of their input."""

    def __init__(self, side: int) -> None:
        super().__init__()
        self.side = side
        self.body = nn.Sequential(nn.Conv2d(3, 4, 4, 4), nn.Flatten(), nn.Linear(4 * (side // 4) ** 2, CLASSES))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        torch._assert(x.shape[-1] == self.side, f"Input width ({x.shape[-1]}) doesn't match model ({self.side})")
        return self.body(x)


@pytest.mark.parametrize("name", FORMATS)
def test_a_network_of_one_size(name: str, tmp_path: Path) -> None:
    """Another size is one line for every format, its own one where artifacts take any, and else an artifact."""
    needs(name)
    model, record = OneSize(SIZE).eval(), tiny_record()
    for size in (None, SIZE, SIZE + 8):
        if size != SIZE + 8 and not FORMATS[name].any_size:
            continue
        with pytest.raises(InputError) as caught:
            export(model, record, name, tmp_path / "a", size=size)
        assert str(SIZE) in str(caught.value)
        assert "\n" not in str(caught.value)
        if size != SIZE + 8:
            assert "executorch" in str(caught.value)  # which fixes the size
        assert not list(tmp_path.iterdir())


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name, form in FORMATS.items() if form.runs_here and not form.any_size])
def test_a_network_of_one_size_where_the_format_fixes_it(name: str, tmp_path: Path) -> None:
    needs(name)
    found = export(OneSize(SIZE).eval(), tiny_record(), name, tmp_path / "a")
    assert found.input[2:] == [SIZE, SIZE]
