"""Distillation: the loss, what the teacher sees, exact resume, and teachers that do not fit."""

from __future__ import annotations

import json
import pickle
import shutil
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from compactnets import InputError, api, create_model
from compactnets.classification import setup as classification
from compactnets.classification.checkpoint import CheckpointRecord
from compactnets.classification.distillation import Teacher, distillation_loss, open_teacher
from compactnets.classification.preparation import prepare
from compactnets.classification.recipe import ClassificationRecipe
from compactnets.classification.setup import ClassificationObjective
from compactnets.classification.task import TASK
from compactnets.data import ImageSource, Preprocess
from compactnets.data.loading import Batch
from compactnets.training.checkpoint import save_checkpoint
from compactnets.training.distributed import World
from compactnets.training.interruption import Interrupted
from compactnets.training.step import Learner

from .helpers import HARD, TINY, digits_part, make_tiny_recipe, metrics, stop_after, weights
from .processes import TOLERANCE, distance, run_processes

# settings of fast recipes
LEVERS: dict[str, Any] = {
    **HARD,
    "lr": 0.01,
    "optimizer": {"name": "muon", "decay_norm_and_bias": False},
    "augment": {"flip": "alternate", "crop": "pad", "pad": 1, "cutout": 2},
    "progressive": [{"size": 4, "share": 0.2}, {"size": 6, "share": 0.3}],
    "whiten_stem": True,
    "zero_init_residual": True,
    "batchnorm_momentum": 0.4,
}
DIGITS = [str(digit) for digit in range(10)]
GREY = {"size": 8, "resize": None, "interpolation": "bilinear", "antialias": True, "mean": [0.459], "std": [0.226]}
Write = Callable[..., Path]


@pytest.fixture(scope="module")
def sources() -> tuple[ImageSource, ImageSource]:
    return digits_part(100, 40)


@pytest.fixture
def write_teacher(tmp_path: Path) -> Write:
    """Write an untrained classifier of the digits and return the path of its weights."""

    def write(name: str = "teacher", seed: int = 1, **changes: Any) -> Path:
        record = CheckpointRecord(
            model=TINY,
            arguments={"stem": "cifar", "num_classes": 10, "in_chans": 1},
            class_names=DIGITS,
            preprocess=GREY,
            source="a test",
            license="none",
        ).model_copy(update=changes)
        torch.manual_seed(seed)
        path = tmp_path / f"{name}.safetensors"
        network = create_model(record.model, **record.arguments)
        for parameter in network.parameters():  # an untrained classifier's outputs are nearly equal
            parameter.data.mul_(2)
        save_checkpoint(path, network.state_dict(), record)
        return path

    return write


def test_the_loss_is_hintons() -> None:
    """A divergence of softened outputs; at a high temperature half the squared distance of centred logits."""
    torch.manual_seed(0)
    logits, teacher = torch.randn(5, 4, dtype=torch.float64), torch.randn(5, 4, dtype=torch.float64)
    for temperature in (1.0, 4.0):
        p, q = ((each / temperature).exp() for each in (teacher, logits))
        p, q = p / p.sum(1, keepdim=True), q / q.sum(1, keepdim=True)
        wanted = temperature**2 * (p * (p / q).log()).sum(1)
        torch.testing.assert_close(
            distillation_loss(logits, teacher, temperature), wanted.float(), rtol=1e-4, atol=1e-6
        )
    apart = (logits - logits.mean(1, keepdim=True)) - (teacher - teacher.mean(1, keepdim=True))
    hot = distillation_loss(logits.float(), teacher.float(), 100.0)
    torch.testing.assert_close(hot, apart.square().mean(1).float() / 2, rtol=0.05, atol=2e-3)
    assert distillation_loss(teacher, teacher, 4.0).abs().max() < 1e-6


class Watched(nn.Module):
    """A classifier of three classes that keeps the images that it saw."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[Tensor] = []
        self.linear = nn.Linear(64, 3)

    def forward(self, x: Tensor) -> Tensor:
        assert not torch.is_grad_enabled()
        self.seen.append(x.clone())
        return self.linear(x.flatten(1))


@pytest.mark.parametrize("changes", [{}, {"mix": {"mixup": 0.4, "cutmix": 1.0}, "accumulate": 2}])
def test_the_teacher_sees_the_images_of_the_step(changes: dict[str, Any]) -> None:
    """Both parts of the loss as written out, over mixed images and parts of a batch as well."""
    distillation = {"teacher": "a test", "weight": 0.7, "temperature": 3}
    settings = {"model": "any", "epochs": 2, "batch_size": 8, "distillation": distillation, **changes}
    recipe = ClassificationRecipe.model_validate(settings)
    torch.manual_seed(0)
    network, student = Watched().eval().requires_grad_(False), nn.Sequential(nn.Flatten(), nn.Linear(64, 3))
    objective = ClassificationObjective(recipe, 4, 3, Teacher("a test", network, ""))
    plain = ClassificationObjective(recipe, 4, 3)
    batch = Batch(torch.randn(8, 1, 8, 8), torch.randint(3, (8,)), torch.arange(8))
    for part in objective.micro_batches(batch, 1):
        found = objective.losses(student, part)
        torch.testing.assert_close(network.seen[-1], part.images)
        (entropy,) = plain.losses(student, part).values()
        torch.testing.assert_close(found["cross_entropy"], 0.3 * entropy)
        wanted = 0.7 * distillation_loss(student(part.images), network.linear(part.images.flatten(1)), 3)
        torch.testing.assert_close(found["distillation"], wanted)
    assert len(network.seen) == recipe.accumulate


def test_a_run_with_a_teacher_resumes_exactly(
    sources: tuple[ImageSource, ImageSource], write_teacher: Write, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With the teacher elsewhere, and not with another, nor without one.

    With every setting of fast recipes besides; it stops before the images grow for the first time.
    """

    def recipe(teacher: Path | None, **changes: Any) -> ClassificationRecipe:
        distillation = {} if teacher is None else {"teacher": str(teacher)}
        return make_tiny_recipe(**{**LEVERS, "distillation": distillation, **changes})

    teacher = write_teacher()
    TASK.train(recipe(teacher), *sources, tmp_path / "straight")
    with monkeypatch.context() as patch:
        stop_after(patch, 1, signal.SIGTERM)
        with pytest.raises(Interrupted):
            TASK.train(recipe(teacher), *sources, tmp_path / "run")
    for other, told in ((write_teacher("other", seed=2), "--teacher was '"), (None, "--teacher was '")):
        with pytest.raises(InputError, match=told) as error:
            TASK.train(recipe(other), *sources, tmp_path / "run")
        assert "\n" not in str(error.value)
    other_recipe = recipe(teacher, progressive=[], batchnorm_momentum=None, whiten_stem=False)
    with pytest.raises(InputError, match=r"whiten_stem was True.*batchnorm_momentum was 0.4.*progressive was "):
        TASK.train(other_recipe, *sources, tmp_path / "run")
    (tmp_path / "moved").mkdir()
    for path in (teacher, teacher.with_suffix(".json")):
        moved = Path(shutil.move(path, tmp_path / "moved")).with_suffix(".safetensors")
    TASK.train(recipe(moved), *sources, tmp_path / "run")
    assert weights(tmp_path / "run") == weights(tmp_path / "straight")
    assert metrics(tmp_path / "run") == metrics(tmp_path / "straight")
    assert metrics(tmp_path / "run")[-1]["train_loss_distillation"] > 0
    record = json.loads((tmp_path / "run" / "last.json").read_text())
    assert record["training"]["teacher"]["name"] == str(moved)
    assert len(record["training"]["teacher"]["digest"]) == 12


def test_outputs_follow_the_names_of_the_classes(
    sources: tuple[ImageSource, ImageSource], write_teacher: Write
) -> None:
    preprocess = Preprocess.from_dict(GREY)
    images = torch.randn(3, 1, 8, 8)
    plain = open_teacher(str(write_teacher()), sources[0], preprocess)
    turned = open_teacher(str(write_teacher("turned", class_names=DIGITS[::-1])), sources[0], preprocess)
    torch.testing.assert_close(turned(images), plain(images).flip(1))
    assert plain(images).std() > 0


def test_the_teacher_keeps_its_own_normalisation(
    sources: tuple[ImageSource, ImageSource], write_teacher: Write
) -> None:
    own = {**GREY, "mean": [0.1], "std": [0.5]}
    path, pixels = write_teacher(preprocess=own), torch.randint(256, (3, 1, 8, 8), dtype=torch.uint8)
    ours, theirs = Preprocess.from_dict(GREY), Preprocess.from_dict(own)
    here, there = (open_teacher(str(path), sources[0], each) for each in (ours, theirs))
    torch.testing.assert_close(here(ours.normalize(pixels)), there(theirs.normalize(pixels)), rtol=1e-4, atol=1e-5)
    assert not torch.allclose(here(theirs.normalize(pixels)), there(theirs.normalize(pixels)), rtol=1e-2)


def test_weights_of_timms_network(sources: tuple[ImageSource, ImageSource], tmp_path: Path) -> None:
    """The same from safetensors and from what torch.save writes; another file is another teacher."""
    name, preprocess = "test_resnet", Preprocess.from_dict(GREY)
    torch.manual_seed(0)
    network = timm.create_model(name, num_classes=10, in_chans=1).eval()
    known: Any = network.pretrained_cfg
    save_file(network.state_dict(), tmp_path / "grey.safetensors")
    with pytest.raises(InputError, match="takes images of 3 channels"):  # its mean and deviation are of colours
        open_teacher(f"timm:{name}:{tmp_path / 'grey.safetensors'}", sources[0], preprocess)
    colour = Preprocess(size=32, resize=None, mean=known["mean"], std=known["std"])
    network = timm.create_model(name, num_classes=10).eval()
    save_file(network.state_dict(), tmp_path / "colour.safetensors")
    torch.save({"state_dict": network.state_dict()}, tmp_path / "colour.pth")
    images, digests = torch.randn(2, 3, 32, 32), set()
    for file in ("colour.safetensors", "colour.pth"):
        teacher = open_teacher(f"timm:{name}:{tmp_path / file}", sources[0], colour)
        torch.testing.assert_close(teacher(images), network(images))
        assert not any(each.requires_grad for each in teacher.network.parameters())
        digests.add(teacher.digest)
    assert len(digests) == 1
    next(network.parameters()).data.zero_()
    save_file(network.state_dict(), tmp_path / "colour.safetensors")
    assert open_teacher(f"timm:{name}:{tmp_path / 'colour.safetensors'}", sources[0], colour).digest not in digests


def teachers_that_do_not_fit(folder: Path, write: Write) -> dict[str, tuple[str, tuple[str, ...]]]:
    """Name -> (teacher, what the line must say)."""
    two = write("two", arguments={"stem": "cifar", "num_classes": 2, "in_chans": 1}, class_names=["a", "b"])
    others = write("others", class_names=[*DIGITS[:9], "ten"])
    colour = write(
        "colour",
        arguments={"stem": "cifar", "num_classes": 10, "in_chans": 3},
        preprocess={**GREY, "mean": [0.5] * 3, "std": [0.2] * 3},
    )
    alone = write("alone")
    alone.with_suffix(".json").unlink()
    detector = write("detector")
    record = json.loads(detector.with_suffix(".json").read_text())
    detector.with_suffix(".json").write_text(json.dumps({**record, "task": "detection"}))
    (folder / "code.pth").write_bytes(pickle.dumps(print))
    (folder / "torn.safetensors").write_bytes(b"torn")
    save_file({"weight": torch.zeros(1)}, folder / "another.safetensors")
    return {
        "missing file": (str(folder / "none.safetensors"), ("none.safetensors",)),
        "number of classes": (str(two), ("two", "2 classes", "10")),
        "names of classes": (str(others), ("others", "1 of the 10", "9")),
        "channels": (str(colour), ("colour", "3 channels", "1")),
        "no record": (str(alone), ("alone.json",)),
        "a detector": (str(detector), ("detection", "classification")),
        "no network of timm's": ("timm:resnet18x", ("resnet18x", "timm", "resnet18")),
        "no name": ("timm:", ("timm",)),
        "code": (f"timm:test_resnet:{folder / 'code.pth'}", ("code.pth", "refused")),
        "a torn file": (f"timm:test_resnet:{folder / 'torn.safetensors'}", ("torn.safetensors",)),
        "no weights file": (f"timm:test_resnet:{folder / 'none.pth'}", ("none.pth",)),
        "another network's weights": (f"timm:test_resnet:{folder / 'another.safetensors'}", ("test_resnet", "lacks")),
    }


def test_a_teacher_that_does_not_fit_is_one_line(
    sources: tuple[ImageSource, ImageSource], write_teacher: Write, tmp_path: Path
) -> None:
    for what, (teacher, told) in teachers_that_do_not_fit(tmp_path, write_teacher).items():
        run = tmp_path / "run"
        with pytest.raises(InputError) as error:
            TASK.train(make_tiny_recipe(distillation={"teacher": teacher}), *sources, run)
        assert "\n" not in str(error.value), what
        for words in told:
            assert words in str(error.value), (what, str(error.value))
        assert not (run / "recipe.yaml").exists(), what


def test_a_size_that_the_teacher_does_not_take(sources: tuple[ImageSource, ImageSource], tmp_path: Path) -> None:
    """A vision transformer has a position for every patch of its own size."""
    network = timm.create_model("test_vit", num_classes=10)
    save_file(network.state_dict(), tmp_path / "vit.safetensors")
    known: Any = network.pretrained_cfg
    small = Preprocess(size=40, resize=None, mean=known["mean"], std=known["std"])
    with pytest.raises(InputError, match="40 x 40") as error:
        open_teacher(f"timm:test_vit:{tmp_path / 'vit.safetensors'}", sources[0], small)
    assert "\n" not in str(error.value)


class Pair(nn.Module):
    def forward(self, x: Tensor) -> Any:
        return x, x


def test_a_network_that_is_no_classifier(
    sources: tuple[ImageSource, ImageSource], write_teacher: Write, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write_teacher()
    monkeypatch.setattr(type(create_model(TINY)), "forward", Pair.forward)
    with pytest.raises(InputError, match="gives tuple for two images"):
        open_teacher(str(path), sources[0], Preprocess.from_dict(GREY))


def test_the_option_is_a_setting() -> None:
    task, recipe = api.open_recipe("cifar/short", ["distillation.weight=0.5"], teacher="a b: c.safetensors")
    assert task.name == "classification"
    assert recipe.distillation.teacher == "a b: c.safetensors"  # type: ignore[attr-defined]
    assert recipe.distillation.weight == 0.5  # type: ignore[attr-defined]
    with pytest.raises(InputError, match="distillation.teacher"):
        api.open_recipe("cifar/short", ["distillation.teacher=a"], teacher="b")
    with pytest.raises(InputError, match="--teacher .* detection"):
        api.open_recipe("small/ssd512", teacher="a")
    with pytest.raises(InputError, match="teacher"):
        api.train(make_tiny_recipe(), "digits", "never", teacher="a")
    with pytest.warns(UserWarning, match=r"distillation: weight has no effect without a teacher"):
        make_tiny_recipe(distillation={"weight": 0.5})


@pytest.mark.slow
def test_two_processes_learn_what_one_learns(write_teacher: Write, tmp_path: Path) -> None:
    # at the rate of test_distributed, 0.005, rounding grows with a teacher to 0.015 of the way: at this, to 1e-4
    settings: dict[str, Any] = {"epochs": 2, "lr": 0.0005, "accumulate": 2, "sync_batchnorm": False}
    settings |= {"distillation": {"teacher": str(write_teacher())}}
    TASK.train(make_tiny_recipe(**settings), *digits_part(100, 41), tmp_path / "one")
    # parts of 16 images in one process, of 8 in each of two: statistics differ, so only with those of all
    settings |= {"sync_batchnorm": True, "accumulate": 1}
    TASK.train(make_tiny_recipe(**settings), *digits_part(100, 41), tmp_path / "whole")
    two = run_processes(tmp_path, 2, **settings)
    assert distance(two, tmp_path / "whole") < TOLERANCE
    assert distance(two, tmp_path / "one") > TOLERANCE


@pytest.mark.slow
def test_a_compiled_step_with_a_teacher(write_teacher: Write, sources: tuple[ImageSource, ImageSource]) -> None:
    """The loss of the first step is that of the step that is not compiled."""
    found = []
    for compile in (False, "default"):
        recipe = make_tiny_recipe(distillation={"teacher": str(write_teacher())}, compile=compile, channels_last=True)
        task = classification.ClassificationSetup(recipe, *sources, None, World(), prepare)
        learner = Learner(task.model, task.recipe, 3, task.objective, World())
        learner.model.train()
        batch = next(iter(task.make_loader(World()).epoch(0)))
        found.append({name: values.mean().item() for name, values in learner.step(batch, 0).items()})
    assert found[0] == pytest.approx(found[1], rel=1e-4)
    assert set(found[0]) == {"cross_entropy", "distillation"}
