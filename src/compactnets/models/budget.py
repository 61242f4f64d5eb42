"""What MuffNet's blocks and stages cost (section 3.2), and the widths at which a sharing pattern meets a budget.

Costs are multiply-adds (``macs``), which the paper calls FLOPs. Sizes are the sides of square maps.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache
from itertools import product
from typing import Any

from compactnets.errors import InputError
from compactnets.models.sharing import PATTERNS, Sharing, make_sharing

SIZES = (56, 28, 14, 7)  # what each reduction block reads, and the last stage's map, at 224 x 224


def normal_block_macs(in_channels: int, out_channels: int, size: int) -> int:
    """MACs of a normal or residual block: ``size^2 (m_i^2 + 9 m_i + m_i m_j)`` (section 3.2)."""
    return size**2 * (in_channels**2 + 9 * in_channels + in_channels * out_channels)


def reduction_block_macs(
    in_channels: int, out_channels: int, in_size: int, out_size: int, as_printed: bool = False
) -> float:
    """MACs of a reduction block, with ``c = (m_i + m_j) // 2``.

    ``in_size^2 m_i c + out_size^2 (25 c + c m_j + 25 m_i + m_i m_j)``: the sum over the layers of figure 3(c). With
    ``as_printed`` the formula of section 3.2 as it stands, which counts the depthwise 5x5 convolutions as full ones.
    """
    m_i, m_j = in_channels, out_channels
    if as_printed:
        return in_size**2 * (m_i**2 + m_i * m_j) / 2 + out_size**2 * (37.5 * m_i**2 + 26.5 * m_i * m_j + 13 * m_j**2)
    inner = (m_i + m_j) // 2
    return in_size**2 * m_i * inner + out_size**2 * (25 * inner + inner * m_j + 25 * m_i + m_i * m_j)


def structure_macs(sharing: Sharing, size: int) -> int:
    """MACs of the L - 1 blocks of a stage: FLOP(M) of section 3.2."""
    pairs = zip(sharing.input_channels, sharing.layer_channels[1:], strict=True)
    return sum(normal_block_macs(m_i, m_j, size) for m_i, m_j in pairs)


def stage_macs(
    plans: Sequence[Sharing], stem_channels: int, head_channels: int, sizes: Sequence[int] = SIZES
) -> tuple[int, ...]:
    """MACs of each stage, counted by resolution.

    A stage has what runs on its maps: the blocks, the strided part of its own reduction block, and the first pointwise
    convolution of the next reduction block (the 1x1 before the pooling, in the last stage). The part at the stem's
    resolution counts with the first stage. Only so do equal costs per stage keep the parameters equal too, as Tables 1
    to 3 print them (docs/muffnet.md).
    """
    macs = [0.0] * (len(plans) + 1)
    in_channels = stem_channels
    for index, plan in enumerate(plans):
        out_channels = plan.layer_channels[0]
        before = sizes[index] ** 2 * in_channels * ((in_channels + out_channels) // 2)
        block = reduction_block_macs(in_channels, out_channels, sizes[index], sizes[index + 1])
        macs[index] += before
        macs[index + 1] += block - before + structure_macs(plan, sizes[index + 1])
        in_channels = plan.out_channels
    macs[-1] += sizes[-1] ** 2 * in_channels * head_channels
    return (int(macs[0] + macs[1]), *map(int, macs[2:]))


@cache
def fit_widths(
    parts: tuple[Any, ...],
    depths: tuple[int, ...],
    target: tuple[int, ...],
    stem_channels: int,
    head_channels: int,
    reading: str = "entry",
) -> tuple[float | None, ...]:
    """Return the widths at which every stage costs what ``target`` says ("the FLOPs of each stage the same", 5.2).

    Args:
        parts: a pattern or a matrix (as a tuple of tuples) per stage; a matrix has no width: ``None`` stands for it.
        depths: layers of each stage.
        target: MACs of each stage (:func:`stage_macs`).

    Each stage is fitted in turn until nothing moves, since a reduction block couples two of them; then the
    neighbourhood of that is searched for the least sum of the misfits' fourth powers. Widths go in steps of 0.1, of 1
    where nothing is shared.
    """
    for part, depth in zip(parts, depths, strict=True):
        if isinstance(part, str) and part not in PATTERNS:
            make_sharing(part, depth, 1.0)  # raises, with the names that exist
    steps = [0.0 if not isinstance(part, str) else 1.0 if part == "none" else 0.1 for part in parts]

    def misfits(widths: Sequence[float]) -> list[float]:
        plans = [
            make_sharing(part, depth, width if step else None, reading)
            for part, depth, width, step in zip(parts, depths, widths, steps, strict=True)
        ]
        macs = stage_macs(plans, stem_channels, head_channels)
        return [found / wanted - 1 for found, wanted in zip(macs, target, strict=True)]

    widths = [16.0] * len(parts)
    for _ in range(20):
        before = list(widths)
        for index, step in enumerate(steps):
            if step:
                widths[index] = _solve(
                    lambda width, index=index: misfits([*widths[:index], width, *widths[index + 1 :]])[index], step
                )
        if widths == before:
            break
    reach = [1 if step == 1.0 else 5 for step in steps]
    ranges = [
        [round(width + offset * step, 1) for offset in range(-span, span + 1)] if step else [width]
        for width, step, span in zip(widths, steps, reach, strict=True)
    ]
    trials = (trial for trial in product(*ranges) if min(trial) >= 1)
    best = min(trials, key=lambda trial: sum(misfit**4 for misfit in misfits(trial)))
    return tuple(width if step else None for width, step in zip(best, steps, strict=True))


def _solve(misfit: Callable[[float], float], step: float) -> float:
    """Return the multiple of ``step`` at which the misfit turns positive; it grows with the width, by jumps."""
    low, high = 1.0, 2.0
    if misfit(low) > 0:
        raise InputError("no width fits: the pattern costs more than the stage's budget even at one channel")
    while misfit(high) < 0:
        high *= 2
    while high - low > step / 2:
        middle = (low + high) / 2
        low, high = (middle, high) if misfit(middle) < 0 else (low, middle)
    return max(1.0, round(round(high / step) * step, 1))
