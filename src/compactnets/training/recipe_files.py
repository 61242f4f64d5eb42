"""Reading recipes: the files of the package, a user's own, and what the command line sets over them."""

from __future__ import annotations

from collections.abc import Iterable
from importlib import resources
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel, ValidationError

from compactnets.errors import InputError, did_you_mean
from compactnets.training.recipe import Recipe


def list_recipes() -> list[str]:
    """Return the names of the recipes in the package, such as ``cifar/muffnet``."""
    root = resources.files("compactnets") / "recipes"
    groups = sorted((entry for entry in root.iterdir() if entry.is_dir()), key=lambda entry: entry.name)
    return [
        f"{group.name}/{file.name.removesuffix('.yaml')}"
        for group in groups
        for file in sorted(group.iterdir(), key=lambda entry: entry.name)
        if file.name.endswith(".yaml")
    ]


def load_recipe(name: str, overrides: Iterable[str] = (), model: str | None = None) -> Recipe:
    """Read a recipe by its name in the package or the path of a YAML file.

    Args:
        overrides: ``key=value`` strings; nested keys with dots (``optimizer.nesterov=true``), values as YAML.
        model: replaces the recipe's network.

    Raises:
        InputError: no such recipe, not YAML, or a key or value that the recipe does not take.
    """
    settings = _read(name)
    if model is not None:
        settings["model"] = model
    # the rate of the file is for the batch of the file; a rate that is set besides is for the batch as it is now
    batch_size = settings.get("batch_size", Recipe.model_fields["batch_size"].default)
    overrides = list(overrides)
    for override in overrides:
        _apply(settings, override)
    changed = {override.partition("=")[0] for override in overrides}
    if "lr" not in changed:
        if settings.get("lr_batch_size") is None:  # null says the same as leaving it out
            settings["lr_batch_size"] = batch_size
    elif "lr_batch_size" not in changed:
        settings.pop("lr_batch_size", None)
    try:
        return Recipe.model_validate(settings)
    except ValidationError as error:
        raise InputError(f"recipe {name}: {_explain(error)}") from None


def _read(name: str) -> dict[str, Any]:
    path = Path(name)
    if path.suffix in (".yaml", ".yml"):
        if not path.is_file():
            raise InputError(f"no recipe file at {path}")
        text = path.read_text(encoding="utf-8")
    elif name in list_recipes():
        text = (resources.files("compactnets") / "recipes" / f"{name}.yaml").read_text(encoding="utf-8")
    else:
        known = list_recipes()
        raise InputError(f"no recipe {name!r}{did_you_mean(name, known)} (one of {', '.join(known)}, or a .yaml file)")
    try:
        settings = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise InputError(f"recipe {name} is not valid YAML: {' '.join(str(error).split())}") from None
    if not isinstance(settings, dict):
        raise InputError(f"recipe {name} must be a mapping of settings, found {type(settings).__name__}")
    return settings


def _apply(settings: dict[str, Any], override: str) -> None:
    key, equals, text = override.partition("=")
    if not equals or not key:
        raise InputError(f"--set takes key=value, such as epochs=2 or optimizer.nesterov=true, found {override!r}")
    try:
        value = yaml.safe_load(text)
    except yaml.YAMLError:
        raise InputError(f"--set {key}: the value {text!r} is not valid YAML") from None
    *parents, last = key.split(".")
    for parent in parents:
        settings = settings.setdefault(parent, {})
        if not isinstance(settings, dict):
            raise InputError(f"--set {key}: {parent} is a single value, not a group of settings")
    settings[last] = value


def _explain(error: ValidationError) -> str:
    """Say the first problem in one line, with the near match of a key that does not exist."""
    problem = error.errors()[0]
    path = [str(part) for part in problem["loc"]]
    key = ".".join(path)
    if problem["type"] == "extra_forbidden":
        section: Any = Recipe
        for part in path[:-1]:
            section = section.model_fields[part].annotation
        known = list(section.model_fields) if issubclass(section, BaseModel) else []
        return f"unknown key {key!r}{did_you_mean(path[-1], known) or '; known: ' + ', '.join(known)}"
    if problem["type"] == "missing":
        return f"the key {key!r} is missing"
    message = problem["msg"].removeprefix("Value error, ")
    stated = problem["type"] == "value_error"  # the package's own validators say what they found
    found = "" if stated else f", found {problem['input']!r}"
    return f"{key}: {message}{found}" if key else message
