"""Inference rewrites: a copy of a network that computes the same with fewer and cheaper operations.

* Batch normalisation is folded into the convolution before it.
* The channel shuffle of MENet and ShuffleNet units moves after everything that treats channels alike. The depthwise
  convolution, the product with the fusion branch and the addition keep the channel order of the first pointwise
  convolution; the weights of the fusion branch's pointwise convolutions are permuted instead. One shuffle remains just
  before the grouped expansion: after the stride, so on a quarter of the pixels in a downsampling unit. If the first
  pointwise convolution is not grouped (the first unit of stage 2), its own outputs are permuted and the shuffle
  disappears.
* Dropout, which does nothing in evaluation, is removed.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator

import torch
from timm.layers import BatchNormAct2d
from torch import Tensor, nn
from torch.fx import GraphModule, Tracer
from torch.nn import functional as F
from torch.nn.utils.fusion import fuse_conv_bn_eval
from torch.nn.utils.parametrize import register_parametrization

from compactnets.models.form import carry_form, form_of
from compactnets.models.menet import MEModule
from compactnets.models.shufflenet import ShuffleUnit
from compactnets.nn import ChannelShuffle, ConvNormAct, channel_shuffle


def deploy_form(model: nn.Module) -> nn.Module:
    """Return a copy for export, on the CPU and in evaluation mode; ``model`` is not modified.

    The outputs equal those of ``model`` in evaluation mode but for rounding, for every input size and memory format.
    """
    deployed = copy.deepcopy(model).cpu().eval()
    move_shuffles(deployed)
    fold_normalization(deployed)
    _drop_dropout(deployed)
    return deployed.eval().requires_grad_(False)


def move_shuffles(model: nn.Module) -> None:
    """Move the channel shuffles of MENet and ShuffleNet units to where they are cheapest, in place."""
    units = [unit for unit in model.modules() if isinstance(unit, (MEModule, ShuffleUnit))]
    if shuffling := [unit for unit in units if isinstance(unit.shuffle, ChannelShuffle)]:
        carry_form(model, {**form_of(model), "shuffles": "moved"})  # same tensors, different order
    for unit in shuffling:
        _move_shuffle(unit)


def _move_shuffle(unit: MEModule | ShuffleUnit) -> None:
    shuffle = unit.shuffle
    assert isinstance(shuffle, ChannelShuffle)
    order = channel_shuffle(torch.arange(shuffle.channels).view(1, -1, 1, 1), shuffle.groups).flatten()
    unit.shuffle = nn.Identity()
    if unit.compress.conv.groups == 1:
        _permute_outputs(unit.compress, order)
        return
    back = order.argsort()
    _permute_outputs(unit.depthwise, back)
    if isinstance(unit, MEModule):
        unit.merge.conv.weight = _parameter(unit.merge.conv.weight[:, back])
        _permute_outputs(unit.match, back)
    unit.expand = nn.Sequential(shuffle, unit.expand)  # type: ignore[assignment]


def _permute_outputs(layer: ConvNormAct, order: Tensor) -> None:
    """Give the output channels of a convolution (of one group, or depthwise) another order."""
    norm = layer.norm
    assert norm.running_mean is not None
    assert norm.running_var is not None
    layer.conv.weight = _parameter(layer.conv.weight[order])
    norm.weight, norm.bias = _parameter(norm.weight[order]), _parameter(norm.bias[order])
    norm.running_mean, norm.running_var = norm.running_mean[order], norm.running_var[order]


def _parameter(values: Tensor) -> nn.Parameter:
    return nn.Parameter(values.detach().clone(memory_format=torch.contiguous_format), requires_grad=False)


def fold_normalization(model: nn.Module) -> None:
    """Fold every batch normalisation that directly follows a convolution as its only reader, in place.

    A graph is not traced again: its author may have used custom leaf modules.
    """
    modules = dict(model.named_modules())
    for node in (model.graph if isinstance(model, GraphModule) else Tracer().trace(model)).nodes:
        if node.op != "call_module" or not isinstance(norm := modules[node.target], nn.BatchNorm2d):
            continue
        before = node.args[0]
        if before.op != "call_module" or len(before.users) > 1:
            continue
        conv = modules[before.target]
        if isinstance(conv, nn.Conv2d) and norm.running_mean is not None:
            dtype = conv.weight.dtype
            _replace(model, before.target, fuse_conv_bn_eval(conv.double(), norm.double()).to(dtype))
            # timm's normalisation includes the activation
            after = nn.Sequential(norm.drop, norm.act) if isinstance(norm, BatchNormAct2d) else nn.Identity()
            _replace(model, node.target, after)


def separate_padding(model: nn.Module) -> nn.Module:
    """Return a copy in which an average pooling that pads with zeros is a padding and a pooling.

    XNNPACK only averages over pixels inside the image, so it does not take a pooling that counts its padding;
    ExecuTorch's own kernel for the three of menet_228_12x1_g3 took 15 of 22 ms.
    """
    deployed = copy.deepcopy(model)
    for name, pool in list(deployed.named_modules()):
        if isinstance(pool, nn.AvgPool2d) and pool.padding and pool.count_include_pad:
            plain = nn.AvgPool2d(pool.kernel_size, pool.stride, ceil_mode=pool.ceil_mode)
            padding = pool.padding if isinstance(pool.padding, tuple) else (pool.padding, pool.padding)
            _replace(
                deployed, name, nn.Sequential(nn.ZeroPad2d((padding[1], padding[1], padding[0], padding[0])), plain)
            )
    return deployed


class AlignedConv(nn.Module):
    """A depthwise convolution with extra zero channels that are cut off again: (N, C, H, W) -> (N, C, H', W')."""

    def __init__(self, conv: nn.Conv2d, lanes: int) -> None:
        super().__init__()
        self.channels, self.more = conv.out_channels, -conv.out_channels % lanes
        wide = self.channels + self.more
        self.conv = nn.Conv2d(
            wide,
            wide,
            conv.kernel_size,  # type: ignore[arg-type]
            conv.stride,  # type: ignore[arg-type]
            conv.padding,  # type: ignore[arg-type]
            conv.dilation,  # type: ignore[arg-type]
            groups=wide,
            bias=conv.bias is not None,
            dtype=conv.weight.dtype,
        )
        with torch.no_grad():
            for wider, values in zip(self.conv.parameters(), conv.parameters(), strict=True):
                wider.zero_()[: self.channels] = values

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(F.pad(x, (0, 0, 0, 0, 0, self.more)))[:, : self.channels]


def align_depthwise(model: nn.Module, lanes: int) -> nn.Module:
    """Return a copy whose depthwise convolutions have channels in multiples of ``lanes``, and the same outputs.

    ONNX Runtime's fast depthwise convolution on x86 only takes whole vectors of channels (16 with AVX-512, 8 with
    AVX2), and the widths of these networks are rarely such multiples.
    """
    deployed = copy.deepcopy(model)
    for name, conv in list(deployed.named_modules()):
        if not isinstance(conv, nn.Conv2d) or not 1 < conv.groups == conv.in_channels == conv.out_channels:
            continue
        if conv.groups % lanes:
            _replace(deployed, name, AlignedConv(conv, lanes).requires_grad_(False))
    return deployed


class _Stored(nn.Module):
    """A parametrization: stored as float16, used as float32."""

    def forward(self, stored: Tensor) -> Tensor:
        return stored.float()


def store_float16(model: nn.Module) -> nn.Module:
    """Return a copy that keeps its weights in float16 and computes in float32.

    Weights are parameters of more than one dimension; biases, normalisations and values beyond the range of float16
    stay float32.
    """
    deployed = copy.deepcopy(model)
    for module, name, stored in list(_in_float16(deployed)):
        setattr(module, name, nn.Parameter(stored, requires_grad=False))
        register_parametrization(module, name, _Stored(), unsafe=True)  # unsafe: it changes the dtype
    return deployed.requires_grad_(False)


def round_to_float16(model: nn.Module, *, flush: bool = False) -> None:
    """Round the weights that :func:`store_float16` would store, in place; their dtype stays float32.

    Args:
        flush: whether numbers below float16's normal ones become 0, as some converters store them.
    """
    for module, name, stored in list(_in_float16(model)):
        small = stored.abs() < torch.finfo(torch.float16).smallest_normal
        module.get_parameter(name).data.copy_(stored.masked_fill(small, 0) if flush else stored)


def _in_float16(model: nn.Module) -> Iterator[tuple[nn.Module, str, Tensor]]:
    """Yield modules, names of their parameters, and the values of these in float16."""
    for module in model.modules():
        for name, values in module.named_parameters(recurse=False):
            stored = values.detach().half()
            if values.ndim > 1 and values.dtype == torch.float32 and bool(stored.isfinite().all()):
                yield module, name, stored


def _drop_dropout(model: nn.Module) -> None:
    for name, module in list(model.named_modules()):
        if isinstance(module, nn.Dropout):
            _replace(model, name, nn.Identity())


def _replace(model: nn.Module, name: str, module: nn.Module) -> None:
    parent, _, child = name.rpartition(".")
    setattr(model.get_submodule(parent), child, module.eval())
