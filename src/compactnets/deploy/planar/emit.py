"""Generate a network's C source: the kernels of ``kernels/``, a function for each kind of layer, and the calls.

Output is deterministic: the source depends only on the graph, the packed weights only on graph and weights.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import BaseModel, ConfigDict, Field

from compactnets.deploy.planar.fuse import fuse, separate_image
from compactnets.deploy.planar.graph import Graph, Operation
from compactnets.deploy.planar.place import LINE, Layout, place, rounded
from compactnets.deploy.planar.trace import Weights

KERNELS = Path(__file__).parent / "kernels"
PARTS = ("vector.c", "pointwise.c", "padding.c", "convolution.c", "window.c", "planes.c")
TILE = 6  # output planes of the tallest register tile: ROWS of pointwise.c
FEW = 64  # up to this many pixels, weights are read once, tile by tile
BAND = 24576  # bytes of padded rows that a convolution processes at a time
SLACK = 2 * LINE  # floats that may be read or written past the end of a row


class Program(BaseModel):
    """The content of ``model.json``: everything that ``model.c`` is generated from, except the weights."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str = Field("model", pattern=r"^[a-z][a-z0-9_]{0,63}$")
    graph: Graph
    precision: str = Field("float32", pattern="^float(16|32)$")
    mean: tuple[float, ...] = ()
    std: tuple[float, ...] = ()
    crop: float = Field(1.0, gt=0, le=1, description="share of the shorter edge that the network sees")
    labels: tuple[str, ...] = ()
    network: str = ""


@dataclass
class _Text:
    """The program under construction: tables of offsets, layer functions, calls."""

    table: list[int] = field(default_factory=list)
    tables: dict[tuple[int, ...], int] = field(default_factory=dict)
    functions: dict[tuple[Any, ...], str] = field(default_factory=dict)
    bodies: list[str] = field(default_factory=list)
    calls: list[str] = field(default_factory=list)

    def offsets(self, values: Sequence[int]) -> str:
        """Return an expression for a table of these offsets; equal tables are shared."""
        if not values:
            return "0"
        key = tuple(values)
        if key not in self.tables:
            self.tables[key] = len(self.table)
            self.table += key
        return f"planes + {self.tables[key]}"

    def call(self, kernel: str, pointers: Mapping[str, str], constants: Sequence[object], note: str) -> None:
        """Append a kernel call, through a separate function for each set of constants."""
        absent = tuple(name for name, value in pointers.items() if value == "0")
        key = (kernel, *constants, absent)
        given = {name: value for name, value in pointers.items() if value != "0"}
        if key not in self.functions:
            self.functions[key] = name = f"{kernel}_{len(self.functions)}"
            parameters = ", ".join(f"{_type(pointer)}{pointer}" for pointer in given)
            passed = ", ".join([*(pointer if pointer in given else "0" for pointer in pointers), *map(str, constants)])
            self.bodies.append(f"LAYER void {name}({parameters}) {{\n    {kernel}({passed});\n}}\n")
        self.calls.append(f"    /* {note} */\n    {self.functions[key]}({', '.join(given.values())});\n")


def _type(pointer: str) -> str:
    if pointer in ("in", "out", "mul", "add", "places", "by"):
        return "const int32_t *"
    return "const float *" if pointer in ("weights", "biases", "from") else "float *"


@dataclass(frozen=True)
class Plan:
    """A graph ready for code generation."""

    graph: Graph
    layout: Layout
    offsets: list[int]  # offset of each operation's weights in the file, in floats
    floats: int  # total size of the weights


@cache
def _kernel(name: str) -> str:
    return (KERNELS / name).read_text(encoding="utf-8")


def plan(graph: Graph) -> Plan:
    """Fuse a traced graph, and allocate planes and weights."""
    graph = fuse(separate_image(graph))
    layout = place(graph, [_scratch(each, graph) for each in graph.operations])
    offsets, floats = [], 0
    for each in graph.operations:
        offsets.append(floats)
        floats += rounded(_weight_floats(each, graph))
    return Plan(graph, layout, offsets, floats)


def tiles(outputs: int) -> tuple[int, int, int]:
    """Split a group's outputs into tiles: return height and number of the tall ones, and the number one row lower."""
    number = -(-outputs // TILE)
    high = -(-outputs // number)
    small = high * number - outputs
    return high, number - small, small


def _tile_rows(outputs: int) -> Iterable[range]:
    high, tall, small = tiles(outputs)
    start = 0
    for rows in [high] * tall + [high - 1] * small:
        yield range(start, start + rows)
        start += rows


@dataclass(frozen=True)
class _Window:
    """Padding of the planes of an operation with a window (see ``padding.c``); lengths in floats."""

    pitch: int  # distance between rows
    size: int  # of a phase
    rows: int  # output rows in a band
    places: tuple[int, ...]  # offsets of the window's positions in a padded plane
    flat: int  # size of an output plane of a band, at the pitch of the padded rows

    @classmethod
    def of(cls, each: Operation, size: tuple[int, int], whole: bool) -> _Window:
        (step_y, step_x), (reach_y, reach_x) = each.stride, each.reach
        across = (each.width - 1) * step_x + reach_x  # columns read
        if step_x == 1:
            pitch = max(size[1] + max(each.left, across - each.left - size[1], 0), each.width)
        else:
            pitch = max(-(-max(across, each.left + size[1]) // step_x), each.width)
        rows = each.height
        inputs = len(each.inputs) // each.groups
        while True:
            down = -(-max((rows - 1) * step_y + reach_y, 1) // step_y)
            area = rounded(down * pitch + each.left + SLACK + LINE)
            if whole or rows == 1 or 4 * inputs * area * step_y * step_x <= BAND:
                break
            rows = -(-rows // 2)
        places = []
        for y in range(0, reach_y, each.dilation[0]):
            for x in range(0, reach_x, each.dilation[1]):
                phase = y % step_y * step_x + x % step_x
                places.append(phase * area + y // step_y * pitch + x // step_x)
        flat = rounded((rows - 1) * pitch + each.width) + LINE
        return cls(pitch, area, rows, tuple(places), flat)


def _size(each: Operation, graph: Graph) -> tuple[int, int]:
    return graph.sizes()[each.inputs[0]]


def _is_dense(each: Operation, graph: Graph) -> bool:
    """Whether it is a matrix-vector product, such as a pointwise convolution of one-pixel planes."""
    single = each.is_pointwise and each.groups == 1 and each.pixels == 1 and not each.times and not each.plus
    return each.kind == "dense" or (single and each.first == "none")


def _scratch(each: Operation, graph: Graph) -> int:
    if _is_dense(each, graph):
        return _dense_row(each, graph)
    if each.is_pointwise or each.kind not in ("convolution", "maximum", "average"):
        return 0
    size = _size(each, graph)
    phases = each.stride[0] * each.stride[1]
    if each.is_depthwise or each.kind != "convolution":
        return _Window.of(each, size, whole=True).size * phases + SLACK
    window = _Window.of(each, size, whole=False)
    return rounded(len(each.inputs) // each.groups * window.size * phases + SLACK) + TILE * window.flat + SLACK


def _dense_row(each: Operation, graph: Graph) -> int:
    height, width = _size(each, graph)
    return rounded(len(each.inputs) * height * width)


def _weight_floats(each: Operation, graph: Graph) -> int:
    if each.weights is None:
        return 0
    if _is_dense(each, graph):
        rows = -(-each.outputs // 4) * 4
        return rows * _dense_row(each, graph) + rows
    return each.outputs * (1 + len(each.inputs) // each.groups * each.taps)


def pack(plan: Plan, weights: Sequence[Weights]) -> np.ndarray:
    """Return the content of ``model.bin``: the weights in the order in which the kernels read them.

    Raises:
        ValueError: the weights' shapes differ from the graph's.
    """
    packed = np.zeros(plan.floats, np.float32)
    for each, offset in zip(plan.graph.operations, plan.offsets, strict=True):
        if each.weights is None:
            continue
        own = weights[each.weights]
        count = _weight_floats(each, plan.graph)
        packed[offset : offset + count] = _packed(each, own, plan.graph)
    return packed


def _packed(each: Operation, own: Weights, graph: Graph) -> np.ndarray:
    if _is_dense(each, graph):
        rows, row = -(-each.outputs // 4) * 4, _dense_row(each, graph)
        matrix, biases = np.zeros((rows, row), np.float32), np.zeros(rows, np.float32)
        values = own.weight.reshape(each.outputs, -1)
        matrix[: each.outputs, : values.shape[1]], biases[: each.outputs] = values, own.bias
        return np.concatenate([matrix.reshape(rows // 4, 4, row // LINE, LINE).swapaxes(1, 2).ravel(), biases])
    matrix = own.weight.reshape(each.outputs, -1)  # (outputs, inputs of a group x places of the window)
    columns = np.concatenate([own.bias.reshape(-1, 1), matrix], axis=1)
    if each.is_depthwise:
        return columns.ravel()
    per_group = each.outputs // each.groups
    parts = [
        columns[group * per_group + rows.start : group * per_group + rows.stop].T.ravel()
        for group in range(each.groups)
        for rows in _tile_rows(per_group)
    ]
    return np.concatenate(parts)


def emit(program: Program) -> dict[str, str]:
    """Return the content of ``model.c``, ``model.h``, ``example.c`` and ``README.md``, by name."""
    ready = plan(program.graph)
    text = _Text()
    for index, each in enumerate(ready.graph.operations):
        _emit_operation(text, each, ready, index)
    _emit_results(text, ready)
    values = {
        "NAME": program.name,
        "GUARD": program.name.upper(),
        "NETWORK": _comment(program.network or program.name),
        "CHANNELS": str(program.graph.channels),
        "HEIGHT": str(program.graph.height),
        "WIDTH": str(program.graph.width),
        "OUTPUTS": str(program.graph.outputs),
        "ARENA_FLOATS": str(ready.layout.floats),
        "WEIGHT_FLOATS": str(ready.floats),
        "WEIGHT_BYTES": str(4 * ready.floats),
        "SCALES": _list(_scales(program)[0]),
        "SHIFTS": _list(_scales(program)[1]),
        "CROP": f"{program.crop:.9g}",
        "IMAGE": str(ready.layout.planes[0]),
        "KERNELS": "\n".join(_kernel(name).rstrip() + "\n" for name in PARTS),
        "PLANES": _wrapped(text.table),
        "LAYERS": "\n".join(text.bodies),
        "CALLS": "".join(text.calls),
        "LABELS": "".join(f"    {_literal(label)},\n" for label in program.labels),
    }
    return {
        "model.c": _filled("model.c.in", values),
        "model.h": _filled("model.h.in", values),
        "example.c": _filled("example.c.in", values),
        "README.md": _filled("README.md.in", values),
    }


def _filled(name: str, values: Mapping[str, str]) -> str:
    return re.sub(r"@([A-Z_]+)@", lambda match: values[match[1]], _kernel(name))


def _scales(program: Program) -> tuple[list[float], list[float]]:
    channels = program.graph.channels
    mean, std = program.mean or (0.0,) * channels, program.std or (1.0,) * channels
    return [1 / 255 / each for each in std], [-m / s for m, s in zip(mean, std, strict=True)]


def _list(values: Iterable[float]) -> str:
    return ", ".join(f"{float(np.float32(value)):.8e}f" for value in values)


def _wrapped(values: Sequence[int]) -> str:
    lines, line = [], "   "
    for value in values:
        if len(line) + len(str(value)) + 2 > 118:
            lines.append(line)
            line = "   "
        line += f" {value},"
    return "\n".join([*lines, line])


def _comment(text: str) -> str:
    return re.sub(r"[^\w .,:+()-]", "_", text, flags=re.ASCII)


def _literal(text: str) -> str:
    """Return a C string literal; all bytes except letters, digits and spaces are escaped."""
    plain = [
        chr(byte) if chr(byte).isalnum() and byte < 128 or byte == 32 else f"\\{byte:03o}" for byte in text.encode()
    ]
    return f'"{"".join(plain)}"'


def _note(each: Operation, size: tuple[int, int]) -> str:
    what: str = each.kind
    if each.is_depthwise:
        what = "depthwise"
    if each.taps > 1:
        what += f" {each.window[0]}x{each.window[1]}"
    if each.stride != (1, 1):
        what += f" stride {each.stride[0]}"
    planes = f"{len(each.inputs)} x {size[0]} x {size[1]} -> {each.outputs} x {each.height} x {each.width}"
    groups = f", {each.groups} groups" if each.groups > 1 and not each.is_depthwise else ""
    ends = [each.first, "product" if each.times else "", "sum" if each.plus else "", each.last]
    after = "".join(f", {end}" for end in ends if end not in ("", "none"))
    return f"{what}: {planes}{groups}{after}"


def _emit_operation(text: _Text, each: Operation, ready: Plan, index: int) -> None:
    graph, layout = ready.graph, ready.layout
    size, where = _size(each, graph), layout.planes
    from_image = each.inputs[0] < graph.channels
    step = graph.height * graph.width
    ends = [each.first.upper(), each.last.upper()]
    note = _note(each, size)
    scratch = f"arena + {layout.scratch[index]}"
    weights = f"weights + {ready.offsets[index]}"
    inputs = [plane * step for plane in each.inputs] if from_image else [where[plane] for plane in each.inputs]
    tables = {
        "in": text.offsets(inputs),
        "out": text.offsets([where[plane] for plane in each.made]),
        "mul": text.offsets([where[plane] for plane in each.times]),
        "add": text.offsets([where[plane] for plane in each.plus]),
    }
    source = "image" if from_image else "arena"
    exact = int(from_image)
    if _is_dense(each, graph):
        row = _dense_row(each, graph)
        biases = f"weights + {ready.offsets[index] + -(-each.outputs // 4) * 4 * row}"
        pointers = {"weights": weights, "biases": biases, "from": source, "arena": "arena", "x": scratch}
        pointers |= {"in": tables["in"], "out": tables["out"]}
        text.call("dense", pointers, [len(each.inputs), size[0] * size[1], row, each.outputs, ends[1]], note)
    elif each.is_pointwise:
        kernel = "pointwise_few" if each.pixels <= FEW else "pointwise"
        shape = [each.groups, len(each.inputs) // each.groups, *tiles(each.outputs // each.groups), each.pixels]
        text.call(kernel, {"weights": weights, "from": source, "arena": "arena", **tables}, [*shape, *ends], note)
    elif each.kind in ("convolution", "maximum", "average"):
        _emit_window(text, each, ready, tables, weights, source, scratch, exact)
    elif each.kind == "combine":
        shape = [each.outputs, each.pixels, exact]
        text.call("combine", {"from": source, "arena": "arena", **tables}, [*shape, *ends], note)
    elif each.kind == "scale":
        pointers = {"arena": "arena", "in": tables["in"], "by": tables["mul"], "out": tables["out"]}
        text.call("scale", pointers, [each.outputs, each.pixels, ends[1]], note)
    else:
        pointers = {"from": source, "arena": "arena", "in": tables["in"], "out": tables["out"]}
        text.call("mean", pointers, [each.outputs, size[0] * size[1], ends[1]], note)


def _emit_window(
    text: _Text,
    each: Operation,
    ready: Plan,
    tables: Mapping[str, str],
    weights: str,
    source: str,
    scratch: str,
    exact: int,
) -> None:
    size = _size(each, ready.graph)
    ends = [each.first.upper(), each.last.upper()]
    depthwise = each.is_depthwise or each.kind != "convolution"
    window = _Window.of(each, size, whole=depthwise)
    geometry = [*size, each.height, each.width]
    margins = [each.reach[0], each.top, each.left, *each.stride, window.pitch, window.size, exact]
    note = _note(each, size)
    pointers = {"weights": weights, "from": source, "arena": "arena", "padded": scratch}
    if depthwise:
        kind = {"convolution": "DEPTHWISE", "maximum": "MAXIMUM", "average": "AVERAGE"}[each.kind]
        if kind != "DEPTHWISE":
            pointers["weights"] = "0"
        pointers |= {"places": text.offsets(window.places), **tables}
        constants = [kind, each.outputs, each.taps, *geometry, *margins, *ends]
        text.call("window", pointers, constants, note)
        return
    inputs = len(each.inputs) // each.groups
    step = each.stride[0] * each.stride[1] * window.size
    places = [plane * step + place for plane in range(inputs) for place in window.places]
    pointers["flat"] = f"{scratch} + {rounded(inputs * step + SLACK)}"
    pointers |= {"in": tables["in"], "places": text.offsets(places)}
    pointers |= {name: tables[name] for name in ("out", "mul", "add")}
    cut = tiles(each.outputs // each.groups)
    constants = [each.groups, inputs, each.taps, *cut, *geometry, window.rows, *margins, *ends]
    text.call("convolution", pointers, constants, note)


def _emit_results(text: _Text, ready: Plan) -> None:
    """Copy the outputs, consecutive planes of equal size together."""
    sizes, start, at = ready.graph.sizes(), 0, 0
    results = ready.graph.results
    while start < len(results):
        size = sizes[results[start]]
        end = start
        while end < len(results) and sizes[results[end]] == size:
            end += 1
        pixels = size[0] * size[1]
        table = text.offsets([ready.layout.planes[plane] for plane in results[start:end]])
        text.calls.append(f"    copy(arena, logits + {at}, {table}, {end - start}, {pixels});\n")
        at += (end - start) * pixels
        start = end


def read_program(path: Path) -> Program:
    """Read a ``model.json``.

    Raises:
        ValueError: an invalid program; the message says why.
    """
    program = Program.model_validate(json.loads(path.read_text(encoding="utf-8")))
    program.graph.check()
    for values in (program.mean, program.std):
        if values and len(values) != program.graph.channels:
            raise ValueError(f"{len(values)} means or deviations for {program.graph.channels} channels")
    return program
