"""How well a classifier knows each class: the figures, the files, and the command."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from pyarrow import parquet
from torch import Tensor, nn

from compactnets.classification.checkpoint import CheckpointRecord
from compactnets.classification.evaluation import Evaluation
from compactnets.classification.examples import write_examples
from compactnets.classification.judging import (
    COLUMNS,
    Guesses,
    Mirrored,
    calibration_error,
    judge,
    judgement,
    write_guesses,
)
from compactnets.data import open_source
from compactnets.errors import InputError

NAMES = ["ant", "bee", "cow", "dog"]
# image of:               ant ant ant bee bee cow   (no dogs)
TARGETS = np.array([0, 0, 0, 1, 1, 2])
FOUND = np.array([0, 0, 1, 1, 3, 1])
PROBABILITY = np.array([0.9, 0.8, 0.6, 0.5, 0.7, 0.4])
OWN = np.array([0.9, 0.8, 0.3, 0.5, 0.2, 0.3])
GUESSES = Guesses(TARGETS, FOUND, PROBABILITY, OWN)
EVALUATION = Evaluation(6, 3, 6, 1.25, 2.0)
GREYS = {"x": 250, "y": 120, "z": 10}  # classes of the folder below: how bright their images are


class Brightness(nn.Module):
    """Outputs for z, y and x by the brightness of the image: -> (N, 3)."""

    def forward(self, images: Tensor) -> Tensor:
        level = images.mean((1, 2, 3), keepdim=True)[:, :, 0, 0]
        return -40 * (level - torch.tensor([[10.0, 120.0, 250.0]]) / 255) ** 2


def brightness_record() -> CheckpointRecord:
    preprocess = {"size": 8, "resize": None, "interpolation": "bilinear", "antialias": True, "mean": [0], "std": [1]}
    return CheckpointRecord(
        model="resnet20",
        arguments={},
        class_names=["z", "y", "x"],
        preprocess=preprocess,
        source="a test",
        license="none",
    )


@pytest.fixture
def greys(tmp_path: Path) -> Path:
    """A folder of images: two of each class, and one of class x as dark as those of class y."""
    for name, level in GREYS.items():
        folder = tmp_path / "greys" / "val" / name
        folder.mkdir(parents=True)
        for number in range(2):
            Image.new("L", (8, 8), level + number).save(folder / f"{number}.png")
    Image.new("L", (8, 8), 118).save(tmp_path / "greys" / "val" / "x" / "dark.png")
    return tmp_path / "greys"


def test_figures_of_each_class() -> None:
    result = judgement(EVALUATION, GUESSES, NAMES)
    rows = {row.class_name: row for row in result.classes}
    third = pytest.approx(100 / 3)
    assert (rows["ant"].recall, rows["ant"].precision, rows["ant"].f1) == (pytest.approx(200 / 3), 100, 80)
    assert (rows["bee"].recall, rows["bee"].precision, rows["bee"].f1) == (50, third, 40)
    assert (rows["cow"].recall, rows["cow"].precision, rows["cow"].f1) == (0, None, None)
    assert (rows["dog"].recall, rows["dog"].precision, rows["dog"].f1) == (None, 0, None)
    assert [(row.images, row.found, row.right) for row in result.classes] == [
        (3, 2, 2),
        (2, 3, 1),
        (1, 0, 0),
        (0, 1, 0),
    ]
    assert result.mean_recall == pytest.approx((200 / 3 + 50 + 0) / 3)
    assert result.confusions == (("ant", "bee", 1), ("bee", "dog", 1), ("cow", "bee", 1))
    assert result.top1 == 50
    assert result.confidence == pytest.approx(65)
    written = result.to_dict()
    assert written["classes"][2]["precision"] is None
    assert (written["top1_percent"], written["loss"]) == (50, 1.25)


def test_a_class_without_images_has_no_recall() -> None:
    result = judgement(EVALUATION, GUESSES, [*NAMES, "eel"])
    eel = result.classes[-1]
    assert (eel.class_name, eel.images, eel.recall, eel.precision, eel.f1) == ("eel", 0, None, None, None)
    assert result.mean_recall == judgement(EVALUATION, GUESSES, NAMES).mean_recall
    many = [*NAMES, *(f"unseen {index}" for index in range(20))]
    assert [row.class_name for row in judgement(EVALUATION, GUESSES, many).classes] == NAMES


def test_calibration_error_is_that_of_torchmetrics() -> None:
    library = pytest.importorskip("torchmetrics.functional.classification", reason="torchmetrics is not installed")
    generator = torch.Generator().manual_seed(3)
    probabilities = (3 * torch.randn(500, 7, generator=generator)).softmax(1)
    targets = torch.randint(7, (500,), generator=generator)
    highest, found = probabilities.max(1)
    expected = float(library.multiclass_calibration_error(probabilities, targets, num_classes=7, n_bins=15))
    given = calibration_error(highest.double().numpy(), (found == targets).numpy())
    assert given == pytest.approx(expected, abs=1e-6)


def test_a_sure_and_right_network_is_calibrated() -> None:
    assert calibration_error(np.ones(5), np.ones(5, bool)) == 0
    assert calibration_error(np.ones(5), np.zeros(5, bool)) == 1


@pytest.mark.parametrize("batch_size", [1, 3, 128])
def test_classes_are_matched_by_name(greys: Path, batch_size: int) -> None:
    source = open_source(str(greys), "val")
    result, guesses = judge(Brightness(), brightness_record(), source, batch_size=batch_size)
    assert (result.images, result.top1_correct) == (7, 6)
    assert [row.class_name for row in result.classes] == ["z", "y", "x"]
    assert {row.class_name: row.recall for row in result.classes} == {"z": 100, "y": 100, "x": pytest.approx(200 / 3)}
    assert result.confusions == (("x", "y", 1),)
    wrong = [source.name(index) for index in np.flatnonzero(~guesses.right)]
    assert [Path(name).name for name in wrong] == ["dark.png"]


def test_many_classes_show_the_worst(capsys: pytest.CaptureFixture[str]) -> None:
    names = [f"class {index}" for index in range(40)]
    targets = np.arange(40).repeat(2)
    found = targets.copy()
    found[2 * 33] = 5
    likely = np.full(80, 0.9)
    judgement(Evaluation(80, 79, 80, 0.1, 1.0), Guesses(targets, found, likely, likely), names).show("a network")
    text = capsys.readouterr().out
    assert "of 40" in text
    assert "class 33" in text.split("\n")[3]
    assert "class 33 as class 5 (1)" in text


@pytest.mark.parametrize("suffix", ["csv", "parquet"])
def test_predictions_have_a_row_for_each_image(greys: Path, tmp_path: Path, suffix: str) -> None:
    source = open_source(str(greys), "val")
    record = brightness_record()
    _, guesses = judge(Brightness(), record, source)
    path = tmp_path / "new folder" / f"guesses.{suffix}"
    write_guesses(path, source, guesses, record.class_names)
    if suffix == "csv":
        with path.open(newline="") as file:
            rows = list(csv.DictReader(file))
    else:
        rows = [{key: str(value) for key, value in row.items()} for row in parquet.read_table(path).to_pylist()]
    assert tuple(rows[0]) == COLUMNS
    assert [row["image"] for row in rows] == [source.name(index) for index in range(7)]
    dark = next(row for row in rows if row["image"].endswith("dark.png"))
    assert (dark["class_name"], dark["found"], dark["right"]) == ("x", "y", "False")
    assert 0 <= float(dark["class_probability"]) < float(dark["probability"]) <= 1


def test_the_page_begins_with_the_worst_mistake(greys: Path, tmp_path: Path) -> None:
    source = open_source(str(greys), "val")
    record = brightness_record()
    result, guesses = judge(Brightness(), record, source)
    page = tmp_path / "page.html"
    write_examples(page, source, result, guesses, ["<z>", "y & y", "x"], "a title")
    text = page.read_text()
    assert text.index("dark.png") < text.index("Best")
    assert "found as y &amp; y" in text
    assert "<z>" not in text
    assert "http" not in text.replace("http-equiv", "")


def test_another_suffix_is_refused(greys: Path, tmp_path: Path) -> None:
    source = open_source(str(greys), "val")
    with pytest.raises(InputError, match=r"\.csv or \.parquet, found .*table\.tsv"):
        write_guesses(tmp_path / "table.tsv", source, GUESSES, NAMES)
    assert not (tmp_path / "table.tsv").exists()


class LeftHalf(nn.Module):
    """Three logits that the left half of an image gives, so that the mirror image has others."""

    def forward(self, x: Tensor) -> Tensor:
        left = x[..., : x.shape[-1] // 2].mean((1, 2, 3))
        return torch.stack([left, -left, left * left], 1)


def test_the_mirror_image_counts_as_much() -> None:
    images = torch.rand(5, 3, 4, 6, generator=torch.Generator().manual_seed(2))
    network = LeftHalf()
    found = Mirrored(network)(images).softmax(1)
    expected = (network(images).softmax(1) + network(images.flip(-1)).softmax(1)) / 2
    torch.testing.assert_close(found, expected)
    assert not torch.allclose(found, network(images).softmax(1))
    torch.testing.assert_close(found, Mirrored(network)(images.flip(-1)).softmax(1))


def test_the_result_says_that_mirror_images_were_used(greys: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source = open_source(str(greys), "val")
    plain, _ = judge(Brightness(), brightness_record(), source)
    mirrored, _ = judge(Brightness(), brightness_record(), source, tta="flip")
    assert (plain.to_dict()["tta"], mirrored.to_dict()["tta"]) == (None, "flip")
    assert mirrored.top1_correct == plain.top1_correct  # its guesses do not depend on left and right
    assert mirrored.loss == pytest.approx(plain.loss, rel=1e-5)
    mirrored.show("a network")
    assert "a network, mean of each image and its mirror image: top-1" in capsys.readouterr().out
