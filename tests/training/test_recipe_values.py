"""Every field of a recipe: values of another type or out of range are one line that names the field."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from compactnets import InputError
from compactnets.classification.cost import parse_arguments
from compactnets.classification.recipe import ClassificationRecipe
from compactnets.detection.recipe import DetectionRecipe
from compactnets.models import registry
from compactnets.models.backbone import create_backbone
from compactnets.models.registry import build_on_meta
from compactnets.training.recipe import RunRecipe
from compactnets.training.recipe_files import load_recipe

KINDS: dict[str, type[RunRecipe]] = {"cifar/muffnet": ClassificationRecipe, "small/ssd512": DetectionRecipe}
OPEN = ("model_arguments", "preprocess")  # mappings that the network and the data check


def load(name: str, *overrides: str) -> RunRecipe:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        if KINDS[name] is ClassificationRecipe:
            return load_recipe(ClassificationRecipe, name, overrides)
        return load_recipe(DetectionRecipe, name, overrides)


def fields(schema: dict[str, Any], definitions: dict[str, Any], path: str = "") -> Iterator[tuple[str, set[str]]]:
    """The dotted name of every leaf of a recipe's schema, with the JSON types that it takes."""
    for name, field in schema["properties"].items():
        options = field.get("anyOf", [field])
        for option in options:
            if "$ref" in option:
                inner = definitions[option["$ref"].rpartition("/")[2]]
                yield from fields(inner, definitions, f"{path}{name}.")
                break
        else:
            types = {option.get("type", "enum") for option in options}
            yield path + name, types | ({"enum"} if any("enum" in o or "const" in o for o in options) else set())


def leaves(*types: str) -> list[tuple[str, str]]:
    found = []
    for name, kind in KINDS.items():
        schema = kind.model_json_schema()
        found += [(name, key) for key, taken in fields(schema, schema["$defs"]) if taken & set(types)]
    return found


def refused(name: str, key: str, value: str) -> str:
    with pytest.raises(InputError) as error:
        load(name, f"{key}={value}")
    message = str(error.value)
    assert key.rpartition(".")[2] in message, value
    assert "\n" not in message
    assert len(message) < 700
    return message


def test_the_walk_meets_every_kind_of_field() -> None:
    found = {key for _, key in leaves("integer", "number", "boolean", "string", "array")}
    assert found >= {"lr", "seed", "optimizer.betas", "augment.scale", "ssd.ratios", "compile", "model", "mix.cutmix"}
    assert len(found) > 70


@pytest.mark.parametrize(("name", "key"), leaves("integer", "number"))
def test_numbers(name: str, key: str) -> None:
    for wrong in ("true", "'1'", "word", "on", "1_000", ".nan", ".inf", "-.inf", "1" + "0" * 30, "-1", "[1]", "{a: 1}"):
        refused(name, key, wrong)


@pytest.mark.parametrize(("name", "key"), leaves("integer"))
def test_integers_are_no_fractions(name: str, key: str) -> None:
    assert "10" in refused(name, key, "10.0")
    refused(name, key, "1.5")


@pytest.mark.parametrize(("name", "key"), leaves("boolean"))
def test_truth_is_written_true_or_false(name: str, key: str) -> None:
    for wrong in ("1", "0", "yes", "on", "'true'", "null"):
        assert "true or false" in refused(name, key, wrong)


@pytest.mark.parametrize(
    ("name", "key"), [leaf for leaf in leaves("string") if leaf[1] not in ("compile", "augment.flip")]
)
def test_text_is_text(name: str, key: str) -> None:
    for wrong in ("1", "true", "[a]", "''"):
        refused(name, key, wrong)


@pytest.mark.parametrize(("name", "key"), leaves("array"))
def test_lists_hold_numbers_within_range(name: str, key: str) -> None:
    for wrong in ("5", "word", "[true, true]", "['1', '1']", "[.nan, .nan]", "[-1, -1]", "[1" + "0" * 30 + "]"):
        refused(name, key, wrong)


@pytest.mark.parametrize(("name", "key"), [("cifar/muffnet", key) for key in OPEN])
def test_open_mappings_hold_finite_numbers(name: str, key: str) -> None:
    for wrong in ("5", "[1]", "{a: .nan}", "{a: [1, .inf]}"):
        refused(name, key, wrong)
    assert getattr(load(name, f"{key}={{a: [1e-1]}}"), key) == {"a": [0.1]}


@pytest.mark.parametrize(
    ("name", "override", "facts"),
    [
        ("cifar/muffnet", "optimizer=adamw", ("optimizer.name=adamw",)),
        ("cifar/muffnet", "schedule=step", ("schedule.name=step",)),
        ("cifar/muffnet", "mix=0.2", ("mix.mixup=",)),
        ("small/ssd512", "ssd=300", ("ssd.size=",)),
        ("cifar/muffnet", "momentum=0.5", ("'optimizer.momentum'",)),
        ("cifar/muffnet", "optimizer.lr=0.5", ("'lr'",)),
        ("cifar/muffnet", "optimizer={name: adamw, name: sgd}", ("'name'", "--set optimizer")),
        ("cifar/muffnet", "seed=99999999999999999999", ("seed", "99999999999999999999")),
        ("cifar/muffnet", "compile=fast", ("compile", "'max-autotune'", "'fast'")),
        ("cifar/muffnet", "lr.x=1", ("lr", "single value")),
        ("cifar/muffnet", "optimizer.name.x=1", ("optimizer.name",)),
        ("cifar/muffnet", "model_arguments.drop_rate.x.y=[", ("not valid YAML",)),
    ],
)
def test_what_was_probably_meant_is_said(name: str, override: str, facts: tuple[str, ...]) -> None:
    with pytest.raises(InputError) as error:
        load(name, override)
    for fact in facts:
        assert fact in str(error.value)


def test_yaml_1_2_reaches_lists_and_arguments() -> None:
    recipe = load("cifar/muffnet", "optimizer={name: adam, betas: [9e-1, 0.99]}", "model_arguments.drop_rate=1e-1")
    assert recipe.optimizer.betas == (0.9, 0.99)
    assert recipe.model_arguments["drop_rate"] == 0.1
    assert load("cifar/muffnet", "seed=9223372036854775807").seed == 2**63 - 1
    assert load("cifar/muffnet", "lr=1").lr == 1


def test_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    text = "# café\nmodel: muffnet_x0_5\nepochs: 2\n"
    file = tmp_path / "mine.yaml"
    file.write_bytes(text.encode("utf-8-sig"))
    assert load_recipe(ClassificationRecipe, file).epochs == load_recipe(ClassificationRecipe, str(file)).epochs == 2
    monkeypatch.setenv("HOME", str(tmp_path))
    assert load_recipe(ClassificationRecipe, "~/mine.yaml").epochs == 2
    for encoding in ("utf-16", "latin-1"):
        file.write_bytes(text.encode(encoding))
        with pytest.raises(InputError, match="UTF-8") as error:
            load_recipe(ClassificationRecipe, file)
        assert "mine.yaml" in str(error.value)
    file.write_text(text + "epochs: 3\n")
    with pytest.raises(InputError, match="'epochs'.*line 4"):
        load_recipe(ClassificationRecipe, file)
    file.unlink()
    file.mkdir()
    with pytest.raises(InputError, match="mine.yaml"):
        load_recipe(ClassificationRecipe, file)


WRONG = {
    "int": ("true", "'8'", "8.5", "[8]", "null"),
    "float": ("true", "'0.1'", "word", "[0.1]"),
    "str": ("1", "true", "[avg]", "{a: 1}"),
    "int | None": ("true", "'8'", "8.5", "word"),
    "str | Sequence[Any]": ("true", "1", "{a: 1}"),
    "Sequence[int]": ("true", "[true, 8, 8]", "[1.5]"),
    "Sequence[float]": ("true", "[true, 8, 8]", "[a]"),
    "Sequence[float | None] | None": ("true", "8", "[true, 8, 8]"),
    "Sequence[float | None]": ("true", "8", "[true, 8, 8]", "['8', 8, 8]", "{a: 1}"),
}
NETWORKS = ("menet_108_8x1_g3", "muffnet_x0_5", "shufflenet_g3_x0_25", "resnet15_38m", "googlenet")


def model_arguments() -> list[tuple[str, str, str]]:
    """Each argument of the networks, with values of other types than its constructor's."""
    found = []
    for name in NETWORKS:
        for key, hint in registry._hints(name).items():
            written = hint.__name__ if isinstance(hint, type) else str(hint)
            written = written.replace("collections.abc.", "").replace("typing.", "")
            if key not in ("options", "return"):
                found += [(name, key, value) for value in WRONG[written]]
    return found


def test_the_walk_meets_every_kind_of_argument() -> None:
    assert {key for _, key, _ in model_arguments()} >= {
        *("drop_rate", "num_classes", "global_pool", "stem", "expansion", "stem_channels", "widths", "reading"),
    }


def test_arguments_of_a_network_are_of_their_types() -> None:
    """Of the constructors' annotations: a boolean is no number, a number is no text."""
    for name, key, value in model_arguments():
        recipe = load_recipe(ClassificationRecipe, "cifar/muffnet", [f"model_arguments.{key}={value}"], name)
        with pytest.raises(InputError) as error:
            build_on_meta(name, recipe.model_arguments)
        assert key in str(error.value), (name, key, value)
        assert "\n" not in str(error.value)


def test_arguments_of_a_timm_backbone_are_of_their_types() -> None:
    for key, value in (("drop_rate", True), ("num_classes", "8")):
        with pytest.raises(InputError, match=key):
            create_backbone("resnet10t", {key: value})
    create_backbone("resnet10t", {"drop_rate": 0.1, "num_classes": 2})


def test_numbers_are_taken_where_text_is_not() -> None:
    for arguments in (
        {"drop_rate": 0},
        {"widths": [8, 32.0, 136]},
        {"widths": (8, 32, 136)},
        {"sharing": "none+none+none"},
    ):
        build_on_meta("muffnet_x0_5", arguments)


@pytest.mark.parametrize("name", KINDS)
def test_no_setting_is_set_twice(name: str) -> None:
    for first, second in (
        ("epochs=3", "epochs=2"),
        ("epochs=3", " epochs=3"),
        ("optimizer.name=sgd", "optimizer.name=adamw"),
        ("optimizer.name=adamw", "optimizer={name: sgd}"),  # the first would be lost
    ):
        with pytest.raises(InputError) as error:
            load(name, first, second)
        assert all(each.strip() in str(error.value) for each in (first, second)), error.value
        with pytest.raises(InputError):
            parse_arguments([first, second])
    assert load(name, "optimizer={name: adamw}", "optimizer.weight_decay=0.05").optimizer.name == "adamw"
    with pytest.raises(InputError, match=r"muffnet_x0_5.*muffnet_x1_0"):
        load_recipe(ClassificationRecipe, "cifar/muffnet", ["model=muffnet_x1_0"], "muffnet_x0_5")


def test_no_setting_is_a_path() -> None:
    """So ``~`` means nothing in a recipe: paths are options, in which it is expanded (tests/cli)."""
    for kind in KINDS.values():
        schema = str(kind.model_json_schema())
        assert "'format': 'path'" not in schema
