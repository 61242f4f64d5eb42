"""``on_error`` decides over every image that is looked at, also over those that are looked at before training."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from compactnets import InputError
from compactnets.classification.preparation import prepare
from compactnets.classification.recipe import ClassificationRecipe
from compactnets.classification.setup import ClassificationSetup
from compactnets.classification.task import TASK
from compactnets.data import open_source
from compactnets.data.base import readable
from compactnets.deploy.int8.steps import calibration_part, read_pixels
from compactnets.deploy.subject import NUM_IMAGES, load_pictures
from compactnets.training.distributed import World

from ..data.helpers import noise
from ..data.listed import noisy

COUNT = 6


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:60])


def make_float(path: Path) -> None:
    Image.fromarray(np.ones((16, 16), dtype=np.float32)).save(path, "TIFF")


def dangle(path: Path) -> None:
    path.unlink()
    path.symlink_to("nowhere.png")


WAYS = {
    "truncated": truncate,
    "empty": lambda path: path.write_bytes(b""),
    "text": lambda path: path.write_text("not an image"),
    "floating-point": make_float,
    "missing": dangle,
}


def write(root: Path, side: int) -> Path:
    for split in ("train", "val"):
        (root / split / "a").mkdir(parents=True)
        for number in range(COUNT):
            noise(side, side, seed=number).save(root / split / "a" / f"{number}.png")
    return root


def read_an_epoch(recipe: ClassificationRecipe, root: Path) -> tuple[int, int]:
    """Do what a run does before and while it reads an epoch; return images and how many were replaced."""
    sources = open_source(str(root), "train"), open_source(str(root), "val")
    task = ClassificationSetup(recipe, *sources, None, World(), prepare)
    loader = task.make_loader(World())
    images = sum(len(batch.labels) for batch in loader.epoch(0))
    loader.close()
    return images, loader.skipped


@pytest.mark.parametrize("side", [16, 80])
def test_a_file_that_is_met_in_every_epoch_is_one_file(
    side: int, tmp_path: Path, tiny_recipe: Callable[..., ClassificationRecipe], capsys: pytest.CaptureFixture[str]
) -> None:
    root = write(tmp_path / "data", side)
    truncate(root / "train" / "a" / "2.png")
    preprocess = {"size": 16, "resize": 16} if side > 64 else None
    recipe = tiny_recipe(batch_size=COUNT, epochs=3, preprocess=preprocess, on_error="skip")

    def start() -> str:
        TASK.train(recipe, open_source(str(root), "train"), open_source(str(root), "val"), tmp_path / "run")
        return capsys.readouterr().err

    for told in (start(), start()):  # the second time, the run is finished
        (line,) = [line for line in told.splitlines() if "could not be read" in line]
        assert "1 training image " in line
        assert "3 times" in line


@pytest.mark.parametrize("side", [16, 80])  # in memory, and decoded as needed
@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("index", [0, 3, COUNT - 1])
def test_skip_holds_wherever_the_image_is(
    side: int, way: str, index: int, tmp_path: Path, tiny_recipe: Callable[..., ClassificationRecipe]
) -> None:
    root = write(tmp_path / "data", side)
    broken = root / "train" / "a" / f"{index}.png"
    WAYS[way](broken)
    settings = {"batch_size": COUNT, "workers": 0, "preprocess": {"size": 16, "resize": 16} if side > 64 else None}
    assert read_an_epoch(tiny_recipe(**settings, on_error="skip", max_skipped=1), root) == (COUNT, 1)
    with pytest.raises(InputError, match=rf"{broken.name}") as caught:
        read_an_epoch(tiny_recipe(**settings), root)
    assert "\n" not in str(caught.value)
    if index == 0:
        broken.with_name("1.png").write_bytes(b"")
        with pytest.raises(InputError, match="more than max_skipped = 1"):
            read_an_epoch(tiny_recipe(**settings, on_error="skip", max_skipped=1), root)


def test_the_preprocessing_is_that_of_the_readable_images(tmp_path: Path) -> None:
    root = write(tmp_path / "data", 16)
    chosen = open_source(str(root), "train").default_preprocess
    for index in (0, 1, COUNT - 1):
        truncate(root / "train" / "a" / f"{index}.png")
    source = open_source(str(root), "train")
    assert source.readable_preprocess == chosen
    with pytest.raises(InputError, match=r"0\.png"):
        _ = source.default_preprocess


def test_each_image_is_tried_once() -> None:
    source = noisy(6, broken=(0, 1, 5))
    assert list(readable(source, [0, 2, 5])) == [2, 3, 4]
    assert list(readable(source, range(6))) == [2, 3, 4]
    assert list(readable(noisy(2, broken=(0, 1)), range(2))) == []


def test_calibration_images() -> None:
    source = noisy(8, 16, 16, broken=(0, 3))
    preprocess = source.readable_preprocess
    part = calibration_part(source, 4, preprocess)
    assert [part.name(index) for index in range(4)] == [f"image-{index}.png" for index in (1, 2, 4, 7)]
    assert read_pixels(part, preprocess).shape == (4, 3, 16, 16)
    with pytest.raises(InputError, match="image-0"):
        read_pixels(calibration_part(source, 4), preprocess)
    with pytest.raises(InputError, match="none of its 2 training images can be read"):
        calibration_part(noisy(2, broken=(0, 1)), 2, preprocess)


def test_pictures_of_a_verification(tmp_path: Path) -> None:
    root = write(tmp_path / "data", 16)
    truncate(root / "val" / "a" / "0.png")
    pictures, _ = load_pictures(str(root))
    assert len(pictures) == NUM_IMAGES
    for number in range(COUNT):
        (root / "val" / "a" / f"{number}.png").write_bytes(b"")
    with pytest.raises(InputError, match="none of its 6 validation images can be read"):
        load_pictures(str(root))
