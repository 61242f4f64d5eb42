"""Passes over a graph; each returns an equivalent graph."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from compactnets.deploy.planar.graph import Graph, Operation

# their kernels can post-process a plane as they store it
HOSTS = ("convolution", "maximum", "average", "combine", "resize")


def separate_image(graph: Graph) -> Graph:
    """Copy the image if an operation might read past its end: only the caller's pixels themselves may be read.

    Kernels with a window and copies stop at the last pixel; they can read the image directly.
    """
    own = range(graph.channels)

    def takes(each: Operation) -> bool:
        exact = each.kind in HOSTS and not each.is_pointwise
        return (
            exact and all(plane in own for plane in each.inputs) and not any(p in own for p in each.times + each.plus)
        )

    reading = [each for each in graph.operations if any(plane in own for plane in each.read)]
    if all(takes(each) for each in reading) and not any(plane in own for plane in graph.results):
        return graph
    shift = {plane: plane + graph.channels for plane in range(len(graph.sizes()))}
    copy = Operation(
        kind="combine",
        inputs=tuple(own),
        output=graph.channels,
        outputs=graph.channels,
        height=graph.height,
        width=graph.width,
    )
    moved = [_renamed(each, shift).model_copy(update={"output": shift[each.output]}) for each in graph.operations]
    results = tuple(shift[plane] for plane in graph.results)
    return graph.model_copy(update={"operations": (copy, *moved), "results": results})


def fuse(graph: Graph) -> Graph:
    """Fuse products, sums and activations into the producers of their inputs, if these have no other readers.

    In one pass over the network, each "combine" operation moves into the producer of its inputs or, as sums and
    products commute, of its other operand. If several operations produce the planes (an activation after a
    concatenation), it moves into each of them.
    """
    readers = Counter(plane for each in graph.operations for plane in each.read)
    readers.update(graph.results)
    done: list[Operation | None] = []
    place: dict[int, int] = {}  # plane -> index in `done` of its producer
    renamed: dict[int, int] = {}  # plane -> the plane that replaces it

    for each in graph.operations:
        now = _renamed(each, renamed)
        hosts = _hosts(now, done, place, readers) if each.kind == "combine" else None
        if hosts is None:
            index = len(done)
            done.append(now)
            place.update((plane, index) for plane in now.made)
            continue
        for index, host, start in hosts:
            moved = done.pop(index)  # to the end: everything it now reads has been computed there
            assert moved is not None
            done.insert(index, None)
            place.update((plane, len(done)) for plane in host.made)
            done.append(host)
            for k in range(host.outputs):  # the host's planes are now what `each` made, with the readers of that
                renamed[each.output + start + k] = host.output + k
                readers[host.output + k] = readers[each.output + start + k]
    kept = [operation for operation in done if operation is not None]
    return _renumbered(graph, kept, [renamed.get(plane, plane) for plane in graph.results])


def _renamed(each: Operation, renamed: dict[int, int]) -> Operation:
    def new(planes: Sequence[int]) -> tuple[int, ...]:
        return tuple(renamed.get(plane, plane) for plane in planes)

    return each.model_copy(update={"inputs": new(each.inputs), "times": new(each.times), "plus": new(each.plus)})


def _hosts(
    each: Operation, done: list[Operation | None], place: dict[int, int], readers: Counter[int]
) -> list[tuple[int, Operation, int]] | None:
    """Return the producers that an operation moves into: index, fused operation, and its first plane; or ``None``."""
    plain = each.first == "none"
    if plain and each.plus and not each.times:
        pairs = [(each.inputs, each.plus), (each.plus, each.inputs)]
        return _latest([_join(each, own, {"plus": other}, done, place, readers) for own, other in pairs])
    if plain and each.times and not each.plus:
        pairs = [(each.inputs, each.times), (each.times, each.inputs)]
        return _latest([_join(each, own, {"times": other}, done, place, readers) for own, other in pairs])
    if plain and not each.times and not each.plus:
        return _join(each, each.inputs, {}, done, place, readers)
    return None


def _latest(found: list[list[tuple[int, Operation, int]] | None]) -> list[tuple[int, Operation, int]] | None:
    """Return the candidates produced last: the convolution rather than the shortcut, and nothing moves far."""
    able = [each for each in found if each is not None]
    return max(able, key=lambda hosts: min(index for index, _, _ in hosts), default=None)


def _join(
    each: Operation,
    own: Sequence[int],
    joined: dict[str, tuple[int, ...]],
    done: list[Operation | None],
    place: dict[int, int],
    readers: Counter[int],
) -> list[tuple[int, Operation, int]] | None:
    found = []
    start = 0
    while start < len(own):
        index = place.get(own[start])
        host = None if index is None else done[index]
        if host is None or index is None or host.kind not in HOSTS:
            return None
        stretch = tuple(own[start : start + host.outputs])
        if stretch != tuple(host.made) or any(readers[plane] != 1 for plane in stretch):
            return None
        part = {role: planes[start : start + host.outputs] for role, planes in joined.items()}
        if any(plane in host.made for planes in part.values() for plane in planes):
            return None
        if not (changed := _finished(host, part, each.last)):
            return None
        found.append((index, changed, start))
        start += host.outputs
    made = {plane for _, host, _ in found for plane in host.made}
    if any(plane in made for planes in joined.values() for plane in planes):
        return None
    return found


def _finished(host: Operation, part: dict[str, tuple[int, ...]], last: str) -> Operation | None:
    """Return an operation with more post-processing, if its kernel can do it; see :class:`Operation`."""
    update: dict[str, object] = {}
    ends = (bool(host.times), bool(host.plus), host.last != "none")
    if "times" in part:
        if host.first != "none" or host.times or host.plus:
            return None
        update = {"first": host.last, "times": part["times"], "last": last}
    elif "plus" in part:
        if host.plus or (ends[2] and (ends[0] or host.first != "none")):
            return None
        update = {"plus": part["plus"], "last": last}
        if ends[2]:
            update["first"] = host.last
    elif last == "none":
        return host
    elif ends[2]:
        return None
    else:
        update = {"last": last}
    return host.model_copy(update=update)


def _renumbered(graph: Graph, operations: list[Operation], results: list[int]) -> Graph:
    """Number planes in order of computation, and drop operations that nothing reads."""
    needed = set(results)
    kept = []
    for each in reversed(operations):
        if needed.intersection(each.made):
            kept.append(each)
            needed.update(each.read)
    number = {plane: plane for plane in range(graph.channels)}
    for each in reversed(kept):
        for plane in each.made:
            number[plane] = len(number)
    renumbered = [_renamed(each, number).model_copy(update={"output": number[each.output]}) for each in reversed(kept)]
    return graph.model_copy(
        update={"operations": tuple(renumbered), "results": tuple(number[plane] for plane in results)}
    )
