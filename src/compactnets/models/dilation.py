"""Larger maps from the same weights: strides become dilations (Chen et al. 2017, arXiv:1706.05587, section 3.1)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from timm.layers import Conv2dSame
from torch import Tensor, fx, nn
from torch.fx.passes.shape_prop import ShapeProp
from torch.nn import functional as F

from compactnets.errors import InputError

SAMPLE = 64  # pixels: side of the image used to check the maps


class DilatedAveragePool(nn.Module):
    """Average pooling at stride 1 over pixels ``dilation`` apart, which torch's own cannot do.

    The weights are a constant, no part of the state: those of a classification checkpoint still fit.

    Args:
        pool: the pooling that it stands for.
        channels: of its input.
        pads: pixels to add left, right, above and below.
    """

    def __init__(self, pool: nn.AvgPool2d, channels: int, dilation: int, pads: tuple[int, int, int, int]) -> None:
        super().__init__()
        rows, columns = _pair(pool.kernel_size)
        kernel = torch.full((channels, 1, rows, columns), 1 / (rows * columns))
        self.register_buffer("kernel", kernel, persistent=False)
        self.dilation, self.pads = dilation, pads
        # without padding of its own, a window that reaches past the edge belongs to no pixel of the strided map
        self.whole = pool.count_include_pad or _pair(pool.padding) == (0, 0)

    kernel: Tensor

    def forward(self, x: Tensor) -> Tensor:
        found = self._sum(x)
        return found if self.whole else found / self._sum(torch.ones_like(x))  # the mean of the pixels that exist

    def _sum(self, x: Tensor) -> Tensor:
        left, right, top, bottom = self.pads
        padding = (top, left)
        if self.pads != (left, left, top, top):
            x, padding = F.pad(x, self.pads), (0, 0)
        return F.conv2d(x, self.kernel, None, 1, padding, self.dilation, len(self.kernel))


def dilate(
    body: fx.GraphModule, reductions: Mapping[str, int], output_stride: int, name: str, channels: int = 3
) -> None:
    """Keep the maps of a network at 1 / ``output_stride`` or larger, in place: a stride beyond it is removed, and what
    follows looks at pixels as far apart as before (Chen et al. 2017, arXiv:1706.05587, section 3.1).

    Every ``k``-th pixel of a map is what the network computes there without the change, except after a global pooling.

    Args:
        body: a graph from the image to a dictionary of maps.
        reductions: of those maps without the change, by the module that makes each.
        output_stride: the largest reduction that remains.
        name: of the network, for the message.
        channels: of the image.

    Raises:
        InputError: a network with strides that are in no convolution or pooling.
    """
    ShapeProp(body.eval()).propagate(torch.zeros(1, channels, SAMPLE, SAMPLE))
    modules = dict(body.named_modules())
    reached: dict[fx.Node, tuple[int, int]] = {}  # actual reduction, and the strides removed before
    done: set[str] = set()
    for node in body.graph.nodes:
        inputs = [reached[each] for each in node.all_input_nodes]
        reduction, rate = max(inputs, default=(1, 1))
        module = modules.get(str(node.target)) if node.op == "call_module" else None
        if isinstance(module, nn.Conv2d | nn.AvgPool2d | nn.MaxPool2d):
            stride = _pair(module.stride)[0]
            removed = reduction * stride > output_stride
            if (removed or rate > 1) and str(node.target) not in done:
                done.add(str(node.target))
                given = int(node.all_input_nodes[0].meta["tensor_meta"].shape[1])
                body.set_submodule(str(node.target), _dilated(module, rate, 1 if removed else stride, given))
            reduction, rate = (reduction, rate * stride) if removed else (reduction * stride, rate)
        reached[node] = (reduction, rate)
    with torch.no_grad():
        try:
            maps = body(torch.zeros(1, channels, SAMPLE, SAMPLE))
        except RuntimeError:
            maps = {}
    for module_name, full in reductions.items():
        wanted = SAMPLE // min(full, output_stride)
        found = tuple(maps[module_name].shape[-2:]) if maps else None
        if found != (wanted, wanted):
            raise InputError(
                f"{name} cannot be dilated to an output stride of {output_stride}: {module_name} (1/{full}) of an "
                f"image of {SAMPLE} pixels became {found or 'nothing'}, expected {wanted} x {wanted}: use a larger "
                f"output_stride"
            )


def _dilated(module: nn.Conv2d | nn.AvgPool2d | nn.MaxPool2d, rate: int, stride: int, channels: int) -> nn.Module:
    """Return a layer that looks at pixels ``rate`` times as far apart, at this stride."""
    kernel, own = _pair(module.kernel_size), _pair(getattr(module, "dilation", 1))
    if isinstance(module, nn.Conv2d):
        module.stride, module.dilation = (stride, stride), (own[0] * rate, own[1] * rate)
        if isinstance(module, Conv2dSame) or isinstance(module.padding, str):
            return module  # pads by its stride and dilation
    assert not isinstance(module.padding, str)
    pads: list[int] = []
    for size, step, before in reversed(list(zip(kernel, own, _pair(module.padding), strict=True))):
        first = before * rate
        # at stride 1 the size is kept, and the first pixel is what it was
        pads += [first, rate * step * (size - 1) - first if stride == 1 else first]
    even = pads[0] == pads[1] and pads[2] == pads[3]
    if isinstance(module, nn.AvgPool2d):
        if even and rate == 1:
            module.stride, module.padding = stride, (pads[2], pads[0])
            return module
        return DilatedAveragePool(module, channels, rate, (pads[0], pads[1], pads[2], pads[3]))
    if isinstance(module, nn.MaxPool2d):
        module.stride, module.dilation = stride, (own[0] * rate, own[1] * rate)
    module.padding = (pads[2], pads[0]) if even else (0, 0)
    if even:
        return module
    outside = float("-inf") if isinstance(module, nn.MaxPool2d) else 0.0
    return nn.Sequential(nn.ConstantPad2d((pads[0], pads[1], pads[2], pads[3]), outside), module)


def _pair(value: Any) -> tuple[int, int]:
    return (value, value) if isinstance(value, int) else (int(value[0]), int(value[1]))
