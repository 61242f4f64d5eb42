"""Inter-group connections: how many are possible and how many a channel shuffle leaves (MENet, section III-A)."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass, replace

from torch import Tensor
from torch.utils.weak import WeakIdKeyDictionary

from compactnets.complexity.operations import COPIES, MOVES
from compactnets.errors import InputError


def inter_group_connections(channels: int, groups: int) -> tuple[float, float]:
    """Return the inter-group connections of two consecutive grouped layers with a channel shuffle between them.

    Both layers have ``channels`` output channels in ``groups`` groups.

    Returns:
        ``total`` (equation 1: if every channel met every other) and ``actual`` (equation 2: what the shuffle leaves).
        Equation 2 is exact where ``groups`` divides ``channels / groups``; :func:`counted_connections` is always.

    Raises:
        InputError: ``groups`` does not divide ``channels``.
    """
    _check(channels, groups)
    total = channels**2 * (groups - 1) / (2 * groups)
    return total, total / groups


def lost_share(groups: int) -> float:
    """Return the share of inter-group connections that a channel shuffle loses: (G - 1) / G (equation 3)."""
    if groups < 1:
        raise InputError(f"groups must be positive, found {groups}")
    return (groups - 1) / groups


def grouped(channels: int, groups: int) -> tuple[int, ...]:
    """Return the group of each of ``channels`` channels."""
    _check(channels, groups)
    return tuple(channel // (channels // groups) for channel in range(channels))


def shuffled(labels: Sequence[int], groups: int) -> tuple[int, ...]:
    """Return ``labels`` in the channel order after :func:`compactnets.nn.channel_shuffle`."""
    _check(len(labels), groups)
    size = len(labels) // groups
    return tuple(labels[group * size + index] for index in range(size) for group in range(groups))


def counted_connections(labels: Sequence[int], groups: int) -> tuple[float, float]:
    """Count what equations 1 and 2 state, for any order of the channels.

    Args:
        labels: for each input channel of the later layer, its group in the former one.
        groups: groups of both layers; both have ``len(labels)`` output channels, as in the equations.

    Returns:
        ``total`` and ``actual``, with the equations' factor of one half.
    """
    own = grouped(len(labels), groups)
    size = len(labels) // groups  # output channels that each input channel of the later layer reaches
    crossing = sum(former != later for former, later in zip(labels, own, strict=True))
    return inter_group_connections(len(labels), groups)[0], size * crossing / 2


def _check(channels: int, groups: int) -> None:
    if groups < 1 or channels < 1 or channels % groups:
        raise InputError(f"channels must be a positive multiple of groups, found {channels} channels, {groups} groups")


@dataclass(frozen=True)
class InterGroup:
    """Inter-group connections of a network, summed over its pairs of grouped pointwise convolutions.

    A pair is two grouped pointwise convolutions with the same number of groups, the second fed by the first through
    nothing but normalisation, activation, depthwise convolution, channel shuffle and a fusion branch. It does not
    reach across an identity branch (an addition or concatenation of two features).

    Attributes:
        pairs: number of such pairs.
        total: connections if every channel met every other (equation 1).
        actual: connections that the channel order leaves, counted channel by channel (equation 2); 0 without shuffle.
        lost_share: ``1 - actual / total`` (equation 3).
        merged: every pair is re-connected by a fusion branch that mixes all channels (MENet's merging operation).
    """

    pairs: int
    total: float
    actual: float
    lost_share: float
    merged: bool


@dataclass(frozen=True)
class _Groups:
    """A feature map whose channels come from the groups of one convolution."""

    source: int
    groups: int
    labels: tuple[int, ...]
    merged: bool = False


@dataclass(frozen=True)
class _Mixed:
    """A feature map that a dense convolution made from a grouped one, mixing its groups."""

    source: int


class GroupTracker:
    """Follows the groups of the channels from one grouped pointwise convolution to the next while a network runs."""

    def __init__(self) -> None:
        self._origin = WeakIdKeyDictionary()  # tensor -> _Groups or _Mixed
        self._sources = itertools.count()
        self._pairs: list[tuple[float, float, bool]] = []

    def convolution(self, x: Tensor, weight: Tensor, groups: int, out: Tensor) -> None:
        """Record a convolution ``x -> out``; ``weight`` is (out_channels, in_channels / groups, *kernel)."""
        origin, channels = self._origin.get(x), out.shape[1]
        if groups == x.shape[1] == channels and groups > 1:  # depthwise
            self._note(out, origin)
        elif groups == 1:
            self._note(out, _Mixed(origin.source) if origin else None)
        elif all(size == 1 for size in weight.shape[2:]):
            if isinstance(origin, _Groups) and origin.groups == groups:
                self._pairs.append((*counted_connections(origin.labels, groups), origin.merged))
            self._note(out, _Groups(next(self._sources), groups, grouped(channels, groups)))
        else:
            self._note(out, None)

    def operation(self, name: str, inputs: Sequence[Tensor], out: Tensor) -> None:
        """Record any other operator. One that does not move channels keeps their origin."""
        if not self._origin:
            return
        origins = {self._origin.get(x) for x in inputs if x.ndim == out.ndim and x.shape[:2] == out.shape[:2]}
        kept = None
        if name in COPIES or name not in MOVES:
            if len(origins) == 1:
                (kept,) = origins
            elif len(origins) == 2:
                first, second = origins
                kept = _fused(first, second) or _fused(second, first)
        self._note(out, kept)

    def shuffle(self, x: Tensor, groups: int, out: Tensor) -> None:
        """Record a channel shuffle ``x -> out``."""
        origin = self._origin.get(x)
        if isinstance(origin, _Groups):
            origin = replace(origin, labels=shuffled(origin.labels, groups))
        self._note(out, origin)

    def summary(self) -> InterGroup | None:
        """Return the sums over all pairs, or ``None`` if there is none."""
        if not self._pairs:
            return None
        total, actual = (sum(pair[i] for pair in self._pairs) for i in (0, 1))
        merged = all(merged for _, _, merged in self._pairs)
        return InterGroup(len(self._pairs), total, actual, 1 - actual / total, merged)

    def _note(self, tensor: Tensor, origin: _Groups | _Mixed | None) -> None:
        if origin is not None:
            self._origin[tensor] = origin
        else:
            self._origin.pop(tensor, None)


def _fused(features: _Groups | _Mixed | None, fusion: _Groups | _Mixed | None) -> _Groups | None:
    """Return the origin of features combined with their own fusion branch (MENet, equation 7), else ``None``."""
    if isinstance(features, _Groups) and isinstance(fusion, _Mixed) and features.source == fusion.source:
        return replace(features, merged=True)
    return None
