"""Train on a CPU with kernels of our own, in which normalisation and ReLU are part of the convolutions around them.

A compact network's training step is bound by memory: a convolution, batch normalisation and ReLU, each run on its own,
read and write every activation several times. Here a convolution also returns the mean and variance of its output; the
normalisation and the ReLU are only noted (:class:`Pending`), and whatever reads the tensor next applies them to each
pixel while it reads. So an activation is written once and read once in the forward pass, and the gradient likewise.

The kernels are C (``kernels/``), compiled at the first use for this machine (:mod:`compactnets.training.native`). They
cover 1x1 and depthwise convolutions, sums, and the statistics of any other tensor, in float32 and channels_last layout.
Everything else is computed by torch on the finished tensor.
"""

from __future__ import annotations

import copy
import ctypes
import itertools
import math
from collections.abc import Callable, Sequence
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from compactnets.console import say
from compactnets.errors import InputError
from compactnets.training.distributed import World
from compactnets.training.native import Gradient, Part, Rows, Window, kernels, missing
from compactnets.training.recipe import RunRecipe

Factors = tuple[Tensor, Tensor, Tensor]  # mean, scale, bias: (C,) each


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
            _escape(self.parts)
            self.parts = (torch.cat(self.parts, 1),)
        return self.parts[0]

    @property
    def finished(self) -> bool:
        """Whether nothing is left to be applied."""
        return self.factors is None and self.terms is None

    def value(self) -> Tensor:
        """Return the finished tensor, for torch's functions."""
        value = self._finished()
        _escape([value])
        return value

    def _finished(self) -> Tensor:
        if self.finished:
            return self.raw
        if self._value is None:
            first, second, low, high = self, None, -math.inf, math.inf
            if self.terms is not None:
                (first, second), low, high = self.terms, self.low, self.high
            room = SharedGradient(first.raw.shape)
            self._value = room.attach(_Join.apply(*_arguments(first), *_arguments(second), low, high, room))
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
    mean, variance = x.moments if x.moments is not None else _Measure.apply(x.raw)
    if running_mean is not None and running_var is not None:
        count = x.raw.numel() // x.raw.shape[1]
        with torch.no_grad():
            running_mean.lerp_(mean, momentum)
            running_var.lerp_(variance * (count / (count - 1)), momentum)
    return Pending(x.parts, (mean, weight * (variance + eps).rsqrt(), bias))


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
    raws = _Split.apply(x.raw, whole, sizes)
    for raw, start in zip(raws, itertools.accumulate(sizes, initial=0), strict=False):
        whole.attach(raw, start)
    factors: Any = [None] * len(sizes)
    if x.factors is not None:
        factors = zip(*(torch.split(factor, sizes) for factor in x.factors), strict=True)
    return tuple(Pending((raw,), factor, x.low, x.high) for raw, factor in zip(raws, factors, strict=True))


class SharedGradient:
    """Room for the gradient of a tensor, or of the parts into which it was split.

    Every kernel that has read the tensor writes or adds its gradient there, and only the first returns it: torch need
    neither add up nor join what the readers return. Not if the tensor has escaped: then some reader is torch's.
    """

    def __init__(self, shape: torch.Size) -> None:
        self.shape = shape
        self.tensor: Tensor | None = None
        self.written: set[int] = set()
        self.escaped: set[int] = set()

    def attach(self, raw: Tensor, start: int = 0) -> Tensor:
        """Make this the room of the gradient of ``raw``, which has the channels from ``start`` on; return it."""
        raw.gradient_room = (self, start)  # type: ignore[attr-defined]
        return raw

    def part(self, start: int, channels: int) -> tuple[Tensor, bool] | None:
        """Return the room of some channels and whether it is already written; ``None`` if it is not to be used."""
        if start in self.escaped:
            return None
        if self.tensor is None:
            self.tensor = _empty(*self.shape)
        written = start in self.written
        self.written.add(start)
        return self.tensor.narrow(1, start, channels), written

    def take(self) -> Tensor | None:
        """Return the tensor, and forget it."""
        tensor, self.tensor = self.tensor, None
        self.written.clear()
        return tensor

    def join(self, parts: Sequence[Tensor]) -> Tensor:
        """Return the gradient of a tensor that was split from those of its parts."""
        tensor, start = self.take(), 0
        for part in parts:
            if tensor is None or part.data_ptr() != tensor.data_ptr() + 4 * start or part.stride() != tensor.stride():
                return torch.cat(tuple(parts), 1)
            start += part.shape[1]
        assert tensor is not None
        return tensor


def _escape(tensors: Sequence[Tensor]) -> None:
    for tensor in tensors:
        if (room := getattr(tensor, "gradient_room", None)) is not None:
            room[0].escaped.add(room[1])


class _Split(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, whole: SharedGradient, sizes: Sequence[int]) -> tuple[Tensor, ...]:
        ctx.whole = whole
        return torch.split(x, list(sizes), 1)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Any:
        return ctx.whole.join(gradients), None, None


def _pool(x: Any, output_size: Any) -> Any:
    if not isinstance(x, Pending) or output_size not in (1, (1, 1), [1, 1]):
        return NotImplemented
    x = x.single()
    return _Pool.apply(*_rest(x), x.raw)[:, :, None, None]


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


def choose_kernels(recipe: RunRecipe, world: World) -> Literal["own", "torch"]:
    """Return the kernels that a run trains with, as its recipe and this machine have it; say why if they are missing.

    Raises:
        InputError: the recipe asks for kernels of our own, which cannot compute it or are not available.
    """
    found = {
        "device": world.device.type == "cpu",
        "processes": world.size == 1,
        "precision": recipe.precision == "float32",
        "channels_last": recipe.channels_last,
        "compile": isinstance(recipe.compile, bool),
        "task": recipe.fusible,
    }
    needed = "a classifier, one process on a CPU, precision: float32, channels_last: true, compile: true or false"
    if recipe.kernels == "torch" or (recipe.kernels == "auto" and not all(found.values())):
        return "torch"
    if unfit := [name for name, fits in found.items() if not fits]:
        raise InputError(f"kernels: own needs {needed}; these do not fit: {', '.join(unfit)}")
    if (reason := missing()) is None:
        return "own"
    if recipe.kernels == "own":
        raise InputError(reason)
    say(f"training with torch's kernels: {reason}")
    return "torch"


class FusedNetwork(nn.Module):
    """An equivalent of ``model`` in training, on these kernels: images in channels_last layout in, its outputs out.

    It shares parameters and buffers with ``model``, which is not modified. Results differ by rounding.
    """

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        shared = {id(tensor): tensor for tensor in (*model.parameters(), *model.buffers())}
        self.network = copy.deepcopy(model, shared)
        for parent in list(self.network.modules()):
            for name, child in parent.named_children():
                if type(child) is nn.Conv2d:
                    setattr(parent, name, FusedConv(child))

    def forward(self, *inputs: Any) -> Any:
        return finish(self.network(*inputs))


class FusedConv(nn.Module):
    """A convolution that reads and returns pending tensors."""

    def __init__(self, conv: nn.Conv2d) -> None:
        super().__init__()
        self.conv = conv
        size, channels = conv.kernel_size[0], conv.in_channels
        plain = conv.bias is None and conv.padding_mode == "zeros" and conv.dilation == (1, 1)
        square = conv.kernel_size == (size, size) and conv.stride == conv.stride[:1] * 2
        same = plain and square and size % 2 == 1 and conv.padding == (size // 2, size // 2)
        self.pointwise = same and size == 1 and conv.stride == (1, 1)
        self.depthwise = (
            same and size in (3, 5, 7) and conv.groups == channels == conv.out_channels and conv.stride[0] < 3
        )

    def forward(self, x: Tensor | Pending) -> Pending:
        conv, x = self.conv, x.single() if isinstance(x, Pending) else Pending((x,))
        n, _, h, w = x.parts[0].shape
        if not (self.pointwise or self.depthwise):
            return Pending((conv(x.value()),))
        stride = conv.stride[0]
        room = SharedGradient(torch.Size((n, conv.out_channels, -(-h // stride), -(-w // stride))))
        kernel, setting = (_Pointwise, conv.groups) if self.pointwise else (_Depthwise, stride)
        z, mean, variance = kernel.apply(*_rest(x), conv.weight, setting, room, *x.parts)
        return Pending((room.attach(z),), moments=(mean, variance))


def _rest(x: Pending) -> tuple[Any, ...]:
    return (*(x.factors or (None, None, None)), x.low, x.high)


def _arguments(x: Pending | None) -> tuple[Any, ...]:
    """The arguments of a kernel for a term: raw tensor, three factors, two bounds."""
    return (None, None, None, None, -math.inf, math.inf) if x is None else (x.raw, *_rest(x))


def _pixels(x: Tensor) -> int:
    return x.shape[0] * x.shape[2] * x.shape[3]


def _empty(n: int, c: int, h: int, w: int) -> Tensor:
    return torch.empty((n, h, w, c)).permute(0, 3, 1, 2)


def row_step(x: Tensor) -> int | None:
    """Return the distance between the pixels of (N, C, H, W), or ``None`` if they are not rows of channels."""
    n, c, h, w = x.shape
    step = x.stride(3) if w > 1 else x.stride(2) if h > 1 else x.stride(0) if n > 1 else c
    strides = (h * w * step, 1, w * step, step)
    fits = all(size == 1 or a == b for size, a, b in zip(x.shape, x.stride(), strides, strict=True))
    return step if fits and step >= c else None


def as_rows(x: Tensor) -> tuple[Tensor, int]:
    """Return (N, C, H, W) with adjacent channels, copied if needed, and the distance between its pixels."""
    if (step := row_step(x)) is not None:
        return x, step
    copied = _empty(*x.shape)
    return copied.copy_(x), x.shape[1]


def _pointer(x: Tensor | None) -> int | None:
    return None if x is None else x.data_ptr()


class _Term:
    """A term of a kernel in C, with the tensors that its pointers point to.

    Args:
        raws: its parts.
        factors: mean, scale and bias, or three times ``None``.
        bounds: low and high.
        rooms: of each part the room for its gradient, if it has one, and its first channel there.
    """

    def __init__(
        self, raws: Sequence[Tensor], factors: Sequence[Tensor | None], bounds: Sequence[float], rooms: Sequence[Any]
    ) -> None:
        rows = [as_rows(raw) for raw in raws]
        self.raws, self.rooms = [raw for raw, _ in rows], rooms
        self.factors = [None if each is None else each.contiguous() for each in factors]
        self.channels = sum(raw.shape[1] for raw in raws)
        self.parts = (Part * len(rows))(*(Part(raw.data_ptr(), step, None, 0, raw.shape[1], 0) for raw, step in rows))
        self.rows = Rows(self.parts if rows else None, len(rows), *map(_pointer, self.factors), *bounds)
        self.address = ctypes.byref(self.rows)

    def gradients(self, wanted: bool) -> tuple[list[Tensor | None], Tensor]:
        """Return room for the gradients of the parts, and of bias and scale (2, C)."""
        sums = torch.zeros(2, self.channels)
        if not wanted:
            return [None] * len(self.raws), sums
        gradients: list[Tensor | None] = []
        for part, raw, room in zip(self.parts, self.raws, self.rooms, strict=True):
            shared = None if room is None else room[0].part(room[1], raw.shape[1])
            gradient, written = shared or (_empty(*raw.shape), False)
            part.gx, part.gx_step, part.add = gradient.data_ptr(), row_step(gradient), written
            gradients.append(None if written else gradient)
        return gradients, sums

    def of_factors(self, sums: Tensor) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
        """Return the gradients of mean, scale and bias."""
        if self.factors[1] is None:
            return None, None, None
        return -self.factors[1] * sums[0], sums[1], sums[0]


def _rooms(raws: Sequence[Tensor]) -> list[Any]:
    return [getattr(raw, "gradient_room", None) for raw in raws]


class _OutputGradient:
    """The gradient of a convolution's output, with what its mean and variance add."""

    def __init__(self, gz: Tensor, g_mean: Tensor, g_variance: Tensor, z: Tensor, mean: Tensor) -> None:
        self.gz, step = as_rows(gz)
        self.by_z = g_variance * (2 / _pixels(z))
        self.constant = g_mean / _pixels(z) - mean * self.by_z
        self.z = z
        pointers = (_pointer(z), _pointer(self.constant), _pointer(self.by_z))
        self.address = ctypes.byref(Gradient(_pointer(self.gz), step, *pointers))


class _Pointwise(torch.autograd.Function):
    """A 1x1 convolution of a pending tensor: its output, and the output's mean and biased variance by channel."""

    @staticmethod
    def forward(ctx: Any, *arguments: Any) -> Any:
        factors, ctx.bounds, (weight, groups, ctx.room), raws = (
            arguments[:3],
            arguments[3:5],
            arguments[5:8],
            arguments[8:],
        )
        ctx.rooms = _rooms(raws)
        term, weight = _Term(raws, factors, ctx.bounds, ctx.rooms), weight.contiguous()
        n, _, h, w = raws[0].shape
        z, moments = _empty(n, len(weight), h, w), torch.empty(2, len(weight))
        ctx.shape = (_pixels(z), term.channels, len(weight), groups)
        kernels().pointwise_forward(
            term.address, weight.data_ptr(), *ctx.shape, z.data_ptr(), *_addresses(moments), torch.get_num_threads()
        )
        ctx.save_for_backward(*term.factors, weight, z, moments, *term.raws)
        return z, moments[0], moments[1]

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> Any:
        mean, scale, bias, weight, z, moments, *raws = ctx.saved_tensors
        term = _Term(raws, (mean, scale, bias), ctx.bounds, ctx.rooms)
        gz, g_mean, g_variance = gradients
        of_z = _OutputGradient(gz, g_mean, g_variance, z, moments[0])
        ctx.room.take()
        gx, sums = term.gradients(any(ctx.needs_input_grad[8:]))
        gw = torch.empty(weight.shape)
        kernels().pointwise_backward(
            term.address, of_z.address, weight.data_ptr(), *ctx.shape, *_addresses(sums), gw.data_ptr(),
            torch.get_num_threads(),
        )  # fmt: skip
        return *term.of_factors(sums), None, None, gw, None, None, *gx


class _Depthwise(torch.autograd.Function):
    """The same of a depthwise convolution."""

    @staticmethod
    def forward(ctx: Any, *arguments: Any) -> Any:
        factors, ctx.bounds, (weight, stride, ctx.room), raws = (
            arguments[:3],
            arguments[3:5],
            arguments[5:8],
            arguments[8:],
        )
        ctx.rooms = _rooms(raws)
        term, weight = _Term(raws, factors, ctx.bounds, ctx.rooms), weight.contiguous()
        (n, _, h, w), c = raws[0].shape, term.channels
        z, moments = _empty(n, c, -(-h // stride), -(-w // stride)), torch.empty(2, c)
        ctx.window = Window(n, h, w, c, weight.shape[-1], stride)
        kernels().depthwise_forward(
            term.address, weight.data_ptr(), ctypes.byref(ctx.window), z.data_ptr(), *_addresses(moments),
            torch.get_num_threads(),
        )  # fmt: skip
        ctx.save_for_backward(*term.factors, weight, z, moments, *term.raws)
        return z, moments[0], moments[1]

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> Any:
        mean, scale, bias, weight, z, moments, *raws = ctx.saved_tensors
        term = _Term(raws, (mean, scale, bias), ctx.bounds, ctx.rooms)
        gz, g_mean, g_variance = gradients
        of_z = _OutputGradient(gz, g_mean, g_variance, z, moments[0])
        ctx.room.take()
        gx, sums = term.gradients(any(ctx.needs_input_grad[8:]))
        gw = torch.empty(weight.shape)
        kernels().depthwise_backward(
            term.address, of_z.address, weight.data_ptr(), ctypes.byref(ctx.window), *_addresses(sums), gw.data_ptr(),
            torch.get_num_threads(),
        )  # fmt: skip
        return *term.of_factors(sums), None, None, gw, None, None, *gx


class _Join(torch.autograd.Function):
    """The sum of two terms within bounds, or one term."""

    @staticmethod
    def forward(ctx: Any, a: Tensor, *arguments: Any) -> Tensor:
        b, bounds, ctx.room = arguments[5], arguments[11:13], arguments[13]
        ctx.bounds = (arguments[3:5], arguments[9:11], bounds)
        ctx.rooms = (_rooms([a]), [] if b is None else _rooms([b]))
        first = _Term([a], arguments[:3], ctx.bounds[0], ctx.rooms[0])
        second = _Term([] if b is None else [b], arguments[6:9], ctx.bounds[1], ctx.rooms[1])
        n, c, h, w = a.shape
        y = _empty(n, c, h, w)
        kernels().join_forward(
            first.address, second.address, *bounds, _pixels(y), c, y.data_ptr(), torch.get_num_threads()
        )
        ctx.save_for_backward(*first.factors, *second.factors, *first.raws, *second.raws)
        return y

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> Any:
        saved, (of_a, of_b, bounds) = ctx.saved_tensors, ctx.bounds
        first = _Term(saved[6:7], saved[:3], of_a, ctx.rooms[0])
        second = _Term(saved[7:], saved[3:6], of_b, ctx.rooms[1])
        ga, a_sums = first.gradients(ctx.needs_input_grad[0])
        gb, b_sums = second.gradients(ctx.needs_input_grad[6])
        gy, step = as_rows(gradients[0])
        ctx.room.take()
        kernels().join_backward(
            first.address, second.address, *bounds, _pixels(gy), gy.shape[1], gy.data_ptr(), step, a_sums.data_ptr(),
            b_sums.data_ptr(), torch.get_num_threads(),
        )  # fmt: skip
        return *ga, *first.of_factors(a_sums), None, None, *(gb or [None]), *second.of_factors(b_sums), *[None] * 5


class _Pool(torch.autograd.Function):
    """The mean over all pixels of a pending tensor: (N, C)."""

    @staticmethod
    def forward(ctx: Any, *arguments: Any) -> Tensor:
        factors, ctx.bounds, raws = arguments[:3], arguments[3:5], arguments[5:]
        ctx.rooms = _rooms(raws)
        term = _Term(raws, factors, ctx.bounds, ctx.rooms)
        n, c, h, w = raws[0].shape
        y = torch.empty(n, c)
        kernels().pool_forward(term.address, n, h * w, c, y.data_ptr(), torch.get_num_threads())
        ctx.save_for_backward(*term.factors, *term.raws)
        return y

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> Any:
        mean, scale, bias, *raws = ctx.saved_tensors
        term = _Term(raws, (mean, scale, bias), ctx.bounds, ctx.rooms)
        gx, sums = term.gradients(ctx.needs_input_grad[5])
        n, c, h, w = raws[0].shape
        gy = (gradients[0] / (h * w)).contiguous()
        kernels().pool_backward(term.address, n, h * w, c, gy.data_ptr(), *_addresses(sums), torch.get_num_threads())
        return *term.of_factors(sums), None, None, *gx


class _Measure(torch.autograd.Function):
    """Mean and biased variance by channel."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Any:
        x, step = as_rows(x)
        moments = torch.empty(2, x.shape[1])
        shape = (_pixels(x), x.shape[1])
        kernels().measure_forward(x.data_ptr(), step, *shape, *_addresses(moments), torch.get_num_threads())
        ctx.save_for_backward(x, moments)
        return moments[0], moments[1]

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> Tensor:
        x, moments = ctx.saved_tensors
        x = x.contiguous(memory_format=torch.channels_last)
        by_z = gradients[1] * (2 / _pixels(x))
        return x * by_z[:, None, None] + (gradients[0] / _pixels(x) - moments[0] * by_z)[:, None, None]


def _addresses(pair: Tensor) -> tuple[int, int]:
    return pair.data_ptr(), pair.data_ptr() + pair.element_size() * pair.shape[1]
