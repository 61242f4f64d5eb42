"""The form of a backbone's weights: a detector is not begun from, or loaded into, a network of another form."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from compactnets import InputError, create_model
from compactnets.classification.checkpoint import CheckpointRecord
from compactnets.data import Preprocess
from compactnets.detection.checkpoint import first_detector, load_detector
from compactnets.detection.deploy.stages import deploy_detector
from compactnets.models.form import KEY, FormError, FormWarning
from compactnets.training.checkpoint import save_checkpoint

from .helpers import TINY, tiny_recipe


@pytest.fixture(autouse=True)
def _no_doubt() -> Iterator[None]:
    with warnings.catch_warnings():
        warnings.simplefilter("error", FormWarning)
        yield


def classifier(path: Path, stem: str, old: bool) -> Path:
    arguments = {"num_classes": 3, "in_chans": 3, "stem": stem}
    record = CheckpointRecord(
        model=TINY,
        arguments=arguments,
        class_names=["a", "b", "c"],
        preprocess=Preprocess(size=64, resize=64, mean=(0.5,) * 3, std=(0.5,) * 3).to_dict(),
        source="a test",
        license="none",
    )
    save_checkpoint(path, create_model(TINY, **arguments).state_dict(), record)
    if old:
        make_old(path)
    return path


def make_old(path: Path) -> None:
    save_file({key: value for key, value in load_file(path).items() if not key.endswith(KEY)}, path)


@pytest.mark.parametrize("old", [False, True])
def test_the_backbone_of_a_classifier(old: bool, tmp_path: Path) -> None:
    path = classifier(tmp_path / "net.safetensors", "cifar", old)
    other = {"model_arguments": {"stem": "imagenet"}}
    with pytest.raises(InputError, match='stem="cifar", not stem="imagenet"'):
        first_detector(tiny_recipe(**other), ["a"], path)
    detector, _ = first_detector(tiny_recipe(**other, init_form="any"), ["a"], path)
    found = detector.state_dict()["backbone.levels.body.stem.conv.conv.weight"]
    assert torch.equal(found, load_file(path)["stem.conv.conv.weight"])


@pytest.mark.parametrize(
    ("kind", "old"),
    [
        ("ssd", True),
        ("faster_rcnn", False),
        pytest.param("ssd", False, marks=pytest.mark.slow),
        pytest.param("faster_rcnn", True, marks=pytest.mark.slow),
    ],
)
def test_a_detector_is_read_with_its_form(kind: str, old: bool, tmp_path: Path) -> None:
    detector, record = first_detector(tiny_recipe(kind), ["a"], None)
    assert [key for key in detector.state_dict() if key.endswith(KEY)]
    path = tmp_path / "detector.safetensors"
    save_checkpoint(path, detector.state_dict(), record)
    if old:
        make_old(path)
    again, _ = load_detector(path)
    image = [torch.rand(3, 64, 80)]
    with torch.no_grad():
        found, expected = again(image)[0], detector.eval()(image)[0]
    assert torch.equal(found["boxes"], expected["boxes"])
    deploy_detector(again, record)
    same, _ = first_detector(tiny_recipe(kind), ["a"], path)
    assert all(torch.equal(value, detector.state_dict()[key]) for key, value in same.state_dict().items())


@pytest.mark.parametrize("old", [False, True])
def test_a_detector_of_another_form(old: bool, tmp_path: Path) -> None:
    """Its strides are others: the same levels by channels, under other reductions."""
    cifar = tiny_recipe(ssd={**tiny_recipe().ssd.model_dump(), "strides": (1, 2, 4), "extra_channels": (32,) * 5})
    small = cifar.model_copy(update={"model_arguments": {"stem": "cifar"}})
    detector, record = first_detector(small, ["a"], None)
    path = tmp_path / "detector.safetensors"
    save_checkpoint(path, detector.state_dict(), record)
    if old:
        make_old(path)
    other, _ = first_detector(tiny_recipe(), ["a"], None)
    if not old:
        with pytest.raises(FormError):
            other.load_state_dict(load_file(path), strict=False)
    with pytest.raises(InputError, match='stem="cifar", not stem="imagenet"'):
        first_detector(tiny_recipe(), ["a"], path)
