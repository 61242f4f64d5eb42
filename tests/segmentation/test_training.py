"""Training of segmenters: they learn, resume bit for bit, and start from classifiers."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest
import torch
import yaml

pytest.importorskip("torchmetrics")

import compactnets
import compactnets.api as api
from compactnets.classification.checkpoint import CheckpointRecord
from compactnets.data import Preprocess
from compactnets.errors import InputError
from compactnets.segmentation.checkpoint import SegmenterRecord, first_segmenter, load_segmenter
from compactnets.segmentation.recipe import IGNORED, DeepLabV3PlusSettings, MaskAugment, SegmentationRecipe
from compactnets.segmentation.setup import MaskObjective, MicroBatch
from compactnets.training.checkpoint import read_tensors, save_checkpoint
from compactnets.training.optimization import lr_factor
from compactnets.training.recipe import Optimizer, Schedule

from ..training.processes import TOLERANCE, distance
from .scenes import NAMES, write_folders

RATE = 0.0005  # of two processes: at higher rates, steps amplify how float32 sums round
SMALL = "shufflenet_g3_x0_25"  # a network of the package that is built quickly


def recipe(**changes: Any) -> SegmentationRecipe:
    settings: dict[str, Any] = {
        "model": "test_resnet",
        "epochs": 1,
        "batch_size": 2,
        "lr": 0.01,
        "optimizer": Optimizer(name="adamw"),
        "augment": MaskAugment(crop=(64, 96), scale=(1.0, 1.0), flip=False),
    }
    return SegmentationRecipe(**{**settings, **changes})


@pytest.mark.filterwarnings("ignore:deeplabv3plus has no effect")
@pytest.mark.parametrize("head", ["lraspp", "deeplabv3plus"])
def test_one_image_is_learned_by_heart(tmp_path: Path, head: Literal["lraspp", "deeplabv3plus"]) -> None:
    data = write_folders(tmp_path / "data", train=2, val=1)
    for split, name in (("train", "1"), ("val", "100")):
        for kind in ("images", "masks"):  # one image, twice to train on, and to evaluate on
            here = data / kind / split / f"{name}.png"
            here.write_bytes((data / kind / "train" / "0.png").read_bytes())
    plan = recipe(
        head=head,
        epochs=30,
        eval_epochs=30,
        output_stride=8,
        deeplabv3plus=DeepLabV3PlusSettings(channels=64),
        schedule=Schedule(name="poly"),
    )
    result = api.train(plan, data, tmp_path / "run")
    assert result.final["miou_percent"] > 90
    assert result.final["pixel_accuracy"] > 97
    assert (tmp_path / "run" / "examples.html").read_text().count("data:image/jpeg") >= 4


def test_a_resumed_run_is_the_same_bit_for_bit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = write_folders(tmp_path / "data")
    plan = recipe(
        epochs=2, auxiliary=0.4, ema_decay=0.9, class_weights="median", checkpoint_minutes=0, accumulate=2, batch_size=4
    )
    plan = plan.model_copy(update={"augment": MaskAugment(crop=(32, 48), photometric=True)})
    api.train(plan, data, tmp_path / "whole")
    from compactnets.segmentation.setup import MaskObjective as Objective

    steps, losses = 0, Objective.losses

    def interrupted(self: Any, forward: Any, part: Any) -> Any:
        nonlocal steps
        steps += 1
        if steps > 2:  # of the first epoch's only step
            raise KeyboardInterrupt
        return losses(self, forward, part)

    monkeypatch.setattr(Objective, "losses", interrupted)
    with pytest.raises(KeyboardInterrupt):
        api.train(plan, data, tmp_path / "parts")
    monkeypatch.undo()
    api.train(plan, data, tmp_path / "parts")
    one, other = (read_tensors(tmp_path / name / "last.safetensors") for name in ("whole", "parts"))
    assert one.keys() == other.keys()
    assert all(torch.equal(one[key], other[key]) for key in one)


@pytest.mark.slow
@pytest.mark.parametrize("head", ["lraspp", "deeplabv3plus"])
def test_two_processes_learn_what_one_learns(tmp_path: Path, head: Literal["lraspp", "deeplabv3plus"]) -> None:
    """Under torchrun: the same images in the same batches, the statistics of both, and an odd number to evaluate."""
    data = write_folders(tmp_path / "data", train=8, val=3)
    settings: dict[str, Any] = {"head": head, "epochs": 2, "batch_size": 4, "auxiliary": 0.4, "ema_decay": 0.9}
    settings |= {"optimizer": Optimizer(name="sgd"), "lr": RATE, "deeplabv3plus": {"channels": 64, "dropout": 0.0}}
    settings |= {"augment": MaskAugment(crop=(48, 64), photometric=True), "class_weights": "median"}
    if head == "lraspp":
        del settings["deeplabv3plus"]
    plan = recipe(**settings)
    api.train(plan, data, tmp_path / "one")
    first = first_segmenter(plan, list(NAMES), None)[0].state_dict()
    for name, synchronized in (("two", True), ("alone", False)):
        kept = plan.model_copy(update={"sync_batchnorm": synchronized})
        recipe_file = tmp_path / f"{name}.yaml"
        recipe_file.write_text(
            yaml.safe_dump({"task": "segmentation", **kept.model_dump(mode="json", exclude_unset=True)})
        )
        launch = ["torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m", "compactnets", "train"]
        files = [str(recipe_file), "--data", str(data), "--output", str(tmp_path / name), "--device", "cpu"]
        environment = {**os.environ, "OMP_NUM_THREADS": "1"}
        command = [sys.executable, "-m", *launch, *files]
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
    assert distance(tmp_path / "two", tmp_path / "one", first) < TOLERANCE
    assert distance(tmp_path / "alone", tmp_path / "one", first) > 10 * TOLERANCE  # statistics of each process
    one, two = (json.loads((tmp_path / name / "metrics.jsonl").read_text().splitlines()[-1]) for name in ("one", "two"))
    # not of the auxiliary head, in which torchvision drops channels by each process's own random numbers
    assert two["train_loss_classes"] == pytest.approx(one["train_loss_classes"], rel=1e-3)
    assert two["miou_percent"] == pytest.approx(one["miou_percent"], abs=0.1)
    assert (tmp_path / "two" / "examples.html").exists()


def test_the_loss_is_the_mean_over_pixels_with_a_class() -> None:
    torch.manual_seed(0)
    scores, labels = torch.randn(2, 3, 4, 6), torch.randint(0, 3, (2, 8, 12), dtype=torch.uint8)
    labels[0, :4] = IGNORED
    labels[1] = IGNORED
    weights = torch.tensor([0.5, 1.0, 4.0])
    found = MaskObjective(recipe(), weights).losses(lambda images: scores, MicroBatch(scores, labels))["classes"]
    large = torch.nn.functional.interpolate(scores, (8, 12), mode="bilinear", align_corners=False)
    logs = large.log_softmax(1)
    total = sum(
        float(-weights[label] * logs[0, label, row, column])
        for (row, column), label in np.ndenumerate(labels[0].numpy())
        if label != IGNORED
    )
    assert found[0] == pytest.approx(total / 48, rel=1e-5)
    assert found[1] == 0  # an image without a labelled pixel says nothing, and is no NaN
    both = MaskObjective(recipe(auxiliary=0.4), None).losses(
        lambda images: (scores, scores), MicroBatch(scores, labels)
    )
    assert both["auxiliary"].tolist() == pytest.approx((0.4 * both["classes"]).tolist())


def test_poly_falls_to_zero_with_its_power() -> None:
    schedule = Schedule(name="poly", power=0.9)
    assert [lr_factor(schedule, 10, epoch) for epoch in (0, 5, 10)] == [1.0, pytest.approx(0.5**0.9), 0.0]
    torchs = torch.optim.lr_scheduler.PolynomialLR(
        torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=1.0), total_iters=10, power=0.9
    )
    for epoch in range(10):
        assert lr_factor(schedule, 10, epoch) == pytest.approx(torchs.get_last_lr()[0])
        torchs.optimizer.step()
        torchs.step()
    with pytest.warns(UserWarning, match="power has no effect"):
        Schedule(name="linear", power=0.5)


def test_a_classifier_starts_the_backbone(tmp_path: Path) -> None:
    model = compactnets.create_model(SMALL, num_classes=7)
    preprocess = Preprocess(size=64, resize=64, mean=(0.4,) * 3, std=(0.3,) * 3)
    record = CheckpointRecord(
        model=SMALL,
        arguments={"num_classes": 7},
        class_names=list("abcdefg"),
        preprocess=preprocess.to_dict(),
        source="a test",
        license="none needed",
    )
    save_checkpoint(tmp_path / "a.safetensors", model.state_dict(), record)
    network, first = first_segmenter(recipe(model=SMALL), ["x", "y"], tmp_path / "a.safetensors")
    own = network.backbone.body.state_dict()
    shared = {key: value for key, value in model.state_dict().items() if key in own}
    assert len(shared) > 50
    assert all(torch.equal(own[key], value) for key, value in shared.items())
    assert (first.mean, first.std) == ((0.4,) * 3, (0.3,) * 3)
    with pytest.raises(InputError, match=f"{SMALL}.*menet_108_8x1_g3"):
        first_segmenter(recipe(model="menet_108_8x1_g3"), ["x", "y"], tmp_path / "a.safetensors")


def test_a_segmenter_of_other_classes_keeps_all_but_its_classifiers(tmp_path: Path) -> None:
    network, record = first_segmenter(recipe(auxiliary=0.4), ["x", "y"], None)
    save_checkpoint(tmp_path / "a.safetensors", network.state_dict(), record)
    again, found = load_segmenter(tmp_path / "a.safetensors")
    assert isinstance(found, SegmenterRecord)
    assert all(torch.equal(value, again.state_dict()[key]) for key, value in network.state_dict().items())
    other, _ = first_segmenter(recipe(auxiliary=0.4, seed=1), ["x", "y", "z"], tmp_path / "a.safetensors")
    own, theirs = other.state_dict(), network.state_dict()
    changed = {key for key in own if own[key].shape != theirs[key].shape}
    assert {key.split(".")[0] for key in changed} == {"head", "auxiliary"}
    assert all(torch.equal(own[key], theirs[key]) for key in own.keys() - changed)
    with pytest.raises(InputError, match="head = lraspp"):
        first_segmenter(recipe(head="deeplabv3plus", auxiliary=0.4), ["x", "y"], tmp_path / "a.safetensors")


@pytest.mark.slow
def test_the_authors_checkpoint_starts_a_run(tmp_path: Path, shared: Path) -> None:
    init = shared / "weights" / "108-MENet-8x1-group-3.pth.tar"
    if not init.is_file():
        pytest.skip("the authors' checkpoint is not there")
    data = write_folders(tmp_path / "data")
    api.train(recipe(model="menet_108_8x1_g3"), data, tmp_path / "run", init=init)
    record = json.loads((tmp_path / "run" / "best.json").read_text())
    assert record["training"]["init"] == str(init)


def test_settings_that_do_not_fit(tmp_path: Path) -> None:
    data = write_folders(tmp_path / "data")
    with pytest.raises(InputError, match="batch_size = 1"):
        api.train(recipe(head="deeplabv3plus", batch_size=1), data, tmp_path / "run")
    with pytest.raises(InputError, match="states the classes"):
        api.train(recipe(classes=("a", "b", "c")), data, tmp_path / "run")
    assert not (tmp_path / "run" / "best.safetensors").exists()
    with pytest.warns(UserWarning, match="deeplabv3plus has no effect"):
        recipe(deeplabv3plus={"channels": 64})


def test_a_recipe_for_ones_own_masks_takes_the_datas_classes(tmp_path: Path) -> None:
    data = write_folders(tmp_path / "data")
    settings = ("size=[64,96]", "augment.crop=[64,96]", "batch_size=2", "epochs=1", "min_steps=1", "compile=false")
    api.train("small/lraspp", data, tmp_path / "run", model="muffnet_x0_5", settings=settings)
    assert tuple(json.loads((tmp_path / "run" / "best.json").read_text())["class_names"]) == NAMES
    with pytest.raises(InputError, match="classes=null") as refused:
        api.train("camvid/lraspp", data, tmp_path / "other")
    assert "bicyclist" in str(refused.value)
    assert "box" in str(refused.value)
