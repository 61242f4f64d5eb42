"""Any classification network as a backbone: its levels by ``feature_info``, its graph by ``torch.fx``.

The networks of this package and of timm state in ``feature_info`` which module produces the map of each reduction;
nothing else is required. Module names are kept, so the weights of a classification checkpoint fit.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import timm
import torch
from timm.layers import freeze_batch_norm_2d, register_notrace_module
from timm.models import create_feature_extractor, is_model
from torch import Tensor, fx, nn

from compactnets.errors import InputError, did_you_mean
from compactnets.models.dilation import SAMPLE, dilate
from compactnets.models.form import carry_form, form_of
from compactnets.models.peers import PEERS
from compactnets.models.registry import FAMILIES, check_types, create_model
from compactnets.nn import ChannelShuffle

register_notrace_module(ChannelShuffle)  # one step of a backbone's graph, which exports know how to write

TIMM = "timm:"  # a prefix of timm's names, as in lists of networks; not needed here


@dataclass(frozen=True)
class Level:
    """One map of a network: (N, channels, H / reduction, W / reduction)."""

    reduction: int
    channels: int
    module: str

    def __str__(self) -> str:
        return f"1/{self.reduction} ({self.channels} channels, {self.module})"


def create_backbone(name: str, arguments: Mapping[str, Any], num_classes: int | None = None) -> nn.Module:
    """Build a complete network of this package or of timm, for :func:`levels_of` and the cuts below.

    Args:
        name: of this package or of timm, with or without ``timm:``.
        num_classes: of the classifier, which a detector does not use but weights may have; default: the network's own.

    Raises:
        InputError: no such network, or arguments that it does not take.
    """
    name = name.removeprefix(TIMM)
    options: dict[str, Any] = dict(arguments) if num_classes is None else {**arguments, "num_classes": num_classes}
    if name in FAMILIES or name in PEERS:
        model = create_model(name, **options)
    elif is_model(name):
        try:
            model = timm.create_model(name, **options)
        except (TypeError, ValueError, RuntimeError) as error:
            reason = str(error).partition("\n")[0]
            raise InputError(f"timm cannot build {name} with {dict(arguments) or 'its own values'}: {reason}") from None
        # timm states accepted types only in the class, and often accepts values of other types
        try:
            annotated = inspect.get_annotations(type(model).__init__, eval_str=True)
        except (NameError, TypeError):  # names imported only for type checkers
            annotated = {}
        check_types(name, {key: hint for key, hint in annotated.items() if hint in (int, float, bool, str)}, options)
    else:
        known = [*FAMILIES, *PEERS, *timm.list_models()]
        raise InputError(
            f"no network of this package or of timm is called {name!r}{did_you_mean(name, known)} (compactnets list)"
        )
    return model


def levels_of(model: nn.Module, name: str) -> list[Level]:
    """Return the levels of a network, one for each reduction: the last module with that reduction.

    Raises:
        InputError: the network has no ``feature_info``.
    """
    info = getattr(model, "feature_info", None)
    if info is None:
        raise InputError(f"{name} cannot be a backbone: it has no feature_info, which names its levels")
    entries = info.get_dicts() if hasattr(info, "get_dicts") else info
    found = {int(entry["reduction"]): entry for entry in entries}
    return [
        Level(reduction, int(found[reduction]["num_chs"]), found[reduction]["module"]) for reduction in sorted(found)
    ]


def pick_levels(levels: Sequence[Level], reductions: Sequence[int], name: str) -> list[Level]:
    """Return the levels of these reductions.

    Raises:
        InputError: a level that the network lacks; the message lists those that it has.
    """
    by_reduction = {level.reduction: level for level in levels}
    if missing := [reduction for reduction in reductions if reduction not in by_reduction]:
        wanted = ", ".join(f"1/{reduction}" for reduction in missing)
        raise InputError(f"{name} has no level {wanted}: it has {', '.join(map(str, levels))}")
    return [by_reduction[reduction] for reduction in reductions]


class Levels(nn.Module):
    """The maps of some levels: (N, 3, H, W) -> a list of (N, channels, H / reduction, W / reduction).

    Args:
        output_stride: largest reduction of a map; strides beyond it become dilations (:func:`dilate`).
    """

    def __init__(self, model: nn.Module, levels: Sequence[Level], name: str, output_stride: int | None = None) -> None:
        super().__init__()
        self.body = _extract(model, levels, name)
        self.names = [level.module for level in levels]
        if output_stride is not None and output_stride < max(level.reduction for level in levels):
            dilate(self.body, {level.module: level.reduction for level in levels}, output_stride, name)

    def forward(self, x: Tensor) -> list[Tensor]:
        maps = self.body(x)
        return [maps[name] for name in self.names]


def split(model: nn.Module, at: Level, name: str) -> tuple[fx.GraphModule, fx.GraphModule]:
    """Cut a network at a level: image -> its map, and its map -> the map of the last level.

    Raises:
        InputError: connections that bypass the level, so that the rest cannot be computed from it alone, or the
            network's last level.
    """
    levels = levels_of(model, name)
    last = levels[-1]
    if last.reduction == at.reduction:
        raise InputError(f"{name} has nothing after level {at}: nothing is left for the boxes' features")
    whole = _extract(model, [at, last], name)
    outputs = next(node for node in whole.graph.nodes if node.op == "output").args[0]
    assert isinstance(outputs, dict)
    ends = {key: node for key, node in outputs.items() if isinstance(node, fx.Node)}
    base = _part(whole, None, ends[at.module])
    rest = _part(whole, ends[at.module], ends[last.module])
    if rest is None or base is None:
        raise InputError(f"{name} cannot be cut at {at}: layers after it also read what comes before it")
    return base, rest


def remove_strides(subnet: fx.GraphModule, channels: int, name: str) -> None:
    """Set all strides of convolutions and poolings to 1, in place (MENet, section IV-B: "to obtain larger maps").

    Raises:
        InputError: a network whose maps still change their size.
    """
    for module in subnet.modules():
        if isinstance(module, nn.AvgPool2d | nn.MaxPool2d) and module.kernel_size == module.stride:
            module.kernel_size, module.padding = 1, 0  # non-overlapping cells: now of one pixel
        if isinstance(module, nn.Conv2d):
            module.stride = (1, 1)
        elif isinstance(module, nn.AvgPool2d | nn.MaxPool2d):
            module.stride = 1
    training = subnet.training
    try:
        with torch.no_grad():
            found = tuple(fx.Interpreter(subnet.eval()).run(torch.zeros(1, channels, 7, 7)).shape[-2:])
    except RuntimeError:  # mismatched shapes, as with a pooled shortcut of even size
        found = None
    subnet.train(training)
    if found != (7, 7):
        raise InputError(f"{name}: the strides of its last stage cannot be removed (a map of 7 x 7 became {found})")


def freeze_batchnorm(model: nn.Module) -> nn.Module:
    """Return ``model`` with batch normalisation that keeps its statistics and its weights.

    Changes ``model`` in place. Tensor names are kept, except for the batch counters.
    """
    return freeze_batch_norm_2d(model)


def _extract(model: nn.Module, levels: Sequence[Level], name: str) -> fx.GraphModule:
    """Return the graph from the image to a dictionary of maps, by module."""
    names = {level.module: level.module for level in levels}
    training = model.training
    try:
        # in evaluation mode, without recomputation or dropout; batch normalisation keeps its own mode
        graph = create_feature_extractor(model.eval(), names).eval()
    except (ValueError, fx.proxy.TraceError, RuntimeError, TypeError) as error:
        reason = str(error).partition("\n")[0]
        raise InputError(f"{name} cannot be a backbone: its graph cannot be traced ({reason[:150]})") from None
    finally:
        model.train(training)
    plain = fx.GraphModule(graph, graph.graph)
    plain.delete_all_unused_submodules()
    carry_form(plain, form_of(model))
    with torch.no_grad():
        maps = plain.eval()(torch.zeros(1, 3, SAMPLE, SAMPLE))
    for level in levels:
        found = tuple(maps[level.module].shape)
        if found != (1, level.channels, SAMPLE // level.reduction, SAMPLE // level.reduction):
            raise InputError(f"{name}: feature_info says {level}, but an image of {SAMPLE} pixels gives {found[1:]}")
    return plain


def _part(whole: fx.GraphModule, start: fx.Node | None, end: fx.Node) -> fx.GraphModule | None:
    """Return the graph from ``start`` (``None``: the image) to ``end``; ``None`` if ``end`` needs other inputs."""
    needed: set[fx.Node] = set()
    waiting = [end]
    while waiting:
        node = waiting.pop()
        if node is not start and node not in needed:
            needed.add(node)
            waiting += node.all_input_nodes
    if start is not None and any(node.op == "placeholder" for node in needed):
        return None
    graph = fx.Graph()
    copies = {} if start is None else {start: graph.placeholder("x")}
    for node in whole.graph.nodes:
        if node in needed:
            copies[node] = graph.node_copy(node, copies.__getitem__)
    graph.output(copies[end])
    part = fx.GraphModule(whole, graph)
    part.delete_all_unused_submodules()
    carry_form(part, form_of(whole))
    return part
