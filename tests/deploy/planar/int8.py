"""int8 networks of format c for tests: made, compiled, and compared with the interpreter."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from functools import cache
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.fx import GraphModule, Interpreter, Node

from compactnets.deploy.int8.graph import plain_graph
from compactnets.deploy.int8.layers import Mode
from compactnets.deploy.int8.operators import QUANTIZE
from compactnets.deploy.int8.quantized import freeze, quantized_network, set_mode
from compactnets.deploy.int8.ranges import calibrate
from compactnets.deploy.planar.build import Library, load
from compactnets.deploy.planar.emit import Program, emit, pack, plan
from compactnets.deploy.planar.graph import Graph
from compactnets.deploy.planar.integers import Layer, lower, lower_operations
from compactnets.deploy.planar.interpret import interpret, interpret_operation
from compactnets.deploy.planar.trace import trace

from ..helpers import SIZE, tiny_network
from .helpers import MAIN, needs_compiler

MEAN, STD = (0.4, 0.5, 0.6), (0.2, 0.3, 0.4)


def pictures(count: int, side: int, channels: int = 3) -> Tensor:
    """Smooth random images: (count, channels, side, side)."""
    generator = torch.Generator().manual_seed(0)
    coarse = torch.randn(count, channels, 6, 6, generator=generator)
    return nn.functional.interpolate(coarse, size=(side, side), mode="bicubic")


def simulation_of(model: nn.Module, images: Tensor) -> GraphModule:
    """A quantised network, its ranges being those of the images."""
    form = quantized_network(plain_graph(model.eval(), images[:1]))
    calibrate(form, images.split(8), "minmax")
    set_mode(form, Mode.SIMULATE)
    return form


def lowered(simulation: GraphModule, example: Tensor) -> tuple[Graph, list[Layer]]:
    frozen = copy.deepcopy(simulation)
    freeze(frozen, unsigned=True, integer_bias=True)
    graph, weights, _ = trace(frozen, example[:1])
    return lower(graph, weights)


def compiled(graph: Graph, layers: list[Layer], flags: Sequence[str] = (), threads: int = 1) -> Library:
    needs_compiler()
    program = Program(graph=graph, precision="int8", mean=MEAN[: graph.channels], std=STD[: graph.channels])
    packed = pack(plan(program), layers)
    shape = (graph.channels, graph.height, graph.width)
    return load(emit(program), program.name, shape, graph.outputs, packed, flags, threads)


def check_exact(
    graph: Graph, layers: list[Layer], images: np.ndarray, flags: Sequence[str] = (), threads: int = 1
) -> None:
    found = compiled(graph, layers, flags, threads).run(images, threads)
    np.testing.assert_array_equal(found, interpret(graph, layers, images))


def normalised(pixels: np.ndarray) -> np.ndarray:
    """8-bit pixels, (N, H, W, C), as the image that they stand for: (N, C, H, W)."""
    scales = [np.float32(1 / 255 / std) for std in STD]
    shifts = [np.float32(-mean / std) for mean, std in zip(MEAN, STD, strict=True)]
    planes = [pixels[..., c].astype(np.float32) * scales[c] + shifts[c] for c in range(pixels.shape[3])]
    return np.stack(planes, 1)


class _Recorder(Interpreter):
    """Runs a frozen simulation, and keeps what every quantizer gives, (N, C, H, W) uint8, and what it rounded to it."""

    def __init__(self, module: GraphModule) -> None:
        super().__init__(module)
        self.found: list[tuple[np.ndarray, np.ndarray]] = []

    def run_node(self, n: Node) -> object:
        made = super().run_node(n)
        if n.target is QUANTIZE:
            (source, scale, zero, lowest, highest, *_), _ = self.fetch_args_kwargs_from_env(n)
            assert isinstance(made, Tensor)
            rounded = (source.double() / scale + zero).clip(lowest, highest)
            shape = (*made.shape, *[1] * (4 - made.ndim))
            self.found.append((made.reshape(shape).numpy(), rounded.reshape(shape).numpy()))
        return made


@torch.inference_mode()
def distances(simulation: GraphModule, images: Tensor) -> dict[str, float]:
    """How far each operation's bytes are at most from what PyTorch rounds, given PyTorch's bytes as its inputs.

    Bytes are 0.5 away at most from what they are rounded from. Nothing adds up from layer to layer, so that a network
    that amplifies roundings can be judged as well.
    """
    frozen = copy.deepcopy(simulation)
    freeze(frozen, unsigned=True, integer_bias=True)
    graph, weights, _ = trace(frozen, images[:1])
    low, results = lower_operations(graph, weights)
    recorder = _Recorder(frozen)
    logits = recorder.run(images).numpy()
    marks = [each for each in graph.operations if each.kind == "quantize"]
    assert [each.outputs for each in marks] == [made.shape[1] for made, _ in recorder.found]
    simulated: dict[int, tuple[np.ndarray, np.ndarray]] = {}
    for mark, (made, rounded) in zip(marks, recorder.found, strict=True):
        for channel, plane in enumerate(mark.made):
            # a later quantizer with the same scale leaves the bytes as they are
            simulated.setdefault(low.held[plane].plane, (made[:, channel], rounded[:, channel]))
    planes: list[np.ndarray] = [images[:, channel].numpy() for channel in range(graph.channels)]
    far: dict[str, float] = {}
    for number, each in enumerate(low.operations):
        for plane, found in zip(each.made, interpret_operation(each, low.layers, planes), strict=True):
            made, rounded = simulated.get(plane, (found, None))
            if rounded is not None:
                key = f"{number} {each.kind}"
                far[key] = max(far.get(key, 0.0), float(np.abs(found - rounded.reshape(found.shape)).max()))
            planes.append(made.reshape(found.shape))
    made = np.concatenate([planes[plane].reshape(len(images), -1) for plane in results], 1)
    np.testing.assert_allclose(made, logits, rtol=1e-4, atol=1e-4 * np.abs(logits).max())
    return far


@cache
def tiny() -> tuple[GraphModule, Graph, list[Layer], Tensor]:
    images = pictures(4, SIZE)
    simulation = simulation_of(tiny_network(), images)
    return (simulation, *lowered(simulation, images), images)


def write_files(graph: Graph, layers: list[Layer], images: Tensor, folder: Path) -> None:
    """The files of a network in a folder, with an image and pixels beside them."""
    program = Program(graph=graph, precision="int8", mean=MEAN, std=STD)
    for name, text in emit(program).items():
        (folder / name).write_text(text, encoding="utf-8")
    (folder / "main.c").write_text(MAIN, encoding="utf-8")
    (folder / "model.bin").write_bytes(pack(plan(program), layers))
    (folder / "image").write_bytes(images[0].numpy().tobytes())
    (folder / "pixels").write_bytes(some_pixels(graph).tobytes())


def some_pixels(graph: Graph) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (graph.height, graph.width, graph.channels), np.uint8)


def check_output(output: bytes, graph: Graph, layers: list[Layer], images: Tensor) -> None:
    """Hold the logits of an image and of pixels against the integers."""
    both = np.concatenate([images[:1].numpy(), normalised(some_pixels(graph)[None])])
    np.testing.assert_array_equal(np.frombuffer(output, np.float32).reshape(2, -1), interpret(graph, layers, both))
