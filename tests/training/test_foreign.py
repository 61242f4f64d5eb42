"""Weights without a record as the start of a run: where they are in a file, and what does not fit."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from timm.utils import ModelEmaV3
from torch import Tensor, nn

from compactnets import InputError, create_model
from compactnets.classification.backbone import backbone_from_classifier
from compactnets.classification.preparation import prepare
from compactnets.classification.recipe import ClassificationRecipe
from compactnets.data import ImageSource
from compactnets.models.form import KEY
from compactnets.training.checkpoint import digest_checkpoint

from .helpers import TINY, digits_part, make_tiny_recipe

MakeRecipe = Callable[..., ClassificationRecipe]
State = Mapping[str, Tensor]


@pytest.fixture(scope="module")
def source() -> ImageSource:
    return digits_part(40, 10)[0]


@pytest.fixture(scope="module")
def network() -> nn.Module:
    torch.manual_seed(5)
    return create_model(TINY, stem="cifar", num_classes=10, in_chans=1)


@pytest.fixture(scope="module")
def average(network: nn.Module) -> dict[str, Tensor]:
    """Another state of the same network."""
    return {key: value if key == KEY else value + 1 for key, value in network.state_dict().items()}


def prefixed(prefix: str, state: State) -> dict[str, Tensor]:
    return {prefix + key: value for key, value in state.items()}


def old(state: State) -> dict[str, Tensor]:
    """As of a version without forms, and of a torch without counters."""
    return {key: value for key, value in state.items() if key != KEY and not key.endswith("num_batches_tracked")}


STATES: dict[str, tuple[Callable[[State, State], Any], str]] = {
    "bare": (lambda state, _: dict(state), ""),
    "without form": (lambda state, _: old(state), "form of its network: stem=cifar is assumed"),
    "state_dict": (lambda state, _: {"state_dict": dict(state), "epoch": 3}, "in 'state_dict'"),
    "model": (lambda state, _: {"model": dict(state), "optimizer": {"state": {0: {"step": torch.ones(1)}}}}, "'model'"),
    "DataParallel": (lambda state, _: {"state_dict": prefixed("module.", state)}, "after 'module.' in 'state_dict'"),
    "compiled": (lambda state, _: prefixed("_orig_mod.", state), ""),
    "both": (lambda state, _: prefixed("module._orig_mod.", state), "after 'module.'"),
    "a compiled part": (lambda state, _: {k.replace("stages.", "stages._orig_mod."): v for k, v in state.items()}, ""),
    "Lightning": (lambda state, _: {"state_dict": {**prefixed("net.", state), "loss.w": torch.ones(3)}}, "'net.'"),
    "timm": (lambda state, mean: {"state_dict": dict(mean), "state_dict_ema": dict(state)}, "average of the weights"),
    "model_ema": (lambda state, mean: {"model": dict(mean), "model_ema": prefixed("module.", state)}, "average"),
    "ema.module": (lambda state, mean: prefixed("model.", mean) | prefixed("ema.module.", state), "'ema.module.'"),
    "own run": (lambda state, _: {"format": 4, "learner": {"model": dict(state), "ema": None}}, "'learner.model'"),
    "own average": (lambda state, mean: {"learner": {"model": dict(mean), "ema": dict(state)}}, "'learner.ema'"),
    "half": (lambda state, _: {key: value if key == KEY else value.half() for key, value in state.items()}, ""),
}


@pytest.mark.parametrize("kind", STATES)
def test_states_are_found(
    kind: str,
    network: nn.Module,
    average: State,
    source: ImageSource,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    make, told = STATES[kind]
    torch.save(make(network.state_dict(), average), tmp_path / "a.pth")
    found = prepare(make_tiny_recipe(), source, tmp_path / "a.pth").model.state_dict()
    for key, value in network.state_dict().items():
        wanted = value.half() if kind == "half" and value.is_floating_point() else value
        assert torch.equal(found[key], wanted.to(value.dtype)), key
    said = capsys.readouterr().err
    assert told in said
    assert "classifier kept" in said
    assert len(said.splitlines()) == 1 + bool(told)


def test_what_timm_and_torch_save(network: nn.Module, source: ImageSource, tmp_path: Path) -> None:
    """Wrapped by the classes themselves, not by names typed here."""
    wrapped = {
        "parallel": nn.DataParallel(network).state_dict(),
        "ema": {"ema": ModelEmaV3(network).state_dict()},
        "swa": torch.optim.swa_utils.AveragedModel(network).state_dict(),
    }
    for name, state in wrapped.items():
        torch.save(state, tmp_path / f"{name}.pt")
        found = prepare(make_tiny_recipe(), source, tmp_path / f"{name}.pt").model
        assert torch.equal(found.classifier.weight, network.classifier.weight), name


def test_safetensors_without_a_record(network: nn.Module, source: ImageSource, tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    save_file(network.state_dict(), path)
    found = prepare(make_tiny_recipe(), source, path)
    assert torch.equal(found.model.classifier.weight, network.classifier.weight)
    assert len(digest_checkpoint(path)) == len(digest_checkpoint(tmp_path / "a.safetensors")) > 12


@pytest.mark.parametrize("classes", [0, 3])
def test_other_classes_get_a_fresh_classifier(
    classes: int, source: ImageSource, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    other = create_model(TINY, stem="cifar", num_classes=classes, in_chans=1)
    torch.save(other.state_dict(), tmp_path / "a.pt")
    found = prepare(make_tiny_recipe(), source, tmp_path / "a.pt")
    assert found.model.classifier.weight.shape[0] == 10
    assert torch.equal(found.model.stem.conv.conv.weight, other.stem.conv.conv.weight)
    held = "3 classes" if classes else "no classifier"
    assert f"classifier replaced: {tmp_path / 'a.pt'} has {held}, digits has 10" in capsys.readouterr().err


def test_the_menet_repositorys_file_needs_no_conversion(shared: Path, source: ImageSource) -> None:
    path = shared / "weights" / "108-MENet-8x1-group-3.pth.tar"
    recipe = make_tiny_recipe(
        model="menet_108_8x1_g3", model_arguments={}, preprocess={"size": 32, "mean": [0.5] * 3, "std": [0.5] * 3}
    )
    stored = torch.load(path, map_location="cpu", weights_only=True)["state_dict"]["features.stage_1_2.s_merge.weight"]
    assert torch.equal(prepare(recipe, source, path).model.stages[0][1].merge.conv.weight, stored)


def test_a_backbone_drops_their_classifier(tmp_path: Path) -> None:
    other = create_model(TINY, num_classes=3)
    torch.save({"state_dict": prefixed("module.", other.state_dict())}, tmp_path / "a.pth")
    found = backbone_from_classifier(make_tiny_recipe(model_arguments={}), tmp_path / "a.pth")
    assert torch.equal(found.stem.conv.conv.weight, other.stem.conv.conv.weight)


def rename(state: State) -> dict[str, Tensor]:
    return {("trunk.conv" if key == "stem.conv.conv.weight" else key): value for key, value in state.items()}


WRONG: dict[str, tuple[Callable[[State], Any], str]] = {
    "another name": (
        rename,
        r"1 keys missing \(stem.conv.conv.weight\); 1 keys unknown \(trunk.conv\): give the network",
    ),
    "another shape": (
        lambda state: {k: v[:, :, :1] if k == "stem.conv.conv.weight" else v for k, v in state.items()},
        r"stem.conv.conv.weight is \(6, 1, 1, 3\), shufflenet_g3_x0_25 has \(6, 1, 3, 3\): give the network",
    ),
    "another network": (
        lambda state: {f"layer{index}.weight": torch.ones(3) for index in range(9)},
        r"no weights of shufflenet_g3_x0_25: its keys are layer0.weight, .*, and shufflenet_g3_x0_25 has stem.conv",
    ),
    "no tensors": (lambda state: {"state_dict": {}}, "holds no weights: expected a dictionary of tensors"),
    "a list": (lambda state: [torch.ones(3)], "holds no weights"),
    "another form": (
        lambda state: create_model(TINY, num_classes=10, in_chans=1).state_dict(),
        'stem="imagenet", not stem="cifar"',
    ),
}


@pytest.mark.parametrize("kind", WRONG)
def test_what_does_not_fit_is_one_line(kind: str, network: nn.Module, source: ImageSource, tmp_path: Path) -> None:
    make, message = WRONG[kind]
    torch.save(make(network.state_dict()), tmp_path / "a.pth")
    with pytest.raises(InputError, match=message) as caught:
        prepare(make_tiny_recipe(), source, tmp_path / "a.pth")
    assert "\n" not in str(caught.value)
    assert str(tmp_path / "a.pth") in str(caught.value)


class Bomb:
    """A pickle that would create a file when it is loaded."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return open, (str(self.path), "w")


def test_code_is_refused_and_not_run(source: ImageSource, tmp_path: Path) -> None:
    torch.save({"state_dict": Bomb(tmp_path / "executed")}, tmp_path / "a.pth")
    with pytest.raises(InputError, match="was refused: it holds"):
        prepare(make_tiny_recipe(), source, tmp_path / "a.pth")
    assert not (tmp_path / "executed").exists()
