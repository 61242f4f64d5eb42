"""A profile as readable tables."""

from __future__ import annotations

from typing import Any

from compactnets.complexity.cost import CONVENTION, Cost
from compactnets.complexity.groups import InterGroup
from compactnets.console import Group, Table

LAYERS = "Each row is a module's own work, without the modules that it calls; (network) is the network itself."


def render(cost: Cost, per_layer: bool = False, title: str | None = None) -> Group:
    """Return rich tables of a profile: the totals and, with ``per_layer``, one row per module before them.

    Under the totals stands :data:`CONVENTION`.
    """
    layers: list[Any] = [_layers(cost), LAYERS, ""] if per_layer else []
    return Group(*layers, _totals(cost, title), CONVENTION)


def _totals(cost: Cost, title: str | None) -> Table:
    images = "1 image" if cost.batch_size == 1 else f"{cost.batch_size} images"
    table = Table("", "", title=title, header=False)
    for row in (
        ("Input", _shape(cost.input_size)),
        ("MACs", f"{cost.macs / 1e6:,.2f} M"),
        ("Other operations", f"{cost.other_operations / 1e6:,.2f} M"),
        ("Moved elements", f"{cost.moved_elements / 1e6:,.2f} M (concatenation, shuffle)"),
        ("Parameters", f"{cost.params / 1e3:,.2f} K"),
        ("Buffers", f"{cost.buffers / 1e3:,.2f} K"),
        ("Weights", f"{cost.weight_bytes / 1024:,.1f} KiB"),
        ("Peak activations", f"{cost.peak_activation_bytes / 1024:,.1f} KiB ({images}; at {_name(cost.peak_layer)})"),
        ("Inter-group connections lost", _lost(cost.inter_group)),
    ):
        table.add_row(*row)
    return table


def _layers(cost: Cost) -> Table:
    table = Table("Layer", "Type", lines=True)
    table.padding = (0, 1, 0, 0)
    table.add_figures("Output", "MACs\n(M)", "MACs\n(%)", "Other\n(K)", "Moved\n(K)", "Params\n(K)")
    for layer in cost.layers:
        table.add_row(
            _name(layer.name),
            layer.type,
            _shape(layer.output_shape[1:]) if layer.output_shape else "-",
            _cell(layer.macs, 1e6, 2),
            _cell(layer.macs_share, 0.01),
            _cell(layer.other_operations, 1e3),
            _cell(layer.moved_elements, 1e3),
            _cell(layer.params, 1e3),
        )
    return table


def _lost(connections: InterGroup | None) -> str:
    if connections is None:
        return "none: no consecutive grouped pointwise convolutions"
    merged = "re-connected by merging" if connections.merged else "not re-connected"
    pairs = "1 pair" if connections.pairs == 1 else f"{connections.pairs} pairs"
    return f"{connections.lost_share:.1%} of {connections.total:,.0f} ({pairs} of layers; {merged})"


def _name(layer: str) -> str:
    return layer or "(network)"


def _shape(sizes: tuple[int, ...]) -> str:
    return "x".join(map(str, sizes))


def _cell(value: float, unit: float, digits: int = 1) -> str:
    return f"{value / unit:,.{digits}f}" if value else "-"
