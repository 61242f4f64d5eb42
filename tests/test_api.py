"""The Python API: what the command line does, on paths, Pillow images and arrays."""

from __future__ import annotations

import inspect
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import compactnets
from compactnets import api
from compactnets.errors import InputError

from .detection.lively import lively_detector

WEIGHTS = "muffnet_x0_5.cifar10"
GREY = np.full((32, 32), 90, np.uint8)


@pytest.fixture(scope="module")
def model() -> compactnets.Model:
    return compactnets.load(WEIGHTS)


def test_every_name_is_there_and_documented() -> None:
    for name in compactnets.__all__:
        found = getattr(compactnets, name)
        if name != "__version__":
            assert inspect.getdoc(found), name
    assert set(compactnets.__all__) <= set(dir(compactnets))
    with pytest.raises(AttributeError, match="nothing"):
        compactnets.nothing  # noqa: B018


def test_a_model_says_what_it_is(model: compactnets.Model) -> None:
    assert (model.kind, model.task.name, model.name, str(model.device)) == (
        "checkpoint",
        "classification",
        WEIGHTS,
        "cpu",
    )
    assert model.class_names[:2] == ["airplane", "automobile"]
    assert compactnets.load(model) is model


def test_what_is_loaded_stays_as_it_is(model: compactnets.Model) -> None:
    """What cannot change any more is refused, not ignored."""
    for call, fact in (
        (lambda: compactnets.predict(model, GREY, device="cuda"), "loaded on cpu"),
        (lambda: compactnets.load(model, "cuda"), "loaded on cpu"),
        (lambda: compactnets.load(model, arguments={"num_classes": 3}), "num_classes"),
        (lambda: compactnets.load(model, class_agnostic_nms=True), "class_agnostic_nms"),
    ):
        with pytest.raises(InputError, match=fact):
            call()


def test_images_of_every_kind(model: compactnets.Model, tmp_path: Path) -> None:
    """The same image as a path, a Pillow image and arrays gives the same; one bad file costs no other."""
    image = Image.fromarray(np.random.default_rng(0).integers(0, 256, (32, 32, 3), np.uint8))
    image.save(tmp_path / "a.png")
    (tmp_path / "b.png").write_bytes(b"no image")
    pixels = np.asarray(image)
    alpha = np.dstack([pixels, np.full((32, 32), 255, np.uint8)])
    found = compactnets.predict(model, [tmp_path / "a.png", image, pixels, alpha, tmp_path / "b.png"], top=3)
    assert [len(one.guesses) for one in found] == [3, 3, 3, 3, 0]
    assert {one.guesses for one in found[:4]} == {found[0].guesses}
    assert "b.png" in found[4].error
    (alone,) = compactnets.predict(model, image, top=3)
    assert alone.guesses == found[0].guesses
    assert [one.image for one in compactnets.predict(model, tmp_path)] == [
        str(tmp_path / name) for name in ("a.png", "b.png")
    ]
    assert compactnets.predict(model, GREY)[0].guesses == compactnets.predict(model, GREY[..., None])[0].guesses


@pytest.mark.parametrize(
    ("wrong", "facts"),
    [
        (GREY.astype(float), ("float64", "[32, 32]")),
        (np.zeros((2, 32, 32, 3), np.uint8), ("[2, 32, 32, 3]",)),
        (np.zeros((32, 32, 2), np.uint8), ("[32, 32, 2]",)),
        ([GREY, 3], ("image 1", "int")),
    ],
)
def test_what_is_no_image(model: compactnets.Model, wrong: object, facts: tuple[str, ...]) -> None:
    with pytest.raises(InputError) as error:
        compactnets.predict(model, wrong)  # type: ignore[arg-type]
    assert all(fact in str(error.value) for fact in facts)
    assert "\n" not in str(error.value)


def test_objects_in_arrays() -> None:
    detector, record = lively_detector("ssd")
    task = api.find_task("detection")
    model = compactnets.Model(task, detector, record, "a", "checkpoint", next(detector.parameters()).device)
    (found,) = compactnets.predict(model, np.random.default_rng(0).integers(0, 256, (48, 64, 3), np.uint8), score=0)
    assert (found.width, found.height) == (64, 48)
    assert found.objects


def test_what_lies_nowhere_and_what_does_not_fit(tmp_path: Path) -> None:
    for call, facts in (
        (lambda: compactnets.load(tmp_path / "none.safetensors"), ("no checkpoint at", "none.safetensors")),
        (lambda: compactnets.load("muffnet_x0_6"), ("muffnet_x0_6", "did you mean")),
        (lambda: compactnets.load(WEIGHTS, arguments={"num_classes": 3}), ("num_classes", WEIGHTS)),
        (lambda: compactnets.load(WEIGHTS, class_agnostic_nms=True), ("--class-agnostic-nms", "classification")),
        (lambda: compactnets.predict("menet_108_8x1_g3", GREY), ("menet_108_8x1_g3", "without weights")),
        (lambda: compactnets.evaluate(WEIGHTS, ["digits", "digits"]), ("one source", "digits, digits")),
        (lambda: compactnets.evaluate(WEIGHTS, "digits", split="test"), ("--split", "'test'")),
        (lambda: compactnets.train("cifar/nothing", "digits", tmp_path / "a"), ("cifar/nothing",)),
        (lambda: compactnets.export(WEIGHTS, "onix", tmp_path / "a"), ("onix", "did you mean")),
    ):
        with pytest.raises(InputError) as error:
            call()
        assert all(fact in str(error.value) for fact in facts), str(error.value)
        assert "\n" not in str(error.value)
    assert list(tmp_path.iterdir()) == []


def test_a_recipe_made_in_python(tmp_path: Path) -> None:
    _, recipe = api.open_recipe("digits/quickstart", ["epochs=2", "preprocess.size=8"], "shufflenet_g3_x0_25")
    result = compactnets.train(recipe, "digits", tmp_path / "run")
    assert (result.epochs, result.output) == (2, tmp_path / "run")
    measured = compactnets.evaluate(result.output / "last.safetensors", "digits")
    assert measured.figures.top1 == result.final["top1_percent"]
    assert measured.to_dict()["task"] == "classification"
    with pytest.raises(InputError, match="by name"):
        compactnets.train(recipe, "digits", tmp_path / "other", settings=["epochs=2"])


def test_costs_of_both_tasks() -> None:
    assert compactnets.profile("muffnet_x0_5").to_dict()["macs"] == 41_800_085
    detector = compactnets.profile("shufflenet_g3_x0_25", detector="ssd").to_dict()
    assert detector["macs"] == sum(part["macs"] for part in detector["parts"])
