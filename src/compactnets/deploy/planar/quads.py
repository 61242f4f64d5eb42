"""Arrange the channels of an int8 network in quads: four channels of a pixel in one 32-bit word.

A plane of words has the layout of a plane of floats, so one program serves for both. Instructions that multiply and add
four bytes at once then apply to channels, and vectors still run over pixels.

Whatever reads a quad reads all four channels of it. So the channels are ordered: operations that treat every channel by
itself (depthwise convolutions, sums, products, pooling) tie a channel of their input to one of their output, which has
the same place in its quad. A *thread* is all channels tied to each other. Threads that are written by the same groups
and read by the same groups everywhere share quads, four to each; the last of them may have empty places, whose weights
are zeros. Then every group is a number of whole quads, and shuffles, splits and concatenations of them remain lists.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

from compactnets.deploy.planar.graph import Graph, Operation

Lanes = tuple[int | None, int | None, int | None, int | None]  # the channel's plane in each place of a quad


@dataclass(frozen=True)
class Part:
    """What an operation on quads computes of one on channels.

    Attributes:
        source: index of the operation on channels.
        groups: those of its groups that this one computes, of equal numbers of quads.
    """

    source: int
    groups: range


@dataclass(frozen=True)
class Arranged:
    """A graph whose planes are quads, except for those of the image, which come first, and of the results.

    Attributes:
        graph: with one plane for a quad.
        lanes: the channels of each plane; a plane of floats has one.
        parts: what each operation computes.
    """

    graph: Graph
    lanes: list[Lanes]
    parts: list[Part]

    @property
    def empty_share(self) -> float:
        """Share of the bytes of all quads, over their pixels, that stand for no channel."""
        sizes = self.graph.sizes()
        quads = range(self.graph.channels, len(sizes) - len(self.graph.results))
        pixels = [sizes[quad][0] * sizes[quad][1] for quad in quads]
        empty = sum(self.lanes[quad].count(None) * many for quad, many in zip(quads, pixels, strict=True))
        return empty / (4 * sum(pixels))


def arrange(graph: Graph) -> Arranged:
    """Arrange the channels of a graph of ``integers.lower``."""
    quads = _quads(graph)
    where = {
        plane: (number, lane)
        for number, lanes in enumerate(quads)
        for lane, plane in enumerate(lanes)
        if plane is not None
    }
    lanes: list[Lanes] = [(plane, None, None, None) for plane in range(graph.channels)]
    number: dict[int, int] = {}  # of a quad -> its plane in the new graph
    operations: list[Operation] = []
    parts: list[Part] = []

    def append(source: int, groups: range, made: Sequence[int], change: dict[str, object]) -> None:
        for quad in made:
            number[quad] = len(lanes)
            lanes.append(quads[quad])
        start = len(lanes) - len(made)
        each = graph.operations[source]
        operations.append(each.model_copy(update={"output": start, "outputs": len(made), **change}))
        parts.append(Part(source, groups))

    for index, each in enumerate(graph.operations):
        made = list(dict.fromkeys(where[plane][0] for plane in each.made if plane in where))
        if each.kind == "dense":
            start = len(lanes)
            lanes += [(plane, None, None, None) for plane in each.made]
            inputs = [number[quad] for quad in _read(each.inputs, where)]
            operations.append(each.model_copy(update={"inputs": tuple(inputs), "output": start}))
            parts.append(Part(index, range(1)))
        elif each.kind == "quantize":
            append(index, range(1), made, {})
        elif each.kind == "convolution" and not each.is_depthwise:
            for groups in _alike(each, where):
                read = [quad for group in groups for quad in _read(group_inputs(each, group), where)]
                made = [quad for group in groups for quad in _made(each, group, where)]
                append(index, groups, made, {"inputs": tuple(number[quad] for quad in read), "groups": len(groups)})
        else:
            change = {
                role: tuple(number[_operand(each, role, quads[quad], where)] for quad in made)
                for role in ("inputs", "times", "plus")
                if getattr(each, role)
            }
            append(index, range(1), made, {**change, "groups": len(made) if each.is_depthwise else 1})
    results = tuple(len(lanes) - len(graph.results) + k for k in range(len(graph.results)))
    arranged = graph.model_copy(update={"operations": tuple(operations), "results": results})
    return Arranged(arranged, lanes, parts)


def group_inputs(each: Operation, group: int) -> tuple[int, ...]:
    """Return the channels that a group of a convolution reads."""
    size = len(each.inputs) // each.groups
    return each.inputs[group * size : (group + 1) * size]


def group_outputs(each: Operation, group: int) -> range:
    """Return the channels that a group of a convolution writes."""
    size = each.outputs // each.groups
    return each.made[group * size : (group + 1) * size]


Where = dict[int, tuple[int, int]]  # a channel's quad, and its place in it


def _read(planes: Sequence[int], where: Where) -> list[int]:
    """Return the quads of channels; once for every time that a channel is among them."""
    seen: Counter[int] = Counter()
    found: dict[tuple[int, int], None] = {}
    for plane in planes:
        found[where[plane][0], seen[plane]] = None
        seen[plane] += 1
    return [quad for quad, _ in found]


def _made(each: Operation, group: int, where: Where) -> list[int]:
    return list(dict.fromkeys(where[plane][0] for plane in group_outputs(each, group)))


def _alike(each: Operation, where: Where) -> list[range]:
    """Cut the groups of a convolution into stretches with as many quads for each."""
    shapes = [(len(_read(group_inputs(each, g), where)), len(_made(each, g, where))) for g in range(each.groups)]
    cuts = [0, *(g for g in range(1, each.groups) if shapes[g] != shapes[g - 1]), each.groups]
    return [range(start, end) for start, end in zip(cuts, cuts[1:], strict=False)]


def _operand(each: Operation, role: str, lanes: Lanes, where: Where) -> int:
    """Return the quad of an operand that belongs to a quad of results."""
    planes = getattr(each, role)
    found = {where[planes[plane - each.output]] for plane in lanes if plane is not None}
    (quad,) = {quad for quad, _ in found}  # as they are tied
    return quad


def _ties(each: Operation) -> list[tuple[str, Sequence[int]]]:
    """Return the operands of an operation whose channels have the places of its results."""
    own = each.kind not in ("convolution", "dense", "quantize") or each.is_depthwise
    roles: list[tuple[str, Sequence[int]]] = [("inputs", each.inputs)] if own else []
    return [*roles, *((role, getattr(each, role)) for role in ("times", "plus") if getattr(each, role))]


def _quads(graph: Graph) -> list[Lanes]:
    """Return all quads, in the order of their first channel."""
    threads = _threads(graph)
    alike: dict[tuple[object, ...], list[list[int]]] = defaultdict(list)
    uses = _uses(graph, threads)
    for thread in threads:
        alike[tuple(uses[plane] for plane in thread)].append(thread)
    quads: list[Lanes] = []
    for same in alike.values():
        for start in range(0, len(same), 4):
            four = same[start : start + 4]
            for level in range(len(four[0])):
                planes = [thread[level] for thread in four]
                quads.append(tuple(planes + [None] * (4 - len(planes))))  # type: ignore[arg-type]
    return sorted(quads, key=lambda lanes: lanes[0] or 0)


def _threads(graph: Graph) -> list[list[int]]:
    """Return the channels tied to each other, in order of computation."""
    parent = list(range(len(graph.sizes())))

    def root(plane: int) -> int:
        while parent[plane] != plane:
            parent[plane] = parent[parent[plane]]
            plane = parent[plane]
        return plane

    for each in graph.operations:
        for _, planes in _ties(each):
            for plane, other in zip(each.made, planes, strict=True):
                first, second = sorted((root(plane), root(other)))
                parent[second] = first
    found: dict[int, list[int]] = defaultdict(list)
    results = set(graph.results)
    for plane in range(graph.channels, len(parent)):
        if plane not in results:
            found[root(plane)].append(plane)
    return list(found.values())


def _uses(graph: Graph, threads: list[list[int]]) -> dict[int, tuple[object, ...]]:
    """Return what writes and reads each channel: operations and their groups, and levels of the thread tied to it."""
    level = {plane: number for thread in threads for number, plane in enumerate(thread)}
    uses: dict[int, list[object]] = defaultdict(list)
    for index, each in enumerate(graph.operations):
        tied = _ties(each)
        if each.kind == "convolution" and not each.is_depthwise:
            for group in range(each.groups):
                for plane in group_outputs(each, group):
                    uses[plane].append((index, "made", group))
                for plane in group_inputs(each, group):
                    uses[plane].append((index, "read", group))
        elif each.kind in ("dense", "quantize"):
            for plane in (*each.inputs, *each.made):
                uses[plane].append((index, each.kind))
        for role, planes in tied:
            for plane, other in zip(each.made, planes, strict=True):
                uses[plane].append((index, role, level[other]))
                uses[other].append((index, role, level[plane]))
    return {plane: tuple(found) for plane, found in uses.items()}
