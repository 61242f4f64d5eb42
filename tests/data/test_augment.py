"""The training transform: what it may return, its errors and its warnings."""

from __future__ import annotations

import itertools
import math
import pickle
import warnings

import numpy as np
import pytest
import torch
from PIL import Image
from pydantic import ValidationError
from torchvision.transforms import v2
from torchvision.transforms.v2 import functional

from compactnets.data import Augment, Preprocess
from compactnets.data.order import Draws
from compactnets.data.presets import CIFAR10, IMAGENET
from compactnets.data.transform import BRIGHTNESS, CONTRAST, HUE, SATURATION, TrainTransform
from compactnets.errors import InputError

from .helpers import noise

PLAIN = Preprocess(size=12, resize=None, mean=(0.0,) * 3, std=(1.0,) * 3)
GREY = Preprocess(size=16, resize=None, mean=(0.0,), std=(1.0,))
SETTINGS = [
    Augment(crop="pad", flip=True),
    Augment(crop="resized", flip=True, color_jitter=0.4),
    Augment(rotation=10, translate=0.1),
    Augment(crop="pad", pad=2, color_jitter=0.1, rotation=5),
    Augment(crop="resized", hue=0.2, cutout=7),
]


def levels(result: np.ndarray) -> np.ndarray:
    """Return the 8-bit levels of a result that was normalised with mean 0 and std 1."""
    return np.rint(result * 255).astype(np.uint8)


def draws(augment: Augment, preprocess: Preprocess, image: Image.Image, count: int) -> list[np.ndarray]:
    torch.manual_seed(0)
    transform = TrainTransform(augment, preprocess)
    return [transform(image).numpy() for _ in range(count)]


@pytest.mark.parametrize("preprocess", [CIFAR10, IMAGENET, GREY])
@pytest.mark.parametrize("mode", ["L", "RGB", "RGBA"])
def test_the_defaults_are_the_evaluation(preprocess: Preprocess, mode: str) -> None:
    image = noise(70, 50, mode)
    assert torch.equal(TrainTransform(Augment(), preprocess)(image), preprocess(image))


@pytest.mark.filterwarnings("ignore:augment. hue has no effect on grey")
@pytest.mark.parametrize("augment", SETTINGS)
@pytest.mark.parametrize("preprocess", [CIFAR10, GREY, IMAGENET])
@pytest.mark.parametrize("antialias", [True, False])
def test_shape_and_reproducible(augment: Augment, preprocess: Preprocess, antialias: bool) -> None:
    preprocess = Preprocess.from_dict({**preprocess.to_dict(), "antialias": antialias})
    image = noise(40, 36)
    first, second = draws(augment, preprocess, image, 2)
    assert first.shape == (preprocess.channels, preprocess.size, preprocess.size)
    assert first.dtype == np.float32
    assert not np.array_equal(first, second)
    again = draws(augment, preprocess, image, 2)
    np.testing.assert_array_equal(again, [first, second])


@pytest.mark.parametrize("augment", SETTINGS)
def test_pickles_for_spawned_workers(augment: Augment) -> None:
    image = noise(32, 32)
    transform = TrainTransform(augment, CIFAR10)
    torch.manual_seed(3)
    expected = transform(image)
    torch.manual_seed(3)
    assert torch.equal(pickle.loads(pickle.dumps(transform))(image), expected)


def test_pad_crops_are_windows_of_the_padded_image() -> None:
    """Every result is one of the 5 x 5 windows or its mirror image, and all 50 occur."""
    image = noise(12, 12)
    padded = np.pad(np.asarray(image).transpose(2, 0, 1), ((0, 0), (2, 2), (2, 2)))
    windows = [padded[:, top : top + 12, left : left + 12] for top in range(5) for left in range(5)]
    windows += [window[:, :, ::-1] for window in windows]
    seen = set()
    for result in draws(Augment(crop="pad", pad=2, flip=True), PLAIN, image, 600):
        matches = [number for number, window in enumerate(windows) if np.array_equal(window, levels(result))]
        assert len(matches) == 1
        seen.add(matches[0])
    assert seen == set(range(50))


def test_pad_zero_is_a_random_crop_of_the_resized_image() -> None:
    """The MENet repository's "conservative" transform: shorter edge 256, random crop 224."""
    preprocess = Preprocess(size=12, resize=16, mean=(0.0,) * 3, std=(1.0,) * 3)
    image = noise(40, 32)
    resized = np.asarray(image.resize((20, 16), Image.Resampling.BILINEAR)).transpose(2, 0, 1)
    windows = [resized[:, top : top + 12, left : left + 12] for top in range(5) for left in range(9)]
    results = draws(Augment(crop="pad", pad=0), preprocess, image, 100)
    found = [[np.array_equal(window, levels(result)) for window in windows].index(True) for result in results]
    assert len(set(found)) > 20


def test_resized_crop_of_the_whole_is_a_resize() -> None:
    image = noise(30, 30)
    (result,) = draws(Augment(crop="resized", scale=(1, 1), ratio=(1, 1)), PLAIN, image, 1)
    expected = np.asarray(image.resize((12, 12), Image.Resampling.BILINEAR)).transpose(2, 0, 1)
    np.testing.assert_array_equal(levels(result), expected)


@pytest.mark.parametrize(("scale", "smallest", "largest"), [((0.08, 0.1), 0.07, 0.11), ((0.64, 1.0), 0.6, 1.0)])
def test_resized_crop_takes_the_stated_area(scale: tuple[float, float], smallest: float, largest: float) -> None:
    ramp = np.add.outer(1000 * np.arange(120), np.arange(120))  # every pixel tells its row and column
    columns = Image.fromarray((ramp % 1000 * 2).astype(np.uint8))
    rows = Image.fromarray((ramp // 1000 * 2).astype(np.uint8))
    preprocess = Preprocess(size=60, resize=None, mean=(0.0,), std=(1.0,))
    augment = Augment(crop="resized", scale=scale, ratio=(1.0, 1.0))
    extents = []
    for image in (columns, rows):
        results = draws(augment, preprocess, image, 40)
        extents.append([(result.max() - result.min()) * 255 / 2 / 119 for result in results])
    areas = np.prod(extents, axis=0)
    assert smallest <= areas.min() <= areas.max() <= largest


def test_flip_is_a_fair_coin() -> None:
    image = noise(12, 12)
    still = np.asarray(image).transpose(2, 0, 1)
    mirrored = [
        np.array_equal(levels(result), still[:, :, ::-1]) for result in draws(Augment(flip=True), PLAIN, image, 400)
    ]
    assert 150 < sum(mirrored) < 250


def test_translation_moves_the_picture() -> None:
    image = Image.new("L", (16, 16))
    image.putpixel((8, 8), 255)
    places = {
        tuple(np.argwhere(result[0] > 0.5)[0] - 8) for result in draws(Augment(translate=0.125), GREY, image, 200)
    }
    assert places == {(dy, dx) for dy in range(-2, 3) for dx in range(-2, 3)}


def test_rotation_turns_within_the_angle() -> None:
    image = Image.new("L", (16, 16))
    for column in range(16):
        image.putpixel((column, 8), 255)
    angles = []
    for result in draws(Augment(rotation=20), GREY, image, 60):
        ys, xs = np.nonzero(result[0] > 0.3)
        angles.append(np.degrees(np.arctan(np.polyfit(xs, ys, 1)[0])))
    assert 12 < max(angles) < 23
    assert -23 < min(angles) < -12


def test_color_jitter_changes_colours_within_bounds() -> None:
    image = Image.new("RGB", (12, 12), (100, 100, 100))
    means = [result.mean() * 255 for result in draws(Augment(color_jitter=0.2), PLAIN, image, 50)]
    assert 78 <= min(means) < 90
    assert 110 < max(means) <= 122


def test_resized_crops_are_distributed_as_torchvision_s() -> None:
    """Two-sample Kolmogorov-Smirnov test of place and size, at the level of 0.1 %."""
    count = 3000
    transform = TrainTransform(Augment(crop="resized"), IMAGENET)
    peer = v2.RandomResizedCrop(224)
    torch.manual_seed(0)
    theirs = [peer.make_params([torch.empty(3, 375, 500)]) for _ in range(count)]
    ours = [transform.area(Draws.of(0, 0, index), 500, 375) for index in range(count)]
    for name in ("left", "top", "width", "height"):
        values = np.sort([getattr(box, name) for box in ours]), np.sort([params[name] for params in theirs])
        places = np.concatenate(values)
        below = [np.searchsorted(each, places, side="right") / count for each in values]
        assert np.abs(below[0] - below[1]).max() < 1.95 * math.sqrt(2 / count), name


@pytest.mark.parametrize(("width", "height"), [(1000, 9), (9, 1000)])
def test_a_shape_without_a_random_crop_gets_torchvision_s(width: int, height: int) -> None:
    """No area of an allowed shape fits: the largest in the middle."""
    augment = Augment(crop="resized", scale=(0.9, 1.0))
    params = v2.RandomResizedCrop(224, scale=augment.scale).make_params([torch.empty(3, height, width)])
    box = TrainTransform(augment, IMAGENET).area(Draws.of(0, 0, 0), width, height)
    assert box._asdict() == params


def test_colours_change_in_any_order() -> None:
    """Every result is that of one of the 24 orders, and all occur."""
    image = noise(4, 4)
    transform = TrainTransform(
        Augment(color_jitter=0.4, hue=0.1), Preprocess(size=4, resize=None, mean=(0.0,) * 3, std=(1.0,) * 3)
    )
    seen = set()
    for index in range(150):
        draws = Draws.of(0, 0, index)
        steps = [
            (functional.adjust_brightness, draws.uniform(BRIGHTNESS, 0.6, 1.4)),
            (functional.adjust_contrast, draws.uniform(CONTRAST, 0.6, 1.4)),
            (functional.adjust_saturation, draws.uniform(SATURATION, 0.6, 1.4)),
            (functional.adjust_hue, draws.uniform(HUE, -0.1, 0.1)),
        ]
        found = transform.pixels(image, draws).numpy()
        matches = []
        for order in itertools.permutations(range(4)):
            changed = image
            for step in order:
                changed = steps[step][0](changed, steps[step][1])
            if np.array_equal(np.asarray(changed), found):
                matches.append(order)
        assert matches
        if len(matches) == 1:
            seen.add(matches[0])
    assert len(seen) > 18


def test_hue_turns_the_colours() -> None:
    red = Image.new("RGB", (12, 12), (200, 20, 20))
    results = [np.rint(result[:, 0, 0] * 255) for result in draws(Augment(hue=0.5), PLAIN, red, 100)]
    assert {int(result.argmax()) for result in results} == {0, 1, 2}
    assert all(abs(result.max() - 200) <= 2 for result in results)
    with pytest.warns(UserWarning, match="hue has no effect on grey"):
        TrainTransform(Augment(hue=0.1), GREY)


def test_cutout_is_the_mean() -> None:
    """What is cut out is zero after normalisation, and nothing else is; of the whole square a part at the border."""
    preprocess = Preprocess(size=12, resize=None, mean=(0.301, 0.502, 0.703), std=(0.2, 0.3, 0.4))
    counts = set()
    for result in draws(Augment(cutout=6), preprocess, noise(12, 12), 300):
        cut = result == 0
        np.testing.assert_array_equal(cut[0], cut[1])
        rows, columns = np.nonzero(cut[0])
        assert cut[0][rows.min() : rows.max() + 1, columns.min() : columns.max() + 1].all()
        counts.add((np.ptp(rows) + 1, np.ptp(columns) + 1))
    assert {height for height, _ in counts} == {width for _, width in counts} == {3, 4, 5, 6}


def test_a_change_leaves_the_others_as_they_were() -> None:
    """Each has random numbers of its own: with cutout on, the crops and flips are those without."""
    image = noise(12, 12)
    plain = TrainTransform(Augment(crop="pad", flip=True), PLAIN)
    more = TrainTransform(Augment(crop="pad", flip=True, cutout=4), PLAIN)
    for index in range(20):
        numbers = Draws.of(0, 0, index)
        assert torch.equal(plain.pixels(image, numbers), more.pixels(image, numbers))


@pytest.mark.parametrize(
    ("fields", "named"),
    [
        ({"crop": "random"}, "crop"),
        ({"padding": 4}, "padding"),
        ({"pad": -1}, "pad"),
        ({"scale": (0.5, 0.1)}, "scale"),
        ({"scale": (0.0, 1.0)}, "scale"),
        ({"scale": (0.5, 1.5)}, "scale"),
        ({"ratio": (2.0, 0.5)}, "ratio"),
        ({"ratio": (float("nan"), 1.0)}, "ratio"),
        ({"color_jitter": -0.1}, "color_jitter"),
        ({"rotation": 200}, "rotation"),
        ({"hue": 0.6}, "hue"),
        ({"cutout": -1}, "cutout"),
        ({"translate": 2}, "translate"),
    ],
)
def test_errors_name_the_field(fields: dict[str, object], named: str) -> None:
    with pytest.raises(ValidationError) as caught:
        Augment(**fields)
    (error,) = caught.value.errors()
    assert named in error["loc"] or error["msg"].startswith(f"Value error, {named} ")


def test_padding_beyond_the_image() -> None:
    with pytest.raises(InputError, match="pad .*12, found 12"):
        TrainTransform(Augment(crop="pad", pad=12), PLAIN)
    with pytest.raises(InputError, match="cutout .*12, found 12"):
        TrainTransform(Augment(cutout=12), PLAIN)


@pytest.mark.parametrize(
    ("fields", "named"),
    [({"pad": 2}, "pad"), ({"scale": (0.5, 1)}, "scale"), ({"crop": "pad", "ratio": (1, 1)}, "ratio")],
)
def test_a_setting_without_effect_warns(fields: dict[str, object], named: str) -> None:
    with pytest.warns(UserWarning, match=f"{named} = .* has no effect"):
        Augment(**fields)
    with pytest.warns(UserWarning, match="pad = 0"):
        TrainTransform(Augment(crop="pad", pad=0), PLAIN)


@pytest.mark.parametrize("augment", SETTINGS)
def test_a_saved_recipe_reads_back_without_warnings(augment: Augment) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert Augment.model_validate_json(augment.model_dump_json()) == augment


def test_every_field_is_documented() -> None:
    assert all(field.description for field in Augment.model_fields.values())
