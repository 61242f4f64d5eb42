"""Where every plane lies in the arena: by liveness, so that memory is used again as soon as nothing reads it."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass

from compactnets.deploy.planar.graph import Graph, Operation

LINE = 16  # floats of a cache line, and of the widest vector


@dataclass(frozen=True)
class Layout:
    """Offsets in floats.

    Attributes:
        planes: of every plane; the image's are of where a caller's pixels are put before the network runs.
        scratch: of every operation: where its scratch begins.
        floats: size of the arena.
    """

    planes: list[int]
    scratch: list[int]
    floats: int


def rounded(floats: int) -> int:
    """Round up to whole cache lines."""
    return -(-floats // LINE) * LINE


def plane_floats(height: int, width: int) -> int:
    """Return the floats that a plane takes: whole vectors, also where its last row is written in whole vectors.

    An odd number of cache lines, so that the same pixel of neighbouring planes falls into different sets of a cache.
    """
    floats = rounded(max(height * width, (height - 1) * width + rounded(width)))
    return floats if floats // LINE % 2 else floats + LINE


@dataclass
class _Block:
    """Planes that lie side by side for the same time; both ends of the time belong to it."""

    planes: list[int]
    floats: int  # of a plane
    start: int
    end: int
    offset: int = -1

    @property
    def size(self) -> int:
        return rounded(self.floats * max(1, len(self.planes)))


def place(graph: Graph, scratch: list[int]) -> Layout:
    """Give planes and scratch their places.

    Args:
        graph: fused.
        scratch: floats of scratch that each operation needs.
    """
    sizes = graph.sizes()
    made = [-1] * graph.channels + [index for index, each in enumerate(graph.operations) for _ in each.made]
    read = list(made)
    for index, each in enumerate(graph.operations):
        for plane in each.read:
            read[plane] = index
    for plane in graph.results:
        read[plane] = len(graph.operations)

    owner = list(range(len(sizes)))  # the plane whose memory a plane is in
    until = list(read)
    for index, each in enumerate(graph.operations):
        for plane, old in _taken(each, index, read, graph.channels):
            owner[plane] = owner[old]
            until[owner[plane]] = read[plane]

    groups: dict[tuple[int, int, int], list[int]] = defaultdict(list)
    for plane, (height, width) in enumerate(sizes):
        if owner[plane] == plane and plane >= graph.channels:
            groups[made[plane], until[plane], plane_floats(height, width)].append(plane)
    blocks = [_Block(planes, floats, start, end) for (start, end, floats), planes in groups.items()]
    image = _Block(list(range(graph.channels)), graph.height * graph.width, -1, max(until[: graph.channels]))
    blocks.append(image)
    areas = [_Block([], rounded(floats), index, index) for index, floats in enumerate(scratch) if floats]
    total = _pack([*blocks, *areas])
    offsets = [0] * len(sizes)
    for block in blocks:
        for number, plane in enumerate(block.planes):
            offsets[plane] = block.offset + number * block.floats
    at = {area.start: area.offset for area in areas}
    return Layout(
        planes=[offsets[owner[plane]] for plane in range(len(sizes))],
        scratch=[at.get(index, 0) for index in range(len(scratch))],
        floats=total + 4 * LINE,  # behind the last plane, whole vectors are read
    )


def _taken(each: Operation, index: int, read: list[int], channels: int) -> list[tuple[int, int]]:
    """Return which outputs can be written over which planes.

    These are read here for the last time, and at the very pixels that are written.
    """
    if each.kind != "combine" and not each.is_pointwise:
        return []
    own = () if each.kind == "combine" else each.inputs
    pairs: list[tuple[int, int]] = []
    used: set[int] = set(range(channels))  # the image's planes are the caller's
    for role in (each.plus, each.times, each.inputs if each.kind == "combine" else ()):
        if not role:
            continue
        others = [plane for name in (each.plus, each.times, each.inputs) if name is not role for plane in name]
        for plane, old in zip(each.made, role, strict=True):
            fresh = plane not in {new for new, _ in pairs} and old not in used
            if fresh and read[old] == index and old not in own and role.count(old) == 1 and old not in others:
                pairs.append((plane, old))
                used.add(old)
        if pairs:
            break
    return pairs


def _pack(blocks: list[_Block]) -> int:
    """Place the largest first, each as low as it goes beside those of its time; return the end."""
    placed: list[_Block] = []
    for block in sorted(blocks, key=lambda each: (-each.size, each.start, each.end)):
        offset = 0
        for other in sorted(placed, key=lambda each: each.offset):
            if other.start <= block.end and block.start <= other.end:
                if offset + block.size <= other.offset:
                    break
                offset = max(offset, other.offset + other.size)
        block.offset = offset
        placed.append(block)
    return max((block.offset + block.size for block in blocks), default=0)
