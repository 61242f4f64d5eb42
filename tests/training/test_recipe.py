"""Recipes: every file states its sources and takes a step, overrides arrive, and wrong input is one line."""

from __future__ import annotations

import re
import shlex
import warnings
from importlib import resources
from pathlib import Path
from typing import Any

import pytest
import torch
from pydantic import ValidationError

from compactnets import InputError, api, create_model
from compactnets.classification.recipe import FROM_INIT, ClassificationRecipe, Mix
from compactnets.classification.setup import ClassificationObjective
from compactnets.data.loading import Batch
from compactnets.models.registry import list_models
from compactnets.training.distributed import World
from compactnets.training.recipe import Optimizer, Schedule
from compactnets.training.recipe_files import list_recipes, load_recipe, read_recipe
from compactnets.training.step import Learner
from compactnets.values import dump_yaml

PAGE = Path(__file__).parents[2] / "docs" / "menet_repository.md"


def head(name: str) -> str:
    """The comment that a recipe's file begins with."""
    text = (resources.files("compactnets") / "recipes" / f"{name}.yaml").read_text()
    return " ".join(line.removeprefix("# ") for line in text.partition("model:")[0].splitlines())


def test_the_recipes_are_there() -> None:
    assert list_recipes() == [
        "camvid/lraspp",
        "cifar/fast",
        "cifar/modern",
        "cifar/muffnet",
        "cifar/qat",
        "cifar/short",
        "cifar/teacher",
        "coco/ssd512",
        "digits/quickstart",
        "finetune",
        "imagenet/menet",
        "imagenet/modern",
        "imagenet/muffnet",
        "multilabel",
        "small/faster_rcnn",
        "small/lraspp",
        "small/ssd512",
        "voc/deeplabv3",
        "voc/faster_rcnn",
    ]


@pytest.mark.parametrize("name", list_recipes("classification"))
def test_every_recipe_loads_and_says_where_it_comes_from(name: str) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # a setting without effect
        recipe = load_recipe(ClassificationRecipe, name)
    assert recipe.peak_lr == recipe.lr
    for word in ("Source:", "Cost:", "Expected"):
        assert word in head(name), f"{name} does not state its {word}"


@pytest.mark.parametrize("name", list_recipes("classification"))
def test_every_recipe_takes_a_step(name: str) -> None:
    """Its own network at a small size, four random images, in the epoch after the warm-up."""
    model_name = "muffnet_x0_5" if read_recipe(name)["model"] == FROM_INIT else None
    recipe = load_recipe(ClassificationRecipe, name, ["compile=false"], model_name)
    small = recipe.model_arguments.get("stem") == "cifar"
    size, classes = (16, 5) if small else (64, 5)
    torch.manual_seed(0)
    model = create_model(recipe.model, **recipe.model_arguments, num_classes=classes)
    before = {key: value.clone() for key, value in model.named_parameters()}
    learner = Learner(model, recipe, 1, ClassificationObjective(recipe, 1, classes), World())
    learner.model.train()
    batch = Batch(torch.randn(4, 3, size, size), torch.tensor([0, 1, 2, 4]), torch.arange(4))
    step = int(recipe.schedule.warmup_epochs) + 1
    (losses,) = learner.step(batch, step).values()
    assert losses.shape == (4,)
    assert losses.isfinite().all()
    for key, value in learner.model.named_parameters():
        assert value.isfinite().all(), key
    moved = [key for key, value in learner.model.named_parameters() if not torch.equal(value, before[key])]
    assert len(moved) > 0.8 * len(before)  # a scale of one needs more than a rounding
    assert (learner.evaluated is learner.model) == (recipe.ema_decay is None)
    assert all(value.isfinite().all() for value in learner.evaluated.state_dict().values())


def test_cifar_muffnet_is_the_papers() -> None:
    """MuffNet, section 5.1, CIFAR."""
    recipe = load_recipe(ClassificationRecipe, "cifar/muffnet")
    assert (recipe.epochs, recipe.batch_size, recipe.lr) == (300, 128, 0.1)
    assert (recipe.optimizer.name, recipe.optimizer.momentum, recipe.optimizer.weight_decay) == ("sgd", 0.9, 1e-4)
    assert (recipe.schedule.name, recipe.schedule.end) == ("cosine", 0)
    assert (recipe.augment.crop, recipe.augment.pad, recipe.augment.flip) == ("pad", 4, True)
    assert not recipe.mix.active
    assert recipe.model_arguments == {"stem": "cifar"}


def test_imagenet_muffnet_is_the_papers() -> None:
    """MuffNet, section 5.1, ImageNet, and He et al. 2018 for what it leaves to them."""
    recipe = load_recipe(ClassificationRecipe, "imagenet/muffnet")
    assert (recipe.batch_size, recipe.lr, recipe.optimizer.weight_decay) == (1024, 0.5, 4e-4)
    assert (recipe.optimizer.name, recipe.optimizer.momentum, recipe.optimizer.nesterov) == ("sgd", 0.9, False)
    assert not recipe.optimizer.decay_norm_and_bias
    assert (recipe.schedule.name, recipe.schedule.warmup_epochs, recipe.schedule.end) == ("cosine", 5, 0)
    assert (recipe.epochs, recipe.label_smoothing) == (120, 0.1)
    assert (recipe.augment.crop, recipe.augment.scale, recipe.augment.flip) == ("resized", (0.08, 1.0), True)
    assert recipe.augment.ratio == (3 / 4, 4 / 3)
    assert load_recipe(ClassificationRecipe, "imagenet/muffnet", ["lr=0.4"]).peak_lr == 0.4  # the ablations


def test_imagenet_menet_is_the_papers() -> None:
    """MENet, section IV-A1 and the repository's readme."""
    recipe = load_recipe(ClassificationRecipe, "imagenet/menet")
    assert (recipe.epochs, recipe.batch_size, recipe.lr) == (120, 256, 0.1)
    assert (recipe.optimizer.name, recipe.optimizer.momentum, recipe.optimizer.nesterov) == ("sgd", 0.9, True)
    assert (recipe.optimizer.weight_decay, recipe.optimizer.decay_norm_and_bias) == (4e-5, True)
    assert (recipe.schedule.name, recipe.schedule.step_epochs, recipe.schedule.gamma) == ("step", 30, 0.1)
    assert recipe.schedule.warmup_epochs == 0
    assert (recipe.augment.crop, recipe.augment.scale, recipe.augment.color_jitter) == ("resized", (0.36, 1.0), 0)


@pytest.mark.parametrize(
    ("name", "overrides"),
    [
        ("cifar/modern", ["epochs=20"]),
        ("cifar/modern", ["epochs=30"]),
        ("imagenet/modern", ["mix.mixup=0.2"]),
        ("imagenet/muffnet", ["epochs=200", "mix.mixup=0.2"]),
        ("imagenet/muffnet", ["optimizer.weight_decay=4e-5"]),
        ("cifar/muffnet", ["schedule.warmup_epochs=5"]),
    ],
)
def test_what_the_heads_suggest_can_be_set(name: str, overrides: list[str], recwarn: pytest.WarningsRecorder) -> None:
    recipe = load_recipe(ClassificationRecipe, name, overrides)
    assert recipe != load_recipe(ClassificationRecipe, name)
    assert not recwarn.list


def overrides_of(text: str) -> list[str]:
    words = shlex.split(text)
    return [value for flag, value in zip(words, words[1:], strict=False) if flag == "--set"]


def test_the_page_on_the_menet_repository_names_what_exists() -> None:
    text = PAGE.read_text(encoding="utf-8")
    cells = re.findall(r"`(--set [^`]*)`", text)
    lines = re.findall(r"^(?:compactnets|torchrun .* -m compactnets) train imagenet/menet.*$", text, flags=re.MULTILINE)
    assert len(cells) > 30
    assert len(lines) >= 2
    for line in (*cells, *lines):
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            recipe = load_recipe(ClassificationRecipe, "imagenet/menet", overrides_of(line))
        if recipe.model_arguments:
            create_model(recipe.model, **recipe.model_arguments)
    models = set(re.findall(r"--model ([a-z]\w+)", text))
    assert len(models) == 17  # the files of its model-config
    assert models <= set(list_models())


def test_overrides_reach_nested_keys_and_keep_their_types() -> None:
    recipe = load_recipe(
        ClassificationRecipe,
        "cifar/muffnet",
        ["epochs=2", "optimizer.nesterov=true", "model_arguments.sharing=linear+none+none"],
        "muffnet_x1_0",
    )
    assert (recipe.epochs, recipe.optimizer.nesterov, recipe.model) == (2, True, "muffnet_x1_0")
    assert recipe.model_arguments == {"stem": "cifar", "sharing": "linear+none+none"}


@pytest.mark.parametrize(
    ("overrides", "lr", "reference", "peak"),
    [
        ([], 0.1, 256, 0.1),
        (["batch_size=1024"], 0.1, 256, 0.4),
        (["batch_size=1024", "lr=0.3"], 0.3, 1024, 0.3),
        (["lr=0.3", "batch_size=1024"], 0.3, 1024, 0.3),
        (["batch_size=1024", "lr=0.3", "lr_batch_size=512"], 0.3, 512, 0.6),
        (["batch_size=1024", "lr_batch_size=512"], 0.1, 512, 0.2),
        (["batch_size=1024", "lr_scaling=none"], 0.1, 256, 0.1),
        (["batch_size=1024", "lr_scaling=sqrt"], 0.1, 256, 0.2),
        (["batch_size=1024", "optimizer={name: adamw}"], 0.1, 256, 0.2),
    ],
)
def test_the_files_batch_is_the_rates_reference(overrides: list[str], lr: float, reference: int, peak: float) -> None:
    recipe = load_recipe(ClassificationRecipe, "imagenet/menet", overrides)
    assert (recipe.lr, recipe.lr_batch_size) == (lr, reference)
    assert recipe.peak_lr == pytest.approx(peak)


def test_a_file_without_a_batch_has_the_default_as_reference(tmp_path: Path) -> None:
    (tmp_path / "recipe.yaml").write_text("model: muffnet_x0_5\nepochs: 1\nlr: 0.2\n")
    assert load_recipe(
        ClassificationRecipe, str(tmp_path / "recipe.yaml"), ["batch_size=256"]
    ).peak_lr == pytest.approx(0.4)


@pytest.mark.parametrize(
    ("section", "settings", "warning"),
    [
        (Optimizer, {"name": "adamw", "momentum": 0.5}, "optimizer: momentum has no effect with name = 'adamw'"),
        (Optimizer, {"name": "rmsprop", "nesterov": True}, "optimizer: nesterov has no effect with name = 'rmsprop'"),
        (Optimizer, {"betas": [0.5, 0.9]}, "optimizer: betas has no effect with name = 'sgd'"),
        (Optimizer, {"alpha": 0.5}, "optimizer: alpha has no effect with name = 'sgd'"),
        (Optimizer, {"name": "adam", "rho": 0.5}, "optimizer: rho has no effect with name = 'adam'"),
        (Optimizer, {"eps": 1e-3}, "optimizer: eps has no effect with name = 'sgd'"),
        (Optimizer, {"name": "adadelta", "centered": True}, "optimizer: centered has no effect with name = 'adadelta'"),
        (Schedule, {"name": "step", "end": 0.1}, "schedule: end has no effect with name = 'step'"),
        (Schedule, {"step_epochs": 5}, "schedule: step_epochs has no effect with name = 'cosine'"),
        (Schedule, {"milestones": [5]}, "schedule: milestones has no effect with name = 'cosine'"),
        (Schedule, {"name": "constant", "gamma": 0.5}, "schedule: gamma has no effect with name = 'constant'"),
        (Mix, {"probability": 0.5}, "mix: probability has no effect with mixup and cutmix both zero"),
        (Mix, {"last_epochs_without": 5}, "mix: last_epochs_without has no effect with mixup and cutmix both zero"),
        (Mix, {"mixup": 0.2, "switch_probability": 0.1}, "mix: switch_probability has no effect unless mixup and"),
        (ClassificationRecipe, {"max_skipped": 5}, "max_skipped has no effect with on_error = 'raise'"),
        (
            ClassificationRecipe,
            {"schedule": {"name": "step"}, "epochs": 30},
            "step_epochs = 30 has no effect in 30 epochs",
        ),
        (
            ClassificationRecipe,
            {"augment": {"scale": [0.5, 1]}},
            r"scale = \(0.5, 1.0\) has no effect with crop = 'none'",
        ),
    ],
)
def test_a_setting_without_effect_warns(section: type[Any], settings: dict[str, Any], warning: str) -> None:
    required = {"model": "muffnet_x0_5", "epochs": 40} if section is ClassificationRecipe else {}
    with pytest.warns(UserWarning, match=warning):
        section.model_validate({**required, **settings})


@pytest.mark.parametrize("name", list_recipes("classification"))
def test_a_saved_recipe_reads_back_without_a_warning(name: str, tmp_path: Path) -> None:
    """It states every default, those that nothing reads too."""
    recipe = load_recipe(ClassificationRecipe, name, ["seed=7"])
    (tmp_path / "recipe.yaml").write_text(dump_yaml(recipe.model_dump(mode="json")))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert load_recipe(ClassificationRecipe, str(tmp_path / "recipe.yaml")) == recipe


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
        (
            "cifar/modern",
            ["epochs=15", "mix.last_epochs_without=15"],
            "mix.last_epochs_without must be less than epochs = 15, found 15",
        ),
        ("cifar/modern", ["batch_size=127"], "batch_size must be even"),
        ("cifar/muffnet", ["schedule.name=multistep"], "needs milestones"),
        ("cifar/muffnet", ["schedule={name: multistep, milestones: [9, 3]}"], "must be rising positive epochs"),
        ("cifar/muffnet", ["schedule={name: multistep, milestones: [300]}"], "must be below epochs = 300, found 300"),
        ("cifar/muffnet", ["optimizer={name: adam, betas: [0.9, 1.0]}"], "betas must be two numbers from 0 to below 1"),
        ("cifar/muffnet", ["optimizer.name=lamb"], "optimizer.name: Input should be 'sgd'"),
        ("cifar/muffnet", ["lr"], "--set takes KEY=VALUE"),
        ("cifar/muffnet", ["lr.peak=2"], "lr is a single value"),
        ("cifar/muffnet", ["lr=[1"], "not valid YAML"),
        ("cifar/muffnet", ["lr=.nan"], "lr: Input should be"),
        ("cifar/muffnet", ["augment.scale=[0.5, 2]"], "scale must be"),
    ],
)
def test_wrong_input_is_one_line(name: str, overrides: list[str], message: str) -> None:
    with pytest.raises(InputError) as error:
        load_recipe(ClassificationRecipe, name, overrides)
    assert message in str(error.value)
    assert "\n" not in str(error.value)


def test_a_file_must_be_a_mapping(tmp_path: Path) -> None:
    (tmp_path / "list.yaml").write_text("- a\n")
    (tmp_path / "broken.yaml").write_text("a: [1\n")
    (tmp_path / "empty.yaml").write_text("epochs: 3\n")
    with pytest.raises(InputError, match="must be a mapping of settings, found list"):
        load_recipe(ClassificationRecipe, str(tmp_path / "list.yaml"))
    with pytest.raises(InputError, match="is not valid YAML"):
        load_recipe(ClassificationRecipe, str(tmp_path / "broken.yaml"))
    with pytest.raises(InputError, match="the key 'model' is missing"):
        load_recipe(ClassificationRecipe, str(tmp_path / "empty.yaml"))


def test_recipe_is_frozen() -> None:
    recipe = ClassificationRecipe(model="muffnet_x0_5", epochs=1)
    with pytest.raises(ValidationError, match="frozen"):
        recipe.epochs = 2  # type: ignore[misc]


def test_epochs_that_are_set_take_the_floor_of_the_file_away() -> None:
    from compactnets.detection.recipe import DetectionRecipe
    from compactnets.training.recipe_files import load_recipe

    name = "small/ssd512"
    assert load_recipe(DetectionRecipe, name).min_steps == 1000
    assert load_recipe(DetectionRecipe, name, ["epochs=2"]).min_steps is None
    assert load_recipe(DetectionRecipe, name, ["epochs=2", "min_steps=50"]).min_steps == 50


@pytest.mark.parametrize("name", list_recipes())
def test_every_recipe_can_be_run_for_an_epoch(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    given = read_recipe(name)
    init = "muffnet_x0_5.cifar10" if given["model"] == FROM_INIT else None
    recipe = api.open_recipe(name, ["epochs=1"], init=init)[1]
    assert (recipe.epochs, recipe.min_steps) == (1, None)
    said = capsys.readouterr().err
    schedule = given.get("schedule", {})
    planned = schedule.get("warmup_epochs", 0) >= 1
    assert ("schedule.warmup_epochs is 0.1, not the recipe's" in said) == planned
    assert recipe.schedule.warmup_epochs == (0.1 if planned else schedule.get("warmup_epochs", 0))
    assert ("the learning rate is constant" in said) == ("milestones" in schedule)
    assert ("mix.last_epochs_without is 0" in said) == ("mix" in given)


def test_milestones_before_the_end_are_kept(capsys: pytest.CaptureFixture[str]) -> None:
    recipe = api.open_recipe("coco/ssd512", ["epochs=180"])[1]
    assert recipe.schedule.milestones == (160,)
    assert "schedule.milestones is [160], not the recipe's [160, 200]" in capsys.readouterr().err
    with pytest.raises(InputError, match="schedule.milestones must be below epochs = 100, found 160"):
        api.open_recipe("coco/ssd512", ["epochs=100", "schedule.milestones=[50, 160]"])


def write(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
    return path


def test_a_file_extends_a_recipe(tmp_path: Path) -> None:
    middle = "extends: cifar/modern\nepochs: 20\noptimizer: {weight_decay: 1.0e-3}\nschedule: {name: constant}\n"
    write(tmp_path / "deeper/middle.yaml", middle)
    top = write(tmp_path / "top.yaml", "extends: deeper/middle.yaml\nlr: 0.2\nmix: null\n")
    settings, parent = read_recipe(top), read_recipe("cifar/modern")
    assert settings["optimizer"] == {**parent["optimizer"], "weight_decay": 1e-3}
    assert settings["schedule"] == {"name": "constant"}  # the warm-up was the cosine's
    assert (settings["epochs"], settings["lr"], settings["mix"]) == (20, 0.2, None)
    assert settings["augment"] == parent["augment"]
    assert "extends" not in settings
    recipe = load_recipe(ClassificationRecipe, tmp_path / "deeper/middle.yaml")
    assert recipe.label_smoothing == parent["label_smoothing"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("extends: a.yaml", r"extends itself: .*a\.yaml -> .*b\.yaml -> .*a\.yaml$"),
        ("extends: c.yaml", r"no recipe file at .*c\.yaml, which .*b\.yaml extends$"),
        ("extends: cifar/moder", r"no recipe 'cifar/moder', which .*b\.yaml extends; did you mean 'cifar/modern'"),
        ("extends: [cifar/modern]", "extends is the name of a recipe or of a .yaml file, found"),
    ],
)
def test_a_parent_that_cannot_be_used_is_one_line(text: str, message: str, tmp_path: Path) -> None:
    write(tmp_path / "b.yaml", text)
    with pytest.raises(InputError, match=message) as caught:
        read_recipe(write(tmp_path / "a.yaml", "extends: b.yaml"))
    assert "\n" not in str(caught.value)
