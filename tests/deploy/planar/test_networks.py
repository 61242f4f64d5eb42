"""Whole networks: the registered ones, random ones, sanitizers, and the passes that make them."""

from __future__ import annotations

import math
import random
from collections.abc import Callable
from functools import cache
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from compactnets.deploy import deploy_form
from compactnets.deploy.planar.arrays import Weights
from compactnets.deploy.planar.emit import Program, emit, pack, plan
from compactnets.deploy.planar.fuse import fuse
from compactnets.deploy.planar.graph import Graph, Operation
from compactnets.deploy.planar.place import plane_floats
from compactnets.deploy.planar.trace import trace
from compactnets.errors import InputError
from compactnets.models.registry import list_models
from compactnets.nn import channel_shuffle

from ..helpers import SIZE, check_rounding, small_form, tiny_network
from .helpers import check_module, compile_module, run_alone


@pytest.mark.slow
@pytest.mark.parametrize("name", list_models())
def test_registered_networks(name: str) -> None:
    model, side = small_form(name)
    if name == "vgg16":  # its pooling to 7 x 7 pixels, which the engine does not have, changes nothing at this size
        side = 224
    torch.manual_seed(1)
    images = torch.randn(2, 3, side, side + 3 if side == 64 else side)
    check_rounding(compile_module(model, images).run(images.numpy()), model, images)


class Random(nn.Module):
    """Random layers of the kinds that the engine has, over feature maps that share channels at random."""

    def __init__(self, seed: int) -> None:
        super().__init__()
        self.random = random.Random(seed)
        torch.manual_seed(seed)
        self.layers = nn.ModuleDict()
        self.plan: list[tuple[str, list[int], str]] = []
        self.side = self.random.choice([5, 8, 11, 20])
        channels = [3]
        for index in range(self.random.randint(6, 12)):
            kind = self.random.choice(
                ["conv", "conv", "depthwise", "shuffle", "add", "mul", "cat", "split", "scale", "relu"]
            )
            a = self.random.randrange(len(channels))
            partners = [b for b, count in enumerate(channels) if count == channels[a]]
            b = self.random.choice(partners if kind in ("add", "mul") else range(len(channels)))
            width = channels[a]
            key = f"layer{index}"
            if kind == "conv":
                groups = self.random.choice([g for g in (1, 2, 3) if width % g == 0])
                outputs, window = groups * self.random.randint(1, 7), self.random.choice([1, 1, 3])
                self.layers[key] = nn.Conv2d(width, outputs, window, padding=window // 2, groups=groups)
                width = outputs
            elif kind == "depthwise":
                window = self.random.choice([3, 5])
                self.layers[key] = nn.Conv2d(width, width, window, padding=window // 2, groups=width)
            elif kind == "cat":
                width += channels[b]
            elif kind == "split":
                width = width // 2
            elif kind == "shuffle" and width % 2:
                continue
            if not 0 < width <= 48:
                continue
            self.plan.append((kind, [a, b], key))
            channels.append(width)
        self.widths = channels
        self.head = nn.Linear(sum(channels[-2:]), 3)

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        maps = [x]
        for kind, (a, b), key in self.plan:
            one, other = maps[a], maps[b]
            if key in self.layers:
                new = self.layers[key](one)
            elif kind == "shuffle":
                new = channel_shuffle(one, 2)
            elif kind == "add":
                new = F.relu(one + other)
            elif kind == "mul":
                new = one * torch.sigmoid(other)
            elif kind == "cat":
                new = torch.cat((one, other), 1)
            elif kind == "split":
                new = torch.split(one, [self.widths[a] - self.widths[a] // 2, self.widths[a] // 2], 1)[1]
            elif kind == "scale":
                new = one * F.hardsigmoid(one.mean((2, 3), keepdim=True))
            else:
                new = F.relu(one)
            maps.append(new)
        last = torch.cat(maps[-2:], 1)
        return self.head(last.mean((2, 3))), last, maps[len(maps) // 2]


@pytest.mark.parametrize("seed", [pytest.param(seed, marks=pytest.mark.slow if seed else []) for seed in range(30)])
def test_random_networks(seed: int) -> None:
    model = Random(seed)
    check_module(model, torch.randn(1, 3, model.side, model.side + seed % 3), tolerance=1e-4)


SANITIZED = ["-O1", "-g", "-march=native", "-fsanitize=address,undefined", "-fno-sanitize-recover"]


@pytest.mark.slow
@pytest.mark.parametrize(
    "name", ["tiny", "menet_108_8x1_g3", "muffnet_x0_5", "shufflenetv2_x0_5", "googlenet", "densenet40_k12"]
)
def test_sanitizers_find_nothing(name: str, tmp_path: Path) -> None:
    """In memory of exactly the size that is asked for: nothing is read behind an image, or written elsewhere."""
    model, side = (tiny_network(), SIZE) if name == "tiny" else small_form(name)
    run_alone(model, (3, side, side), SANITIZED, tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("flags", [["-O1", "-std=c99"], ["-O1", "-x", "c++"], ["-O2", "-DPLANAR_VEC=1", "-std=c99"]])
def test_other_languages(flags: list[str], tmp_path: Path) -> None:
    run_alone(tiny_network(), (3, SIZE, SIZE), flags, tmp_path)


@cache
def traced() -> tuple[Graph, list[Weights]]:
    """The small network, which has modules of MENet and MuffNet."""
    graph, weights, _ = trace(deploy_form(tiny_network()), torch.zeros(1, 3, SIZE, SIZE))
    return graph, weights


def test_planes_that_live_at_one_time_lie_apart() -> None:
    """By the order of the operations, and an operation's scratch beside all that it reads and writes."""
    graph, weights = traced()
    ready = plan(Program(graph=graph))
    sizes = ready.graph.sizes()
    last = {plane: index for index, each in enumerate(ready.graph.operations) for plane in each.read}
    last |= dict.fromkeys(ready.graph.results, len(ready.graph.operations))
    content: dict[int, int] = {}  # start -> plane
    for index, each in enumerate(ready.graph.operations):
        for plane in each.made:
            start = ready.layout.planes[plane]
            end = start + plane_floats(*sizes[plane])
            assert end <= ready.layout.floats
            for other_start, other in list(content.items()):
                other_end = other_start + plane_floats(*sizes[other])
                if other_start < end and start < other_end:
                    rewritten = other_start == start and (other in each.plus or other in each.times)
                    assert last.get(other, -1) < index or (last[other] == index and rewritten), (plane, other)
                    del content[other_start]
            content[start] = plane
    assert ready.layout.floats < sum(plane_floats(*size) for size in sizes) / 2
    assert len(pack(ready, weights)) == 4 * ready.floats


def test_what_follows_is_fused() -> None:
    """Nothing is left of these networks but convolutions, pooling, the mean and the classifier."""
    graph, _ = traced()
    kinds = [each.kind for each in graph.operations]
    fused = [each.kind for each in fuse(graph).operations]
    assert kinds.count("combine") > 10
    assert set(fused) == {"convolution", "average", "mean", "dense"}
    assert fused.count("convolution") == kinds.count("convolution")
    assert fuse(fuse(graph)) == fuse(graph)


ONES: dict[str, Callable[[float], float]] = {
    "none": lambda x: x,
    "relu": lambda x: max(x, 0.0),
    "sigmoid": lambda x: 1 / (1 + math.exp(-x)),
}


def values(graph: Graph) -> list[float]:
    """Compute a graph of convolutions and combinations on planes of one pixel, the first two being the image."""
    known = [0.5, -1.5]
    for each in graph.operations:
        for k in range(each.outputs):
            value = known[each.inputs[k]]
            if each.kind == "convolution":  # its weights are the order of its inputs
                value = sum((index + k + 1) * known[plane] for index, plane in enumerate(each.inputs)) / 4
            value = ONES[each.first](value)
            value *= known[each.times[k]] if each.times else 1
            value += known[each.plus[k]] if each.plus else 0
            known.append(ONES[each.last](value))
    return [known[plane] for plane in graph.results]


def random_graph(seed: int) -> Graph:
    """Convolutions, activations, products and sums that read any pair of earlier planes, several of which are read."""
    choose = random.Random(seed)
    operations: list[Operation] = []
    pair = {"outputs": 2, "height": 1, "width": 1}
    for index in range(choose.randint(2, 9)):
        starts = range(0, 2 * index + 2, 2)

        def planes(starts: range = starts) -> tuple[int, int]:
            start = choose.choice(starts[-3:])
            return (start, start + 1)

        more: dict[str, object] = choose.choice(
            [{"kind": "convolution", "weights": 0}, {"last": "relu"}, {"last": "sigmoid"}, {"times": ()}, {"plus": ()}]
        )
        more = {key: value or planes() for key, value in more.items()} if {"times", "plus"} & {*more} else more
        operations.append(Operation(**{"kind": "combine", "inputs": planes(), "output": 2 * index + 2, **pair, **more}))
    results = {operations[-1].output, choose.choice(operations).output}
    graph = Graph(
        channels=2,
        height=1,
        width=1,
        operations=tuple(operations),
        results=tuple(plane + k for plane in results for k in (0, 1)),
    )
    graph.check()
    return graph


def test_fusing_changes_no_result() -> None:
    """Of random graphs, whose planes also have several readers after something was fused into what makes them."""
    fewer = 0
    for seed in range(500):
        graph = random_graph(seed)
        fused = fuse(graph)
        fused.check()
        assert values(fused) == pytest.approx(values(graph), rel=1e-12), seed
        fewer += len(fused.operations) < len(graph.operations)
    assert fewer > 100


def test_text_and_weights_are_the_same_every_time() -> None:
    graph, weights = traced()
    again, weights_again, _ = trace(deploy_form(tiny_network()), torch.zeros(1, 3, SIZE, SIZE))
    assert graph == again
    assert emit(Program(graph=graph)) == emit(Program(graph=Graph.model_validate_json(graph.model_dump_json())))
    assert pack(plan(Program(graph=graph)), weights) == pack(plan(Program(graph=again)), weights_again)


class Unknown(nn.Module):
    def __init__(self, operator: str) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(3, 4, 1))
        self.operator = operator

    def forward(self, x: Tensor) -> Tensor:
        x = self.body(x)
        if self.operator == "gelu":
            x = F.gelu(x)
        elif self.operator == "interpolate":
            x = F.interpolate(x, scale_factor=2.0)
        elif self.operator == "transpose":
            x = x.transpose(2, 3)
        elif self.operator == "add":
            x = x + 1.5
        elif self.operator in ("slice", "split"):  # of pixels, which the flattened planes have in one dimension
            x = x.flatten(1)
            return x[:, :10] if self.operator == "slice" else x.split(10, 1)[0]
        else:
            x = F.avg_pool2d(x, 3, 2, 1, count_include_pad=False)
        return x.mean((2, 3))


@pytest.mark.parametrize(
    ("operator", "named"),
    [
        ("gelu", "aten.gelu"),
        ("transpose", "aten.transpose"),
        ("add", "aten.add"),
        ("avg_pool2d", "aten.avg_pool2d"),
        ("slice", "aten.slice"),
        ("split", "aten.split"),
    ],
)
def test_an_operator_that_is_not_there_is_named(operator: str, named: str) -> None:
    with pytest.raises(InputError) as caught:
        trace(Unknown(operator), torch.zeros(1, 3, 8, 8))
    assert named in str(caught.value)
    assert "\n" not in str(caught.value)


def test_flattened_planes_are_every_pixel() -> None:
    """As a network's output, whose length is that of PyTorch's; nothing else to compute is refused in one line."""
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Flatten())
    assert trace(model.eval(), torch.zeros(1, 3, 8, 7))[2] == [(1, 4 * 6 * 5)]
    with pytest.raises(InputError, match="at least one operation"):
        trace(nn.Flatten().eval(), torch.zeros(1, 3, 8, 7))
