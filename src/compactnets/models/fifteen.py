"""ResNet-15, Xception-15 and ResNeXt-15: Table I's skeleton with the ME modules replaced (MENet, section IV-A2).

The papers give budgets (140 and 38 million multiply-adds) but no widths; "adapting the number of channels to the
computational budgets" is done here, one channel at a time. The choice of units is ours:

* ResNet-15: bottleneck 1:4, stride in the 3x3 convolution, projection shortcut where the shape changes (He et al.).
* ResNeXt-15: the same with a 3x3 convolution of cardinality 16 and bottleneck 1:2, the settings of the ShuffleNet
  paper (section 4.2), whose accuracies MENet cites. That paper tried 1:4 as well: ``bottleneck=4``, and the names that
  end in ``quarter``. The inner width is a multiple of 16. At 38 million multiply-adds 1:4 leaves stage 2 one channel
  per group, a depthwise convolution.
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
BOTTLENECKS = {"resnet": 4, "resnext": 2}  # output channels per inner channel


class Bottleneck(nn.Module):
    """1x1, 3x3 in ``cardinality`` groups, 1x1, with an identity or projection shortcut.

    ``(N, in_channels, H, W) -> (N, out_channels, H / stride, W / stride)``. The inner width is ``out_channels`` by
    ``bottleneck``, as a multiple of ``cardinality``: rounded down for 4, up for 2. Rounded down at 38 million
    multiply-adds, 1:2 would be 1:3 in stage 2, and depthwise.
    """

    def __init__(
        self, in_channels: int, out_channels: int, stride: int = 1, cardinality: int = 1, bottleneck: int = 4
    ) -> None:
        super().__init__()
        per_group, rest = divmod(out_channels, bottleneck * cardinality)
        inner = max(1, per_group + (bottleneck == 2 and rest > 0)) * cardinality
        self.compress = ConvNormAct(in_channels, inner)
        self.spatial = ConvNormAct(inner, inner, 3, stride, groups=cardinality)
        self.expand = ConvNormAct(inner, out_channels, activation=False)
        same = in_channels == out_channels and stride == 1
        self.shortcut = (
            nn.Identity() if same else ConvNormAct(in_channels, out_channels, stride=stride, activation=False)
        )
        self.act = nn.ReLU(inplace=True)

    @property
    def branch_end(self) -> ConvNormAct | None:
        """The last layer of what is added to the input; ``None`` where it is added to a projection."""
        return self.expand if isinstance(self.shortcut, nn.Identity) else None

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
        bottleneck: output channels of a unit per inner channel, 2 or 4; unless given, 4 for ``"resnet"`` and 2 for
            ``"resnext"``. ``"xception"`` has 4 and takes no other.
        options: as in every network of the package (:class:`compactnets.models.staged.Options`).

    Raises:
        InputError: an unknown unit or bottleneck, or widths that leave it no channels.
    """

    def __init__(
        self,
        unit: str,
        width: int,
        stem_channels: int = 24,
        *,
        stem: str = "imagenet",
        bottleneck: int | None = None,
        **options: Unpack[Options],
    ) -> None:
        if unit not in ("resnet", "resnext", "xception"):
            raise InputError(f"unit must be one of resnet, resnext, xception, found {unit!r}")
        if min(width, stem_channels) < 1 or (unit == "xception" and width <= stem_channels):
            raise InputError(
                f"width and stem_channels must be positive, and with unit = 'xception' width exceed stem_channels "
                f"(stage 2 concatenates both), found {width} and {stem_channels}"
            )

        allowed = (2, 4) if unit in BOTTLENECKS else (4,)
        if bottleneck is not None and bottleneck not in allowed:
            raise InputError(
                f"bottleneck must be {' or '.join(map(str, allowed))} with unit = {unit!r} (output channels of a unit "
                f"per inner channel), found {bottleneck!r}"
            )
        ratio = int(bottleneck or BOTTLENECKS.get(unit, 4))

        def make_unit(stage: int, in_channels: int, out_channels: int, stride: int, downsample: bool) -> nn.Module:
            if unit == "xception":
                return ShuffleUnit(in_channels, out_channels, 1, downsample=downsample, stride=stride)
            return Bottleneck(in_channels, out_channels, stride, CARDINALITY if unit == "resnext" else 1, ratio)

        super().__init__(make_unit, width, stem_channels, stem, **options)


VARIANTS: dict[str, dict[str, str | int]] = {
    "resnet15_140m": {"unit": "resnet", "width": 95},
    "resnet15_38m": {"unit": "resnet", "width": 48, "stem_channels": 12},
    "resnext15_140m": {"unit": "resnext", "width": 86},
    "resnext15_38m": {"unit": "resnext", "width": 40, "stem_channels": 14},
    "resnext15_140m_quarter": {"unit": "resnext", "width": 128, "bottleneck": 4},
    "resnext15_38m_quarter": {"unit": "resnext", "width": 66, "stem_channels": 12, "bottleneck": 4},
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
