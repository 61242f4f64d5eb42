"""Cross-layer equalisation: give the channels of a tensor similar ranges, so that one scale fits all.

Dividing the outputs of one layer by positive numbers and multiplying the weights that read them by the same does not
change the network, as long as all operations between them treat channels alike and commute with scaling: ReLU, pooling,
shuffle, the product with another tensor (Nagel et al. 2019, arXiv:1906.04721, section 4.1; there the factors come from
the weights alone, here from the activations on the calibration images as well, as in SmoothQuant, arXiv:2211.10438).
"""

from __future__ import annotations

import operator
from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.fx import GraphModule, Interpreter, Node
from torch.nn import functional as F

from compactnets.deploy.int8.graph import is_size, module_of
from compactnets.nn import ChannelShuffle, channel_shuffle

PASSING = (nn.ReLU, nn.MaxPool2d, nn.AvgPool2d, nn.AdaptiveAvgPool2d, nn.ZeroPad2d)
SHARE = 0.75  # share of the spread that moves from the activations into weights that every output sums over
ROUNDS = 3
LEAST = 1e-12  # of a range: a layer that gives only zeros, as the last of a fresh residual branch, keeps its scale


@dataclass(frozen=True)
class _Reader:
    """A layer that reads the channels of another, in the order ``channels``."""

    layer: nn.Conv2d | nn.Linear
    channels: Tensor


def equalize(network: GraphModule, images: Iterable[Tensor]) -> int:
    """Equalise a :func:`plain_graph` in place; its results only change by rounding.

    Args:
        network: the graph.
        images: batches ``(N, C, H, W)``.

    Returns:
        the number of layers whose outputs were scaled.
    """
    batches = list(images)
    pairs = [
        (node, layer, readers)
        for node in network.graph.nodes
        if isinstance(layer := module_of(network, node), nn.Conv2d) and (readers := _readers(network, node))
    ]
    ranges = _channel_ranges(network, [node for node, _, _ in pairs], batches)
    for _ in range(ROUNDS):
        for node, layer, readers in pairs:
            factors = _factors(ranges[node], readers)
            _scale(layer, readers, factors)
            ranges[node] = ranges[node] / factors
    return len(pairs)


def _readers(network: GraphModule, start: Node) -> list[_Reader]:
    """Return the layers that read the output of ``start``, or nothing if anything else reads it."""
    found: list[_Reader] = []
    layer = module_of(network, start)
    assert isinstance(layer, nn.Conv2d)
    waiting = [(start, torch.arange(layer.out_channels))]
    while waiting:
        source, channels = waiting.pop()
        for user in source.users:
            module = module_of(network, user)
            if isinstance(module, nn.Conv2d) or (isinstance(module, nn.Linear) and module.in_features == len(channels)):
                found.append(_Reader(module, channels))
            elif isinstance(module, ChannelShuffle):
                shuffled = channel_shuffle(channels.view(1, -1, 1, 1), module.groups).flatten()
                waiting.append((user, shuffled))
            elif isinstance(module, (*PASSING, nn.Flatten)) or user.target in (operator.mul, torch.mul, F.interpolate):
                waiting.append((user, channels))
            elif is_size(user):
                continue
            else:
                return []
    return found


def _channel_ranges(network: GraphModule, nodes: list[Node], batches: list[Tensor]) -> dict[Node, Tensor]:
    """Return the largest absolute value of every channel, after a following ReLU, if any."""
    wanted = {}
    for node in nodes:
        user = next(iter(node.users))
        wanted[user if len(node.users) == 1 and isinstance(module_of(network, user), nn.ReLU) else node] = node
    ranges: dict[Node, Tensor] = {}

    class Watch(Interpreter):
        def run_node(self, n: Node) -> object:
            result = super().run_node(n)
            if n in wanted:
                largest = result.abs().amax((0, 2, 3))
                key = wanted[n]
                ranges[key] = torch.maximum(ranges[key], largest) if key in ranges else largest
            return result

    with torch.no_grad():
        for batch in batches:
            Watch(network).run(batch)
    return ranges


def _factors(activations: Tensor, readers: list[_Reader]) -> Tensor:
    """Return the divisor of every channel."""
    alive = activations >= max(float(activations.max()) / 1e3, LEAST)  # the other channels keep their scale
    if not alive.any():
        return torch.ones_like(activations)
    spread = torch.where(alive, activations / activations[alive].log().mean().exp(), 1.0)
    summed = [_input_ranges(reader) for reader in readers if not _is_depthwise(reader.layer)]
    if not summed:
        return spread
    weights = torch.stack(summed).amax(0)
    weights = weights.clamp_min(max(float(weights.max()) / 1e3, LEAST))
    return spread**SHARE / (weights / weights.log().mean().exp()) ** (1 - SHARE)


def _is_depthwise(layer: nn.Conv2d | nn.Linear) -> bool:
    return isinstance(layer, nn.Conv2d) and layer.groups == layer.in_channels


def _inputs_first(layer: nn.Conv2d | nn.Linear) -> Tensor:
    """View the weights as (input channel, all weights that multiply it)."""
    groups = layer.groups if isinstance(layer, nn.Conv2d) else 1
    weight = layer.weight.data
    grouped = weight.view(groups, weight.shape[0] // groups, weight.shape[1], -1)
    return grouped.transpose(1, 2)  # (groups, inputs of one, outputs of one, kernel)


def _input_ranges(reader: _Reader) -> Tensor:
    """Return, for every output of the layer before, the largest weight that reads it."""
    by_input = _inputs_first(reader.layer).abs().amax((2, 3)).flatten()
    ranges = torch.empty_like(by_input)
    ranges[reader.channels] = by_input
    return ranges


def _scale(layer: nn.Conv2d, readers: list[_Reader], factors: Tensor) -> None:
    layer.weight.data /= factors.view(-1, 1, 1, 1)
    if layer.bias is not None:
        layer.bias.data /= factors
    for reader in readers:
        view = _inputs_first(reader.layer)
        view *= factors[reader.channels].view(view.shape[0], view.shape[1], 1, 1)
