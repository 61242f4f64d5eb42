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

from compactnets.deploy.planar import emit_float, emit_int8
from compactnets.deploy.planar.arrays import Weights
from compactnets.deploy.planar.calls import Text
from compactnets.deploy.planar.fuse import fuse, separate_image
from compactnets.deploy.planar.graph import Graph
from compactnets.deploy.planar.integers import Layer
from compactnets.deploy.planar.place import Layout, place, rounded

KERNELS = Path(__file__).parent / "kernels"
TEXTS = ("model.c", "model.h", "example.c", "README.md")
LAYOUT = 1  # of model.bin, one more with every change of what `pack` writes; 0: of releases that did not say it


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
class Plan:
    """A graph ready for code generation."""

    graph: Graph
    layout: Layout
    weights: list[emit_float.Stored]  # where each operation's weights are
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
    stored: list[emit_float.Stored] = []
    for each in graph.operations:
        half = program.precision == "float16" and each.weights is not None and each.weights not in program.wide
        stored.append(emit_float.stored(each, graph, stored[-1].end if stored else 0, half=half))
    own = [emit_float.scratch(each, graph) for each in graph.operations]
    wide = [emit_float.widened(each, kept, graph) for each, kept in zip(graph.operations, stored, strict=True)]
    layout = place(graph, [rounded(one) + other for one, other in zip(own, wide, strict=True)])
    return Plan(graph, layout, stored, stored[-1].end, rounded(max(own)))


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
        for start, content in emit_float.packed(each, own, plan.graph, stored):
            packed[4 * start : 4 * start + len(content)] = content
    return bytes(packed)


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
        "ARENA_BYTES": str(4 * ready.layout.floats),
        "PIXELS_AT": str(4 * ready.layout.scratch[0]),
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
    return emit_float.parts(ready.graph.operations)


def _text(ready: Plan | emit_int8.Plan) -> Text:
    text = Text()
    for index, each in enumerate(ready.graph.operations):
        if isinstance(ready, emit_int8.Plan):
            original = ready.original(index)
            emit_int8.emit_operation(text, index, ready, emit_float.note(original, ready.source))
        else:
            place = ready.layout.scratch[index]
            emit_float.emit_operation(text, each, ready.graph, ready.layout, ready.weights[index], place)
    if isinstance(ready, Plan):
        emit_float.emit_results(text, ready.graph, ready.layout)
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
