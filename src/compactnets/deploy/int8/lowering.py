"""Changes to a frozen network for particular runtimes."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.fx import GraphModule, Node

from compactnets.deploy.int8.graph import RELUS, module_of
from compactnets.deploy.int8.layers import (
    QuantizedConv2d,
    QuantizedLinear,
    Quantizer,
    one_group,
)
from compactnets.deploy.int8.operators import DEQUANTIZE, QUANTIZE
from compactnets.deploy.int8.quantized import layers
from compactnets.nn import ChannelShuffle


def leave_float_outputs(network: GraphModule) -> GraphModule:
    """Keep the outputs of float layers in float as well, in place.

    ONNX Runtime itself quantises float weights, with a single scale, if it finds a convolution between a dequantisation
    and a quantisation.
    """
    for node in network.graph.nodes:
        layer = module_of(network, node)
        if isinstance(layer, (QuantizedConv2d, QuantizedLinear)) and not layer.enabled:
            reader = next(iter(node.users))
            if isinstance(module_of(network, reader), RELUS):
                reader = next(iter(reader.users))
            quantizer = module_of(network, reader)
            if isinstance(quantizer, Quantizer):
                quantizer.enabled = False
    return network


def shuffle_in_int8(network: GraphModule) -> GraphModule:
    """Put every step of a channel shuffle between its own quantisations, in place.

    XNNPACK takes one operator between a dequantisation and a quantisation as int8; a shuffle is three (two views and a
    transposition), which it would compute in float between conversions.
    """
    for node in list(network.graph.nodes):
        shuffle = module_of(network, node)
        if not isinstance(shuffle, ChannelShuffle):
            continue
        before = node.args[0]
        if before.target is not DEQUANTIZE:
            continue
        numbers = before.args[1:]

        def held(value: Node, numbers: tuple[Any, ...] = numbers) -> Node:
            integers = network.graph.call_function(QUANTIZE, (value, *numbers))
            return network.graph.call_function(DEQUANTIZE, (integers, *numbers))

        with network.graph.inserting_before(node):
            apart = network.graph.call_method("unflatten", (before, 1, (shuffle.groups, -1)))
            # a copy: for a mere view the exporter would insert one itself, between the operator and its quantisation
            turned = network.graph.call_function(torch.permute_copy, (held(apart), (0, 2, 1, 3, 4)))
            together = network.graph.call_method("flatten", (held(turned), 1, 2))
        node.replace_all_uses_with(together)
        network.graph.erase_node(node)
    network.delete_all_unused_submodules()
    network.recompile()
    return network


class GroupByGroup(nn.Module):
    """A grouped convolution as one convolution per group: (N, C, H, W) -> (N, C', H', W')."""

    def __init__(self, layer: QuantizedConv2d) -> None:
        super().__init__()
        self.parts = nn.ModuleList(one_group(layer, group) for group in range(layer.groups))

    def forward(self, x: Tensor) -> Tensor:
        inputs = x.chunk(len(self.parts), dim=1)
        return torch.cat([part(piece) for part, piece in zip(self.parts, inputs, strict=True)], dim=1)


def separate_groups(network: GraphModule, widest: int) -> int:
    """Replace grouped convolutions with more than ``widest`` inputs per group by one per group, in place.

    Args:
        network: a frozen quantised network.
        widest: inputs of a group; multiples of it stay grouped.

    Returns:
        the number of convolutions replaced.
    """
    count = 0
    for name, layer in list(layers(network)):
        if isinstance(layer, QuantizedConv2d) and layer.groups > 1:
            width = layer.in_channels // layer.groups
            if width > widest and width % widest:
                network.set_submodule(name, GroupByGroup(layer))
                count += 1
    return count
