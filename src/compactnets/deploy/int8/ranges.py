"""Choose the range of a tensor's eight bits from its values on the calibration images."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import torch
from torch import Tensor, nn

from compactnets.deploy.int8.layers import HIGH, LOW, Mode
from compactnets.deploy.int8.quantized import quantizers, set_mode
from compactnets.errors import InputError, did_you_mean

SAMPLE = 1 << 17  # values per tensor for choosing its range
SHARES = torch.linspace(0.3, 1.0, 29).tolist()  # of the extremes, tried as limits
PERCENTILE = 1e-4  # of the values lie outside, on each side
BINS, LEVELS = 2048, 128  # of the histogram whose entropy is compared, and of int8 on one side of it

Limits = tuple[float, float]


def minmax(values: Tensor) -> Limits:
    """Cover all values."""
    return float(values.min()), float(values.max())


def percentile(values: Tensor) -> Limits:
    """Cover all but the outermost ten-thousandth on each side."""
    low, high = torch.quantile(values, torch.tensor([PERCENTILE, 1 - PERCENTILE])).tolist()
    return low, high


def mse(values: Tensor) -> Limits:
    """Choose the limits with the smallest mean squared error of rounding and clipping together."""
    values = values[: 1 << 14]
    low, high = minmax(values)
    candidates = [(low * below, high * above) for above in SHARES for below in (SHARES if low < 0 else [1.0])]
    return min(candidates, key=lambda limits: _squared_error(values, *limits))


def entropy(values: Tensor) -> Limits:
    """Choose the limits whose rounded distribution is nearest to that of the values (Kullback-Leibler divergence).

    After Migacz, "8-bit inference with TensorRT" (2017), on absolute values; a side without values stays at 0.
    """
    magnitudes = values.abs()
    largest = float(magnitudes.max())
    if largest == 0:
        return 0.0, 0.0
    counts = torch.histc(magnitudes, BINS, 0, largest)
    counts[0] = counts[1]  # zeros, which every choice represents exactly
    best = min(range(LEVELS, BINS + 1, LEVELS // 4), key=lambda bins: _divergence(counts, bins))
    limit = largest * best / BINS
    return max(float(values.min()), -limit), min(float(values.max()), limit)


METHODS: dict[str, Callable[[Tensor], Limits]] = {
    method.__name__: method for method in (mse, percentile, entropy, minmax)
}


def check_method(method: str) -> None:
    """Raise unless ``method`` is one of :data:`METHODS`.

    Raises:
        InputError: the name, with a near match.
    """
    if method not in METHODS:
        raise InputError(
            f"no method for ranges is called {method!r}: {', '.join(METHODS)}{did_you_mean(method, METHODS)}"
        )


def calibrate(network: nn.Module, batches: Iterable[Tensor], method: str) -> None:
    """Run a quantised network on images and set the range of every quantizer.

    Args:
        network: the network; its mode is :attr:`Mode.OFF` afterwards.
        batches: ``(N, C, H, W)`` each.
        method: one of :data:`METHODS`.

    Raises:
        InputError: another method.
    """
    check_method(method)
    set_mode(network, Mode.OBSERVE)
    with torch.random.fork_rng(devices=[]), torch.inference_mode():
        torch.manual_seed(0)  # which values are kept
        for batch in batches:
            network(batch)
        for _, quantizer in quantizers(network):
            values = torch.cat(quantizer.samples)
            values = values[torch.randperm(len(values))[:SAMPLE]]
            quantizer.set_range(*METHODS[method](values))
            quantizer.samples = []
    set_mode(network, Mode.OFF)


def _squared_error(values: Tensor, low: float, high: float) -> float:
    low, high = min(low, 0.0), max(high, 0.0)
    scale = max(high - low, 1e-6) / (HIGH - LOW)
    zero_point = max(LOW, min(HIGH, round(LOW - low / scale)))
    rounded = torch.fake_quantize_per_tensor_affine(values, scale, zero_point, LOW, HIGH)
    return float((rounded - values).square().mean())


def _divergence(counts: Tensor, bins: int) -> float:
    """Return the divergence when ``LEVELS`` levels represent the first bins and the rest is clipped."""
    clipped = counts[:bins].clone()
    clipped[-1] += counts[bins:].sum()
    kept = counts[:bins]
    level = (torch.arange(bins) * LEVELS / bins).long()
    sums = torch.zeros(LEVELS).index_add_(0, level, kept)
    filled = torch.zeros(LEVELS).index_add_(0, level, (kept > 0).float())
    spread = torch.where(kept > 0, (sums / filled.clamp_min(1))[level], 0.0)
    p, q = clipped / clipped.sum(), spread / spread.sum().clamp_min(1e-12)
    there = p > 0
    return float((p[there] * (p[there] / q[there].clamp_min(1e-9)).log()).sum())
