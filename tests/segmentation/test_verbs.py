"""Segmentation through the verbs: train, eval, predict, export, profile and data check."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

pytest.importorskip("torchmetrics")

import compactnets.api as api
from compactnets.errors import InputError
from compactnets.segmentation.data import read_mask

from ..cli.helpers import Outcome
from ..deploy.conftest import needs
from .scenes import NAMES, scene, write_folders

Run = Callable[..., Outcome]

SMALL = """
task: segmentation
model: test_resnet
epochs: 20
eval_epochs: 20
batch_size: 4
lr: 0.01
output_stride: 8
size: [64, 96]
optimizer: {name: adamw}
augment: {crop: [64, 96], scale: [0.9, 1.1]}
"""


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with data, a recipe and a run."""
    root = tmp_path_factory.mktemp("verbs")
    write_folders(root / "data", train=8)
    (root / "small.yaml").write_text(SMALL)
    write_folders(root / "size")
    Image.new("L", (96, 60)).save(root / "size" / "masks" / "val" / "101.png")
    write_folders(root / "five", train=1, val=1)
    (root / "five" / "classes.txt").write_text("a\nb\nc\nd\ne\n")
    assert api.train(root / "small.yaml", root / "data", root / "run").best > 50
    return root


def test_eval_tells_every_class(run: Run, trained: Path) -> None:
    best, page = trained / "run" / "best.safetensors", trained / "page.html"
    found = run("eval", "--checkpoint", best, "--data", trained / "data", "--json", "--examples", page).json
    assert found["task"] == "segmentation"
    assert [row["name"] for row in found["classes"]] == list(NAMES)
    assert found["images"] == 2
    history = [json.loads(line) for line in (trained / "run" / "metrics.jsonl").read_text().splitlines()]
    assert found["miou_percent"] == pytest.approx(history[-1]["miou_percent"])
    assert "100.png" in page.read_text()
    told = run("eval", "--checkpoint", best, "--data", trained / "data", "--split", "train")
    assert all(name in told.out for name in (*NAMES, "mIoU", "LR-ASPP on test_resnet"))


def test_predict_writes_mask_overlay_and_shares(run: Run, trained: Path) -> None:
    images, output = trained / "photographs", trained / "masks"
    images.mkdir()
    for number in (100, 101):
        Image.fromarray(scene(number)[0]).save(images / f"{number}.png")
    (images / "100a.jpg").write_bytes(b"no image")
    arguments = ("--checkpoint", trained / "run" / "best.safetensors", images, "nowhere.png", "--output", output)
    told = run("predict", *arguments, "--json", "--csv", trained / "a.csv")
    assert told.code == 2
    assert all(name in told.err for name in ("nowhere.png", "100a.jpg"))
    first, broken, _, missing = told.json
    assert all("error" in each for each in (broken, missing))
    assert sorted(each.name for each in output.iterdir()) == sorted(
        f"{number}{ending}" for number in (100, 101) for ending in (".png", "-overlay.jpg")
    )
    labels = read_mask(output / "100.png")
    assert labels.shape == (64, 96)
    shares = {name: float((labels == label).mean()) for label, name in enumerate(NAMES)}
    assert first["shares"] == {name: pytest.approx(share) for name, share in shares.items() if share}
    assert sum(first["shares"].values()) == pytest.approx(1)
    assert (labels == scene(100)[1]).mean() > 0.8
    drawn = Image.open(first["overlay"])
    assert drawn.width == 96
    assert drawn.height > 64  # the legend
    rows = list(csv.DictReader((trained / "a.csv").open()))
    assert {row["class_name"] for row in rows} <= {*NAMES, ""}


def test_predict_takes_other_sizes_and_never_overwrites_an_input(trained: Path) -> None:
    output = trained / "own"
    output.mkdir()
    Image.fromarray(scene(100, 80, 70)[0]).save(output / "a.png")
    before = (output / "a.png").read_bytes()
    (found,) = api.predict(trained / "run" / "best.safetensors", output / "a.png", output=output)
    assert (output / "a.png").read_bytes() == before
    assert Path(found.mask).name == "a-2.png"
    assert read_mask(Path(found.mask)).shape == (80, 70)
    (grey,) = api.predict(trained / "run" / "best.safetensors", np.full((40, 50), 9, np.uint8))
    assert (grey.width, grey.height, grey.error) == (50, 40, None)


@pytest.mark.slow
@pytest.mark.parametrize("form", ["onnx", "openvino", "ncnn"])
def test_an_export_is_verified_and_runs(run: Run, trained: Path, form: str) -> None:
    needs(form)
    best, output = trained / "run" / "best.safetensors", trained / form
    done = run("export", best, "--format", form, "--output", output, "--images", trained / "data" / "images")
    assert done.code == 0, done.err
    artifact = json.loads((output / "artifact.json").read_text())
    assert (artifact["task"], artifact["stride"], artifact["input"]) == ("segmentation", 8, [None, 3, None, None])
    assert "bilinear" in artifact["after"]
    for check in artifact["verification"]["checks"]:
        assert check["relative_difference"] < 1e-4
        assert check["agreement"] > 0.999
    pair = [api.evaluate(each, trained / "data").figures.miou for each in (best, output)]
    assert pair[0] == pytest.approx(pair[1], abs=0.1)
    image = next((trained / "data" / "images").rglob("*.png"))
    shares = [run("predict", "--checkpoint", each, image, "--json").json[0]["shares"] for each in (best, output)]
    assert shares[0] == pytest.approx(shares[1], abs=0.01)
    again = run("export", best, "--format", form, "--output", trained / "strict", "--tolerance", "0")
    assert again.code == 3
    assert not (trained / "strict").exists()


def test_profile_counts_head_and_backbone(run: Run, trained: Path) -> None:
    found = run("profile", trained / "run" / "best.safetensors", "--json").json
    assert found["size"] == [64, 96]
    assert [part["name"] for part in found["parts"]] == ["backbone", "head"]
    assert sum(part["macs"] for part in found["parts"]) == found["macs"]
    planned = run("profile", "test_resnet", "--head", "lraspp", "--output-stride", "8", "--num-classes", "3", "--json")
    assert planned.json["params"] == found["params"]
    whole = run("profile", "menet_108_8x1_g3", "--recipe", "camvid/lraspp", "--json").json
    assert (whole["size"], whole["title"]) == ([360, 480], "LR-ASPP on menet_108_8x1_g3")


def test_check_with_and_without_a_recipe(run: Run, trained: Path) -> None:
    clean = run("data", "check", trained / "data")
    assert clean.code == 0, clean.out
    assert "grass" in clean.out
    refused = run("data", "check", trained / "data", "--recipe", "camvid/lraspp")
    assert refused.code == 2
    assert len(refused.err.splitlines()) == 1
    several = run("data", "check", trained / "data", "--recipe", "camvid/lraspp", "--recipe", "small/ssd512")
    assert "segmentation, detection" in several.err


@pytest.mark.parametrize(
    ("arguments", "facts"),
    [
        (("eval", "--checkpoint", "BEST", "--data", "DATA", "--split", "test"), ("test", "train")),
        (("eval", "--checkpoint", "BEST", "--data", "SIZE"), ("val/101.png has 96 x 60 pixels", "96 x 64")),
        (("eval", "--checkpoint", "BEST", "--data", "FIVE"), ("a, b, c, d, e", "grass, ball, box")),
        (("predict", "--checkpoint", "BEST", "DATA", "--output", "RECIPE"), ("--output must be a folder",)),
        (("export", "BEST", "--format", "onnx", "--output", "X", "--size", "0x64"), ("HEIGHTxWIDTH", "'0x64'")),
        (("eval", "--checkpoint", "BEST", "--data", "DATA", "--metric", "coco"), ("--metric", "segmentation")),
        (("predict", "--checkpoint", "BEST", "DATA", "--score", "0.5"), ("--score", "segmentation")),
        (("export", "BEST", "--format", "onnx", "--output", "X", "--size", "a"), ("--size", "'a'")),
        (("profile", "BEST", "--head", "lraspp"), ("--head", "checkpoint")),
        (("train", "camvid/lraspp", "--data", "digits", "--output", "X"), ("digits",)),
        (("train", "cifar/muffnet", "--data", "DATA", "--output", "X"), ("images with masks", "segmentation")),
    ],
)
def test_bad_input_is_one_line(run: Run, trained: Path, arguments: tuple[str, ...], facts: tuple[str, ...]) -> None:
    places = {"BEST": trained / "run" / "best.safetensors", "RECIPE": trained / "small.yaml", "X": trained / "x"}
    places |= {name.upper(): trained / name for name in ("data", "size", "five")}
    told = run(*(places.get(each, each) for each in arguments))
    assert told.code == 2
    assert len(told.err.splitlines()) == 1, told.err
    assert all(fact in told.err for fact in facts), told.err
    assert not (trained / "x").exists()


def test_kernels_for_classifiers_are_refused(run: Run, trained: Path) -> None:
    settings = ("--set", "kernels=own", "--set", "channels_last=true", "--device", "cpu")
    told = run("train", trained / "small.yaml", "--data", trained / "data", "--output", trained / "x", *settings)
    assert told.code == 2
    assert "kernels: own" in told.err.splitlines()[-1]
    assert sum("error: " in line for line in told.err.splitlines()) == 1
    assert not (trained / "x").exists()


def test_options_of_training_are_refused(trained: Path) -> None:
    with pytest.raises(InputError, match="--qat.*segmentation"):
        api.train(trained / "small.yaml", trained / "data", trained / "x", qat=True)
