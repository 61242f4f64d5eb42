"""The evaluation transform against plain Pillow, torch and the reference network; its record."""

from __future__ import annotations

import json
import pickle
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from PIL import Image
from torchvision.transforms import v2

import compactnets  # noqa: F401  (registers the families with timm)
from compactnets.data import ImageDataset, Preprocess, open_source
from compactnets.data.presets import CIFAR10, CIFAR10_CLASSES, CIFAR100, CIFAR100_CLASSES, IMAGENET, choose_preprocess
from compactnets.errors import InputError
from compactnets.models.legacy import load_legacy

from .helpers import noise

RECORD = {"size": 8, "resize": 10, "interpolation": "bilinear", "antialias": True, "mean": [0.5], "std": [0.25]}
FILTERS = {
    "bilinear": Image.Resampling.BILINEAR,
    "bicubic": Image.Resampling.BICUBIC,
    "nearest": Image.Resampling.NEAREST,
}


def by_hand(image: Image.Image, preprocess: Preprocess) -> np.ndarray:
    """The transform written with Pillow and numpy alone: (C, H, W)."""
    image = image.convert("L" if preprocess.channels == 1 else "RGB")
    width, height = image.size
    if preprocess.resize is None:
        width = height = preprocess.size
    elif width <= height:
        width, height = preprocess.resize, int(preprocess.resize * height / width)
    else:
        width, height = int(preprocess.resize * width / height), preprocess.resize
    image = image.resize((width, height), FILTERS[preprocess.interpolation])
    left, top = round((width - preprocess.size) / 2), round((height - preprocess.size) / 2)
    image = image.crop((left, top, left + preprocess.size, top + preprocess.size))
    pixels = np.asarray(image, dtype=np.float32).reshape(preprocess.size, preprocess.size, -1) / 255
    mean, std = np.float32(preprocess.mean), np.float32(preprocess.std)
    return ((pixels - mean) / std).transpose(2, 0, 1)


@pytest.mark.parametrize("interpolation", FILTERS)
@pytest.mark.parametrize("size", [(500, 375), (333, 500), (256, 256), (224, 300), (40, 31), (1201, 301)])
@pytest.mark.parametrize("resize", [256, 224, None])
def test_equals_pillow(size: tuple[int, int], resize: int | None, interpolation: str) -> None:
    preprocess = Preprocess(size=224, resize=resize, interpolation=interpolation, mean=IMAGENET.mean, std=IMAGENET.std)
    image = noise(*size)
    tensor = preprocess(image)
    assert tensor.dtype == torch.float32
    assert tensor.shape == (3, 224, 224)
    np.testing.assert_allclose(tensor.numpy(), by_hand(image, preprocess), atol=1e-6)


@pytest.mark.parametrize("mode", ["L", "RGB", "RGBA", "CMYK"])
def test_grey_equals_pillow(mode: str) -> None:
    preprocess = Preprocess(size=16, resize=20, mean=(0.3,), std=(0.4,))
    image = noise(50, 37, mode)
    np.testing.assert_allclose(preprocess(image).numpy(), by_hand(image, preprocess), atol=1e-6)


def test_an_image_of_the_size_is_left_alone() -> None:
    image = noise(32, 32)
    restored = CIFAR10(image) * torch.tensor(CIFAR10.std)[:, None, None] + torch.tensor(CIFAR10.mean)[:, None, None]
    np.testing.assert_array_equal((restored * 255).round().byte().permute(1, 2, 0).numpy(), np.asarray(image))


@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])
def test_without_antialiasing_equals_torch(interpolation: str) -> None:
    preprocess = Preprocess(
        size=20, resize=20, interpolation=interpolation, antialias=False, mean=(0.0,) * 3, std=(1.0,) * 3
    )
    image = noise(61, 61)
    tensor = torch.from_numpy(np.asarray(image).copy()).permute(2, 0, 1)[None].float()
    expected = torch.nn.functional.interpolate(tensor, size=20, mode=interpolation)[0].clamp(0, 255) / 255
    difference = (preprocess(image) - expected).abs().max()
    assert difference <= 1 / 255  # rounding to 8 bits between the steps
    antialiased = Preprocess(size=20, resize=20, interpolation=interpolation, mean=(0.0,) * 3, std=(1.0,) * 3)
    assert (antialiased(image) - expected).abs().max() > 0.2


def test_reference_preprocessing(shared: Path) -> None:
    """The authors' network gives their logits on images that pass through the record."""
    source = open_source(str(shared / "data" / "imagenet_sample"), "val")
    assert source.default_preprocess == IMAGENET
    reference = np.load(shared / "weights" / "108-MENet-8x1-group-3.reference.npz")
    dataset = ImageDataset(source, source.default_preprocess)
    images = torch.stack([dataset[index][0] for index in range(8)])
    assert [dataset[index][1] for index in range(8)] == reference["labels"].tolist()
    network = timm.create_model("menet_108_8x1_g3").eval()
    network.load_state_dict(load_legacy(shared / "weights" / "108-MENet-8x1-group-3.pth.tar"))
    with torch.inference_mode():
        np.testing.assert_allclose(network(images).numpy(), reference["logits"], atol=1e-4)


def levels(*shape: int) -> torch.Tensor:
    return torch.randint(256, shape, dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("preprocess", [IMAGENET, CIFAR10, Preprocess(size=8, resize=None, mean=(0.3,), std=(0.7,))])
@pytest.mark.parametrize("shape", [(7, 40, 33), (1, 8, 8), (0, 8, 8), (3, 300, 301), ()])
@pytest.mark.parametrize("layout", ["contiguous", "channels_last", "view"])
def test_normalising_has_torchvision_s_bits(preprocess: Preprocess, shape: tuple[int, ...], layout: str) -> None:
    """Every level of 8 bits, in any layout in memory, in parts or not."""
    pixels = levels(shape[0], preprocess.channels, *shape[1:]) if shape else levels(preprocess.channels, 50, 60)
    if pixels.numel():
        pixels.flatten()[: min(256, pixels.numel())] = torch.arange(256, dtype=torch.uint8)[: pixels.numel()]
    if layout == "channels_last" and shape:
        pixels = pixels.contiguous(memory_format=torch.channels_last)
    if layout == "view":
        pixels = torch.cat([pixels, pixels], dim=-1)[..., : pixels.shape[-1]]
    peer = v2.Compose([v2.ToDtype(torch.float32, scale=True), v2.Normalize(preprocess.mean, preprocess.std)])
    found = preprocess.normalize(pixels)
    assert torch.equal(found, peer(pixels))
    if layout != "view":
        assert found.stride() == pixels.stride()


def test_a_call_is_geometry_and_normalisation() -> None:
    image = noise(300, 280)
    pixels = IMAGENET.pixels(image)
    assert pixels.shape == (224, 224, 3)
    assert pixels.dtype == torch.uint8
    assert torch.equal(IMAGENET.normalize(pixels.permute(2, 0, 1)), IMAGENET(image))
    assert IMAGENET(image).is_contiguous()


def test_record_round_trip() -> None:
    preprocess = Preprocess.from_dict(RECORD)
    assert preprocess == Preprocess(size=8, resize=10, mean=(0.5,), std=(0.25,))
    assert preprocess.channels == 1
    for each in (preprocess, IMAGENET, CIFAR100):
        assert Preprocess.from_dict(json.loads(json.dumps(each.to_dict()))) == each
    assert preprocess.to_dict() == RECORD


def test_pickles_after_use() -> None:
    image = noise(12, 12)
    preprocess = Preprocess.from_dict(RECORD)
    expected = preprocess(image)
    assert torch.equal(pickle.loads(pickle.dumps(preprocess))(image), expected)
    assert pickle.loads(pickle.dumps(preprocess)) == preprocess


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"interpolaton": "bilinear"}, "interpolaton.*did you mean 'interpolation'"),
        ({"size": 0}, "size must be a positive integer, found 0"),
        ({"size": "224"}, "size must be a positive integer, found '224'"),
        ({"size": True}, "size must be"),
        ({"resize": 7}, "resize must be .* at least size = 8, found 7"),
        ({"interpolation": "bilinaer"}, "did you mean 'bilinear'"),
        ({"antialias": 1}, "antialias must be true or false"),
        ({"mean": 0.5}, "mean must be one number"),
        ({"mean": [0.5, 0.5]}, "mean must be one number"),
        ({"mean": [0.1, 0.2, 0.3]}, "same length, found 3 and 1"),
        ({"std": ["a"]}, "std must be one number"),
        ({"std": [0.0]}, "std must be positive"),
        ({"std": [float("nan")]}, "std must be one number"),
    ],
)
def test_bad_records(change: dict[str, object], message: str) -> None:
    with pytest.raises(InputError, match=message):
        Preprocess.from_dict({**RECORD, **change})


@pytest.mark.parametrize("key", RECORD)
def test_missing_key(key: str) -> None:
    with pytest.raises(InputError, match=f"lacks {key}"):
        Preprocess.from_dict({name: value for name, value in RECORD.items() if name != key})


def test_record_that_is_none() -> None:
    with pytest.raises(InputError, match="found list"):
        Preprocess.from_dict([1, 2])  # type: ignore[arg-type]


def test_needle_shaped_image_does_not_explode() -> None:
    with pytest.raises(InputError, match="1 x 60000"):
        IMAGENET(Image.new("L", (1, 60_000)))


@pytest.mark.parametrize(
    ("sizes", "mode", "class_names", "expected"),
    [
        ([(32, 32)] * 3, "RGB", CIFAR10_CLASSES, CIFAR10),
        ([(32, 32)] * 3, "RGB", tuple(reversed(CIFAR100_CLASSES)), CIFAR100),
        ([(32, 32)] * 3, "RGB", ["cra" if name == "crab" else name for name in CIFAR100_CLASSES], CIFAR100),
        ([(32, 32)] * 3, "RGB", ("a", "b"), Preprocess(size=32, resize=None, mean=IMAGENET.mean, std=IMAGENET.std)),
        ([(28, 28)] * 3, "L", ("0", "1"), Preprocess(size=28, resize=None, mean=(0.459,), std=(0.226,))),
        ([(64, 48)] * 2, "RGB", ("a", "b"), Preprocess(size=48, resize=48, mean=IMAGENET.mean, std=IMAGENET.std)),
        ([(65, 65)] * 3, "RGB", ("a", "b"), IMAGENET),
        ([(32, 32), (31, 32)], "RGB", CIFAR10_CLASSES, IMAGENET),
        ([], "RGB", ("a", "b"), IMAGENET),
    ],
)
def test_choice_by_the_images(
    sizes: list[tuple[int, int]], mode: str, class_names: tuple[str, ...], expected: Preprocess
) -> None:
    assert choose_preprocess((Image.new(mode, size) for size in sizes), class_names) == expected


def test_cifar_classes() -> None:
    assert len(CIFAR100_CLASSES) == len(set(CIFAR100_CLASSES)) == 100
    assert list(CIFAR100_CLASSES) == sorted(CIFAR100_CLASSES)


def test_cifar10_statistics(shared: Path) -> None:
    """The constants are the mean and deviation of the training images, here of every tenth."""
    source = open_source(str(shared / "data" / "cifar10"), "train")
    assert source.default_preprocess == CIFAR10
    pixels = np.stack([np.asarray(source.image(index)) for index in range(0, len(source), 10)]).reshape(-1, 3) / 255
    np.testing.assert_allclose(pixels.mean(axis=0), CIFAR10.mean, atol=3e-3)
    np.testing.assert_allclose(pixels.std(axis=0), CIFAR10.std, atol=3e-3)
