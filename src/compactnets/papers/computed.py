"""Check statements in the papers' text that no table supports: lost connections, costs, channels."""

from __future__ import annotations

from functools import cache
from typing import cast

import torch
import torchvision
from torch import nn

from compactnets.complexity import count
from compactnets.complexity.groups import lost_share
from compactnets.models.registry import create_model
from compactnets.models.staged import StagedNet
from compactnets.papers.schema import Computed


def compute(computed: Computed) -> float:
    """Return our value for a statement, in the unit of the statement.

    Of several stages, the value closest to contradicting it.
    """
    if computed.quantity == "lost":
        return 100 * lost_share(int(computed.of))
    found = _numbers(computed.of, computed.quantity)
    if computed.against is not None:
        others = _numbers(computed.against, computed.quantity)
        found = tuple(one - other for one, other in zip(found, others, strict=True))
    return max(found) if computed.relation == "below" else min(found)


def agrees(computed: Computed) -> bool:
    """Whether our value agrees with the statement: equal as printed, or above or below."""
    found = compute(computed)
    if computed.relation == "equal":
        return abs(found - computed.stated) <= computed.unit / 2
    return found > computed.stated if computed.relation == "above" else found < computed.stated


def _numbers(name: str, quantity: str) -> tuple[float, ...]:
    if quantity in ("channels", "group_channels"):
        return _channels(name, quantity == "group_channels")
    if quantity == "top1":
        weights = torchvision.models.get_model_weights(name).IMAGENET1K_V1
        return (weights.meta["_metrics"]["ImageNet-1K"]["acc@1"],)
    return (_costs(name)[quantity],)


@cache
def _costs(name: str) -> dict[str, float]:
    with torch.device("meta"):
        network = torchvision.models.get_model(name, weights=None).eval()
    macs, params = count(network, (3, 224, 224))
    size = sum(tensor.numel() * tensor.element_size() for tensor in network.state_dict().values())
    return {"macs": macs, "params": params, "mebibytes": size / 2**20}


@cache
def _channels(name: str, of_group: bool) -> tuple[float, ...]:
    """Return the output channels of each stage after the stem, or those of one group of its last convolution."""
    with torch.device("meta"):
        network = cast(StagedNet, create_model(name))
    widths = [level["num_chs"] for level in network.feature_info][-len(network.stages) :]
    pointwise = [
        layer for layer in network.stages[-1].modules() if isinstance(layer, nn.Conv2d) and layer.kernel_size == (1, 1)
    ]
    return tuple(width / (pointwise[-1].groups if of_group else 1) for width in widths)
