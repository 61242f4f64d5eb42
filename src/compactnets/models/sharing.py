"""MuffNet's matrix M (section 3.1), which determines the channels that each layer sends to later layers.

A stage has L layers of feature maps: the output of its reduction block, then those of L - 1 normal blocks. ``M[i][j]``
channels of layer i go to target j. Column j, in the order of the sources, is the input of the block that computes layer
j + 1; the last column is the output of the stage. Every channel has exactly one target, so the rows of M sum to the
widths of the layers. Indices count from 0 here; the paper's text counts from 1, its figure 5 from 0.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from compactnets.errors import InputError, did_you_mean

PATTERNS = ("none", "average", "linear", "geometric", "dense")
READINGS = ("entry", "row")


@dataclass(frozen=True)
class SharingMatrix:
    """An upper-triangular matrix of channel counts.

    Attributes:
        entries: L rows of L counts.

    Raises:
        InputError: not square, not upper-triangular, an entry that is not a whole number from 0, a layer without
            channels, or a block without input.
    """

    entries: tuple[tuple[int, ...], ...]

    def __post_init__(self) -> None:
        size = len(self.entries)
        if size < 1 or any(len(row) != size for row in self.entries):
            raise InputError(f"a sharing matrix must be square, found rows of {[len(row) for row in self.entries]}")
        for i, row in enumerate(self.entries):
            for j, count in enumerate(row):
                if isinstance(count, bool) or not isinstance(count, int) or count < 0:
                    raise InputError(f"M[{i}][{j}] must be a whole number of channels from 0, found {count!r}")
                if j < i and count:
                    raise InputError(f"a sharing matrix is upper-triangular: M[{i}][{j}] must be 0, found {count}")
        for i in range(size):
            if not sum(self.entries[i]):
                raise InputError(f"row {i} is empty: layer {i} has no channels")
            if not any(row[i] for row in self.entries):
                raise InputError(f"column {i} is empty: no channel reaches target {i}")

    @property
    def layer_channels(self) -> tuple[int, ...]:
        """Channels of each layer: the sums of the rows."""
        return tuple(map(sum, self.entries))

    @property
    def input_channels(self) -> tuple[int, ...]:
        """Input channels of the L - 1 blocks after the reduction block: the sums of all columns but the last."""
        return tuple(sum(column) for column in zip(*self.entries, strict=True))[:-1]

    @property
    def out_channels(self) -> int:
        """Channels of the stage's output: the sum of the last column."""
        return sum(row[-1] for row in self.entries)

    def described(self) -> list[list[int]]:
        """Return the matrix for JSON; a network's tensors do not contain it."""
        return [list(row) for row in self.entries]

    @property
    def is_plain(self) -> bool:
        """Whether nothing is shared: every layer feeds only the next one, and all are equally wide."""
        size = len(self.entries)
        diagonal = {self.entries[i][i] for i in range(size)}
        return len(diagonal) == 1 and all(self.entries[i][j] == 0 for i in range(size) for j in range(i + 1, size))

    def splits(self, layer: int) -> tuple[tuple[int, int], ...]:
        """Return the groups of a layer's output, in channel order: ``(target, channels)``, without empty ones."""
        return tuple((target, count) for target, count in enumerate(self.entries[layer]) if count)


@dataclass(frozen=True)
class DenseSharing:
    """DenseNet's pattern, for comparison (section 3.3): every block reads the outputs of all earlier layers.

    It is not a matrix M: a channel is used by every later block, not once.
    """

    layer_channels: tuple[int, ...]

    def __post_init__(self) -> None:
        if not self.layer_channels or min(self.layer_channels) < 1:
            raise InputError(f"every layer needs at least one channel, found {self.layer_channels}")

    @property
    def input_channels(self) -> tuple[int, ...]:
        """Input channels of each block: those of all earlier layers."""
        return tuple(sum(self.layer_channels[:i]) for i in range(1, len(self.layer_channels)))

    @property
    def out_channels(self) -> int:
        """Channels of the stage's output: those of all layers."""
        return sum(self.layer_channels)

    def described(self) -> dict[str, list[int]]:
        """Return the widths for JSON."""
        return {"dense": list(self.layer_channels)}

    @property
    def is_plain(self) -> bool:
        """Always false: layers are shared."""
        return False


Sharing = SharingMatrix | DenseSharing


def make_sharing(
    pattern: str | SharingMatrix | DenseSharing | Sequence[Sequence[int]],
    num_layers: int,
    width: float | None = None,
    reading: str = "entry",
) -> Sharing:
    """Build the sharing of one stage.

    Args:
        pattern: one of :data:`PATTERNS`, or an upper-triangular matrix of channel counts (rows, an array or a tensor).
        num_layers: L, including the reduction block's output.
        width: the scale of a pattern (see below); not used with a matrix.
        reading: interpretation of the paper's proportions, which are only given up to a factor (section 3.3).

    With ``d = j - i``, the proportions are 1 (average), 1 / (d + 1) (linear) and 1 / 2^d (geometric).

    * ``"entry"``: ``M[i][j] = width * proportion(d)``. With a whole ``width``, each entry is rounded half up, to at
      least 1, so that M depends on j - i alone, as in the formulas. With a fractional one, the sum of each row is
      rounded and distributed by largest remainder, at least 1 each; this meets budgets between two whole widths.
    * ``"row"``: every layer has ``width`` channels, distributed in these proportions by largest remainder.

    ``none`` sends ``width`` channels to the next layer only; ``dense`` has ``width`` channels per layer (if fractional,
    their total is rounded).

    Raises:
        InputError: an unknown pattern or reading, a missing or too small width, or not a matrix of the right size.
    """
    if isinstance(pattern, str):
        return _from_pattern(pattern, num_layers, width, reading)
    sharing = pattern if isinstance(pattern, (SharingMatrix, DenseSharing)) else SharingMatrix(_rows(pattern))
    found = len(sharing.layer_channels)
    if found != num_layers:
        raise InputError(f"this stage has {num_layers} layers (reduction block included), the matrix has {found}")
    return sharing


def _rows(matrix: Any) -> tuple[tuple[int, ...], ...]:
    try:  # counts in an array or a tensor become plain numbers
        return tuple(tuple(count.item() if hasattr(count, "item") else count for count in row) for row in matrix)
    except (TypeError, ValueError, RuntimeError):  # the last two from the item() of something with more dimensions
        found = " ".join(repr(matrix).split())
        raise InputError(
            f"the sharing of a stage must be one of {', '.join(PATTERNS)} or a matrix of rows, found {found}"
        ) from None


def _from_pattern(pattern: str, num_layers: int, width: float | None, reading: str) -> Sharing:
    if pattern not in PATTERNS:
        hint = did_you_mean(pattern, PATTERNS)
        raise InputError(f"sharing must be one of {', '.join(PATTERNS)} or a matrix, found {pattern!r}{hint}")
    if reading not in READINGS:
        raise InputError(f"reading must be one of {', '.join(READINGS)}, found {reading!r}")
    if not isinstance(width, (int, float, np.number)) or not 1 <= width < math.inf:
        raise InputError(f"the pattern {pattern!r} needs a width of at least 1, found {width!r}")
    if pattern == "dense":
        total = _round_half_up(width * num_layers)
        return DenseSharing(tuple(_apportion(total, [1.0] * num_layers)))
    if pattern == "none":
        channels = _round_half_up(width)
        return SharingMatrix(tuple(tuple(channels * (i == j) for j in range(num_layers)) for i in range(num_layers)))
    rows = []
    for i in range(num_layers):
        proportions = [_proportion(pattern, j - i) for j in range(i, num_layers)]
        if reading == "row":
            counts = _apportion(_round_half_up(width), proportions, minimum=0)
        elif float(width).is_integer():
            counts = [max(1, _round_half_up(width * share)) for share in proportions]
        else:
            counts = _apportion(_round_half_up(width * sum(proportions)), proportions)
        rows.append((0,) * i + tuple(counts))
    return SharingMatrix(tuple(rows))


def _proportion(pattern: str, distance: int) -> float:
    if pattern == "average":
        return 1.0
    return 1 / (distance + 1) if pattern == "linear" else 0.5**distance


def _round_half_up(value: float) -> int:
    return math.floor(value + 0.5)


def _apportion(total: int, shares: Sequence[float], minimum: int = 1) -> list[int]:
    """Give out ``total`` in proportion to ``shares``, by largest remainder, ties to the first; the sum is exact."""
    total = max(total, minimum * len(shares))
    exact = [total * share / sum(shares) for share in shares]
    counts = [max(minimum, math.floor(value)) for value in exact]
    while (excess := total - sum(counts)) != 0:
        step = 1 if excess > 0 else -1
        able = [k for k in range(len(counts)) if step > 0 or counts[k] > minimum]
        best = max(able, key=lambda k: (step * (exact[k] - counts[k]), -k))
        counts[best] += step
    return counts
