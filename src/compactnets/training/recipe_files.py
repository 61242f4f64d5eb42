"""Reading recipes: the files of the package, a user's own, and what the command line sets over them."""

from __future__ import annotations

from collections.abc import Iterable
from importlib import resources
from pathlib import Path
from typing import Any, TypeVar

import yaml
from pydantic import BaseModel, ValidationError

from compactnets.errors import InputError, did_you_mean
from compactnets.training.recipe import Recipe, RunRecipe

Kind = TypeVar("Kind", bound=RunRecipe)

DETECTORS = "detector"  # the key that only recipes of detectors have, and all of them


def list_recipes(*, detectors: bool | None = None) -> list[str]:
    """Return the names of the recipes in the package, such as ``cifar/muffnet``.

    Args:
        detectors: only those of detectors, or only those of classifiers; both where it is not given.
    """
    names = _list_all()
    return [name for name in names if detectors is None or (DETECTORS in _read(name)) == detectors]


def _list_all() -> list[str]:
    root = resources.files("compactnets") / "recipes"
    groups = sorted((entry for entry in root.iterdir() if entry.is_dir()), key=lambda entry: entry.name)
    return [
        f"{group.name}/{file.name.removesuffix('.yaml')}"
        for group in groups
        for file in sorted(group.iterdir(), key=lambda entry: entry.name)
        if file.name.endswith(".yaml")
    ]


def load_recipe(name: str, overrides: Iterable[str] = (), model: str | None = None) -> Recipe:
    """Read the recipe of a classifier; see :func:`load`."""
    if DETECTORS in (settings := _read(name)):
        raise InputError(f"recipe {name} trains a detector: 'compactnets detect train {name}'")
    return load(Recipe, settings, name, overrides, model)


def load_detection_recipe(kind: type[Kind], name: str, overrides: Iterable[str] = (), model: str | None = None) -> Kind:
    """Read the recipe of a detector; see :func:`load`."""
    if DETECTORS not in (settings := _read(name)):
        known = ", ".join(list_recipes(detectors=True))
        raise InputError(
            f"recipe {name} has no detector: expected one of {known}, or a .yaml file with the key detector"
        )
    return load(kind, settings, name, overrides, model)


def load(
    kind: type[Kind], settings: dict[str, Any], name: str, overrides: Iterable[str] = (), model: str | None = None
) -> Kind:
    """Make a recipe of the settings of a file.

    Args:
        kind: its class.
        settings: what the file says; changed in place.
        name: what errors call it.
        overrides: ``key=value`` strings; nested keys with dots (``optimizer.nesterov=true``), values as YAML.
        model: replaces the recipe's network.

    Raises:
        InputError: no such recipe, not YAML, or a key or value that the recipe does not take.
    """
    if model is not None:
        settings["model"] = model
    # the rate of the file is for the batch of the file; a rate that is set besides is for the batch as it is now
    batch_size = settings.get("batch_size", kind.model_fields["batch_size"].default)
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
        return kind.model_validate(settings)
    except ValidationError as error:
        raise InputError(f"recipe {name}: {_explain(kind, error)}") from None


def _read(name: str) -> dict[str, Any]:
    path = Path(name)
    if path.suffix in (".yaml", ".yml"):
        if not path.is_file():
            raise InputError(f"no recipe file at {path}")
        text = path.read_text(encoding="utf-8")
    elif name in _list_all():
        text = (resources.files("compactnets") / "recipes" / f"{name}.yaml").read_text(encoding="utf-8")
    else:
        known = _list_all()
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


def _explain(kind: type[RunRecipe], error: ValidationError) -> str:
    """Say the first problem in one line, with the near match of a key that does not exist."""
    problem = error.errors()[0]
    path = [str(part) for part in problem["loc"]]
    key = ".".join(path)
    if problem["type"] == "extra_forbidden":
        section: Any = kind
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
