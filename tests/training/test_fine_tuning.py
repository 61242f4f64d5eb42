"""A backbone that is frozen at first, and learning rates by block."""

from __future__ import annotations

import json
import shutil
from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest
import torch
from timm.optim import create_optimizer_v2
from torch import Tensor, nn

from compactnets import InputError, api, create_model
from compactnets.classification.checkpoint import CheckpointRecord
from compactnets.classification.evaluation import Evaluation
from compactnets.classification.preparation import prepare
from compactnets.classification.setup import ClassificationObjective, ClassificationSetup
from compactnets.classification.task import TASK
from compactnets.data import ImageSource
from compactnets.data.loading import Batch
from compactnets.training.checkpoint import read_record
from compactnets.training.compiling import Compiling
from compactnets.training.distributed import World
from compactnets.training.interruption import Interrupted
from compactnets.training.optimization import make_optimizer
from compactnets.training.recipe import Optimizer
from compactnets.training.state import Progress
from compactnets.training.step import Learner

from .helpers import TINY, digits_part, make_tiny_recipe, metrics, stop_after, weights
from .processes import TOLERANCE, distance, run_processes

OPTIMIZERS = ("sgd", "adam", "adamw", "rmsprop", "adadelta", "muon")
STEPS = 2  # of an epoch


def network(**arguments: Any) -> nn.Module:
    torch.manual_seed(3)
    return create_model(TINY, stem="cifar", num_classes=10, in_chans=1, **arguments)


def batch(number: int) -> Batch:
    generator = torch.Generator().manual_seed(number)
    images = torch.randn(4, 1, 8, 8, generator=generator)
    return Batch(images, torch.randint(10, (4,), generator=generator), torch.arange(4))


def learner(model: nn.Module, **changes: Any) -> Learner:
    recipe = make_tiny_recipe(**{"epochs": 3, "batch_size": 4, **changes})
    return Learner(model, recipe, STEPS, ClassificationObjective(recipe, STEPS, num_classes=10), World())


def state(model: nn.Module) -> dict[str, Tensor]:
    return {key: value.clone() for key, value in model.state_dict().items()}


def changed(before: dict[str, Tensor], model: nn.Module) -> set[str]:
    return {key for key, value in model.state_dict().items() if not torch.equal(value, before[key])}


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_only_the_classifier_learns_while_the_rest_is_frozen(name: str) -> None:
    one = learner(network(drop_rate=0.2), freeze_epochs=1, ema_decay=0.9, optimizer={"name": name})
    for number in range(STEPS):
        before = state(one.model)
        one.model.train()  # as the loop does before every epoch
        one.step(batch(number), number)
        assert changed(before, one.model) == {"classifier.weight", "classifier.bias"}
    before = state(one.model)
    one.step(batch(9), STEPS)
    assert changed(before, one.model) == {key for key in before if key != "_extra_state"}
    assert all(module.training for module in one.model.modules())


@pytest.mark.parametrize("changes", [{}, {"channels_last": True, "kernels": "own"}])
def test_after_the_thaw_it_learns_as_if_it_had_never_been_frozen(changes: dict[str, Any]) -> None:
    """Without momentum, a step depends on the weights alone: a fresh learner with them takes the same one."""
    settings: dict[str, Any] = {"optimizer": {"momentum": 0}, **changes}
    frozen = learner(network(), freeze_epochs=1, **settings)
    for number in range(STEPS):
        frozen.step(batch(number), number)
    plain = learner(deepcopy(frozen.model), **settings)
    for parameter in plain.model.parameters():
        parameter.requires_grad_(True)
    plain.model.train()
    for one in (frozen, plain):
        for number in range(STEPS, 2 * STEPS):
            one.step(batch(number), number)
    assert not changed(state(plain.model), frozen.model)


def test_what_never_learns_is_not_thawed() -> None:
    model = network()
    model.stem.conv.conv.weight.requires_grad_(False)  # as whitened kernels are
    one = learner(model, freeze_epochs=1)
    for number in range(2 * STEPS):
        one.step(batch(number), number)
    assert not model.stem.conv.conv.weight.requires_grad
    assert sum(not parameter.requires_grad for parameter in model.parameters()) == 1


def test_frozen_steps_do_not_decide_whether_to_compile() -> None:
    progress, times = Progress(), []
    compiling = Compiling(lambda: None, progress, total=100, device=torch.device("cpu"), first=3)
    compiling._wait = lambda: times.append(progress.step)  # type: ignore[method-assign]
    for _ in range(8):
        compiling.time(lambda: None)
        progress.step += 1
        compiling.decide()
        assert (progress.compiled is None) == (progress.step < 7)
    assert sorted(set(times)) == [3, 4, 5, 6]


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_the_factors_are_timms(name: str) -> None:
    model = network()
    theirs = create_optimizer_v2(model, opt="sgd", lr=0.1, weight_decay=1e-4, layer_decay=0.5)
    expected = {id(p): group["lr_scale"] for group in theirs.param_groups for p in group["params"]}
    groups = make_optimizer(model, Optimizer(name=name, layer_decay=0.5), lr=0.1).param_groups
    found = {id(p): group["lr_scale"] for group in groups for p in group["params"]}
    assert found == expected
    assert len(set(found.values())) > 4
    assert sum(len(group["params"]) for group in groups) == len(found)  # each in one group
    convs = {id(m.weight): m.groups for m in model.modules() if isinstance(m, nn.Conv2d)}
    for group in groups:
        for parameter, kernel_groups in zip(group["params"], group.get("kernels", ()), strict=False):
            assert convs[id(parameter)] == kernel_groups


def test_a_step_has_the_factor_of_its_block() -> None:
    """Of plain SGD: with a factor of 0.5 per block, the stem moves by the gradient, the rate and that factor."""
    plain, decayed = network(), network()
    for model, decay in ((plain, 1.0), (decayed, 0.5)):
        settings = {"momentum": 0, "weight_decay": 0, "layer_decay": decay}
        learner(model, optimizer=settings, schedule={"name": "constant"}).step(batch(0), 0)
    start = network()
    for key, factor in (("classifier.weight", 1.0), ("stem.conv.conv.weight", 0.5**17)):
        moved = [model.state_dict()[key] - start.state_dict()[key] for model in (plain, decayed)]
        torch.testing.assert_close(moved[1], moved[0] * factor, atol=2e-7, rtol=1e-3)


def test_networks_without_names_for_their_parts_are_refused() -> None:
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, 10))
    with pytest.raises(InputError, match="layer_decay needs a network that names its blocks .* Sequential does not"):
        learner(model, optimizer={"layer_decay": 0.8})
    with pytest.raises(InputError, match="freeze_epochs needs a network that names its classifier"):
        learner(model, freeze_epochs=1)


def test_fresh_weights_are_not_frozen(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="these are fresh: give --init CHECKPOINT, or --set freeze_epochs=0"):
        TASK.train(make_tiny_recipe(freeze_epochs=1), *digits_part(40, 10), tmp_path / "run")
    assert not (tmp_path / "run").exists()
    with pytest.raises(ValueError, match="freeze_epochs must be at most epochs = 1, found 2"):
        make_tiny_recipe(freeze_epochs=2)


@pytest.fixture(scope="module")
def init(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("init") / "a.pt"
    torch.save(network().state_dict(), path)
    return path


CHANGES: dict[str, Any] = {
    "epochs": 3,
    "freeze_epochs": 1,
    "ema_decay": 0.9,
    "model_arguments": {"stem": "cifar", "drop_rate": 0.3},
    "optimizer": {"name": "muon", "layer_decay": 0.9},
}


@pytest.fixture(scope="module")
def sources() -> tuple[ImageSource, ImageSource]:
    return digits_part(64, 10)


@pytest.fixture(scope="module")
def straight(init: Path, sources: tuple[ImageSource, ImageSource], tmp_path_factory: pytest.TempPathFactory) -> Path:
    output = tmp_path_factory.mktemp("straight") / "run"
    TASK.train(make_tiny_recipe(**CHANGES), *sources, output, init=init)
    return output


@pytest.mark.parametrize("step", [0, 1, 2])
def test_a_run_resumes_exactly_on_both_sides_of_the_thaw(
    step: int,
    init: Path,
    straight: Path,
    sources: tuple[ImageSource, ImageSource],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    recipe = make_tiny_recipe(**CHANGES)
    with monkeypatch.context() as patch:
        stop_after(patch, step)
        with pytest.raises(Interrupted):
            TASK.train(recipe, *sources, tmp_path / "run", init=init)
    TASK.train(recipe, *sources, tmp_path / "run", init=init)
    assert weights(tmp_path / "run") == weights(straight)


@pytest.mark.slow
def test_two_processes_freeze_and_thaw_alike(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    settings: dict[str, Any] = {"epochs": 2, "lr": 0.005, "freeze_epochs": 1}
    allow = "import compactnets.classification.setup as s; s.ClassificationSetup._check_tuning = lambda self: None"
    monkeypatch.setattr(ClassificationSetup, "_check_tuning", lambda self: None)  # fresh weights do here
    TASK.train(make_tiny_recipe(**settings), *digits_part(100, 41), tmp_path / "one")
    assert distance(run_processes(tmp_path, 2, before=allow, **settings), tmp_path / "one") < TOLERANCE


PATIENT: dict[str, Any] = {"epochs": 6, "patience": 2, "seed": 1}


def by_script(monkeypatch: pytest.MonkeyPatch, *values: float) -> None:
    """Have the evaluation after each epoch give the next of the values."""

    def evaluate(self: ClassificationSetup, model: nn.Module, loader: Any, world: World, title: str, stop: Any) -> Any:
        epoch = int(title.split()[1].split("/")[0])
        return Evaluation(1000, round(10 * values[epoch - 1]), 1000, 0.5, 1.0)

    monkeypatch.setattr(ClassificationSetup, "evaluate", evaluate)


def test_a_run_stops_early_and_keeps_the_best(
    sources: tuple[ImageSource, ImageSource],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    by_script(monkeypatch, 30, 40, 40, 35, 90, 10)
    recipe, run = make_tiny_recipe(**PATIENT), tmp_path / "run"
    result = TASK.train(recipe, *sources, run)
    assert (result.epochs, result.best, result.stopped_early) == (4, 40.0, True)
    assert result.to_dict()["stopped_early"] is True
    told = (
        "stopped early after epoch 4 of 6, because 2 evaluations (patience) brought nothing better than top-1 40.00 % "
        "of epoch 2, which best.safetensors holds"
    )
    assert capsys.readouterr().err.count(told) == 1
    assert len(metrics(run)) == 4
    best = json.loads((run / "best.json").read_text(encoding="utf-8"))
    assert best["training"]["epoch"] == 2
    files = {path: path.read_bytes() for path in run.rglob("*.safetensors")}
    again = TASK.train(recipe, *sources, run)  # the same command says what the run was, and trains nothing
    assert again.to_dict() == result.to_dict()
    said = capsys.readouterr().err
    assert "holds this run, which ended by itself" in said
    assert told in said
    assert {path: path.read_bytes() for path in run.rglob("*.safetensors")} == files
    # with more patience it trains on as if it had always had it
    patient = make_tiny_recipe(**{**PATIENT, "patience": 3})
    shutil.copytree(run, tmp_path / "on")
    assert TASK.train(patient, *sources, tmp_path / "on").best == 90.0
    TASK.train(patient, *sources, tmp_path / "straight")
    assert weights(tmp_path / "on") == weights(tmp_path / "straight")


def test_the_count_survives_a_stop(
    sources: tuple[ImageSource, ImageSource], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    by_script(monkeypatch, 30, 20, 10, 90)
    recipe = make_tiny_recipe(**{**PATIENT, "epochs": 4})
    with monkeypatch.context() as patch:
        stop_after(patch, 2 * 2)  # the first step of the third epoch; two steps an epoch
        with pytest.raises(Interrupted):
            TASK.train(recipe, *sources, tmp_path / "run")
    result = TASK.train(recipe, *sources, tmp_path / "run")
    assert (result.epochs, result.best, result.stopped_early) == (3, 30.0, True)


def test_frozen_epochs_do_not_count(
    init: Path, sources: tuple[ImageSource, ImageSource], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    by_script(monkeypatch, 30, 20, 20, 20, 40)
    recipe = make_tiny_recipe(**{**PATIENT, "epochs": 5, "freeze_epochs": 3})
    assert TASK.train(recipe, *sources, tmp_path / "run", init=init).epochs == 5


@pytest.fixture
def trained(tmp_path: Path) -> Path:
    """A checkpoint of digits at 12 pixels, normalised in its own way."""
    settings = ["epochs=1", "batch_size=8", "preprocess.size=12", "preprocess.mean=[0.3]", "schedule.name=constant"]
    data = digits_part(16, 8)
    recipe = api.open_recipe("cifar/short", [*settings, "augment.crop=none", "compile=false"], TINY)[1]
    TASK.train(recipe, *data, tmp_path / "first", init=None, world=World(), options=TASK.take("train", {}))
    return tmp_path / "first/last.safetensors"


def test_network_and_preprocessing_are_those_of_the_initial_weights(trained: Path, tmp_path: Path) -> None:
    settings = ["epochs=1", "batch_size=8", "kernels=torch"]
    task, recipe = api.open_recipe("finetune", settings, init=trained)
    assert recipe.model == TINY
    data = digits_part(16, 8)
    task.train(recipe, *data, tmp_path / "next", init=trained, world=World(), options=TASK.take("train", {}))
    record = read_record(tmp_path / "next/last.safetensors", CheckpointRecord)
    assert (record.model, record.arguments) == (TINY, read_record(trained, CheckpointRecord).arguments)
    assert record.preprocess == read_record(trained, CheckpointRecord).preprocess
    assert (record.preprocess["size"], record.preprocess["mean"]) == (12, [0.3])
    larger = recipe.model_copy(update={"preprocess": {"size": 16}})
    again = task.setup(larger, *data, tmp_path, trained, World(), TASK.take("train", {}))
    assert (again.preprocess.size, again.preprocess.mean) == (16, (0.3,))  # a setting of one's own is above it


def test_a_state_dict_needs_the_name_of_its_network(trained: Path, tmp_path: Path) -> None:
    bare = tmp_path / "bare.pth"
    torch.save(network().state_dict(), bare)
    with pytest.raises(InputError, match="bare.pth has no record .* --model"):
        api.open_recipe("finetune", init=bare)
    recipe = api.open_recipe("finetune", ["model_arguments.stem=cifar"], model=TINY, init=bare)[1]
    prepared = prepare(recipe, digits_part(16, 8)[0], bare)
    assert prepared.preprocess == digits_part(16, 8)[0].default_preprocess


def test_fine_tuning_without_weights_is_one_line(trained: Path) -> None:
    for init, changes, message in (
        (None, {}, "starts from trained weights: give --init"),
        (trained, {"settings": ["model=muffnet_x0_5"]}, f"the network is {TINY}, but --set model=muffnet_x0_5"),
    ):
        with pytest.raises(InputError, match=message):
            api.open_recipe("finetune", init=init, **changes)
    recipe = api.open_recipe("finetune", model=TINY)[1]
    with pytest.raises(InputError, match="preprocess_of is init, but there is no --init"):
        prepare(recipe, digits_part(16, 8)[0])
    with pytest.raises(InputError, match=f"checkpoint of {TINY}, the recipe trains muffnet_x0_5"):
        prepare(api.open_recipe("finetune", model="muffnet_x0_5")[1], digits_part(16, 8)[0], trained)
