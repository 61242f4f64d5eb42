"""The artifact: what is compiled, what is refused, and which compiler does it."""

from __future__ import annotations

import hashlib
import json
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from compactnets.compiler import find_compiler
from compactnets.data import Preprocess
from compactnets.deploy import FORMATS, deploy_form, export, load_artifact
from compactnets.deploy.int8.graph import plain_graph
from compactnets.deploy.int8.quantized import quantized_network, quantizers
from compactnets.deploy.planar import emit_int8
from compactnets.deploy.planar.emit import LAYOUT, Program, emit, pack, plan, read_program
from compactnets.deploy.planar.graph import Operation
from compactnets.deploy.planar.trace import trace
from compactnets.errors import InputError

from ..conftest import Make
from ..helpers import SIZE, Small, tiny_network, tiny_record
from . import int8
from .helpers import compile_example, needs_compiler, run_example


def test_source_that_was_changed_is_not_compiled(artifact: Make) -> None:
    """It would run with all rights of whoever opens the artifact."""
    folder = artifact("c")
    for name in ("model.c", "model.h"):
        text = (folder / name).read_text(encoding="utf-8")
        (folder / name).write_text(text + "/* and more */\n", encoding="utf-8")
        with pytest.raises(InputError, match=name):
            FORMATS["c"].open(folder / "model.c")
        (folder / name).write_text(text, encoding="utf-8")


@pytest.mark.parametrize(
    "change",
    [
        lambda program: program.update(name='x"); system("'),
        lambda program: program["graph"]["operations"][0].update(inputs=[5000]),
        lambda program: program["graph"]["operations"][1].update(outputs=10**9),
        lambda program: program["graph"]["operations"][0].update(first="relu); abort("),
        lambda program: program["graph"].update(results=[10**6]),
        lambda program: program["graph"].update(results=[[0, 10**9]]),
        lambda program: program["graph"].update(results=[[0, 2**16], [0, 1]]),
        lambda program: program["graph"].update(results=[[0, 0]]),
        lambda program: program["graph"].update(results=[[3, 5, -1]]),
        lambda program: program["graph"].update(results=[[0, 2.0]]),
        lambda program: program["graph"].update(results=[[0, True]]),
        lambda program: program["graph"].update(results=[[[0, 2], 2]]),
        lambda program: program["graph"].update(results=[[0]]),
        lambda program: program["graph"].update(results="3"),
        lambda program: program.update(mean=[1.0]),
        lambda program: program["graph"].update(height=10**6, width=10**6),
    ],
)
def test_a_description_that_fits_nothing_is_one_line(artifact: Make, change: object) -> None:
    folder = artifact("c")
    program = json.loads((folder / "model.json").read_text(encoding="utf-8"))
    change(program)  # type: ignore[operator]
    (folder / "model.json").write_text(json.dumps(program), encoding="utf-8")
    with pytest.raises(InputError, match=r"model\.json") as caught:
        FORMATS["c"].open(folder / "model.c")
    assert "\n" not in str(caught.value)


def test_lists_of_planes_are_stored_as_runs() -> None:
    """They are a third of the description otherwise; one that lists every plane is read too."""
    choose = np.random.default_rng(0)
    planes = [0, *range(5, 40), *range(90, 20, -7), 3, 3, 3, 3, 8, 9, *choose.integers(0, 99, 30).tolist(), 7]
    shuffled = np.arange(60).reshape(3, 20).T.reshape(-1).tolist()
    for each in (planes, shuffled, [4], [4, 5], [4, 5, 6, 7], [6, 5, 4]):
        operation = Operation(
            kind="convolution", inputs=each, output=100, outputs=len(each), height=1, width=1, plus=each
        )
        stored = json.loads(operation.model_dump_json(exclude_defaults=True))
        assert Operation.model_validate(stored) == operation
        assert operation.inputs == operation.plus == tuple(each)
        assert len(json.dumps(stored["inputs"])) <= len(json.dumps(each))
        assert (len(stored["inputs"]) < 60) == (each is not shuffled)  # a shuffle has no runs that are worth it


def test_weights_of_another_length_are_refused(artifact: Make) -> None:
    folder = artifact("c")
    weights = (folder / "model.bin").read_bytes()
    (folder / "model.bin").write_bytes(weights[:-64])
    with pytest.raises(InputError, match=f"{len(weights) - 64:,} bytes, expected {len(weights):,}"):
        FORMATS["c"].open(folder / "model.c")


@pytest.mark.parametrize(("layout", "release"), [(None, "earlier"), (LAYOUT + 1, "later")])
def test_weights_of_another_layout_are_named(artifact: Make, layout: int | None, release: str) -> None:
    """Not as weights of a wrong length, which says nothing about what to do."""
    folder = artifact("c")
    program = json.loads((folder / "model.json").read_text(encoding="utf-8"))
    assert program.pop("layout") == LAYOUT
    if layout is not None:
        program["layout"] = layout
    (folder / "model.json").write_text(json.dumps(program), encoding="utf-8")
    (folder / "model.bin").write_bytes(b"")
    with pytest.raises(InputError, match=rf"layout {layout or 0} .*, expected {LAYOUT}.*{release}.*export"):
        FORMATS["c"].open(folder / "model.c")


def test_a_changed_layout_has_a_new_number() -> None:
    """If this fails, weights are packed in another way: count LAYOUT up, and write all three down here."""
    graph, weights, _ = trace(deploy_form(numbered_network()), torch.zeros(1, 3, 16, 16))
    digests = [
        hashlib.sha256(pack(plan(Program(graph=graph, precision=precision)), weights)).hexdigest()[:16]
        for precision in ("float32", "float16")
    ]
    assert (LAYOUT, *digests) == (1, "9a50e2f66962f9a2", "c78baf1236c9d174")


def test_a_changed_layout_of_int8_has_a_new_number() -> None:
    """As above, for ``emit_int8.LAYOUT``."""
    example = torch.zeros(1, 3, 16, 16)
    form = quantized_network(plain_graph(numbered_network(), example))
    for number, (_, quantizer) in enumerate(quantizers(form)):
        quantizer.set_range(-1.0, 2.0**number)  # no measured ones, whose last bits depend on the machine
    graph, layers = int8.lowered(form, example)
    packed = pack(plan(Program(graph=graph, precision="int8")), layers)
    assert (emit_int8.LAYOUT, hashlib.sha256(packed).hexdigest()[:16]) == (1, "7116d4c784c691e3")


def numbered_network() -> nn.Module:
    """Every kind of weights, of which no two are equal."""
    model = nn.Sequential(
        nn.Conv2d(3, 8, 3, 2, 1), nn.Conv2d(8, 8, 3, 1, 1, groups=8), nn.Conv2d(8, 26, 1, groups=2),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(26, 5),
    )  # fmt: skip
    start = 0
    for parameter in model.parameters():
        parameter.data = torch.arange(start, start + parameter.numel()).float().reshape(parameter.shape) / 4
        start += parameter.numel()
    return model.eval()


def test_a_missing_compiler_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    monkeypatch.setenv("CC", "no-such-cc -O2")
    with pytest.raises(InputError, match="no-such-cc"):
        find_compiler()
    monkeypatch.delenv("CC")
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(InputError, match=r"compactnets\[c\]"):
        find_compiler()


def test_images_in_a_batch_and_on_threads_are_the_same(artifact: Make) -> None:
    run = FORMATS["c"].open(artifact("c") / "model.c", 3)
    images = np.random.default_rng(0).standard_normal((7, 3, SIZE, SIZE), np.float32)
    together = run(images)
    assert np.array_equal(together, np.concatenate([run(images[index : index + 1]) for index in range(7)]))
    with torch.inference_mode():
        expected = tiny_network()(torch.from_numpy(images)).numpy()
    np.testing.assert_allclose(together, expected, rtol=1e-4, atol=1e-5)


def check_classes(folder: Path, picture: Image.Image, lines: list[str]) -> None:
    """What the example prints is what the package gives, but for the rounding of resized pixels."""
    found = {" ".join(line.split()[2:]): float(line.split()[0]) / 100 for line in lines}
    assert len(found) == 5
    loaded = load_artifact(folder)
    prepared = Preprocess.from_dict(loaded.record.network.preprocess)(picture)
    expected = loaded(prepared[None]).softmax(1)[0]
    network = loaded.record.network
    labels = network.class_labels or network.class_names
    assert next(iter(found)) == labels[int(expected.argmax())]
    for label, probability in found.items():
        assert abs(probability - float(expected[labels.index(label)])) < 0.02


def picture_of(side: tuple[int, int]) -> Image.Image:
    pixels = np.random.default_rng(0).integers(0, 256, (6, 7, 3), np.uint8)
    return Image.fromarray(pixels).resize(side, Image.Resampling.BICUBIC)


def test_the_example_classifies_a_file(artifact: Make, tmp_path: Path) -> None:
    """As the README of the artifact says, and as the package itself does; and what is no such file is one line."""
    folder, picture = artifact("c"), picture_of((90, 61))
    compile_example(folder)
    image = tmp_path / "image.ppm"
    picture.save(image)
    check_classes(folder, picture, run_example(folder, "model.bin", str(image)).stdout.splitlines())
    content = image.read_bytes()
    image.write_bytes(content.replace(b"P6\n90 61\n255\n", b"P6 # by hand\n# 1 2\n 90\t61\n255\n"))
    assert image.read_bytes() != content
    check_classes(folder, picture, run_example(folder, "model.bin", str(image)).stdout.splitlines())

    picture.save(tmp_path / "a.jpg")
    picture.save(tmp_path / "a.png")
    (tmp_path / "empty").touch()
    (tmp_path / "short").write_bytes(content[:-1])
    (tmp_path / "deep").write_bytes(content.replace(b"255", b"65535", 1))
    (tmp_path / "none").write_bytes(content.replace(b"90", b"0", 1))
    (tmp_path / "text").write_bytes(content.replace(b"P6", b"P3", 1))
    for name, said in [
        ("missing", "No such file"),
        ("a.jpg", "JPEG"),
        ("a.png", "PNG"),
        ("empty", "empty"),
        ("short", "last pixel"),
        ("deep", "255"),
        ("none", "width or height"),
        ("text", "P6"),
    ]:
        done = run_example(folder, "model.bin", str(tmp_path / name))
        assert (done.returncode, done.stdout) == (1, "")
        assert str(tmp_path / name) in done.stderr
        assert said in done.stderr
        assert len(done.stderr.splitlines()) == 1
    (tmp_path / "long").write_bytes((folder / "model.bin").read_bytes() + b"x")
    for name, said in [("missing.bin", "No such file"), ("short", "model.bin"), ("long", "model.bin")]:
        done = run_example(folder, str(tmp_path / name), str(image))
        assert (done.returncode, done.stdout) == (1, "")
        assert str(tmp_path / name) in done.stderr
        assert said in done.stderr
        assert len(done.stderr.splitlines()) == 1
    assert run_example(folder).returncode == 2


def test_weights_in_the_source(tmp_path: Path) -> None:
    """model.c and model.h alone are enough, and give the logits of what is beside them."""
    needs_compiler()
    folder, picture = tmp_path / "artifact", picture_of((80, 44))
    whole = {**tiny_record().preprocess, "resize": None}  # no crop: the image is stretched
    record = export(Small(), tiny_record().model_copy(update={"preprocess": whole}), "c", folder, embed=True)
    assert record.details["embedded"] is True
    image = tmp_path / "image.ppm"
    picture.save(image)
    program, packed = read_program(folder / "model.json"), (folder / "model.bin").read_bytes()
    words = re.findall(r"0x[0-9a-f]{8}u", (folder / "model.c").read_text(encoding="utf-8"))
    assert b"".join(int(word[:-1], 16).to_bytes(4, "little") for word in words) == packed
    assert emit(program, packed)["model.c"] == (folder / "model.c").read_text(encoding="utf-8")
    (folder / "model.bin").rename(tmp_path / "model.bin")  # a device does without
    compile_example(folder)
    lines = run_example(folder, str(image)).stdout.splitlines()
    (tmp_path / "model.bin").rename(folder / "model.bin")
    check_classes(folder, picture, lines)
    assert run_example(folder, "model.bin", str(image)).returncode == 2
    (folder / "model.bin").write_bytes(packed[:-4] + b"\0\0\0\1")  # of other numbers than the source has
    with pytest.raises(InputError, match=r"model\.c"):
        FORMATS["c"].open(folder / "model.c")


def test_only_a_source_can_hold_weights(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"--embed.* c\b.*onnx"):
        export(Small(), tiny_record(), "onnx", tmp_path / "a", embed=True)
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
@pytest.mark.parametrize("options", [[], ["--embed", "--precision", "float16"]])
def test_a_first_user(options: list[str], tmp_path: Path) -> None:
    """Export weights that come with the package, compile with the printed command, classify a JPEG."""
    needs_compiler()
    folder = tmp_path / "artifact"
    command = ["export", "muffnet_x0_5.cifar10", "--format", "c", *options, "--output", str(folder)]
    subprocess.run([sys.executable, "-m", "compactnets", *command], check=True)
    readme = (folder / "README.md").read_text(encoding="utf-8")
    compile_example(folder)
    picture = picture_of((300, 260))
    picture.save(folder / "a.jpg", quality=95)
    (convert,) = re.findall(r'`(python -c ".*?")`', readme)
    subprocess.run(convert.replace("python", sys.executable, 1), cwd=folder, shell=True, check=True)
    (example,) = [line.strip() for line in readme.splitlines() if line.strip().startswith("./example")]
    done = subprocess.run(example, cwd=folder, shell=True, capture_output=True, encoding="utf-8", check=False)
    assert done.returncode == 0, done.stderr
    check_classes(folder, Image.open(folder / "a.jpg"), done.stdout.splitlines())
