"""Tensors whose normalisation and ReLU are noted, and applied by whatever reads them next."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from compactnets.training.fused.functions import Join, Measure, Pool, Scale, SharedGradient, Split, escape

Factors = tuple[Tensor, Tensor, Tensor]  # mean, scale, bias: (C,) each
NO_TERM: tuple[Any, ...] = (None, None, None, None, -math.inf, math.inf)  # tensor and what remains, as Join takes them


class Pending:
    """A tensor (N, C, H, W) whose normalisation and bounds are still to be applied; torch's functions take it.

    Its value is ``clamp((raw - mean) * scale + bias, low, high)``, or ``clamp(first + second, low, high)``.

    Args:
        parts: what was computed, in channels_last layout; several are the channels of one tensor, in order.
        factors: of the normalisation; ``None``: none, and the parts are within the bounds.
        moments: mean and biased variance by channel of what was computed, if known.
        terms: two others, whose sum this is; the parts are then those of the first.
    """

    def __init__(
        self,
        parts: tuple[Tensor, ...],
        factors: Factors | None = None,
        low: float = -math.inf,
        high: float = math.inf,
        *,
        moments: tuple[Tensor, Tensor] | None = None,
        terms: tuple[Pending, Pending] | None = None,
    ) -> None:
        self.parts, self.factors, self.low, self.high = parts, factors, low, high
        self.moments, self.terms = moments, terms
        self._value: Tensor | None = None

    @property
    def raw(self) -> Tensor:
        """What was computed, as one tensor."""
        if len(self.parts) > 1:
            escape(self.parts)
            self.parts = (torch.cat(self.parts, 1),)
        return self.parts[0]

    @property
    def remaining(self) -> tuple[Any, ...]:
        """What is to be applied, for a function of the kernels: mean, scale and bias or ``None``, low, high."""
        return (*(self.factors or (None, None, None)), self.low, self.high)

    @property
    def finished(self) -> bool:
        """Whether nothing is left to be applied."""
        return self.factors is None and self.terms is None

    def value(self) -> Tensor:
        """Return the finished tensor, for torch's functions."""
        value = self._finished()
        escape([value])
        return value

    def _finished(self) -> Tensor:
        if self.finished:
            return self.raw
        if self._value is None:
            first, second, low, high = self, NO_TERM, -math.inf, math.inf
            if self.terms is not None:
                first, other = self.terms
                second, low, high = (other.raw, *other.remaining), self.low, self.high
            room = SharedGradient(first.raw.shape)
            self._value = room.attach(Join.apply(first.raw, *first.remaining, *second, low, high, room))
        return self._value

    def single(self) -> Pending:
        """Return the same value, not as a sum."""
        return self if self.terms is None else Pending((self._finished(),), None, self.low, self.high)

    def __getattr__(self, name: str) -> Any:
        if name in ("shape", "dtype", "device", "dim", "size", "ndim", "requires_grad"):
            return getattr(self.raw, name)
        if name.startswith("__"):
            raise AttributeError(name)
        method = getattr(torch.Tensor, name, None)
        if method in HANDLERS:
            return lambda *arguments, **named: HANDLERS[method](self, *arguments, **named)
        return getattr(self.value(), name)

    def __add__(self, other: Any) -> Any:
        return _add(self, other)

    def __radd__(self, other: Any) -> Any:
        return _add(other, self)

    def __sub__(self, other: Any) -> Any:
        return self.value() - finish(other)

    def __rsub__(self, other: Any) -> Any:
        return finish(other) - self.value()

    def __mul__(self, other: Any) -> Any:
        return self.value() * finish(other)

    __rmul__ = __mul__

    def __truediv__(self, other: Any) -> Any:
        return self.value() / finish(other)

    def __getitem__(self, index: Any) -> Tensor:
        return self.value()[index]

    @classmethod
    def __torch_function__(cls, function: Any, types: Any, arguments: Any = (), named: Any = None) -> Any:
        handler = HANDLERS.get(function)
        if handler is not None:
            found = handler(*arguments, **(named or {}))
            if found is not NotImplemented:
                return found
        return function(*finish(arguments), **finish(named or {}))


def finish(value: Any) -> Any:
    """Replace every :class:`Pending` in nested lists, tuples and dictionaries by its tensor."""
    if isinstance(value, Pending):
        return value.value()
    if isinstance(value, (list, tuple)):
        return type(value)(map(finish, value))
    if isinstance(value, dict):
        return {key: finish(each) for key, each in value.items()}
    return value


def _normalise(
    x: Any,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    training: bool = False,
    momentum: float = 0.1,
    eps: float = 1e-5,
) -> Any:
    """Note a batch normalisation; update its running averages."""
    if not training or weight is None or bias is None or not isinstance(x, Pending):
        return NotImplemented
    if not x.finished or (x.low, x.high) != (-math.inf, math.inf) or x.raw.numel() == x.raw.shape[1]:
        return NotImplemented
    mean, variance = x.moments if x.moments is not None else Measure.apply(x.raw)
    pixels = x.raw.numel() // x.raw.shape[1]
    scale = Scale.apply(variance, weight, mean.detach(), eps, momentum, (running_mean, running_var), pixels)
    return Pending(x.parts, (mean, scale, bias))


def _bound(x: Any, low: float, high: float, inplace: bool) -> Any:
    if not isinstance(x, Pending) or x.finished:
        return NotImplemented
    bounded = x if inplace else Pending(x.parts, x.factors, x.low, x.high, terms=x.terms)
    bounded.low, bounded.high, bounded._value = max(x.low, low), min(x.high, high), None
    return bounded


def _relu(x: Any, inplace: bool = False) -> Any:
    return _bound(x, 0.0, math.inf, inplace)


def _hardtanh(x: Any, min_val: float = -1.0, max_val: float = 1.0, inplace: bool = False) -> Any:
    return _bound(x, min_val, max_val, inplace)


def _add(a: Any, b: Any) -> Any:
    if not all(isinstance(each, (Pending, Tensor)) and each.dim() == 4 for each in (a, b)) or a.shape != b.shape:
        return finish(a) + finish(b)
    first, second = (each.single() if isinstance(each, Pending) else Pending((each,)) for each in (a, b))
    return Pending(first.parts, terms=(first, second))


def _cat(tensors: Any, dim: int = 0) -> Any:
    """Join channels, each with its factors, if all have the same bounds."""
    terms = [each.single() if isinstance(each, Pending) else Pending((each,)) for each in tensors]
    if dim != 1 or len({(term.low, term.high) for term in terms}) > 1 or any(term.dim() != 4 for term in terms):
        return NotImplemented
    parts = tuple(part for term in terms for part in term.parts)
    if all(term.factors is None for term in terms):
        return Pending(parts, None, terms[0].low, terms[0].high)
    factors = [term.factors or _neutral(term.raw) for term in terms]
    return Pending(parts, _stack(*factors), terms[0].low, terms[0].high)


def _stack(*factors: Factors) -> Factors:
    mean, scale, bias = (torch.cat(each) for each in zip(*factors, strict=True))
    return mean, scale, bias


def _neutral(raw: Tensor) -> Factors:
    zero = raw.new_zeros(raw.shape[1])
    return zero, zero + 1, zero


def _split(x: Any, sizes: Any, dim: int = 0) -> Any:
    if not isinstance(x, Pending) or dim != 1 or isinstance(sizes, int):
        return NotImplemented
    x = x.single()
    whole = SharedGradient(x.raw.shape)
    raws = Split.apply(x.raw, whole, sizes)
    for raw, start in zip(raws, itertools.accumulate(sizes, initial=0), strict=False):
        whole.attach(raw, start)
    factors: Any = [None] * len(sizes)
    if x.factors is not None:
        factors = zip(*(torch.split(factor, sizes) for factor in x.factors), strict=True)
    return tuple(Pending((raw,), factor, x.low, x.high) for raw, factor in zip(raws, factors, strict=True))


def _pool(x: Any, output_size: Any) -> Any:
    if not isinstance(x, Pending) or output_size not in (1, (1, 1), [1, 1]):
        return NotImplemented
    x = x.single()
    return Pool.apply(*x.remaining, x.raw)[:, :, None, None]


HANDLERS: dict[Any, Callable[..., Any]] = {
    F.batch_norm: _normalise,
    F.relu: _relu,
    torch.relu: _relu,
    torch.relu_: lambda x: _relu(x, inplace=True),
    F.hardtanh: _hardtanh,
    F.relu6: lambda x, inplace=False: _bound(x, 0.0, 6.0, inplace),
    F.adaptive_avg_pool2d: _pool,
    torch.cat: _cat,
    torch.split: _split,
    torch.add: _add,
    torch.Tensor.add: _add,
    torch.Tensor.__add__: _add,
    torch.Tensor.__radd__: lambda a, b: _add(b, a),
}
