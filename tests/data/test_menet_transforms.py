"""The MENet repository's transforms, by its names."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from compactnets.classification.recipe import ClassificationRecipe
from compactnets.data import Augment
from compactnets.data.menet_transforms import MENET_TRANSFORMS, menet_transform
from compactnets.data.order import Draws
from compactnets.data.presets import IMAGENET
from compactnets.data.transform import TrainTransform
from compactnets.errors import InputError
from compactnets.training.recipe_files import load_recipe

# its list, in pyvision/dataloaders/ImageNet.py
NAMES = (
    "more_aggressive",
    "more_aggressive_with_color_jitter",
    "aggressive",
    "aggressive_with_color_jitter",
    "less_aggressive",
    "less_aggressive_with_color_jitter",
    "conservative",
    "conservative_with_color_jitter",
)
SMALLEST = {"more": 0.08, "aggressive": 0.36, "less": 0.64}


def test_they_are_the_repositorys() -> None:
    assert set(MENET_TRANSFORMS) == set(NAMES)


@pytest.mark.parametrize("name", NAMES)
def test_a_name_stands_for_its_fields(name: str, tmp_path: Path) -> None:
    """In a file and on the command line."""
    expected = Augment.model_validate(menet_transform(name))
    (tmp_path / "recipe.yaml").write_text(f"model: menet_108_8x1_g3\nepochs: 1\naugment: {name}\n")
    assert load_recipe(ClassificationRecipe, str(tmp_path / "recipe.yaml")).augment == expected
    assert load_recipe(ClassificationRecipe, "imagenet/menet", [f"augment={name}"]).augment == expected
    assert expected.flip
    jitter = 0.1 if name.endswith("_with_color_jitter") else 0
    assert (expected.color_jitter, expected.hue) == (jitter, jitter)


def test_the_papers_recipe_has_the_examples_transform() -> None:
    assert load_recipe(ClassificationRecipe, "imagenet/menet").augment == Augment.model_validate(
        menet_transform("aggressive")
    )


@pytest.mark.parametrize("name", [name for name in NAMES if not name.startswith("conservative")])
def test_crops_reach_down_to_the_named_area(name: str) -> None:
    transform = TrainTransform(Augment.model_validate(menet_transform(name)), IMAGENET)
    boxes = [transform.area(Draws.of(0, 0, index), 500, 400) for index in range(3_000)]
    shares = np.array([box.width * box.height for box in boxes]) / (500 * 400)
    smallest = SMALLEST[name.split("_")[0]]
    # an area whose shape does not fit is drawn again, hence few near the largest
    assert smallest - 0.005 < shares.min() < smallest + 0.02
    assert shares.max() > 0.9


def test_conservative_crops_anywhere_from_the_resized_image() -> None:
    """Every pixel of the picture says where it is: red its column, green its row."""
    grid = np.zeros((256, 256, 3), np.uint8)
    grid[..., 0], grid[..., 1] = np.arange(256)[None], np.arange(256)[:, None]
    transform = TrainTransform(Augment.model_validate(menet_transform("conservative")), IMAGENET)
    std, mean = torch.tensor(IMAGENET.std)[:, None, None], torch.tensor(IMAGENET.mean)[:, None, None]
    torch.manual_seed(0)
    corners, mirrored = set(), 0
    for _ in range(200):
        pixels = ((transform(Image.fromarray(grid)) * std + mean) * 255).round().int()
        assert pixels.shape == (3, 224, 224)
        red, green = pixels[0, 0], pixels[1, :, 0]
        mirrored += int(red[0] > red[-1])
        red = red.flip(0) if red[0] > red[-1] else red
        assert torch.equal(red, torch.arange(224) + red[0])
        assert torch.equal(green, torch.arange(224) + green[0])
        corners.add((int(red[0]), int(green[0])))
    assert 70 < mirrored < 130
    assert {0, 32} <= {column for column, _ in corners} | {row for _, row in corners}
    assert len(corners) > 150  # of 33 x 33


def test_colour_jitter_changes_the_colours_within_its_range() -> None:
    image = Image.new("RGB", (300, 300), (150, 100, 50))
    plain = TrainTransform(Augment.model_validate(menet_transform("conservative")), IMAGENET)
    jittered = TrainTransform(Augment.model_validate(menet_transform("conservative_with_color_jitter")), IMAGENET)
    torch.manual_seed(0)
    reference = plain(image)
    assert all(torch.equal(plain(image), reference) for _ in range(5))
    std = torch.tensor(IMAGENET.std)[:, None, None]
    changes = torch.stack([((jittered(image) - reference) * std)[:, 0, 0] * 255 for _ in range(100)])
    assert changes.abs().max(0).values.min() > 3  # every channel moves
    # the largest: green by a tenth of brightness, contrast and saturation and a tenth of the colour circle
    assert changes.abs().max() < 90


def test_an_unknown_name_gets_the_nearest() -> None:
    with pytest.raises(InputError, match="no transform is called 'agressive'; did you mean 'aggressive'"):
        load_recipe(ClassificationRecipe, "imagenet/menet", ["augment=agressive"])
