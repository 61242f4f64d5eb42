"""Generate the layers of an int8 network, on quads (``quads.py``), and pack its weights."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from compactnets.deploy.operators import convolution
from compactnets.deploy.planar.calls import SLACK, Text, Window, tiles
from compactnets.deploy.planar.graph import INT8, Graph, Numbers, Operation
from compactnets.deploy.planar.integers import Layer, to_bytes
from compactnets.deploy.planar.place import Layout, place, rounded
from compactnets.deploy.planar.quads import Arranged, Part, arrange, group_inputs

PARTS = ("vector.c", "padding.c", "quads.c", "quad_convolution.c", "quad_planes.c")
LAYOUT = 1  # of model.bin, one more with every change of what `pack` writes
TALL = 3  # quads of the tallest register tile: TALL of quad_convolution.c
BLOCK = 16  # outputs of a dense layer that are computed together
TAPS = 128  # of a depthwise convolution: MOST_TAPS of quad_planes.c
BAND = 12288  # as calls.BAND: 224 x 224 pixels of muffnet_x0_5 fit 512 KB, and take no longer
TABLE = 64  # words of a table of bytes


@dataclass(frozen=True)
class Stored:
    """Where an operation's numbers are, in words from the beginning of ``model.bin``: whole cache lines each."""

    weights: int = 0
    biases: int = 0
    factors: int = 0
    end: int = 0


@dataclass(frozen=True)
class Plan:
    """An int8 network ready for code generation; see ``emit.Plan``."""

    source: Graph
    arranged: Arranged
    layout: Layout
    weights: list[Stored]
    floats: int
    own: int

    @property
    def graph(self) -> Graph:
        """The operations on quads."""
        return self.arranged.graph

    def original(self, index: int) -> Operation:
        """Return the operation on channels that an operation on quads computes, or computes a part of."""
        return self.source.operations[self.arranged.parts[index].source]


def check(graph: Graph, int8: bool) -> None:
    """Raise :class:`ValueError` unless a graph is all float, or an int8 one as ``integers.lower`` makes it."""
    if any((each.numbers is not None) != int8 for each in graph.operations):
        raise ValueError("some of its operations compute in int8, and some in floats")
    if not int8:
        if any(each.kind in INT8 for each in graph.operations):
            raise ValueError("an operation for int8 in a network of floats")
        return
    image, first, last = range(graph.channels), graph.operations[0], graph.operations[-1]
    if first.kind != "quantize" or first.inputs != tuple(image):
        raise ValueError("its first operation does not quantise the image")
    if last.kind != "dense" or graph.results != tuple(last.made):
        raise ValueError("its last operation is not a dense layer that gives the outputs")
    for number, each in enumerate(graph.operations):
        if problem := _problem(each, graph, number):
            raise ValueError(f"operation {number} ({each.kind}): {problem}")


def _problem(each: Operation, graph: Graph, number: int) -> str | None:
    numbers = each.numbers
    assert numbers is not None
    if number and (each.kind == "quantize" or any(plane < graph.channels for plane in each.read)):
        return "it reads the image"
    if each.kind == "dense" and number + 1 < len(graph.operations):
        return "it is not the last"
    if each.kind in ("average", "resize") or each.first != "none" or each.last != "none" or (each.times and each.plus):
        return "int8 networks have no such operation"
    if each.kind not in ("combine", "scale") and (each.times or each.plus):
        return "it has another operand"
    if each.kind == "combine" and not each.times and not each.plus:
        return "it has no other operand"
    if (numbers.factor is None) != (each.kind not in ("quantize", "mean") and not each.times):
        return "it has a factor and needs none, or needs one and has none"
    if (numbers.terms is None) != (not each.plus):
        return "it has terms and needs none, or needs some and has none"
    if len(numbers.zeros) != {"quantize": 0, "lookup": 0, "combine": 2, "scale": 2}.get(each.kind, 1):
        return f"it has zero points for {len(numbers.zeros)} operands"
    if not numbers.low <= numbers.zero <= numbers.high:
        return "its zero point is outside its limits"
    if each.is_depthwise and each.taps > TAPS:
        return f"its window has {each.taps} places, more than {TAPS}"
    return None


def plan(source: Graph) -> Plan:
    """Arrange channels in quads, and allocate planes and weights."""
    arranged = arrange(source)
    stored: list[Stored] = []
    for each, part in zip(arranged.graph.operations, arranged.parts, strict=True):
        start = stored[-1].end if stored else 0
        weights, rows = _counts(each, source.operations[part.source], arranged.graph)
        biases = start + rounded(weights)
        factors = biases + rounded(rows)
        stored.append(Stored(start, biases, factors, factors + rounded(rows)))
    own = [
        _scratch(each, source.operations[part.source], arranged.graph)
        for each, part in zip(arranged.graph.operations, arranged.parts, strict=True)
    ]
    # the first operation reads the image: the caller's 8-bit pixels may lie in the arena until then
    pixels = -(-source.channels * source.height * source.width // 4)
    layout = place(arranged.graph, [rounded(pixels), *(rounded(one) for one in own[1:])], image=False)
    return Plan(source, arranged, layout, stored, stored[-1].end, rounded(max(own)))


def _counts(each: Operation, original: Operation, graph: Graph) -> tuple[int, int]:
    """Return the words of weights of an operation, and its outputs."""
    if each.kind == "lookup":
        return TABLE, 0
    if each.kind == "dense":
        rows = -(-each.outputs // BLOCK) * BLOCK
        return rows * _depth(each, graph), rows
    if each.kind != "convolution":
        return 0, 0
    if original.is_depthwise:
        return each.outputs * each.taps, 4 * each.outputs
    return 4 * each.outputs * len(each.inputs) // each.groups * each.taps, 4 * each.outputs


def _depth(each: Operation, graph: Graph) -> int:
    """Return the words that a dense layer reads."""
    height, width = graph.sizes()[each.inputs[0]]
    return len(each.inputs) * height * width


def _scratch(each: Operation, original: Operation, graph: Graph) -> int:
    if each.kind == "dense":
        return _depth(each, graph)
    if each.kind not in ("convolution", "maximum") or each.is_pointwise:
        return 0
    size, phases = graph.sizes()[each.inputs[0]], each.stride[0] * each.stride[1]
    whole = original.is_depthwise or each.kind == "maximum"
    window = Window.of(each, size, whole=whole, most=BAND)
    inputs = 1 if whole else len(each.inputs) // each.groups
    return rounded(inputs * window.size * phases + SLACK) + (1 if whole else TALL) * window.flat + SLACK


# ---- weights ----


def pack(plan: Plan, layers: Sequence[Layer]) -> bytes:
    """Return the content of ``model.bin``: per layer, weights in the order that kernels read them, biases, factors.

    Raises:
        ValueError: the weights' shapes differ from the graph's.
    """
    packed = np.zeros(plan.floats, "<i4")
    for index, (each, stored) in enumerate(zip(plan.graph.operations, plan.weights, strict=True)):
        if each.weights is None:
            continue
        layer, original = layers[each.weights], plan.original(index)
        if each.kind == "lookup":
            parts = [(stored.weights, layer.weight.view("<i4"))]
        else:
            words, rows = _packed(plan, each, original, plan.arranged.parts[index], layer)
            bias, factors = np.zeros(len(rows), np.int32), np.zeros(len(rows), np.float32)
            known, outputs = _known(rows)
            bias[known], factors[known] = layer.bias[outputs], layer.factors[outputs]
            parts = [(stored.weights, words), (stored.biases, bias), (stored.factors, factors.view("<i4"))]
        for start, content in parts:
            packed[start : start + len(content)] = content
    return packed.tobytes()


def _packed(
    plan: Plan, each: Operation, original: Operation, part: Part, layer: Layer
) -> tuple[np.ndarray, list[int | None]]:
    """Return the words of weights, and for every row of the kernel the output that it computes."""
    lanes = plan.arranged.lanes
    flat = layer.weight.reshape(len(layer.weight), -1, each.taps if each.kind == "convolution" else 1)
    if each.kind == "dense":
        depth = _depth(each, plan.graph)
        rows: list[int | None] = [*range(each.outputs), *[None] * (-each.outputs % BLOCK)]
        pixels = depth // len(each.inputs)
        matrix = flat.reshape(each.outputs, -1, pixels)
        columns = _columns(original.inputs, [lanes[quad] for quad in each.inputs])
        words = _words(matrix, rows, columns)  # (rows, quads, pixels, 4)
        return _as_words(words.reshape(-1, BLOCK, depth, 4).swapaxes(1, 2)), rows
    made = [lanes[quad] for quad in each.made]
    rows = [None if plane is None else plane - original.output for quad in made for plane in quad]
    if original.is_depthwise:
        return _as_words(_words(flat, rows, None).reshape(len(made), 4, each.taps).swapaxes(1, 2)), rows
    inputs, quads = len(each.inputs) // each.groups, each.outputs // each.groups
    found = []
    for number, group in enumerate(part.groups):
        read = [lanes[quad] for quad in each.inputs[number * inputs : (number + 1) * inputs]]
        columns = _columns(group_inputs(original, group), read)
        own = rows[4 * quads * number : 4 * quads * (number + 1)]
        words = _words(flat, own, columns).reshape(len(own), -1, 4)  # (rows, quads x places, 4)
        for tile in _tile_rows(quads):
            found.append(_as_words(words[4 * tile.start : 4 * tile.stop].swapaxes(0, 1)))
    return np.concatenate(found), rows


def _columns(planes: Sequence[int], read: Sequence[Sequence[int | None]]) -> list[list[int | None]]:
    """Return, for every place of the quads that are read, the column of the weights; a channel may be read again."""
    columns: dict[int, list[int]] = defaultdict(list)
    for column, plane in enumerate(planes):
        columns[plane].append(column)
    seen: Counter[int] = Counter()
    found: list[list[int | None]] = []
    for quad in read:
        found.append([None if plane is None else columns[plane][seen[plane]] for plane in quad])
        seen.update(plane for plane in quad if plane is not None)
    return found


def _words(matrix: np.ndarray, rows: Sequence[int | None], columns: list[list[int | None]] | None) -> np.ndarray:
    """Return the bytes of weights: (rows, quads, places, 4), or without columns, (rows, 1, places)."""
    known, outputs = _known(rows)
    if columns is None:
        plain = np.zeros((len(rows), *matrix.shape[1:]), np.int8)
        plain[known] = matrix[outputs]
        return plain
    words = np.zeros((len(rows), len(columns), matrix.shape[2], 4), np.int8)
    for quad, places in enumerate(columns):
        for lane, column in enumerate(places):
            if column is not None:
                words[known, quad, :, lane] = matrix[outputs, column]
    return words


def _known(rows: Sequence[int | None]) -> tuple[list[int], list[int]]:
    """Return the rows that compute an output, and those outputs."""
    pairs = [(row, output) for row, output in enumerate(rows) if output is not None]
    return [row for row, _ in pairs], [output for _, output in pairs]


def _as_words(content: np.ndarray) -> np.ndarray:
    return np.ascontiguousarray(content).view("<i4").ravel()


def _tile_rows(quads: int) -> Iterator[range]:
    high, tall, small = tiles(quads, TALL)
    start = 0
    for rows in [high] * tall + [high - 1] * small:
        yield range(start, start + rows)
        start += rows


# ---- code ----


def describe(each: Operation) -> str:
    """Return the kind of an operation on channels, as the profilers of other runtimes are read."""
    if each.kind == "convolution":
        return convolution(each.window, each.groups, len(each.inputs) // each.groups)
    names = {"maximum": "max_pool", "dense": "linear"}
    return names.get(each.kind, "product" if each.times else "sum" if each.plus else each.kind)


def emit_operation(text: Text, index: int, ready: Plan, note: str) -> None:
    """Append the call of an operation on quads.

    Args:
        note: comment that describes it.
    """
    each, original, graph = ready.graph.operations[index], ready.original(index), ready.graph
    where, stored, numbers = ready.layout.planes, ready.weights[index], each.numbers
    assert numbers is not None
    size = graph.sizes()[each.inputs[0]]
    kind = describe(original)
    planes = {
        "in": text.offsets([where[plane] for plane in each.inputs]),
        "out": text.offsets([where[plane] for plane in each.made]),
        "ends": text.offsets(_ends(each, numbers)),
    }
    layer = {name: f"weights + {getattr(stored, name)}" for name in ("weights", "biases", "factors")}
    scratch = f"own(arena, {ready.layout.scratch[index]})"
    if each.kind == "quantize":
        lanes = [ready.arranged.lanes[quad] for quad in each.made]
        planes["in"] = text.offsets([-1 if k is None else k - original.output for quad in lanes for k in quad])
        constants: list[object] = [each.outputs, graph.channels, each.pixels, _float(numbers)]
        pointers = {"from": "image", "bytes": "pixel_bytes", "raw": "raw", "arena": "arena"}
        text.call("quad_image", {**pointers, **planes}, constants, kind, note)
    elif each.kind == "lookup":
        pointers = {"table": layer["weights"], "arena": "arena", "in": planes["in"], "out": planes["out"]}
        text.call("quad_lookup", pointers, [each.outputs, each.pixels], kind, note)
    elif each.kind == "mean":
        constants = [each.outputs, size[0] * size[1], _float(numbers)]
        text.call("quad_mean", {"arena": "arena", **planes}, constants, kind, note)
    elif each.kind == "dense":
        pointers = {**layer, "arena": "arena", "x": scratch, "to": "logits", "in": planes["in"]}
        text.call("quad_dense", pointers, [len(each.inputs), size[0] * size[1], each.outputs], kind, note)
    elif each.plus:
        add = text.offsets([where[plane] for plane in each.plus])
        pointers = {"arena": "arena", "in": planes["in"], "add": add, "out": planes["out"], "ends": planes["ends"]}
        text.call("quad_sum", pointers, [each.outputs, each.pixels], kind, note)
    elif each.times:
        mul = text.offsets([where[plane] for plane in each.times])
        pointers = {"arena": "arena", "in": planes["in"], "mul": mul, "out": planes["out"], "ends": planes["ends"]}
        constants = [each.outputs, each.pixels, int(each.kind == "scale"), _float(numbers)]
        text.call("quad_product", pointers, constants, kind, note)
    elif each.is_pointwise and not original.is_depthwise:
        constants = [each.groups, len(each.inputs) // each.groups, *tiles(each.outputs // each.groups, TALL)]
        constants += [each.pixels, _kind(numbers)]
        text.call("quad_pointwise", {**layer, "arena": "arena", **planes}, constants, kind, note)
    else:
        _emit_window(text, each, original, size, planes, {**layer, "arena": "arena", "padded": scratch}, kind, note)


def _emit_window(
    text: Text,
    each: Operation,
    original: Operation,
    size: tuple[int, int],
    planes: dict[str, str],
    pointers: dict[str, str],
    kind: str,
    note: str,
) -> None:
    assert each.numbers is not None
    whole = original.is_depthwise or each.kind == "maximum"
    window = Window.of(each, size, whole=whole, most=BAND)
    geometry: list[object] = [*size, each.height, each.width]
    margins = [each.reach[0], each.top, each.left, *each.stride, window.pitch, window.size]
    step = each.stride[0] * each.stride[1] * window.size
    if whole:
        if each.kind == "maximum":
            pointers |= {"weights": "0", "biases": "0", "factors": "0"}
        pointers |= {"in": planes["in"], "places": text.offsets(window.places), "out": planes["out"]}
        what = "QUAD_MAXIMUM" if each.kind == "maximum" else "QUAD_DEPTHWISE"
        behind = rounded(step + SLACK)
        constants = [what, each.outputs, each.taps, *geometry, *margins, behind, _kind(each.numbers)]
        text.call("quad_window", {**pointers, "ends": planes["ends"]}, constants, kind, note)
        return
    inputs = len(each.inputs) // each.groups
    places = [plane * step + place for plane in range(inputs) for place in window.places]
    pointers |= {"in": planes["in"], "places": text.offsets(places), "out": planes["out"], "ends": planes["ends"]}
    cut = tiles(each.outputs // each.groups, TALL)
    behind = rounded(inputs * step + SLACK)
    constants = [each.groups, inputs, each.taps, *cut, *geometry, window.rows, *margins, behind, _kind(each.numbers)]
    text.call("quad_convolution", pointers, constants, kind, note)


def pixel_bytes(graph: Graph, scales: Sequence[float], shifts: Sequence[float]) -> np.ndarray:
    """Return the byte for each value of an 8-bit pixel, (channels, 256) uint8: normalised, and rounded as the image is.

    Args:
        scales: what a pixel of each channel is multiplied by,
        shifts: and what is added.
    """
    numbers = graph.operations[0].numbers
    assert numbers is not None
    pixels = np.arange(256, dtype=np.float32)
    rows = [pixels * np.float32(scale) + np.float32(shift) for scale, shift in zip(scales, shifts, strict=True)]
    return to_bytes(np.stack(rows) * np.float32(numbers.factor or 1), numbers)


def _ends(each: Operation, numbers: Numbers) -> list[int]:
    """Return how values become bytes, the word of the margins, and what the kind of operation needs besides."""
    margin = int(np.array(numbers.zeros[0] if numbers.zeros else 0, np.uint32) * np.uint32(0x01010101))
    further = numbers.terms if numbers.terms else numbers.zeros
    return [numbers.zero, numbers.low, numbers.high, margin - 2**32 * (margin >= 2**31), *further]


def _kind(numbers: Numbers) -> str:
    if numbers.wide:
        return "WIDE"
    return "PLAIN" if (numbers.zero, numbers.low, numbers.high) == (0, 0, 255) else "SHIFTED"


def _float(numbers: Numbers) -> str:
    assert numbers.factor is not None
    return f"{float(np.float32(numbers.factor)):.8e}f"
