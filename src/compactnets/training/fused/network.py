"""A network that trains on these kernels."""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import Tensor, nn

from compactnets.training.fused.functions import Convolution, SharedGradient
from compactnets.training.fused.pending import Pending, finish


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


def _has_kernel(conv: nn.Conv2d) -> bool:
    """Whether it is 1x1, or depthwise with an odd window and a stride of at most 2, without bias."""
    size, stride = conv.kernel_size[0], conv.stride[0]
    plain = conv.bias is None and conv.padding_mode == "zeros" and conv.dilation == (1, 1)
    square = conv.kernel_size == (size, size) and conv.stride == (stride, stride)
    if not (plain and square and conv.padding == (size // 2, size // 2)):
        return False
    depthwise = conv.groups == conv.in_channels == conv.out_channels
    return (size == 1 and stride == 1) or (size in (3, 5, 7) and depthwise and stride < 3)


class FusedConv(nn.Module):
    """A convolution that reads and returns pending tensors."""

    def __init__(self, conv: nn.Conv2d) -> None:
        super().__init__()
        self.conv, self.has_kernel = conv, _has_kernel(conv)

    def forward(self, x: Tensor | Pending) -> Pending:
        conv, x = self.conv, x.single() if isinstance(x, Pending) else Pending((x,))
        if not self.has_kernel:
            return Pending((conv(x.value()),))
        (n, _, h, w), stride = x.parts[0].shape, conv.stride[0]
        room = SharedGradient(torch.Size((n, conv.out_channels, -(-h // stride), -(-w // stride))))
        z, mean, variance = Convolution.apply(*x.remaining, conv.weight, conv.groups, stride, room, *x.parts)
        return Pending((room.attach(z),), moments=(mean, variance))
