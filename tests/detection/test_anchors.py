"""Which objects anchors reach, counted beside torchvision's own anchors, and anchors that follow from the objects."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torchvision.models.detection.image_list import ImageList
from torchvision.ops import box_iou

from compactnets.detection import anchors as module
from compactnets.detection.anchors import (
    SeenObjects,
    anchor_grids,
    best_overlaps,
    count_reached,
    fit_anchors,
    seen_objects,
)
from compactnets.detection.checkpoint import DetectorRecord, first_detector, load_detector
from compactnets.detection.data.opening import open_detection
from compactnets.detection.recipe import DetectionRecipe
from compactnets.detection.task import TASK
from compactnets.errors import InputError
from compactnets.training.checkpoint import read_record
from compactnets.training.recipe_files import load_recipe

from .data.helpers import annotation, voc_object
from .helpers import scenes, tiny_recipe, write_scenes

DETECTORS = ["ssd", "faster_rcnn"]
SMALL = {"ssd": "small/ssd512", "faster_rcnn": "small/faster_rcnn"}


def random_objects(low: float, high: float, width: int, height: int, count: int = 60) -> SeenObjects:
    """Objects of sides from ``low`` to ``high`` pixels, in an image of that size."""
    random = np.random.default_rng(0)
    sides = random.uniform(low, high, (count, 2))
    corner = random.uniform(0, 1, (count, 2)) * (np.array([width, height]) - sides)
    return SeenObjects(np.concatenate([corner, corner + sides], axis=1), np.arange(count) % 2)


@pytest.mark.parametrize("detector", DETECTORS)
def test_overlaps_are_those_of_torchvisions_anchors(detector: str) -> None:
    recipe = tiny_recipe(detector)
    found: Any = first_detector(recipe, ["a"], None)[0].eval()
    blank = torch.zeros(1, 3, 128, 128 if detector == "ssd" else 96)
    height, width = blank.shape[2:]
    objects = random_objects(16, 90, width, height)
    with torch.inference_mode():
        maps = found.backbone(blank)
        generator = found.anchor_generator if detector == "ssd" else found.rpn.anchor_generator
        features = list(maps.values()) if isinstance(maps, dict) else [maps]
        (boxes,) = generator(ImageList(blank, [(height, width)]), features)
    wanted = box_iou(boxes.double(), torch.from_numpy(objects.boxes)).max(dim=0).values
    assert best_overlaps(objects, anchor_grids(recipe)) == pytest.approx(wanted.numpy(), abs=1e-5)


@pytest.mark.parametrize("detector", DETECTORS)
@pytest.mark.parametrize(("size", "low", "high"), [("large", 300, 480), ("small", 14, 40), ("mixed", 20, 400)])
def test_fitted_anchors_reach_what_the_recipes_do_not(detector: str, size: str, low: float, high: float) -> None:
    """Objects of any size; the large ones are the raccoons that the small recipe's anchors do not fit."""
    recipe = load_recipe(DetectionRecipe, SMALL[detector])
    sides = (512, 512) if detector == "ssd" else (800, 600)
    objects = random_objects(low, high, *sides, count=200)
    fitted = fit_anchors(recipe, objects)
    reached, own = count_reached(objects, fitted) / 200, count_reached(objects, recipe) / 200
    if detector == "faster_rcnn" and size == "large":
        assert own < 0.4
    assert reached >= own - 0.02
    # Faster R-CNN has one map with a cell each 16 pixels: the smallest objects lie between its anchors
    assert reached > (0.55 if size == "small" else 0.9)
    overlaps = [best_overlaps(objects, anchor_grids(each)).mean() for each in (recipe, fitted)]
    assert overlaps[1] > overlaps[0] - 0.01
    again = fit_anchors(recipe, objects)
    assert again == fitted, "nothing is drawn"
    # as many as before: the network keeps its layers
    assert [len(grid.shapes) for grid in anchor_grids(fitted)] == [len(grid.shapes) for grid in anchor_grids(recipe)]


@pytest.mark.parametrize("detector", DETECTORS)
@pytest.mark.parametrize("sides", [(40, 40), (1, 1), (95, 95), (3, 90)])
def test_objects_that_are_all_alike_give_anchors_that_can_be_built(detector: str, sides: tuple[int, int]) -> None:
    corner = np.tile(np.array([[0.0, 0.0]]), (30, 1))
    objects = SeenObjects(np.concatenate([corner, corner + np.array(sides)], axis=1), np.zeros(30, dtype=np.int64))
    fitted = fit_anchors(tiny_recipe(detector), objects)
    first_detector(fitted, ["a"], None)


def test_objects_are_those_that_are_trained_on_in_the_pixels_of_the_network(tmp_path: Path) -> None:
    """The stretch of SSD, the one factor of Faster R-CNN; no difficult object, none outside, a size from the image."""
    write_scenes(tmp_path, train=1)
    text = (tmp_path / "Annotations/train0.xml").read_text()
    objects = voc_object("red", 1, 1, 48, 24) + voc_object("red", 1, 1, 9, 9, difficult=1)
    objects += voc_object("blue", 200, 200, 220, 220)
    (tmp_path / "Annotations/train0.xml").write_text(annotation(objects, "train0.png", (96, 96)))
    assert text
    for size in ((96, 96), None):
        (tmp_path / "Annotations/train0.xml").write_text(annotation(objects, "train0.png", size))
        source = open_detection(str(tmp_path), "train")
        seen = seen_objects(source, tiny_recipe("ssd"))
        assert seen.boxes.tolist() == [pytest.approx([0, 0, 64, 32])]
        # a shorter side of 96, and a longer one of at most 128
        assert seen_objects(source, tiny_recipe("faster_rcnn")).boxes.tolist() == [[0, 0, 48, 24]]


@pytest.mark.parametrize("detector", ["faster_rcnn", pytest.param("ssd", marks=pytest.mark.slow)])
def test_a_run_keeps_its_anchors(
    detector: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    sources = scenes(tmp_path / "scenes", train=12, val=1)
    recipe = tiny_recipe(detector, anchors="auto", batch_size=6)
    TASK.train(recipe, *sources, tmp_path / "run")
    told = capsys.readouterr().err
    fitted = getattr(fit_anchors(recipe, seen_objects(sources[0], recipe)), detector)
    assert "of 24 training objects" in told
    record = read_record(tmp_path / "run/best.safetensors", DetectorRecord)
    assert getattr(record, detector) == fitted
    assert getattr(record, detector) != getattr(recipe, detector)
    assert getattr(load_detector(tmp_path / "run/best.safetensors")[1], detector) == fitted
    assert "anchors: auto" in (tmp_path / "run/recipe.yaml").read_text()
    with monkeypatch.context() as patch:  # another version, whose k-means would end elsewhere

        def refuse(*_: object) -> None:
            raise AssertionError("fitted again")

        patch.setattr(module, "fit_anchors", refuse)
        TASK.train(recipe.model_copy(update={"workers": 1}), *sources, tmp_path / "run")
    assert getattr(read_record(tmp_path / "run/best.safetensors", DetectorRecord), detector) == fitted
    with pytest.raises(InputError, match="anchors was 'auto', now 'given'"):
        TASK.train(tiny_recipe(detector, batch_size=6), *sources, tmp_path / "run")
    # a detector to begin with brings its own, because its weights belong to them
    TASK.train(recipe, *scenes(tmp_path / "others", 10, 1), tmp_path / "next", init=tmp_path / "run/best.safetensors")
    assert getattr(read_record(tmp_path / "next/best.safetensors", DetectorRecord), detector) == fitted


def test_few_objects_leave_the_recipes_own(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    sources = scenes(tmp_path / "scenes", train=4, val=2)
    recipe = tiny_recipe(anchors="auto")
    TASK.train(recipe, *sources, tmp_path / "run")
    assert "8 objects are too few" in capsys.readouterr().err
    assert read_record(tmp_path / "run/best.safetensors", DetectorRecord).ssd == recipe.ssd
    TASK.train(recipe, *sources, tmp_path / "run")  # finished, and the same run


@pytest.mark.parametrize("name", SMALL.values())
def test_small_recipes_fit_their_anchors(name: str) -> None:
    assert load_recipe(DetectionRecipe, name).anchors == "auto"
    assert json.loads(load_recipe(DetectionRecipe, name).model_dump_json())["anchors"] == "auto"


def test_data_check_says_what_anchors_reach(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """In the network's pixels: sides of 20 to 40 of 96 are stretched to 512; those of a recipe of one's own besides."""
    from compactnets_cli import main

    def check(*arguments: str) -> str:
        monkeypatch.setattr("sys.argv", ["compactnets", "data", "check", str(tmp_path / "scenes"), *arguments])
        main()  # with nothing wrong it returns
        return capsys.readouterr().out

    write_scenes(tmp_path / "scenes", train=12, val=2)
    found = json.loads(check("--json"))["anchors"]
    assert list(found) == ["train", "val"]
    sources = open_detection(str(tmp_path / "scenes"), "train"), open_detection(str(tmp_path / "scenes"), "val")
    for split, source, objects in (("train", sources[0], 24), ("val", sources[1], 4)):
        for fit, detector in zip(found[split], ("faster_rcnn", "ssd"), strict=True):
            recipe = load_recipe(DetectionRecipe, SMALL[detector])
            seen, train = seen_objects(source, recipe), seen_objects(sources[0], recipe)
            assert (fit["recipe"], fit["objects"], fit["anchors"]) == (SMALL[detector], objects, "auto")
            assert fit["reached"] == count_reached(seen, fit_anchors(recipe, train))
            assert fit["reached_by_given"] == count_reached(seen, recipe)
            assert 20 / 96 * 512 * 0.9 < fit["sizes"][0] <= fit["sizes"][2] < 42 / 96 * 600
    text = check("--split", "val", "--recipe", "voc/faster_rcnn")
    assert "val: voc/faster_rcnn sees them at a shorter side of 600 pixels" in text
    assert "of 4 (" in text
    with pytest.raises(InputError, match="is of classification"):
        load_recipe(DetectionRecipe, "cifar/short")
