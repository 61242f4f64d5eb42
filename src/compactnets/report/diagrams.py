"""The papers' diagrams, drawn by Graphviz from the actual modules.

Blocks are traced by ``torch.fx``, so a diagram shows what the network computes.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import torch
from torch import fx, nn

from compactnets.errors import InputError, missing_extra
from compactnets.models.menet import MEModule
from compactnets.models.muffnet import MuffNet
from compactnets.models.muffnet_blocks import NormalBlock, ReductionBlock, ResidualBlock
from compactnets.models.registry import create_model
from compactnets.models.sharing import SharingMatrix, make_sharing
from compactnets.nn import ChannelShuffle, ConvNormAct

if TYPE_CHECKING:
    from graphviz import Digraph

COLOURS = {"convolution": "#dce9f7", "join": "#fbe3d6", "other": "#f2f2f2"}
JOINS: Mapping[Any, str] = {
    operator.add: "add",
    operator.mul: "multiply",
    torch.cat: "concatenate",
    torch.sigmoid: "sigmoid",
}


class _Blocks(fx.Tracer):
    """A tracer that does not look into the package's own layers."""

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        return isinstance(m, (ConvNormAct, ChannelShuffle)) or super().is_leaf_module(m, module_qualified_name)


def block_diagram(block: nn.Module, channels: int) -> Digraph:
    """Return the diagram of a block of MENet or MuffNet: its layers as nodes, named like its attributes.

    Args:
        channels: input channels, for the label.

    Raises:
        InputError: the extra ``report`` is not installed.
    """
    graph = _new_graph()
    modules = dict(block.named_modules())
    traced = _Blocks().trace(block)
    for node in traced.nodes:
        if node.op == "output":
            graph.node(node.name, "output", shape="plaintext", fillcolor="white")
        else:
            label, kind = _label(node, modules, channels)
            shape = "plaintext" if node.op == "placeholder" else "box"
            graph.node(node.name, label, shape=shape, fillcolor="white" if shape == "plaintext" else COLOURS[kind])
        for source in node.all_input_nodes:
            graph.edge(source.name, node.name)
    return graph


def _label(node: fx.Node, modules: Mapping[str, nn.Module], channels: int) -> tuple[str, str]:
    if node.op == "placeholder":
        return f"input, {channels} channels", "other"
    if node.op == "call_module":
        name, module = str(node.target), modules[str(node.target)]
        if isinstance(module, ConvNormAct):
            return f"{name}\n{_convolution(module)}", "convolution"
        if isinstance(module, ChannelShuffle):
            return f"channel shuffle\n{module.groups} groups", "other"
        if isinstance(module, nn.AvgPool2d):
            return f"average pooling 3x3, stride {module.stride}", "other"
        return type(module).__name__, "other"
    return JOINS.get(node.target, getattr(node.target, "__name__", str(node.target))), "join"


def _convolution(layer: ConvNormAct) -> str:
    conv = layer.conv
    side = f"{conv.kernel_size[0]}x{conv.kernel_size[1]}"
    kind = (
        "convolution"
        if conv.groups == 1
        else "depthwise convolution"
        if conv.groups == conv.in_channels == conv.out_channels
        else f"convolution, {conv.groups} groups"
    )
    stride = f", stride {conv.stride[0]}" if conv.stride[0] > 1 else ""
    act = " + ReLU" if hasattr(layer, "act") else ""
    return f"{side} {kind}{stride}\n{conv.in_channels} → {conv.out_channels}, BN{act}"


def sharing_diagram(sharing: SharingMatrix, start: int = 1) -> Digraph:
    """Return MuffNet's figures 1 and 2: layers in a row, and the block that each group of channels goes to."""
    graph = _new_graph(rankdir="LR")
    size = len(sharing.entries)
    for layer, channels in enumerate(sharing.layer_channels, start=start):
        graph.node(f"layer{layer}", f"layer {layer}\n{channels} channels", fillcolor=COLOURS["other"])
    for block, channels in enumerate(sharing.input_channels, start=start + 1):
        graph.node(f"block{block}", f"block {block}\nreads {channels}", fillcolor=COLOURS["convolution"])
        graph.edge(f"block{block}", f"layer{block}", style="bold")
    graph.node("out", f"output\n{sharing.out_channels} channels", shape="plaintext", fillcolor="white")
    for i in range(size):
        for j, channels in sharing.splits(i):
            target = "out" if j == size - 1 else f"block{j + start + 1}"
            # groups for a later block are identity, so their edges must not affect the layout
            graph.edge(f"layer{i + start}", target, str(channels), constraint="true" if i == j else "false")
    return graph


def network_diagram(name: str = "muffnet_x0_5", size: int = 224) -> Digraph:
    """Return MuffNet's figure 3(d): the network with the sizes of the maps between its parts."""
    with torch.device("meta"):
        model = create_model(name)
    assert isinstance(model, MuffNet)
    graph = _new_graph()
    graph.node("image", f"image, {size} x {size} x {model.in_chans}", shape="plaintext", fillcolor="white")
    last = "image"
    stages = iter(zip(model.stages, ("low", "mid", "high"), strict=True))
    for level in model.feature_info:
        side = -(-size // level["reduction"])
        if level["module"].startswith("stem"):
            what = "3x3 convolution, stride 2" if level["module"].endswith("conv") else "3x3 max-pooling, stride 2"
        else:
            stage, title = next(stages)
            kind = "residual" if stage.sharing.is_plain else "normal"  # type: ignore[union-attr]
            what = f"{title}-level stage: reduction block, {len(stage.units)} {kind} blocks"  # type: ignore[arg-type]
        colour = COLOURS["convolution"] if "stage" in what else COLOURS["other"]
        graph.node(level["module"], f"{what}\n{side} x {side} x {level['num_chs']}", fillcolor=colour)
        graph.edge(last, level["module"])
        last = level["module"]
    for node, label in (
        ("final", f"1x1 convolution\n{side} x {side} x {model.num_features}"),
        ("pool", "global average pooling"),
        ("classifier", f"fully connected, {model.num_classes}"),
    ):
        graph.node(node, label, fillcolor=COLOURS["other"])
        graph.edge(last, node)
        last = node
    return graph


def me_standard() -> Digraph:
    """MENet's figure 3(a): a standard module of 228-MENet-12x1, stage 2."""
    return block_diagram(MEModule(228, 228, 12, 3), 228)


def me_downsampling() -> Digraph:
    """MENet's figure 3(b): the downsampling module of its stage 3."""
    return block_diagram(MEModule(228, 456, 12, 3, downsample=True, stride=2), 228)


def normal_block() -> Digraph:
    """MuffNet's figure 3(a)."""
    return block_diagram(NormalBlock(32, 48), 32)


def residual_block() -> Digraph:
    """MuffNet's figure 3(b)."""
    return block_diagram(ResidualBlock(136), 136)


def reduction_block() -> Digraph:
    """MuffNet's figure 3(c)."""
    return block_diagram(ReductionBlock(32, 64), 32)


def worked_sharing() -> Digraph:
    """MuffNet's figure 2, with the average pattern of its smallest network's first stage."""
    sharing = make_sharing("average", 4, 8)
    assert isinstance(sharing, SharingMatrix)
    return sharing_diagram(sharing)


def fusion_branch() -> Digraph:
    """MENet's figure 2: merging and evolution on the features of a group convolution, and equation 7."""

    class Operations(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            module = MEModule(228, 228, 12, 3)
            self.merge, self.evolve, self.match = module.merge, module.evolve, module.match
            self.h = module.depthwise

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.h(x) * torch.sigmoid(self.match(self.evolve(self.merge(x))))

    return block_diagram(Operations(), 57)


def to_svg(draw: Callable[[], Digraph]) -> str:
    """Return a diagram as SVG text.

    Raises:
        InputError: Graphviz, or its Python package, is not installed.
    """
    graph = draw()
    import graphviz

    try:
        text = graph.pipe(format="svg", encoding="utf-8")
    except graphviz.ExecutableNotFound:
        raise InputError(
            "diagrams need Graphviz's program dot, which is not installed: apt-get install graphviz, "
            "brew install graphviz, or see graphviz.org"
        ) from None
    return str(text[text.index("<svg") :])


def _new_graph(**attributes: str) -> Digraph:
    try:
        from graphviz import Digraph
    except ImportError:
        raise missing_extra("graphviz", "report", "a diagram") from None
    font = {"fontname": "Helvetica,Arial,sans-serif", "fontsize": "11"}
    return Digraph(
        graph_attr={"bgcolor": "transparent", "ranksep": "0.3", "nodesep": "0.3", **attributes},
        node_attr={"shape": "box", "style": "filled,rounded", "color": "#8a8a8a", **font},
        edge_attr={"color": "#555555", **font},
    )
