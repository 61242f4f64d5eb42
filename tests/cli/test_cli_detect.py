"""``compactnets detect``: the verbs on a tree of a few images, and what they refuse."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image

from compactnets.detection.data.opening import open_detection
from compactnets.detection.recipe import DetectionRecipe
from compactnets.detection.task import TASK
from compactnets.training.recipe_files import load_recipe

from ..detection.helpers import write_scenes
from .helpers import RECIPE, Outcome

Run = Callable[..., Outcome]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tree of scenes, a recipe, and a trained detector in ``run``."""
    root = tmp_path_factory.mktemp("detect")
    write_scenes(root / "scenes", train=4, val=2, test=1)
    (root / "mine.yaml").write_text(RECIPE)
    return root


@pytest.fixture(scope="module")
def trained(folder: Path) -> Path:
    recipe = load_recipe(DetectionRecipe, str(folder / "mine.yaml"))
    train, val = (open_detection(str(folder / "scenes"), split) for split in ("train", "val"))
    TASK.train(recipe, train, val, folder / "run")
    return folder / "run/best.safetensors"


def test_train(folder: Path, run: Run, tmp_path: Path) -> None:
    arguments = ("train", folder / "mine.yaml", "--data", folder / "scenes", "--output", tmp_path / "run")
    done = run(*arguments)
    assert done.code == 0, done.err
    assert "extra 2: 1 x 1, 32 channels, anchors" in done.err
    assert "VOC 2007 mAP" in done.out
    again = run(*arguments, "--json")
    assert "holds this run, finished" in again.err
    assert again.json["final"]["images"] == 2


def test_eval(folder: Path, trained: Path, run: Run) -> None:
    page = folder / "page.html"
    arguments = ("eval", "--checkpoint", trained, "--data", folder / "scenes", "--split", "test")
    done = run(*arguments, "--examples", page)
    assert done.code == 0, done.err
    assert "ssd on shufflenet_g3_x0_25" in done.out
    assert "1 images" in done.out
    assert page.read_text().startswith("<!doctype html>") or "<html" in page.read_text()
    found = run(*arguments, "--json", "--metric", "coco").json
    assert found["split"] == "test"
    assert [row["name"] for row in found["classes"]] == ["blue", "red"]
    assert found["coco"] is not None


def test_predict(folder: Path, trained: Path, run: Run, tmp_path: Path) -> None:
    image = folder / "scenes/JPEGImages/test0.png"
    done = run("predict", "--checkpoint", trained, image, image, "--score", "0", "--output", tmp_path / "out")
    assert done.code == 0, done.err
    assert done.out.count("test0.png") == 2
    drawn = sorted(path.name for path in (tmp_path / "out").iterdir())
    assert drawn == ["test0-2.jpg", "test0.jpg"]
    assert Image.open(tmp_path / "out/test0.jpg").size == Image.open(image).size
    found = run("predict", "--checkpoint", trained, image, "--score", "0", "--json").json
    assert found[0]["width"] == 96
    assert set(found[0]["objects"][0]) == {"class_name", "score", "box"}


def test_predict_goes_on_after_a_file_that_is_no_image(folder: Path, trained: Path, run: Run) -> None:
    image = folder / "scenes/JPEGImages/test0.png"
    done = run("predict", "--checkpoint", trained, folder / "mine.yaml", image, "--score", "1")
    assert done.code == 2
    assert "test0.png" in done.out
    assert done.err.count("compactnets: error:") == 1
    assert "mine.yaml" in done.err


def test_print_config(run: Run) -> None:
    done = run("train", "coco/ssd512", "--data", "x", "--print-config", "--json", "--set", "ssd.size=512")
    assert done.json["ssd"]["scales"] == [0.1, 0.2, 0.37, 0.54, 0.71, 0.88, 0.96]


def test_what_a_detector_cannot_do_is_one_line(trained: Path, run: Run) -> None:
    x = trained.parent / "x"
    for arguments, message in (
        (("eval", "--checkpoint", trained, "--data", "digits"), "no folder at 'digits'"),
        (
            ("eval", "--checkpoint", trained, "--data", x, "--batch-size", 2),
            "--batch-size is not an option of evaluate for detection",
        ),
        (("export", trained, "--format", "torch", "--output", x), "exported to onnx, openvino, ncnn"),
        (
            ("quantize", trained, "--format", "onnx", "--calibration", "a", "--eval", "a", "--output", x),
            "for detection",
        ),
        (("benchmark", trained, "--formats", "eager"), "for detection"),
    ):
        done = run(*arguments)
        assert done.code == 2, arguments
        assert message in done.err
        assert done.err.count("\n") == 1


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("train", "cifar/short", "--data", "scenes", "--output", "o"), "for detection"),
        (("train", "small/ssd", "--data", "scenes"), "no recipe 'small/ssd'; did you mean 'small/ssd512'"),
        (("train", "mine.yaml", "--data", "scenes"), "train needs --output DIR"),
        (("train", "mine.yaml", "--data", "scenes", "--output", "o", "--set", "ssd.sise=3"), "did you mean 'size'"),
        (("train", "mine.yaml", "--data", "scenes", "--output", "o", "--set", "train_split=all"), "all"),
        (("train", "mine.yaml", "--data", "none", "--output", "o"), "none"),
        (("train", "mine.yaml", "--data", "scenes", "--output", "o", "--model", "resnet81"), "did you mean 'resnet18'"),
        (("eval", "--checkpoint", "none.safetensors", "--data", "scenes"), "no checkpoint at none.safetensors"),
        (("eval", "--checkpoint", "mine.yaml", "--data", "scenes"), "mine.yaml is not a .safetensors checkpoint"),
    ],
)
def test_bad_input_is_one_line(
    arguments: tuple[str, ...], message: str, folder: Path, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(folder)
    done = run(*arguments)
    assert done.code == 2
    assert message in done.err
    assert done.err.strip().splitlines()[-1].startswith("compactnets: error: ")
    assert "Traceback" not in done.err
    assert not (folder / "o").exists()


def test_a_detectors_recipe_wants_boxes(run: Run) -> None:
    done = run("train", "small/ssd512", "--data", "digits", "--output", "x")
    assert done.code == 2
    assert "no folder at 'digits'" in done.err


def test_a_bad_box_is_named_with_its_file(folder: Path, run: Run, tmp_path: Path) -> None:
    root = write_scenes(tmp_path / "bad", train=2, val=2)
    file = root / "Annotations/train0.xml"
    file.write_text(file.read_text().replace("<xmax>", "<xmax>-", 1))
    arguments = ("train", folder / "mine.yaml", "--data", root)
    done = run(*arguments, "--output", tmp_path / "run")
    assert done.code == 2
    assert "train0.xml" in done.err
    assert "bad_boxes=drop" in done.err
    done = run(*arguments, "--output", tmp_path / "other", "--set", "bad_boxes=drop", "--json")
    assert done.code == 0, done.err
    assert json.loads((tmp_path / "other/metrics.jsonl").read_text())["epoch"] == 1
