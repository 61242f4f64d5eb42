"""The kernels as functions of torch's automatic differentiation, and the memory that they share.

A function takes a tensor as it was computed (the parts of :class:`~compactnets.training.fused.pending.Pending`), with
what is still to be applied to it.
"""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from compactnets.training.fused.native import Gradient, Part, Rows, Window, kernels


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
            self.tensor = empty(*self.shape)
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


def escape(tensors: Sequence[Tensor]) -> None:
    """Note that torch reads the tensors too: kernels then return what they add to the gradients."""
    for tensor in tensors:
        if (room := getattr(tensor, "gradient_room", None)) is not None:
            room[0].escaped.add(room[1])


def _pixels(x: Tensor) -> int:
    return x.shape[0] * x.shape[2] * x.shape[3]


def empty(n: int, c: int, h: int, w: int) -> Tensor:
    """Return room for (N, C, H, W) in channels_last layout."""
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
    copied = empty(*x.shape)
    return copied.copy_(x), x.shape[1]


def _pointer(x: Tensor | None) -> int | None:
    return None if x is None else x.data_ptr()


def _addresses(pair: Tensor) -> tuple[int, int]:
    return pair.data_ptr(), pair.data_ptr() + pair.element_size() * pair.shape[1]


def _run(name: str, *arguments: Any) -> None:
    """Call a kernel on torch's threads."""
    getattr(kernels(), name)(*arguments, torch.get_num_threads())


class Term:
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
        """Return room for the gradients of the parts, and of mean, scale and bias (3, C)."""
        sums = torch.zeros(3, self.channels)
        if not wanted:
            return [None] * len(self.raws), sums
        gradients: list[Tensor | None] = []
        for part, raw, room in zip(self.parts, self.raws, self.rooms, strict=True):
            shared = None if room is None else room[0].part(room[1], raw.shape[1])
            gradient, written = shared or (empty(*raw.shape), False)
            part.gx, part.gx_step, part.add = gradient.data_ptr(), row_step(gradient), written
            gradients.append(None if written else gradient)
        return gradients, sums

    def of_factors(self, sums: Tensor) -> tuple[Tensor | None, ...]:
        """Return the gradients of mean, scale and bias."""
        return (None, None, None) if self.factors[1] is None else sums.unbind()


def _rooms(raws: Sequence[Tensor]) -> list[Any]:
    return [getattr(raw, "gradient_room", None) for raw in raws]


class OutputGradient:
    """The gradient of a convolution's output, with what its mean and variance add."""

    def __init__(self, gz: Tensor, g_mean: Tensor, g_variance: Tensor, z: Tensor, mean: Tensor) -> None:
        self.gz, step = as_rows(gz)
        self.others = (z, mean, g_mean.contiguous(), g_variance.contiguous())
        pointers = map(_pointer, self.others)
        self.address = ctypes.byref(Gradient(_pointer(self.gz), step, *pointers))


class Convolution(torch.autograd.Function):
    """A 1x1 or depthwise convolution of a pending tensor, padded so that only ``stride`` makes the output smaller.

    Returns its output (N, C, H, W), and the output's mean and biased variance by channel.
    """

    @staticmethod
    def forward(
        ctx: Any, mean: Any, scale: Any, bias: Any, low: float, high: float,
        weight: Tensor, groups: int, stride: int, room: SharedGradient, *raws: Tensor,
    ) -> Any:  # fmt: skip
        ctx.bounds, ctx.room, ctx.rooms = (low, high), room, _rooms(raws)
        term, weight = Term(raws, (mean, scale, bias), ctx.bounds, ctx.rooms), weight.contiguous()
        (n, _, h, w), (out, _, size, _) = raws[0].shape, weight.shape
        z, moments = empty(n, out, -(-h // stride), -(-w // stride)), torch.empty(2, out)
        if size == 1:
            ctx.kernel, ctx.shape = "pointwise", (_pixels(z), term.channels, out, groups)
        else:
            ctx.kernel, ctx.shape = "depthwise", (ctypes.byref(Window(n, h, w, out, size, stride)),)
        _run(f"{ctx.kernel}_forward", term.address, weight.data_ptr(), *ctx.shape, z.data_ptr(), *_addresses(moments))
        ctx.save_for_backward(*term.factors, weight, z, moments, *term.raws)
        return z, moments[0], moments[1]

    @staticmethod
    def backward(ctx: Any, gz: Tensor, g_mean: Tensor, g_variance: Tensor) -> Any:
        mean, scale, bias, weight, z, moments, *raws = ctx.saved_tensors
        term = Term(raws, (mean, scale, bias), ctx.bounds, ctx.rooms)
        of_z = OutputGradient(gz, g_mean, g_variance, z, moments[0])
        ctx.room.take()
        gx, sums = term.gradients(any((*ctx.needs_input_grad[:3], *ctx.needs_input_grad[9:])))
        gw = torch.empty(weight.shape)
        results = (sums.data_ptr(), gw.data_ptr())
        _run(f"{ctx.kernel}_backward", term.address, of_z.address, weight.data_ptr(), *ctx.shape, *results)
        return *term.of_factors(sums), None, None, gw, None, None, None, *gx


class Join(torch.autograd.Function):
    """The sum of two terms within bounds, or one term."""

    @staticmethod
    def forward(ctx: Any, a: Tensor, *arguments: Any) -> Tensor:
        b, bounds, ctx.room = arguments[5], arguments[11:13], arguments[13]
        ctx.bounds = (arguments[3:5], arguments[9:11], bounds)
        ctx.rooms = (_rooms([a]), [] if b is None else _rooms([b]))
        first = Term([a], arguments[:3], ctx.bounds[0], ctx.rooms[0])
        second = Term([] if b is None else [b], arguments[6:9], ctx.bounds[1], ctx.rooms[1])
        n, c, h, w = a.shape
        y = empty(n, c, h, w)
        _run("join_forward", first.address, second.address, *bounds, _pixels(y), c, y.data_ptr())
        ctx.save_for_backward(*first.factors, *second.factors, *first.raws, *second.raws)
        return y

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> Any:
        saved, (of_a, of_b, bounds) = ctx.saved_tensors, ctx.bounds
        first = Term(saved[6:7], saved[:3], of_a, ctx.rooms[0])
        second = Term(saved[7:], saved[3:6], of_b, ctx.rooms[1])
        ga, a_sums = first.gradients(any(ctx.needs_input_grad[:4]))
        gb, b_sums = second.gradients(any(ctx.needs_input_grad[6:10]))
        gy, step = as_rows(gradients[0])
        ctx.room.take()
        results = (a_sums.data_ptr(), b_sums.data_ptr())
        addresses = (first.address, second.address)
        _run("join_backward", *addresses, *bounds, _pixels(gy), gy.shape[1], gy.data_ptr(), step, *results)
        return *ga, *first.of_factors(a_sums), None, None, *(gb or [None]), *second.of_factors(b_sums), *[None] * 5


class Pool(torch.autograd.Function):
    """The mean over all pixels of a pending tensor: (N, C)."""

    @staticmethod
    def forward(ctx: Any, *arguments: Any) -> Tensor:
        factors, ctx.bounds, raws = arguments[:3], arguments[3:5], arguments[5:]
        ctx.rooms = _rooms(raws)
        term = Term(raws, factors, ctx.bounds, ctx.rooms)
        n, c, h, w = raws[0].shape
        y = torch.empty(n, c)
        _run("pool_forward", term.address, n, h * w, c, y.data_ptr())
        ctx.save_for_backward(*term.factors, *term.raws)
        return y

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> Any:
        mean, scale, bias, *raws = ctx.saved_tensors
        term = Term(raws, (mean, scale, bias), ctx.bounds, ctx.rooms)
        gx, sums = term.gradients(any((*ctx.needs_input_grad[:3], ctx.needs_input_grad[5])))
        n, c, h, w = raws[0].shape
        gy = (gradients[0] / (h * w)).contiguous()
        _run("pool_backward", term.address, n, h * w, c, gy.data_ptr(), sums.data_ptr())
        return *term.of_factors(sums), None, None, *gx


class Measure(torch.autograd.Function):
    """Mean and biased variance by channel."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Any:
        x, step = as_rows(x)
        moments = torch.empty(2, x.shape[1])
        _run("measure_forward", x.data_ptr(), step, _pixels(x), x.shape[1], *_addresses(moments))
        ctx.save_for_backward(x, moments)
        return moments[0], moments[1]

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> Tensor:
        x, moments = ctx.saved_tensors
        x = x.contiguous(memory_format=torch.channels_last)
        by_z = gradients[1] * (2 / _pixels(x))
        return x * by_z[:, None, None] + (gradients[0] / _pixels(x) - moments[0] * by_z)[:, None, None]


class Scale(torch.autograd.Function):
    """What a batch normalisation multiplies by: ``weight / sqrt(variance + eps)``, (C,); it updates running averages.

    Args:
        running: mean and variance, or twice ``None``.
        pixels: of which mean and variance are.
    """

    @staticmethod
    def forward(
        ctx: Any, variance: Tensor, weight: Tensor, mean: Tensor, eps: float, momentum: float,
        running: Sequence[Tensor | None], pixels: int,
    ) -> Tensor:  # fmt: skip
        ctx.eps, weight, channels = eps, weight.contiguous(), len(weight)
        scale = torch.empty(channels)
        pointers, averages = map(_pointer, (mean, variance, weight)), map(_pointer, running)
        kernels().scale_forward(*pointers, eps, channels, pixels, momentum, *averages, scale.data_ptr())
        ctx.save_for_backward(variance, weight)
        return scale

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Any:
        (variance, weight), gradient = ctx.saved_tensors, gradients[0].contiguous()
        results = torch.empty(2, len(weight))
        arguments = (variance.data_ptr(), weight.data_ptr(), ctx.eps, len(weight), gradient.data_ptr())
        kernels().scale_backward(*arguments, *_addresses(results))
        return *results.unbind(), None, None, None, None, None


class Split(torch.autograd.Function):
    """Channels in several parts, whose gradients lie in one room."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, whole: SharedGradient, sizes: Sequence[int]) -> tuple[Tensor, ...]:
        ctx.whole = whole
        return torch.split(x, list(sizes), 1)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Any:
        return ctx.whole.join(gradients), None, None
