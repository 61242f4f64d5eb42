"""The networks that MENet and MuffNet are measured against, as other libraries build them.

Each is cut into stem, stages and final layer and stands on :class:`~compactnets.models.staged.StagedNet`, so that it
has the surface of every other network of the package: heads, ``feature_info``, ``stem="cifar"``, any input size.
Weights are fresh. Which constructor a name takes, and why that one, is in the ``note`` of its :data:`PEERS` entry.

* The ``"cifar"`` form is the ImageNet network without its first three halvings (MuffNet, section 5.3), so that a 32x32
  image ends on an 8x8 map; DenseNet and ResNet-20/56/110 are CIFAR designs and have no other form. ShuffleNetV2 keeps
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
import importlib.util
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Unpack

import torch
from torch import Tensor, nn

from compactnets.errors import InputError, did_you_mean, missing_extra
from compactnets.models.igcv2 import IGCV2
from compactnets.models.staged import STEMS, Options, StagedNet, check_stem
from compactnets.nn import ChannelShuffle, initialize


def _assemble(
    stem: Mapping[str, nn.Module],
    stages: Sequence[nn.Module],
    final: nn.Module | None,
    num_features: int,
    options: Options,
) -> StagedNet:
    """Put the parts of a library's network on the skeleton; ``levels`` are measured on the meta device."""
    probe = nn.ModuleList(copy.deepcopy([*stem.values(), *stages])).to("meta").eval()
    x, levels = torch.zeros(1, options.get("in_chans", 3), 64, 64, device="meta"), []
    with torch.no_grad():
        for layer in probe:
            x = layer(x)
            levels.append((x.shape[1], 64 // x.shape[2]))
    return StagedNet(
        nn.Sequential(OrderedDict(stem)), stages, final, levels=levels, num_features=num_features, **options
    )


def _unstride(*parts: nn.Module) -> None:
    """Set the stride of every convolution in ``parts`` to 1: the cifar form."""
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


def _mobilenet(width: float, *, stem: str, **options: Unpack[Options]) -> StagedNet:
    net = _pytorchcv("mobilenet").get_mobilenet(width, in_channels=options.get("in_chans", 3))
    return _mobilenet_layout(net, None, net.output.in_features, stem, options)


def _mobilenetv2_gluon(width: float, *, stem: str, **options: Unpack[Options]) -> StagedNet:
    net = _pytorchcv("mobilenetv2").get_mobilenetv2(width, in_channels=options.get("in_chans", 3))
    return _mobilenet_layout(net, net.features.final_block, net.output.in_channels, stem, options)


def _igcv3(width: float, *, stem: str, **options: Unpack[Options]) -> StagedNet:
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


def _shufflenetv2(width: int, *, stem: str, **options: Unpack[Options]) -> StagedNet:
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


def _condensenet(groups: int, *, stem: str, **options: Unpack[Options]) -> StagedNet:
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


def _densenet(blocks: int, bottleneck: bool, *, stem: str, **options: Unpack[Options]) -> StagedNet:
    net = _pytorchcv("densenet_cifar").get_densenet_cifar(
        10, blocks, growth_rate=12, bottleneck=bottleneck, in_channels=options.get("in_chans", 3)
    )
    features = net.features
    return _assemble(
        {"conv": features.init_block}, _stages(features), features.post_activ, net.output.in_features, options
    )


def _resnet(blocks: int, *, stem: str, **options: Unpack[Options]) -> StagedNet:
    net = _pytorchcv("resnet_cifar").get_resnet_cifar(
        10, blocks, bottleneck=False, in_channels=options.get("in_chans", 3)
    )
    return _assemble({"conv": net.features.init_block}, _stages(net.features), None, net.output.in_features, options)


# torchvision


def _mobilenetv2(*, stem: str, **options: Unpack[Options]) -> StagedNet:
    from torchvision.models import mobilenet_v2

    first, *units, final = mobilenet_v2().features
    first[0] = _rebuilt(first[0], options.get("in_chans", 3), kernel_size=3, padding=1)
    stages = [nn.Sequential(*units[start:end]) for start, end in ((0, 1), (1, 3), (3, 6), (6, 13), (13, 17))]
    if stem == "cifar":
        _unstride(first, *stages[1:3])
    initialize(first)
    return _assemble({"conv": first}, stages, final, final[0].out_channels, options)


def _googlenet(*, stem: str, **options: Unpack[Options]) -> StagedNet:
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


def _vgg16(*, stem: str, **options: Unpack[Options]) -> StagedNet:
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


@dataclass(frozen=True)
class Peer:
    """One network to compare with.

    Attributes:
        builder: returns the network; takes ``stem`` and the :class:`~compactnets.models.staged.Options`.
        note: which constructor it is, and why that variant: the rows of the papers that it reproduces.
        needs_extra: the extra of this package that its library comes with, or ``None``.
        stems: the forms that it has, its default first.
    """

    builder: Callable[..., StagedNet]
    note: str
    needs_extra: str | None = None
    stems: tuple[str, ...] = STEMS


_MOBILENET = "pytorchcv get_mobilenet: the counts of MENet's Table IV, MuffNet's Tables 5 and 6"
_GLUON = (
    "pytorchcv get_mobilenetv2, a port of GluonCV's network (channels rounded down, an expansion of factor 1 kept): "
    "MuffNet's Tables 5 and 6 count it; Table 6's are rounded to 10 M. The paper's own, rounded to multiples of 8, has "
)
_SHUFFLENETV2 = (
    "pytorchcv ShuffleNetV2b, its authors' unit (the downsampling shortcut keeps its input channels), where "
    "torchvision's has equal branches: MuffNet's Tables 5 and 6"
)
_CIFAR = "; a CIFAR design: MuffNet's Table 5"
_EXTRA = "peers"

PEERS: dict[str, Peer] = {
    "mobilenet_x0_25": Peer(partial(_mobilenet, 0.25), _MOBILENET, _EXTRA),
    "mobilenet_x0_5": Peer(partial(_mobilenet, 0.5), _MOBILENET, _EXTRA),
    "mobilenet_x0_75": Peer(partial(_mobilenet, 0.75), _MOBILENET, _EXTRA),
    "mobilenet_x1_0": Peer(partial(_mobilenet, 1.0), _MOBILENET, _EXTRA),
    "mobilenetv2_x0_35": Peer(partial(_mobilenetv2_gluon, 0.35), f"{_GLUON}59.3 M", _EXTRA),
    "mobilenetv2_x0_75": Peer(partial(_mobilenetv2_gluon, 0.75), f"{_GLUON}209.1 M", _EXTRA),
    "mobilenetv2_x1_0": Peer(
        _mobilenetv2,
        "torchvision mobilenet_v2, the paper's network: MuffNet's Tables 5 and 6 (GluonCV's has 313.6 M, not 300 M)",
    ),
    "shufflenetv2_x0_5": Peer(partial(_shufflenetv2, 48), _SHUFFLENETV2, _EXTRA),
    "shufflenetv2_x1_0": Peer(partial(_shufflenetv2, 116), _SHUFFLENETV2, _EXTRA),
    "shufflenetv2_x1_5": Peer(partial(_shufflenetv2, 176), _SHUFFLENETV2, _EXTRA),
    "igcv2_x0_25": Peer(partial(IGCV2, 0.25), "compactnets.models.igcv2: MuffNet's Table 6"),
    "igcv2_x0_5": Peer(partial(IGCV2, 0.5), "compactnets.models.igcv2: MuffNet's Table 6"),
    "igcv2_x1_0": Peer(partial(IGCV2, 1.0), "compactnets.models.igcv2: MuffNet's Table 6"),
    "igcv3_x0_7": Peer(
        partial(_igcv3, 0.793),
        "pytorchcv get_igcv3(0.793), fitted to the stated 2.8 M and 210 M of MuffNet's Table 6: as a width, 0.7 gives "
        "2.5 M and 167 M, and what its authors scaled is not published",
        _EXTRA,
    ),
    "igcv3_x1_0": Peer(
        partial(_igcv3, 1.0),
        "pytorchcv get_igcv3(1.0): MuffNet's Table 6, whose 318 M are 313.0 M and 4.9 M outputs of ReLU6",
        _EXTRA,
    ),
    "condensenet_74_c8_g8": Peer(
        partial(_condensenet, 8),
        "pytorchcv get_condensenet(74, groups=8): MuffNet's Table 6, whose 274 M are its authors' count: 261.5 M, "
        "11.0 M outputs of ReLU and 1.7 M inputs of average pooling",
        _EXTRA,
    ),
    "densenet40_k12": Peer(
        partial(_densenet, 40, bottleneck=False),
        f"pytorchcv densenet40_k12_cifar10, whose transitions halve the channels, as MuffNet's count says{_CIFAR}",
        _EXTRA,
        ("cifar",),
    ),
    "densenet_bc_100_k12": Peer(
        partial(_densenet, 100, bottleneck=True), f"pytorchcv densenet100_k12_bc_cifar10{_CIFAR}", _EXTRA, ("cifar",)
    ),
    "resnet20": Peer(partial(_resnet, 20), f"pytorchcv resnet20_cifar10{_CIFAR}", _EXTRA, ("cifar",)),
    "resnet56": Peer(partial(_resnet, 56), f"pytorchcv resnet56_cifar10{_CIFAR}", _EXTRA, ("cifar",)),
    "resnet110": Peer(partial(_resnet, 110), f"pytorchcv resnet110_cifar10{_CIFAR}", _EXTRA, ("cifar",)),
    "googlenet": Peer(
        _googlenet,
        "torchvision googlenet without auxiliary heads, its 3x3 made 5x5 as in the paper: MENet's Table II, whose "
        "1550 M are neither these 1583 M nor torchvision's 1498 M",
    ),
    "vgg16": Peer(
        _vgg16,
        "torchvision's configuration D: MENet's Table II, whose 15300 M leave out the fully connected layers (124 M)",
        stems=("imagenet",),
    ),
}


def create_peer(name: str, *, stem: str | None = None, **options: Unpack[Options]) -> StagedNet:
    """Build a network of :data:`PEERS` with fresh weights.

    Args:
        name: a key of :data:`PEERS`.
        stem: ``"imagenet"`` or ``"cifar"``; the first of the network's ``stems`` unless given.
        options: ``num_classes`` (1000), ``in_chans`` (3), ``drop_rate`` (0), ``global_pool`` (``"avg"``).

    Raises:
        InputError: an unknown name (the near matches are named), a form that the network does not have, or a missing
            extra (with the command that installs it).
    """
    if name not in PEERS:
        raise InputError(f"no peer is called {name!r}{did_you_mean(name, PEERS)}")
    peer = PEERS[name]
    stem = peer.stems[0] if stem is None else stem
    check_stem(stem)
    if stem not in peer.stems:
        raise InputError(f"{name} has no {stem} form: use stem={peer.stems[0]!r} (any input size works)")
    if peer.needs_extra is not None and importlib.util.find_spec("pytorchcv") is None:
        raise missing_extra("pytorchcv", peer.needs_extra, name)
    return peer.builder(stem=stem, **options)
