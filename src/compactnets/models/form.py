"""The form of a network: the part of its definition that its tensors do not show. It is stored with them and checked on
loading.

The stems for CIFAR and ImageNet have the same tensors but compute different things; so do the two fusions of MENet, and
two sharing matrices with equal sums. A network that carries its form (:func:`carry_form`) writes it into its
``state_dict`` as one more entry, the last one: :data:`KEY`, the form's JSON as bytes. Loading a state compares the
forms: a mismatch raises :class:`FormError` before any tensor is copied, wherever the state comes from (timm, the Hub,
``torch.save``). A state without the entry, foreign or older, loads with a :class:`FormWarning`.

The entry is neither a parameter nor a buffer: it does not affect computation, counts or exports.
"""

from __future__ import annotations

import json
import sys
import warnings
from collections.abc import Mapping
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor, nn

from compactnets.errors import InputError

# torch's name for a module's extra state: torch's own tools leave such a key alone
KEY = "_extra_state"
LIBRARIES = ("compactnets", "timm", "torch")
LONGEST = 60  # characters of a value in a message; a sharing matrix has more


class FormError(InputError, RuntimeError):
    """Weights whose form differs from the network's.

    Also a ``RuntimeError``, which :meth:`torch.nn.Module.load_state_dict` raises for weights that do not fit.
    """


class FormWarning(UserWarning):
    """Weights that do not state their form."""


def carry_form(module: nn.Module, form: Mapping[str, Any]) -> None:
    """Make a module's ``state_dict`` carry ``form`` and reject states of another form.

    Args:
        module: a network, or another holder of its layers (a feature extractor, a graph).
        form: the values that the tensors do not show, as JSON types; may be empty.
    """
    plain: dict[str, Any] = json.loads(json.dumps(form))  # as it is read back: lists, no tuples
    if (writer := _writer(module)) is not None:
        writer.form = plain
        return
    module.register_state_dict_post_hook(_Write(plain))
    module.register_load_state_dict_pre_hook(_check)


def form_of(module: nn.Module) -> dict[str, Any]:
    """Return the form of a network; empty if it carries none."""
    writer = _writer(module)
    return {} if writer is None else writer.form


def is_form(key: str) -> bool:
    """Whether a key of a state names a form and no tensor of the network."""
    return key == KEY or key.endswith(f".{KEY}")


def with_form(state: Mapping[str, Tensor], module: nn.Module, replace: bool = False) -> dict[str, Tensor]:
    """Return a state with a form: ``module``'s, unless it has its own.

    For a state whose form is known otherwise: from its record, or because it belongs to this run.

    Args:
        replace: also replace a different form: the network takes tensors made for another computation.
    """
    known = {key: value for key, value in module.state_dict().items() if is_form(key)}
    return {**state, **known} if replace else {**state, **{key: known[key] for key in known if key not in state}}


def differences(found: Mapping[str, Any], wanted: Mapping[str, Any]) -> str:
    """Describe the differences of two forms, the first one's values first; ``""`` if equal."""
    keys = [key for key in dict.fromkeys([*wanted, *found]) if found.get(key) != wanted.get(key)]
    if not keys:
        return ""
    return f"{_told({key: found.get(key) for key in keys})}, not {_told({key: wanted.get(key) for key in keys})}"


def compare(state: Mapping[str, Tensor], wanted: Mapping[str, Tensor]) -> str:
    """Describe how the forms in a state differ from those in a network's state; ``""`` if equal.

    Raises:
        FormError: an entry that is not a form.
    """
    for key in filter(is_form, state):
        found = decode(state[key])
        if found is not None and (told := differences(found, (decode(wanted[key]) or {}) if key in wanted else {})):
            return told
    return ""


def encode(form: Mapping[str, Any]) -> Tensor:
    """Encode a form as a tensor for a state: the bytes of its JSON."""
    return _encoded(json.dumps(form, sort_keys=True, separators=(",", ":"))).clone()


def decode(entry: object) -> dict[str, Any] | None:
    """Decode the form in an entry of a state; ``None`` for a tensor without values (on the meta device).

    Any numeric type is read: tools that average or halve a state's tensors also convert this one.

    Raises:
        FormError: something else.
    """
    try:
        if isinstance(entry, Tensor) and entry.is_meta:
            return None
        form = json.loads(bytes(int(value) for value in entry.flatten().tolist()))  # type: ignore[attr-defined]
        if not isinstance(form, dict):
            raise ValueError("no dictionary")
    except (AttributeError, TypeError, ValueError):  # UnicodeDecodeError and JSONDecodeError are ValueErrors
        raise FormError(f"{KEY} of these weights is not the form of a network of compactnets") from None
    return form


@lru_cache(maxsize=64)
def _encoded(text: str) -> Tensor:
    # always on the CPU: weight averaging reads the state at every step, and must not wait for a device
    return torch.tensor(list(text.encode()), dtype=torch.uint8, device="cpu")


class _Write:
    """Writes the form into a state. It holds the form, because a copied graph only keeps the original's hooks."""

    def __init__(self, form: dict[str, Any]) -> None:
        self.form = form

    def __call__(self, module: nn.Module, state: dict[str, Any], prefix: str, metadata: object) -> None:
        if self.form:
            state[prefix + KEY] = encode(self.form)


def _writer(module: nn.Module) -> _Write | None:
    return next((hook for hook in module._state_dict_hooks.values() if isinstance(hook, _Write)), None)


def _check(module: nn.Module, state: dict[str, Any], prefix: str, *_: object) -> None:
    """Compare the form of a state with the module's, and remove it from the state (a copy of the caller's)."""
    entry, own = state.pop(prefix + KEY, None), form_of(module)
    if entry is not None:
        found = decode(entry)
        if found is not None and (told := differences(found, own)):
            raise FormError(
                f"these weights are of a network with {told}: the same tensors compute something else here. Build the "
                f"network with {_told({key: found.get(key) for key in found if found.get(key) != own.get(key)})}"
            )
    elif own and any(_tells(key, prefix) for key in state):
        warnings.warn(
            f"these weights do not state their form, and are assumed to be for {_told(own)}: weights of another form "
            "would "
            f"load as well and compute something else (docs/finetuning.md)",
            FormWarning,
            stacklevel=_depth(),
        )


def _tells(key: str, prefix: str) -> bool:
    """Whether a key is of a layer whose computation depends on the form."""
    return key.startswith(prefix) and not key.startswith(f"{prefix}classifier.")


def _told(form: Mapping[str, Any]) -> str:
    def brief(value: object) -> str:
        text = json.dumps(value)
        return text if len(text) <= LONGEST else f"{text[: LONGEST - 1]}…"

    return ", ".join(f"{key}={brief(value)}" for key, value in form.items()) or "nothing"


def _depth() -> int:
    """Stack depth of the caller of torch and timm, which the warning should point to."""
    frame, depth = sys._getframe(1), 1
    while frame.f_back is not None and frame.f_globals.get("__name__", "").partition(".")[0] in LIBRARIES:
        frame, depth = frame.f_back, depth + 1
    return depth
