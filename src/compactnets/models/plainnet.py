"""A plain network for CIFAR that learns fast on a CPU: dense 3x3 convolutions alone, to teach compact networks.

After airbench94 (Jordan 2024, arXiv:2404.00498, section 3.1): the same stages and widths, and kernels that begin as the
identity. Ours: ReLU for GELU, normalisation before the pooling, a 3x3 stem with normalisation for its 2x2 whitening
(``whiten_stem`` of a recipe whitens it), and the mean for the last maximum: the layers that every exporter knows.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import Unpack

from torch import nn

from compactnets.models.staged import Options, StagedNet
from compactnets.nn import ConvNormAct, initialize

STEM_CHANNELS = 24
WIDTHS = (64, 256, 256)


def plainnet7(*, stem: str, **options: Unpack[Options]) -> StagedNet:
    """Build the network: seven convolutions, three of them before a pooling; ``stem`` is ``"cifar"``."""
    layers: OrderedDict[str, nn.Module] = OrderedDict(conv=ConvNormAct(options.get("in_chans", 3), STEM_CHANNELS, 3))
    stages: list[nn.Module] = []
    levels = [(STEM_CHANNELS, 1)]
    for index, width in enumerate(WIDTHS):
        stages.append(
            nn.Sequential(
                OrderedDict(
                    first=ConvNormAct(levels[-1][0], width, 3),
                    pool=nn.MaxPool2d(2),
                    second=ConvNormAct(width, width, 3),
                )
            )
        )
        levels.append((width, 2 ** (index + 1)))
    network = StagedNet(nn.Sequential(layers), stages, None, levels=levels, num_features=WIDTHS[-1], form={}, **options)
    initialize(network)
    for conv in network.stages.modules():
        if isinstance(conv, nn.Conv2d) and not conv.weight.is_meta:
            nn.init.dirac_(conv.weight[: conv.in_channels])  # the others keep their values
    return network
