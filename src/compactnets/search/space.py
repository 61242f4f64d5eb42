"""The networks that a search may build: what varies in each family, and within which bounds."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np

from compactnets.data import Preprocess
from compactnets.errors import InputError
from compactnets.models.muffnet_blocks import DEPTHS as MUFFNET_DEPTHS
from compactnets.models.registry import create_model
from compactnets.models.sharing import make_sharing
from compactnets.search.alignment import to_multiple

SHARINGS = ("none", "average", "linear", "geometric")
DIGITS = 1  # of a pattern's scale, as in budget.fit_widths


class Suggest(Protocol):
    """What a space asks for values: a trial of Optuna's."""

    def suggest_int(self, name: str, low: int, high: int, *, step: int = 1) -> int:
        """Return a whole number."""

    def suggest_categorical(self, name: str, choices: Sequence[Any]) -> Any:
        """Return one of the choices."""


@dataclass(frozen=True)
class Candidate:
    """A network: the one whose name it has, with arguments, for square images of a size."""

    model: str
    arguments: Mapping[str, Any] = field(default_factory=dict)
    size: int | None = None  # the recipe's or the data's own

    @property
    def key(self) -> str:
        """A short name that differs for every candidate: of its folder."""
        text = json.dumps([self.model, self.arguments, self.size], sort_keys=True)
        return f"{self.model}-{hashlib.sha256(text.encode()).hexdigest()[:8]}"

    def settings(self, preprocess: Preprocess) -> list[str]:
        """Return what turns a recipe into one for this network, as for ``--set``.

        Args:
            preprocess: the recipe's own; at another size, the crop covers the same share of the image.
        """
        given = [f"model_arguments.{name}={json.dumps(value)}" for name, value in self.arguments.items()]
        if self.size is None:
            return given
        given.append(f"preprocess.size={self.size}")
        if preprocess.resize is not None:
            given.append(f"preprocess.resize={round(preprocess.resize * self.size / preprocess.size)}")
        return given

    def to_dict(self) -> dict[str, Any]:
        """Return the fields, for JSON."""
        return {"model": self.model, "arguments": dict(self.arguments), "size": self.size}


def suggest(trial: Suggest, families: Sequence[str], sizes: Sequence[int] = (), multiple: int = 1) -> Candidate:
    """Ask a trial for a network.

    Args:
        families: names of :data:`FAMILIES`; one of them is chosen.
        sizes: sides of the images to choose from; the data's own if empty.
        multiple: of the widths of the layers.
    """
    family = families[0] if len(families) == 1 else trial.suggest_categorical("family", list(families))
    size = trial.suggest_categorical("size", list(sizes)) if sizes else None
    model, arguments = FAMILIES[family](trial, multiple)
    return Candidate(model, arguments, size)


def _menet(trial: Suggest, multiple: int) -> tuple[str, dict[str, Any]]:
    """w, k, alpha, g and the depths of section III-C and Table I, and the stem's width."""
    groups = trial.suggest_categorical("menet.groups", [2, 3, 4, 8])
    step = math.lcm(groups, multiple)  # of the bottleneck: a quarter of w, and the groups divide it
    width = trial.suggest_int("menet.width", 48, 384, step=12)
    return "menet_108_8x1_g3", {
        "residual_width": 4 * to_multiple(width / 4, step),
        "fusion_width": to_multiple(trial.suggest_int("menet.fusion_width", 4, 24, step=4), multiple),
        "expansion": trial.suggest_categorical("menet.expansion", [1.0, 1.5, 2.0]),
        "groups": groups,
        "stem_channels": to_multiple(trial.suggest_int("menet.stem", 8, 32, step=4), step),
        "depths": [
            trial.suggest_int(f"menet.depth{stage}", low, high)
            for stage, (low, high) in enumerate(((2, 5), (2, 10), (2, 5)), start=2)
        ],
    }


def _muffnet(trial: Suggest, multiple: int) -> tuple[str, dict[str, Any]]:
    """The sharing of each stage and the mean width of its layers, and the widths of stem and head."""
    patterns, widths, matrices = [], [], []
    for stage, (depth, low, high) in enumerate(zip(MUFFNET_DEPTHS, (12, 24, 64), (72, 144, 320), strict=True), 1):
        pattern = trial.suggest_categorical(f"muffnet.sharing{stage}", list(SHARINGS))
        channels = trial.suggest_int(f"muffnet.width{stage}", low, high, step=4)
        patterns.append(pattern)
        widths.append(scale_of(pattern, depth, channels))
        matrices.append(aligned_matrix(pattern, depth, channels, multiple))
    shared = {"sharing": "+".join(patterns), "widths": widths} if multiple == 1 else {"sharing": matrices}
    return "muffnet_x0_5", {
        **shared,
        "stem_channels": to_multiple(trial.suggest_int("muffnet.stem", 8, 32, step=4), multiple),
        "head_channels": trial.suggest_categorical("muffnet.head", [512, 768, 1024]),
    }


def scale_of(pattern: str, depth: int, channels: int) -> float:
    """Return the scale of a pattern whose layers have ``channels`` channels on average."""
    if pattern == "none":
        return float(channels)
    trial = 100.0
    found = make_sharing(pattern, depth, trial).layer_channels
    return max(1.0, round(channels * trial * len(found) / sum(found), DIGITS))


def aligned_matrix(pattern: str, depth: int, channels: int, multiple: int) -> list[list[int]]:
    """Return a pattern's matrix in groups of multiples, whose layers have about ``channels`` channels on average.

    The layers are sums of groups, and so are the inputs of the blocks: they are such multiples, too. Small groups may
    be empty; those of the next layer are not, and so no layer is.
    """
    exact = np.array(make_sharing(pattern, depth, 1000).described()) / 1000  # its proportions

    def rounded(scale: float) -> np.ndarray:
        matrix = np.floor(exact * scale / multiple + 0.5) * multiple
        np.fill_diagonal(matrix, np.maximum(matrix.diagonal(), multiple))
        return matrix

    scales = np.arange(1, 2 * channels + 2 * multiple, 0.5)
    best = min(map(rounded, scales), key=lambda matrix: abs(matrix.sum() / depth - channels))
    return [[int(entry) for entry in row] for row in best]


FAMILIES: dict[str, Callable[[Suggest, int], tuple[str, dict[str, Any]]]] = {"menet": _menet, "muffnet": _muffnet}


def parse_family(text: str) -> tuple[str, ...]:
    """Return the families of ``--family``: one, several with commas, or ``all``.

    Raises:
        InputError: an unknown one.
    """
    names = tuple(dict.fromkeys(part.strip() for part in text.split(",")))
    if names == ("all",):
        return tuple(FAMILIES)
    for name in names:
        if name not in FAMILIES:
            raise InputError(f"--family is {', '.join(FAMILIES)} or all, found {text!r}")
    return names


def build(candidate: Candidate, stem: str | None, classes: int, channels: int) -> Any:
    """Build a candidate with fresh weights.

    Raises:
        InputError: a combination that is no network.
    """
    common: dict[str, Any] = {"num_classes": classes, "in_chans": channels}
    if stem is not None:
        common["stem"] = stem
    return create_model(candidate.model, **common, **candidate.arguments)
