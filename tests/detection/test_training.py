"""Training detectors on the engine: overfitting, exact resume, checkpoints, and what a run leaves behind."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from PIL import Image
from safetensors.torch import load_file
from torchvision.ops import box_iou

from compactnets.classification.checkpoint import CheckpointRecord
from compactnets.detection.checkpoint import DetectorRecord, first_detector, load_detector
from compactnets.detection.data import open_detection, open_run
from compactnets.detection.data.base import DetectionSource
from compactnets.detection.evaluation import evaluate_on
from compactnets.detection.setup import tell_small
from compactnets.detection.task import TASK
from compactnets.errors import InputError
from compactnets.models.form import is_form
from compactnets.training.checkpoint import read_record, save_checkpoint
from compactnets.training.interruption import Interrupted
from compactnets.training.step import Learner

from ..training.helpers import TINY as CLASSIFIER
from ..training.helpers import stop_after
from .data.helpers import annotation, voc_object
from .helpers import TINY, scenes, tiny_recipe, write_scenes

Sources = tuple[DetectionSource, DetectionSource]
DETECTORS = ["ssd", "faster_rcnn"]


@pytest.fixture(scope="module")
def sources(tmp_path_factory: pytest.TempPathFactory) -> Sources:
    return scenes(tmp_path_factory.mktemp("scenes"), train=6, val=2)


def same(a: Path, b: Path) -> bool:
    one, other = load_file(a / "last.safetensors"), load_file(b / "last.safetensors")
    return list(one) == list(other) and all(torch.equal(one[key], other[key]) for key in one)


@pytest.fixture
def one_thread() -> Iterator[None]:
    """As in the suite, whose workers share the cores: what is learned in 100 steps depends on the rounding."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.mark.parametrize(
    "detector", [pytest.param(each, marks=() if each == "ssd" else pytest.mark.slow) for each in DETECTORS]
)
def test_few_images_are_learned_by_heart(detector: str, tmp_path: Path, one_thread: None) -> None:
    """One image twice; for SSD two, because batch normalisation of its 1x1 level needs images that differ."""
    images, _ = scenes(tmp_path / "few", train=2, val=1, alike=detector == "faster_rcnn")
    recipe = tiny_recipe(detector, epochs=100, eval_epochs=100, lr=0.01, clip_grad_norm=5)
    result = TASK.train(recipe, images, images, tmp_path / "run")
    assert result.final["voc07"] == 100
    detector_, record = load_detector(tmp_path / "run" / "best.safetensors")
    assert record.class_names == ["blue", "red"]
    evaluator, _ = evaluate_on(detector_, images)
    for _, found, objects in evaluator:
        for label in (0, 1):  # detections come best first
            best = found.boxes[found.labels == label][:1]
            assert float(box_iou(best, objects.boxes[objects.labels == label])) > 0.7
        assert float(found.scores[0]) > 0.8


@pytest.mark.parametrize("detector", ["ssd", pytest.param("faster_rcnn", marks=pytest.mark.slow)])
def test_a_stopped_run_goes_on_as_if_it_had_not(
    detector: str, sources: Sources, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    augment = {"flip": True, "photometric": True, "zoom_out": detector == "ssd", "iou_crop": detector == "ssd"}
    size = 4 if detector == "ssd" else 2
    recipe = tiny_recipe(detector, epochs=2, augment=augment, ema_decay=0.9, batch_size=size, accumulate=2)
    TASK.train(recipe, *sources, tmp_path / "straight")
    with monkeypatch.context() as patch:
        stop_after(patch, 1)
        with pytest.raises(Interrupted):
            TASK.train(recipe, *sources, tmp_path / "stopped")
    # worker processes change nothing
    TASK.train(recipe.model_copy(update={"workers": 1}), *sources, tmp_path / "stopped")
    assert same(tmp_path / "stopped", tmp_path / "straight")


def test_the_folder_of_a_run(sources: Sources, tmp_path: Path) -> None:
    result = TASK.train(tiny_recipe(), *sources, tmp_path / "run")
    names = {path.name for path in (tmp_path / "run").iterdir()}
    assert names == {
        "best.json",
        "best.safetensors",
        "checkpoints",
        "curves.svg",
        "environment.json",
        "examples.html",
        "last.json",
        "last.safetensors",
        "metrics.jsonl",
        "recipe.yaml",
        "tensorboard",
    }
    (line,) = [json.loads(text) for text in (tmp_path / "run/metrics.jsonl").read_text().splitlines()]
    assert line["voc07_percent"] == result.best
    assert {"train_loss", "lr", "images_per_second", "eval_seconds_per_image"} <= set(line)
    assert line["train_loss"] == pytest.approx(line["train_loss_classes"] + line["train_loss_boxes"])
    assert min(line["train_loss_classes"], line["train_loss_boxes"]) > 0
    record = read_record(tmp_path / "run/best.safetensors", DetectorRecord)
    assert (record.detector, record.model, record.frozen_batchnorm) == ("ssd", TINY, False)
    assert record.training["recipe"]["ssd"]["size"] == 128
    drawn = (tmp_path / "run/examples.html").stat().st_mtime_ns
    again = TASK.train(tiny_recipe(), *sources, tmp_path / "run")
    assert again == result
    assert (tmp_path / "run/examples.html").stat().st_mtime_ns == drawn, "a finished run has its page"
    with pytest.raises(InputError, match="holds another run: lr was 0.02, now 0.05"):
        TASK.train(tiny_recipe(lr=0.05), *sources, tmp_path / "run")


@pytest.mark.slow
def test_a_stopped_run_goes_on_with_corrected_validation_data(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A bad box there is told before the first step; whatever is corrected later, the run goes on, and says so."""
    root = write_scenes(tmp_path / "scenes", train=4, val=2)
    file = root / "Annotations" / "val0.xml"
    good = file.read_text()

    def start(**changes: Any) -> Any:
        train, val = open_run(str(root))
        return TASK.train(tiny_recipe(epochs=2, **changes), train, val, tmp_path / "run")

    file.write_text(good.replace("<xmax>", "<xmax>-", 1))
    with pytest.raises(InputError, match=r"val0\.xml.*bad_boxes=drop"):
        start()
    assert not (tmp_path / "run").exists()
    file.write_text(good.replace("<name>red</name>", "<name>blue</name>"))
    with monkeypatch.context() as patch:
        stop_after(patch, 2)
        with pytest.raises(Interrupted):
            start()
    file.write_text(good)
    capsys.readouterr()
    result = start()
    assert "the validation data changed" in capsys.readouterr().err
    assert [row["objects"] for row in result.final["classes"]] == [2, 2]
    file = root / "Annotations" / "train0.xml"
    file.write_text(file.read_text().replace("<name>red</name>", "<name>blue</name>"))
    with pytest.raises(InputError, match="holds another run: training data was"):
        start()


def test_objects_that_the_network_sees_below_a_pixel(
    sources: Sources, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root = write_scenes(tmp_path / "large", train=2, val=1)
    for number in range(2):
        file = root / "JPEGImages" / f"train{number}.png"
        Image.open(file).resize((640, 640)).save(file)
    file = root / "Annotations" / "train1.xml"
    file.write_text(annotation(voc_object("red", 10, 10, 12, 60), "train1.png", (640, 640)))
    train, val = (open_detection(str(root), split, class_names=["blue", "red"]) for split in ("train", "val"))
    TASK.train(tiny_recipe(), train, val, tmp_path / "run")
    (told,) = [line for line in capsys.readouterr().err.splitlines() if "less than a pixel" in line]
    assert "1 of 3 objects" in told
    assert "train1.png" in told
    assert tell_small(sources[0], tiny_recipe()) is None


def classifier(path: Path, model: str = CLASSIFIER) -> Path:
    from compactnets.models.registry import create_model

    torch.manual_seed(1)
    net = create_model(model, num_classes=7)
    record = CheckpointRecord(
        model=model,
        arguments={"num_classes": 7},
        class_names=list("abcdefg"),
        preprocess={"size": 32, "resize": None, "mean": [0.5] * 3, "std": [0.5] * 3},
        source="a test",
        license="none",
    )
    save_checkpoint(path, net.state_dict(), record)
    return path


@pytest.mark.parametrize("detector", DETECTORS)
def test_a_classifier_gives_the_backbone_its_weights(detector: str, tmp_path: Path) -> None:
    init = classifier(tmp_path / "net.safetensors")
    found, record = first_detector(tiny_recipe(detector, frozen_batchnorm=True), ["a"], init)
    assert record.frozen_batchnorm
    weights, ours = load_file(init), {key: v for key, v in found.state_dict().items() if not is_form(key)}
    taken = {key: value for key, value in ours.items() if key.partition("body.")[2] in weights}
    levels = {key for key in weights if key.startswith(("stem.", "stages.")) and "num_batches" not in key}
    assert {key.partition("body.")[2] for key in taken} == levels
    assert all(torch.equal(value, weights[key.partition("body.")[2]]) for key, value in taken.items())


def test_a_detector_is_fine_tuned_for_other_classes(sources: Sources, tmp_path: Path) -> None:
    TASK.train(tiny_recipe(), *sources, tmp_path / "run")
    init = tmp_path / "run/best.safetensors"
    same_classes, _ = first_detector(tiny_recipe(), ["blue", "red"], init)
    weights = load_file(init)
    assert all(torch.equal(value, weights[key]) for key, value in same_classes.state_dict().items())
    others, _ = first_detector(tiny_recipe(), ["cat", "dog", "eel"], init)
    changed = [key for key, value in others.state_dict().items() if not torch.equal(value, weights[key])]
    assert changed
    assert all(key.startswith("head.classification_head.") for key in changed)


def test_fresh_weights_are_not_frozen(capsys: pytest.CaptureFixture[str]) -> None:
    _, record = first_detector(tiny_recipe(frozen_batchnorm=True), ["a"], None)
    assert not record.frozen_batchnorm
    assert "frozen_batchnorm is off: the backbone's weights are fresh" in capsys.readouterr().err


def test_a_loss_that_is_not_finite_names_the_images(
    sources: Sources, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Learner, "lr", lambda self, step: 1e20)
    with pytest.raises(InputError, match=r"the loss is not finite at epoch 1/1, step \d: 2 of 2 images \(.*train\d"):
        TASK.train(tiny_recipe(), *sources, tmp_path / "run")
    assert not (tmp_path / "run/last.safetensors").exists()


@pytest.mark.parametrize("detector", ["faster_rcnn", "ssd"])
def test_an_evaluation_that_is_not_finite_ends_the_run(
    detector: str, sources: Sources, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Weights that are finite, with outputs that are not: torchvision finds no objects and says nothing."""
    take = Learner.step

    def step_and_explode(self: Learner, batch: Any, number: int) -> Any:
        losses = take(self, batch, number)
        for name, parameter in self.model.named_parameters():
            head = name.startswith(("head.", "roi_heads.box_predictor.")) and name.endswith("weight")
            if head and number == self.steps - 1:
                parameter.data.fill_(3e38)
        return losses

    monkeypatch.setattr(Learner, "step", step_and_explode)
    with pytest.raises(InputError, match=r"after epoch 1/1 .*not finite for \d of \d images"):
        TASK.train(tiny_recipe(detector), *sources, tmp_path / "run")
    assert not (tmp_path / "run/last.safetensors").exists()


@pytest.mark.parametrize(
    ("changes", "init", "message"),
    [
        (
            {"model": "muffnet_x0_5"},
            "classifier",
            "is a checkpoint of shufflenet_g3_x0_25, the recipe's backbone is ",
        ),
        ({"detector": "faster_rcnn"}, "detector", "has detector = ssd, the recipe has faster_rcnn"),
        ({}, "nothing", "no checkpoint at"),
        (
            {"batch_size": 2, "accumulate": 2},
            None,
            "gives each of 2 parts one image, and SSD's last map",
        ),
        ({"batch_size": 3, "accumulate": 2}, None, "batch_size = 3 cannot be divided among 1 processes x 2 parts"),
        ({"kernels": "own", "channels_last": True}, None, "kernels: own is not possible .* a classifier"),
    ],
)
def test_runs_that_are_refused(
    changes: dict[str, Any], init: str | None, message: str, sources: Sources, tmp_path: Path
) -> None:
    path = None if init is None else tmp_path / "init.safetensors"
    if init == "classifier":
        classifier(tmp_path / "init.safetensors")
    if init == "detector":
        TASK.train(tiny_recipe(), *sources, tmp_path / "first")
        path = tmp_path / "first/best.safetensors"
    with pytest.raises(InputError, match=message):
        TASK.train(tiny_recipe(**changes), *sources, tmp_path / "run", init=path)
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
@pytest.mark.parametrize("detector", DETECTORS)
def test_two_processes_share_the_images(detector: str, sources: Sources, tmp_path: Path) -> None:
    """Under torchrun, with images of several sizes and the statistics of both: all are evaluated, once."""
    settings = tiny_recipe(detector, batch_size=4).model_dump(mode="json")
    (tmp_path / "mine.yaml").write_text(yaml.safe_dump(settings))
    launch = ["torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m", "compactnets"]
    files = [str(tmp_path / "mine.yaml"), "--data", sources[0].spec, "--output", str(tmp_path / "run")]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", *launch, "train", *files, "--json"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["final"]["images"] == 2
    assert (tmp_path / "run/examples.html").exists()
