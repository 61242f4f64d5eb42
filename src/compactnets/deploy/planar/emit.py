"""Generate a network's C source: the kernels of ``kernels/``, a function for each kind of layer, and the calls.

Output is deterministic: the source depends only on the graph, the packed weights only on graph and weights.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Literal

import numpy as np
from pydantic import BaseModel, ConfigDict, Field

from compactnets.deploy.operators import convolution
from compactnets.deploy.planar import emit_int8
from compactnets.deploy.planar.arrays import Weights
from compactnets.deploy.planar.calls import SLACK, TILE, Text, Window, tiles
from compactnets.deploy.planar.fuse import fuse, separate_image
from compactnets.deploy.planar.graph import Graph, Operation
from compactnets.deploy.planar.integers import Layer
from compactnets.deploy.planar.place import LINE, Layout, place, rounded

KERNELS = Path(__file__).parent / "kernels"
PARTS = ("vector.c", "pointwise.c", "padding.c", "convolution.c", "window.c", "planes.c")
RESIZE = "resize.c"  # only of networks that scale maps
TEXTS = ("model.c", "model.h", "example.c", "README.md")
LAYOUT = 1  # of model.bin, one more with every change of what `pack` writes; 0: of releases that did not say it
BLOCK = 64  # pixels of the widest register tile: WIDE vectors of pointwise.c
PANEL = 12  # tiles that make a panel of such a block worth while
FEW = 64  # up to this many pixels, weights are read once, tile by tile


class Program(BaseModel):
    """The content of ``model.json``: everything that ``model.c`` is generated from, except the weights."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str = Field("model", pattern=r"^[a-z][a-z0-9_]{0,63}$")
    layout: int = Field(0, ge=0, description="of the weights in model.bin: LAYOUT of the release that wrote them")
    graph: Graph
    precision: Literal["float32", "float16", "int8"] = Field("float32", description="of the weights that are stored")
    wide: tuple[int, ...] = Field((), description="numbers of the weights that stay float32 in any case")
    embed: bool = Field(False, description="whether model.c holds the weights as well")
    mean: tuple[float, ...] = ()
    std: tuple[float, ...] = ()
    crop: float | None = Field(
        1.0, gt=0, le=1, description="share of the shorter edge that the network sees; None: all of both edges"
    )
    labels: tuple[str, ...] = ()
    shape: tuple[int, int, int] | tuple[()] = Field((), description="of the output for one image, if it is no vector")
    network: str = ""


@dataclass(frozen=True)
class _Stored:
    """Where an operation's weights are, in floats from the beginning of ``model.bin``: whole cache lines each."""

    weights: int = 0
    biases: int = 0
    count: int = 0  # of the weights
    half: bool = False  # 16 bits each
    end: int = 0


@dataclass(frozen=True)
class Plan:
    """A graph ready for code generation."""

    graph: Graph
    layout: Layout
    weights: list[_Stored]  # where each operation's weights are
    floats: int  # total size of the weights
    own: int  # floats of private scratch per thread


@cache
def _kernel(name: str) -> str:
    return (KERNELS / name).read_text(encoding="utf-8")


def layout_of(precision: str) -> int:
    """Return the layout of ``model.bin`` that this release writes."""
    return emit_int8.LAYOUT if precision == "int8" else LAYOUT


def plan(program: Program) -> Plan | emit_int8.Plan:
    """Fuse a traced graph, or arrange one of int8 in quads, and allocate planes and weights."""
    if program.precision == "int8":
        return emit_int8.plan(program.graph)
    graph = fuse(separate_image(program.graph))
    stored: list[_Stored] = []
    for each in graph.operations:
        start = stored[-1].end if stored else 0
        half = program.precision == "float16" and each.weights is not None and each.weights not in program.wide
        count, biases = _weight_count(each, graph)
        middle = start + rounded(-(-count // 2) if half else count)
        stored.append(_Stored(start, middle, count, half, middle + rounded(biases)))
    own = [_scratch(each, graph) for each in graph.operations]
    wide = [_widened(each, kept, graph) for each, kept in zip(graph.operations, stored, strict=True)]
    layout = place(graph, [rounded(one) + other for one, other in zip(own, wide, strict=True)])
    return Plan(graph, layout, stored, stored[-1].end, rounded(max(own)))


def _tile_rows(outputs: int) -> Iterable[range]:
    high, tall, small = tiles(outputs)
    start = 0
    for rows in [high] * tall + [high - 1] * small:
        yield range(start, start + rows)
        start += rows


def _size(each: Operation, graph: Graph) -> tuple[int, int]:
    return graph.sizes()[each.inputs[0]]


def _is_dense(each: Operation, graph: Graph) -> bool:
    """Whether it is a matrix-vector product, such as a pointwise convolution of one-pixel planes."""
    single = each.is_pointwise and each.groups == 1 and each.pixels == 1 and not each.times and not each.plus
    return each.kind == "dense" or (single and each.first == "none")


def _scratch(each: Operation, graph: Graph) -> int:
    if _is_dense(each, graph):
        return _dense_row(each, graph)
    if each.is_pointwise:  # panels
        inputs = len(each.inputs) // each.groups
        return inputs * (rounded(each.pixels) if each.pixels <= FEW else BLOCK if _has_panel(each) else 0)
    if each.kind == "resize":
        return 4 * rounded(each.width)
    if each.kind not in ("convolution", "maximum", "average"):
        return 0
    size = _size(each, graph)
    phases = each.stride[0] * each.stride[1]
    if each.is_depthwise or each.kind != "convolution":
        return Window.of(each, size, whole=True).size * phases + SLACK
    window = Window.of(each, size, whole=False)
    return rounded(len(each.inputs) // each.groups * window.size * phases + SLACK) + TILE * window.flat + SLACK


def _has_panel(each: Operation) -> bool:
    """Whether a pointwise convolution of many pixels copies its inputs to a panel, for enough tiles to read it."""
    _, tall, small = tiles(each.outputs // each.groups)
    return tall + small >= PANEL


def _dense_row(each: Operation, graph: Graph) -> int:
    height, width = _size(each, graph)
    return rounded(len(each.inputs) * height * width)


def _weight_count(each: Operation, graph: Graph) -> tuple[int, int]:
    """Return how many weights and biases an operation has, a dense layer's rows being padded."""
    if each.weights is None:
        return 0, 0
    if _is_dense(each, graph):
        rows = -(-each.outputs // 4) * 4
        return rows * _dense_row(each, graph), rows
    return each.outputs * (len(each.inputs) // each.groups) * each.taps, each.outputs


def _widened(each: Operation, stored: _Stored, graph: Graph) -> int:
    """Return the floats of scratch for a layer's float16 weights as float32; a dense layer reads each only once."""
    return rounded(stored.count) if stored.half and not _is_dense(each, graph) else 0


def find_wide(weights: Sequence[Weights]) -> tuple[int, ...]:
    """Return the indices of weights beyond the range of float16."""
    largest = float(np.finfo(np.float16).max)
    return tuple(number for number, each in enumerate(weights) if not (np.abs(each.weight) <= largest).all())


def pack(plan: Plan | emit_int8.Plan, weights: Sequence[Weights] | Sequence[Layer]) -> bytes:
    """Return the content of ``model.bin``: per layer, the weights in the order that the kernels read them, then biases.

    Raises:
        ValueError: the weights' shapes differ from the graph's.
    """
    if isinstance(plan, emit_int8.Plan):
        return emit_int8.pack(plan, [each for each in weights if isinstance(each, Layer)])
    packed = bytearray(4 * plan.floats)
    for each, stored in zip(plan.graph.operations, plan.weights, strict=True):
        if each.weights is None:
            continue
        own = weights[each.weights]
        assert isinstance(own, Weights)
        values, biases = _packed(each, own, plan.graph)
        if values.size != stored.count:
            raise ValueError(f"{values.size} weights for an operation that has {stored.count}")
        for start, content in (
            (stored.weights, values.astype("<f2" if stored.half else "<f4").tobytes()),
            (stored.biases, biases.astype("<f4").tobytes()),
        ):
            packed[4 * start : 4 * start + len(content)] = content
    return bytes(packed)


def _packed(each: Operation, own: Weights, graph: Graph) -> tuple[np.ndarray, np.ndarray]:
    matrix = own.weight.reshape(each.outputs, -1)  # (outputs, inputs of a group x places of the window)
    if _is_dense(each, graph):
        rows, row = -(-each.outputs // 4) * 4, _dense_row(each, graph)
        values, biases = np.zeros((rows, row), np.float32), np.zeros(rows, np.float32)
        values[: each.outputs, : matrix.shape[1]], biases[: each.outputs] = matrix, own.bias
        return values.reshape(rows // 4, 4, row // LINE, LINE).swapaxes(1, 2).ravel(), biases
    if each.is_depthwise:
        return matrix.ravel(), own.bias
    per_group = each.outputs // each.groups
    parts = [
        matrix[group * per_group + rows.start : group * per_group + rows.stop].T.ravel()
        for group in range(each.groups)
        for rows in _tile_rows(per_group)
    ]
    return np.concatenate(parts), own.bias


def emit(program: Program, packed: bytes = b"") -> dict[str, str]:
    """Return the content of ``model.c``, ``model.h``, ``example.c`` and ``README.md``, by name.

    Args:
        program: what they are generated from.
        packed: the content of ``model.bin``, for a program that embeds it.
    """
    ready = plan(program)
    text = _text(ready)
    values = {
        "NAME": program.name,
        "GUARD": program.name.upper(),
        "NETWORK": _comment(program.network or program.name),
        "CHANNELS": str(program.graph.channels),
        "HEIGHT": str(program.graph.height),
        "WIDTH": str(program.graph.width),
        "OUTPUTS": str(program.graph.outputs),
        "ARENA_FLOATS": str(ready.layout.floats),
        "OWN_FLOATS": str(ready.own),
        "WEIGHT_BYTES": str(4 * ready.floats),
        "SCALES": _list(_scales(program)[0]),
        "SHIFTS": _list(_scales(program)[1]),
        "CROP": f"{program.crop or 1:.9g}",
        "IMAGE": str(ready.layout.planes[0]),
        "KERNELS": "\n".join(_kernel(name).rstrip() + "\n" for name in _parts(ready)),
        "PIXELS": _pixel_bytes(program),
        "STEPS": str(len(text.steps)),
        "PLANES": _wrapped(text.table),
        "NUMBERS": _words(packed) if program.embed else "",
        "BITS": {"float32": "32-bit floats", "float16": "16-bit floats", "int8": "8-bit integers"}[program.precision],
        "LAYERS": "\n".join(text.bodies),
        "CALLS": "".join(text.calls),
        "LABELS": "".join(f"    {_literal(label)},\n" for label in program.labels),
    }
    colour = program.graph.channels == 3
    values |= {"IMAGE_KIND": "PPM" if colour else "PGM", "IMAGE_NUMBER": "6" if colour else "5"}
    values |= {"IMAGE_FILE": "image.ppm" if colour else "image.pgm"}
    names = ("CLASSES", "MAP_HEIGHT", "MAP_WIDTH")
    values |= dict(zip(names, map(str, program.shape or (0, 0, 0)), strict=True))
    chosen = {"EMBED": program.embed, "COLOUR": colour, "CROP": program.crop is not None, "MAP": bool(program.shape)}
    chosen["QUADS"] = program.precision == "int8"
    return {name: _filled(f"{name}.in", values, chosen) for name in TEXTS}


def _parts(ready: Plan | emit_int8.Plan) -> Sequence[str]:
    if isinstance(ready, emit_int8.Plan):
        return emit_int8.PARTS
    scaled = any(each.kind == "resize" for each in ready.graph.operations)
    return [*PARTS, *([RESIZE] if scaled else [])]


def _text(ready: Plan | emit_int8.Plan) -> Text:
    text = Text()
    for index, each in enumerate(ready.graph.operations):
        if isinstance(ready, emit_int8.Plan):
            original = ready.original(index)
            emit_int8.emit_operation(text, index, ready, _note(original, _size(original, ready.source)))
        else:
            _emit_operation(text, each, ready, index)
    if isinstance(ready, Plan):
        _emit_results(text, ready)
    return text


def steps(program: Program) -> list[str]:
    """Return the kind of operator of each of the steps that are timed with ``-DPLANAR_PROFILE``."""
    return _text(plan(program)).steps


def _filled(name: str, values: Mapping[str, str], chosen: Mapping[str, bool]) -> str:
    text = re.sub(r"^(@(?:IF [A-Z]+|ELSE|END)@)\n", r"\1", _kernel(name), flags=re.MULTILINE)
    text = re.sub(
        r"@IF ([A-Z]+)@(.*?)(?:@ELSE@(.*?))?@END@",
        lambda match: (match[2] if chosen[match[1]] else match[3]) or "",
        text,
        flags=re.DOTALL,
    )
    return re.sub(r"@([A-Z_]+)@", lambda match: values[match[1]], text)


def _scales(program: Program) -> tuple[list[float], list[float]]:
    channels = program.graph.channels
    mean, std = program.mean or (0.0,) * channels, program.std or (1.0,) * channels
    return [1 / 255 / each for each in std], [-m / s for m, s in zip(mean, std, strict=True)]


def _pixel_bytes(program: Program) -> str:
    if program.precision != "int8":
        return ""
    return _wrapped(emit_int8.pixel_bytes(program.graph, *_scales(program)).ravel().tolist())


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


def _words(packed: bytes) -> str:
    """Return the weights as numbers of C, eight in a line."""
    words = [f"0x{word:08x}u," for word in np.frombuffer(packed, "<u4").tolist()]
    return "\n".join(f"    {' '.join(words[start : start + 8])}" for start in range(0, len(words), 8))


def _comment(text: str) -> str:
    return re.sub(r"[^\w .,:+()-]", "_", text, flags=re.ASCII)


def _literal(text: str) -> str:
    """Return a C string literal; all bytes except letters, digits and spaces are escaped."""
    plain = [
        chr(byte) if chr(byte).isalnum() and byte < 128 or byte == 32 else f"\\{byte:03o}" for byte in text.encode()
    ]
    return f'"{"".join(plain)}"'


def describe(each: Operation) -> str:
    """Return the kind of an operation, as the profilers of other runtimes are read."""
    if each.kind == "convolution":
        return convolution(each.window, each.groups, len(each.inputs) // each.groups)
    names = {"maximum": "max_pool", "average": "avg_pool", "dense": "linear"}
    return names.get(each.kind, each.kind)


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


def _emit_operation(text: Text, each: Operation, ready: Plan, index: int) -> None:
    graph, layout = ready.graph, ready.layout
    size, where = _size(each, graph), layout.planes
    from_image = each.inputs[0] < graph.channels
    step = graph.height * graph.width
    ends = [each.first.upper(), each.last.upper()]
    note, kind = _note(each, size), describe(each)
    scratch = f"own(arena, {layout.scratch[index]})"
    stored = ready.weights[index]
    weights, biases = f"weights + {stored.weights}", f"weights + {stored.biases}"
    if wide := _widened(each, stored, graph):
        place = f"arena + {layout.scratch[index] + rounded(_scratch(each, graph))}"
        text.call("widen", {"weights": weights, "to": place}, [wide], "float16 to float32")
        weights = place
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
        pointers = {"weights": weights, "biases": biases, "from": source, "arena": "arena", "x": scratch}
        pointers |= {"in": tables["in"], "out": tables["out"]}
        shape = [len(each.inputs), size[0] * size[1], row, each.outputs, int(stored.half)]
        text.call("dense", pointers, [*shape, ends[1]], kind, note)
    elif each.is_pointwise:
        kernel = "pointwise_few" if each.pixels <= FEW else "pointwise"
        shape = [each.groups, len(each.inputs) // each.groups, *tiles(each.outputs // each.groups), each.pixels]
        pointers = {"weights": weights, "biases": biases, "from": source, "arena": "arena"}
        pointers["panel"] = scratch if each.pixels <= FEW or _has_panel(each) else "0"
        pointers |= tables
        text.call(kernel, pointers, [*shape, *ends], kind, note)
    elif each.kind in ("convolution", "maximum", "average"):
        pointers = {"weights": weights, "biases": biases, "from": source, "arena": "arena", "padded": scratch}
        _emit_window(text, each, ready, tables, pointers, exact)
    elif each.kind == "combine":
        shape = [each.outputs, each.pixels, exact]
        text.call("combine", {"from": source, "arena": "arena", **tables}, [*shape, *ends], kind, note)
    elif each.kind == "resize":
        shape = [each.outputs, *size, each.height, each.width, int(each.aligned)]
        text.call(
            "resize", {"from": source, "arena": "arena", "scratch": scratch, **tables}, [*shape, *ends], kind, note
        )
    elif each.kind == "scale":
        pointers = {"arena": "arena", "in": tables["in"], "by": tables["mul"], "out": tables["out"]}
        text.call("scale", pointers, [each.outputs, each.pixels, ends[1]], kind, note)
    else:
        pointers = {"from": source, "arena": "arena", "in": tables["in"], "out": tables["out"]}
        text.call("mean", pointers, [each.outputs, size[0] * size[1], ends[1]], kind, note)


def _emit_window(
    text: Text,
    each: Operation,
    ready: Plan,
    tables: Mapping[str, str],
    pointers: dict[str, str],
    exact: int,
) -> None:
    size = _size(each, ready.graph)
    ends = [each.first.upper(), each.last.upper()]
    depthwise = each.is_depthwise or each.kind != "convolution"
    window = Window.of(each, size, whole=depthwise)
    geometry = [*size, each.height, each.width]
    margins = [each.reach[0], each.top, each.left, *each.stride, window.pitch, window.size, exact]
    note, what = _note(each, size), describe(each)
    if depthwise:
        kind = {"convolution": "DEPTHWISE", "maximum": "MAXIMUM", "average": "AVERAGE"}[each.kind]
        if kind != "DEPTHWISE":
            pointers["weights"] = pointers["biases"] = "0"
        pointers |= {"places": text.offsets(window.places), **tables}
        constants = [kind, each.outputs, *each.window, *geometry, *margins, *ends]
        text.call("window", pointers, constants, what, note)
        return
    inputs = len(each.inputs) // each.groups
    step = each.stride[0] * each.stride[1] * window.size
    places = [plane * step + place for plane in range(inputs) for place in window.places]
    pointers |= {"in": tables["in"], "places": text.offsets(places)}
    pointers |= {name: tables[name] for name in ("out", "mul", "add")}
    cut = tiles(each.outputs // each.groups)
    behind = rounded(inputs * step + SLACK)
    constants = [each.groups, inputs, each.taps, *cut, *geometry, window.rows, *margins, behind, *ends]
    text.call("convolution", pointers, constants, what, note)


def _emit_results(text: Text, ready: Plan) -> None:
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
        pointers = {"arena": "arena", "to": f"logits + {at}", "in": table}
        text.call("copy", pointers, [end - start, pixels], "copy")
        at += (end - start) * pixels
        start = end


def limit_source() -> str:
    """Return the C of a loop of multiply-adds in registers alone: the limit of whatever it is compiled for."""
    return _filled("limit.c.in", {"KERNELS": _kernel("vector.c").rstrip() + "\n"}, {})


def read_program(path: Path) -> Program:
    """Read a ``model.json``.

    Raises:
        ValueError: an invalid program; the message says why.
    """
    program = Program.model_validate(json.loads(path.read_text(encoding="utf-8")))
    program.graph.check()
    emit_int8.check(program.graph, program.precision == "int8")
    if program.shape and math.prod(program.shape) != program.graph.outputs:
        raise ValueError(f"an output of shape {program.shape} for {program.graph.outputs} numbers")
    for values in (program.mean, program.std):
        if values and len(values) != program.graph.channels:
            raise ValueError(f"{len(values)} means or deviations for {program.graph.channels} channels")
    return program
