"""The theory against its own definitions, figure 4 and worked numbers."""

import math

import pytest

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
)


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
