"""MENet: merging-and-evolution networks (Qin et al., IJCNN 2018, arXiv:1803.09127).

Paper, published code and this module:

* Structure, widths and the order of the concatenation follow the published code, confirmed by the authors' checkpoint.
* The residual branch has no ReLU after the depthwise convolution (figure 3; as in ShuffleNet).
* Stage 2's first pointwise convolution is not grouped (section III-C), but its output is shuffled by ``groups``. This
  follows the published code; the paper does not contradict it.
* Table VI's fractional fusion widths are rounded to the nearest channel (12 x 2.5^2 = 75; 12 x 1.5 = 18, then 27).
* The repository calls the merging convolution ``s_merge``, the evolution transformation ``s_conv`` and the matching
  transformation ``s_evolve``; here they have the paper's names (``legacy.py`` has the map).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Unpack

import torch
from torch import Tensor, nn

from compactnets.errors import InputError
from compactnets.models.stacked import DEPTHS, StackedNet
from compactnets.models.staged import Options, register_family
from compactnets.nn import ChannelShuffle, ConvNormAct, depthwise

FUSIONS = ("product", "add")


class MEModule(nn.Module):
    """The merging-and-evolution module of figure 3: (a) standard, (b) downsampling.

    Input ``(N, in_channels, H, W)``; output ``(N, out_channels, H / stride, W / stride)``. A standard module adds its
    input, a downsampling one concatenates (residual branch, pooled input), in this order.

    Args:
        in_channels: channels of the input; equal to ``out_channels`` in a standard module.
        out_channels: channels of the output; the bottleneck has a quarter of them (section III-C).
        fusion_channels: channels of the fusion branch.
        groups: groups of the pointwise convolutions and of the shuffle.
        downsample: concatenate with the pooled input instead of adding the input.
        stride: 2, or 1 in the first downsampling module with the cifar stem.
        compress_groups: groups of the first pointwise convolution, if they differ from ``groups``.
        fusion: ``"product"`` (equation 7) or ``"add"`` (Table VII: addition, no sigmoid).
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        fusion_channels: int,
        groups: int,
        *,
        downsample: bool = False,
        stride: int = 1,
        compress_groups: int | None = None,
        fusion: str = "product",
    ) -> None:
        super().__init__()
        bottleneck = out_channels // 4
        self.fusion = fusion
        # residual branch
        self.compress = ConvNormAct(in_channels, bottleneck, groups=compress_groups or groups)
        self.shuffle = ChannelShuffle(bottleneck, groups)
        self.depthwise = depthwise(bottleneck, stride=stride)
        residual_channels = out_channels - in_channels if downsample else out_channels
        self.expand = ConvNormAct(bottleneck, residual_channels, groups=groups, activation=False)
        # fusion branch
        self.merge = ConvNormAct(bottleneck, fusion_channels)  # equation 4
        self.evolve = ConvNormAct(fusion_channels, fusion_channels, 3, stride)  # equation 5
        self.match = ConvNormAct(fusion_channels, bottleneck, activation=False)  # equation 6
        # identity branch
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
        residual = self.shuffle(self.compress(x))
        fused = self.match(self.evolve(self.merge(residual)))
        residual = self.depthwise(residual)
        residual = residual * torch.sigmoid(fused) if self.fusion == "product" else residual + fused  # equation 7
        residual = self.expand(residual)
        if self.pool is not None:
            return self.act(torch.cat((residual, self.pool(x)), dim=1))
        return self.act(residual + x)


class MENet(StackedNet):
    """``w-MENet-k x alpha`` (section III-C, Table I).

    Args:
        residual_width: w, output channels of stage 2; doubled in each later stage.
        fusion_width: k, channels of the fusion branch in stage 2.
        expansion: alpha, growth of the fusion branch from stage to stage; rounded to the nearest channel.
        groups: groups of the pointwise convolutions; must divide w / 4.
        stem_channels: output channels of the first convolution.
        fusion: ``"product"`` or ``"add"`` (Table VII).
        depths: units of each stage; those of Table I by default.
        stem: ``"imagenet"`` or ``"cifar"``.
        options: as in every network of the package (:class:`compactnets.models.staged.Options`).

    Raises:
        InputError: widths that the groups do not divide, depths for a number of stages other than three, or an unknown
            fusion or stem.
    """

    def __init__(
        self,
        residual_width: int,
        fusion_width: int,
        groups: int,
        *,
        expansion: float = 1.0,
        stem_channels: int = 24,
        fusion: str = "product",
        depths: Sequence[int] = DEPTHS,
        stem: str = "imagenet",
        **options: Unpack[Options],
    ) -> None:
        _check(residual_width, fusion_width, groups, expansion, stem_channels, fusion)

        def unit(stage: int, in_channels: int, out_channels: int, stride: int, downsample: bool) -> MEModule:
            return MEModule(
                in_channels,
                out_channels,
                math.floor(fusion_width * expansion**stage + 0.5),
                groups,
                downsample=downsample,
                stride=stride,
                compress_groups=1 if downsample and stage == 0 else None,
                fusion=fusion,
            )

        super().__init__(unit, residual_width, stem_channels, stem, {"fusion": fusion}, depths, **options)


def _check(width: int, fusion_width: int, groups: int, expansion: float, stem_channels: int, fusion: str) -> None:
    if fusion not in FUSIONS:
        raise InputError(f"fusion must be one of {', '.join(FUSIONS)}, found {fusion!r}")
    if min(width, fusion_width, groups, stem_channels) < 1 or expansion <= 0:
        raise InputError("residual_width, fusion_width, groups, stem_channels and expansion must be positive")
    if fusion_width * expansion ** (len(DEPTHS) - 1) < 0.5:
        raise InputError(
            f"fusion_width must leave a channel in the last stage: {fusion_width} x {expansion}^{len(DEPTHS) - 1} is "
            f"rounded to none"
        )
    if width % (4 * groups):
        raise InputError(
            f"residual_width must be a multiple of 4 x groups = {4 * groups} (a quarter of it is the bottleneck, which "
            f"the groups divide), found {width}"
        )
    if (width - stem_channels) % groups or width <= stem_channels:
        raise InputError(
            f"residual_width - stem_channels must be a positive multiple of groups = {groups} (stage 2 concatenates "
            f"both), found {width} - {stem_channels}"
        )


def _variant(width: int, fusion_width: int, groups: int, **options: float | str | int) -> dict[str, float | str | int]:
    return {"residual_width": width, "fusion_width": fusion_width, "groups": groups, **options}


VARIANTS = {
    # Tables I to IV
    "menet_108_8x1_g3": _variant(108, 8, 3, stem_channels=12),
    "menet_128_8x1_g4": _variant(128, 8, 4, stem_channels=12),
    "menet_160_8x1_g8": _variant(160, 8, 8),
    "menet_228_12x1_g3": _variant(228, 12, 3),
    "menet_256_12x1_g4": _variant(256, 12, 4),
    "menet_348_12x1_g3": _variant(348, 12, 3),
    "menet_352_12x1_g8": _variant(352, 12, 8),
    "menet_456_24x1_g3": _variant(456, 24, 3, stem_channels=48),
    # Table V: fusion width
    "menet_228_10x1_g3": _variant(228, 10, 3),
    "menet_228_14x1_g3": _variant(228, 14, 3),
    "menet_228_16x1_g3": _variant(228, 16, 3),
    # Table VI: expansion rate
    "menet_228_12x1_5_g3": _variant(228, 12, 3, expansion=1.5),
    "menet_228_12x2_g3": _variant(228, 12, 3, expansion=2.0),
    "menet_228_12x2_5_g3": _variant(228, 12, 3, expansion=2.5),
    # Table VII: element-wise addition
    "menet_228_12x1_add_g3": _variant(228, 12, 3, fusion="add"),
    "menet_256_12x1_add_g4": _variant(256, 12, 4, fusion="add"),
}

register_family(
    __name__,
    MENet,
    VARIANTS,
    paper_ids="arXiv:1803.09127",
    paper_name="Merging and Evolution: Improving Convolutional Neural Networks for Mobile Applications",
    origin_url="https://github.com/clavichord93/MENet",
)
