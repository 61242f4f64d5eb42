"""Generate layers that compute in floats, and pack their weights."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from compactnets.deploy.operators import convolution
from compactnets.deploy.planar.arrays import Weights
from compactnets.deploy.planar.calls import SLACK, TILE, Text, Window, tiles
from compactnets.deploy.planar.graph import Graph, Operation
from compactnets.deploy.planar.place import LINE, Layout, rounded

PARTS = ("vector.c", "activation.c", "pointwise.c", "padding.c", "convolution.c", "window.c", "planes.c")
RESIZE = "resize.c"  # only of networks that scale maps
BLOCK = 64  # pixels of the widest register tile: WIDE vectors of pointwise.c
PANEL = 12  # tiles that make a panel of such a block worth while
FEW = 64  # up to this many pixels, weights are read once, tile by tile


@dataclass(frozen=True)
class Stored:
    """Where an operation's weights are, in floats from the beginning of ``model.bin``: whole cache lines each."""

    weights: int = 0
    biases: int = 0
    count: int = 0  # of the weights
    half: bool = False  # 16 bits each
    end: int = 0


def parts(operations: Sequence[Operation]) -> list[str]:
    """Return the files of kernels that operations need."""
    return [*PARTS, *([RESIZE] if any(each.kind == "resize" for each in operations) else [])]


def stored(each: Operation, graph: Graph, start: int, *, half: bool = False) -> Stored:
    """Return where the weights of an operation are, the first at ``start``."""
    count, biases = _weight_count(each, graph)
    middle = start + rounded(-(-count // 2) if half else count)
    return Stored(start, middle, count, half, middle + rounded(biases))


def _tile_rows(outputs: int) -> Iterable[range]:
    high, tall, small = tiles(outputs)
    start = 0
    for rows in [high] * tall + [high - 1] * small:
        yield range(start, start + rows)
        start += rows


def _size(each: Operation, graph: Graph) -> tuple[int, int]:
    return graph.sizes()[each.inputs[0]]


def is_dense(each: Operation, graph: Graph) -> bool:
    """Whether it is a matrix-vector product, such as a pointwise convolution of one-pixel planes."""
    single = each.is_pointwise and each.groups == 1 and each.pixels == 1 and not each.times and not each.plus
    return each.kind == "dense" or (single and each.first == "none")


def scratch(each: Operation, graph: Graph, *, ordered: bool = False) -> int:
    """Return the floats of scratch memory of an operation; ``ordered`` as for :func:`emit_operation`."""
    if is_dense(each, graph):
        return _dense_row(each, graph)
    if each.is_pointwise:  # panels
        inputs = len(each.inputs) // each.groups
        if _is_few(each, ordered):
            return inputs * rounded(each.pixels)
        return inputs * BLOCK if _has_panel(each) else 0
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


def _is_few(each: Operation, ordered: bool) -> bool:
    """Whether weights of a pointwise convolution are read once; its last pixels are then added up in another order."""
    return each.pixels <= FEW and not ordered


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
    if is_dense(each, graph):
        rows = -(-each.outputs // 4) * 4
        return rows * _dense_row(each, graph), rows
    return each.outputs * (len(each.inputs) // each.groups) * each.taps, each.outputs


def widened(each: Operation, stored: Stored, graph: Graph) -> int:
    """Return the floats of scratch for a layer's float16 weights as float32; a dense layer reads each only once."""
    return rounded(stored.count) if stored.half and not is_dense(each, graph) else 0


def packed(each: Operation, own: Weights, graph: Graph, stored: Stored) -> list[tuple[int, bytes]]:
    """Return the weights in the order that the kernel reads them, and the biases: each with its place.

    Raises:
        ValueError: the weights' shapes differ from the graph's.
    """
    values, biases = _ordered(each, own, graph)
    if values.size != stored.count:
        raise ValueError(f"{values.size} weights for an operation that has {stored.count}")
    content = values.astype("<f2" if stored.half else "<f4").tobytes()
    return [(stored.weights, content), (stored.biases, biases.astype("<f4").tobytes())]


def _ordered(each: Operation, own: Weights, graph: Graph) -> tuple[np.ndarray, np.ndarray]:
    matrix = own.weight.reshape(each.outputs, -1)  # (outputs, inputs of a group x places of the window)
    if is_dense(each, graph):
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


def describe(each: Operation) -> str:
    """Return the kind of an operation, as the profilers of other runtimes are read."""
    if each.kind == "convolution":
        return convolution(each.window, each.groups, len(each.inputs) // each.groups)
    names = {"maximum": "max_pool", "average": "avg_pool", "dense": "linear"}
    return names.get(each.kind, each.kind)


def note(each: Operation, graph: Graph) -> str:
    """Return a comment that describes an operation."""
    size = _size(each, graph)
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


def emit_operation(
    text: Text, each: Operation, graph: Graph, layout: Layout, stored: Stored, place: int, *, ordered: bool = False
) -> None:
    """Append the call of an operation.

    Args:
        place: offset of its scratch memory in the arena.
        ordered: whether sums are added up in the same order on any target.
    """
    size, where = _size(each, graph), layout.planes
    from_image = each.inputs[0] < graph.channels
    step = graph.height * graph.width
    ends = [each.first.upper(), each.last.upper()]
    comment, kind = note(each, graph), describe(each)
    own = f"own(arena, {place})"
    weights, biases = f"weights + {stored.weights}", f"weights + {stored.biases}"
    if wide := widened(each, stored, graph):
        halves, weights = weights, f"arena + {place + rounded(scratch(each, graph))}"
        text.call("widen", {"weights": halves, "to": weights}, [wide], "float16 to float32")
    inputs = [plane * step for plane in each.inputs] if from_image else [where[plane] for plane in each.inputs]
    tables = {
        "in": text.offsets(inputs),
        "out": text.offsets([where[plane] for plane in each.made]),
        "mul": text.offsets([where[plane] for plane in each.times]),
        "add": text.offsets([where[plane] for plane in each.plus]),
    }
    source = "image" if from_image else "arena"
    exact = int(from_image)
    if is_dense(each, graph):
        row = _dense_row(each, graph)
        pointers = {"weights": weights, "biases": biases, "from": source, "arena": "arena", "x": own}
        pointers |= {"in": tables["in"], "out": tables["out"]}
        shape = [len(each.inputs), size[0] * size[1], row, each.outputs, int(stored.half)]
        text.call("dense", pointers, [*shape, ends[1]], kind, comment)
    elif each.is_pointwise:
        kernel = "pointwise_few" if _is_few(each, ordered) else "pointwise"
        shape = [each.groups, len(each.inputs) // each.groups, *tiles(each.outputs // each.groups), each.pixels]
        pointers = {"weights": weights, "biases": biases, "from": source, "arena": "arena"}
        pointers["panel"] = own if _is_few(each, ordered) or _has_panel(each) else "0"
        pointers |= tables
        text.call(kernel, pointers, [*shape, *ends], kind, comment)
    elif each.kind in ("convolution", "maximum", "average"):
        pointers = {"weights": weights, "biases": biases, "from": source, "arena": "arena", "padded": own}
        _emit_window(text, each, graph, tables, pointers, exact)
    elif each.kind == "combine":
        shape = [each.outputs, each.pixels, exact]
        text.call("combine", {"from": source, "arena": "arena", **tables}, [*shape, *ends], kind, comment)
    elif each.kind == "resize":
        shape = [each.outputs, *size, each.height, each.width, int(each.aligned)]
        text.call(
            "resize", {"from": source, "arena": "arena", "scratch": own, **tables}, [*shape, *ends], kind, comment
        )
    elif each.kind == "scale":
        pointers = {"arena": "arena", "in": tables["in"], "by": tables["mul"], "out": tables["out"]}
        text.call("scale", pointers, [each.outputs, each.pixels, ends[1]], kind, comment)
    else:
        pointers = {"from": source, "arena": "arena", "in": tables["in"], "out": tables["out"]}
        text.call("mean", pointers, [each.outputs, size[0] * size[1], ends[1]], kind, comment)


def _emit_window(
    text: Text,
    each: Operation,
    graph: Graph,
    tables: Mapping[str, str],
    pointers: dict[str, str],
    exact: int,
) -> None:
    size = _size(each, graph)
    ends = [each.first.upper(), each.last.upper()]
    depthwise = each.is_depthwise or each.kind != "convolution"
    window = Window.of(each, size, whole=depthwise)
    geometry = [*size, each.height, each.width]
    margins = [each.reach[0], each.top, each.left, *each.stride, window.pitch, window.size, exact]
    comment, what = note(each, graph), describe(each)
    if depthwise:
        kind = {"convolution": "DEPTHWISE", "maximum": "MAXIMUM", "average": "AVERAGE"}[each.kind]
        if kind != "DEPTHWISE":
            pointers["weights"] = pointers["biases"] = "0"
        pointers |= {"places": text.offsets(window.places), **tables}
        constants = [kind, each.outputs, *each.window, *geometry, *margins, *ends]
        text.call("window", pointers, constants, what, comment)
        return
    inputs = len(each.inputs) // each.groups
    step = each.stride[0] * each.stride[1] * window.size
    places = [plane * step + place for plane in range(inputs) for place in window.places]
    pointers |= {"in": tables["in"], "places": text.offsets(places)}
    pointers |= {name: tables[name] for name in ("out", "mul", "add")}
    cut = tiles(each.outputs // each.groups)
    behind = rounded(inputs * step + SLACK)
    constants = [each.groups, inputs, each.taps, *cut, *geometry, window.rows, *margins, behind, *ends]
    text.call("convolution", pointers, constants, what, comment)


def emit_results(text: Text, graph: Graph, layout: Layout) -> None:
    """Copy the outputs, consecutive planes of equal size together."""
    sizes, start, at = graph.sizes(), 0, 0
    results = graph.results
    while start < len(results):
        size = sizes[results[start]]
        end = start
        while end < len(results) and sizes[results[end]] == size:
            end += 1
        pixels = size[0] * size[1]
        table = text.offsets([layout.planes[plane] for plane in results[start:end]])
        pointers = {"arena": "arena", "to": f"logits + {at}", "in": table}
        text.call("copy", pointers, [end - start, pixels], "copy")
        at += (end - start) * pixels
        start = end
