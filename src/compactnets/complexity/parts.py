"""The cost of the parts of a network that has several: backbone, heads."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from compactnets.complexity.cost import CONVENTION, Cost
from compactnets.console import Group, Table


@dataclass(frozen=True)
class PartCost:
    """One part.

    Attributes:
        name: as its task calls it.
        macs: multiply-adds for one image, of all its runs together.
        params: elements of its parameters.
        times: how often it runs for one image: once, or for each proposal of a detector.
    """

    name: str
    macs: int
    params: int
    times: int = 1


def parts_of(cost: Cost, prefixes: Mapping[str, str], times: Mapping[str, int] | None = None) -> tuple[PartCost, ...]:
    """Divide the cost of a network among its parts, which sum to it.

    Args:
        prefixes: name of each part -> beginning of the names of its layers.
        times: name -> how often that part runs, if more than once.
    """
    parts = []
    for name, prefix in prefixes.items():
        layers = [layer for layer in cost.layers if layer.name.startswith(prefix)]
        macs, params = sum(layer.macs for layer in layers), sum(layer.params for layer in layers)
        parts.append(PartCost(name, macs, params, (times or {}).get(name, 1)))
    assert sum(part.macs for part in parts) == cost.macs
    assert sum(part.params for part in parts) == cost.params
    return tuple(parts)


def render_parts(title: str, parts: Sequence[PartCost]) -> Group:
    """Return rich text: a table of the parts and of the whole, and under it :data:`CONVENTION`."""
    macs, params = sum(part.macs for part in parts), sum(part.params for part in parts)
    table = Table("part")
    table.add_figures("MACs", "share", "parameters")
    for part in parts:
        each = f" ({part.times} x {part.macs / part.times / 1e6:,.2f} M)" if part.times > 1 else ""
        table.add_row(
            part.name + each, f"{part.macs / 1e6:,.1f} M", f"{part.macs / macs:.1%}", f"{part.params / 1e3:,.1f} K"
        )
    table.add_section()
    table.add_row("total", f"{macs / 1e6:,.1f} M", "", f"{params / 1e3:,.1f} K", style="bold")
    return Group(title, table, CONVENTION)
