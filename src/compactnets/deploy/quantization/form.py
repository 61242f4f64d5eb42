"""The quantised form of a network: its deploy form as a graph, with a quantizer wherever a runtime holds a tensor."""

from __future__ import annotations

import itertools
import operator
from collections.abc import Iterator

import torch
from torch import Tensor, nn
from torch.fx import GraphModule, Node, Tracer
from torch.fx.passes.shape_prop import ShapeProp
from torch.nn import functional as F

from compactnets.deploy.quantization.layers import (
    LOW,
    Mode,
    Quantized,
    QuantizedConv2d,
    QuantizedLinear,
    Quantizer,
    freeze_layer,
    one_group,
)
from compactnets.deploy.rewrite import deploy_form
from compactnets.errors import InputError
from compactnets.nn import ChannelShuffle

SIGMOID = (1 / 256, LOW)  # scale and zero point that XNNPACK prescribes, and that nothing is lost by
RELUS = (nn.ReLU, nn.ReLU6)
MOVES = (nn.MaxPool2d, nn.Flatten, ChannelShuffle, nn.ZeroPad2d)  # they move values: what comes out has the same range
MOVING = (torch.split, torch.chunk, operator.getitem, "index_select")


class _Tracer(Tracer):
    def is_leaf_module(self, m: nn.Module, qualname: str) -> bool:
        return isinstance(m, ChannelShuffle) or super().is_leaf_module(m, qualname)


def plain_graph(model: nn.Module, example: Tensor) -> GraphModule:
    """Return the deploy form of ``model`` as a graph of plain operations.

    No identities; every ReLU is a module; ``relu(cat(a, b))`` is ``cat(relu(a), relu(b))``, so that each ReLU follows
    a convolution or an addition, and is gone where its input is not negative; poolings by average that count their
    padding are depthwise convolutions.

    Args:
        model: any network of the package, in evaluation mode; it is left alone.
        example: ``(N, C, H, W)``, of a size that the network takes.

    Raises:
        InputError: the network's forward depends on its input, so that it has no graph.
    """
    form = deploy_form(model)
    try:
        graph = _Tracer().trace(form)
    except (TypeError, torch.fx.proxy.TraceError) as error:
        raise InputError(f"{type(model).__name__} cannot be traced, and so not quantised: {error}") from None
    network = GraphModule(form, graph)
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
        elif isinstance(module, nn.AvgPool2d):
            _pool_by_convolution(network, node, module)
    graph.lint()
    network.recompile()
    return network


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


def _pool_by_convolution(network: GraphModule, node: Node, pool: nn.AvgPool2d) -> None:
    """Put a depthwise convolution with equal weights in the place of an average pooling that counts its padding.

    XNNPACK has no int8 pooling by average, ONNX Runtime's is slower than its convolution, and equal weights are exact
    in int8.
    """
    if pool.ceil_mode or (pool.padding and not pool.count_include_pad) or pool.divisor_override:
        return
    channels = node.meta["tensor_meta"].shape[1]
    conv = nn.Conv2d(channels, channels, pool.kernel_size, pool.stride, pool.padding, groups=channels)
    nn.init.constant_(conv.weight, 1 / conv.weight[0].numel())
    nn.init.zeros_(conv.bias)  # type: ignore[arg-type]
    network.set_submodule(str(node.target), conv.requires_grad_(False))


def _is_non_negative(network: GraphModule, node: Node) -> bool:
    """Whether a tensor cannot be negative, as far as the operations before it say."""
    module = module_of(network, node)
    if isinstance(module, RELUS) or node.target is torch.sigmoid:
        return True
    if isinstance(module, (*MOVES, nn.AvgPool2d, nn.AdaptiveAvgPool2d)) or node.target in MOVING:
        return _is_non_negative(network, node.args[0])  # type: ignore[arg-type]
    if node.target is torch.cat:
        return all(_is_non_negative(network, part) for part in node.args[0])  # type: ignore[union-attr, arg-type]
    return False


def quantized_form(network: GraphModule, *, quantize_output: bool = False) -> GraphModule:
    """Put quantizers into a :func:`plain_graph`, in place, and return it.

    Every convolution and linear layer has int8 weights. A tensor is quantised where it is made: after a convolution or
    an addition, behind the ReLU that follows it; what only moves values (pooling by maximum, shuffle, split) passes its
    quantizer on, and what is concatenated shares one, so that no runtime has to convert.

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
    """Return the name of the quantizer behind every node that makes a tensor, all of them added to the network."""
    names: dict[Node, str] = {}
    shared: dict[str, str] = {}  # the quantizer of a part -> that of what it is concatenated to
    output = next(node for node in network.graph.nodes if node.op == "output").args[0]
    for node in network.graph.nodes:
        if node.op in ("output", "get_attr") or (node is output and not quantize_output):
            continue
        if len(node.users) == 1 and isinstance(module_of(network, next(iter(node.users))), RELUS):
            continue  # the ReLU is part of it
        if isinstance(module_of(network, node), MOVES) or node.target in MOVING:
            names[node] = names[node.args[0]]
            continue
        names[node] = f"quantize_{node.name}"
        network.add_submodule(names[node], Quantizer(SIGMOID if node.target is torch.sigmoid else None))
        if node.target is torch.cat:
            for part in node.args[0]:
                other = _last(shared, names[part])
                if other != names[node]:
                    shared[other] = names[node]
    lists = (torch.split, torch.chunk)  # what they make is not a tensor
    return {node: _last(shared, name) for node, name in names.items() if node.target not in lists}


def split_by_slices(network: GraphModule) -> GraphModule:
    """Take splits apart into slices, in place: XNNPACK has no int8 split."""
    for node in list(network.graph.nodes):
        if node.target is not torch.split:
            continue
        source, sizes, *rest = node.args
        dim = rest[0] if rest else node.kwargs.get("dim", 0)
        starts = list(itertools.accumulate([0, *sizes]))
        for user in list(node.users):
            index = user.args[1]
            with network.graph.inserting_before(user):
                part = network.graph.call_function(torch.narrow, (source, dim, starts[index], sizes[index]))
            user.replace_all_uses_with(part)
            network.graph.erase_node(user)
        network.graph.erase_node(node)
    network.recompile()
    return network


class GroupByGroup(nn.Module):
    """A grouped convolution as one convolution for every group: (N, C, H, W) -> (N, C', H', W')."""

    def __init__(self, layer: QuantizedConv2d) -> None:
        super().__init__()
        self.parts = nn.ModuleList(one_group(layer, group) for group in range(layer.groups))

    def forward(self, x: Tensor) -> Tensor:
        inputs = x.chunk(len(self.parts), dim=1)
        return torch.cat([part(piece) for part, piece in zip(self.parts, inputs, strict=True)], dim=1)


def separate_groups(network: GraphModule, widest: int) -> int:
    """Compute grouped convolutions group by group in place where a group has more inputs than ``widest``.

    Args:
        network: a frozen form.
        widest: inputs of a group; multiples of it stay grouped.

    Returns:
        how many convolutions are taken apart.
    """
    count = 0
    for name, layer in list(layers(network)):
        if isinstance(layer, QuantizedConv2d) and layer.groups > 1:
            width = layer.in_channels // layer.groups
            if width > widest and width % widest:
                network.set_submodule(name, GroupByGroup(layer))
                count += 1
    return count


def _last(shared: dict[str, str], name: str) -> str:
    while name in shared:
        name = shared[name]
    return name


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


def set_mode(network: nn.Module, mode: Mode) -> None:
    """Set what all quantizers and layers do; for :attr:`Mode.EXPORT` there is :func:`freeze`."""
    for _, quantizer in quantizers(network):
        quantizer.mode = mode
    for _, layer in layers(network):
        layer.mode = mode


def freeze(network: GraphModule, *, unsigned: bool, integer_bias: bool) -> None:
    """Make a :func:`quantized_form` ready to be exported, in place and for good.

    A ReLU before a quantizer that holds nothing negative does nothing, and is dropped.

    Args:
        network: the form.
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
    """Put one operator that quantises, and one for every reader that takes it back, in the place of a quantizer.

    The runtimes look for an operation with dequantisations of its own before it.
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
    decomposed = torch.ops.quantized_decomposed
    with network.graph.inserting_before(node):
        held = network.graph.call_function(decomposed.quantize_per_tensor.default, (source, *numbers))
    for user in list(node.users):
        with network.graph.inserting_before(user):
            back = network.graph.call_function(decomposed.dequantize_per_tensor.default, (held, *numbers))
        user.replace_input_with(node, back)
    before = node.args[0]
    network.graph.erase_node(node)
    if not before.users:  # type: ignore[union-attr]
        network.graph.erase_node(before)  # type: ignore[arg-type]
