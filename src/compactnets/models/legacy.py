"""The MENet repository's checkpoints, and the mapping of their keys to ours.

The repository (https://github.com/clavichord93/MENet) stores ``{"name": …, "state_dict": …}`` as a pickle, with or
without the ``module.`` prefix of a multi-GPU run. Its modules and ours:

========================  =====================  ======================================================
repository                here                   what it is
========================  =====================  ======================================================
``features.init``         ``stem.conv``          first convolution (``conv``, ``bn``)
``features.stage_S_U``    ``stages.S-1.U-1``     ME module U of the S-th stage (S counts from 1)
``compress``              ``compress``           first pointwise group convolution
``depthwise``             ``depthwise``          3x3 depthwise convolution
``expand``                ``expand``             second pointwise group convolution
``s_merge``               ``merge``              merging operation (equation 4)
``s_conv``                ``evolve``             evolution transformation (equation 5)
``s_evolve``              ``match``              matching transformation (equation 6)
``bn_X``, ``s_bn_X``      ``X.norm``             the batch normalisation of convolution X
``classifier``            ``classifier``         the linear layer
========================  =====================  ======================================================
"""

from __future__ import annotations

import pickle
import re
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from compactnets.errors import InputError
from compactnets.models.form import KEY, encode

RENAMED = {"s_merge": "merge", "s_conv": "evolve", "s_evolve": "match"}
BRANCHES = {"s_bn_merge": "merge", "s_bn_conv": "evolve", "s_bn_evolve": "match"}
FORM = {"stem": "imagenet", "fusion": "product"}
PREFIXES = ("module.", "_orig_mod.")
UNIT = re.compile(r"features\.stage_(\d+)_(\d+)\.(\w+)\.(\w+)")
STEM = re.compile(r"features\.init\.(conv|bn)\.(\w+)")
FORBIDDEN = re.compile(r"GLOBAL ([\w.]+)")  # how torch names what a pickle would import, and run


def strip_prefixes(key: str) -> str:
    """Drop the prefixes that ``DataParallel`` (``module.``) and ``torch.compile`` (``_orig_mod.``) put before a key."""
    while key.startswith(PREFIXES):
        key = key.split(".", 1)[1]
    return key


def rename_key(key: str) -> str | None:
    """Return our name for one key of the MENet repository, or ``None`` for a key that it does not have."""
    key = strip_prefixes(key)
    if match := UNIT.fullmatch(key):
        stage, unit, layer, tensor = match.groups()
        if layer in BRANCHES:
            layer = f"{BRANCHES[layer]}.norm"
        elif layer.startswith("bn_"):
            layer = f"{layer.removeprefix('bn_')}.norm"
        else:
            layer = f"{RENAMED.get(layer, layer)}.conv"
        return f"stages.{int(stage) - 1}.{int(unit) - 1}.{layer}.{tensor}"
    if match := STEM.fullmatch(key):
        layer, tensor = match.groups()
        return f"stem.conv.{'norm' if layer == 'bn' else 'conv'}.{tensor}"
    return key if key in ("classifier.weight", "classifier.bias") else None


def convert_state_dict(state_dict: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Map a state dict of the MENet repository to ours.

    Raises:
        InputError: keys that no network of the repository has (the first three are named).
    """
    converted = {rename_key(key): value for key, value in state_dict.items()}
    unknown = [key for key in state_dict if rename_key(key) is None]
    if unknown:
        raise InputError(
            f"expected keys of the MENet repository (features.init…, features.stage_1_1…, classifier…), found "
            f"{len(unknown)} others: {', '.join(unknown[:3])}"
        )
    return {key: value for key, value in converted.items() if key is not None}


def load_legacy(path: str | Path) -> dict[str, Tensor]:
    """Read a checkpoint of the MENet repository and return our state dict.

    Raises:
        InputError: no such file, not a checkpoint, code inside, or another network's keys.
    """
    return convert_state_dict(read_state_dict(path))


def read_state_dict(path: str | Path) -> dict[str, Tensor]:
    """Read the weights that ``torch.save`` has written, alone or under ``state_dict``; see :func:`read_document`.

    Raises:
        InputError: no such file, not a checkpoint, or code inside.
    """
    checkpoint = read_document(path)
    state_dict = checkpoint.get("state_dict", checkpoint) if isinstance(checkpoint, dict) else checkpoint
    if not (isinstance(state_dict, dict) and state_dict and all(map(_is_entry, state_dict.items()))):
        raise InputError(f"{path} holds no state dict: expected a dictionary of tensors under 'state_dict'")
    return dict(state_dict)


def read_document(path: str | Path) -> Any:
    """Read what ``torch.save`` has written: tensors, plain values, and dictionaries and lists of them.

    The file is read with ``weights_only=True``: a pickle with code is rejected, never executed.

    Raises:
        InputError: no such file, not a checkpoint, or code inside.
    """
    path = Path(path)
    if not path.is_file():
        raise InputError(f"no checkpoint at {path}")
    try:
        with warnings.catch_warnings(action="ignore", category=UserWarning):  # on the pickle's protocol
            return torch.load(path, map_location="cpu", weights_only=True)
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror or error}") from None
    except Exception as error:  # invalid bytes can raise anything
        raise InputError(f"{path} {_refusal(path, error)}") from None


def say_form(state_dict: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Add the form to a state of the MENet repository, which builds no other (:data:`FORM`)."""
    return {**state_dict, KEY: encode(FORM)}


def _is_entry(item: tuple[object, object]) -> bool:
    return isinstance(item[0], str) and isinstance(item[1], Tensor)


def _refusal(path: Path, error: Exception) -> str:
    """Explain why torch did not load a file; its own message suggests loading it unsafely."""
    with path.open("rb") as file:
        begins_as_pickle = file.read(2).startswith((b"\x80", b"PK"))
    named = FORBIDDEN.search(str(error))
    if isinstance(error, pickle.UnpicklingError) and (named or begins_as_pickle):
        found = named[1] if named else "Python objects"
        return f"was refused: it holds {found}, and only tensors and plain values are read"
    return "is not a PyTorch checkpoint, or a damaged one: expected a file that torch.save has written"
