"""Section 3.2's formulas against measured multiply-adds, and the widths that meet a budget."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Sequence
from fractions import Fraction

import pytest
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

import compactnets
from compactnets.errors import InputError
from compactnets.models import budget
from compactnets.models.muffnet import VARIANTS
from compactnets.models.muffnet_blocks import DEPTHS, MuffStage, NormalBlock, ReductionBlock, ResidualBlock
from compactnets.models.sharing import Sharing, SharingMatrix, make_sharing

PLAIN = VARIANTS["muffnet_x0_5"]["plain_widths"]


def measured(block: nn.Module, channels: int, size: int) -> int:
    """Multiply-adds that PyTorch counts, on the meta device."""
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        block.to("meta").eval()(torch.empty(1, channels, size, size, device="meta"))
    return counter.get_total_flops() // 2


@pytest.mark.parametrize(("m_i", "m_j", "size"), [(1, 1, 1), (8, 24, 28), (17, 5, 9), (64, 65, 14)])
def test_normal_block(m_i: int, m_j: int, size: int) -> None:
    assert budget.normal_block_macs(m_i, m_j, size) == measured(NormalBlock(m_i, m_j), m_i, size)
    assert budget.normal_block_macs(m_i, m_i, size) == measured(ResidualBlock(m_i), m_i, size)


@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize(("m_i", "m_j", "size"), [(24, 32, 56), (24, 33, 56), (65, 136, 14), (3, 2, 7), (1, 1, 2)])
def test_reduction_block(m_i: int, m_j: int, size: int, stride: int) -> None:
    """The sum m_i + m_j is even in some cases and odd in others, as is the size of the map."""
    after = -(-size // stride)
    found = measured(ReductionBlock(m_i, m_j, stride), m_i, size)
    assert found == budget.reduction_block_macs(m_i, m_j, size, after)


@pytest.mark.parametrize(("m_i", "m_j"), [(24, 32), (24, 33), (65, 136), (1, 1)])
def test_the_printed_formula_counts_full_convolutions(m_i: int, m_j: int) -> None:
    """Term by term: 5x5 over m_i and, with 2c outputs, over c, each full; 1x1 over m_i, twice, and over c."""
    c = Fraction(m_i + m_j, 2)
    shortcut = 25 * m_i * m_i + m_i * m_j
    main = 25 * c * (m_i + m_j) + c * m_j
    for s_i, s_j in ((56, 28), (7, 4)):
        expected = s_i**2 * m_i * c + s_j**2 * (shortcut + main)
        assert budget.reduction_block_macs(m_i, m_j, s_i, s_j, as_printed=True) == expected


def test_the_printed_formula_alone_is_more_than_the_whole_network() -> None:
    stages = [
        make_sharing(*stage) for stage in zip(("average", "geometric", "none"), DEPTHS, (8, 32, 136), strict=True)
    ]
    inputs = (24, *(stage.out_channels for stage in stages))
    macs = sum(
        budget.reduction_block_macs(m_i, stage.layer_channels[0], size, size // 2, as_printed=True)
        for m_i, stage, size in zip(inputs, stages, budget.SIZES, strict=False)
    )
    assert macs > 2.5 * 42e6


@pytest.mark.parametrize("pattern", ["none", "average", "linear", "geometric", "dense"])
@pytest.mark.parametrize("layers", [4, 8])
def test_structure(pattern: str, layers: int) -> None:
    sharing = make_sharing(pattern, layers, 9)
    stage = MuffStage(24, sharing).to("meta").eval()
    reduction = measured(stage.reduction, 24, 28)
    assert budget.structure_macs(sharing, 14) == measured(stage, 24, 28) - reduction


def test_structure_against_section_4() -> None:
    """FLOPS_2's blocks, and an average stage with M_ij = 2w / L, which costs what the plain stage of width w does."""
    for layers, width, size in itertools.product((4, 8), (4, 12, 40), (7, 14)):
        plain = size**2 * (2 * width**2 + 9 * width) * (layers - 1)
        assert budget.structure_macs(make_sharing("none", layers, width), size) == plain
        assert budget.structure_macs(make_sharing("average", layers, 2 * width / layers), size) == plain


def by_resolution(model: nn.Module, size: int) -> Counter[int]:
    """Multiply-adds of the convolutions outside the stem, by the side of the map that they write."""
    macs: Counter[int] = Counter()

    def record(layer: nn.Conv2d, inputs: tuple[torch.Tensor], out: torch.Tensor) -> None:
        macs[out.shape[-1]] += out.numel() * layer.weight[0].numel()

    for part in (model.stages, model.final):
        for layer in part.modules():  # type: ignore[union-attr]
            if isinstance(layer, nn.Conv2d):
                layer.register_forward_hook(record)  # type: ignore[arg-type]
    with torch.no_grad():
        model.eval()(torch.empty(1, 3, size, size, device="meta"))
    return macs


@pytest.mark.parametrize(
    ("name", "sharing"),
    [
        ("muffnet_x0_5", None),
        ("muffnet_x0_5", "dense+linear+average"),
        ("muffnet_x1_0", "none+none+none"),
        ("muffnet_x1_5", None),
    ],
)
def test_stages_by_resolution(name: str, sharing: str | None) -> None:
    arguments = {"sharing": sharing} if sharing else {}
    with torch.device("meta"):
        large = compactnets.create_model(name, **arguments)
        small = compactnets.create_model(name, stem="cifar", **arguments)
    found = by_resolution(large, 224)
    assert set(found) == {56, 28, 14, 7}
    assert budget.stage_macs(large.sharing, 24, 1024) == (found[56] + found[28], found[14], found[7])
    found = by_resolution(small, 32)
    assert budget.stage_macs(small.sharing, 24, 1024, (32, 32, 16, 8)) == (found[32], found[16], found[8])


def plan(parts: tuple[str | Sharing, ...], widths: tuple[float | None, ...], reading: str = "entry") -> list[Sharing]:
    return [make_sharing(*stage, reading) for stage in zip(parts, DEPTHS, widths, strict=True)]


TARGET = budget.stage_macs(plan(("none",) * 3, PLAIN), 24, 1024)


def misfits(stages: Sequence[Sharing]) -> list[float]:
    macs = budget.stage_macs(stages, 24, 1024)
    return [abs(found / wanted - 1) for found, wanted in zip(macs, TARGET, strict=True)]


def badness(stages: Sequence[Sharing]) -> tuple[float, float]:
    """The largest misfit of a stage; among equals, the sum of squares."""
    found = misfits(stages)
    return max(found), sum(misfit**2 for misfit in found)


@pytest.mark.parametrize(
    ("parts", "ranges"),
    [
        (("linear", "none", "none"), (range(110, 160), range(540, 600, 10), range(1330, 1400, 10))),
        (("none", "linear", "none"), (range(210, 250, 10), range(255, 295), range(1310, 1390, 10))),
        (("average", "geometric", "none"), (range(60, 100), range(300, 350), range(1340, 1370, 10))),
    ],
)
def test_fit_is_the_best_of_all(parts: tuple[str, ...], ranges: tuple[range, ...]) -> None:
    """Against every combination of widths about the solution, in tenths of a channel."""
    widths = budget.fit_widths(parts, DEPTHS, TARGET, 24, 1024)
    assert all(width * 10 in tenths for width, tenths in zip(widths, ranges, strict=True))
    options = [
        [make_sharing(part, depth, tenths / 10) for tenths in steps]
        for part, depth, steps in zip(parts, DEPTHS, ranges, strict=True)
    ]
    found = badness(plan(parts, widths))
    assert found == pytest.approx(min(badness(stages) for stages in itertools.product(*options)))


def test_fit_with_the_row_reading() -> None:
    parts = ("average", "linear", "geometric")
    widths = budget.fit_widths(parts, DEPTHS, TARGET, 24, 1024, "row")
    assert max(misfits(plan(parts, widths, "row"))) < 0.02


def test_fit_around_a_matrix_that_is_given() -> None:
    """The stage of the matrix costs what it costs; the others still meet their budget."""
    matrix = make_sharing("none", 4, 60)  # about four times the budget
    parts = (matrix, "geometric", "none")
    widths = budget.fit_widths(parts, DEPTHS, TARGET, 24, 1024)
    assert widths[0] is None
    found = misfits(plan(parts, widths))
    assert found[0] > 2
    assert max(found[1:]) < 0.02


def test_fit_without_a_solution() -> None:
    matrix = SharingMatrix(tuple(tuple(8000 * (i == j) for j in range(4)) for i in range(4)))
    with pytest.raises(InputError, match="stage 2.* 11.70 M MACs"):
        budget.fit_widths((matrix, "geometric", "none"), DEPTHS, TARGET, 24, 1024)
    with pytest.raises(InputError, match="found 'lineal'; did you mean 'linear'"):
        budget.fit_widths(("lineal", "none", "none"), DEPTHS, TARGET, 24, 1024)
