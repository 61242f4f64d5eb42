"""int8 on planes of quads: every byte is that of integers computed channel by channel, on any target."""

from __future__ import annotations

import copy
import json
import random
import subprocess
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.fx import GraphModule

from compactnets.compiler import find_compiler
from compactnets.deploy.int8.noise import keep_float, relative_error
from compactnets.deploy.planar.arrays import UnsupportedError
from compactnets.deploy.planar.emit import Program, read_program
from compactnets.deploy.planar.interpret import interpret
from compactnets.deploy.planar.quads import arrange, group_inputs, group_outputs
from compactnets.models.registry import list_models
from compactnets.nn import channel_shuffle

from ...names import one_of_each_kind
from ..helpers import SIZE, small_form
from .helpers import WARNINGS, WIDTHS, compile_in, needs_compiler
from .int8 import (
    check_exact,
    check_output,
    compiled,
    distances,
    lowered,
    normalised,
    pictures,
    simulation_of,
    tiny,
    write_files,
)

# other instructions: without dot products, without byte shuffles, and of 16, 8 and 4 numbers with them
OLDER = ["-march=haswell", "-march=nehalem", "-march=x86-64 -DPLANAR_VEC=4"]
EXACT = [*WIDTHS, *OLDER]


@pytest.mark.parametrize(
    "flags", [pytest.param(flags, marks=[] if flags in ("", "-DPLANAR_VEC=1") else pytest.mark.slow) for flags in EXACT]
)
def test_every_target_gives_the_same_bits(flags: str) -> None:
    """The logits of a network with modules of MENet and MuffNet, for images and for 8-bit pixels."""
    _, graph, layers, images = tiny()
    library = compiled(graph, layers, ["-O1", *flags.split()])
    np.testing.assert_array_equal(library.run(images.numpy()), interpret(graph, layers, images.numpy()))
    pixels = np.random.default_rng(0).integers(0, 256, (2, SIZE, SIZE, 3), np.uint8)
    np.testing.assert_array_equal(library.run(pixels), interpret(graph, layers, normalised(pixels)))


def test_it_computes_what_was_simulated() -> None:
    simulation, graph, layers, images = tiny()
    with torch.inference_mode():
        expected = simulation(images)
    assert relative_error(expected, torch.from_numpy(interpret(graph, layers, images.numpy()))) < 0.05
    check_operations(simulation, images)


def check_operations(simulation: GraphModule, images: Tensor) -> None:
    """Every operation gives PyTorch's bytes, except where a value lies in the middle between two of them."""
    for name, far in distances(simulation, images).items():
        # the factors of a sum have 15 bits, those of all else 24: two values up to 255 times half of 2 ** -14
        assert far < 0.5 + (255 / 2**14 if "combine" in name else 0.001), name


# network -> what it lacks
UNSUPPORTED = {
    **dict.fromkeys(("densenet40_k12", "densenet_bc_100_k12", "condensenet_74_c8_g8"), "weights in float"),
    "vgg16": "adaptive_avg_pool2d",
}


@pytest.mark.slow
@pytest.mark.parametrize("name", one_of_each_kind(list_models()))
def test_registered_networks(name: str) -> None:
    """Every byte, or one line that says what is missing."""
    model, side = small_form(name)
    images = pictures(3, side)
    simulation = simulation_of(model, images)
    if name in UNSUPPORTED:
        with pytest.raises(UnsupportedError, match=UNSUPPORTED[name]):
            lowered(simulation, images)
        return
    graph, layers = lowered(simulation, images)
    check_exact(graph, layers, images.numpy())
    check_operations(simulation, images)


KINDS = ("conv", "conv", "depthwise", "shuffle", "add", "mul", "cat", "split", "pool", "scale")


class Random(nn.Module):
    """Random layers of the kinds that int8 has, over feature maps that share channels at random."""

    def __init__(self, seed: int) -> None:
        super().__init__()
        choose = random.Random(seed)
        torch.manual_seed(seed)
        self.layers = nn.ModuleDict()
        self.plan: list[tuple[str, int, int, str]] = []
        self.side = choose.choice([5, 8, 11, 20, 33])
        widths, sides = [3], [self.side]
        for index in range(choose.randint(6, 12)):
            kind = choose.choice(
                ["conv", "conv", "depthwise", "shuffle", "add", "mul", "cat", "split", "pool", "scale"]
            )
            a = choose.randrange(len(widths))
            width, side, key = widths[a], sides[a], f"layer{index}"
            alike = [b for b, other in enumerate(sides) if other == side]
            if kind in ("add", "mul"):
                alike = [b for b in alike if widths[b] == width]
            b = choose.choice(alike)
            stride = choose.choice([1, 1, 2]) if kind in ("conv", "depthwise", "pool") else 1
            window = choose.choice([1, 1, 3, 5] if kind == "conv" else [3, 5])
            if kind == "conv":
                groups = choose.choice([g for g in (1, 2, 3) if width % g == 0])
                outputs = groups * choose.randint(1, 21)
                self.layers[key] = nn.Conv2d(width, outputs, window, stride, window // 2, groups=groups)
                width = outputs
            elif kind == "depthwise":
                self.layers[key] = nn.Conv2d(width, width, window, stride, window // 2, groups=width)
            elif kind == "pool":
                self.layers[key] = nn.MaxPool2d(3, stride, 1)
            elif kind == "cat":
                width += widths[b]
            elif kind == "split":
                width //= 2
            if not 0 < width <= 64 or (kind == "shuffle" and width % 2):
                continue
            self.plan.append((kind, a, b, key))
            widths.append(width)
            sides.append((side - 1) // stride + 1)
        self.widths = widths
        self.head = nn.Linear(sum(widths[-3:]), 5)

    def forward(self, x: Tensor) -> Tensor:
        maps = [x]
        for kind, a, b, key in self.plan:
            one, other = maps[a], maps[b]
            if kind in ("conv", "depthwise", "pool"):
                new = self.layers[key](one)
                new = torch.relu(new) if kind == "conv" else new
            elif kind == "shuffle":
                new = channel_shuffle(one, 2)
            elif kind == "add":
                new = torch.relu(one + other)
            elif kind == "mul":
                new = one * torch.sigmoid(other)
            elif kind == "cat":
                new = torch.cat((one, other), 1)
            elif kind == "split":
                new = torch.split(one, [one.shape[1] // 2, one.shape[1] - one.shape[1] // 2], 1)[0]
            else:
                new = one * torch.sigmoid(nn.functional.adaptive_avg_pool2d(one, 1))
            maps.append(new)
        pooled = [nn.functional.adaptive_avg_pool2d(each, 1).flatten(1) for each in maps[-3:]]
        return self.head(torch.cat(pooled, 1))


@pytest.mark.parametrize("seed", [pytest.param(seed, marks=pytest.mark.slow if seed else []) for seed in range(40)])
def test_random_networks(seed: int) -> None:
    """Whose channels are tied in any way: through sums with themselves, and concatenated twice."""
    model = Random(seed)
    images = pictures(2, model.side)
    graph, layers = lowered(simulation_of(model, images), images)
    check_exact(graph, layers, images.numpy(), ["-O1", *random.Random(seed).choice(EXACT).split()])


class Twice(nn.Module):
    """A convolution and a classifier that read the same channels twice, with other weights."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first, self.second = nn.Conv2d(3, 6, 1), nn.Conv2d(12, 7, 1)
        self.head = nn.Linear(14, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.first(x))
        x = torch.relu(self.second(torch.cat((x, x), 1)))
        x = nn.functional.adaptive_avg_pool2d(x, 1)
        return self.head(torch.cat((x, x), 1).flatten(1))


def test_channels_that_are_read_twice() -> None:
    images = pictures(2, 6)
    graph, layers = lowered(simulation_of(Twice(), images), images)
    check_exact(graph, layers, images.numpy(), ["-O1"])


def test_every_group_is_whole_quads() -> None:
    """What reads or writes a quad reads or writes all its channels, and every channel has one place."""
    _, graph, _, _ = tiny()
    arranged = arrange(graph)
    quads = [frozenset(plane for plane in lanes if plane is not None) for lanes in arranged.lanes]
    planes = [plane for quad in quads for plane in quad]
    assert sorted(planes) == list(range(len(graph.sizes())))
    of = {plane: quad for quad in quads for plane in quad}
    for each in graph.operations:
        if each.kind == "convolution" and not each.is_depthwise:
            for group in range(each.groups):
                for channels in (group_inputs(each, group), group_outputs(each, group)):
                    assert set(channels) == {plane for channel in channels for plane in of[channel]}
    assert 0 < arranged.empty_share < 0.6  # groups of a few channels, as no real network has


def test_a_part_in_float_is_one_line() -> None:
    simulation, _, _, images = tiny()
    kept = copy.deepcopy(simulation)
    keep_float(kept, "stages.0.1.depthwise.conv")
    with pytest.raises(UnsupportedError, match=r"in integers throughout, found .* float") as caught:
        lowered(kept, images)
    assert "\n" not in str(caught.value)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["tiny", "menet_108_8x1_g3", "muffnet_x0_5", "mobilenetv2_x0_35"])
@pytest.mark.parametrize("flags", ["-march=native", "-march=haswell", "-DPLANAR_VEC=1"])
def test_sanitizers_find_nothing(name: str, flags: str, tmp_path: Path) -> None:
    """In memory of exactly the size that is asked for, with the same bits."""
    needs_compiler()
    if name == "tiny":
        _, graph, layers, images = tiny()
    else:
        model, side = small_form(name)
        images = pictures(2, side)
        graph, layers = lowered(simulation_of(model, images), images)
    write_files(graph, layers, images, tmp_path)
    sanitized = ["-O1", "-g", *flags.split(), "-fsanitize=address,undefined", "-fno-sanitize-recover"]
    compile_in(tmp_path, [*find_compiler(), *sanitized, *WARNINGS, "-D_GNU_SOURCE", "main.c", "model.c", "-o", "main"])
    ran = subprocess.run(["./main"], cwd=tmp_path, capture_output=True, check=False)
    assert ran.returncode == 0, ran.stderr.decode(errors="replace")
    check_output(ran.stdout, graph, layers, images)


def test_threads_change_nothing() -> None:
    _, graph, layers, images = tiny()
    check_exact(graph, layers, images[:1].numpy(), ["-O1"], threads=3)


@pytest.mark.parametrize(
    "change",
    [
        lambda graph: graph["operations"][0].pop("numbers"),
        lambda graph: graph["operations"][1].update(first="relu"),
        lambda graph: graph["operations"][1].update(kind="combine", weights=None),
        lambda graph: graph["operations"][2].update(inputs=[0, 1, 2]),
        lambda graph: graph["operations"][-1].update(kind="convolution"),
        lambda graph: graph["operations"][1]["numbers"].update(zero=256),
        lambda graph: graph["operations"][1]["numbers"].update(terms=[1, 1, 1, 99]),
        lambda graph: graph["operations"][0]["numbers"].update(factor=float("inf")),
    ],
)
def test_a_description_that_fits_nothing_is_refused(change: object, tmp_path: Path) -> None:
    _, graph, _, _ = tiny()
    program = json.loads(Program(graph=graph, precision="int8").model_dump_json())
    path = tmp_path / "model.json"
    path.write_text(json.dumps(program), encoding="utf-8")
    assert read_program(path).graph == graph
    change(program["graph"])  # type: ignore[operator]
    path.write_text(json.dumps(program), encoding="utf-8")
    with pytest.raises(ValueError):  # noqa: PT011
        read_program(path)
