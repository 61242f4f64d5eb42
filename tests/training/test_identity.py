"""A run goes on with the images and the checkpoint that it began with, wherever they lie now, and with no others."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from compactnets import InputError
from compactnets.classification.recipe import ClassificationRecipe
from compactnets.classification.task import TASK
from compactnets.data import open_source
from compactnets.training.setup import TrainingSetup
from compactnets.training.state import FOLDER, FORMAT, WITHOUT_CONTENT, load_state

from ..data.helpers import noise

Described = dict[str, Any]


def write_images(root: Path, first: int) -> Path:
    """Write four training and two validation images of 16 x 16 pixels; the seeds begin with ``first``."""
    seed = first
    for split, count in (("train", 2), ("val", 1)):
        for name in "ab":
            (root / split / name).mkdir(parents=True, exist_ok=True)
            for number in range(count):
                noise(16, 16, seed=seed).save(root / split / name / f"{number}.png")
                seed += 1
    return root


def describe(root: Path, init: Path | None = None) -> Described:
    train, val = open_source(str(root), "train"), open_source(str(root), "val")
    return TrainingSetup.describe(SimpleNamespace(train_source=train, val_source=val, init=init))  # type: ignore[arg-type]


def differences(one: Described, other: Described) -> set[str]:
    return {key for key in one | other if one.get(key) != other.get(key)}


def test_a_run_does_not_go_on_with_other_images(
    tmp_path: Path, tiny_recipe: Callable[..., ClassificationRecipe]
) -> None:
    root, run = write_images(tmp_path / "data", 0), tmp_path / "run"
    recipe = tiny_recipe(batch_size=4)

    def start(folder: Path) -> None:
        TASK.train(recipe, open_source(str(folder), "train"), open_source(str(folder), "val"), run)

    start(root)
    moved = shutil.copytree(root, tmp_path / "moved", copy_function=shutil.copy)  # other times
    start(moved)
    write_images(root, 100)
    with pytest.raises(InputError, match="holds another run: content of the training images was") as caught:
        start(root)
    assert "\n" not in str(caught.value)
    write_images(root, 0)


def test_a_run_goes_on_with_corrected_validation_data(
    tmp_path: Path, tiny_recipe: Callable[..., ClassificationRecipe], capsys: pytest.CaptureFixture[str]
) -> None:
    """They decide nothing that is learned; with other training images as well, the run is another."""
    root, run = write_images(tmp_path / "data", 0), tmp_path / "run"

    def start(**changes: Any) -> None:
        recipe = tiny_recipe(batch_size=4, **changes)
        TASK.train(recipe, open_source(str(root), "train"), open_source(str(root), "val"), run)

    start()
    assert "validation data changed" not in capsys.readouterr().err
    (root / "val" / "a" / "0.png").write_bytes((root / "val" / "b" / "0.png").read_bytes())
    start()
    told = [line for line in capsys.readouterr().err.splitlines() if "validation data changed" in line]
    assert len(told) == 1
    assert str(run) in told[0]
    with pytest.raises(InputError, match="holds another run: lr was"):
        start(lr=0.07)
    other = write_images(tmp_path / "other", 50)
    shutil.copy(other / "train" / "a" / "0.png", root / "train" / "a" / "0.png")
    with pytest.raises(InputError, match="content of the training images was") as caught:
        start()
    assert "\n" not in str(caught.value)


def test_init_is_what_it_holds(tmp_path: Path, tiny_checkpoint: Callable[..., Path]) -> None:
    root = write_images(tmp_path / "data", 0)
    checkpoint = tiny_checkpoint()
    before = describe(root, checkpoint)
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    for ending in (".safetensors", ".json"):
        shutil.copy(checkpoint.with_suffix(ending), elsewhere / f"renamed{ending}")
    relative = tmp_path / "data" / ".." / checkpoint.name
    for same in (relative, elsewhere / "renamed.safetensors"):
        assert describe(root, same) == before
    tiny_checkpoint()  # of other weights, under the same name
    assert differences(describe(root, checkpoint), before) == {"--init"}
    assert differences(describe(root), before) == {"--init"}
    other = tiny_checkpoint(class_names=["owl", "cat", "dog"])  # the record decides what becomes of the classifier
    assert differences(describe(root, other), before) == {"--init"}


@pytest.mark.parametrize("init", [None, "some/where.safetensors"])
def test_a_run_of_the_version_before_goes_on(
    init: str | None, tmp_path: Path, tiny_checkpoint: Callable[..., Path], capsys: pytest.CaptureFixture[str]
) -> None:
    root = write_images(tmp_path / "data", 0)
    now = describe(root, tiny_checkpoint() if init else None)
    older = {key: now[key] for key in ("training data", "validation data")} | {"--init": init}
    (tmp_path / FOLDER).mkdir()

    def save(number: int, described: Described) -> None:
        document = {"format": number, "run": described, "progress": {"step": 7}, "learner": {}}
        torch.save(document, tmp_path / FOLDER / "step-000000007.pt")

    save(WITHOUT_CONTENT, older)
    found = load_state(tmp_path, now)
    assert found is not None
    assert found[0].step == 7
    (told,) = capsys.readouterr().err.splitlines()
    assert "did not compare images" in told
    for changed in ({"training data": "5 images, 123456789abc"}, {"--init": None if init else "some/where"}):
        save(WITHOUT_CONTENT, older | changed)
        with pytest.raises(InputError, match=f"holds another run: {next(iter(changed))} was"):
            load_state(tmp_path, now)
    save(FORMAT, older)
    with pytest.raises(InputError, match="holds another run"):
        load_state(tmp_path, now)
