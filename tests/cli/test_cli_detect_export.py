"""compactnets detect export, eval and predict on what it writes, and profile of detectors."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image
from sklearn.datasets import load_sample_images

from compactnets.errors import InputError
from compactnets.training.checkpoint import save_checkpoint
from tests.detection.lively import CLASS_NAMES, lively_detector

from ..deploy.conftest import needs
from .helpers import Outcome

Run = Callable[..., Outcome]


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    detector, record = lively_detector("ssd")
    path = tmp_path_factory.mktemp("checkpoint") / "best.safetensors"
    # chosen by the recipe among the classes of its data, as a run records it
    chosen = record.model_copy(update={"training": {"recipe": {"classes": list(CLASS_NAMES)}}})
    save_checkpoint(path, detector.state_dict(), chosen)
    return path


@pytest.fixture
def photographs(tmp_path: Path) -> Path:
    """Two photographs with one object each, as COCO has them."""
    folder = tmp_path / "data"
    (folder / "val").mkdir(parents=True)
    (folder / "annotations").mkdir()
    images, annotations = [], []
    for number, array in enumerate(load_sample_images().images, start=1):
        Image.fromarray(array).save(folder / "val" / f"{number}.png")
        images.append({"id": number, "file_name": f"{number}.png", "width": 640, "height": 427})
        box = {"bbox": [10, 20, 300, 200], "area": 60000, "iscrowd": 0, "category_id": number}
        annotations.append({"id": number, "image_id": number, **box})
    categories = [{"id": number, "name": name} for number, name in enumerate(CLASS_NAMES, start=1)]
    document = {"images": images, "annotations": annotations, "categories": categories}
    (folder / "annotations" / "instances_val.json").write_text(json.dumps(document))
    return folder


def test_an_artifact_is_evaluated_and_predicts_like_its_checkpoint(
    run: Run, checkpoint: Path, photographs: Path, tmp_path: Path
) -> None:
    pytest.importorskip("onnxscript")
    pytest.importorskip("onnxruntime")
    folder = tmp_path / "artifact"
    done = run("export", checkpoint, "--format", "onnx", "--output", folder)
    assert done.code == 0, done.err
    assert "model.onnx gives boxes (detections, 4), labels (detections), scores (detections)" in done.out
    assert "input 64 x 64 pixels, resize: stretch; 3 classes; heads: boxes" in done.out
    image = photographs / "val" / "1.png"
    for path in (folder, folder / "model.onnx"):
        found, expected = (
            run("predict", "--checkpoint", one, image, "--score", "0.3", "--json").json[0]["objects"]
            for one in (path, checkpoint)
        )
        assert len(found) == len(expected) > 3
        for one, other in zip(found, expected, strict=True):
            assert one["class_name"] == other["class_name"]
            assert one["score"] == pytest.approx(other["score"], abs=1e-5)
            assert one["box"] == pytest.approx(other["box"], abs=1e-2)
    file = photographs / "annotations" / "instances_val.json"
    document = json.loads(file.read_text())
    document["categories"].append({"id": 9, "name": "of no concern"})
    document["annotations"].append({**document["annotations"][0], "id": 9, "category_id": 9})
    file.write_text(json.dumps(document))
    scores = []
    for one in (folder, checkpoint):  # objects of classes that were not chosen are left out for both
        done = run("eval", "--checkpoint", one, "--data", photographs, "--json")
        assert "1 objects of other classes left out: of no concern" in done.err
        scores.append(done.json)
    assert scores[0]["voc10"] == pytest.approx(scores[1]["voc10"])
    wrong = run("eval", "--checkpoint", folder, "--data", photographs, "--device", "cuda")
    assert (wrong.code, len(wrong.err.splitlines())) == (2, 1)
    assert "cpu only, found --device cuda" in wrong.err
    (folder / "model.onnx").write_bytes(b"nothing")
    wrong = run("predict", "--checkpoint", folder, image)
    assert (wrong.code, len(wrong.err.splitlines())) == (2, 1)
    assert "sha256 differs" in wrong.err


@pytest.mark.parametrize(("form", "heads"), [("openvino", "boxes"), ("ncnn", "raw")])
def test_other_runtimes_are_evaluated_and_predict_like_the_checkpoint(
    run: Run, checkpoint: Path, photographs: Path, tmp_path: Path, form: str, heads: str
) -> None:
    needs(form)
    folder = tmp_path / "artifact"
    done = run("export", checkpoint, "--format", form, "--output", folder, "--json")
    assert done.code == 0, done.err
    assert (done.json["format"], done.json["heads"]) == (form, heads)
    main, weights = done.json["files"]
    for path in (folder, folder / main, folder / weights):
        found, expected = (
            run("predict", "--checkpoint", one, photographs / "val" / "1.png", "--score", "0.3", "--json").json[0][
                "objects"
            ]
            for one in (path, checkpoint)
        )
        assert len(found) == len(expected) > 3
        for one, other in zip(found, expected, strict=True):
            assert one["class_name"] == other["class_name"]
            assert one["score"] == pytest.approx(other["score"], abs=1e-4)
            assert one["box"] == pytest.approx(other["box"], abs=1e-1)
    scores = [run("eval", "--checkpoint", one, "--data", photographs, "--json").json for one in (folder, checkpoint)]
    assert scores[0]["voc10"] == pytest.approx(scores[1]["voc10"])
    agnostic = run("eval", "--checkpoint", folder, "--data", photographs, "--class-agnostic-nms")
    assert agnostic.code == (2 if heads == "boxes" else 0)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--format", "c"], "detectors are exported to onnx, openvino, ncnn, found --format c"),
        (["--format", "ncnn", "--heads", "boxes"], "--heads raw, found boxes"),
        (["--delegate", "vulkan"], "--delegate is not an option of export for detection"),
        (["--size", "96"], "made for 64 x 64 pixels: remove --size, found 96 x 96"),
        (["--size", "big"], "--size takes one side or HEIGHTxWIDTH"),
    ],
)
def test_wrong_input_is_one_line(
    run: Run, checkpoint: Path, tmp_path: Path, arguments: list[str], message: str
) -> None:
    pytest.importorskip("onnxscript")
    done = run("export", checkpoint, "--format", "onnx", "--output", tmp_path / "a", *arguments)
    assert done.code == 2
    assert message in done.err
    assert len(done.err.splitlines()) == 1
    assert not (tmp_path / "a").exists()


def test_a_missing_extra_is_one_line(
    run: Run, checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def absent(self: object) -> dict[str, str]:
        raise InputError("the format onnx needs onnx")

    monkeypatch.setattr("compactnets.deploy.formats.registry.Format.versions", absent)
    done = run("export", checkpoint, "--format", "onnx", "--output", tmp_path / "a")
    assert (done.code, done.err) == (2, "compactnets: error: the format onnx needs onnx\n")
    assert not (tmp_path / "a").exists()


def test_profile(run: Run, checkpoint: Path) -> None:
    own = run("profile", checkpoint, "--json").json
    assert own["size"] == [64, 64]
    assert own["macs"] == sum(part["macs"] for part in own["parts"])
    settings = ["--set", "faster_rcnn.shorter_side=64", "--set", "faster_rcnn.longer_side=96"]
    done = run("profile", "shufflenet_g3_x0_25", "--detector", "faster_rcnn", *settings)
    assert done.code == 0, done.err
    assert "faster_rcnn on shufflenet_g3_x0_25, image of 64 x 85 pixels" in done.out
    assert "subnet (300 x " in done.out
    for arguments, message in (
        (["resnet18", "--detector", "ssd", "--stem", "cifar"], "--stem is not an option of profile for detection"),
        ([checkpoint, "--detector", "ssd"], "--detector has no effect on a checkpoint"),
        (["resnet18", "--detector", "ssd", "--input-size", "1", "512", "512"], "takes images of 3 channels"),
    ):
        done = run("profile", *arguments)
        assert done.code == 2
        assert message in done.err
        assert len(done.err.splitlines()) == 1
