"""Weights without a record: a ``state_dict`` that a script of one's own, timm or another trainer has saved.

The file is ``.safetensors`` or what ``torch.save`` wrote (``.pt``, ``.pth``, ``.pth.tar``, ``.ckpt``, ``.bin``), which
is read with ``weights_only=True``. The keys are those of timm, which are the networks' own, or those of the MENet
repository. Where they are in the file does not matter: in a dictionary (``state_dict``, ``model``, the ``learner`` of a
run's own ``checkpoints/step-N.pt``), behind a prefix (``module.`` of ``DataParallel``, ``_orig_mod.`` of
``torch.compile``, ``model.`` of Lightning), or both. An average of the weights (``state_dict_ema``, ``model_ema``,
``ema.module.``) is preferred to the weights themselves, as timm does.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from torch import Tensor, nn

from compactnets.console import say
from compactnets.errors import InputError
from compactnets.models.form import KEY, form_of
from compactnets.models.legacy import read_document, rename_key, say_form
from compactnets.models.pretrained import locate
from compactnets.training.checkpoint import ARTIFACT, read_tensors, record_path

PICKLED = (".pt", ".pth", ".tar", ".ckpt", ".bin")  # file types of torch.save
COMPILED = "_orig_mod."  # what torch.compile puts before the keys of a module, which may be a part of the network
DEPTH = 3  # of dictionaries in each other
WHAT_TO_DO = (
    "give the network that they are of: --model and, if it had any, --set model_arguments (compactnets list), or a "
    "checkpoint of this one"
)


class Candidate(NamedTuple):
    """Weights in a file.

    Attributes:
        known: how many of their keys the network has.
        average: whether they are an average of the weights.
        place: the keys of the dictionaries around them.
        prefix: what comes before the network's keys.
    """

    known: int
    average: bool
    place: tuple[str, ...]
    prefix: str
    weights: dict[str, Tensor]

    def __str__(self) -> str:
        inside = ".".join(self.place)
        after = f"the keys after {self.prefix!r}" if self.prefix else "the keys"
        return f"{after} in {inside!r}" if inside else after


def is_foreign(path: Path) -> bool:
    """Whether a file holds weights without a record."""
    path = locate(path)
    if not path.is_file() or (path.suffix == ".bin" and (path.parent / ARTIFACT).is_file()):
        return False
    return path.suffix in PICKLED or (path.suffix == ".safetensors" and not record_path(path).is_file())


def read_foreign(path: Path, model: nn.Module, name: str) -> dict[str, Tensor]:
    """Return the weights of a network in a file, under the network's keys, with its form if the file states one.

    A line says which weights of several are taken, and which form is assumed where the file states none.

    Raises:
        InputError: a file that cannot be read, code inside, or weights of something else.
    """
    path = locate(path)
    document = read_tensors(path) if path.suffix == ".safetensors" else read_document(path)
    found = sorted(_candidates(document, model.state_dict()), key=lambda each: (-each.known, not each.average))
    if not found:
        raise InputError(f"{path} holds no weights: expected a dictionary of tensors, such as a network's state_dict")
    best = found[0]
    if best.known < len(model.state_dict()) // 2:
        keys = ", ".join(list(best.weights)[:3])
        raise InputError(
            f"{path} holds no weights of {name}: its keys are {keys}, …, and {name} has "
            f"{', '.join(list(model.state_dict())[:3])}, …: {WHAT_TO_DO}"
        )
    if best.place or best.prefix:
        say(f"{path}: starts from {best}{', an average of the weights' if best.average else ''}")
    if KEY not in best.weights and form_of(model):
        form = ", ".join(f"{key}={value}" for key, value in form_of(model).items())
        say(f"{path} does not state the form of its network: {form} is assumed (docs/finetuning.md)")
    return best.weights


def renew_classifier(weights: Mapping[str, Tensor], model: nn.Module, init: Path, spec: str) -> dict[str, Tensor]:
    """Return weights with a fresh classifier, if theirs is missing or of another number of classes. A line says so.

    Args:
        spec: what the line calls the data.
    """
    fresh = {key: value for key, value in model.state_dict().items() if key.startswith(_classifier(model))}
    wanted = next((len(value) for value in fresh.values()), 0)
    found = next((len(weights[key]) for key in fresh if key in weights and weights[key].ndim), None)
    if found == wanted:
        say(f"classifier kept: {init} has {wanted} classes without names, taken to be those of {spec} in their order")
        return dict(weights)
    held = "no classifier" if found is None else f"{found} classes"
    say(f"classifier replaced: {init} has {held}, {spec} has {wanted}")
    return without_classifier(weights, model)


def without_classifier(weights: Mapping[str, Tensor], model: nn.Module) -> dict[str, Tensor]:
    """Return weights with the network's own classifier in place of theirs."""
    prefixes = _classifier(model)
    own = {key: value for key, value in model.state_dict().items() if key.startswith(prefixes)}
    return {**{key: value for key, value in weights.items() if not key.startswith(prefixes)}, **own}


def _classifier(model: nn.Module) -> tuple[str, ...]:
    """Return the prefixes of the keys of a network's classifier, by timm's configuration of it."""
    names = getattr(model, "pretrained_cfg", None) or {}
    named = names.get("classifier") or "classifier"
    return tuple(f"{each}." for each in ([named] if isinstance(named, str) else named))


def _candidates(document: Any, wanted: Mapping[str, Tensor]) -> Iterator[Candidate]:
    for place, state in _states(document):
        if any(rename_key(key) not in (None, key) for key in state) and all(rename_key(key) for key in state):
            state = say_form({str(rename_key(key)): value for key, value in state.items()})
        keys = {key.replace(COMPILED, ""): value for key, value in state.items()}
        known = Counter(prefix for key in keys for prefix, rest in _splits(key) if rest in wanted)
        for prefix, count in known.items() or {"": 0}.items():
            weights = {key.removeprefix(prefix): value for key, value in keys.items() if key.startswith(prefix)}
            average = "ema" in re.split(r"[^a-z]", ".".join((*place, prefix)).lower())
            yield Candidate(count, average, place, prefix, weights)


def _splits(key: str) -> Iterator[tuple[str, str]]:
    """Yield each prefix of a key that ends with a dot, the empty one first, and the rest."""
    parts = key.split(".")
    for count in range(len(parts)):
        prefix = "".join(f"{part}." for part in parts[:count])
        yield prefix, key[len(prefix) :]


def _states(document: Any, place: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], dict[str, Tensor]]]:
    """Yield each dictionary of tensors in a document, and where it is."""
    if not isinstance(document, Mapping):
        return
    named = {key: value for key, value in document.items() if isinstance(key, str)}
    if tensors := {key: value for key, value in named.items() if isinstance(value, Tensor)}:
        yield place, tensors
    if len(place) < DEPTH:
        for key, value in named.items():
            yield from _states(value, (*place, key))
