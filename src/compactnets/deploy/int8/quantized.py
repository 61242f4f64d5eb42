"""The quantised network: a quantizer wherever a runtime holds a tensor."""

from __future__ import annotations

import copy
from collections.abc import Iterator

import torch
from torch import nn
from torch.fx import GraphModule, Node

from compactnets.deploy.int8.graph import (
    MOVES,
    MOVING,
    RELUS,
    is_sigmoid,
    is_size,
    module_of,
)
from compactnets.deploy.int8.layers import (
    LOW,
    Mode,
    Quantized,
    QuantizedConv2d,
    QuantizedLinear,
    Quantizer,
    freeze_layer,
    limit_weights,
)
from compactnets.deploy.int8.operators import DEQUANTIZE, QUANTIZE

SIGMOID = (1 / 256, LOW)  # scale and zero point prescribed by XNNPACK, without loss


def quantized_network(network: GraphModule, *, quantize_output: bool = False) -> GraphModule:
    """Put quantizers into a :func:`plain_graph`, in place, and return it.

    Every convolution and linear layer has int8 weights. A tensor is quantised where it is produced: after a convolution
    or an addition, including a following ReLU. Operations that only move values (max pooling, shuffle, split) reuse the
    quantizer of their input, and concatenated tensors share one, so no runtime has to convert.

    Args:
        network: the graph.
        quantize_output: whether the logits are quantised as well.
    """
    for node in network.graph.nodes:
        module = module_of(network, node)
        if isinstance(module, nn.Conv2d):
            network.set_submodule(str(node.target), QuantizedConv2d(module))
        elif isinstance(module, nn.Linear):
            network.set_submodule(str(node.target), QuantizedLinear(module))
    for node, name in _assign_quantizers(network, quantize_output).items():
        with network.graph.inserting_after(node):
            call = network.graph.call_module(name, (node,))
        for user in [user for user in node.users if user is not call]:
            user.replace_input_with(node, call)
    network.graph.lint()
    network.recompile()
    network.delete_all_unused_submodules()
    return network


def _assign_quantizers(network: GraphModule, quantize_output: bool) -> dict[Node, str]:
    """Add all quantizers, and return the name of the quantizer of every node that produces a tensor."""
    names: dict[Node, str] = {}
    shared: dict[str, str] = {}  # a part's quantizer -> the quantizer of its concatenation
    output = next(node for node in network.graph.nodes if node.op == "output").args[0]
    for node in network.graph.nodes:
        if node.op in ("output", "get_attr") or (node is output and not quantize_output) or is_size(node):
            continue
        if len(node.users) == 1 and isinstance(module_of(network, next(iter(node.users))), RELUS):
            continue  # the ReLU is part of it
        if isinstance(module_of(network, node), MOVES) or node.target in MOVING:
            names[node] = names[node.args[0]]
            continue
        names[node] = f"quantize_{node.name}"
        network.add_submodule(names[node], Quantizer(SIGMOID if is_sigmoid(network, node) else None))
        if node.target is torch.cat:
            for part in node.args[0]:
                other = _last(shared, names[part])
                if other != names[node]:
                    shared[other] = names[node]
    lists = (torch.split, torch.chunk)  # their results are not tensors
    return {node: _last(shared, name) for node, name in names.items() if node.target not in lists}


def _last(shared: dict[str, str], name: str) -> str:
    while name in shared:
        name = shared[name]
    return name


def output_quantizer(network: GraphModule) -> str | None:
    """Return the name of the quantizer of the logits, if there is one."""
    last = next(node for node in network.graph.nodes if node.op == "output").args[0]
    assert isinstance(last, Node)
    return str(last.target) if isinstance(module_of(network, last), Quantizer) else None


def drop_output_quantizer(network: GraphModule) -> GraphModule:
    """Undo ``quantize_output`` of a :func:`quantized_network`, in place, and return it."""
    output = next(node for node in network.graph.nodes if node.op == "output")
    last = output.args[0]
    assert isinstance(last, Node)
    if output_quantizer(network) is not None:
        last.replace_all_uses_with(last.args[0])  # type: ignore[arg-type]
        network.graph.erase_node(last)
        network.delete_all_unused_submodules()
        network.recompile()
    return network


def without_quantizers(network: GraphModule) -> GraphModule:
    """Return a float copy with the values of the quantised weights."""
    network = copy.deepcopy(network)
    for _, part in [*quantizers(network), *layers(network)]:
        part.enabled = False
    freeze(network, unsigned=True, integer_bias=False)
    return network.eval()


def quantizers(network: nn.Module) -> Iterator[tuple[str, Quantizer]]:
    """Yield every quantizer with its name."""
    for name, module in network.named_modules():
        if isinstance(module, Quantizer):
            yield name, module


def layers(network: nn.Module) -> Iterator[tuple[str, Quantized]]:
    """Yield every layer that has weights, in the order of the network, with its name."""
    for name, module in network.named_modules():
        if isinstance(module, (QuantizedConv2d, QuantizedLinear)):
            yield name, module


def set_weight_bits(network: nn.Module, bits: int) -> None:
    """Give the weights of all layers this number of bits, 7 or 8."""
    for _, layer in layers(network):
        limit_weights(layer, bits)


def set_mode(network: nn.Module, mode: Mode) -> None:
    """Set the mode of all quantizers and layers; for :attr:`Mode.EXPORT`, use :func:`freeze`."""
    for _, quantizer in quantizers(network):
        quantizer.mode = mode
    for _, layer in layers(network):
        layer.mode = mode


def freeze(network: GraphModule, *, unsigned: bool, integer_bias: bool) -> None:
    """Prepare a :func:`quantized_network` for export, in place and permanently.

    A ReLU before a quantizer without negative values is redundant and is dropped.

    Args:
        network: the quantised network.
        unsigned: whether activations are uint8 (ONNX Runtime, OpenVINO) or int8 (XNNPACK).
        integer_bias: whether biases become int32, as ONNX writes them.
    """
    nodes = [(node, module_of(network, node)) for node in network.graph.nodes]
    for node, module in nodes:
        if isinstance(module, (QuantizedConv2d, QuantizedLinear)):
            before = module_of(network, node.args[0])
            known = isinstance(before, Quantizer) and before.enabled
            scale = float(before.scale) if known else None  # type: ignore[union-attr, arg-type]
            freeze_layer(module, scale, integer_bias=integer_bias, small=unsigned)
    for node, module in nodes:
        if isinstance(module, Quantizer):
            _replace_by_operators(network, node, module, unsigned)
    network.graph.lint()
    network.delete_all_unused_submodules()
    network.recompile()


def _replace_by_operators(network: GraphModule, node: Node, quantizer: Quantizer, unsigned: bool) -> None:
    """Replace a quantizer by a quantising operator, and a dequantising one for every reader.

    Runtimes look for an operation with its own dequantisations before it.
    """
    source = node.args[0]
    assert isinstance(source, Node)
    if not quantizer.enabled:
        node.replace_all_uses_with(source)
        network.graph.erase_node(node)
        return
    if quantizer.non_negative and isinstance(module_of(network, source), nn.ReLU) and len(source.users) == 1:
        source = source.args[0]
    numbers = quantizer.numbers(unsigned=unsigned)
    with network.graph.inserting_before(node):
        held = network.graph.call_function(QUANTIZE, (source, *numbers))
    for user in list(node.users):
        with network.graph.inserting_before(user):
            back = network.graph.call_function(DEQUANTIZE, (held, *numbers))
        user.replace_input_with(node, back)
    before = node.args[0]
    network.graph.erase_node(node)
    if not before.users:  # type: ignore[union-attr]
        network.graph.erase_node(before)  # type: ignore[arg-type]
