"""The form of a checkpoint's weights: what reads a checkpoint, begins with one or goes on from one keeps to it."""

from __future__ import annotations

import json
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from compactnets import InputError, create_model
from compactnets.classification.checkpoint import load_checkpoint
from compactnets.classification.legacy import convert
from compactnets.classification.preparation import prepare
from compactnets.classification.recipe import ClassificationRecipe
from compactnets.data import ImageSource
from compactnets.models.form import KEY, FormWarning, form_of
from compactnets.models.registry import build_on_meta
from compactnets.training.checkpoint import record_path
from compactnets.training.distributed import World
from compactnets.training.state import describe_run
from compactnets.training.step import Learner

from .helpers import TINY, digits_part

Write = Callable[..., Path]


@pytest.fixture(scope="module")
def source() -> ImageSource:
    return digits_part(40, 10)[0]


@pytest.fixture(autouse=True)
def _no_doubt() -> Any:
    """A record beside weights, or a run's description, says their form: nothing is unknown."""
    with warnings.catch_warnings():
        warnings.simplefilter("error", FormWarning)
        yield


def make_old(path: Path) -> Path:
    """Take the form out of the weights, as in files older than it."""
    tensors = load_file(path)
    del tensors[KEY]
    save_file(tensors, path, metadata={"format": "pt"})
    return path


def state_in(record: Path, stem: str) -> None:
    document = json.loads(record.read_text(encoding="utf-8"))
    document["arguments"]["stem"] = stem
    record.write_text(json.dumps(document), encoding="utf-8")


def test_an_old_checkpoint_has_the_form_of_its_record(tiny_checkpoint: Write) -> None:
    path = tiny_checkpoint()
    model, _ = load_checkpoint(path)
    old, _ = load_checkpoint(make_old(path))
    assert form_of(old) == form_of(model) == {"stem": "cifar"}
    x = torch.rand(2, 3, 16, 16)
    assert torch.equal(old(x), model(x))


def test_a_record_that_says_another_form_is_refused(tiny_checkpoint: Write) -> None:
    path = tiny_checkpoint()
    state_in(record_path(path), "imagenet")
    with pytest.raises(InputError, match='stem="cifar", not stem="imagenet"') as caught:
        load_checkpoint(path)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("old", [False, True])
def test_init_keeps_the_form(
    old: bool,
    tiny_checkpoint: Write,
    tiny_recipe: Callable[..., ClassificationRecipe],
    source: ImageSource,
    capsys: pytest.CaptureFixture[str],
) -> None:
    path = make_old(tiny_checkpoint()) if old else tiny_checkpoint()
    coloured = {"preprocess": {"size": 8, "mean": [0.5] * 3, "std": [0.5] * 3}}  # as the checkpoint's images
    kept = prepare(tiny_recipe(model_arguments={}, **coloured), source, path)
    assert form_of(kept.model) == {"stem": "cifar"} == {"stem": kept.arguments["stem"]}
    other = {"model_arguments": {"stem": "imagenet"}, **coloured}
    with pytest.raises(InputError, match='stem="cifar", not stem="imagenet"') as caught:
        prepare(tiny_recipe(**other), source, path)
    assert str(path) in str(caught.value)
    assert "init_form=any" in str(caught.value)
    capsys.readouterr()
    taken = prepare(tiny_recipe(**other, init_form="any"), source, path)
    told = capsys.readouterr()
    assert 'stem="cifar", not stem="imagenet"' in told.out + told.err
    assert form_of(taken.model) == {"stem": "imagenet"}
    assert torch.equal(taken.model.stem.conv.conv.weight, load_file(path)["stem.conv.conv.weight"])


def test_how_a_run_begins_is_no_part_of_what_goes_on(tiny_recipe: Callable[..., ClassificationRecipe]) -> None:
    """A run that began before the setting was there goes on."""
    assert "init_form" not in describe_run(tiny_recipe(), {})


def test_an_old_state_goes_on(tiny_recipe: Callable[..., ClassificationRecipe], source: ImageSource) -> None:
    recipe = tiny_recipe(ema_decay=0.9)
    prepared = prepare(recipe, source)
    learner = Learner(prepared.model, recipe, 2, objective=None, world=World())  # type: ignore[arg-type]
    state = learner.state_dict()
    assert form_of(learner.evaluated) == {"stem": "cifar"}
    for part in ("model", "ema"):
        state[part] = {key: value + 1 for key, value in state[part].items() if key != KEY}
    learner.load_state_dict(state)
    assert torch.equal(learner.evaluated.state_dict()["classifier.bias"], state["ema"]["classifier.bias"])


# the MENet repository's files, which are of one form


def to_repository(network: nn.Module) -> dict[str, Tensor]:
    """Give a network's tensors the names of the repository."""
    layers = {"merge": "s_merge", "evolve": "s_conv", "match": "s_evolve"}
    norms = {"merge": "s_bn_merge", "evolve": "s_bn_conv", "match": "s_bn_evolve"}
    state = {}
    for key, value in network.state_dict().items():
        parts = key.split(".")
        if parts[0] == "stem":
            state[f"features.init.{'bn' if parts[2] == 'norm' else 'conv'}.{parts[3]}"] = value
        elif parts[0] == "stages":
            layer, kind = parts[3], parts[4]
            name = layers.get(layer, layer) if kind == "conv" else norms.get(layer, f"bn_{layer}")
            state[f"features.stage_{int(parts[1]) + 1}_{int(parts[2]) + 1}.{name}.{parts[5]}"] = value
        elif parts[0] == "classifier":
            state[key] = value
    return state


def test_convert_refuses_another_form(tmp_path: Path) -> None:
    """The addition of Table VII has the tensors of the product, and the repository builds the product alone."""
    product = create_model("menet_228_12x1_g3")
    torch.save({"name": "228-MENet-12x1-group-3", "state_dict": to_repository(product)}, tmp_path / "a.pth.tar")
    convert(tmp_path / "a.pth.tar", "menet_228_12x1_g3", tmp_path / "a.safetensors")
    model, record = load_checkpoint(tmp_path / "a.safetensors")
    assert form_of(model) == {"stem": "imagenet", "fusion": "product"}
    assert form_of(build_on_meta(record.model, record.arguments)) == form_of(model)
    assert torch.equal(model.stem.conv.conv.weight, product.stem.conv.conv.weight)
    with pytest.raises(InputError, match='fusion="product", not fusion="add"'):
        convert(tmp_path / "a.pth.tar", "menet_228_12x1_add_g3", tmp_path / "b.safetensors")
    assert not (tmp_path / "b.safetensors").exists()


def test_the_tiny_network_of_these_tests_has_two_forms() -> None:
    one, two = (form_of(build_on_meta(TINY, {"stem": stem})) for stem in ("cifar", "imagenet"))
    assert one != two
