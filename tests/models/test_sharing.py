"""The sharing matrices: what is refused, and the patterns against small cases worked out by hand."""

from __future__ import annotations

import itertools
import math
from typing import Any

import numpy as np
import pytest
import torch

from compactnets.errors import InputError
from compactnets.models.sharing import PATTERNS, READINGS, DenseSharing, SharingMatrix, make_sharing

FIGURE_2 = ((5, 0, 0, 0), (0, 4, 3, 2), (0, 0, 6, 7), (0, 0, 0, 8))  # the connections of figure 2, with widths of ours
SHARED = ("average", "linear", "geometric")


@pytest.mark.parametrize(
    ("entries", "message"),
    [
        ((), "must be square, found rows of []"),
        (((1, 1),), "must be square, found rows of [2]"),
        (((1, 1), (1,)), "must be square, found rows of [2, 1]"),
        (((1, -1), (0, 1)), "M[0][1] must be a whole number of channels from 0, found -1"),
        (((1, 1.0), (0, 1)), "M[0][1] must be a whole number of channels from 0, found 1.0"),
        (((1, True), (0, 1)), "M[0][1] must be a whole number of channels from 0, found True"),
        (((1, "2"), (0, 1)), "M[0][1] must be a whole number of channels from 0, found '2'"),
        (((1, 1), (2, 1)), "upper-triangular: M[1][0] must be 0, found 2"),
        (((1, 1), (0, 0)), "row 1 is empty: layer 1 has no channels"),
        (((0, 1), (0, 1)), "column 0 is empty: no channel reaches target 0"),
    ],
)
def test_a_matrix_that_is_none(entries: Any, message: str) -> None:
    with pytest.raises(InputError) as caught:
        SharingMatrix(entries)
    assert message in str(caught.value)


def test_what_a_matrix_says() -> None:
    matrix = SharingMatrix(FIGURE_2)
    assert matrix.layer_channels == (5, 9, 13, 8)
    assert matrix.input_channels == (5, 4, 9)  # the third block reads M[1][2] and M[2][2]
    assert matrix.out_channels == 2 + 7 + 8
    assert matrix.splits(0) == ((0, 5),)
    assert matrix.splits(1) == ((1, 4), (2, 3), (3, 2))
    assert not matrix.is_plain
    assert SharingMatrix(((3, 0), (0, 3))).is_plain
    assert not SharingMatrix(((3, 0), (0, 4))).is_plain  # its block changes the width: it cannot be residual
    assert not SharingMatrix(((3, 1), (0, 3))).is_plain


def test_what_dense_sharing_says() -> None:
    dense = DenseSharing((3, 4, 5))
    assert (dense.input_channels, dense.out_channels, dense.is_plain) == ((3, 7), 12, False)
    for widths in ((), (3, 0, 4)):
        with pytest.raises(InputError, match="every layer needs at least one channel"):
            DenseSharing(widths)


@pytest.mark.parametrize(
    ("pattern", "layers", "width", "reading", "rows"),
    [
        ("none", 3, 5, "entry", [[5, 0, 0], [5, 0], [5]]),
        ("none", 2, 5.5, "row", [[6, 0], [6]]),
        ("average", 3, 5, "entry", [[5, 5, 5], [5, 5], [5]]),
        ("linear", 4, 12, "entry", [[12, 6, 4, 3], [12, 6, 4], [12, 6], [12]]),
        ("linear", 4, 7, "entry", [[7, 4, 2, 2], [7, 4, 2], [7, 4], [7]]),  # 3.5, 2.33 and 1.75 round half up
        ("geometric", 4, 6, "entry", [[6, 3, 2, 1], [6, 3, 2], [6, 3], [6]]),  # 1.5 and 0.75
        ("geometric", 4, 1, "entry", [[1, 1, 1, 1], [1, 1, 1], [1, 1], [1]]),  # at least one channel each
        # A fractional width rounds each row's sum: 32.8, 24.6, 16.4 and 8.2.
        ("average", 4, 8.2, "entry", [[9, 8, 8, 8], [9, 8, 8], [8, 8], [8]]),
        # Sums 27.92, 24.57, 20.1 and 13.4; the first row is due 13.44, 6.72, 4.48 and 3.36, the second 13.64, ...
        ("linear", 4, 13.4, "entry", [[13, 7, 5, 3], [14, 7, 4], [13, 7], [13]]),
        # The sum of 2.1 rounds to 2, and one channel each is more.
        ("geometric", 3, 1.2, "entry", [[1, 1, 1], [1, 1], [1]]),
        ("average", 4, 10, "row", [[3, 3, 2, 2], [4, 3, 3], [5, 5], [10]]),  # ties to the nearest target
        ("linear", 3, 11, "row", [[6, 3, 2], [7, 4], [11]]),
        ("geometric", 3, 7, "row", [[4, 2, 1], [5, 2], [7]]),  # 4.67 and 2.33
        ("geometric", 8, 56, "row", [[28, 14, 7, 4, 2, 1, 0, 0]]),  # far layers may not be connected
    ],
)
def test_small_cases_by_hand(pattern: str, layers: int, width: float, reading: str, rows: list[list[int]]) -> None:
    matrix = make_sharing(pattern, layers, width, reading)
    assert isinstance(matrix, SharingMatrix)
    for i, row in enumerate(rows):
        assert list(matrix.entries[i]) == [0] * i + row


def test_the_matrix_of_muffnet_x0_5() -> None:
    matrix = make_sharing("geometric", 8, 32)
    row = [32, 16, 8, 4, 2, 1, 1, 1]
    assert [list(entries) for entries in matrix.entries] == [[0] * i + row[: 8 - i] for i in range(8)]
    assert matrix.input_channels == (32, 48, 56, 60, 62, 63, 64)
    assert matrix.out_channels == 65


WIDTHS = (1, 2, 3, 7, 8, 24, 57, 136, 1.1, 2.5, 7.9, 8.2, 27.4, 84.7)


@pytest.mark.parametrize("reading", READINGS)
@pytest.mark.parametrize("pattern", SHARED)
def test_the_counts_sum_exactly_and_follow_the_proportions(pattern: str, reading: str) -> None:
    for layers, width in itertools.product((1, 2, 4, 8), WIDTHS):
        matrix = make_sharing(pattern, layers, width, reading)
        assert isinstance(matrix, SharingMatrix)
        assert all(type(count) is int for row in matrix.entries for count in row)
        for i, row in enumerate(matrix.entries):
            distances = range(layers - i)
            due = [{"average": 1, "linear": 1 / (d + 1), "geometric": 2.0**-d}[pattern] for d in distances]
            total = width if reading == "row" else width * sum(due)
            scale = width / sum(due) if reading == "row" else width
            found = row[i:]
            if reading == "entry":
                assert min(found) >= 1, "layers are pair-wise connected"
            if reading == "row" or not float(width).is_integer():
                least = layers - i if reading == "entry" else 0
                assert sum(found) == max(math.floor(total + 0.5), least)
            if min(found) > 1 or reading == "row":  # the least of one channel decides nothing
                assert all(abs(count - scale * share) < 1.5 for count, share in zip(found, due, strict=True))
            assert list(found) == sorted(found, reverse=True)
        sums = [sum(column) for column in zip(*matrix.entries, strict=True)]
        assert sum(matrix.layer_channels) == sum(matrix.input_channels) + matrix.out_channels == sum(sums)


@pytest.mark.parametrize("pattern", SHARED)
@pytest.mark.parametrize("width", [width for width in WIDTHS if isinstance(width, int)])
def test_a_whole_width_makes_m_depend_on_the_distance_alone(pattern: str, width: int) -> None:
    entries = make_sharing(pattern, 8, width).entries  # type: ignore[union-attr]
    for i, j in itertools.product(range(7), repeat=2):
        assert entries[i][j] == entries[i + 1][j + 1]


def test_largest_remainder_is_what_it_is_called() -> None:
    """Against the definition: floors first, then one more for the largest remainders, ties to the first."""
    for width in range(1, 120):
        entries = make_sharing("linear", 8, width, "row").entries  # type: ignore[union-attr]
        for i, row in enumerate(entries):
            shares = [1 / (j - i + 1) for j in range(i, 8)]
            due = [width * share / sum(shares) for share in shares]
            floors = [math.floor(value + 1e-9) for value in due]
            order = sorted(range(len(due)), key=lambda k, due=due, floors=floors: floors[k] - due[k])
            for k in order[: width - sum(floors)]:
                floors[k] += 1
            assert list(row[i:]) == floors


@pytest.mark.parametrize(
    ("layers", "width", "expected"),
    [(4, 12, (12, 12, 12, 12)), (8, 15.1, (16, 15, 15, 15, 15, 15, 15, 15)), (3, 1.2, (2, 1, 1))],
)
def test_dense_pattern(layers: int, width: float, expected: tuple[int, ...]) -> None:
    dense = make_sharing("dense", layers, width)
    assert isinstance(dense, DenseSharing)
    assert dense.layer_channels == expected


def test_matrices_of_any_kind() -> None:
    expected = SharingMatrix(FIGURE_2)
    rows = [list(row) for row in FIGURE_2]
    for given in (rows, FIGURE_2, expected, np.array(rows), list(np.array(rows)), torch.tensor(rows)):
        found = make_sharing(given, 4)  # type: ignore[arg-type]
        assert found == expected
        assert type(found.layer_channels[0]) is int
    dense = DenseSharing((1, 2, 3, 4))
    assert make_sharing(dense, 4) is dense
    for width in (np.int64(8), np.float32(8)):
        assert make_sharing("geometric", 4, float(width)) == make_sharing("geometric", 4, width)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("avrage", 4, 8), "found 'avrage'; did you mean 'average'?"),
        (("exponential", 4, 8), f"sharing must be one of {', '.join(PATTERNS)} or a matrix, found 'exponential'"),
        (("none", 4, 8, "column"), "reading must be one of entry, row, found 'column'"),
        (("average", 4), "the pattern 'average' needs a width of at least 1, found None"),
        (("average", 4, 0.9), "needs a width of at least 1, found 0.9"),
        (("dense", 4, -3), "needs a width of at least 1, found -3"),
        (("linear", 4, math.nan), "needs a width of at least 1, found nan"),
        (("linear", 4, math.inf), "needs a width of at least 1, found inf"),
        (("none", 4, "8"), "needs a width of at least 1, found '8'"),
        (([[1, 1], [0, 1]], 4), "this stage has 4 layers (reduction block included), the matrix has 2"),
        ((DenseSharing((8, 8)), 4), "this stage has 4 layers (reduction block included), the matrix has 2"),
        (([1, 2, 3, 4], 4), "a matrix of rows, found [1, 2, 3, 4]"),
        ((7, 4), "a matrix of rows, found 7"),
        ((np.ones((2, 2, 1, 2)), 4), "a matrix of rows, found array([[[[1., 1.]], "),
        ((torch.ones(2, 2, 2), 4), "a matrix of rows, found tensor([[[1., 1.], "),
        ((np.eye(4), 4), "M[0][0] must be a whole number of channels from 0, found 1.0"),
    ],
)
def test_what_a_stage_cannot_share(arguments: tuple[Any, ...], message: str) -> None:
    with pytest.raises(InputError) as caught:
        make_sharing(*arguments)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)
