"""The cost of a network: multiply-adds, other operations, parameters, memory, lost inter-group connections.

:func:`profile` runs a copy of the network on PyTorch's meta device, where tensors have shapes but no values: nothing is
computed, no weight is copied, and the caller's network is unchanged.
"""

from compactnets.complexity.cost import CONVENTION, Cost, LayerCost
from compactnets.complexity.groups import InterGroup, counted_connections, inter_group_connections, lost_share
from compactnets.complexity.parts import PartCost, parts_of, render_parts
from compactnets.complexity.table import render
from compactnets.complexity.trace import count, profile

__all__ = [
    "CONVENTION",
    "Cost",
    "InterGroup",
    "LayerCost",
    "PartCost",
    "count",
    "counted_connections",
    "inter_group_connections",
    "lost_share",
    "parts_of",
    "profile",
    "render",
    "render_parts",
]
