"""The peers of MENet and MuffNet: their names, their constructors, and why."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Unpack

from compactnets.errors import InputError, did_you_mean, missing_extra
from compactnets.models.form import carry_form
from compactnets.models.igcv2 import IGCV2
from compactnets.models.peer_builders import (
    condensenet,
    densenet,
    googlenet,
    igcv3,
    mobilenet,
    mobilenetv2,
    mobilenetv2_gluon,
    resnet,
    shufflenetv2,
    vgg16,
)
from compactnets.models.plainnet import plainnet7
from compactnets.models.staged import STEMS, Options, StagedNet, check_stem


@dataclass(frozen=True)
class Peer:
    """One network to compare with.

    Attributes:
        builder: returns the network; takes ``stem`` and the :class:`~compactnets.models.staged.Options`.
        note: which constructor it is, and why that variant: the rows of the papers that it reproduces.
        needs_extra: the extra of this package that its library comes with, or ``None``.
        stems: the stems it supports, the default first.
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
    "mobilenet_x0_25": Peer(partial(mobilenet, 0.25), _MOBILENET, _EXTRA),
    "mobilenet_x0_5": Peer(partial(mobilenet, 0.5), _MOBILENET, _EXTRA),
    "mobilenet_x0_75": Peer(partial(mobilenet, 0.75), _MOBILENET, _EXTRA),
    "mobilenet_x1_0": Peer(partial(mobilenet, 1.0), _MOBILENET, _EXTRA),
    "mobilenetv2_x0_35": Peer(partial(mobilenetv2_gluon, 0.35), f"{_GLUON}59.3 M", _EXTRA),
    "mobilenetv2_x0_75": Peer(partial(mobilenetv2_gluon, 0.75), f"{_GLUON}209.1 M", _EXTRA),
    "mobilenetv2_x1_0": Peer(
        mobilenetv2,
        "torchvision mobilenet_v2, the paper's network: MuffNet's Tables 5 and 6 (GluonCV's has 313.6 M, not 300 M)",
    ),
    "shufflenetv2_x0_5": Peer(partial(shufflenetv2, 48), _SHUFFLENETV2, _EXTRA),
    "shufflenetv2_x1_0": Peer(partial(shufflenetv2, 116), _SHUFFLENETV2, _EXTRA),
    "shufflenetv2_x1_5": Peer(partial(shufflenetv2, 176), _SHUFFLENETV2, _EXTRA),
    "igcv2_x0_25": Peer(partial(IGCV2, 0.25), "compactnets.models.igcv2: MuffNet's Table 6"),
    "igcv2_x0_5": Peer(partial(IGCV2, 0.5), "compactnets.models.igcv2: MuffNet's Table 6"),
    "igcv2_x1_0": Peer(partial(IGCV2, 1.0), "compactnets.models.igcv2: MuffNet's Table 6"),
    "igcv3_x0_7": Peer(
        partial(igcv3, 0.793),
        "pytorchcv get_igcv3(0.793), fitted to the stated 2.8 M and 210 M of MuffNet's Table 6: as a width, 0.7 gives "
        "2.5 M and 167 M, and what its authors scaled is not published",
        _EXTRA,
    ),
    "igcv3_x1_0": Peer(
        partial(igcv3, 1.0),
        "pytorchcv get_igcv3(1.0): MuffNet's Table 6, whose 318 M are 313.0 M and 4.9 M outputs of ReLU6",
        _EXTRA,
    ),
    "condensenet_74_c8_g8": Peer(
        partial(condensenet, 8),
        "pytorchcv get_condensenet(74, groups=8): MuffNet's Table 6, whose 274 M are its authors' count: 261.5 M, "
        "11.0 M outputs of ReLU and 1.7 M inputs of average pooling",
        _EXTRA,
    ),
    "densenet40_k12": Peer(
        partial(densenet, 40, bottleneck=False),
        f"pytorchcv densenet40_k12_cifar10, whose transitions halve the channels, as MuffNet's count says{_CIFAR}",
        _EXTRA,
        ("cifar",),
    ),
    "densenet_bc_100_k12": Peer(
        partial(densenet, 100, bottleneck=True), f"pytorchcv densenet100_k12_bc_cifar10{_CIFAR}", _EXTRA, ("cifar",)
    ),
    "resnet20": Peer(partial(resnet, 20), f"pytorchcv resnet20_cifar10{_CIFAR}", _EXTRA, ("cifar",)),
    "resnet56": Peer(partial(resnet, 56), f"pytorchcv resnet56_cifar10{_CIFAR}", _EXTRA, ("cifar",)),
    "resnet110": Peer(partial(resnet, 110), f"pytorchcv resnet110_cifar10{_CIFAR}", _EXTRA, ("cifar",)),
    "googlenet": Peer(
        googlenet,
        "torchvision googlenet without auxiliary heads, its 3x3 made 5x5 as in the paper: MENet's Table II, whose "
        "1550 M are neither these 1583 M nor torchvision's 1498 M",
    ),
    "vgg16": Peer(
        vgg16,
        "torchvision's configuration D: MENet's Table II, whose 15300 M leave out the fully connected layers (124 M)",
        stems=("imagenet",),
    ),
    "plainnet7": Peer(
        plainnet7,
        "seven dense convolutions after airbench94 (arXiv:2404.00498), to teach compact networks; a CIFAR design, in "
        "no table of the papers",
        stems=("cifar",),
    ),
}


def create_peer(name: str, *, stem: str | None = None, **options: Unpack[Options]) -> StagedNet:
    """Build a network of :data:`PEERS` with fresh weights.

    Args:
        name: a key of :data:`PEERS`.
        stem: ``"imagenet"`` or ``"cifar"``; the first of the network's ``stems`` unless given.
        options: ``num_classes`` (1000), ``in_chans`` (3), ``drop_rate`` (0), ``global_pool`` (``"avg"``).

    Raises:
        InputError: an unknown name (the near matches are named), a stem that the network does not have, or a missing
            extra (with the command that installs it).
    """
    if name not in PEERS:
        raise InputError(f"no peer is called {name!r}{did_you_mean(name, PEERS)}")
    peer = PEERS[name]
    stem = peer.stems[0] if stem is None else stem
    check_stem(stem)
    if stem not in peer.stems:
        raise InputError(f"{name} has no {stem} stem: use stem={peer.stems[0]!r} (any input size works)")
    if peer.needs_extra is not None and importlib.util.find_spec("pytorchcv") is None:
        raise missing_extra("pytorchcv", peer.needs_extra, name)
    network = peer.builder(stem=stem, **options)
    carry_form(network, {"stem": stem} if len(peer.stems) > 1 else {})  # with a single stem there is no ambiguity
    return network
