"""The layers that every family shares, each written once."""

from __future__ import annotations

import math
from collections import OrderedDict

import torch
from timm.layers import DropPath, register_notrace_module
from torch import Tensor, nn
from torch.nn import functional as F

from compactnets.errors import InputError

register_notrace_module(DropPath)  # a graph that is traced for a backbone keeps it, for training


class ConvNormAct(nn.Sequential):
    """Convolution without bias, batch normalisation and, unless told otherwise, ReLU.

    The padding keeps ``ceil(size / stride)``. Input ``(N, in_channels, H, W)``, output
    ``(N, out_channels, ceil(H / stride), ceil(W / stride))``.

    Raises:
        ValueError: ``groups`` does not divide both channel counts (from :class:`torch.nn.Conv2d`).
    """

    conv: nn.Conv2d
    norm: nn.BatchNorm2d

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int = 1,
        stride: int = 1,
        groups: int = 1,
        activation: bool = True,
    ) -> None:
        conv = nn.Conv2d(
            in_channels, out_channels, kernel_size, stride, padding=kernel_size // 2, groups=groups, bias=False
        )
        layers: OrderedDict[str, nn.Module] = OrderedDict(conv=conv, norm=nn.BatchNorm2d(out_channels))
        if activation:
            layers["act"] = nn.ReLU(inplace=True)
        super().__init__(layers)


def depthwise(channels: int, kernel_size: int = 3, stride: int = 1) -> ConvNormAct:
    """Depthwise convolution with batch normalisation and no activation, as in ShuffleNet and MENet."""
    return ConvNormAct(channels, channels, kernel_size, stride, groups=channels, activation=False)


def channel_shuffle(x: Tensor, groups: int) -> Tensor:
    """Interleave the channels of ``groups`` groups: (N, C, H, W) -> (N, C, H, W).

    Output channel ``i * groups + g`` is input channel ``g * (C / groups) + i`` (ShuffleNet, section 3.1). Only the
    channel dimension is reshaped, so that batch and image size stay symbolic in an exported graph.
    """
    x = x.unflatten(1, (groups, -1))  # (N, groups, C / groups, H, W)
    return x.transpose(1, 2).flatten(1, 2)


class ChannelShuffle(nn.Module):
    """:func:`channel_shuffle` as a module, so that cost and export can find it; ``groups`` must divide ``channels``."""

    def __init__(self, channels: int, groups: int) -> None:
        super().__init__()
        if channels % groups:
            raise ValueError(f"{channels} channels cannot be shuffled in {groups} groups: groups must divide them")
        self.channels, self.groups = channels, groups

    def forward(self, x: Tensor) -> Tensor:
        return channel_shuffle(x, self.groups)

    def extra_repr(self) -> str:
        return f"channels={self.channels}, groups={self.groups}"


def initialize(module: nn.Module, mode: str = "fan_out") -> None:
    """Initialise in place: Kaiming normal for convolutions, N(0, 0.01) for linear layers, zero biases.

    The MENet repository configures ``fan_out`` for MENet and ShuffleNet (``init_mode``), and ``fan_in`` for MobileNet.
    A grouped convolution counts the outputs of one group, as in timm. torch's ``fan_out`` counts those of all groups,
    which makes depthwise kernels so small that the first steps at the papers' learning rates diverge.

    Raises:
        ValueError: another mode.
    """
    if mode not in ("fan_in", "fan_out"):
        raise ValueError(f"mode must be fan_in or fan_out, found {mode!r}")
    for layer in module.modules():
        weight = getattr(layer, "weight", None)
        if weight is None or weight.is_meta:  # on the meta device there is nothing to initialise
            continue
        if isinstance(layer, nn.Conv2d):
            fan = weight[0].numel() if mode == "fan_in" else weight[:, 0].numel() // layer.groups
            nn.init.normal_(weight, std=math.sqrt(2 / fan))
        elif isinstance(layer, nn.Linear):
            nn.init.normal_(weight, std=0.01)
        if isinstance(layer, (nn.Conv2d, nn.Linear)) and layer.bias is not None:
            nn.init.zeros_(layer.bias)


def zero_residuals(module: nn.Module) -> int:
    """Let every residual branch begin at zero, so that its block begins as the identity; return their number.

    A block with such a branch has the method ``zero_init_last``, as timm's have.
    """
    blocks = [block for block in module.modules() if hasattr(block, "zero_init_last")]
    for block in blocks:
        block.zero_init_last()  # type: ignore[operator]
    return len(blocks)


def add_drop_path(module: nn.Module, rate: float) -> None:
    """Leave out residual branches at random in training, image by image; the rate rises from branch to branch, up to
    ``rate`` at the last (Huang et al. 2016, arXiv:1603.09382, section 3).

    A block with such a branch has the property ``branch_end``: its last layer, or ``None`` if nothing is added to it.

    Raises:
        InputError: a rate outside 0 to 1, or no residual branch.
    """
    if not 0 <= rate < 1:
        raise InputError(f"drop_path_rate must be at least 0 and below 1, found {rate}")
    found = [getattr(block, "branch_end", None) for block in module.modules()]
    ends = [end for end in found if isinstance(end, ConvNormAct)]
    if not ends:
        raise InputError("drop_path_rate needs residual branches, and this network has none: remove it")
    for index, end in enumerate(ends):
        end.add_module("drop_path", DropPath(rate * (index + 1) / len(ends)))


def whiten(conv: nn.Conv2d, images: Tensor, eps: float = 5e-4) -> None:
    """Set the kernels of a first convolution so that they whiten patches of ``images`` (N, C, H, W), and freeze them.

    The kernels are the principal directions of the patches, each divided by its standard deviation, and the same with
    the other sign, for the ReLU that follows (Jordan 2024, arXiv:2404.00498, section 3.2); the strongest first, as many
    as there are. Kernels beyond twice the directions keep their values.

    Raises:
        ValueError: the convolution does not take all the channels of ``images`` at once.
    """
    out_channels, in_channels, height, width = conv.weight.shape
    if conv.groups != 1 or in_channels != images.shape[1]:
        raise ValueError(f"expected a convolution over {images.shape[1]} channels, found {conv}")
    patches = F.unfold(images.double(), (height, width)).transpose(1, 2).reshape(-1, in_channels * height * width)
    centred = patches - patches.mean(0)
    values, vectors = torch.linalg.eigh(centred.T @ centred / len(centred))
    directions = (vectors / (values.clamp_min(0) + eps).sqrt()).T.flip(0)
    directions = directions * directions.sum(1, keepdim=True).sign()  # the sign of an eigenvector is arbitrary
    count = min(len(directions), out_channels // 2)
    chosen = directions[:count].reshape(count, in_channels, height, width).to(conv.weight.dtype)
    with torch.no_grad():
        conv.weight[:count] = chosen
        conv.weight[count : 2 * count] = -chosen
    conv.weight.requires_grad_(False)
