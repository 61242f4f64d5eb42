"""Artifacts of --precision float16: half the bytes, the same contract, and refusals in one line."""

from __future__ import annotations

import importlib
import json
import re
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch
import typer
from torch import Tensor, nn

from compactnets.deploy import (
    FORMATS,
    deploy_form,
    export,
    load_artifact,
)
from compactnets.deploy.export import weight_bytes
from compactnets.deploy.planar.emit import plan, read_program
from compactnets.deploy.record import NAME, ArtifactRecord, read_artifact
from compactnets.deploy.rewrite import store_float16
from compactnets.deploy.subject import Classifier, load_pictures
from compactnets.deploy.verify import TOLERANCES, check_float16
from compactnets.errors import InputError, LimitError
from compactnets.latency.benchmark import (
    Variant,
    _prepare,
    _read_if_fits,
    parse_format,
)
from compactnets.web.site import build_site

from .conftest import Make, needs
from .helpers import SIZE, Small, opened, tiny_record

WITH = [name for name, form in FORMATS.items() if form.float16]
WITHOUT = [name for name, form in FORMATS.items() if not form.float16]
RUN_HERE = [name for name in WITH if FORMATS[name].runs_here]
DOCS = Path(__file__).parents[2] / "docs" / "deploy.md"


class Wide(nn.Module):
    """Enough weights that they are most of every file; its normalisation is not folded.

    Args:
        variance: of the normalisation. 1e-8 is nothing in float16.
    """

    def __init__(self, variance: float = 1e-8) -> None:
        super().__init__()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            self.first, self.act = nn.Conv2d(3, 96, 3, 4, 1), nn.ReLU()
            self.norm, self.second = nn.BatchNorm2d(96), nn.Conv2d(96, 192, 3, 2, 1, bias=False)
            self.pool, self.classifier = nn.AdaptiveAvgPool2d(1), nn.Linear(192, 5)
        assert self.norm.running_var is not None
        self.norm.running_var.fill_(variance)
        self.norm.eps = variance / 10
        self.norm.weight.data.fill_(variance**0.5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.norm(self.act(self.first(x)))
        return self.classifier(self.pool(self.act(self.second(x))).flatten(1))


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Make:
    @cache
    def make(name: str) -> Path:
        needs(name)
        folder = tmp_path_factory.mktemp("float16") / name
        network = Wide() if FORMATS[name].float16 == "stored" else Wide(variance=1.0)
        export(network.eval(), tiny_record(), name, folder, precision="float16")
        return folder

    return make


def dtypes_in_onnx(folder: Path) -> set[str]:
    import onnx

    graph = onnx.load(folder / "model.onnx").graph
    assert all(value.type.tensor_type.elem_type == onnx.TensorProto.FLOAT for value in (*graph.input, *graph.output))
    return {str(onnx.numpy_helper.to_array(one).dtype) for one in graph.initializer if len(one.dims) > 1}


def dtypes_in_openvino(folder: Path) -> set[str]:
    from compactnets.deploy.formats.openvino import _core

    network = _core().read_model(folder / "model.xml")
    assert [port.get_element_type().get_type_name() for port in (*network.inputs, *network.outputs)] == ["f32"] * 2
    constants = [node for node in network.get_ops() if node.get_type_name() == "Constant"]
    large = [node for node in constants if np.prod(node.get_output_shape(0)) > 1000]
    return {node.get_element_type().get_type_name() for node in large}


def dtypes_in_torch(folder: Path) -> set[str]:
    program = torch.export.load(folder / "model.pt2")
    assert str(folder.parents[3]) not in json.dumps([str(node.meta) for node in program.graph.nodes])
    return {str(tensor.dtype) for tensor in program.state_dict.values() if tensor.ndim > 1}


def dtypes_in_c(folder: Path) -> set[str]:
    ready = plan(read_program(folder / "model.json"))
    assert (folder / "model.bin").stat().st_size == 4 * ready.floats
    return {"float16" if stored.half else "float32" for stored in ready.weights if stored.count}


def dtypes_in_litert(folder: Path) -> set[str]:
    from ai_edge_litert.interpreter import Interpreter

    tensors = Interpreter(str(folder / "model.tflite")).get_tensor_details()
    assert sum(each["dtype"] == np.float16 for each in tensors) == 3  # activations are not named as such
    return {"float16"}


DTYPES: dict[str, tuple[Callable[[Path], set[str]], str]] = {
    "onnx": (dtypes_in_onnx, "float16"),
    "openvino": (dtypes_in_openvino, "f16"),
    "torch": (dtypes_in_torch, "torch.float16"),
    "c": (dtypes_in_c, "float16"),
    "litert": (dtypes_in_litert, "float16"),
}


@pytest.mark.parametrize(
    "name", [name if name in ("onnx", "torch") else pytest.param(name, marks=pytest.mark.slow) for name in WITH]
)
def test_half_the_bytes_and_the_same_contract(made: Make, name: str) -> None:
    folder, form = made(name), FORMATS[name]
    record, _ = read_artifact(folder, ArtifactRecord)
    assert record.precision == "float16"
    assert record.bytes < 0.6 * weight_bytes(Wide())
    assert record.bytes == sum(
        path.stat().st_size for path in folder.rglob("*") if path.is_file() and path.name != NAME
    )
    size = None if form.any_size else SIZE
    assert record.input == [None if form.any_batch else 1, 3, size, size]
    assert record.network == tiny_record()
    if name in DTYPES:
        find, expected = DTYPES[name]
        assert find(folder) == {expected}


@pytest.mark.parametrize("name", WITH)
def test_was_compared_with_the_float32_network(made: Make, name: str) -> None:
    """Its differences are those of a rounding to float16: neither nothing, nor beyond the tolerance."""
    record = json.loads((made(name) / NAME).read_text())
    verification = record["verification"]
    assert verification["tolerance"] == TOLERANCES["float16"]
    if not FORMATS[name].runs_here:
        assert 1e-5 < record["details"]["float16_difference"] < TOLERANCES["float16"]
        return
    checked = {(check["batch"], check["size"]) for check in verification["checks"]}
    assert checked >= {(1, 24), (5, 56), *([(2, 24)] if FORMATS[name].any_batch else [])}
    for check in verification["checks"]:
        assert 1e-5 < check["relative_difference"] < TOLERANCES["float16"]


@pytest.mark.parametrize("name", RUN_HERE)
def test_runs_like_the_float32_artifact(made: Make, name: str) -> None:
    """Several batches, sizes and threads; float32 in and out."""
    loaded, model = load_artifact(made(name), threads=1), Wide().eval()
    shapes = [(1, 3, SIZE, SIZE), (3, 3, SIZE, SIZE), (2, 3, 33, 40)]
    images = [torch.randn(shape) for shape in shapes if FORMATS[name].any_size or shape[2] == SIZE]
    with torch.inference_mode(), ThreadPoolExecutor(3) as pool:
        for one, found in zip(images, pool.map(loaded, images), strict=True):
            expected = model(one)
            assert found.dtype == torch.float32
            assert float((found - expected).abs().max()) < TOLERANCES["float16"] * float(expected.abs().max())
        assert loaded(torch.zeros(0, 3, SIZE, SIZE)).shape == (0, 5)


@pytest.mark.parametrize(
    ("name", "precision", "said"),
    [
        *((name, "float16", [name, *WITH]) for name in WITHOUT),
        *((name, "int8", ["quantize"]) for name in FORMATS),
        ("onnx", "fp16", ["float32", "float16", "'fp16'"]),
        ("onnx", "", ["float32", "float16"]),
    ],
)
def test_what_cannot_be_had_is_one_line_before_the_work(
    name: str, precision: str, said: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    module = importlib.import_module("compactnets.deploy.export")  # the package has the function by this name
    monkeypatch.setattr(module.Classifier, "pictures", lambda *_: pytest.fail("work was done"))
    with pytest.raises(InputError) as found:
        export(Small(), tiny_record(), name, tmp_path / "a", precision=precision)
    assert [word for word in said if word not in str(found.value)] == []
    assert len(str(found.value).splitlines()) == 1
    assert not list(tmp_path.iterdir())


def test_past_the_tolerance_nothing_is_left(tmp_path: Path) -> None:
    with pytest.raises(LimitError, match="the tolerance"):
        export(Wide().eval(), tiny_record(), "torch", tmp_path / "a", precision="float16", tolerance=1e-6)
    assert not list(tmp_path.iterdir())


class Loud(nn.Module):
    """Between its layers are values beyond the range of float16; its weights are within, but for ``factor``."""

    def __init__(self, factor: float) -> None:
        super().__init__()
        self.first, self.pool, self.classifier = nn.Conv2d(3, 8, 3, 2, 1), nn.AdaptiveAvgPool2d(1), nn.Linear(8, 5)
        self.first.weight.data.mul_(factor)
        self.requires_grad_(False)

    def forward(self, x: Tensor) -> Tensor:
        return self.classifier(self.pool(self.first(x)).flatten(1))


@pytest.mark.parametrize("kind", ["overflow", "variance"])
def test_what_float16_cannot_compute_is_refused_where_it_computes(tmp_path: Path, kind: str) -> None:
    """And nowhere else: the other formats were written with this variance, and one is with this overflow."""
    needs("coreml")
    network = Loud(1e5).eval() if kind == "overflow" else Wide(variance=1e-8).eval()
    assert max(float(one.detach().abs().max()) for one in network.parameters()) < 65504
    with pytest.raises(LimitError, match="float16"):
        export(network, tiny_record(), "coreml", tmp_path / "a", precision="float16")
    assert not list(tmp_path.iterdir())
    if kind == "overflow":
        export(network, tiny_record(), "torch", tmp_path / "b", precision="float16")


BEYOND = {
    "onnx": {"float32", "float16"},
    "torch": {"torch.float32", "torch.float16"},
    "c": {"float32", "float16"},
}


@pytest.mark.parametrize("name", BEYOND)
def test_weights_beyond_the_range_stay_float32(tmp_path: Path, name: str) -> None:
    needs(name)
    loud = Loud(1e7).eval()
    assert float(loud.first.weight.abs().max()) > 65504
    record = export(loud, tiny_record(), name, tmp_path / "a", precision="float16")
    assert max(check.relative_difference for check in record.verification.checks) < TOLERANCES["float16"]
    assert DTYPES[name][0](tmp_path / "a") == BEYOND[name]


def test_the_benchmark_tells_precisions_apart(made: Make, tmp_path: Path) -> None:
    assert parse_format("onnx@float16") == Variant("onnx", "float16")
    for name in WITHOUT:
        with pytest.raises(InputError, match=rf"{name} runs in float32.*found 'float16'"):
            parse_format(f"{name}@float16")
    variant = parse_format("torch@float16")
    assert (variant.label, variant.stored, variant.arithmetic) == ("torch@float16", "float16", "float32")
    subject = Classifier(Small().eval(), tiny_record())
    (half,) = _prepare("tiny", subject, variant, [1], tmp_path)
    (plain,) = _prepare("tiny", subject, Variant("torch"), [1], tmp_path)
    assert half.path is not None
    assert plain.path is not None
    assert half.path != plain.path
    assert _read_if_fits(half.path.parent, subject, variant, 1) is not None
    assert _read_if_fits(half.path.parent, subject, Variant("torch"), 1) is None
    assert _read_if_fits(plain.path.parent, subject, variant, 1) is None
    before = half.path.stat().st_mtime_ns
    assert _prepare("tiny", subject, variant, [1], tmp_path) == [half]
    assert half.path.stat().st_mtime_ns == before


def test_docs_and_help_say_which_formats_have_it() -> None:
    from compactnets_cli import app

    table = re.findall(r"^\| `(\w+)` \|.*\| (stored|computed|no) \|$", DOCS.read_text(encoding="utf-8"), re.MULTILINE)
    assert dict(table) == {name: form.float16 or "no" for name, form in FORMATS.items()}
    command = typer.main.get_command(app).commands["export"]  # type: ignore[attr-defined]
    (shown,) = (parameter.help for parameter in command.params if parameter.name == "precision")
    assert {name for name in FORMATS if name in re.findall(r"\w+", shown)} == set(WITHOUT)


def test_the_page_takes_it(made: Make, tmp_path: Path) -> None:
    page = tmp_path / "page"
    page.mkdir()
    (page / "index.html").touch()
    (entry,) = build_site([str(made("onnx"))], tmp_path / "site", page=page)["networks"]
    assert (entry["name"], entry["precision"]) == ("tiny float16", "float16")
    assert entry["bytes"] == (tmp_path / "site" / entry["file"]).stat().st_size


NETWORKS = [
    "muffnet_x0_5.cifar10",
    "menet_108_8x1_g3.cifar10",
    "menet_228_12x1_g3",
    "muffnet_x1_0",
    "shufflenet_g3_x1_0",
    "mobilenet_x0_5",
    "timm:mobilenetv3_small_100",
    "timm:resnet10t",
]


@pytest.mark.slow
@pytest.mark.parametrize("network", NETWORKS)
def test_differences_of_networks_are_half_the_tolerance_at_most(network: str) -> None:
    """With float16 stored, and computed as well: the tolerance is beyond what rounding does to a network."""
    model, record = opened(network)
    subject, pictures = Classifier(model, record), load_pictures(None)
    deployed = deploy_form(model)
    assert check_float16(FORMATS["coreml"], deployed, subject, pictures, 1.0) < TOLERANCES["float16"] / 2
    pixels = torch.stack([subject.prepare(picture) for picture in pictures[0]])
    with torch.inference_mode():
        expected, found = model(pixels), store_float16(deployed)(pixels)
    assert 1e-5 < float((found - expected).abs().max() / expected.abs().max()) < TOLERANCES["float16"] / 2


@pytest.mark.slow
@pytest.mark.parametrize("name", WITH)
@pytest.mark.parametrize("network", NETWORKS)
def test_networks_in_every_format(network: str, name: str, tmp_path: Path) -> None:
    needs(name)
    model, record = opened(network)
    sizes = []
    for precision in ("float32", "float16"):
        written = export(model, record, name, tmp_path / precision, precision=precision, size=64)
        sizes.append(written.bytes)
        if precision == "float16" and FORMATS[name].runs_here:
            largest = max(check.relative_difference for check in written.verification.checks)
            assert 1e-5 < largest < TOLERANCES["float16"] / 2
    # the two of CIFAR-10 have so few weights that the description of the graph is much of a file
    assert sizes[1] < (0.75 if network.endswith(".cifar10") else 0.6) * sizes[0]
