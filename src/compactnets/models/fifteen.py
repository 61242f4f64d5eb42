"""ResNet-15, Xception-15 and ResNeXt-15: Table I's skeleton with the ME modules replaced (MENet, section IV-A2).

The papers give the budgets (140 and 38 million multiply-adds) and not the widths; "adapting the number of channels to
the computational budgets" is done here, one channel at a time. The units are ours to choose:

* ResNet-15: bottleneck 1:4, stride in the 3x3 convolution, projection shortcut where the shape changes (He et al.).
* ResNeXt-15: the same with a 3x3 convolution of cardinality 16, whose width is a multiple of 16.
* Xception-15: the ShuffleNet unit with one group, which the ShuffleNet paper calls Xception-like.
"""

from __future__ import annotations

from typing import Unpack

from torch import Tensor, nn

from compactnets.errors import InputError
from compactnets.models.shufflenet import ShuffleUnit
from compactnets.models.stacked import StackedNet
from compactnets.models.staged import Options, register_family
from compactnets.nn import ConvNormAct

CARDINALITY = 16


class Bottleneck(nn.Module):
    """1x1, 3x3 in ``cardinality`` groups, 1x1, with an identity or projection shortcut.

    ``(N, in_channels, H, W) -> (N, out_channels, H / stride, W / stride)``. The inner width is a quarter of
    ``out_channels``, rounded down to a multiple of ``cardinality``.
    """

    def __init__(self, in_channels: int, out_channels: int, stride: int = 1, cardinality: int = 1) -> None:
        super().__init__()
        inner = max(1, out_channels // 4 // cardinality) * cardinality
        self.compress = ConvNormAct(in_channels, inner)
        self.spatial = ConvNormAct(inner, inner, 3, stride, groups=cardinality)
        self.expand = ConvNormAct(inner, out_channels, activation=False)
        same = in_channels == out_channels and stride == 1
        self.shortcut = (
            nn.Identity() if same else ConvNormAct(in_channels, out_channels, stride=stride, activation=False)
        )
        self.act = nn.ReLU(inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        return self.act(self.expand(self.spatial(self.compress(x))) + self.shortcut(x))


class FifteenNet(StackedNet):
    """The skeleton of Table I with another unit.

    The paper's footnote 1 counts 15 building blocks, its Table I has 16 modules; here there are 16.

    Args:
        unit: ``"resnet"``, ``"resnext"`` or ``"xception"``.
        width: output channels of stage 2; doubled in each later stage.
        stem_channels: output channels of the first convolution.
        stem: ``"imagenet"`` or ``"cifar"``.
        options: as in every network of the package (:class:`compactnets.models.staged.Options`).

    Raises:
        InputError: an unknown unit, or widths that leave it no channels.
    """

    def __init__(
        self,
        unit: str,
        width: int,
        stem_channels: int = 24,
        *,
        stem: str = "imagenet",
        **options: Unpack[Options],
    ) -> None:
        if unit not in ("resnet", "resnext", "xception"):
            raise InputError(f"unit must be one of resnet, resnext, xception, found {unit!r}")
        if min(width, stem_channels) < 1 or (unit == "xception" and width <= stem_channels):
            raise InputError(
                f"width and stem_channels must be positive, and with unit = 'xception' width exceed stem_channels "
                f"(stage 2 concatenates both), found {width} and {stem_channels}"
            )

        def make_unit(stage: int, in_channels: int, out_channels: int, stride: int, downsample: bool) -> nn.Module:
            if unit == "xception":
                return ShuffleUnit(in_channels, out_channels, 1, downsample=downsample, stride=stride)
            return Bottleneck(in_channels, out_channels, stride, CARDINALITY if unit == "resnext" else 1)

        super().__init__(make_unit, width, stem_channels, stem, **options)


VARIANTS: dict[str, dict[str, str | int]] = {
    "resnet15_140m": {"unit": "resnet", "width": 95},
    "resnet15_38m": {"unit": "resnet", "width": 48, "stem_channels": 12},
    "resnext15_140m": {"unit": "resnext", "width": 128},
    "resnext15_38m": {"unit": "resnext", "width": 66, "stem_channels": 12},
    "xception15_140m": {"unit": "xception", "width": 143},
    "xception15_38m": {"unit": "xception", "width": 72, "stem_channels": 12},
}

register_family(
    __name__,
    FifteenNet,
    VARIANTS,
    paper_ids="arXiv:1803.09127",
    paper_name="Merging and Evolution: Improving Convolutional Neural Networks for Mobile Applications",
)
