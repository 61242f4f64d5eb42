"""A folder without train and val: trained on a part, evaluated on the rest, also where a class has a single image."""

from __future__ import annotations

from pathlib import Path

import pytest

import compactnets
from compactnets import InputError
from compactnets.classification.grid import Member, Place, train_grid
from compactnets.classification.judging import Judgement
from compactnets.classification.quantization import ClassifierQuantization
from compactnets.data import ImageSource
from compactnets.data.dividing import open_parts
from tests.data.helpers import write_classes
from tests.deploy.helpers import opened
from tests.training.helpers import make_tiny_recipe


def test_a_run_on_a_part_and_its_evaluation(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = write_classes(tmp_path / "photos", ant=10, bee=1, wasp=20)
    with pytest.raises(InputError, match=r"no train split.*--split 0\.8, or write both with compactnets data split"):
        compactnets.train(make_tiny_recipe(), root, tmp_path / "run")
    recipe = make_tiny_recipe(batch_size=8, split=0.75)
    compactnets.train(recipe, root, tmp_path / "run")
    told = capsys.readouterr().err
    assert f"split: {root}: 24 images to train on, 7 to evaluate on (0.75 of a class)" in told
    assert "no image to evaluate on for bee" in told
    checkpoint = tmp_path / "run" / "best.safetensors"
    figures = compactnets.evaluate(checkpoint, root, split="0.75").figures
    assert isinstance(figures, Judgement)
    assert figures.images == 7
    rows = {row.class_name: row for row in figures.classes}
    assert [rows[name].images for name in ("ant", "bee", "wasp")] == [2, 0, 5]
    assert rows["bee"].recall is None
    assert rows["bee"].f1 is None
    known = [row.recall for row in figures.classes if row.recall is not None]
    assert len(known) == 2
    assert figures.mean_recall == pytest.approx(sum(known) / 2)
    figures.show("a title")
    line = next(line for line in capsys.readouterr().out.splitlines() if line.strip().startswith("bee"))
    assert line.split()[1:3] == ["0", "-"]
    assert compactnets.evaluate(checkpoint, root).figures.images == 31  # type: ignore[attr-defined]
    assert "has images that this network was trained on: --split 0.75 leaves them out" in capsys.readouterr().err
    report = compactnets.check(root, split="0.75")
    assert {split: summary.images for split, summary in report.splits.items()} == {"train": 24, "val": 7}  # type: ignore[attr-defined]
    with pytest.raises(InputError, match=r"--split must be train, val or a share such as 0\.8"):
        compactnets.evaluate(checkpoint, root, split="test")
    held = make_tiny_recipe(batch_size=8, split=0.75, hold_out=6)
    compactnets.train(held, root, tmp_path / "held")
    assert "evaluations are on 6 training images" in capsys.readouterr().err


def test_a_grid_on_a_part(tmp_path: Path) -> None:
    root = write_classes(tmp_path / "photos", ant=10, wasp=20)
    with pytest.raises(InputError, match="no train split"):
        train_grid([Member("a", make_tiny_recipe(batch_size=8))], str(root), tmp_path / "runs", Place("cpu"))
    (outcome,) = train_grid(
        [Member("a", make_tiny_recipe(batch_size=8, split=0.75))], str(root), tmp_path / "runs", Place("cpu")
    )
    assert outcome.error is None


def test_int8_is_calibrated_on_the_images_trained_on_and_compared_on_the_rest(tmp_path: Path) -> None:
    root = write_classes(tmp_path / "photos", ant=10, wasp=20)
    model, record = opened("shufflenet_g3_x0_25", {"num_classes": 2})
    record = record.model_copy(update={"class_names": ["ant", "wasp"]})
    train, val = (set(_files(part)) for part in open_parts(str(root), 0.75))
    for training, calibrated, compared in (
        ({}, 8, 22),  # all but those calibrated on
        ({"data": str(root), "recipe": {"split": 0.75}}, 8, len(val)),
        ({"data": "other", "recipe": {"split": 0.75}}, 8, 22),
    ):
        task = ClassifierQuantization(model, record.model_copy(update={"training": training}))
        task.take(str(root), str(root), 8)
        images, rest = set(_files(task.images)), set(_files(task.rest))
        assert (len(images), len(rest), images & rest) == (calibrated, compared, set())
        if compared == len(val):
            assert rest == val
            assert images <= train


def _files(source: ImageSource) -> list[bytes]:
    return [source.encoded(index) or b"" for index in range(len(source))]
