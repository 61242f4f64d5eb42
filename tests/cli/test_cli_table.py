"""A table of images and labels, taken by the verbs."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import Image

from .helpers import Outcome

ROWS = {"a1.png": "cat,train", "a2.png": "owl,train", "a3.png": "cat,train", "b1.png": "owl,val", "b2.png": "cat,val"}
RECIPE = "model: shufflenet_g3_x0_25\nepochs: 1\nbatch_size: 2\nmodel_arguments: {stem: cifar}\npreprocess: {size: 8}\n"


def test_training_evaluation_and_the_check(run: Callable[..., Outcome], tmp_path: Path) -> None:
    photos, recipe = tmp_path / "photos", tmp_path / "recipe.yaml"
    photos.mkdir()
    recipe.write_text(RECIPE)
    pixels = np.random.default_rng(0).integers(0, 256, (len(ROWS), 8, 8, 3), dtype=np.uint8)
    for name, image in zip(ROWS, pixels, strict=True):
        Image.fromarray(image).save(photos / name)
    table = photos / "labels.csv"
    table.write_text("\n".join(["image,label,split", *(f"{name},{rest}" for name, rest in ROWS.items())]) + "\n")

    trained = run("train", recipe, "--data", table, "--output", tmp_path / "run")
    assert trained.code == 0, trained.err
    assert json.loads((tmp_path / "run" / "best.json").read_text())["class_names"] == ["cat", "owl"]
    guesses = photos / "guesses.csv"
    checkpoint = ("--checkpoint", tmp_path / "run" / "best.safetensors")
    found = run("eval", *checkpoint, "--data", table, "--predictions", guesses, "--json")
    assert json.loads(found.out)["images"] == 2, found.err
    again = run("eval", *checkpoint, "--data", guesses, "--json")  # a table of predictions has the columns, too
    same = [json.loads(each.out) for each in (found, again)]
    assert same[0]["classes"] == same[1]["classes"]
    report = json.loads(run("data", "check", table, "--json").out)
    assert {split: summary["images"] for split, summary in report["splits"].items()} == {"train": 3, "val": 2}

    table.write_text(table.read_text() + "a9.png,cat,train\n")
    refused = run("train", recipe, "--data", table, "--output", tmp_path / "other")
    assert refused.code == 2
    assert refused.err.count("\n") == 1
    assert f"{table} line 7: no image at {photos}/a9.png" in refused.err
    assert not (tmp_path / "other").exists()
