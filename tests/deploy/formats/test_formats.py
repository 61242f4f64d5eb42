"""Every format at small size, and what must not be loaded."""

from __future__ import annotations

import dataclasses
import importlib.metadata
import json
import os
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch

from compactnets.deploy import FORMATS, deploy_form, load_artifact
from compactnets.deploy.formats.registry import find_format, other_side
from compactnets.deploy.formats.torch import refuse_code
from compactnets.deploy.record import NAME, digest
from compactnets.errors import InputError
from compactnets.models.registry import list_models
from compactnets.nn import channel_shuffle
from compactnets.training.checkpoint import find_record

from ..conftest import Make, needs
from ..helpers import CLASSES, SIZE, check_delegated, check_rounding, small_form, tiny_network, tiny_record

RUN_HERE = [name for name, form in FORMATS.items() if form.runs_here]


@pytest.mark.parametrize("name", RUN_HERE)
def test_equals_pytorch(artifact: Make, name: str) -> None:
    """No image, one and several, whatever batch the format fixes; contiguous or not."""
    loaded = load_artifact(artifact(name))
    model = tiny_network()
    for count in (0, 1, 3):
        wide = torch.randn(count, 3, SIZE, SIZE + 2)
        for images in (wide[..., 1:-1], wide[..., 2:].contiguous(memory_format=torch.channels_last)):
            with torch.inference_mode():
                torch.testing.assert_close(loaded(images), model(images), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", RUN_HERE)
def test_other_sizes(artifact: Make, name: str) -> None:
    loaded, images = load_artifact(artifact(name)), torch.randn(2, 3, 32, 28)
    if FORMATS[name].any_size:
        with torch.inference_mode():
            torch.testing.assert_close(loaded(images), tiny_network()(images), rtol=1e-4, atol=1e-5)
    else:
        with pytest.raises(InputError, match=r"takes images of \[3, 24, 24\], found \[3, 32, 28\]"):
            loaded(images)


ANY_SIZE = [name for name in RUN_HERE if FORMATS[name].any_size]
SHAPES = [(1, 1), (16, 16), (32, 32), (33, 33), (224, 224), (1, 33), (48, 33), (32, 1)]


def check_shapes(name: str, model: torch.nn.Module, made: int, folder: Path) -> None:
    """Write for one size, and compare at the edges of "any batch and size"."""
    needs(name)
    FORMATS[name].write(deploy_form(model), torch.zeros(1, 3, made, made), folder)
    run = FORMATS[name].open(folder / FORMATS[name].file)
    for shape in SHAPES:
        for batch in (1, 3):
            images = torch.randn(batch, 3, *shape)
            with torch.inference_mode():
                expected = model(images)
            found = torch.from_numpy(run(images.numpy()))
            assert float((found - expected).abs().max()) <= 1e-4 * float(expected.abs().max()), (batch, shape)


@pytest.mark.parametrize("made", [32, pytest.param(224, marks=pytest.mark.slow)])
@pytest.mark.parametrize(
    "name", [name if name == "torch" else pytest.param(name, marks=pytest.mark.slow) for name in ANY_SIZE]
)
def test_any_size_is_any_size(name: str, made: int, tmp_path: Path) -> None:
    check_shapes(name, tiny_network(), made, tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("made", [32, 224])
@pytest.mark.parametrize("network", ["menet_108_8x1_g3", "muffnet_x0_5"])
@pytest.mark.parametrize("name", ANY_SIZE)
def test_networks_take_any_size(name: str, network: str, made: int, tmp_path: Path) -> None:
    """With five halvings, where a map of 32 pixels ends as one pixel."""
    check_shapes(name, small_form(network)[0], made, tmp_path)


class Halving(torch.nn.Module):
    """Five halvings, and channels shuffled after each, by shapes that a converter may take for fixed."""

    def __init__(self) -> None:
        super().__init__()
        halves = [torch.nn.Conv2d(6 if index else 3, 6, 3, stride=2, padding=1) for index in range(5)]
        self.halves = torch.nn.ModuleList(halves)
        self.classifier = torch.nn.Linear(6, CLASSES)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for half in self.halves:
            x = channel_shuffle(half(x), 3) * 2
            x = torch.cat((x[:, 3:], x[:, :3]), 1).relu()
        return self.classifier(x.mean((2, 3)))


@pytest.mark.parametrize("made", [32, 64])
def test_small_maps_do_not_become_fixed(made: int, tmp_path: Path) -> None:
    """pnnx takes a size that its two examples share, of any feature map, for one that never changes."""
    torch.manual_seed(0)
    check_shapes("ncnn", Halving().eval(), made, tmp_path)


def test_the_other_side_changes_the_size_of_every_map() -> None:
    for side in range(1, 700):
        for halvings in range(6):
            assert -(-side // 2**halvings) != -(-other_side(side) // 2**halvings), side


def test_any_size_without_this_package(artifact: Make) -> None:
    """The file itself states no more conditions than its record."""
    program = torch.export.load(artifact("torch") / "model.pt2").module()
    for shape in SHAPES:
        images = torch.randn(1, 3, *shape)
        with torch.inference_mode():
            torch.testing.assert_close(program(images), tiny_network()(images), rtol=1e-4, atol=1e-5)


class Branching(torch.nn.Module):
    """Computes otherwise on small images."""

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return images.mean((2, 3)) if images.shape[2] > 64 else images.amax((2, 3))


def test_a_network_of_two_computations_is_not_written_as_one(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="1 x 1"):
        FORMATS["torch"].write(Branching(), torch.zeros(1, 3, 32, 32), tmp_path)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("name", ["torch", "onnx", "openvino"])
def test_images_that_a_runtime_refuses_are_one_line(artifact: Make, name: str) -> None:
    """By channels, which no artifact leaves open. ncnn does not check them: the record is what refuses them there."""
    form = FORMATS[name]
    run = form.open(artifact(name) / form.file)
    with pytest.raises(InputError) as caught:
        run(np.zeros((2, 4, 9, 7), np.float32))
    assert "2 x 4 x 9 x 7" in str(caught.value)
    assert len(str(caught.value).splitlines()) == 1


def test_litert_takes_images_as_cameras_give_them(artifact: Make) -> None:
    """In (N, H, W, C), by a name, without this package; a file that is no model, or a part of one, is one line."""
    folder = artifact("litert")
    from ai_edge_litert.interpreter import Interpreter

    images = torch.randn(1, SIZE, SIZE, 3)
    run = Interpreter(str(folder / "model.tflite")).get_signature_runner()
    with torch.inference_mode():
        expected = tiny_network()(images.permute(0, 3, 1, 2))
    torch.testing.assert_close(torch.from_numpy(run(image=images.numpy())["logits"]), expected, rtol=1e-4, atol=1e-5)

    whole = (folder / "model.tflite").read_bytes()
    for broken in (b"", b"no model", whole[:2000]):
        (folder / "broken.tflite").write_bytes(broken)
        with pytest.raises(InputError) as caught:
            FORMATS["litert"].open(folder / "broken.tflite")
        assert "LiteRT" in str(caught.value)
        assert len(str(caught.value).splitlines()) == 1


def test_coreml_is_written_and_checked_where_it_cannot_run(artifact: Make) -> None:
    folder = artifact("coreml")
    record = json.loads((folder / NAME).read_text())
    assert record["details"]["convolutions"] == len(
        [module for module in tiny_network().modules() if isinstance(module, torch.nn.Conv2d)]
    )
    if not FORMATS["coreml"].runs_here:
        assert record["verification"]["ran"] is False
        assert "not run" in record["verification"]["note"]
        with pytest.raises(InputError, match="runs on darwin only"):
            load_artifact(folder)


def test_executorch_delegates_everything(artifact: Make) -> None:
    details = json.loads((artifact("executorch") / NAME).read_text())["details"]
    check_delegated(details)
    assert details["delegated_operators"] > 20


class Splits(torch.nn.Module):
    """Every way to take a tensor apart of which torch.export makes one operator."""

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, ...]:
        ways = [torch.split(x, [3, 1, 4], dim=1), torch.split(x, 3, dim=1), x.chunk(3, dim=-3), x.split(2, -1)]
        ways += [
            torch.tensor_split(x, 3, dim=1),
            torch.tensor_split(x, (2, 3), dim=1),
            torch.unsafe_split(x, 4, 1),
            torch.unsafe_chunk(x, 2, 1),
        ]
        return tuple(part for parts in ways for part in parts)


def test_splits_become_slices() -> None:
    """XNNPACK takes no split of some releases of ExecuTorch: the graph must not hold any."""
    from compactnets.deploy.formats.executorch import SPLITS, split_by_slices

    x = torch.randn(2, 8, 5, 7)
    program = torch.export.export(Splits(), (x,))
    assert len({node.target for node in program.graph.nodes} & SPLITS) == len(SPLITS)
    program = split_by_slices(program)
    targets = {node.target for node in program.graph.nodes if node.op == "call_function"}
    assert targets == {torch.ops.aten.slice.Tensor}
    for found, expected in zip(program.module()(x), Splits()(x), strict=True):
        assert torch.equal(found, expected)


def test_executorch_keeps_its_threads_while_programs_use_them(artifact: Make) -> None:
    """A pool that is replaced under a loaded program hangs the process."""
    folder = artifact("executorch")
    load_artifact(folder)
    with pytest.raises(InputError, match="one pool of threads in a process"):
        load_artifact(folder, threads=7)


@pytest.mark.parametrize(
    "name", [name if name == "onnx" else pytest.param(name, marks=pytest.mark.slow) for name in RUN_HERE]
)
def test_threads(artifact: Make, name: str) -> None:
    """In a process of its own; what it gives does not depend on them."""
    folder = artifact(name)
    code = f"""
import torch
from compactnets.deploy import load_artifact
print(load_artifact({str(folder)!r}, threads=1)(torch.ones(1, 3, {SIZE}, {SIZE})).tolist())
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == 0, done.stderr
    with torch.inference_mode():
        expected = tiny_network()(torch.ones(1, 3, SIZE, SIZE))
    torch.testing.assert_close(torch.tensor(json.loads(done.stdout)), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", RUN_HERE)
def test_called_from_several_threads(artifact: Make, name: str) -> None:
    """Each thread gets the logits of its own images, whatever the others ask meanwhile."""
    loaded, model = load_artifact(artifact(name)), tiny_network()
    batches = [torch.randn(2, 3, SIZE, SIZE) for _ in range(8)]
    with torch.inference_mode():
        expected = [model(batch) for batch in batches]

    def call(index: int) -> torch.Tensor:
        with torch.inference_mode():
            return loaded(batches[index % len(batches)])

    with ThreadPoolExecutor(4) as pool:
        for index, found in enumerate(pool.map(call, range(80))):
            torch.testing.assert_close(found, expected[index % len(batches)], rtol=1e-4, atol=1e-5)


def test_executorch_refuses_a_convolution_outside(tmp_path: Path) -> None:
    needs("executorch")
    model = torch.nn.Sequential(torch.nn.Conv3d(1, 1, 3)).eval()
    with pytest.raises(InputError, match="XNNPACK does not take aten_convolution_default"):
        FORMATS["executorch"].write(model, torch.zeros(1, 1, 5, 5, 5), tmp_path)
    assert not list(tmp_path.iterdir())


def test_ncnn_refuses_an_operator_that_it_lacks(tmp_path: Path) -> None:
    class Odd(torch.nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return torch.linalg.matrix_exp(x)

    needs("ncnn")
    with pytest.raises(InputError, match=r"ncnn has no layer for .*matrix_exp"):
        FORMATS["ncnn"].write(Odd(), torch.zeros(1, 3, 8, 8), tmp_path)


@pytest.mark.parametrize("name", RUN_HERE)
def test_corrupt_files(artifact: Make, name: str) -> None:
    """Cut short: the record tells. Cut short and the record with it: the runtime does, in one line."""
    folder = artifact(name)
    main = folder / FORMATS[name].file
    main.write_bytes(main.read_bytes()[: main.stat().st_size // 2])
    with pytest.raises(InputError, match="sha256 differs"):
        load_artifact(folder)
    record = json.loads((folder / NAME).read_text())
    record["files"][main.name] = digest(main)
    (folder / NAME).write_text(json.dumps(record))
    with pytest.raises(InputError) as caught:
        load_artifact(folder)
    assert "\n" not in str(caught.value)
    main.unlink()
    with pytest.raises(InputError, match="is missing"):
        load_artifact(folder)


DAMAGES: dict[str, Callable[[bytes], bytes]] = {
    "empty": lambda data: b"",
    "a page of a web server": lambda data: b"<html>404</html>",
    "noise": lambda data: np.random.default_rng(0).bytes(len(data)),
    "zeros": lambda data: bytes(len(data)),
    "a byte short": lambda data: data[:-1],
    "twice": lambda data: data + data,
}


@pytest.mark.parametrize(
    "name", [name if name == "onnx" else pytest.param(name, marks=pytest.mark.slow) for name in RUN_HERE]
)
def test_damaged_files_with_a_record_that_fits(artifact: Make, name: str) -> None:
    """In a process of its own, which a runtime may end: either one line, or an artifact that runs."""
    folder = artifact(name)
    damaged = []
    for number, (file, damage) in enumerate((file, damage) for file in FORMATS[name].files for damage in DAMAGES):
        if (folder / file).is_dir():
            continue
        copy = Path(shutil.copytree(folder, folder.parent / f"{number}-{file}-{damage}"))
        (copy / file).write_bytes(DAMAGES[damage]((folder / file).read_bytes()))
        fit_record(copy)
        damaged.append(str(copy))
    code = """
import sys
from compactnets.deploy import load_artifact
from compactnets.errors import InputError
for folder in sys.argv[1:]:
    print("OPENING", folder, flush=True)
    try:
        load_artifact(folder)
    except InputError as error:
        assert "\\n" not in str(error), error
        print("REFUSED", flush=True)
"""
    done = subprocess.run(
        [sys.executable, "-c", code, *damaged], capture_output=True, text=True, check=False, timeout=120
    )
    assert done.returncode == 0, (done.stdout[-300:], done.stderr[-2000:])
    assert done.stdout.count("REFUSED") >= len(damaged) / 3


@pytest.mark.parametrize("name", RUN_HERE)
def test_the_record_of_another_artifact(artifact: Make, written: Make, name: str, tmp_path: Path) -> None:
    """The other network's files are not those; where the record says they are, their shapes do not fit."""
    folder = artifact(name)
    record = json.loads((folder / NAME).read_text())
    record["network"]["class_names"] = record["network"]["class_names"][:-1]
    (folder / NAME).write_text(json.dumps(record))
    with pytest.raises(InputError) as caught:
        load_artifact(folder)
    assert "\n" not in str(caught.value)
    if name == "ncnn":  # its files do not say how many channels they take
        return
    record = json.loads((written(name) / NAME).read_text())
    record["network"]["preprocess"] |= {"mean": [0.5], "std": [0.5]}  # of grey images
    record["input"][1] = 1
    (folder / NAME).write_text(json.dumps(record))
    with pytest.raises(InputError) as caught:
        load_artifact(folder)
    assert "\n" not in str(caught.value)


def fit_record(folder: Path) -> None:
    """Write the sums of the files as they are into the record."""
    record = json.loads((folder / NAME).read_text())
    record["files"] = {name: digest(folder / name) for name in record["files"]}
    (folder / NAME).write_text(json.dumps(record))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda text: text[:50], "is not valid JSON"),
        (lambda text: "[]", "is not the record of an artifact"),
        (lambda text: text.replace('"macs"', '"flops"'), "is not the record of an artifact: macs: Field required"),
        (lambda text: text.replace('"format": "torch"', '"format": "tflite"'), "names the format 'tflite'"),
        (lambda text: text.replace('"model.pt2"', '"../model.pt2"'), "names the format 'torch' with ../model.pt2"),
    ],
)
def test_wrong_records(artifact: Make, change: Callable[[str], str], message: str) -> None:
    folder = artifact("torch")
    text = (folder / NAME).read_text()
    (folder / NAME).write_text(change(text))
    with pytest.raises(InputError, match=message.replace("[", r"\[")):
        load_artifact(folder)
    (folder / NAME).unlink()
    with pytest.raises(InputError, match=r"no artifact\.json"):
        load_artifact(folder / "model.pt2")


def test_a_missing_runtime_is_one_line(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def absent(package: str) -> str:
        raise importlib.metadata.PackageNotFoundError(package)

    monkeypatch.setattr("compactnets.deploy.formats.registry.version", absent)
    for form in FORMATS.values():
        if form.extra is None:
            continue
        with pytest.raises(InputError, match=rf"python -m pip install 'compactnets\[{form.extra}\]'$"):
            form.write(tiny_network(), torch.zeros(1, 3, SIZE, SIZE), tmp_path)
        with pytest.raises(InputError, match=rf"^the format {form.name} needs {form.packages[0]}, which is not"):
            form.open(tmp_path / form.file)


def test_a_runtime_that_does_not_fit_this_pytorch_is_one_line(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("compactnets.deploy.formats.registry.version", lambda package: "1.5.1")
    form = dataclasses.replace(FORMATS["executorch"], needs_torch=("1.5", "999.1"))
    with pytest.raises(InputError, match=r"^executorch 1\.5\.1 needs PyTorch 999\.1 .*'executorch<1\.5'"):
        form.write(tiny_network(), torch.zeros(1, 3, SIZE, SIZE), tmp_path)
    for release, needed in (("1.6", "999.1"), ("1.5", "1.0"), ("1.10", "999.1")):
        assert dataclasses.replace(form, needs_torch=(release, needed)).versions() == {"executorch": "1.5.1"}


@pytest.mark.parametrize("name", FORMATS)
def test_a_file_without_its_record_is_known_as_exported(name: str, tmp_path: Path) -> None:
    """Whatever its format, and whether a checkpoint was expected or anything at all."""
    file = tmp_path / FORMATS[name].file
    file.write_bytes(b"")
    with pytest.raises(InputError, match=f"{file} is an exported file without its {NAME}"):
        find_record(file)


def test_an_unknown_format() -> None:
    with pytest.raises(InputError, match="no format is called 'onx': onnx, .*; did you mean 'onnx'?"):
        find_format("onx")


HOSTILE = {
    "operator": ('"torch.ops.aten.sigmoid.default"', '"torch.os.system"', "the operator 'torch.os.system'"),
    "module": ('"torch.ops.aten.sigmoid.default"', '"_operator.methodcaller"', "the operator '_operator.methodcaller'"),
    "expression": (
        "\"Symbol('s77', positive=True, integer=True)\"",
        "\"__import__('os').system('touch pwned')\"",
        "the expression",
    ),
}


@pytest.mark.parametrize("kind", [*HOSTILE, "member"])
def test_hostile_programs_are_not_loaded(artifact: Make, kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """What torch.export.load would run: it is found before that."""
    folder = artifact("torch")
    monkeypatch.chdir(folder)
    old, new, message = HOSTILE.get(kind, ("", "", "'data/aotinductor/model/run.so'"))
    with zipfile.ZipFile("model.pt2") as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    graph = next(name for name in members if name.endswith("models/model.json"))
    if kind == "member":
        members[graph.replace("models/model.json", "data/aotinductor/model/run.so")] = b"\x7fELF"
    else:
        symbol = next(part for part in members[graph].decode().split('"') if part.startswith("Symbol('"))
        old = old.replace("Symbol('s77', positive=True, integer=True)", symbol)
        assert old.encode() in members[graph]
        members[graph] = members[graph].replace(old.encode(), new.encode())
    with zipfile.ZipFile("model.pt2", "w") as archive:
        for name, data in members.items():
            archive.writestr(name, data)
    record = json.loads(Path(NAME).read_text())
    record["files"]["model.pt2"] = digest(Path("model.pt2"))
    Path(NAME).write_text(json.dumps(record))
    with pytest.raises(InputError, match="it is not loaded") as caught:
        load_artifact(".")
    assert message in str(caught.value)
    assert not Path("pwned").exists()


def test_two_members_of_one_name_are_not_loaded(artifact: Make) -> None:
    """Python's reader takes the last of them, PyTorch's may take the first."""
    path = artifact("torch") / "model.pt2"
    with zipfile.ZipFile(path, "a") as archive:
        graph = next(name for name in archive.namelist() if name.endswith("models/model.json"))
        with pytest.warns(UserWarning, match="Duplicate name"):
            archive.writestr(graph, archive.read(graph))
    with pytest.raises(InputError, match="two members of one name: it is not loaded"):
        refuse_code(path)


def test_pickles_in_a_program_are_not_loaded(artifact: Make, tmp_path: Path) -> None:
    """torch.export.load unpickles anything where its first attempt fails; here it may not."""

    class Touch:
        def __reduce__(self) -> tuple[Callable[[str], None], tuple[str]]:
            return os.mkdir, (str(tmp_path / "pwned"),)

    folder = artifact("torch")
    with zipfile.ZipFile(folder / "model.pt2") as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    target = next(name for name in members if name.endswith("sample_inputs/model.pt"))
    torch.save({"x": Touch()}, tmp_path / "bad.pt")
    members[target] = (tmp_path / "bad.pt").read_bytes()
    with zipfile.ZipFile(folder / "model.pt2", "w") as archive:
        for name, data in members.items():
            archive.writestr(name, data)
    refuse_code(folder / "model.pt2")  # nothing is wrong with its graph
    record = json.loads((folder / NAME).read_text())
    record["files"]["model.pt2"] = digest(folder / "model.pt2")
    (folder / NAME).write_text(json.dumps(record))
    with pytest.raises(InputError, match=r"cannot be loaded by torch\.export"):
        load_artifact(folder)
    assert not (tmp_path / "pwned").exists()


NOT_EXPRESSED = {("ncnn", "condensenet_74_c8_g8")}  # its learned selection of channels


@pytest.mark.slow
@pytest.mark.parametrize("name", list_models())
@pytest.mark.parametrize("form_name", FORMATS)
def test_every_network_in_every_format(name: str, form_name: str, tmp_path: Path) -> None:
    """At small size, at batch 1 or 3, against PyTorch in double precision."""
    needs(form_name)
    form = FORMATS[form_name]
    model, size = small_form(name)
    deployed = deploy_form(model)
    images = torch.randn(3 if form.any_batch else 1, 3, size, size)
    if (form_name, name) in NOT_EXPRESSED:
        with pytest.raises(InputError, match="has no layer for"):
            form.write(deployed, images[:1], tmp_path)
        return
    form.write(deployed, images[:1], tmp_path)
    if not form.runs_here:
        return
    check_rounding(form.open(tmp_path / form.file)(images.numpy()), model, images)


def test_records_name_classes_and_preprocessing(artifact: Make) -> None:
    record = load_artifact(artifact("torch")).record
    assert record.network == tiny_record()
    assert len(record.network.class_names) == CLASSES
    assert record.macs > record.params > 0
