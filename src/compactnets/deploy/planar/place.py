"""Allocate planes in the arena by liveness: memory is reused as soon as nothing reads it any more."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass

from compactnets.deploy.planar.graph import Graph, Operation

LINE = 16  # floats of a cache line, and of the widest vector


@dataclass(frozen=True)
class Layout:
    """Offsets in the arena, in floats.

    Attributes:
        planes: offset of each plane; those of the image are for a caller's 8-bit pixels, once normalised.
        scratch: offset of each operation's scratch memory.
        floats: size of the arena.
    """

    planes: list[int]
    scratch: list[int]
    floats: int


def rounded(floats: int) -> int:
    """Round up to whole cache lines."""
    return -(-floats // LINE) * LINE


def plane_floats(height: int, width: int) -> int:
    """Return the floats that a plane occupies: whole vectors, with room to write its last row in whole vectors.

    It is an odd number of cache lines, so that the same pixel of neighbouring planes maps to different cache sets.
    """
    floats = rounded(max(height * width, (height - 1) * width + rounded(width)))
    return floats if floats // LINE % 2 else floats + LINE


@dataclass
class _Block:
    """Adjacent planes with the same lifetime; ``start`` and ``end`` are inclusive."""

    planes: list[int]
    floats: int  # per plane
    start: int
    end: int
    offset: int = -1

    @property
    def size(self) -> int:
        return rounded(self.floats * max(1, len(self.planes)))


def place(graph: Graph, scratch: list[int], *, image: bool = True) -> Layout:
    """Allocate planes and scratch memory.

    Args:
        graph: the fused graph.
        scratch: floats of scratch memory for each operation.
        image: whether the image's planes are in the arena when the caller gives 8-bit pixels.
    """
    sizes = graph.sizes()
    made = [-1] * graph.channels + [index for index, each in enumerate(graph.operations) for _ in each.made]
    read = list(made)
    for index, each in enumerate(graph.operations):
        for plane in each.read:
            read[plane] = index
    for plane in graph.results:
        read[plane] = len(graph.operations)

    owner = list(range(len(sizes)))  # the plane whose memory each plane uses
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
    if image:
        end = max(until[: graph.channels])
        blocks.append(_Block(list(range(graph.channels)), graph.height * graph.width, -1, end))
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
        floats=total + 4 * LINE,  # kernels read whole vectors past the last plane
    )


def _taken(each: Operation, index: int, read: list[int], channels: int) -> list[tuple[int, int]]:
    """Return pairs of an output and the input plane that it can overwrite.

    The operation is the input's last reader, and reads exactly the pixels that it writes.
    """
    if each.kind != "combine" and not each.is_pointwise:
        return []
    own = () if each.kind == "combine" else each.inputs
    pairs: list[tuple[int, int]] = []
    used: set[int] = set(range(channels))  # the image belongs to the caller
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
    """Place blocks, largest first, each at the lowest offset free during its lifetime; return the end."""
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
