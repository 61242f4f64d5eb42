"""A network as a graph of operations on planes: the planar compiler's representation, stored in ``model.json``.

A plane is one channel of one feature map, ``height x width`` numbers. Each plane has an index and is written by one
operation. Shuffles, splits, slices and concatenations are therefore not operations but lists of indices.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, PlainSerializer

ACTIVATIONS = ("none", "relu", "relu6", "sigmoid", "hardsigmoid", "hardswish", "silu")
Activation = Literal["none", "relu", "relu6", "sigmoid", "hardsigmoid", "hardswish", "silu"]
LARGEST = 2**28  # floats in all planes together: offsets are 32-bit integers

Count = Annotated[int, Field(ge=1, le=2**20)]
Plane = Annotated[int, Field(ge=0, le=2**24)]
Pair = tuple[Count, Count]  # (vertical, horizontal)
MOST_PLANES = 2**16  # in one list with runs: a few bytes must not become gigabytes
Byte = Annotated[int, Field(ge=0, le=255)]
Term = Annotated[int, Field(ge=-(2**30), le=2**30)]
Shift = Annotated[int, Field(ge=0, le=20)]
Factor = Annotated[float, Field(gt=0, lt=1e30, allow_inf_nan=False)]
INT8 = ("quantize", "lookup")  # kinds of operations that only int8 networks have


def _expand(given: Any) -> Any:
    """Return a list of planes whose runs, ``[first, count]`` or ``[first, count, step]``, are written out."""
    if not isinstance(given, Sequence) or isinstance(given, str):
        return given  # for the type's own message
    planes: list[Any] = []
    for item in given:
        if isinstance(item, int) or not isinstance(item, Sequence):
            planes.append(item)
            continue
        if len(item) not in (2, 3) or not all(type(number) is int for number in item):
            raise ValueError("a run of planes is [first, count] or [first, count, step]")
        first, count, step = (*item, 1)[:3]
        if not 1 <= count <= MOST_PLANES - len(planes):
            raise ValueError(f"runs of planes have 1 to {MOST_PLANES:,} planes in all, found {count:,} more")
        planes += range(first, first + count * step, step) if step else [first] * count
    return tuple(planes)


def _runs(planes: Sequence[int]) -> list[int | list[int]]:
    """Return a list of planes with its longer runs as :func:`_expand` takes them: most lists are one run."""
    found: list[int | list[int]] = []
    start = 0
    while start < len(planes):
        end = start + 1
        step = planes[end] - planes[start] if end < len(planes) else 1
        while end < len(planes) and planes[end] - planes[end - 1] == step:
            end += 1
        count = end - start
        if count < (3 if step == 1 else 5):  # as numbers it is shorter
            found.append(planes[start])
            start += 1
        else:
            found.append([planes[start], count] if step == 1 else [planes[start], count, step])
            start = end
    return found


Planes = Annotated[tuple[Plane, ...], BeforeValidator(_expand), PlainSerializer(_runs)]


class Numbers(BaseModel):
    """How an operation of an int8 network computes; see ``integers.py``.

    Activations are bytes. A byte q stands for ``scale * (q - zero)``, and what is computed is rounded to the nearest
    byte (halves to even) in units of the output's scale: ``q = clamp(round(value) + zero, low, high)``.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    zero: Byte = 0
    low: Byte = 0
    high: Byte = 255
    zeros: tuple[Byte, ...] = Field((), max_length=2, description="zero point of the inputs, and of the other operand")
    factor: Factor | None = Field(None, description="of the value, unless the layer has one for each output")
    terms: tuple[Term, Term, Term, Shift] | None = Field(
        None, description="of a sum: (a * terms[0] + b * terms[1] + terms[2]) >> terms[3]"
    )
    wide: bool = Field(False, description="whether a value may exceed 32 bits before it is limited to bytes")


class Operation(BaseModel):
    """One operation.

    Its kind's computation is followed by the activation ``first``, multiplication by the planes ``times``, addition of
    the planes ``plus``, and the activation ``last``. Its outputs are ``outputs`` planes, starting at index ``output``.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    kind: Literal[
        "convolution", "maximum", "average", "mean", "dense", "combine", "scale", "resize", "quantize", "lookup"
    ]
    inputs: Planes = Field(min_length=1)
    output: Plane
    outputs: Count
    height: Count = Field(description="height of the outputs")
    width: Count
    groups: Count = 1
    window: Pair = (1, 1)
    stride: Pair = (1, 1)
    dilation: Pair = (1, 1)
    top: Annotated[int, Field(ge=0, le=4096)] = 0
    left: Annotated[int, Field(ge=0, le=4096)] = 0
    first: Activation = "none"
    times: Planes = ()
    plus: Planes = ()
    last: Activation = "none"
    aligned: bool = Field(False, description="of resize: whether the pixels at the corners fall on each other")
    weights: int | None = Field(None, description="index of the layer's weights, for convolutions and dense layers")
    numbers: Numbers | None = Field(None, description="of int8 networks")

    @property
    def made(self) -> range:
        """The planes it writes."""
        return range(self.output, self.output + self.outputs)

    @property
    def read(self) -> tuple[int, ...]:
        """All planes it reads."""
        return (*self.inputs, *self.times, *self.plus)

    @property
    def pixels(self) -> int:
        """Pixels per output plane."""
        return self.height * self.width

    @property
    def taps(self) -> int:
        """Positions in the window."""
        return math.prod(self.window)

    @property
    def is_depthwise(self) -> bool:
        """Whether each output depends on one input, with a window larger than one pixel."""
        return self.kind == "convolution" and self.groups == len(self.inputs) == self.outputs and self.taps > 1

    @property
    def is_pointwise(self) -> bool:
        """Whether it is a 1x1 convolution with stride 1."""
        plain = self.window == self.stride == (1, 1) and self.top == self.left == 0
        return self.kind == "convolution" and plain

    @property
    def reach(self) -> tuple[int, int]:
        """Rows and columns that the dilated window spans."""
        return tuple((size - 1) * step + 1 for size, step in zip(self.window, self.dilation, strict=True))  # type: ignore[return-value]


class Graph(BaseModel):
    """A network for images of one size. The image's planes come first in the numbering."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    channels: Count
    height: Count
    width: Count
    operations: tuple[Operation, ...] = Field(min_length=1)
    results: Planes = Field(min_length=1, description="the outputs, plane by plane")

    def sizes(self) -> list[tuple[int, int]]:
        """Return height and width of every plane, after :meth:`check`."""
        found = [(self.height, self.width)] * self.channels
        for each in self.operations:
            found += [(each.height, each.width)] * each.outputs
        return found

    @property
    def outputs(self) -> int:
        """Number of values that a run returns."""
        sizes = self.sizes()
        return sum(math.prod(sizes[plane]) for plane in self.results)

    def check(self) -> None:
        """Raise :class:`ValueError` unless every operation reads existing planes of matching sizes."""
        sizes = [(self.height, self.width)] * self.channels
        for number, each in enumerate(self.operations):
            where = f"operation {number} ({each.kind})"
            if each.output != len(sizes):
                raise ValueError(f"{where} writes planes from {each.output}, expected {len(sizes)}")
            if any(plane >= len(sizes) for plane in each.read):
                raise ValueError(f"{where} reads a plane that no earlier operation writes")
            if problem := _problem(each, {sizes[plane] for plane in each.inputs}):
                raise ValueError(f"{where}: {problem}")
            others = [sizes[plane] for plane in (*each.times, *each.plus)]
            wanted = (1, 1) if each.kind == "scale" else (each.height, each.width)
            if any(size != wanted for size in others):
                raise ValueError(f"{where} combines planes of different sizes")
            sizes += [(each.height, each.width)] * each.outputs
            if sum(height * width for height, width in sizes) > LARGEST:
                raise ValueError("too many pixels")
        if any(plane >= len(sizes) for plane in self.results):
            raise ValueError("the outputs contain a plane that no operation writes")


def _problem(each: Operation, sizes: set[tuple[int, int]]) -> str | None:
    """Return what is wrong with one operation, given its inputs' sizes; ``None`` if nothing is."""
    if len(sizes) > 1:
        return "its inputs differ in size"
    (size,) = sizes
    for planes in (each.times, each.plus):
        if planes and len(planes) != each.outputs:
            return f"{len(planes)} planes are combined with {each.outputs}"
    if (each.weights is not None) != (each.kind in ("convolution", "dense", "lookup")):
        return "it has weights and needs none, or needs some and has none"
    if each.kind not in ("convolution", "dense") and len(each.inputs) != each.outputs:
        return f"{len(each.inputs)} inputs for {each.outputs} outputs"
    if each.aligned and each.kind != "resize":
        return "only a resize has corners to align"
    if each.kind == "resize":
        return None
    if each.kind in ("mean", "dense"):
        return None if (each.height, each.width) == (1, 1) else "its outputs have more than one pixel"
    if each.kind in ("combine", "scale", *INT8):
        if each.kind == "scale" and (not each.times or each.plus or each.first != "none"):
            return "a scale multiplies by planes of one pixel and does nothing else"
        return None if size == (each.height, each.width) else "input and output differ in size"
    if each.kind == "convolution" and (len(each.inputs) % each.groups or each.outputs % each.groups):
        return f"{each.groups} groups do not divide its planes"
    if any(step > 16 for step in each.stride):
        return f"its stride {each.stride} exceeds 16"
    if each.kind == "average" and each.window == each.stride == (1, 1):
        return None  # a copy with margins of zeros
    for axis, margin in enumerate((each.top, each.left)):
        start = ((each.height, each.width)[axis] - 1) * each.stride[axis]
        if margin >= each.reach[axis] or start >= size[axis] + margin:
            return "a window lies outside the plane"
    return None
