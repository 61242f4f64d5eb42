"""The papers' plots, drawn as SVG from stated values, measurements and theory."""

from __future__ import annotations

import io
from collections.abc import Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING

import numpy as np
import torch

from compactnets.complexity import profile
from compactnets.complexity.groups import lost_share
from compactnets.models.registry import create_model
from compactnets.nn import channel_shuffle
from compactnets.papers.schema import Paper
from compactnets.papers.theory import (
    crossing_frequency,
    equal_budget_width,
    log10_federated_bound,
    log10_spectrum_bound,
    stage_widths,
)
from compactnets.pictures import write_figure
from compactnets.plots import sharing_figure
from compactnets.report.evidence import Evidence

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

STYLES = {  # family -> label, marker, colour
    "menet": ("MENet", "o", "C3"),
    "muffnet": ("MuffNet", "o", "C3"),
    "shufflenet": ("ShuffleNet", "s", "C0"),
    "shufflenetv2": ("ShuffleNetV2", "D", "C4"),
    "mobilenet": ("MobileNet", "^", "C2"),
    "mobilenetv2": ("MobileNetV2", "v", "C1"),
    "igcv2": ("IGCV2", "P", "C5"),
    "igcv3": ("IGCV3", "X", "C6"),
    "condensenet": ("CondenseNet", "*", "C7"),
}


def to_svg(figure: Figure) -> str:
    """Return a figure as deterministic SVG text; labels stay text."""
    buffer = io.StringIO()
    write_figure(figure, buffer, "svg")
    return buffer.getvalue()


def accuracy_against_macs(paper: Paper, tables: Sequence[str], evidence: Evidence, metric: str = "top1") -> Figure:
    """MENet's figure 4 and MuffNet's figure 6: stated accuracy of each family against multiply-adds; ours outlined."""
    figure, axes = _axes(7, 4.6)
    rows = {(row.model, row.value(metric)): row for name in tables for row in paper.table(name).rows if row.macs}
    for family, (title, marker, colour) in STYLES.items():
        own = sorted((row for row in rows.values() if row.model.split("_")[0] == family), key=lambda row: row.macs or 0)
        if own:
            line = "-" if family in ("menet", "muffnet") else "--"
            places = [((row.macs or 0) / 1e6, row.value(metric)) for row in own]
            axes.plot(*zip(*places, strict=True), marker=marker, linestyle=line, color=colour, label=title)
            found = [(x, evidence.accuracy(row, metric)) for (x, _), row in zip(places, own, strict=True)]
            measured = [(x, each.value) for x, each in found if each]
            if measured:
                axes.scatter(
                    *zip(*measured, strict=True),
                    marker=marker,
                    facecolors="none",
                    edgecolors=colour,
                    label=f"{title}, measured here",
                )
    axes.set(xscale="log", xlabel="multiply-adds, M", ylabel="top-1, %")
    _plain_ticks(axes, [40, 100, 140, 300, 550])
    axes.legend(fontsize=9)
    return figure


def spectrum(entry: float = 32, num_layers: int = 4) -> Figure:
    """MuffNet's figure 4 in two versions: the depth as exponent, as the paper quotes, and the cited theorem's exponent.

    Each with the printed cost and with equal blocks on both sides. The left one also shows Corollary 3 applied to the
    stage itself.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(11, 5), layout="constrained")
    exponents = np.linspace(0, 6, 121)
    quoted, cited = figure.subplots(1, 2, sharey=True)

    def draw(axes: Axes, bound: Callable[[float], float], colour: str, line: str, label: str) -> None:
        axes.plot(exponents, [bound(10**x) for x in exponents], color=colour, linestyle=line, label=label)

    for axes, as_cited, title in (
        (quoted, False, "as the paper quotes: frequency to the power of -L - 1"),
        (cited, True, "as the cited theorem states: to the power of -d - 1, here -2"),
    ):
        for printed, line in ((False, "--"), (True, "-")):
            width = equal_budget_width(entry, num_layers, as_printed=printed)
            what = "the printed FLOP_1" if printed else "equal blocks on both sides"
            where = ""
            if not as_cited:
                at = crossing_frequency(entry, num_layers, as_printed=printed)
                where = f": crosses at {at:,.0f}"
                axes.axvline(np.log10(at), color="0.7", linestyle=line, linewidth=0.8)
            plain = partial(log10_spectrum_bound, [width] * num_layers, as_cited=as_cited)
            draw(axes, plain, "C0", line, f"plain, m = {width:.2f} ({what}){where}")
        federated = partial(log10_federated_bound, entry, num_layers, as_cited=as_cited)
        draw(axes, federated, "C3", "-", f"M[i][j] = {entry:g}, L = {num_layers}, as the paper states")
        if not as_cited:
            stage = partial(log10_spectrum_bound, stage_widths(entry, num_layers))
            draw(axes, stage, "C1", ":", "Corollary 3 for the stage itself")
        axes.set(xlabel="log10 of the frequency", title=title)
        axes.title.set_fontsize(10)
        axes.grid(alpha=0.25)
        axes.spines[["top", "right"]].set_visible(False)
        axes.legend(fontsize=8, loc="lower left")
    quoted.set(ylabel="log10 of the bound")
    return figure


def lost_connections() -> Figure:
    """MENet's equation 3 against the number of groups, with counts from actual networks."""
    figure, axes = _axes(7, 4)
    groups = np.arange(1, 17)
    axes.plot(groups, [100 * lost_share(int(g)) for g in groups], color="0.5", label="(G - 1) / G, equation 3")
    for family, names, marker, colour in (
        ("ShuffleNet 1x", {g: f"shufflenet_g{g}_x1_0" for g in (2, 3, 4, 8)}, "s", "C0"),
        (
            "MENet (reconnected by merging)",
            {3: "menet_228_12x1_g3", 4: "menet_256_12x1_g4", 8: "menet_352_12x1_g8"},
            "o",
            "C3",
        ),
    ):
        places = []
        for g, name in names.items():
            with torch.device("meta"):
                found = profile(create_model(name).eval(), (3, 224, 224)).inter_group
            assert found is not None
            places.append((g, 100 * found.lost_share))
        faces, size = ("none", 140) if marker == "o" else (colour, 45)
        x, y = zip(*places, strict=True)
        axes.scatter(x, y, s=size, marker=marker, facecolors=faces, edgecolors=colour, label=family)
    axes.set(xlabel="groups G", ylabel="inter-group connections lost, %", xticks=[1, 2, 3, 4, 8, 16], ylim=(0, 100))
    axes.legend(fontsize=9, loc="lower right")
    return figure


def shuffle(channels: int = 9, groups: int = 3) -> Figure:
    """MENet's figure 1: where the channel shuffle moves each channel."""
    from matplotlib.figure import Figure

    order = channel_shuffle(torch.arange(channels).view(1, channels, 1, 1), groups).flatten().tolist()
    figure = Figure(figsize=(7, 2.6), layout="constrained")
    axes = figure.add_subplot()
    size = channels // groups
    for place, channel in enumerate(order):
        colour = f"C{channel // size}"
        axes.plot([channel, place], [1, 0], color=colour, linewidth=1.2, zorder=1)
        for x, y in ((channel, 1), (place, 0)):
            axes.scatter([x], [y], s=420, color=colour, zorder=2)
            axes.text(x, y, str(channel), color="white", ha="center", va="center", zorder=3)
    for edge in range(1, groups):
        axes.axvline(edge * size - 0.5, color="0.75", linestyle=":", linewidth=1)
    axes.text(-0.8, 1, "group convolution 1", ha="right", va="center")
    axes.text(-0.8, 0, "group convolution 2", ha="right", va="center")
    axes.set(xlim=(-4, channels - 0.3), ylim=(-0.4, 1.4))
    axes.axis("off")
    return figure


def matrices(name: str = "muffnet_x0_5", sharing: Sequence[Sequence[Sequence[int]]] | None = None) -> Figure:
    """MuffNet's figure 5: the sharing matrices of a network; ``sharing`` replaces them."""
    arguments = {} if sharing is None else {"sharing": sharing}
    with torch.device("meta"):
        return sharing_figure(create_model(name, **arguments))


def _axes(width: float, height: float) -> tuple[Figure, Axes]:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    axes = figure.add_subplot()
    axes.grid(alpha=0.25)
    axes.spines[["top", "right"]].set_visible(False)
    return figure, axes


def _plain_ticks(axes: Axes, ticks: Sequence[int]) -> None:
    axes.set_xticks(ticks, [str(tick) for tick in ticks])
    axes.set_xticks([], minor=True)
