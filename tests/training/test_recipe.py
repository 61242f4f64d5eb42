"""Recipes: the files of the package, overrides, and the one line that a wrong key gets."""

from __future__ import annotations

from pathlib import Path

import pytest

from compactnets import InputError, create_model
from compactnets.training.loop import lr_factor, make_optimizer
from compactnets.training.recipe import Optimizer, Recipe, Schedule, list_recipes, load_recipe


@pytest.mark.parametrize("name", list_recipes())
def test_every_recipe_loads_and_says_where_it_comes_from(name: str) -> None:
    recipe = load_recipe(name)
    create_model(recipe.model, **recipe.model_arguments)
    from importlib import resources

    text = (resources.files("compactnets") / "recipes" / f"{name}.yaml").read_text()
    head = " ".join(line for line in text.splitlines() if line.startswith("#"))
    for word in ("Source:", "Cost:", "Expected"):
        assert word in head, f"{name} does not state its {word}"


def test_muffnet_recipe_is_the_papers() -> None:
    """MuffNet, section 5.1."""
    recipe = load_recipe("cifar/muffnet")
    assert (recipe.epochs, recipe.batch_size, recipe.lr) == (300, 128, 0.1)
    assert (recipe.optimizer.momentum, recipe.optimizer.weight_decay) == (0.9, 1e-4)
    assert (recipe.schedule.name, recipe.schedule.warmup_epochs) == ("cosine", 0)
    assert (recipe.augment.crop, recipe.augment.pad, recipe.augment.flip) == ("pad", 4, True)


def test_menet_recipe_is_the_papers() -> None:
    """MENet, section IV-A1 and the repository's readme."""
    recipe = load_recipe("imagenet/menet")
    assert (recipe.epochs, recipe.batch_size, recipe.lr) == (120, 256, 0.1)
    assert (recipe.optimizer.momentum, recipe.optimizer.nesterov, recipe.optimizer.weight_decay) == (0.9, True, 4e-5)
    assert (recipe.schedule.name, recipe.schedule.step_epochs, recipe.schedule.gamma) == ("step", 30, 0.1)


def test_overrides_reach_nested_keys_and_keep_their_types() -> None:
    recipe = load_recipe(
        "cifar/muffnet",
        ["epochs=2", "optimizer.nesterov=true", "model_arguments.sharing=linear+none+none"],
        "muffnet_x1_0",
    )
    assert (recipe.epochs, recipe.optimizer.nesterov, recipe.model) == (2, True, "muffnet_x1_0")
    assert recipe.model_arguments == {"stem": "cifar", "sharing": "linear+none+none"}


@pytest.mark.parametrize(
    ("name", "overrides", "message"),
    [
        ("cifar/mufnet", [], "did you mean 'cifar/muffnet'"),
        ("missing.yaml", [], "no recipe file at missing.yaml"),
        ("cifar/muffnet", ["epoch=2"], "unknown key 'epoch'; did you mean 'epochs'"),
        ("cifar/muffnet", ["optimizer.nestrov=true"], "unknown key 'optimizer.nestrov'; did you mean 'nesterov'"),
        ("cifar/muffnet", ["augment.flips=true"], "unknown key 'augment.flips'; did you mean 'flip'"),
        ("cifar/muffnet", ["epochs=two"], "epochs: Input should be a valid integer"),
        ("cifar/muffnet", ["epochs=0"], "epochs: Input should be greater than 0, found 0"),
        ("cifar/muffnet", ["epochs=2", "schedule.warmup_epochs=5"], "schedule.warmup_epochs must be less than epochs"),
        ("cifar/muffnet", ["lr"], "--set takes key=value"),
        ("cifar/muffnet", ["lr.peak=2"], "lr is a single value"),
        ("cifar/muffnet", ["lr=[1"], "not valid YAML"),
        ("cifar/muffnet", ["augment.scale=[0.5, 2]"], "scale must be"),
    ],
)
def test_wrong_input_is_one_line(name: str, overrides: list[str], message: str) -> None:
    with pytest.raises(InputError) as error:
        load_recipe(name, overrides)
    assert message in str(error.value)
    assert "\n" not in str(error.value)


def test_a_file_must_be_a_mapping(tmp_path: Path) -> None:
    (tmp_path / "list.yaml").write_text("- a\n")
    (tmp_path / "broken.yaml").write_text("a: [1\n")
    (tmp_path / "empty.yaml").write_text("epochs: 3\n")
    with pytest.raises(InputError, match="must be a mapping of settings, found list"):
        load_recipe(str(tmp_path / "list.yaml"))
    with pytest.raises(InputError, match="is not valid YAML"):
        load_recipe(str(tmp_path / "broken.yaml"))
    with pytest.raises(InputError, match="the key 'model' is missing"):
        load_recipe(str(tmp_path / "empty.yaml"))


def test_a_saved_recipe_reads_back(tmp_path: Path) -> None:
    import yaml

    recipe = load_recipe("cifar/muffnet", ["epochs=7"])
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(recipe.model_dump(mode="json")))
    assert load_recipe(str(tmp_path / "recipe.yaml")) == recipe


@pytest.mark.parametrize(
    ("schedule", "epoch", "factor"),
    [
        (Schedule(name="cosine"), 0, 1.0),
        (Schedule(name="cosine"), 50, 0.5),
        (Schedule(name="cosine"), 100, 0.0),
        (Schedule(name="cosine", warmup_epochs=10), 5, 0.5),
        (Schedule(name="cosine", warmup_epochs=10), 10, 1.0),
        (Schedule(name="cosine", warmup_epochs=10), 55, 0.5),
        (Schedule(name="step", step_epochs=30), 29.9, 1.0),
        (Schedule(name="step", step_epochs=30), 30, 0.1),
        (Schedule(name="step", step_epochs=30), 90, 0.001),
        (Schedule(name="constant"), 77, 1.0),
    ],
)
def test_schedule(schedule: Schedule, epoch: float, factor: float) -> None:
    assert lr_factor(schedule, 100, epoch) == pytest.approx(factor, abs=1e-12)


def test_weight_decay_leaves_norm_and_bias_alone_when_told() -> None:
    model = create_model("shufflenet_g3_x0_25", num_classes=2)
    groups = make_optimizer(model, Optimizer(weight_decay=0.1, decay_norm_and_bias=False), lr=0.1).param_groups
    decayed = {id(p) for group in groups if group["weight_decay"] for p in group["params"]}
    for name, parameter in model.named_parameters():
        assert (id(parameter) in decayed) == (name.endswith("weight") and ".norm." not in name), name
    everything = make_optimizer(model, Optimizer(weight_decay=0.1), lr=0.1).param_groups
    assert all(group["weight_decay"] == 0.1 for group in everything)
    assert sum(len(group["params"]) for group in everything) == len(list(model.parameters()))


def test_recipe_is_frozen() -> None:
    recipe = Recipe(model="muffnet_x0_5", epochs=1)
    with pytest.raises(Exception, match="frozen"):
        recipe.epochs = 2  # type: ignore[misc]
