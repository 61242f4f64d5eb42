"""The cost of MuffNet's blocks and stages (section 3.2), and the widths with which a sharing pattern meets a budget.

Costs are multiply-adds (``macs``), which the paper calls FLOPs. Sizes are the sides of square maps.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from itertools import product

from compactnets.errors import InputError
from compactnets.models.sharing import Sharing, make_sharing

SIZES = (56, 28, 14, 7)  # what each reduction block reads, and the last stage's map, at 224 x 224


def normal_block_macs(in_channels: int, out_channels: int, size: int) -> int:
    """MACs of a normal or residual block: ``size^2 (m_i^2 + 9 m_i + m_i m_j)`` (section 3.2)."""
    return size**2 * (in_channels**2 + 9 * in_channels + in_channels * out_channels)


def reduction_block_macs(
    in_channels: int, out_channels: int, in_size: int, out_size: int, as_printed: bool = False
) -> float:
    """MACs of a reduction block, with ``c = (m_i + m_j) // 2``.

    ``in_size^2 m_i c + out_size^2 (25 c + c m_j + 25 m_i + m_i m_j)``: the sum over the layers of figure 3(c).
    ``as_printed`` uses the printed formula of section 3.2, which counts the depthwise 5x5 convolutions as full ones.
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

    A stage includes everything that runs on its maps: the blocks, the strided part of its reduction block, and the
    first pointwise convolution of the next reduction block (in the last stage, the 1x1 before the pooling). The layers
    at the stem's resolution count with the first stage. Only then do equal costs per stage imply equal parameters, as
    printed in Tables 1 to 3 (docs/muffnet.md).
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
    parts: tuple[str | Sharing, ...],
    depths: tuple[int, ...],
    target: tuple[int, ...],
    stem_channels: int,
    head_channels: int,
    reading: str = "entry",
) -> tuple[float | None, ...]:
    """Return the widths with which every stage costs ``target`` ("the FLOPs of each stage the same", 5.2).

    A reduction block couples two stages, so the widths are searched together: from any start, move to the best
    neighbour until none is better, with ever finer steps, down to 0.1, or 1 if nothing is shared. The criterion is the
    largest deviation of a stage; ties are broken by the sum of squares.

    Args:
        parts: per stage, a pattern or a fixed sharing; the latter has no width: ``None``.
        depths: layers of each stage.
        target: MACs of each stage (:func:`stage_macs`).

    Raises:
        InputError: a stage costs more than its target even with one channel; or as in :func:`make_sharing`.
    """

    @cache
    def plan(index: int, width: float | None) -> Sharing:
        return make_sharing(parts[index], depths[index], width, reading)

    def misfits(widths: Sequence[float | None]) -> list[float]:
        macs = stage_macs([plan(*stage) for stage in enumerate(widths)], stem_channels, head_channels)
        return [found / wanted - 1 if width else 0.0 for found, wanted, width in zip(macs, target, widths, strict=True)]

    def badness(widths: Sequence[float | None]) -> tuple[float, float]:
        found = misfits(widths)
        return max(map(abs, found)), sum(misfit**2 for misfit in found)

    widths: tuple[float | None, ...] = tuple(16.0 if isinstance(part, str) else None for part in parts)
    for step, reach in ((32, 2), (8, 2), (2, 2), (0.5, 2), (0.1, 5)):
        before = None
        while widths != before:
            before = widths
            ranges = [_around(*stage, step, reach) for stage in zip(widths, parts, strict=True)]
            widths = min(product(*ranges), key=badness)
    for number, (width, misfit) in enumerate(zip(widths, misfits(widths), strict=True), start=1):
        if width == 1 and misfit > 0:
            raise InputError(
                f"no width fits stage {number}: it costs more than {target[number - 1] / 1e6:.2f} M MACs even with one "
                "channel; give the widths, or make the previous stage smaller"
            )
    return widths


def _around(width: float | None, part: str | Sharing, step: float, reach: int) -> Sequence[float | None]:
    """Return the widths within ``reach`` steps, no less than 1; whole ones if nothing is shared."""
    if width is None:
        return [None]
    if part == "none" and step < 1:
        step, reach = 1, 1
    return sorted({max(1.0, round(width + step * count, 1)) for count in range(-reach, reach + 1)})
