"""Turn a traced int8 network into a graph of operations on integers.

An activation is a byte q that stands for ``scale * (q - zero)``. A traced network (``trace.py``) has a "quantize"
operation wherever a runtime holds a tensor. Here, each of them moves into the operation that computes the tensor,
whose :class:`Numbers` then say how its result becomes bytes. What is left computes in integers, except for one
multiplication by a float32 factor for each value that is rounded: any target gets the same bits.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from compactnets.deploy.planar.arrays import UnsupportedError, Weights
from compactnets.deploy.planar.graph import Graph, Numbers, Operation

SUM_BITS = 15  # of the factors of a sum
LIMIT = 2**30  # values up to here become 32-bit integers on any target


@dataclass(frozen=True)
class Layer:
    """Numbers of an operation that are stored in ``model.bin``.

    Attributes:
        weight: int8, (outputs, inputs per group, rows, columns); of a lookup, its table of 256 bytes.
        bias: int32, one per output. The zero point of the inputs is part of it: sums run over the bytes themselves.
        factors: float32, one per output: the sums in units of the output's scale.
    """

    weight: np.ndarray
    bias: np.ndarray
    factors: np.ndarray


@dataclass(frozen=True)
class Held:
    """A plane of bytes: its number in the new graph, and what they stand for."""

    plane: int
    scale: float
    zero: int


@dataclass(frozen=True)
class _Pending:
    """A traced operation that is computed once the scale of its result is known, and the planes that stand for it."""

    operation: Operation
    planes: range
    activation: str = "none"


@dataclass
class Lowering:
    """Operations on integers as far as they are known.

    Attributes:
        weights: of the traced network.
        planes: how many there are so far, the image's included.
        held: what stands for each traced plane that is quantised.
        pending: what computes each traced plane whose scale is not known yet.
    """

    weights: Sequence[Weights]
    planes: int
    operations: list[Operation] = field(default_factory=list)
    layers: list[Layer] = field(default_factory=list)
    held: dict[int, Held] = field(default_factory=dict)
    pending: dict[int, _Pending] = field(default_factory=dict)

    def add(self, like: Operation, layer: Layer | None = None, **update: object) -> range:
        number = None
        if layer is not None:
            number = len(self.layers)
            self.layers.append(layer)
        made = like.model_copy(update={**update, "output": self.planes, "weights": number})
        self.operations.append(made)
        self.planes += made.outputs
        return made.made

    def hold(self, planes: Sequence[int], made: Sequence[int], scale: float, zero: int) -> None:
        self.held.update((old, Held(new, scale, zero)) for old, new in zip(planes, made, strict=True))

    def read(self, planes: Sequence[int], what: str) -> tuple[tuple[int, ...], float, int]:
        """Return the planes' numbers in the new graph, and their common scale and zero point."""
        found = [self.held.get(plane) for plane in planes]
        if any(each is None for each in found):
            raise UnsupportedError(
                f"format c computes int8 networks in integers throughout, found {what} with an input in float"
            )
        known = [each for each in found if each is not None]
        if len({(each.scale, each.zero) for each in known}) > 1:
            raise UnsupportedError(f"format c supports int8 {what} of inputs with one scale, found several")
        return tuple(each.plane for each in known), known[0].scale, known[0].zero


def lower(graph: Graph, weights: Sequence[Weights]) -> tuple[Graph, list[Layer]]:
    """Return the graph on integers of a traced int8 network, and its layers.

    Raises:
        UnsupportedError: a part in float, or an operation that has no integer form.
    """
    low, results = lower_operations(graph, weights)
    integers = Graph(
        channels=graph.channels,
        height=graph.height,
        width=graph.width,
        operations=tuple(low.operations),
        results=results,
    )
    integers = _used(integers)
    integers.check()
    return integers, low.layers


def lower_operations(graph: Graph, weights: Sequence[Weights]) -> tuple[Lowering, tuple[int, ...]]:
    """Return every operation on integers, also those that nothing reads, and the planes of the results.

    Raises:
        UnsupportedError: as :func:`lower` raises it.
    """
    low = Lowering(weights, graph.channels)
    image = range(graph.channels)
    for each in graph.operations:
        if each.kind == "quantize":
            _quantize(low, each, image)
        elif each.kind == "maximum":
            inputs, scale, zero = low.read(each.inputs, "pooling")
            low.hold(each.made, low.add(each, inputs=inputs, numbers=Numbers(zero=zero, zeros=(0,))), scale, zero)
        elif each.kind == "combine" and not each.times and not each.plus and each.inputs[0] in low.pending:
            before = low.pending[each.inputs[0]]
            if each.inputs != tuple(before.planes) or before.activation != "none":
                raise UnsupportedError(f"format c does not support an int8 {each.last} of several operations")
            after = replace(before, planes=each.made, activation=each.last)
            low.pending.update((plane, after) for plane in each.made)
        else:
            low.pending.update((plane, _Pending(each, each.made)) for plane in each.made)
    return low, _results(low, graph)


def _quantize(low: Lowering, mark: Operation, image: range) -> None:
    assert mark.numbers is not None
    assert mark.numbers.factor is not None
    scale, zero = mark.numbers.factor, mark.numbers.zero
    start = 0
    while start < len(mark.inputs):
        plane = mark.inputs[start]
        if plane in image:
            end = len(mark.inputs)
            numbers = Numbers(zero=zero, factor=_single(float(1 / np.float32(scale))))
            if any(other not in image for other in mark.inputs):
                raise UnsupportedError("format c does not support an int8 network that concatenates its image")
            made: Sequence[int] = low.add(mark, numbers=numbers)
        elif plane in low.held:
            numbers_of = {(low.held[p].scale, low.held[p].zero) for p in mark.inputs[start:] if p in low.held}
            end = start
            while end < len(mark.inputs) and mark.inputs[end] in low.held:
                end += 1
            if numbers_of == {(scale, zero)}:
                made = [low.held[p].plane for p in mark.inputs[start:end]]
            else:
                made = _lookup(low, mark, mark.inputs[start:end], "none", scale, zero)
        else:
            pending = low.pending[plane]
            end = start + len(pending.planes)
            if mark.inputs[start:end] != tuple(pending.planes):
                what = pending.operation.kind
                raise UnsupportedError(f"format c does not support an int8 {what} that is quantised in parts")
            made = _finish(low, pending, scale, zero)
        low.hold(list(mark.made)[start:end], made, scale, zero)
        start = end


def _finish(low: Lowering, pending: _Pending, scale: float, zero: int) -> Sequence[int]:
    """Append a pending operation, now that its result has a scale and a zero point."""
    each = pending.operation
    inputs, own, own_zero = low.read(each.inputs, each.kind)
    lowest, highest = _limits(pending.activation, scale, zero)
    end = Numbers(zero=zero, low=lowest, high=highest, zeros=(own_zero,))
    if each.kind in ("convolution", "dense"):
        layer = _layer(low, each, own, own_zero, scale)
        change: dict[str, object] = {"inputs": inputs, "numbers": _bounded(end, layer)}
        if each.kind == "dense":  # a convolution with a window of all pixels
            size = _square(layer.weight, len(inputs))
            layer = replace(layer, weight=layer.weight.reshape(each.outputs, len(inputs), *size))
            change |= {"kind": "convolution", "window": size}
        return low.add(each, layer, **change)
    if each.kind == "mean":
        pixels = _pixels(low, inputs[0])
        end = end.model_copy(update={"factor": _single(own / (scale * pixels))})
        return low.add(each, inputs=inputs, numbers=end)
    if each.kind in ("combine", "scale") and (each.times or each.plus) and each.first == each.last == "none":
        others, other, other_zero = low.read(each.times or each.plus, each.kind)
        how: dict[str, object] = {"zeros": (own_zero, other_zero)}
        if each.plus:
            how["terms"] = sum_terms(own / scale, other / scale, own_zero, other_zero)
        else:
            how["factor"] = _single(own * other / scale)
        end = end.model_copy(update=how)
        changed: dict[str, object] = {"times" if each.times else "plus": others}
        return low.add(each, None, inputs=inputs, numbers=end, **changed)
    if each.kind == "combine" and pending.activation == "none":
        return _lookup(low, each, each.inputs, each.last, scale, zero)
    what = "average that does not count its padding" if each.kind == "average" else each.kind
    raise UnsupportedError(f"format c does not support int8 for this network: it has no int8 {what}")


def _layer(low: Lowering, each: Operation, own: float, zero: int, scale: float) -> Layer:
    assert each.weights is not None
    given = low.weights[each.weights]
    if given.scales is None:
        raise UnsupportedError(
            f"format c computes int8 networks in integers throughout, found a {each.kind} with weights in float"
        )
    sums = given.weight.reshape(each.outputs, -1).astype(np.int64).sum(1)
    bias = given.bias.astype(np.int64) - zero * sums
    reach = np.abs(bias) + 255 * np.abs(given.weight.reshape(each.outputs, -1).astype(np.int64)).sum(1)
    if reach.max(initial=0) >= 2**31:
        raise UnsupportedError(f"format c computes int8 in sums of 32 bits: those of a {each.kind} may be larger")
    return Layer(given.weight, bias.astype(np.int32), (given.scales * own / scale).astype(np.float32))


def _bounded(numbers: Numbers, layer: Layer) -> Numbers:
    """Say whether values may be too large to become integers before they are limited."""
    weight = np.abs(layer.weight.reshape(len(layer.bias), -1).astype(np.int64)).sum(1)
    largest = (np.abs(layer.bias.astype(np.int64)) + 255 * weight) * layer.factors.astype(np.float64)
    return numbers.model_copy(update={"wide": bool(largest.max(initial=0) >= LIMIT)})


def _square(weight: np.ndarray, inputs: int) -> tuple[int, int]:
    pixels = weight.shape[1] // inputs
    side = math.isqrt(pixels)
    if side * side != pixels:
        raise UnsupportedError("format c supports int8 dense layers of square maps, found another")
    return side, side


def _pixels(low: Lowering, plane: int) -> int:
    return next(each.pixels for each in low.operations if plane in each.made)


def _limits(activation: str, scale: float, zero: int) -> tuple[int, int]:
    if activation == "none":
        return 0, 255
    if activation == "relu":
        return zero, 255
    if activation == "relu6":
        return zero, min(255, zero + int(np.rint(np.float32(6) * (1 / np.float32(scale)))))
    raise UnsupportedError(f"format c does not support an int8 {activation} in front of a quantiser")


FUNCTIONS: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "none": lambda x: x,
    "relu": lambda x: np.maximum(x, 0),
    "relu6": lambda x: np.clip(x, 0, 6),
    "sigmoid": lambda x: 1 / (1 + np.exp(-x)),
    "hardsigmoid": lambda x: np.clip(x + 3, 0, 6) / 6,
    "hardswish": lambda x: x * np.clip(x + 3, 0, 6) / 6,
    "silu": lambda x: x / (1 + np.exp(-x)),
}


def _lookup(
    low: Lowering, each: Operation, planes: Sequence[int], function: str, scale: float, zero: int
) -> Sequence[int]:
    """Append a function of single bytes, as a table of its 256 values."""
    inputs, own, own_zero = low.read(planes, function)
    values = FUNCTIONS[function](own * (np.arange(256.0) - own_zero))
    table = np.clip(np.rint(values / scale) + zero, 0, 255).astype(np.uint8)
    layer = Layer(table, np.zeros(0, np.int32), np.zeros(0, np.float32))
    clean: dict[str, object] = {"kind": "lookup", "first": "none", "last": "none", "times": (), "plus": ()}
    numbers = Numbers(zero=zero)
    return low.add(each, layer, inputs=inputs, outputs=len(inputs), numbers=numbers, **clean)


def _results(low: Lowering, graph: Graph) -> tuple[int, ...]:
    """Append the last layer, whose results are floats."""
    pending = low.pending.get(graph.results[0])
    last = pending.operation if pending else None
    if last is None or pending is None or graph.results != tuple(pending.planes) or pending.activation != "none":
        raise UnsupportedError("format c supports int8 for networks whose output is that of one layer")
    single = last.is_pointwise and last.groups == 1 and last.pixels == 1
    if last.kind != "dense" and not single:
        raise UnsupportedError("format c supports int8 for networks whose output is a vector, not yet for maps")
    inputs, own, zero = low.read(last.inputs, last.kind)
    layer = _layer(low, last, own, zero, 1.0)
    return tuple(low.add(last, layer, kind="dense", inputs=inputs, numbers=Numbers(zeros=(zero,))))


def _used(graph: Graph) -> Graph:
    """Drop operations that nothing reads, and number the planes anew; layers keep their numbers."""
    needed, kept = set(graph.results), []
    for each in reversed(graph.operations):
        if needed.intersection(each.made):
            kept.append(each)
            needed.update(each.read)
    number = {plane: plane for plane in range(graph.channels)}
    for each in reversed(kept):
        number.update({plane: len(number) + k for k, plane in enumerate(each.made)})

    def new(planes: Sequence[int]) -> tuple[int, ...]:
        return tuple(number[plane] for plane in planes)

    operations = [
        each.model_copy(
            update={
                "inputs": new(each.inputs),
                "times": new(each.times),
                "plus": new(each.plus),
                "output": number[each.output],
            }
        )
        for each in reversed(kept)
    ]
    return graph.model_copy(update={"operations": tuple(operations), "results": new(graph.results)})


def to_bytes(values: np.ndarray, numbers: Numbers) -> np.ndarray:
    """Round float32 values in units of the output's scale to bytes, as the kernels do."""
    assert values.dtype == np.float32
    lowest, highest = (np.float32(limit - numbers.zero) for limit in (numbers.low, numbers.high))
    values = np.minimum(np.where(values > lowest, values, lowest), highest)  # NaN becomes the lowest
    return (np.rint(values).astype(np.int64) + numbers.zero).astype(np.uint8)


def _single(value: float) -> float:
    """Round to float32, of normal size: smaller ones are computed differently here and there."""
    return float(max(np.float32(value), np.finfo(np.float32).tiny))


def sum_terms(own: float, other: float, own_zero: int, other_zero: int) -> tuple[int, int, int, int]:
    """Return how a sum of two bytes is computed, given their scales in units of the sum's.

    The scales become integers of ``SUM_BITS`` bits: instructions that multiply and add pairs of 16-bit numbers apply.
    """
    largest = max(own, other)
    shift = max(0, min(20, SUM_BITS - math.frexp(largest)[1]))
    first, second = (min(round(math.ldexp(each, shift)), 2**SUM_BITS - 1) for each in (own, other))
    half = 1 << shift >> 1
    return first, second, half - own_zero * first - other_zero * second, shift
