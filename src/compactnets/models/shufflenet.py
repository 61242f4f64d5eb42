"""ShuffleNet v1 (Zhang et al., CVPR 2018, arXiv:1707.01083): the network that MENet is based on.

Widths, depths and the order of the concatenation are those of the MENet repository's re-implementation, whose costs are
in MENet's Tables III and IV: the 1.5x network keeps 24 channels in its first convolution, unlike the others, where they
scale. If a scaled bottleneck is not a multiple of the groups (for example 4 groups at 0.5x), it is rounded up to one;
the repository has no such network.
"""

from __future__ import annotations

import math
from typing import Unpack

import torch
from torch import Tensor, nn

from compactnets.errors import InputError
from compactnets.models.stacked import StackedNet
from compactnets.models.staged import Options, register_family
from compactnets.nn import ChannelShuffle, ConvNormAct, depthwise

WIDTHS = {1: 144, 2: 200, 3: 240, 4: 272, 8: 384}  # output channels of stage 2 at 1x (ShuffleNet, Table 1)
SCALES = (0.25, 0.5, 0.75, 1.0, 1.5, 2.0)


class ShuffleUnit(nn.Module):
    """ShuffleNet unit (its figure 2): (b) standard, (c) downsampling.

    Input ``(N, in_channels, H, W)``; output ``(N, out_channels, H / stride, W / stride)``. A standard unit adds its
    input, a downsampling one concatenates (residual branch, pooled input).
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        groups: int,
        *,
        downsample: bool = False,
        stride: int = 1,
        compress_groups: int | None = None,
    ) -> None:
        super().__init__()
        bottleneck = _next_multiple(max(1, out_channels // 4), groups)
        self.compress = ConvNormAct(in_channels, bottleneck, groups=compress_groups or groups)
        self.shuffle = ChannelShuffle(bottleneck, groups) if groups > 1 else nn.Identity()
        self.depthwise = depthwise(bottleneck, stride=stride)
        residual_channels = out_channels - in_channels if downsample else out_channels
        self.expand = ConvNormAct(bottleneck, residual_channels, groups=groups, activation=False)
        self.pool = nn.AvgPool2d(3, stride, padding=1) if downsample else None
        self.act = nn.ReLU(inplace=True)

    @property
    def branch_end(self) -> ConvNormAct | None:
        """The last layer of what is added to the input; ``None`` where it is concatenated."""
        return self.expand if self.pool is None else None

    def zero_init_last(self) -> None:
        """Let a module that adds its input begin as the identity; one that concatenates stays as it is."""
        if self.pool is None:
            nn.init.zeros_(self.expand.norm.weight)

    def forward(self, x: Tensor) -> Tensor:
        residual = self.expand(self.depthwise(self.shuffle(self.compress(x))))
        if self.pool is not None:
            return self.act(torch.cat((residual, self.pool(x)), dim=1))
        return self.act(residual + x)


def _next_multiple(value: float, divisor: int) -> int:
    return math.ceil(value / divisor) * divisor


class ShuffleNet(StackedNet):
    """ShuffleNet v1.

    Args:
        groups: groups of the pointwise convolutions: 1, 2, 3, 4 or 8; gives the width at 1x.
        scale: factor of all widths.
        stem_channels: output channels of the first convolution; scaled from 24 unless given.
        width: output channels of stage 2, instead of what ``groups`` and ``scale`` give.
        stem: ``"imagenet"`` or ``"cifar"``.
        options: as in every network of the package (:class:`compactnets.models.staged.Options`).

    Raises:
        InputError: groups that the paper does not have (unless ``width`` is given), or widths they do not divide.
    """

    def __init__(
        self,
        groups: int,
        scale: float = 1.0,
        *,
        stem_channels: int | None = None,
        width: int | None = None,
        stem: str = "imagenet",
        **options: Unpack[Options],
    ) -> None:
        if groups < 1:
            raise InputError(f"groups must be positive, found {groups}")
        if width is None:
            if groups not in WIDTHS:
                raise InputError(
                    f"groups must be one of {', '.join(map(str, WIDTHS))}, or give a width; found {groups}"
                )
            width = _next_multiple(math.floor(WIDTHS[groups] * scale), groups)
        if stem_channels is None:
            stem_channels = _next_multiple(math.floor(24 * scale), groups)
        if not 0 < stem_channels < width or width % groups or stem_channels % groups:
            raise InputError(
                f"width must exceed stem_channels (stage 2 concatenates both), and both be positive multiples of "
                f"groups = {groups}; found {width} and {stem_channels}"
            )

        def unit(stage: int, in_channels: int, out_channels: int, stride: int, downsample: bool) -> ShuffleUnit:
            compress_groups = 1 if downsample and stage == 0 else None
            return ShuffleUnit(
                in_channels, out_channels, groups, downsample=downsample, stride=stride, compress_groups=compress_groups
            )

        super().__init__(unit, width, stem_channels, stem, **options)


VARIANTS: dict[str, dict[str, float | int]] = {
    f"shufflenet_g{groups}_x{str(scale).replace('.', '_')}": {"groups": groups, "scale": scale}
    for groups in WIDTHS
    for scale in SCALES
}
for groups in WIDTHS:
    VARIANTS[f"shufflenet_g{groups}_x1_5"]["stem_channels"] = 24  # as the MENet repository configures it

register_family(
    __name__,
    ShuffleNet,
    VARIANTS,
    paper_ids="arXiv:1707.01083",
    paper_name="ShuffleNet: An Extremely Efficient Convolutional Neural Network for Mobile Devices",
)
