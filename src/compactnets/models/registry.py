"""The registry of networks: our families, registered with timm, and the peers from other libraries."""

from __future__ import annotations

import fnmatch
import math
import types
import typing
from collections.abc import Mapping, Sequence
from typing import Any

import timm
import torch
from timm.models import model_entrypoint
from torch import nn

from compactnets.errors import InputError, did_you_mean
from compactnets.models import fifteen, menet, muffnet, shufflenet
from compactnets.models.peers import PEERS, create_peer
from compactnets.models.pretrained import weights_of
from compactnets.models.staged import Options
from compactnets.values import shorten

FAMILIES = {
    name: family.__name__.rsplit(".", 1)[-1]
    for family in (menet, muffnet, shufflenet, fifteen)
    for name in family.VARIANTS
}
FAMILIES_ONLY = {"drop_path_rate", "output_stride"}  # arguments that the peers do not take
COMMON = {"num_classes", "in_chans", "stem"}  # arguments of every network, which do not make it a different one


def list_models(pattern: str = "*") -> list[str]:
    """Return the names that match a shell pattern, the families first; a plain word matches as a prefix."""
    names = [*FAMILIES, *PEERS]
    wildcard = pattern if any(sign in pattern for sign in "*?[") else f"{pattern}*"
    return fnmatch.filter(names, wildcard)


def accepted_arguments(name: str) -> set[str]:
    """Return the names of the arguments that :func:`create_model` takes for ``name``.

    Raises:
        InputError: no such network; near matches are suggested.
    """
    if name in FAMILIES:
        return {"stem", *model_entrypoint(name).accepts}  # type: ignore[attr-defined]
    if name in PEERS:
        return {"stem", *Options.__annotations__} - FAMILIES_ONLY
    raise InputError(f"no network is called {name!r}{did_you_mean(name, [*FAMILIES, *PEERS])} (compactnets list)")


def own_arguments(arguments: Mapping[str, Any]) -> dict[str, Any]:
    """Return the arguments that make a network differ from the one of its name."""
    return {key: value for key, value in arguments.items() if key not in COMMON}


def default_stem(name: str) -> str:
    """Return ``"imagenet"``, or ``"cifar"`` for a network that has only that stem."""
    return PEERS[name].stems[0] if name in PEERS else "imagenet"


def default_arguments(name: str, stem: str | None = None) -> tuple[dict[str, Any], tuple[int, int, int]]:
    """Return the arguments (stem, number of classes) and the input size with which papers measure a network."""
    stem = stem or default_stem(name)
    if stem == "cifar":
        return {"stem": stem, "num_classes": 10}, (3, 32, 32)
    return {"stem": stem, "num_classes": 1000}, (3, 224, 224)


def check_weights(name: str) -> None:
    """Raise :class:`InputError` unless ``name`` is a network with the tag of installed weights."""
    base = name.partition(".")[0]
    accepted_arguments(base)
    tags = [weights.name for weights in weights_of(base)]
    if name not in tags:
        has = f"it has {', '.join(tags)}" if tags else "it has none"
        raise InputError(f"there are no weights {name!r} of {base} here: {has} (compactnets weights)")


def create_model(name: str, **arguments: Any) -> nn.Module:
    """Build a network of the package, with fresh weights by default.

    Args:
        name: one of :func:`list_models`, or one of them with the tag of its weights (``muffnet_x0_5.cifar10``): then
            the arguments default to those of the weights, and ``pretrained=True`` loads them.
        arguments: ``num_classes``, ``in_chans``, ``drop_rate``, ``global_pool``, ``stem`` (``"imagenet"`` or
            ``"cifar"``), and those of the family (``sharing``, ``fusion``, …).

    Raises:
        InputError: an unknown name or argument (the near matches are named), or a value that does not fit.
    """
    base, dot, _ = name.partition(".")
    accepted = accepted_arguments(base)
    if dot or arguments.get("pretrained"):
        check_weights(name)
        accepted = accepted | {"pretrained"}
    for key in arguments:
        if key not in accepted:
            hint = did_you_mean(key, accepted)
            raise InputError(f"{name} takes no argument {key!r}{hint or ', but ' + ', '.join(sorted(accepted))}")
    check_types(name, _hints(base), arguments)
    try:
        return create_peer(name, **arguments) if name in PEERS else timm.create_model(name, **arguments)
    except InputError:
        raise
    except (TypeError, ValueError, RuntimeError) as error:  # a layer's error for an invalid value
        given = ", ".join(f"{key}={value!r}" for key, value in arguments.items())
        raise InputError(f"{name} cannot be built with {given or 'its own values'}: {_first_line(error)}") from error


def _hints(name: str) -> dict[str, Any]:
    """Return the types of the arguments of a network of the package."""
    known = {**typing.get_type_hints(Options), "stem": str}
    return {**known, **model_entrypoint(name).types} if name in FAMILIES else known  # type: ignore[attr-defined]


def check_types(name: str, hints: Mapping[str, Any], arguments: Mapping[str, Any]) -> None:
    """Raise :class:`InputError` for an argument whose type differs from the annotation: true is not a number, 1 is not
    text.

    Args:
        name: of the network, for the message.
        hints: annotations by argument.
        arguments: what was given.
    """
    for key, value in arguments.items():
        if key in hints and not _fits(value, hints[key]):
            raise InputError(f"{name}: {key} must be {_words(hints[key])}, found {shorten(value)}")


WORDS = {bool: "true or false", int: "a whole number", float: "a number", str: "text", type(None): "null"}


def _choices(hint: Any) -> tuple[Any, ...]:
    union = typing.get_origin(hint) in (typing.Union, types.UnionType)
    return typing.get_args(hint) if union else (hint,)


def _fits(value: Any, hint: Any) -> bool:
    return any(_is_a(value, each) for each in _choices(hint))


def _is_a(value: Any, kind: Any) -> bool:
    if typing.get_origin(kind) is Sequence:
        inner = typing.get_args(kind)[0]
        return isinstance(value, Sequence) and not isinstance(value, str) and all(_fits(each, inner) for each in value)
    if kind not in WORDS:  # unknown type
        return True
    if isinstance(value, bool):
        return kind is bool
    if kind is float:
        return isinstance(value, int | float) and math.isfinite(value)
    return isinstance(value, kind)


def _words(hint: Any) -> str:
    lists = (
        "a list" if (inner := typing.get_args(each)) == (Any,) else f"a list, each {_words(inner[0])}"
        for each in _choices(hint)
        if typing.get_origin(each) is Sequence
    )
    return " or ".join([*(WORDS[each] for each in _choices(hint) if each in WORDS), *lists])


def build_on_meta(name: str, arguments: Mapping[str, Any]) -> nn.Module:
    """Build a network without values, to inspect its form and the names and shapes of its tensors.

    Raises:
        InputError: as :func:`create_model`.
    """
    with torch.device("meta"):
        return create_model(name, **{key: value for key, value in arguments.items() if key != "pretrained"})


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]
