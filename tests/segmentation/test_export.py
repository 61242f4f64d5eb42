"""Artifacts of segmenters: every format agrees with PyTorch, and int8 within its limit."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import compactnets.api as api
from compactnets.complexity import count
from compactnets.deploy.artifact import load_artifact
from compactnets.deploy.export import export_subject
from compactnets.deploy.formats.registry import FORMATS
from compactnets.deploy.int8.graph import plain_graph
from compactnets.deploy.int8.layers import AveragingConv2d
from compactnets.deploy.int8.noise import relative_error
from compactnets.deploy.int8.quantized import quantizers
from compactnets.deploy.int8.steps import Settings, calibrated, settled
from compactnets.errors import InputError, LimitError
from compactnets.latency.benchmark import benchmark
from compactnets.latency.results import show
from compactnets.nn import ChannelShuffle
from compactnets.segmentation.checkpoint import SegmenterRecord, build
from compactnets.segmentation.cost import planned_record
from compactnets.segmentation.export import SegmenterArtifact, SegmenterSubject
from compactnets.segmentation.prediction import label_image
from compactnets.segmentation.recipe import Head
from compactnets.training.checkpoint import save_checkpoint

from ..deploy.conftest import needs
from ..deploy.planar.helpers import compile_example, run_example
from .scenes import NAMES, scene, write_folders

OURS: dict[Head, str] = {"lraspp": "menet_108_8x1_g3", "deeplabv3plus": "muffnet_x0_5"}


@cache
def network(head: Head, model: str = "test_resnet") -> tuple[Any, SegmenterRecord]:
    """A network with fresh weights, whose normalisations have seen noise."""
    torch.manual_seed(0)
    record = planned_record(model, head, settings=["auxiliary=0.4"] if model == "test_resnet" else [])
    record = record.model_copy(update={"size": (64, 96), "class_names": list(NAMES)})
    made = build(record).train()
    with torch.no_grad():
        for _ in range(20):
            made(torch.randn(4, 3, 64, 96))
    return made.eval(), record


def subject_of(head: Head, model: str = "test_resnet", **changes: Any) -> SegmenterSubject:
    made, record = network(head, model)
    return SegmenterSubject(made, record.model_copy(update=changes))


def pictures(count: int, height: int = 64, width: int = 96) -> torch.Tensor:
    """Smooth random images: (count, 3, height, width)."""
    coarse = torch.randn(count, 3, 8, 12, generator=torch.Generator().manual_seed(0))
    return torch.nn.functional.interpolate(coarse, size=(height, width), mode="bicubic")


# what a format cannot write of these heads on test_resnet, and why
REFUSED: dict[tuple[str, str], str] = {}


@pytest.mark.slow
@pytest.mark.parametrize("form", FORMATS)
@pytest.mark.parametrize("head", OURS)
def test_an_artifact_gives_the_scores_of_its_network(tmp_path: Path, head: Head, form: str) -> None:
    needs(form)
    subject, fmt = subject_of(head), FORMATS[form]
    if (form, head) in REFUSED:
        with pytest.raises(InputError, match=REFUSED[form, head]):
            export_subject(subject, form, tmp_path / "a")
        assert not (tmp_path / "a").exists()
        return
    artifact: Any = export_subject(subject, form, tmp_path / "a")
    assert artifact.params < sum(each.numel() for each in subject.model.parameters())  # without the auxiliary head
    assert artifact.output[1:] == [3, *((None, None) if fmt.any_size else (8, 12) if head == "lraspp" else (16, 24))]
    if not fmt.runs_here:
        assert not artifact.verification.ran
        return
    checks = artifact.verification.checks
    assert all(check.relative_difference <= 1e-4 and check.agreement >= 0.999 for check in checks)
    assert {check.batch for check in checks} == {1, 2}
    assert len({check.size for check in checks}) == 2
    loaded = load_artifact(tmp_path / "a", kind=SegmenterArtifact)
    images = torch.randn(3, 3, 64, 96)
    with torch.no_grad():
        torch.testing.assert_close(loaded(images), subject.model(images), rtol=1e-3, atol=1e-4)
    assert (loaded.record.network.size, loaded.record.network.class_names) == ((64, 96), list(NAMES))
    if not fmt.any_size:
        with pytest.raises(InputError, match=r"takes images of \[3, 64, 96\]"):
            loaded(torch.zeros(1, 3, 64, 64))


@pytest.mark.slow
@pytest.mark.parametrize(("head", "model"), OURS.items())
def test_sides_that_no_stride_divides(tmp_path: Path, head: Head, model: str) -> None:
    artifact: Any = export_subject(subject_of(head, model, size=(65, 97)), "c", tmp_path / "a")
    assert artifact.output[1:] == [3, *((9, 13) if head == "lraspp" else (17, 25))]
    assert artifact.map_size == tuple(artifact.output[2:])
    assert all(check.agreement >= 0.999 for check in artifact.verification.checks)


@pytest.mark.slow
@pytest.mark.parametrize(("head", "model"), OURS.items())
def test_the_c_example_writes_the_mask_that_predict_does(tmp_path: Path, head: Head, model: str) -> None:
    """Scaled to the image, whatever its size, with the share of each class."""
    export_subject(subject_of(head, model), "c", tmp_path / "a")
    compile_example(tmp_path / "a")
    picture = Image.fromarray(scene(3, 70, 110)[0])
    picture.save(tmp_path / "image.ppm")
    done = run_example(tmp_path / "a", "model.bin", str(tmp_path / "image.ppm"))
    assert done.returncode == 0, done.stderr
    found = np.asarray(Image.open(tmp_path / "a" / "mask.pgm"))
    loaded = load_artifact(tmp_path / "a", kind=SegmenterArtifact)
    expected = label_image(loaded, loaded.record.network, picture, torch.device("cpu"))
    assert found.shape == expected.shape == (70, 110)
    assert (found == expected).mean() > 0.98  # pixels of the input are rounded to 8 bits
    shares = {line.split()[2]: float(line.split()[0]) / 100 for line in done.stdout.splitlines()}
    assert shares == {
        name: pytest.approx(share, abs=1e-4) for label, name in enumerate(NAMES) if (share := (found == label).mean())
    }


@pytest.mark.slow
def test_a_differing_artifact_is_not_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(LimitError, match="not kept"):
        export_subject(subject_of("lraspp"), "torch", tmp_path / "a", tolerance=0.0)
    monkeypatch.setattr(SegmenterSubject, "agreement", lambda *_: 0.99)
    with pytest.raises(LimitError, match=r"another class than PyTorch to 1\.00% of the pixels .*, more than 0\.10%"):
        export_subject(subject_of("lraspp"), "torch", tmp_path / "a")
    assert not (tmp_path / "a").exists()


def test_a_format_of_one_size_needs_one(tmp_path: Path) -> None:
    needs("executorch")
    with pytest.raises(InputError, match="--size HEIGHTxWIDTH"):
        export_subject(subject_of("lraspp", size=None), "executorch", tmp_path / "a")


@pytest.mark.parametrize(
    ("head", "model"),
    [("lraspp", "test_resnet"), *(pytest.param(*each, marks=pytest.mark.slow) for each in OURS.items())],
)
def test_a_segmenter_has_a_quantised_form(head: Head, model: str) -> None:
    """Sizes that are computed get no quantizer, what only moves values shares one, and any size is still taken."""
    subject, images, other = subject_of(head, model).ready(), pictures(2), pictures(1, 80, 112)
    graph = plain_graph(subject.model, images[:1])
    with torch.inference_mode():
        assert relative_error(subject.model(other), graph(other)) < 1e-4
    called = [graph.get_submodule(str(node.target)) for node in graph.graph.nodes if node.op == "call_module"]
    shuffles = [sum(isinstance(each, ChannelShuffle) for each in found) for found in (called, subject.model.modules())]
    assert shuffles[0] == shuffles[1]
    if model == "menet_108_8x1_g3":
        assert shuffles[0] > 10
        assert sum(isinstance(each, AveragingConv2d) for each in called) == 3  # the last is dilated
    form = calibrated(subject.model, images, Settings(ranges="minmax", equalize=False), quantize_output=False)
    assert not [name for name, _ in quantizers(form) if "getattr" in name or "interpolate" in name]
    simulation = settled(form, [], images, Settings(rounding=False, correction=False))
    with torch.inference_mode():
        for batch in (images, other):
            assert 0 < relative_error(subject.model(batch), simulation(batch)) < 0.3


@pytest.mark.slow
@pytest.mark.parametrize("form", [name for name, fmt in FORMATS.items() if fmt.int8])
@pytest.mark.parametrize(("head", "model"), OURS.items())
def test_int8_runtimes_compute_what_was_simulated(tmp_path: Path, head: Head, model: str, form: str) -> None:
    needs(form)
    subject, fmt, images = subject_of(head, model).ready(), FORMATS[form], pictures(8)
    calibration = calibrated(subject.model, images, Settings(), quantize_output=fmt.int8_output)
    simulation = settled(calibration, [], images, Settings())
    if form == "c":
        with pytest.raises(InputError, match="not yet for maps"):
            fmt.write_int8(simulation, images[:1], tmp_path)
        return
    fmt.write_int8(simulation, images[:1], tmp_path)
    runner = fmt.open(tmp_path / fmt.file)
    for batch in (images[:1], *([pictures(1, 96, 128)] if fmt.any_size else [])):
        with torch.inference_mode():
            expected = simulation(batch)
        assert relative_error(expected, torch.from_numpy(runner(batch.numpy()))) < 0.15


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a checkpoint of fresh weights, and data."""
    root = tmp_path_factory.mktemp("int8")
    made, record = network("lraspp")
    save_checkpoint(root / "a.safetensors", made.state_dict(), record)
    write_folders(root / "data", val=3)
    return root


@pytest.mark.slow
def test_int8_is_kept_within_its_limit(checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("torchmetrics")
    needs("onnx")
    data = checkpoint / "data"
    options: dict[str, Any] = {"calibration": str(data), "evaluation": str(data), "calibration_images": 4}
    result: Any = api.quantize(checkpoint / "a.safetensors", "onnx", tmp_path / "int8", max_drop=5, **options)
    report = json.loads((tmp_path / "int8" / "quantization.json").read_text())
    found = report["evaluation"]
    assert found["drop_points"] == pytest.approx(found["float_miou"] - found["int8_miou"])
    assert found["drop_points"] <= 5
    assert (found["images"], report["calibration"]["images"]) == (3, 4)
    assert [row["name"] for row in found["classes"]] == list(NAMES)
    assert len(report["latency"]["rows"]) == 2
    assert {"head.cbr.0", "head.low_classifier"} <= {row["layer"] for row in report["layers"]}
    assert result.record.precision == "int8"
    assert result.record.bytes < 0.6 * 4 * result.record.params
    assert result.record.input == [None, 3, None, None]
    result.show()
    measured = api.evaluate(tmp_path / "int8", data).figures.miou
    assert measured == pytest.approx(found["int8_miou"])
    # one choice is enough: each writes and runs an artifact
    monkeypatch.setattr("compactnets.quantization.IN_FLOAT", ())
    with pytest.raises(LimitError, match=r"points of mIoU on 3 images .* --max-drop -100"):
        api.quantize(checkpoint / "a.safetensors", "onnx", tmp_path / "none", max_drop=-100, **options)
    assert not (tmp_path / "none").exists()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"format": "ncnn"}, "int8 is available for onnx, openvino, executorch, litert, c, found --format ncnn"),
        ({"float_network": "a.safetensors"}, "--float is for images with labels"),
        ({"keep": ("stem",)}, "no layer or tensor to keep in float is called 'stem'"),
        ({"calibration": "nowhere"}, "no folder at 'nowhere'"),
    ],
)
def test_what_cannot_be_quantised_is_one_line(
    change: dict[str, Any], message: str, checkpoint: Path, tmp_path: Path
) -> None:
    pytest.importorskip("torchmetrics")
    needs("onnx")
    data = str(checkpoint / "data")
    given = {"format": "onnx", "calibration": data, "evaluation": data, **change}
    with pytest.raises(InputError, match=message) as error:
        api.quantize(checkpoint / "a.safetensors", given.pop("format"), tmp_path / "int8", **given)
    assert "\n" not in str(error.value)
    assert not (tmp_path / "int8").exists()


@pytest.mark.slow
def test_the_benchmark_takes_segmenters(checkpoint: Path, tmp_path: Path) -> None:
    needs("onnx")
    settings: dict[str, Any] = {"rounds": 1, "calls": 1, "artifacts": tmp_path}
    found = benchmark([str(checkpoint / "a.safetensors")], ["eager", "onnx"], size="96x128", **settings)
    assert found["failed"] == []
    assert [(row["format"], row["input"]) for row in found["rows"]] == [
        (name, [1, 3, 96, 128]) for name in ("eager", "onnx")
    ]
    made, _ = network("lraspp")
    macs, params = count(SegmenterSubject(made, network("lraspp")[1]).ready().model, (3, 96, 128))
    assert all((row["macs"], row["params"]) == (macs, params) for row in found["rows"])
    show(found)
    again = [path.stat().st_mtime_ns for path in tmp_path.rglob("model.onnx")]
    assert len(again) == 1
    benchmark([str(checkpoint / "a.safetensors")], ["onnx"], size="96x128", **settings)
    assert again == [path.stat().st_mtime_ns for path in tmp_path.rglob("model.onnx")]


def test_the_benchmark_needs_a_size(tmp_path: Path) -> None:
    made, record = network("lraspp")
    path = tmp_path / "a.safetensors"
    save_checkpoint(path, made.state_dict(), record.model_copy(update={"size": None}))
    with pytest.raises(InputError, match=f"{path} takes images of any size: give --size HEIGHTxWIDTH"):
        benchmark([str(path)], ["eager"], artifacts=tmp_path / "b")
