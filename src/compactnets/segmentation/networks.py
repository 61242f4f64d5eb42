"""LR-ASPP and DeepLabV3+ on any backbone.

* **LR-ASPP** (Howard et al. 2019, arXiv:1905.02244, section 6.4) is torchvision's ``LRASPPHead``: it pools over the
  whole map, where the paper's pools over 49 x 49 pixels.
* **DeepLabV3+** (Chen et al. 2018, arXiv:1802.02611, section 3) is torchvision's ``ASPP`` with atrous separable
  convolutions, and the paper's decoder, which torchvision has not. The auxiliary head is torchvision's ``FCNHead``.

The scores have the resolution of the head's finer map; who uses them scales them to the image, bilinearly.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.models.segmentation.deeplabv3 import ASPP
from torchvision.models.segmentation.fcn import FCNHead
from torchvision.models.segmentation.lraspp import LRASPPHead
from torchvision.ops import Conv2dNormActivation

from compactnets.errors import InputError
from compactnets.models.backbone import Level, Levels, create_backbone, levels_of, pick_levels
from compactnets.segmentation.recipe import Head, SegmenterSettings

TITLES: dict[Head, str] = {"lraspp": "LR-ASPP", "deeplabv3plus": "DeepLabV3+"}


class Segmenter(nn.Module):
    """A backbone and a head: images (N, 3, H, W) -> scores (N, classes, H / stride, W / stride).

    In training, with an auxiliary head, it returns a pair: the scores, and those of that head at its own resolution.

    Attributes:
        stride: reduction of the scores; sides that it does not divide are rounded up.
        least_side: of an image that an exported network of any size takes: its last map has to have two pixels a side.
    """

    def __init__(self, model: nn.Module, name: str, num_classes: int, settings: SegmenterSettings) -> None:
        """Build the head on a classification network, whose classifier is dropped.

        Args:
            model: the network with its weights (:func:`compactnets.models.backbone.create_backbone`).
            name: its name, for errors.

        Raises:
            InputError: a network without the levels that the head needs, or one that cannot be dilated.
        """
        super().__init__()
        every = levels_of(model, name)
        low, high = pick_levels(every, [settings.low_stride, every[-1].reduction], name)
        middle = [level for level in every if low.reduction < level.reduction < high.reduction]
        extra = [middle[-1]] if settings.auxiliary else []
        if settings.auxiliary and not middle:
            raise InputError(f"{name} has no level between {low} and {high} for an auxiliary head: set auxiliary=0")
        self.backbone = Levels(model, [low, *extra, high], name, settings.output_stride)
        self.stride = min(low.reduction, settings.output_stride)
        self.least_side = settings.output_stride + 1
        self.head = _make_head(low, high, num_classes, settings)
        self.auxiliary = FCNHead(extra[0].channels, num_classes) if extra else None

    def forward(self, images: Tensor) -> Tensor | tuple[Tensor, Tensor]:
        low, *extra, high = self.backbone(images)
        scores: Tensor = self.head({"low": low, "high": high})
        if self.auxiliary is not None and self.training:
            return scores, self.auxiliary(extra[0])
        return scores


class DeepLabV3PlusHead(nn.Module):
    """The encoder's pooling pyramid and the decoder: ``low`` (N, C, H, W) and ``high`` -> (N, classes, H, W).

    Args:
        rates: dilations of the three atrous convolutions.
        channels: of the pyramid and of the decoder.
        low_channels: to which the low-level map is reduced, so that it does not outweigh the pyramid.
    """

    def __init__(
        self, low: int, high: int, num_classes: int, rates: list[int], channels: int, low_channels: int, dropout: float
    ) -> None:
        super().__init__()
        self.pyramid = ASPP(high, rates, channels)
        for number, rate in enumerate(rates, start=1):
            self.pyramid.convs[number] = separable(high, channels, rate)
        self.pyramid.project[-1].p = dropout
        self.reduce = Conv2dNormActivation(low, low_channels, 1)
        self.decoder = nn.Sequential(separable(channels + low_channels, channels), separable(channels, channels))
        self.classifier = nn.Conv2d(channels, num_classes, 1)

    def forward(self, maps: Mapping[str, Tensor]) -> Tensor:
        low = self.reduce(maps["low"])
        high = F.interpolate(self.pyramid(maps["high"]), size=low.shape[-2:], mode="bilinear", align_corners=False)
        scores: Tensor = self.classifier(self.decoder(torch.cat((high, low), dim=1)))
        return scores


def separable(in_channels: int, out_channels: int, dilation: int = 1) -> nn.Sequential:
    """Atrous separable convolution, with normalisation and ReLU after both parts (arXiv:1802.02611, section 3.2)."""
    return nn.Sequential(
        Conv2dNormActivation(in_channels, in_channels, 3, groups=in_channels, dilation=dilation),
        Conv2dNormActivation(in_channels, out_channels, 1),
    )


def _make_head(low: Level, high: Level, num_classes: int, settings: SegmenterSettings) -> nn.Module:
    if settings.head == "lraspp":
        return LRASPPHead(low.channels, high.channels, num_classes, settings.lraspp.channels)
    own = settings.deeplabv3plus
    # the rates are for an output stride of 16, and look equally far at any other (section 4.1)
    rates = [max(1, rate * 16 // settings.output_stride) for rate in own.rates]
    return DeepLabV3PlusHead(
        low.channels, high.channels, num_classes, rates, own.channels, own.low_channels, own.dropout
    )


def build_segmenter(
    name: str, arguments: Mapping[str, Any], num_classes: int, settings: SegmenterSettings
) -> Segmenter:
    """Build a network with fresh weights, or timm's with ``pretrained`` in ``arguments``.

    Raises:
        InputError: no such backbone, or one that the head cannot use.
    """
    return Segmenter(create_backbone(name, arguments), name, num_classes, settings)


def upscale(scores: Tensor, size: tuple[int, int]) -> Tensor:
    """Scale scores (N, classes, h, w) to an image's height and width, as whoever uses an exported network has to."""
    return F.interpolate(scores.float(), size=size, mode="bilinear", align_corners=False)
