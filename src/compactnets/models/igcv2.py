"""IGCV2: interleaved structured sparse convolutions (Xie et al., CVPR 2018, arXiv:1804.06202) on the MobileNet layout.

No library has it, and its authors published no code. What is known, and what is our choice:

* **Paper.** A pointwise convolution becomes a product of sparse ones, ``y = P_L W_L ... P_1 W_1 x``: a channel-wise 3x3
  convolution, then 1x1 group convolutions with permutations between them. The complementary condition asks that every
  output channel is reached from every input channel. For ImageNet the layout is MobileNet's, with width multipliers
  0.25, 0.5 and 1.0 and 0.5 M / 46 M, 1.3 M / 156 M, 4.1 M / 564 M parameters and multiply-adds (also in MuffNet,
  Table 6).
* **Code.** That of IGCV3, by the same group, writes the permutation as a channel shuffle. The authors of ShuffleNetV2
  timed IGCV2 and say that it has "4 or 8" groups (their section 4).
* **Ours, from the counts.** Multiply-adds of a MobileNet layout are ``A a^2 + B a`` in the width multiplier ``a``; the
  three stated values restrict A to 503 to 507 million and B to 57 to 60. MobileNet has 539 and 29. Hence, from B, the
  layout is twice as wide, including the first convolution; from A, each pointwise convolution is a pair with 8 groups.
  From the parameters, the classifier still reads ``1024 a`` channels: the last pair ends there, at the cost of the
  other pairs (4 groups). This gives 0.48 M / 46.1 M, 1.33 M / 155.6 M, 4.14 M / 564.9 M. We did not have the paper's
  table of layers, so another reading of equal cost is possible.
* **Ours, without a source.** Batch normalisation after every convolution; ReLU after the channel-wise convolution and
  after the pair, where MobileNet has them. Two convolutions with 8 groups reach every input only from 64 channels on:
  the first layers of the narrower networks do not meet the complementary condition.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import Unpack

from torch import nn

from compactnets.errors import InputError
from compactnets.models.staged import Options, StagedNet, check_stem
from compactnets.nn import ChannelShuffle, ConvNormAct, initialize

STEM_CHANNELS = 64
STAGES = (
    (128,),
    (256, 256),
    (512, 512),
    (1024,) * 6,
    (2048, 1024),
)  # MobileNet's Table 1, twice as wide but for the end
GROUPS = 8


class InterleavedBlock(nn.Sequential):
    """Channel-wise 3x3 convolution, then two 1x1 group convolutions, each behind a permutation.

    Input ``(N, in_channels, H, W)``; output ``(N, out_channels, ceil(H / stride), ceil(W / stride))``. If a block
    halves its channels, its last convolution has half the groups, and so costs the same as without the halving.
    """

    def __init__(self, in_channels: int, out_channels: int, stride: int, groups: int = GROUPS) -> None:
        last_groups = groups // 2 if out_channels < in_channels else groups
        super().__init__(
            OrderedDict(
                spatial=ConvNormAct(in_channels, in_channels, 3, stride, groups=in_channels),
                shuffle1=ChannelShuffle(in_channels, groups),
                group1=ConvNormAct(in_channels, in_channels, groups=groups, activation=False),
                shuffle2=ChannelShuffle(in_channels, groups),
                group2=ConvNormAct(in_channels, out_channels, groups=last_groups),
            )
        )


class IGCV2(StagedNet):
    """IGCV2 for the width multipliers of MuffNet's Table 6.

    Args:
        width: multiplies all channels: 0.25, 0.5, 1.0, or any other multiple of 0.125.
        stem: ``"imagenet"``, or ``"cifar"`` without the first three halvings (as MobileNet in MuffNet's Table 5).
        options: as in every network of the package (:class:`compactnets.models.staged.Options`).

    Raises:
        InputError: a width for which the groups do not divide the channels, or an unknown stem.
    """

    def __init__(self, width: float = 1.0, *, stem: str = "imagenet", **options: Unpack[Options]) -> None:
        check_stem(stem)
        if width <= 0 or (STEM_CHANNELS * width) % GROUPS:
            raise InputError(
                f"width must be a positive multiple of {GROUPS / STEM_CHANNELS} (the groups divide every layer), "
                f"found {width}"
            )
        strides = (1, 1, 1, 1, 2, 2) if stem == "cifar" else (2, 1, 2, 2, 2, 2)  # first convolution, then the stages
        channels, reduction = int(STEM_CHANNELS * width), strides[0]
        first = ConvNormAct(options.get("in_chans", 3), channels, 3, reduction)
        levels = [(channels, reduction)]
        stages: list[nn.Module] = []
        for outputs, stride in zip(STAGES, strides[1:], strict=True):
            blocks = []
            for position, output in enumerate(outputs):
                blocks.append(InterleavedBlock(channels, int(output * width), stride if position == 0 else 1))
                channels = int(output * width)
            stages.append(nn.Sequential(*blocks))
            reduction *= stride
            levels.append((channels, reduction))
        super().__init__(
            nn.Sequential(OrderedDict(conv=first)),
            stages,
            None,
            levels=levels,
            num_features=channels,
            form={"stem": stem},
            **options,
        )
        initialize(self, mode="fan_in")  # as the MENet repository does for MobileNet
