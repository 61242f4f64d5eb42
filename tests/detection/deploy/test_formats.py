"""Detectors in OpenVINO and ncnn: they find what PyTorch finds, and what ncnn cannot express is said in one line."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch

from compactnets.deploy.formats.registry import FORMATS
from compactnets.deploy.record import NAME, digest, read_artifact
from compactnets.deploy.rewrite import round_to_float16
from compactnets.detection.checkpoint import build_detector
from compactnets.detection.deploy.artifact import DetectorArtifact, part_files
from compactnets.detection.deploy.decoding import Decoding
from compactnets.detection.deploy.export import export_detector, write_part
from compactnets.detection.deploy.graphs import take_apart
from compactnets.detection.deploy.runtime import load_detector_artifact
from compactnets.detection.deploy.stages import RegionHeads, decode, deploy_detector
from compactnets.detection.evaluation import find_objects
from compactnets.detection.objects import Detections
from compactnets.errors import InputError, LimitError
from compactnets.models.backbone import create_backbone

from ...deploy.conftest import needs
from .helpers import SIZE, assert_same, detector_of, picture

Export = Callable[[str, str, str], Path]

CASES = [
    ("openvino", "ssd", "boxes"),
    ("openvino", "faster_rcnn", "raw"),
    pytest.param("openvino", "ssd", "raw", marks=pytest.mark.slow),
    pytest.param("openvino", "faster_rcnn", "boxes", marks=pytest.mark.slow),
    ("ncnn", "ssd", "raw"),
    ("ncnn", "faster_rcnn", "raw"),
]


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Export:
    """Return the folder of an artifact, which is made once; it must not be changed."""

    @cache
    def make(form: str, kind: str, heads: str) -> Path:
        needs(form)
        folder = tmp_path_factory.mktemp("artifacts") / f"{form}-{kind}-{heads}"
        size = SIZE if kind == "faster_rcnn" else None
        export_detector(*detector_of(kind), folder, format_name=form, heads=heads, size=size)
        return folder

    return make


@pytest.mark.parametrize("kind", ["ssd", "faster_rcnn"])
def test_boxes_are_decoded_as_torchvision_does(kind: str) -> None:
    """Without slices in steps; also past the limit of its logarithms."""
    detector, _ = detector_of(kind)
    coder = detector.box_coder if kind == "ssd" else detector.roi_heads.box_coder
    generator = torch.Generator().manual_seed(0)
    corners = torch.rand(50, 2, generator=generator) * 60
    boxes = torch.cat([corners, corners + 1 + torch.rand(50, 2, generator=generator) * 30], 1)
    deltas = torch.randn(50, 4, generator=generator) * 20
    sides = boxes[:, 2:] - boxes[:, :2]
    found = decode(deltas, boxes[:, :2] + sides / 2, sides, coder)
    torch.testing.assert_close(found, coder.decode_single(deltas, boxes), rtol=1e-5, atol=1e-2)


def test_a_known_size_changes_nothing() -> None:
    """Anchors, padding and the clipping to the image are then numbers."""
    detector, record = detector_of("faster_rcnn")
    stride = Decoding.of(detector, record).stride
    with torch.inference_mode():
        known, open_ = (RegionHeads(detector, stride, size) for size in ((70, 100), None))
        for found, expected in zip(known(picture(70, 100)[None]), open_(picture(70, 100)[None]), strict=True):
            torch.testing.assert_close(found, expected)


@pytest.mark.parametrize(("form", "kind", "heads"), CASES)
def test_finds_what_pytorch_finds(exported: Export, form: str, kind: str, heads: str) -> None:
    folder = exported(form, kind, heads)
    record = read_artifact(folder, DetectorArtifact)[0]
    assert {path.name for path in folder.iterdir()} == {*record.files, NAME}
    assert (record.format, record.heads) == (form, heads)
    assert len(record.files) == 2 * len(record.inputs)
    assert record.verification is not None
    assert [len(check.detections) for check in record.verification.checks] == [3, 1, 1]
    assert min(record.verification.checks[0].detections) > 3
    assert record.verification.checks[2].detections == [0]
    assert (record.verification.heads_difference is None) == (heads == "boxes")
    for path in (folder, folder / next(iter(record.files))):
        artifact = load_detector_artifact(path, threads=1)
        for image in (picture(64, 96), picture(128, 192)):
            assert_same(artifact.find(image), find_objects(detector_of(kind)[0], [image])[0])


@pytest.mark.parametrize(
    ("form", "kind", "heads"),
    [
        pytest.param("openvino", "ssd", "boxes", marks=pytest.mark.slow),
        pytest.param("openvino", "faster_rcnn", "raw", marks=pytest.mark.slow),
        ("ncnn", "ssd", "raw"),
        pytest.param("ncnn", "faster_rcnn", "raw", marks=pytest.mark.slow),
    ],
)
def test_float16_is_the_detector_with_rounded_weights(
    exported: Export, form: str, kind: str, heads: str, tmp_path: Path
) -> None:
    detector, record = detector_of(kind)
    before = read_artifact(exported(form, kind, heads), DetectorArtifact)[0]
    size = SIZE if kind == "faster_rcnn" else None
    options = {"format_name": form, "heads": heads, "size": size, "precision": "float16"}
    written = export_detector(detector, record, tmp_path / "a", **options)
    plain = exported(form, kind, heads)
    weights = [name for name in written.files if name.endswith(".bin")]
    sizes = [sum((folder / name).stat().st_size for name in weights) for folder in (plain, tmp_path / "a")]
    assert sizes[1] < 0.6 * sizes[0]
    assert (written.inputs, written.outputs) == (before.inputs, before.outputs)
    rounded = deploy_detector(detector, record)
    round_to_float16(rounded, flush=FORMATS[form].flushes)
    artifact = load_detector_artifact(tmp_path / "a")
    found, expected = artifact.find(picture(64, 96)), find_objects(rounded, [picture(64, 96)])[0]
    assert len(found) == len(expected) > 3
    torch.testing.assert_close(found.scores, expected.scores, rtol=0, atol=1e-4)
    assert sorted(found.labels.tolist()) == sorted(expected.labels.tolist())  # two of equal scores may be swapped


@pytest.mark.slow
@pytest.mark.parametrize("heads", ["boxes", "raw"])
def test_openvino_takes_any_size(tmp_path: Path, heads: str) -> None:
    needs("openvino")
    detector, record = detector_of("faster_rcnn", "shufflenet_g3_x0_25")
    written = export_detector(detector, record, tmp_path / "a", format_name="openvino", heads=heads)
    assert written.input.size is None
    artifact = load_detector_artifact(tmp_path / "a")
    for image in (picture(200, 150), picture(64, 64), picture(40, 200), picture(427, 640)):
        assert_same(artifact.find(image), find_objects(detector, [image])[0], 1e-2)


@pytest.mark.slow
def test_a_size_that_is_padded(tmp_path: Path) -> None:
    """In ncnn a negative remainder of the size would crop it."""
    needs("ncnn")
    detector, record = detector_of("faster_rcnn")
    export_detector(detector, record, tmp_path / "a", format_name="ncnn", size=(72, 100))
    found = load_detector_artifact(tmp_path / "a").find(picture(72, 100))
    assert len(found) > 3


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["ssd", "faster_rcnn"])
@pytest.mark.parametrize("model", ["menet_108_8x1_g3", "muffnet_x0_5"])
@pytest.mark.parametrize("form", ["openvino", "ncnn"])
def test_parts_on_our_networks(form: str, model: str, kind: str, tmp_path: Path) -> None:
    """Shuffles, splits and products of channels. Not trained, these networks tell no object from another."""
    needs(form)
    _, record = detector_of(kind)
    record = record.model_copy(update={"model": model})
    torch.manual_seed(0)
    detector = build_detector(record, create_backbone(model, {}))
    with torch.no_grad():
        detector.backbone.train()(torch.stack([picture(64, 96), picture(64, 96).flip(2)]))
    detector.eval()
    size, decoding = (64, 64) if kind == "ssd" else SIZE, Decoding.of(detector, record)
    fmt = FORMATS[form]
    for part in take_apart(deploy_detector(detector, record), decoding, size, "raw"):
        path = tmp_path / part_files(form, part.name)[0]
        write_part(part, fmt, path, tmp_path, float16=False)
        given = [torch.rand_like(one) if index == 0 else one for index, one in enumerate(part.example)]
        with torch.inference_mode():
            expected = part.module(*given)
        for right, found in zip(expected, fmt.open_tensors(path)([one.numpy() for one in given]), strict=True):
            difference = np.abs(found.reshape(right.shape) - right.numpy()).max()
            assert difference <= 1e-3 * float(right.abs().max()), part.name


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"format_name": "ncnn", "heads": "boxes"}, ["ncnn", "suppression", "raw"]),
        ({"format_name": "ncnn"}, ["--size", "ncnn"]),
        ({"format_name": "c"}, ["openvino", "ncnn", "onnx", "found --format c"]),
        ({"format_name": "nn"}, ["nn"]),
        ({"format_name": "openvino", "size": (16, 64)}, ["32", "16 x 64"]),
    ],
)
def test_what_a_format_cannot_is_one_line(tmp_path: Path, options: dict[str, object], words: list[str]) -> None:
    if options["format_name"] in FORMATS:
        needs(str(options["format_name"]))
    with pytest.raises(InputError) as caught:
        export_detector(*detector_of("faster_rcnn"), tmp_path / "a", **options)  # type: ignore[arg-type]
    assert len(str(caught.value).splitlines()) == 1
    assert all(word in str(caught.value) for word in words)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("form", ["openvino", "ncnn"])
def test_past_the_tolerance_nothing_is_left(tmp_path: Path, form: str) -> None:
    needs(form)
    with pytest.raises(LimitError, match=form):
        export_detector(*detector_of("ssd"), tmp_path / "a", format_name=form, heads="raw", tolerance=0)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("form", ["openvino", "ncnn"])
def test_wrong_artifacts_are_one_line(exported: Export, tmp_path: Path, form: str) -> None:
    """A class too few in the record, a file too few, and a file that is none although its digest is right."""
    heads = "boxes" if form == "openvino" else "raw"
    kind = "ssd"

    def refuse(message: str) -> None:
        with pytest.raises(InputError, match=message) as caught:
            load_detector_artifact(tmp_path / "a").find(picture(64, 64))
        assert len(str(caught.value).splitlines()) == 1

    def fresh() -> dict[str, object]:
        shutil.rmtree(tmp_path / "a", ignore_errors=True)
        shutil.copytree(exported(form, kind, heads), tmp_path / "a")
        found: dict[str, object] = json.loads((tmp_path / "a" / NAME).read_text())
        return found

    record = fresh()
    network = {**record["network"], "class_names": ["a"]}  # type: ignore[dict-item]
    (tmp_path / "a" / NAME).write_text(json.dumps({**record, "network": network}))
    refuse("names 1 classes in class_names")
    weights = [name for name in fresh()["files"] if name.endswith(".bin")][0]  # type: ignore[attr-defined]
    (tmp_path / "a" / weights).unlink()
    refuse(f"{weights} is missing")
    record = fresh()
    main = FORMATS[form].file
    (tmp_path / "a" / main).write_bytes(b"nothing")
    files = {**record["files"], main: digest(tmp_path / "a" / main)}  # type: ignore[dict-item]
    (tmp_path / "a" / NAME).write_text(json.dumps({**record, "files": files}))
    refuse("cannot be")


@pytest.mark.parametrize("form", ["openvino", "ncnn"])
def test_no_region_is_no_detection(exported: Export, form: str) -> None:
    artifact = load_detector_artifact(exported(form, "faster_rcnn", "raw"))
    boxes, labels, scores = artifact.finish(torch.rand(1, 48, 4, 6), torch.zeros(0, 4), *SIZE)
    assert (boxes.shape, labels.shape, scores.shape) == ((0, 4), (0,), (0,))


@pytest.mark.parametrize(
    ("form", "heads"), [("openvino", "boxes"), pytest.param("ncnn", "raw", marks=pytest.mark.slow)]
)
def test_called_from_several_threads(exported: Export, form: str, heads: str) -> None:
    detector = load_detector_artifact(exported(form, "ssd", heads))
    pictures = [picture(96 + 16 * number, 128) for number in range(4)]
    expected = [detector.find(each) for each in pictures]

    def call(index: int) -> Detections:
        with torch.inference_mode():
            return detector.find(pictures[index % len(pictures)])

    with ThreadPoolExecutor(4) as pool:
        for index, found in enumerate(pool.map(call, range(16))):
            assert_same(found, expected[index % len(pictures)])
