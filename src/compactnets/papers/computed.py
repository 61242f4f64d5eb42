"""The numbers of the papers' text that no table has, computed: connections lost, and costs of well-known networks."""

from __future__ import annotations

from functools import cache

import torch
import torchvision

from compactnets.complexity import count
from compactnets.complexity.groups import lost_share
from compactnets.papers.records import Computed


def compute(computed: Computed) -> float:
    """Return the number that ``computed`` is about, in the unit that it is stated in."""
    if computed.quantity == "lost":
        return 100 * lost_share(int(computed.of))
    return _costs(computed.of)[computed.quantity]


def agrees(computed: Computed) -> bool:
    """Tell whether the computed number prints as the stated one."""
    return abs(compute(computed) - computed.stated) <= computed.unit / 2


@cache
def _costs(name: str) -> dict[str, float]:
    with torch.device("meta"):
        network = torchvision.models.get_model(name, weights=None).eval()
    macs, params = count(network, (3, 224, 224))
    size = sum(tensor.numel() * tensor.element_size() for tensor in network.state_dict().values())
    return {"macs": macs, "params": params, "mebibytes": size / 2**20}
