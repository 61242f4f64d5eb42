"""A model as the Triton Inference Server takes it: the folder, its configuration by the server's own schema, the rest.

No server runs here. The schema is that of NVIDIA's client, which is not part of ``dev``: it wants an older ml_dtypes
than the exporters.
"""

from __future__ import annotations

import importlib.util
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
import torch

import compactnets
from compactnets.deploy.artifact import load_artifact
from compactnets.deploy.serving import export_to_serve
from compactnets.deploy.subject import Classifier
from compactnets.errors import InputError, LimitError
from compactnets.segmentation.checkpoint import build
from compactnets.segmentation.cost import planned_record
from compactnets.training.checkpoint import save_checkpoint

from ..cli.conftest import run
from ..cli.helpers import Outcome
from .conftest import needs
from .helpers import CLASSES, SIZE, tiny_network, tiny_record

__all__ = ["run"]

Run = Callable[..., Outcome]


def subject(**changes: Any) -> Classifier:
    return Classifier(tiny_network(), tiny_record().model_copy(update=changes))


def files(folder: Path) -> set[str]:
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}


def dims(text: str) -> list[list[int]]:
    return [[int(side) for side in found.split(",")] for found in re.findall(r"dims: \[ ([-\d, ]+) \]", text)]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    needs("onnx")
    output = tmp_path_factory.mktemp("models") / "photos.v2"
    export_to_serve(subject(), "triton", "onnx", output, largest_batch=16)
    return output


def test_the_folder(model: Path) -> None:
    assert files(model) == {"config.pbtxt", "labels.txt", "1/model.onnx", "1/artifact.json"}
    assert (model / "labels.txt").read_text(encoding="utf-8").splitlines() == list(tiny_record().labels)
    assert {path.name for path in model.parent.iterdir()} == {"photos.v2"}, "a repository has nothing but models"


def test_the_configuration_is_that_of_the_file(model: Path) -> None:
    """Names and shapes of ONNX Runtime's session; the version is an artifact like any other."""
    text = (model / "config.pbtxt").read_text(encoding="utf-8")
    session = onnxruntime.InferenceSession(str(model / "1" / "model.onnx"))
    (taken,), (given,) = session.get_inputs(), session.get_outputs()
    assert re.findall(r'\bname: "([^"]*)"', text) == ["photos.v2", taken.name, given.name]
    assert dims(text) == [[3, SIZE, SIZE], [CLASSES]]
    assert taken.type == given.type == "tensor(float)"
    assert "max_batch_size: 16" in text
    batch = np.zeros((16, 3, SIZE, SIZE), np.float32)
    assert session.run(None, {taken.name: batch})[0].shape == (16, *dims(text)[1])
    assert load_artifact(model / "1")(torch.from_numpy(batch)).shape == (16, CLASSES)


def schema() -> Any:
    """NVIDIA's ``ModelConfig``, loaded without the rest of its client."""
    found = importlib.util.find_spec("tritonclient")
    if found is None or not found.submodule_search_locations:
        pytest.skip("needs NVIDIA's tritonclient, for its model_config_pb2: pip install --no-deps tritonclient")
    path = Path(found.submodule_search_locations[0]) / "grpc" / "model_config_pb2.py"
    spec = importlib.util.spec_from_file_location("model_config_pb2", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_configuration_by_the_servers_schema(model: Path) -> None:
    kinds = schema()
    from google.protobuf import text_format

    config = text_format.Parse((model / "config.pbtxt").read_text(encoding="utf-8"), kinds.ModelConfig())
    assert (config.name, config.backend, config.max_batch_size) == ("photos.v2", "onnxruntime", 16)
    assert (model / "1" / config.default_model_filename).is_file()
    assert config.HasField("dynamic_batching")
    assert config.dynamic_batching.max_queue_delay_microseconds > 0
    (taken,), (given,) = config.input, config.output
    assert taken.data_type == given.data_type == kinds.TYPE_FP32
    assert list(taken.dims) == [3, SIZE, SIZE]
    assert (model / given.label_filename).is_file()


def test_a_segmenter_of_any_size(tmp_path: Path, run: Run) -> None:
    """A map has no label file for the server to look classes up in; an open size stays open."""
    needs("onnx")
    record = planned_record("shufflenet_g3_x0_25", "lraspp", settings=[])
    record = record.model_copy(update={"class_names": ["road", "car"]})
    save_checkpoint(tmp_path / "a.safetensors", build(record).state_dict(), record)
    found = run(
        *("export", tmp_path / "a.safetensors", "--format", "onnx", "--serving", "triton"),
        *("--output", tmp_path / "models" / "street", "--tolerance", "0.01", "--json"),
    )
    assert found.code == 0, found
    text = (tmp_path / "models" / "street" / "config.pbtxt").read_text(encoding="utf-8")
    sides = record.size or (-1, -1)
    assert dims(text)[0] == [3, *sides]
    assert dims(text)[1][0] == 2
    assert len(dims(text)[1]) == 3
    assert "label_filename" not in text
    assert "max_batch_size: 8" in text
    assert compactnets.load(tmp_path / "models" / "street" / "1").task.name == "segmentation"


def test_labels_are_lines(tmp_path: Path) -> None:
    needs("onnx")
    labels = [f"a\n b{number}" for number in range(len(tiny_record().class_names))]
    export_to_serve(subject(class_labels=labels), "triton", "onnx", tmp_path / "m")
    assert (tmp_path / "m" / "labels.txt").read_text(encoding="utf-8").splitlines()[0] == "a b0"


@pytest.mark.slow
def test_written_again(model: Path) -> None:
    """What was written is replaced; other content of the folder is not."""
    export_to_serve(subject(), "triton", "onnx", model, largest_batch=16)
    assert files(model) == {"config.pbtxt", "labels.txt", "1/model.onnx", "1/artifact.json"}


def test_what_is_refused(tmp_path: Path) -> None:
    needs("onnx")
    (tmp_path / "models" / "other").mkdir(parents=True)
    (tmp_path / "models" / "other" / "config.pbtxt").write_text("mine")
    for server, form, output, told in (
        ("torchserve", "onnx", "m", "triton"),
        ("triton", "openvino", "m", "--format onnx"),
        ("triton", "onnx", "a model", "'a model'"),
        ("triton", "onnx", "models", "other"),
        ("triton", "onnx", "models/other", "config.pbtxt"),
    ):
        with pytest.raises(InputError, match=re.escape(told)):
            export_to_serve(subject(), server, form, tmp_path / output)
    with pytest.raises(LimitError):
        export_to_serve(subject(), "triton", "onnx", tmp_path / "models" / "far", tolerance=0.0)
    assert files(tmp_path) == {"models/other/config.pbtxt"}
    assert not (tmp_path / "models" / "far").exists()


def test_the_name_is_that_of_the_link(tmp_path: Path) -> None:
    needs("onnx")
    (tmp_path / "disk one").mkdir()
    (tmp_path / "photos").symlink_to(tmp_path / "disk one")
    export_to_serve(subject(), "triton", "onnx", tmp_path / "photos")
    assert 'name: "photos"' in (tmp_path / "disk one" / "config.pbtxt").read_text(encoding="utf-8")
