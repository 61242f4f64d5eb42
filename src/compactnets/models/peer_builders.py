"""The peers of MENet and MuffNet, as built by other libraries.

Each is divided into stem, stages and final layer on top of :class:`~compactnets.models.staged.StagedNet`. It thus has
the interface of every other network of the package: heads, ``feature_info``, ``stem="cifar"``, any input size. Weights
are fresh. The ``note`` of a name in ``peers.py`` says which constructor it uses, and why.

* With ``stem="cifar"``, the ImageNet network lacks its first three halvings (MuffNet, section 5.3), so that a 32x32
  image ends on an 8x8 map. DenseNet and ResNet-20/56/110 are CIFAR designs and have only this stem. ShuffleNetV2 keeps
  its first convolution, which MuffNet's text removes and its counts keep (39.8 M with, 37.9 M without, 40 M stated).
* VGG-16's two hidden layers are convolutions over a map pooled to 7x7: the same weights and the same cost as its fully
  connected ones, and ``forward_features`` still returns a map, of 4096 channels and size 1x1.
* CondenseNet is built as its authors deploy it, with the pruned connections removed. Which ones training would have
  kept cannot be known before it: here every group reads every eighth channel, and the classifier every second one.
* IGCV3's second permutation, which the authors' code has and pytorchcv leaves out, is left out: it costs nothing.
"""

from __future__ import annotations

import copy
import importlib
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from typing import Any, Unpack

import torch
from torch import Tensor, nn

from compactnets.models.staged import Options, StagedNet
from compactnets.nn import ChannelShuffle, initialize


def _assemble(
    stem: Mapping[str, nn.Module],
    stages: Sequence[nn.Module],
    final: nn.Module | None,
    num_features: int,
    options: Options,
) -> StagedNet:
    """Build the skeleton from the parts of a library's network; ``levels`` are measured on the meta device.

    :func:`compactnets.models.peers.create_peer` sets its form, because it knows the network's other stems.
    """
    probe = nn.ModuleList(copy.deepcopy([*stem.values(), *stages])).to("meta").eval()
    x, levels = torch.zeros(1, options.get("in_chans", 3), 64, 64, device="meta"), []
    with torch.no_grad():
        for layer in probe:
            x = layer(x)
            levels.append((x.shape[1], 64 // x.shape[2]))
    return StagedNet(
        nn.Sequential(OrderedDict(stem)), stages, final, levels=levels, num_features=num_features, form={}, **options
    )


def _unstride(*parts: nn.Module) -> None:
    """Set the stride of every convolution in ``parts`` to 1, for ``stem="cifar"``."""
    for part in parts:
        for layer in part.modules():
            if isinstance(layer, nn.Conv2d):
                layer.stride = (1, 1)


def _rebuilt(conv: nn.Conv2d, in_channels: int, kernel_size: int, padding: int) -> nn.Conv2d:
    """Return ``conv`` with another input or kernel; the caller initialises it."""
    bias = conv.bias is not None
    return nn.Conv2d(in_channels, conv.out_channels, kernel_size, conv.stride, padding, bias=bias)  # type: ignore[arg-type]


# pytorchcv: `features` holds init_block, stage1, stage2, ..., perhaps final_block or post_activ, then final_pool


def _pytorchcv(module: str) -> Any:
    return importlib.import_module(f"pytorchcv.models.{module}")


def _stages(features: nn.Sequential) -> list[Any]:
    return [layer for name, layer in features.named_children() if name.startswith("stage")]


def mobilenet(width: float, *, stem: str, **options: Unpack[Options]) -> StagedNet:
    """MobileNet v1 at a width."""
    net = _pytorchcv("mobilenet").get_mobilenet(width, in_channels=options.get("in_chans", 3))
    return _mobilenet_layout(net, None, net.output.in_features, stem, options)


def mobilenetv2_gluon(width: float, *, stem: str, **options: Unpack[Options]) -> StagedNet:
    """MobileNetV2 with GluonCV's rounding."""
    net = _pytorchcv("mobilenetv2").get_mobilenetv2(width, in_channels=options.get("in_chans", 3))
    return _mobilenet_layout(net, net.features.final_block, net.output.in_channels, stem, options)


def igcv3(width: float, *, stem: str, **options: Unpack[Options]) -> StagedNet:
    """IGCV3-D at a width."""
    net = _pytorchcv("igcv3").get_igcv3(width, in_channels=options.get("in_chans", 3))
    for stage in _stages(net.features):
        for unit in stage:
            unit.c_shuffle = ChannelShuffle(unit.conv1.conv.out_channels, unit.c_shuffle.groups)
    return _mobilenet_layout(net, net.features.final_block, net.output.in_features, stem, options)


def _mobilenet_layout(net: Any, final: nn.Module | None, num_features: int, stem: str, options: Options) -> StagedNet:
    """The MobileNet layouts: five stages, all but the first one halving the map."""
    stages = _stages(net.features)
    if stem == "cifar":
        _unstride(net.features.init_block, *stages[1:3])
    return _assemble({"conv": net.features.init_block}, stages, final, num_features, options)


def shufflenetv2(width: int, *, stem: str, **options: Unpack[Options]) -> StagedNet:
    """ShuffleNetV2 with ``width`` channels in its first stage."""
    widths = [[width] * 4, [2 * width] * 8, [4 * width] * 4]
    net = _pytorchcv("shufflenetv2b").ShuffleNetV2b(widths, 24, 1024, in_channels=options.get("in_chans", 3))
    stages = _stages(net.features)
    for stage, (channels, *_) in zip(stages, widths, strict=True):
        for unit in stage:
            unit.c_shuffle = ChannelShuffle(channels, groups=2)
    layers = dict(net.features.init_block.named_children())  # conv, pool
    if stem == "cifar":
        del layers["pool"]
        _unstride(layers["conv"], stages[0])
    return _assemble(layers, stages, net.features.final_block, net.output.in_features, options)


class ChannelSelect(nn.Module):
    """Pick channels by number: (N, C, H, W) -> (N, len(index), H, W)."""

    index: Tensor

    def __init__(self, index: Tensor) -> None:
        super().__init__()
        self.register_buffer("index", index)

    def forward(self, x: Tensor) -> Tensor:
        return x.index_select(1, self.index)


def condensenet(groups: int, *, stem: str, **options: Unpack[Options]) -> StagedNet:
    """CondenseNet-74 in its deployed form, with ``groups`` groups."""
    net = _pytorchcv("condensenet").get_condensenet(74, groups=groups, in_channels=options.get("in_chans", 3))
    stages = _stages(net.features)
    for stage in stages:
        for name, unit in stage.named_children():
            if name.startswith("unit"):
                conv = unit.conv1  # index, bn, activ, conv, c_shuffle; the index comes filled with zeros
                every = torch.arange(conv.conv.in_channels).unflatten(0, (-1, groups)).t().flatten()
                shuffle = ChannelShuffle(conv.conv.out_channels, groups)
                unit.conv1 = nn.Sequential(ChannelSelect(every), conv.bn, conv.activ, conv.conv, shuffle)
    if stem == "cifar":
        _unstride(net.features.init_block)
        stages[1].trans2 = stages[2].trans3 = nn.Identity()
    num_features = net.output.linear.in_features
    half = ChannelSelect(torch.arange(0, 2 * num_features, 2))
    final = nn.Sequential(net.features.post_activ, half)
    return _assemble({"conv": net.features.init_block}, stages, final, num_features, options)


def densenet(blocks: int, bottleneck: bool, *, stem: str, **options: Unpack[Options]) -> StagedNet:
    """A CIFAR DenseNet of growth rate 12 and ``blocks`` layers."""
    net = _pytorchcv("densenet_cifar").get_densenet_cifar(
        10, blocks, growth_rate=12, bottleneck=bottleneck, in_channels=options.get("in_chans", 3)
    )
    features = net.features
    return _assemble(
        {"conv": features.init_block}, _stages(features), features.post_activ, net.output.in_features, options
    )


def resnet(blocks: int, *, stem: str, **options: Unpack[Options]) -> StagedNet:
    """A CIFAR ResNet of ``blocks`` layers."""
    net = _pytorchcv("resnet_cifar").get_resnet_cifar(
        10, blocks, bottleneck=False, in_channels=options.get("in_chans", 3)
    )
    return _assemble({"conv": net.features.init_block}, _stages(net.features), None, net.output.in_features, options)


# torchvision


def mobilenetv2(*, stem: str, **options: Unpack[Options]) -> StagedNet:
    """MobileNetV2 1.0 as in its paper."""
    from torchvision.models import mobilenet_v2

    first, *units, final = mobilenet_v2().features
    first[0] = _rebuilt(first[0], options.get("in_chans", 3), kernel_size=3, padding=1)
    stages = [nn.Sequential(*units[start:end]) for start, end in ((0, 1), (1, 3), (3, 6), (6, 13), (13, 17))]
    if stem == "cifar":
        _unstride(first, *stages[1:3])
    initialize(first)
    return _assemble({"conv": first}, stages, final, final[0].out_channels, options)


def googlenet(*, stem: str, **options: Unpack[Options]) -> StagedNet:
    """GoogLeNet without auxiliary heads, with its paper's 5x5 convolutions."""
    from torchvision.models import GoogLeNet

    net = GoogLeNet(aux_logits=False, init_weights=False)
    net.conv1.conv = _rebuilt(net.conv1.conv, options.get("in_chans", 3), kernel_size=7, padding=3)
    names = [name for name, _ in net.named_children()]
    stages: list[Any] = []
    for first, last in (("maxpool2", "inception3b"), ("maxpool3", "inception4e"), ("maxpool4", "inception5b")):
        inner = names[names.index(first) : names.index(last) + 1]
        stages.append(nn.Sequential(OrderedDict((name, getattr(net, name)) for name in inner)))
        for name in inner[1:]:  # torchvision has 3x3 where the paper has 5x5
            branch = getattr(net, name).branch3[1]
            branch.conv = _rebuilt(branch.conv, branch.conv.in_channels, kernel_size=5, padding=2)
    body: OrderedDict[str, nn.Module] = OrderedDict(pool=net.maxpool1, conv2=net.conv2, conv3=net.conv3)
    if stem == "cifar":
        _unstride(net.conv1)
        body["pool"] = stages[0].maxpool2 = nn.Identity()
    layers = {"conv": net.conv1, "body": nn.Sequential(body)}
    initialize(nn.ModuleList([*layers.values(), *stages]))
    return _assemble(layers, stages, None, net.fc.in_features, options)


def vgg16(*, stem: str, **options: Unpack[Options]) -> StagedNet:
    """VGG-16 (configuration D)."""
    from torchvision.models.vgg import cfgs, make_layers

    layers: list[Any] = list(make_layers(cfgs["D"]))
    layers[0] = _rebuilt(layers[0], options.get("in_chans", 3), kernel_size=3, padding=1)
    pools = [place for place, layer in enumerate(layers) if isinstance(layer, nn.MaxPool2d)]
    first, *stages = [
        nn.Sequential(*layers[start:end]) for start, end in zip([0, *pools], [*pools, len(layers)], strict=True)
    ]
    fc6, fc7 = nn.Conv2d(512, 4096, 7), nn.Conv2d(4096, 4096, 1)
    for fully_connected in (fc6, fc7):
        nn.init.normal_(fully_connected.weight, std=0.01)
        nn.init.zeros_(fully_connected.bias)  # type: ignore[arg-type]
    dropout = nn.Dropout(options.get("drop_rate", 0.0))  # the second one is the skeleton's, before the classifier
    final = nn.Sequential(nn.AdaptiveAvgPool2d(7), fc6, nn.ReLU(inplace=True), dropout, fc7, nn.ReLU(inplace=True))
    initialize(nn.ModuleList([first, *stages]))
    return _assemble({"conv": first}, stages, final, fc7.out_channels, options)
