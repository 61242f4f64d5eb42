"""The multiple of channels that a runtime likes, measured: a unit's latency at every width between two round ones.

A runtime may compute channels in blocks of its vectors, and fall back to slower code at other widths. Which one does,
and by how much, depends on its version and on the processor; nothing is assumed of either.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import mean
from typing import Any

from torch import nn

from compactnets.nn import ConvNormAct, depthwise

MULTIPLES = (1, 2, 4, 8, 16)
RANGES = ((32, 16), (96, 8))  # the first of the widths up to the next multiple of 16, and the side of the map
WORTH = 1.1  # a coarser multiple must be so much faster: it leaves fewer networks to choose from


@dataclass(frozen=True)
class Widths:
    """Milliseconds of a unit for maps of a side, by its width: from one multiple of 16 to the next."""

    side: int
    milliseconds: Mapping[int, float]

    def excess(self) -> dict[int, float]:
        """Return the time at each width over what the power law through the first and the last width gives."""
        first, last = min(self.milliseconds), max(self.milliseconds)
        start, end = self.milliseconds[first], self.milliseconds[last]
        power = math.log(end / start) / math.log(last / first)
        return {width: time / (start * (width / first) ** power) for width, time in self.milliseconds.items()}

    def to_dict(self) -> dict[str, Any]:
        """Return the fields, for JSON."""
        return {"side": self.side, "milliseconds": {str(width): time for width, time in self.milliseconds.items()}}

    @classmethod
    def from_dict(cls, found: Mapping[str, Any]) -> Widths:
        """Return what :meth:`to_dict` gave."""
        return cls(found["side"], {int(width): float(time) for width, time in found["milliseconds"].items()})


def unit(width: int) -> nn.Sequential:
    """Return what the networks mostly are: 1x1, 3x3 depthwise, 1x1, of ``width`` channels throughout."""
    return nn.Sequential(ConvNormAct(width, width), depthwise(width), ConvNormAct(width, width))


def excess_of(measured: Sequence[Widths]) -> dict[int, float]:
    """Return the mean :meth:`Widths.excess` of the widths that are multiples of each of :data:`MULTIPLES`."""
    return {
        multiple: mean(share for each in measured for width, share in each.excess().items() if width % multiple == 0)
        for multiple in MULTIPLES
    }


def choose(measured: Sequence[Widths]) -> int:
    """Return the smallest multiple that no larger one beats by more than :data:`WORTH`."""
    excess = excess_of(measured)
    return next(one for one in MULTIPLES if excess[one] <= WORTH * min(excess[other] for other in MULTIPLES))


def to_multiple(channels: float, multiple: int) -> int:
    """Return the nearest multiple, halves up, at least one of them."""
    return max(1, math.floor(channels / multiple + 0.5)) * multiple
