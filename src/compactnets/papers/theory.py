"""The theory of the MuffNet paper (section 4) as functions; MENet's is ``compactnets.complexity.groups``.

The paper bounds the magnitude of a network's Fourier transform. It compares a stage in which every entry of M is ``a``
with a plain network of equal cost. Where the paper's algebra is wrong, the functions compute the correct form, and
``as_printed=True`` the printed one. Lemma 1 as quoted, with the depth as exponent, is wrong as well; ``as_cited=True``
uses the exponent of the cited theorem. docs/theory.md explains the errors.

Bounds are given as log10: as powers they exceed the range of a float even for images of a few pixels.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from scipy.optimize import brentq

from compactnets.errors import InputError


def log10_spectrum_bound(
    widths: Sequence[float],
    frequency: float,
    image_side: int = 1,
    constant: float = 1.0,
    *,
    as_printed: bool = False,
    as_cited: bool = False,
) -> float:
    """log10 of the paper's bound on a plain network's Fourier transform at a frequency (Corollary 3).

    Lemmas 1 and 2 give ``c (m_1 … m_L)^(s² + 1) |ω|^(-L - 1)``, which figure 4 plots. The printed form is
    ``c (m_1 … m_L) (s²)^(L + 1) |ω|^(-L - 1)``. Neither is a bound: a network of any depth can fall as ``|ω|^-2``.

    Args:
        widths: channels of each of the L layers.
        frequency: ``|ω|``, above zero.
        image_side: ``s``, pixels.
        constant: ``c``.
        as_printed: use the printed form.
        as_cited: use the exponent of the cited theorem, ``-d - 1`` for an input of dimension ``d = s²``. It holds in
            almost all directions; across the boundary of two linear regions the exponent is -2.

    Raises:
        InputError: no layers, or a number that is not positive.
    """
    if not widths:
        raise InputError("a bound needs the width of at least one layer, found none")
    _check(frequency=frequency, image_side=image_side, constant=constant)
    _check(**{f"widths[{layer}]": width for layer, width in enumerate(widths)})
    layers, product = len(widths), sum(map(math.log10, widths))
    size = (layers + 1) * 2 * math.log10(image_side) if as_printed else image_side**2 * product
    exponent = (image_side**2 if as_cited else layers) + 1
    return math.log10(constant) + product + size - exponent * math.log10(frequency)


def log10_federated_bound(
    entry: float,
    num_layers: int,
    frequency: float,
    image_side: int = 1,
    constant: float = 1.0,
    *,
    as_cited: bool = False,
) -> float:
    """log10 of the paper's bound for a stage in which every ``M[i][j] = a``: ``Σ_i c a^(i (s² + 1)) |ω|^(-i - 1)``.

    The paper treats the stage as a sum of plain networks of width a, one of each depth i up to L (section 4). It does
    not derive that the stage's bound is the sum of theirs. For the stage itself, whose layers are wider, Corollary 3
    gives about the plain network's bound (:func:`stage_widths`).

    Args:
        as_cited: as in :func:`log10_spectrum_bound`; all terms then have the same exponent.

    Raises:
        InputError: a number that is not positive.
    """
    _check(entry=entry, num_layers=num_layers)
    terms = [
        log10_spectrum_bound([entry] * depth, frequency, image_side, constant, as_cited=as_cited)
        for depth in range(1, num_layers + 1)
    ]
    largest = max(terms)
    return largest + math.log10(sum(10 ** (term - largest) for term in terms))


def stage_widths(entry: float, num_layers: int) -> list[float]:
    """Return the channels of each layer of a stage in which every ``M[i][j] = a``: row sums, ``La, (L - 1)a, …, a``.

    Their product is ``L! a^L``. For a = 32 and L = 4 its L-th root is 70.8; the plain network's width m is 69.9 or
    64.7. By Corollary 3 the stage thus has about the bound of the plain network, with the same exponent.

    Raises:
        InputError: a number that is not positive.
    """
    _check(entry=entry, num_layers=num_layers)
    return [entry * (num_layers - layer) for layer in range(num_layers)]


def federated_macs(entry: float, num_layers: int, image_side: int = 1, *, as_printed: bool = False) -> float:
    """Return the multiply-adds of such a stage after a full 3x3 convolution from one channel (FLOP_1).

    With the block of section 3.2, ``m_i² + 9 m_i + m_i m_j``: ``s² (9aL + L(L - 1)(a² L + 9a) / 2)``. The printed form
    is ``s² (9aL + a² L(L - 1)(L + 1) / 2)``, from blocks of ``3 m_i m_j``; FLOPS_2 uses the former.

    Raises:
        InputError: a number that is not positive.
    """
    _check(entry=entry, num_layers=num_layers, image_side=image_side)
    a, layers = entry, num_layers
    if as_printed:
        blocks = a**2 * layers * (layers - 1) * (layers + 1) / 2
    else:
        blocks = layers * (layers - 1) * (a**2 * layers + 9 * a) / 2
    return image_side**2 * (9 * a * layers + blocks)


def plain_macs(width: float, num_layers: int, image_side: int = 1) -> float:
    """Return the multiply-adds of a plain network, ``s² (9m + (2m² + 9m)(L - 1))`` (FLOPS_2).

    Raises:
        InputError: a number that is not positive.
    """
    _check(width=width, num_layers=num_layers, image_side=image_side)
    return image_side**2 * (9 * width + (2 * width**2 + 9 * width) * (num_layers - 1))


def equal_budget_width(entry: float, num_layers: int, *, as_printed: bool = False) -> float:
    """Return the width m of the plain network of equal cost: its :func:`plain_macs` are the :func:`federated_macs`.

    ``m = (-9L + sqrt(Δ)) / (4(L - 1))``; with ``as_printed``, Δ is the paper's. The image's size cancels.

    Raises:
        InputError: a number that is not positive, or a single layer.
    """
    if num_layers < 2:
        raise InputError(f"equal budgets need at least 2 layers, found {num_layers}")
    budget = federated_macs(entry, num_layers, as_printed=as_printed)
    discriminant = 81 * num_layers**2 + 8 * (num_layers - 1) * budget
    return (-9 * num_layers + math.sqrt(discriminant)) / (4 * (num_layers - 1))


def crossing_frequency(entry: float, num_layers: int, image_side: int = 1, *, as_printed: bool = False) -> float:
    """Return the frequency above which the federated stage's bound exceeds that of the plain network of equal cost.

    This is the crossing in figure 4. The ratio of the bounds rises with the frequency, so there is only one. It applies
    to the paper's bounds; with the exponent of the cited theorem both fall alike and never cross. Even for true upper
    bounds, a crossing would not show that either network has more content at these frequencies.

    Args:
        as_printed: use the width m from the printed FLOP_1.

    Raises:
        InputError: as in :func:`equal_budget_width`, or no crossing between 10^-300 and 10^300.
    """
    width = equal_budget_width(entry, num_layers, as_printed=as_printed)

    def excess(exponent: float) -> float:
        frequency = 10**exponent
        return log10_federated_bound(entry, num_layers, frequency, image_side) - log10_spectrum_bound(
            [width] * num_layers, frequency, image_side
        )

    if excess(-300) > 0 or excess(300) < 0:
        raise InputError(f"the bounds for a = {entry}, L = {num_layers}, s = {image_side} cross outside 10^±300")
    return 10 ** float(brentq(excess, -300, 300, xtol=1e-12))


def _check(**numbers: float) -> None:
    for name, number in numbers.items():
        if not 0 < number < math.inf:
            raise InputError(f"{name} must be a positive number, found {number!r}")
