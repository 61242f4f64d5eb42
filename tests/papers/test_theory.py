"""The theory against its own definitions, figure 4 and worked numbers."""

import itertools
import math

import numpy as np
import pytest
import torch
from torch import nn

from compactnets import InputError
from compactnets.models.budget import structure_macs
from compactnets.models.sharing import make_sharing
from compactnets.papers.theory import (
    crossing_frequency,
    equal_budget_width,
    federated_macs,
    log10_federated_bound,
    log10_spectrum_bound,
    plain_macs,
    stage_widths,
)
from compactnets.report import figures


@pytest.mark.parametrize(("entry", "layers"), [(32, 4), (8, 8), (5, 2), (1, 3)])
def test_printed_flop_1_is_the_sum_that_it_comes_from(entry: int, layers: int) -> None:
    side = 7
    blocks = sum((k - 1) * entry * (layers + 1 - k) * entry for k in range(2, layers + 1))
    assert federated_macs(entry, layers, side, as_printed=True) == 9 * entry * side**2 * layers + 3 * side**2 * blocks


@pytest.mark.parametrize(("entry", "layers"), [(32, 4), (8, 8), (5, 2), (1, 3)])
def test_correct_flop_1_counts_the_blocks_that_are_built(entry: int, layers: int) -> None:
    built = structure_macs(make_sharing("average", layers, entry), 14)
    assert federated_macs(entry, layers, 14) == 9 * entry * layers * 14**2 + built


def test_flops_2_counts_plain_blocks() -> None:
    assert plain_macs(24, 4, 14) == 9 * 24 * 14**2 + structure_macs(make_sharing("none", 4, 24), 14)


@pytest.mark.parametrize("as_printed", [False, True])
@pytest.mark.parametrize(("entry", "layers"), [(32, 4), (8, 8), (5, 2), (100, 16)])
def test_equal_budget_width_has_equal_budget(entry: int, layers: int, as_printed: bool) -> None:
    width = equal_budget_width(entry, layers, as_printed=as_printed)
    assert plain_macs(width, layers, 3) == pytest.approx(federated_macs(entry, layers, 3, as_printed=as_printed))


@pytest.mark.parametrize(("a", "L"), [(32, 4), (8, 8), (5, 2)])
def test_printed_width_is_the_papers_formula(a: int, L: int) -> None:  # noqa: N803  # the paper's letters
    delta = 81 * L**2 - 72 * a * L + 72 * a * L**2 + 4 * a**2 * L - 4 * a**2 * L**2 - 4 * a**2 * L**3 + 4 * a**2 * L**4
    assert equal_budget_width(a, L, as_printed=True) == pytest.approx((-9 * L + math.sqrt(delta)) / (4 * (L - 1)))
    if (a, L) == (32, 4):
        assert delta == 766224


def test_bounds_are_their_definitions() -> None:
    assert 10 ** log10_spectrum_bound([2, 3], 5) == pytest.approx(6**2 * 5**-3)
    assert 10 ** log10_spectrum_bound([2, 3], 5, image_side=2, constant=7) == pytest.approx(7 * 6**5 * 5**-3)
    assert 10 ** log10_spectrum_bound([2, 3], 5, 2, as_printed=True) == pytest.approx(6 * 4**3 * 5**-3)
    by_hand = sum(3 ** (2 * depth) * 5 ** (-depth - 1) for depth in (1, 2, 3))
    assert 10 ** log10_federated_bound(3, 3, 5) == pytest.approx(by_hand)


def test_bounds_of_a_real_image_stay_finite() -> None:
    assert math.isfinite(log10_federated_bound(32, 4, 10, image_side=224))


def test_figure_4() -> None:
    """a = 32, L = 4, c = s0 = 1: "after 1e4 the blue line decays below the red one"."""
    width = equal_budget_width(32, 4, as_printed=True)
    assert width == pytest.approx(69.945, abs=1e-3)
    assert crossing_frequency(32, 4, as_printed=True) == pytest.approx(7866, abs=1)
    for frequency, federated, plain in ((1, 1.10e12, 5.73e14), (1e4, 1.14e-5, 5.73e-6)):
        assert 10 ** log10_federated_bound(32, 4, frequency) == pytest.approx(federated, rel=5e-3)
        assert 10 ** log10_spectrum_bound([width] * 4, frequency) == pytest.approx(plain, rel=5e-3)


def test_figure_4_with_equal_blocks() -> None:
    assert equal_budget_width(32, 4) == pytest.approx(64.71, abs=1e-2)
    assert crossing_frequency(32, 4) == pytest.approx(6315, abs=1)


@pytest.mark.parametrize(("entry", "layers", "side"), [(32, 4, 1), (4, 3, 2), (8, 8, 3)])
def test_the_bounds_cross_where_it_says_and_only_there(entry: int, layers: int, side: int) -> None:
    at = crossing_frequency(entry, layers, side)
    width = equal_budget_width(entry, layers)
    above = [
        log10_federated_bound(entry, layers, at * factor, side)
        - log10_spectrum_bound([width] * layers, at * factor, side)
        for factor in (1e-3, 0.5, 1, 2, 1e3)
    ]
    assert above[0] < above[1] < 0 < above[3] < above[4]
    assert above[2] == pytest.approx(0, abs=1e-6)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: log10_spectrum_bound([], 1), "at least one layer"),
        (lambda: log10_spectrum_bound([1, -2], 1), r"widths\[1\] must be a positive number, found -2"),
        (lambda: log10_federated_bound(32, 4, 0), "frequency must be a positive number, found 0"),
        (lambda: equal_budget_width(32, 1), "at least 2 layers, found 1"),
        (lambda: crossing_frequency(32, 8, 32), "cross outside"),
    ],
)
def test_wrong_numbers(call, message: str) -> None:
    with pytest.raises(InputError, match=message):
        call()


def _padded_hat(layers: int) -> nn.Sequential:
    """The hat function on [-1, 1] as a ReLU network: one layer makes it, the others are identities."""
    first, last = nn.Linear(1, 3), nn.Linear(3, 1, bias=False)
    with torch.no_grad():
        first.weight.fill_(1)
        first.bias.copy_(torch.tensor([1.0, 0.0, -1.0]))
        last.weight.copy_(torch.tensor([[1.0, -2.0, 1.0]]))
        padding = [nn.Linear(3, 3, bias=False) for _ in range(layers - 1)]
        for layer in padding:
            layer.weight.copy_(torch.eye(3))
    return nn.Sequential(first, nn.ReLU(), *(part for layer in padding for part in (layer, nn.ReLU())), last).double()


def _spectrum(network: nn.Module, frequency: float) -> float:
    """|f^| of a piecewise linear function whose kinks are multiples of 1/4: -Σ Δslope e^(-iωx) / ω²."""
    x = torch.arange(-12, 13, dtype=torch.float64) / 4
    with torch.no_grad():
        values = network(x[:, None])[:, 0].numpy()
    kinks = np.diff(values, 2) * 4
    return float(abs(np.sum(kinks * np.exp(-1j * frequency * x.numpy()[1:-1])))) / frequency**2


@pytest.mark.parametrize("layers", [2, 4, 8])
def test_lemma_1_with_the_depth_as_exponent_has_a_counterexample(layers: int) -> None:
    """A hat padded with identities falls as ω^-2 at any depth: ω² |f^| is 4 at every peak, so ω^(L + 1) |f^| grows."""
    network = _padded_hat(layers)
    assert sum(isinstance(layer, nn.ReLU) for layer in network) == layers
    peaks = [math.pi * (2 * k + 1) for k in (0, 1, 5, 50, 500, 5000)]
    found = [_spectrum(network, peak) for peak in peaks]
    assert [peak**2 * value for peak, value in zip(peaks, found, strict=True)] == pytest.approx([4] * len(peaks))
    # whatever the constant: one that makes Corollary 3 hold at the first peak is exceeded at the others
    quoted = [log10_spectrum_bound([3] * layers, peak) for peak in peaks]
    excess = [math.log10(value) - bound for value, bound in zip(found, quoted, strict=True)]
    assert all(later > before + 0.3 for before, later in itertools.pairwise(excess))
    cited = [log10_spectrum_bound([3] * layers, peak, as_cited=True) for peak in peaks]
    assert all(math.log10(value) <= bound for value, bound in zip(found, cited, strict=True))


@pytest.mark.parametrize("as_printed", [False, True])
def test_with_the_cited_exponent_figure_4_does_not_cross(as_printed: bool) -> None:
    """For an input of one dimension both bounds fall as ω^-2, the plain network's above the stage's throughout."""
    width = equal_budget_width(32, 4, as_printed=as_printed)
    plain, federated = (
        [bound(10.0**exponent) for exponent in range(0, 9, 2)]
        for bound in (
            lambda frequency: log10_spectrum_bound([width] * 4, frequency, as_cited=True),
            lambda frequency: log10_federated_bound(32, 4, frequency, as_cited=True),
        )
    )
    for bounds in (plain, federated):
        assert np.diff(bounds) == pytest.approx(-4)  # of log10, per two decades
    assert all(one > two for one, two in zip(plain, federated, strict=True))


@pytest.mark.parametrize("side", [1, 2, 3])
def test_cited_exponent_is_that_of_the_input_dimension(side: int) -> None:
    for layers in (1, 3, 5):
        one, ten = (log10_spectrum_bound([2] * layers, frequency, side, as_cited=True) for frequency in (1, 10))
        assert one - ten == pytest.approx(side**2 + 1)


def test_corollary_3_on_the_stage_itself_is_about_the_plain_networks() -> None:
    widths = stage_widths(32, 4)
    assert widths == [128, 96, 64, 32]
    assert tuple(widths) == make_sharing("average", 4, 32).layer_channels
    for as_printed, ratio in ((True, 1.105), (False, 2.06)):
        plain = [equal_budget_width(32, 4, as_printed=as_printed)] * 4
        for frequency in (1, 1e4, 1e6):
            found = log10_spectrum_bound(widths, frequency) - log10_spectrum_bound(plain, frequency)
            assert 10**found == pytest.approx(ratio, rel=5e-3)


def test_figure_4_is_drawn_both_ways() -> None:
    """As quoted: bounds cross. As cited: straight lines of slope -2 that do not."""
    quoted, cited = figures.spectrum().axes
    lines = {
        axes: {line.get_color(): line for line in axes.lines if len(line.get_xdata()) > 2} for axes in (quoted, cited)
    }
    signs = {}
    for axes, found in lines.items():
        difference = np.asarray(found["C3"].get_ydata()) - np.asarray(found["C0"].get_ydata())
        signs[axes] = (difference[0] > 0, difference[-1] > 0)
    assert signs == {quoted: (False, True), cited: (False, False)}
    for line in lines[cited].values():
        assert np.diff(line.get_ydata()) / np.diff(line.get_xdata()) == pytest.approx(-2)
