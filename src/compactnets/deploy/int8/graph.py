"""A network as a graph of plain operations, ready for inserting quantizers."""

from __future__ import annotations

import operator
from typing import Any

import torch
from torch import Tensor, nn
from torch.fx import GraphModule, Node, Tracer
from torch.fx.passes.shape_prop import ShapeProp
from torch.nn import functional as F

from compactnets.deploy.formats.registry import least_side
from compactnets.deploy.int8.layers import AveragingConv2d
from compactnets.deploy.rewrite import deploy_form
from compactnets.errors import InputError
from compactnets.models.dilation import DilatedAveragePool
from compactnets.nn import ChannelShuffle

RELUS = (nn.ReLU, nn.ReLU6)
LEAVES = (ChannelShuffle, DilatedAveragePool)
MOVES = (nn.MaxPool2d, nn.Flatten, ChannelShuffle, nn.ZeroPad2d)  # they only move values, so the range stays the same
MOVING = (torch.split, torch.chunk, operator.getitem, "index_select", F.interpolate)


class _Tracer(Tracer):
    def is_leaf_module(self, m: nn.Module, qualname: str) -> bool:
        return isinstance(m, LEAVES) or super().is_leaf_module(m, qualname)


def plain_graph(model: nn.Module, example: Tensor) -> GraphModule:
    """Return ``model``, rewritten for inference, as a graph of plain operations.

    No identities; every ReLU is a module; ``relu(cat(a, b))`` is ``cat(relu(a), relu(b))``, so that each ReLU follows
    a convolution or an addition, and is dropped if its input cannot be negative; average poolings that count their
    padding become depthwise convolutions.

    Args:
        model: any network of the package, in evaluation mode; not modified.
        example: ``(N, C, H, W)``, of a size that the network takes.

    Raises:
        InputError: the network's forward depends on its input, so it has no static graph.
    """
    deployed = deploy_form(model)
    try:
        graph = _Tracer().trace(deployed)
    except (TypeError, torch.fx.proxy.TraceError) as error:
        raise InputError(f"{type(model).__name__} cannot be traced, so it cannot be quantised: {error}") from None
    network = GraphModule(deployed, graph)
    for node in list(graph.nodes):
        if isinstance(module_of(network, node), nn.Identity):
            node.replace_all_uses_with(node.args[0])
            graph.erase_node(node)
        elif node.op == "call_function" and node.target in (F.relu, torch.relu):
            name = f"{node.name}_act"
            network.add_submodule(name, nn.ReLU())
            with graph.inserting_before(node):
                node.replace_all_uses_with(graph.call_module(name, (node.args[0],)))
            graph.erase_node(node)
    ShapeProp(network).propagate(example)
    for node in list(graph.nodes):
        module = module_of(network, node)
        if isinstance(module, nn.ReLU):
            _move_before_cat(network, node)
        elif isinstance(module, nn.AvgPool2d | DilatedAveragePool):
            _pool_by_convolution(network, node, module)
    graph.lint()
    network.recompile()
    ShapeProp(network).propagate(example)  # of the nodes that were added, too
    network.meta["least_side"] = least_side(model)
    return network


def is_size(node: Node) -> bool:
    """Whether a node of a :func:`plain_graph` gives numbers, such as a size to scale to, and no tensor."""
    return node.op != "output" and "tensor_meta" not in node.meta


def is_sigmoid(network: GraphModule, node: Node) -> bool:
    """Whether a node is a sigmoid, as a function or a module."""
    return node.target is torch.sigmoid or isinstance(module_of(network, node), nn.Sigmoid)


def module_of(network: GraphModule, node: Node) -> nn.Module | None:
    """Return the module that a node calls, if it calls one."""
    return network.get_submodule(str(node.target)) if node.op == "call_module" else None


def _move_before_cat(network: GraphModule, node: Node) -> None:
    cat = node.args[0]
    if not (isinstance(cat, Node) and cat.target is torch.cat and len(cat.users) == 1):
        return
    parts = []
    for part in cat.args[0]:  # type: ignore[union-attr]
        if _is_non_negative(network, part):  # type: ignore[arg-type]
            parts.append(part)
            continue
        with network.graph.inserting_before(cat):
            parts.append(network.graph.call_module(str(node.target), (part,)))
    cat.args = (parts, *cat.args[1:])
    node.replace_all_uses_with(cat)
    network.graph.erase_node(node)


def _pool_by_convolution(network: GraphModule, node: Node, pool: nn.AvgPool2d | DilatedAveragePool) -> None:
    """Replace an average pooling that counts its padding by a depthwise convolution with equal weights.

    XNNPACK has no int8 average pooling, ONNX Runtime's is slower than its convolution, and equal weights are exact
    in int8.
    """
    if isinstance(pool, DilatedAveragePool):
        left, right, top, bottom = pool.pads
        if not pool.whole or (left, top) != (right, bottom):
            return
        window: dict[str, Any] = {
            "kernel_size": tuple(pool.kernel.shape[2:]),
            "padding": (top, left),
            "dilation": pool.dilation,
        }
    elif pool.ceil_mode or (pool.padding and not pool.count_include_pad) or pool.divisor_override:
        return
    else:
        window = {"kernel_size": pool.kernel_size, "stride": pool.stride, "padding": pool.padding}
    tensor = node.meta["tensor_meta"]
    channels, dtype = tensor.shape[1], tensor.dtype
    conv = AveragingConv2d(channels, channels, groups=channels, dtype=dtype, **window)
    nn.init.constant_(conv.weight, 1 / conv.weight[0].numel())
    nn.init.zeros_(conv.bias)  # type: ignore[arg-type]
    network.set_submodule(str(node.target), conv.requires_grad_(False))


def _is_non_negative(network: GraphModule, node: Node) -> bool:
    """Whether a tensor cannot be negative, judging by the operations before it."""
    module = module_of(network, node)
    if isinstance(module, RELUS) or is_sigmoid(network, node):
        return True
    if isinstance(module, (*MOVES, nn.AvgPool2d, nn.AdaptiveAvgPool2d, DilatedAveragePool)) or node.target in MOVING:
        return _is_non_negative(network, node.args[0])  # type: ignore[arg-type]
    if node.target is torch.cat:
        return all(_is_non_negative(network, part) for part in node.args[0])  # type: ignore[union-attr, arg-type]
    return False
