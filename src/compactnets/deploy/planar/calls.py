"""What float and int8 networks share in generated C: tables of offsets, calls of kernels, padded windows, tiles."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from compactnets.deploy.planar.graph import Operation
from compactnets.deploy.planar.place import LINE, rounded

TILE = 6  # output planes of the tallest register tile: ROWS of pointwise.c
BAND = 24576  # bytes of padded rows that a convolution processes at a time
SLACK = 2 * LINE  # floats that may be read or written past the end of a row


@dataclass
class Text:
    """The program under construction: tables of offsets, layer functions, calls."""

    table: list[int] = field(default_factory=list)
    tables: dict[tuple[int, ...], int] = field(default_factory=dict)
    functions: dict[tuple[Any, ...], str] = field(default_factory=dict)
    bodies: list[str] = field(default_factory=list)
    calls: list[str] = field(default_factory=list)
    steps: list[str] = field(default_factory=list)  # the kind of operator of each call, for the profiler

    def offsets(self, values: Sequence[int]) -> str:
        """Return an expression for a table of these offsets; equal tables are shared."""
        if not values:
            return "0"
        key = tuple(values)
        if key not in self.tables:
            self.tables[key] = len(self.table)
            self.table += key
        return f"planes + {self.tables[key]}"

    def call(
        self, kernel: str, pointers: Mapping[str, str], constants: Sequence[object], kind: str, note: str = ""
    ) -> None:
        """Append a kernel call, through a separate function for each set of constants."""
        absent = tuple(name for name, value in pointers.items() if value == "0")
        key = (kernel, *constants, absent)
        given = {name: value for name, value in pointers.items() if value != "0"}
        if key not in self.functions:
            self.functions[key] = name = f"{kernel}_{len(self.functions)}"
            parameters = ", ".join(f"{_type(pointer)}{pointer}" for pointer in given)
            passed = ", ".join([*(pointer if pointer in given else "0" for pointer in pointers), *map(str, constants)])
            self.bodies.append(f"LAYER void {name}({parameters}) {{\n    {kernel}({passed});\n}}\n")
        comment = f"    /* {note} */\n" if note else ""
        self.calls.append(
            f"{comment}    {self.functions[key]}({', '.join(given.values())}); AFTER({len(self.steps)})\n"
        )
        self.steps.append(kind)


def _type(pointer: str) -> str:
    if pointer in ("in", "out", "mul", "add", "places", "by", "ends"):
        return "const int32_t *"
    if pointer in ("bytes", "raw"):
        return "const uint8_t *" if pointer == "bytes" else "const int "
    return "const float *" if pointer in ("weights", "biases", "factors", "table", "from") else "float *"


@dataclass(frozen=True)
class Window:
    """Padding of the planes of an operation with a window (see ``padding.c``); lengths in floats."""

    pitch: int  # distance between rows
    size: int  # of a phase
    rows: int  # output rows in a band
    places: tuple[int, ...]  # offsets of the window's positions in a padded plane
    flat: int  # size of an output plane of a band, at the pitch of the padded rows

    @classmethod
    def of(cls, each: Operation, size: tuple[int, int], whole: bool, most: int = BAND) -> Window:
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
            if whole or rows == 1 or 4 * inputs * area * step_y * step_x <= most:
                break
            rows = -(-rows // 2)
        places = []
        for y in range(0, reach_y, each.dilation[0]):
            for x in range(0, reach_x, each.dilation[1]):
                phase = y % step_y * step_x + x % step_x
                places.append(phase * area + y // step_y * pitch + x // step_x)
        flat = rounded((rows - 1) * pitch + each.width) + LINE
        return cls(pitch, area, rows, tuple(places), flat)


def tiles(outputs: int, tallest: int = TILE) -> tuple[int, int, int]:
    """Split a group's outputs into tiles: return height and number of the tall ones, and the number one row lower."""
    number = -(-outputs // tallest)
    high = -(-outputs // number)
    small = high * number - outputs
    return high, number - small, small
