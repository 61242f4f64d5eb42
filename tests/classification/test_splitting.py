"""A folder without train and val: trained on a part, evaluated on the rest, also where a class has a single image."""

from __future__ import annotations

from pathlib import Path

import pytest

import compactnets
from compactnets import InputError
from compactnets.classification.judging import Judgement
from tests.data.helpers import write_classes
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
