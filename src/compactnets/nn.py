"""The layers that every family shares, each written once."""

from __future__ import annotations

import math
from collections import OrderedDict

from torch import Tensor, nn


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

    ``fan_out`` is what the MENet repository configures for MENet and ShuffleNet (``init_mode``), ``fan_in`` for
    MobileNet. A grouped convolution counts the outputs of one group, as timm does; torch's own ``fan_out`` counts those
    of all groups, which makes depthwise kernels so small that the first steps at the papers' learning rates diverge.

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
