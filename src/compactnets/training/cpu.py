"""Make training fast on a CPU: suitable kernels, layouts and memory.

On a CPU, multiply-adds are rarely the main cost of a compact network's training step. Measured on two cores with
PyTorch 2.15 at CIFAR size (``benchmarks/step_time.py``; docs/results.md has the ratios): bfloat16 kernels for the
gradients of depthwise convolutions of stride 2 or more than 3 x 3 that take many times as long as their float32
ones, batch normalisation over channel counts that no vector length divides, and memory that is returned to the system
after every layer and cleared again before the next.
"""

from __future__ import annotations

import copy
import ctypes
import math
import sys
from typing import Any

import torch
from torch import Tensor, nn

_M_TRIM_THRESHOLD, _M_TOP_PAD, _M_MMAP_MAX = -1, -2, -4  # malloc.h
_GROWTH = 64 << 20  # bytes that the heap grows by
LIMITS: dict[type[nn.Module], float] = {nn.ReLU: math.inf, nn.ReLU6: 6.0}  # upper bounds


def keep_freed_memory() -> bool:
    """Make the C library reuse the memory of freed tensors, in this process from now on.

    By default a large tensor is mapped anew each time, and the system clears each of its pages. Only affects glibc's
    own allocator. Returns whether it took effect.
    """
    if not sys.platform.startswith("linux"):
        return False
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError):  # another C library
        return False
    done = [mallopt(_M_MMAP_MAX, 0), mallopt(_M_TRIM_THRESHOLD, -1), mallopt(_M_TOP_PAD, _GROWTH)]
    return done == [1, 1, 1]


def optimize_for_cpu(model: nn.Module, *, half: bool, compiled: bool) -> nn.Module:
    """Return an equivalent of ``model`` that trains faster on a CPU.

    (N, C, H, W) images in, (N, classes) logits out. It shares parameters and buffers with ``model``, which is not
    modified. Results differ by rounding.

    Args:
        half: it will run under autocast to bfloat16 or float16.
        compiled: it will be compiled; without that, this batch normalisation is slower than torch's.
    """
    shared = {id(tensor): tensor for tensor in (*model.parameters(), *model.buffers())}
    network: nn.Module = copy.deepcopy(model, shared)
    for module in list(network.modules()):
        if compiled:
            _replace_norms(module)
        if half:
            for name, child in module.named_children():
                if isinstance(child, nn.Conv2d) and _stays_float32(child):
                    setattr(module, name, Float32(child))
    return network


def _stays_float32(conv: nn.Conv2d) -> bool:
    # the bfloat16 weight gradient of a dilated convolution reads memory that nobody wrote (PyTorch 2.14, oneDNN): with
    # freed memory it can be anything, NaN as well
    dilated = max(conv.dilation) > 1
    slow = max(conv.stride) > 1 or max(conv.kernel_size) > 3
    return dilated or (slow and conv.groups == conv.in_channels > 1)


class Float32(nn.Module):
    """A layer outside autocast: any floating dtype in, float32 out."""

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.layer = layer

    def forward(self, x: Tensor) -> Tensor:
        with torch.autocast(x.device.type, enabled=False):
            return self.layer(x.float())


def _replace_norms(parent: nn.Module) -> None:
    """Replace batch normalisations, each with the ReLU after it, if their successor is known."""
    for name, after in _successions(parent):
        norm, following = getattr(parent, name), getattr(parent, after) if after else None
        if type(norm) is not nn.BatchNorm2d or not norm.affine or norm.running_mean is None or norm.momentum is None:
            continue
        if following is None or isinstance(following, nn.Conv2d):
            setattr(parent, name, RowBatchNorm(norm))
        elif after and type(following) in LIMITS:
            setattr(parent, name, RowBatchNorm(norm, LIMITS[type(following)]))
            setattr(parent, after, nn.Identity())


def _successions(parent: nn.Module) -> list[tuple[str, str | None]]:
    """Names of children, each with the one that runs right after it, if any."""
    if isinstance(parent, nn.Sequential) and type(parent).forward is nn.Sequential.forward:
        names = list(parent._modules)
        return list(zip(names, [*names[1:], None], strict=True))
    if type(parent).__name__ == "ConvBlock" and type(parent).__module__.startswith("pytorchcv."):
        return [("bn", "activ" if parent.activate else None)] if parent.normalize else []
    return []


class RowBatchNorm(nn.Module):
    """Batch normalisation (arXiv:1502.03167) in training, with the ReLU after it: (N, C, H, W) -> (N, C, H, W).

    Works on the rows of an image in channels_last layout, W x C adjacent numbers, so that vectors are full whatever C
    is, and on statistics as two plain sums. Statistics are float32 also where the input is bfloat16 (the compiler's own
    formulation rounds mean and deviation to bfloat16 for the backward pass). Made for ``torch.compile``.

    Args:
        norm: the layer whose parameters and buffers it uses and updates.
        limit: upper bound of the following ReLU, infinity for a plain one; ``None`` without a ReLU.

    Raises:
        ValueError: on a call, ``norm`` keeps no running average with a momentum.
    """

    def __init__(self, norm: nn.BatchNorm2d, limit: float | None = None) -> None:
        super().__init__()
        self.norm, self.limit = norm, limit

    def forward(self, x: Tensor) -> Tensor:
        norm, (n, c, h, w) = self.norm, x.shape
        running_mean, running_var, batches = norm.running_mean, norm.running_var, norm.num_batches_tracked
        if norm.momentum is None or running_mean is None or running_var is None or batches is None:
            raise ValueError("expected a batch normalisation that keeps a running average with a momentum")
        rows = x.permute(0, 2, 3, 1).reshape(n * h, w * c)
        y, mean, variance = _NormaliseRows.apply(rows, norm.weight, norm.bias, h, norm.eps, self.limit)
        count = n * h * w
        with torch.no_grad():
            batches.add_(1)
            running_mean.lerp_(mean, norm.momentum)
            running_var.lerp_(variance * (count / max(count - 1, 1)), norm.momentum)
        return y.view(n, h, w, c).permute(0, 3, 1, 2)


class _NormaliseRows(torch.autograd.Function):
    """Rows (N x H, W x C) normalised by channel; also the batch's mean and variance, (C,) each, without gradient."""

    @staticmethod
    def forward(
        ctx: Any, rows: Tensor, weight: Tensor, bias: Tensor, height: int, eps: float, limit: float | None
    ) -> tuple[Tensor, Tensor, Tensor]:
        x, width = _widen(rows), rows.shape[1] // len(weight)
        count = len(rows) * width
        # squares are summed of what differs from the first image's mean: those of the numbers themselves would cancel
        near = _sum_by_channel(x[:height], width) / (height * width)
        difference = x - _spread(near, width)
        shift = _sum_by_channel(difference, width) / count
        variance = (_sum_by_channel(difference.square(), width) / count - shift.square()).clamp_min(0)
        mean, inverse = shift + near, (variance + eps).rsqrt()
        scale = _hold(weight * inverse)
        y = x * _spread(scale, width) + _spread(bias - mean * scale, width)
        if limit is not None:
            y = y.clamp(0, limit) if limit < math.inf else y.relu()
        ctx.limit = limit
        ctx.save_for_backward(rows, weight, bias, mean, inverse)
        ctx.mark_non_differentiable(mean, variance)
        return y.to(rows.dtype), mean, variance

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> tuple[Tensor | None, ...]:
        rows, weight, bias, mean, inverse = ctx.saved_tensors
        x, width = _widen(rows), rows.shape[1] // len(weight)
        count = len(rows) * width
        gradient, scale = _widen(gradients[0]), weight * inverse
        centred = x - _spread(mean, width)
        if ctx.limit is not None:
            # not written as in the forward pass: shared with it, the compiler would store the comparison
            y = centred * _spread(scale, width) + _spread(bias, width)
            gradient = torch.where((y > 0) & (y < ctx.limit) if ctx.limit < math.inf else y > 0, gradient, 0.0)
        of_bias = _sum_by_channel(gradient, width)
        of_weight = _sum_by_channel(gradient * centred, width) * inverse
        by_x = -scale * inverse * of_weight / count
        constant = -scale * of_bias / count - by_x * mean
        of_rows = gradient * _spread(scale, width) + x * _spread(by_x, width) + _spread(constant, width)
        return of_rows.to(rows.dtype), of_weight, of_bias, None, None, None


def _widen(x: Tensor) -> Tensor:
    return x.float() if x.dtype.itemsize < 4 else x


def _hold(x: Tensor) -> Tensor:
    """Return ``x``; the compiler stores what is viewed by strides, where it would compute it again for every pixel."""
    return torch.as_strided(x, x.shape, x.stride())


def _spread(by_channel: Tensor, width: int) -> Tensor:
    """(C,) -> (W x C,)."""
    return _hold(by_channel.repeat(width))


def _sum_by_channel(rows: Tensor, width: int) -> Tensor:
    """(N x H, W x C) -> (C,), by way of sums of some adjacent rows, which stay in a core's cache."""
    few = rows.view(-1, math.gcd(len(rows), 32), rows.shape[1]).sum(1)
    return few.sum(0).view(width, -1).sum(0)
