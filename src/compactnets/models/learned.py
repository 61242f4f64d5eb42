"""MuffNet with an M that is learned with the weights (``sharing="learned"``), and its conversion to whole channels.

The paper chooses M manually and mentions data-dependent search as a complement (sections 2 and 3.3). Here every group
``(i, j)`` of a stage has the largest number of channels that any pattern gives it at the stage's cost, and gates that
let about ``n_ij`` of them through. The ``n_ij`` are learned. They are scaled so that a network of ``n_ij`` channels
always has the cost of the named variant, stage by stage: what one group gains, the others lose.

``n = s exp(logits)``, where s solves ``A s² + B s + C = target``: the cost of a stage (section 3.2) is a polynomial in
its widths. The two pointwise convolutions between stages also depend on the widths of the neighbours. During the search
these are the variant's; :func:`discretize` uses the actual ones.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any, ClassVar, Unpack

import torch
from torch import Tensor, nn

from compactnets.errors import InputError
from compactnets.models.budget import SIZES, stage_macs
from compactnets.models.muffnet_blocks import DEPTHS, HEAD_CHANNELS, MuffStage, gather
from compactnets.models.sharing import Sharing, SharingMatrix, make_sharing
from compactnets.models.staged import Options, StagedNet, first_stage_stride, make_stem, stem_levels
from compactnets.nn import ConvNormAct, initialize

STARTS = ("none", "average", "linear", "geometric")  # patterns whose widest groups bound the search
SOFTNESS = 1.0  # number of channels over which a gate changes from open to closed
COARSE = [1.05**step for step in range(-10, 11)]  # scales that discretize tries for each stage: from 0.61 to 1.63,
FINE = [1 + step / 400 for step in range(-20, 21)]  # then around the best


@dataclass(frozen=True)
class StageCost:
    """Multiply-adds of one stage at 224 x 224 as a function of M (``budget.stage_macs``), with fixed neighbours.

    Attributes:
        size_in, size: side of the map that the reduction block reads, and of the stage's own maps.
        in_channels: channels of the map that it reads.
        following: channels of the first layer of the next stage, or of the head.
        is_first, is_last: the first stage includes the layers before its stride; after the last one comes the head,
            whose convolution has no inner width.
    """

    size_in: int
    size: int
    in_channels: int
    following: int
    is_first: bool
    is_last: bool

    def coefficients(self, m: Tensor) -> tuple[Tensor, Tensor, float]:
        """Return A, B and C of ``A s² + B s + C``, the cost of ``s m``; ``m`` is (L, L), upper-triangular."""
        area, before = self.size**2, self.size_in**2 if self.is_first else 0
        inputs, layers, out = m.sum(0)[:-1], m.sum(1), m[:, -1].sum()
        first, outputs, given = layers[0], layers[1:], self.in_channels
        square = area * ((inputs**2 + inputs * outputs).sum() + first**2 / 2)
        linear = area * (9 * inputs.sum() + first * (12.5 + 1.5 * given)) + before * given * first / 2
        if self.is_last:
            linear = linear + area * out * self.following
        else:
            square = square + area * out**2 / 2
            linear = linear + area * out * self.following / 2
        return square, linear, area * 37.5 * given + before * given**2 / 2

    def macs(self, m: Tensor) -> Tensor:
        """Return the cost of ``m``."""
        square, linear, constant = self.coefficients(m)
        return square + linear + constant

    def fit(self, m: Tensor, target: float) -> Tensor:
        """Return ``s m``, scaled so that it costs ``target``; differentiable in ``m``."""
        square, linear, constant = self.coefficients(m)
        root = (linear**2 + 4 * square * (target - constant)).sqrt()
        return m * (root - linear) / (2 * square)


class LearnedStage(MuffStage):
    """A stage whose groups have gates.

    Args:
        in_channels: as in :class:`MuffStage`, in the search network.
        room: largest number of channels of every group.
        start: the initial n_ij, (L, L).
        cost, target: the cost of a network of n_ij channels as a function, and its required value.
    """

    # Weight decay would pull all groups to the same size. At the weights' learning rate the n_ij hardly move. At ten
    # times that rate they move by a third to a half, and two seeds agree on the direction as well (docs/muffnet.md).
    undecayed: ClassVar = {"logits": 10.0}

    def __init__(
        self, in_channels: int, room: SharingMatrix, start: Tensor, cost: StageCost, target: float, stride: int
    ) -> None:
        super().__init__(in_channels, room, stride)
        self.cost, self.target, self.start = cost, target, start
        self.logits = nn.Parameter(self._beginning().to(torch.get_default_device()))

    def counts(self) -> Tensor:
        """Return n_ij, (L, L): the fractional channels of each group, in a stage with the target cost."""
        return self.cost.fit(self.logits.exp().triu(), self.target)

    def reset(self) -> None:
        """Reset the n_ij to their start."""
        with torch.no_grad():
            self.logits.copy_(self._beginning())

    def moved(self) -> float:
        """Return the typical factor by which a group grew or shrank: 1 if nothing was learned.

        It is the exponential of the root mean square of ``log(n_ij / initial n_ij)``.
        """
        began = self.cost.fit(self.start, self.target)
        upper = torch.ones_like(began).triu() > 0
        change = (self.counts().detach().cpu()[upper] / began[upper]).log()
        return float(change.square().mean().sqrt().exp())

    def forward(self, x: Tensor) -> Tensor:
        counts = self.counts()
        waiting: list[list[Tensor]] = [[] for _ in range(len(self.units) + 1)]
        self._send(self.reduction(x) * self._gates(counts, 0), 0, waiting)
        for layer, unit in enumerate(self.units, start=1):
            self._send(unit(gather(waiting[layer - 1])) * self._gates(counts, layer), layer, waiting)
        return gather(waiting[-1])

    def _beginning(self) -> Tensor:
        return torch.where(self.start > 0, self.start, 1.0).log()

    def _gates(self, counts: Tensor, layer: int) -> Tensor:
        """Return the gates of a layer's channels, (1, C, 1, 1): near 1 for the first n_ij of each group, then 0."""
        gates = [
            torch.sigmoid((counts[layer, target] - torch.arange(size, device=counts.device) - 0.5) / SOFTNESS)
            for target, size in self.sharing.splits(layer)  # type: ignore[union-attr]
        ]
        return torch.cat(gates).view(1, -1, 1, 1)


class LearnedMuffNet(StagedNet):
    """The network that is trained to find M; :func:`discretize` gives the M that it has found.

    Args:
        base: the sharing of each stage of the variant whose cost per stage is kept.
        stem_channels, head_channels, stem, options: as in :class:`compactnets.models.muffnet.MuffNet`.

    Raises:
        InputError: a stem that is not known.
    """

    def __init__(
        self,
        base: Sequence[Sharing],
        *,
        stem_channels: int = 24,
        head_channels: int = HEAD_CHANNELS,
        stem: str = "imagenet",
        **options: Unpack[Options],
    ) -> None:
        costs = stage_costs(base, stem_channels, head_channels)
        levels = stem_levels(stem_channels, stem)
        stages = []
        in_channels, reduction = levels[-1]
        for index, (plan, cost) in enumerate(zip(base, costs, strict=True)):
            with torch.device("cpu"):  # also where the network itself is on the meta device
                target = float(cost.macs(_matrix(plan)))
                starts = torch.stack([cost.fit(_proportions(pattern, DEPTHS[index]), target) for pattern in STARTS])
                room = starts.amax(0).ceil().int().tolist()
            stride = first_stage_stride(stem) if index == 0 else 2
            stage = LearnedStage(
                in_channels, SharingMatrix(tuple(map(tuple, room))), starts.mean(0), cost, target, stride
            )
            stages.append(stage)
            in_channels, reduction = stage.sharing.out_channels, reduction * stride
            levels.append((in_channels, reduction))
        super().__init__(
            make_stem(options.get("in_chans", 3), stem_channels, stem),
            stages,
            ConvNormAct(in_channels, head_channels),
            levels=levels,
            num_features=head_channels,
            form={"stem": stem, "learned_from": [plan.described() for plan in base]},
            **options,
        )
        self.base, self.stem_channels, self.head_channels = tuple(base), stem_channels, head_channels
        initialize(self)

    def reset(self) -> None:
        """Reset M to its start."""
        for stage in self.stages:
            stage.reset()  # type: ignore[operator]


def stage_costs(base: Sequence[Sharing], stem_channels: int, head_channels: int) -> list[StageCost]:
    """Return the cost of each stage of a network with the sharing ``base``, as a function of that stage's M."""
    given = [stem_channels, *(plan.out_channels for plan in base)]
    following = [*(plan.layer_channels[0] for plan in base[1:]), head_channels]
    last = len(base) - 1
    return [
        StageCost(SIZES[index], SIZES[index + 1], given[index], following[index], index == 0, index == last)
        for index in range(len(base))
    ]


def discretize(model: nn.Module, multiple: int = 1) -> tuple[SharingMatrix, ...]:
    """Return the matrices of whole channels that a network has learned, at the cost of the variant.

    Each stage's n_ij are scaled by a factor and rounded half up. The factors minimise the largest deviation from the
    variant's cost per stage. A group may end up without channels.

    Args:
        multiple: that every group is rounded to. Layers and blocks are sums of groups (rows and columns of M), so their
            widths are such multiples, too. Above 1, all stages together cost at most what those of the variant do, at
            224 x 224: coarse groups may miss the cost of a stage by much more than single channels.

    Raises:
        InputError: not a :class:`LearnedMuffNet`, or an M that leaves a layer or a block without channels.
    """
    if not isinstance(model, LearnedMuffNet):
        raise InputError(f"only a MuffNet with sharing='learned' has an M to discretise, found {type(model).__name__}")
    found = [stage.counts().detach() for stage in model.stages]  # type: ignore[operator]
    target = stage_macs(model.base, model.stem_channels, model.head_channels)

    @cache
    def rounded(index: int, scale: float) -> SharingMatrix | InputError:
        rows = ((found[index] * scale / multiple + 0.5).floor() * multiple).int().tolist()
        try:
            return SharingMatrix(tuple(map(tuple, rows)))
        except InputError as error:  # a layer or a block without channels
            return error

    def misfit(scales: tuple[float, ...]) -> tuple[float, float]:
        """Return by how much all stages together cost too much, and how far the stages are from the variant's."""
        plans = [plan for stage in enumerate(scales) if isinstance(plan := rounded(*stage), SharingMatrix)]
        if len(plans) < len(scales):
            return math.inf, math.inf
        pairs = list(zip(stage_macs(plans, model.stem_channels, model.head_channels), target, strict=True))
        if multiple == 1:
            return 0.0, max(abs(count / wanted - 1) for count, wanted in pairs)
        total = sum(target)  # a stage of few coarse groups must not determine what the others leave unused
        return max(0.0, sum(count for count, _ in pairs) / total - 1), sum(abs(a - b) for a, b in pairs) / total

    def best(scales: Iterable[tuple[float, ...]]) -> tuple[float, ...]:
        return min(scales, key=misfit)

    scales = best(itertools.product(COARSE, repeat=len(found)))
    before = None
    while scales != before:  # a stage's width changes the cost of its neighbours: repeat until nothing improves
        before = scales
        for index in range(len(found)):
            around = ((*scales[:index], scales[index] * fine, *scales[index + 1 :]) for fine in FINE)
            scales = best([scales, *around])
    plans = [rounded(*stage) for stage in enumerate(scales)]
    for number, plan in enumerate(plans, start=1):
        if isinstance(plan, InputError):
            asked = "" if multiple == 1 else f" in groups of multiples of {multiple}: choose a smaller --align"
            raise InputError(f"stage {number} has no whole channels at this cost ({plan}){asked}")
    return tuple(plan for plan in plans if isinstance(plan, SharingMatrix))


def _matrix(plan: Sharing) -> Tensor:
    if not isinstance(plan, SharingMatrix):
        raise InputError("sharing='learned' needs a variant whose own sharing is a matrix")
    return torch.tensor(plan.entries, dtype=torch.float32)


def _proportions(pattern: str, num_layers: int) -> Tensor:
    """Return a pattern's proportions, (L, L)."""
    if pattern == "none":
        return torch.eye(num_layers)
    wide: Any = make_sharing(pattern, num_layers, 1000)  # with a thousand channels, rounding is negligible
    return torch.tensor(wide.entries, dtype=torch.float32) / 1000
