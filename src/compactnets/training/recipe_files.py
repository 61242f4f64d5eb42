"""Read recipes: built-in files, the user's own, and command-line overrides."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from importlib import resources
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

from compactnets.console import say
from compactnets.errors import InputError, did_you_mean
from compactnets.files import as_path
from compactnets.training.checkpoint import stated_task
from compactnets.training.recipe import RunRecipe
from compactnets.values import parse_settings, parse_yaml, read_yaml, shorten

Kind = TypeVar("Kind", bound=RunRecipe)
EXTENDS = "extends"  # the key of a file's parent


def list_recipes(task: str | None = None) -> list[str]:
    """Return the names of the recipes in the package, such as ``cifar/muffnet``.

    Args:
        task: only recipes of this task; default: all.
    """
    return [name for name in _list_all() if task in (None, stated_task(read_recipe(name)))]


def _list_all() -> list[str]:
    root = resources.files("compactnets") / "recipes"
    entries = sorted(root.iterdir(), key=lambda entry: entry.name)
    alone = [entry.name.removesuffix(".yaml") for entry in entries if entry.name.endswith(".yaml")]
    grouped = [
        f"{group.name}/{file.name.removesuffix('.yaml')}"
        for group in entries
        if group.is_dir()
        for file in sorted(group.iterdir(), key=lambda entry: entry.name)
        if file.name.endswith(".yaml")
    ]
    return sorted([*alone, *grouped])


def load_recipe(kind: type[Kind], name: str | Path, overrides: Iterable[str] = (), model: str | None = None) -> Kind:
    """Read a recipe of one task; see :func:`load`.

    Raises:
        InputError: as :func:`load`, or a recipe of another task.
    """
    settings = read_recipe(name)
    wanted = kind.model_fields["task"].default
    if (task := stated_task(settings)) != wanted:
        known = ", ".join(list_recipes(wanted))
        raise InputError(
            f"recipe {name} is of {task}: expected one of {wanted}, {known}, or a .yaml file with task: {wanted}"
        )
    return load(kind, settings, name, overrides, model)


def load(
    kind: type[Kind],
    settings: dict[str, Any],
    name: str | Path,
    overrides: Iterable[str] = (),
    model: str | None = None,
) -> Kind:
    """Build a recipe from the settings of a file.

    Args:
        kind: its class.
        settings: the file's content; changed in place.
        name: its name in errors.
        overrides: ``key=value`` strings; nested keys with dots (``optimizer.nesterov=true``), values as YAML.
            ``epochs`` also removes the file's ``min_steps``, unless that is set as well.
        model: replaces the recipe's network.

    Raises:
        InputError: no such recipe, not YAML, a key or value that the recipe does not take, or one set twice.
    """
    changes = parse_settings(overrides, "epochs=2 or optimizer.nesterov=true")
    if model is not None:
        for key, value in changes:
            if key == "model" and value != model:
                raise InputError(f"recipe {name}: the network is {model}, but --set model={value}: give only one")
        settings["model"] = model
    # the file's rate is for the file's batch; an overriding rate is for the current batch
    batch_size = settings.get("batch_size", kind.model_fields["batch_size"].default)
    for key, value in changes:
        _apply(settings, key, value)
    changed = {key for key, _ in changes}
    if "epochs" in changed and "min_steps" not in changed:
        settings.pop("min_steps", None)  # an explicit number of epochs takes precedence
    if "epochs" in changed:
        _fit_to_epochs(settings, changed)
    if "lr" not in changed:
        if settings.get("lr_batch_size") is None:  # null is the same as omitting it
            settings["lr_batch_size"] = batch_size
    elif "lr_batch_size" not in changed:
        settings.pop("lr_batch_size", None)
    try:
        return kind.model_validate(settings)
    except ValidationError as error:
        raise InputError(f"recipe {name}: {_explain(kind, error)}") from None


def read_recipe(name: str | Path) -> dict[str, Any]:
    """Return the raw settings of a built-in recipe or a ``.yaml`` file, over those of the recipe that it ``extends``.

    Groups of settings are merged key by key; a group under ``null`` is that of the file alone.

    Raises:
        InputError: no such file, not a mapping, or recipes that extend each other in a circle.
    """
    return _extended(name, ())


def _extended(name: str | Path, children: tuple[str, ...]) -> dict[str, Any]:
    """Read a recipe and those it extends; ``children`` are the recipes that extend it."""
    settings, place = _read(name, children)
    if EXTENDS not in settings:
        return settings
    if place in children:
        raise InputError(f"recipe {name} extends itself: {' -> '.join([*children, place])}")
    parent = settings.pop(EXTENDS)
    if not isinstance(parent, str):
        raise InputError(f"recipe {name}: extends is the name of a recipe or of a .yaml file, found {shorten(parent)}")
    if parent not in _list_all() and not as_path(parent).is_absolute():
        parent = str(as_path(name).parent / parent) if parent.lower().endswith((".yaml", ".yml")) else parent
    return _merge(_extended(parent, (*children, place)), settings)


def _merge(below: dict[str, Any], above: dict[str, Any]) -> dict[str, Any]:
    merged = dict(below)
    for key, value in above.items():
        both = isinstance(value, dict) and isinstance(below.get(key), dict)
        # another optimizer or schedule begins anew: the settings of the parent's are not for it
        other = both and "name" in value and value["name"] != below[key].get("name", value["name"])
        merged[key] = _merge(below[key], value) if both and not other else value
    return merged


def _read(name: str | Path, children: tuple[str, ...]) -> tuple[dict[str, Any], str]:
    """Return the settings of one file, and what identifies it."""
    path = as_path(name)
    known = _list_all()
    if str(name) in known:
        text = (resources.files("compactnets") / "recipes" / f"{name}.yaml").read_text(encoding="utf-8")
        settings, place = parse_yaml(text, f"recipe {name}"), str(name)
    elif path.suffix.lower() in (".yaml", ".yml"):
        if not path.is_file():
            raise InputError(f"no recipe file at {path}{f', which {children[-1]} extends' if children else ''}")
        settings, place = read_yaml(path, f"recipe {path}"), str(path.resolve())
    else:
        near = did_you_mean(str(name), known)
        told = f", which {children[-1]} extends" if children else ""
        raise InputError(f"no recipe {str(name)!r}{told}{near} (one of {', '.join(known)}, or a .yaml file)")
    if not isinstance(settings, dict):
        raise InputError(f"recipe {name} must be a mapping of settings, found {type(settings).__name__}")
    return settings, place


def _fit_to_epochs(settings: dict[str, Any], changed: set[str]) -> None:
    """Cut what the file gives some epochs to the number of epochs that ``--set`` gives, with a line for each."""
    epochs = settings["epochs"]
    if not isinstance(epochs, int) or isinstance(epochs, bool) or epochs < 1:
        return  # reported with the others

    def cut(key: str, fits: Callable[[Any], bool], value: Any) -> None:
        group, _, last = key.rpartition(".")
        inside = settings.get(group) if group else settings
        if not isinstance(inside, dict) or inside.get(last) is None or {key, group} & changed or fits(inside[last]):
            return
        say(f"{key} is {value}, not the recipe's {inside[last]}: the run has {epochs:,} epoch{'s' * (epochs > 1)}")
        inside[last] = value

    number = (int, float)
    cut("schedule.warmup_epochs", lambda found: not isinstance(found, number) or found < epochs, epochs / 10)
    cut("freeze_epochs", lambda found: not isinstance(found, number) or found < epochs, epochs // 2)
    cut("mix.last_epochs_without", lambda found: not isinstance(found, number) or found < epochs, epochs // 2)
    schedule = settings.get("schedule")
    if isinstance(schedule, dict) and isinstance(schedule.get("milestones"), list):
        kept = [each for each in schedule["milestones"] if not isinstance(each, number) or each < epochs]
        if kept:
            cut("schedule.milestones", lambda found: found == kept, kept)
        elif not {"schedule", "schedule.name", "schedule.milestones"} & changed:
            say(f"the learning rate is constant: the run ends before the recipe's milestones {schedule['milestones']}")
            settings["schedule"] = {key: schedule[key] for key in schedule if key not in ("milestones", "gamma")}
            settings["schedule"]["name"] = "constant"


def _apply(settings: dict[str, Any], key: str, value: Any) -> None:
    *parents, last = key.split(".")
    for depth, parent in enumerate(parents, start=1):
        if not isinstance(settings.get(parent), dict):
            # a group that the file omits, or that --set gave as a whole, is null; anything else would be lost
            if settings.get(parent) is not None:
                raise InputError(f"--set {key}: {'.'.join(parents[:depth])} is a single value, not a group of settings")
            settings[parent] = {}
        settings = settings[parent]
    settings[last] = value


def _explain(kind: type[RunRecipe], error: ValidationError) -> str:
    """Describe the first problem in one line, with a near match for an unknown key."""
    problem, *others = error.errors()
    path = [str(part) for part in problem["loc"]]
    section = _section(kind, path[:-1])
    if problem["type"] == "extra_forbidden":
        return f"unknown key {'.'.join(path)!r}{_suggest(kind, section, path)}"
    if problem["type"] == "missing":
        return f"the key {'.'.join(path)!r} is missing"
    if problem["type"] in ("bool_type", "literal_error") and len(path) > 1 and path[-2] in section.model_fields:
        path.pop()  # a union of types adds its name to the path, with an error for each
        choices = [
            other["msg"].removeprefix("Input should be ") for other in others if other["loc"][:-1] == tuple(path)
        ]
        problem["msg"] = " or ".join([problem["msg"], *choices])
    key, found = ".".join(path), problem["input"]
    if problem["type"] == "model_type":
        group = _section(kind, path)
        keys = list(group.model_fields)
        example = f"{key}.name={found}" if isinstance(found, str) and "name" in keys else f"{key}.{keys[0]}=VALUE"
        return f"{key} is a group of settings, found {shorten(found)}: write {example} ({', '.join(keys)})"
    message = problem["msg"].removeprefix("Value error, ")
    for words, plain in (("a valid tuple", "a list"), ("a valid dictionary", "a mapping"), ("Tuple", "List")):
        message = message.replace(words, plain)
    stated = problem["type"] == "value_error"  # our own validators state the value
    told = "" if stated else f", found {shorten(found)}{_hint(problem['type'], found)}"
    return f"{key}: {message}{told}" if key else message


def _section(kind: type[BaseModel], path: list[str]) -> type[BaseModel]:
    """Return the innermost group of settings that ``path`` leads through."""
    for part in path:
        annotation = kind.model_fields[part].annotation if part in kind.model_fields else None
        if not (isinstance(annotation, type) and issubclass(annotation, BaseModel)):
            break
        kind = annotation
    return kind


def _suggest(kind: type[BaseModel], section: type[BaseModel], path: list[str]) -> str:
    """Suggest where a misplaced key may belong."""
    elsewhere = [key for key in _keys(kind) if key.rpartition(".")[2] == path[-1]]
    if elsewhere:
        return f"; did you mean {' or '.join(map(repr, elsewhere))}?"
    return did_you_mean(path[-1], section.model_fields) or "; known: " + ", ".join(section.model_fields)


def _keys(kind: type[BaseModel], before: str = "") -> Iterator[str]:
    for name, field in kind.model_fields.items():
        yield before + name
        if isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel):
            yield from _keys(field.annotation, f"{before}{name}.")


def _hint(kind: str, found: object) -> str:
    """Suggest how to write what was probably meant."""
    if kind == "bool_type":
        return "; write true or false"
    if kind == "int_type" and isinstance(found, float) and found.is_integer():
        return f"; write {int(found)}"
    if kind in ("int_type", "float_type") and isinstance(found, str):
        plain = found.replace("_", "")
        return f"; write {plain}" if plain.isdigit() else ""
    if kind == "string_type" and isinstance(found, int | float):
        return "; put it in quotes"
    return ""
