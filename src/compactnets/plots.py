"""Drawings; matplotlib comes with the extra ``plot``."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from torch import nn

from compactnets.errors import InputError, missing_extra
from compactnets.models.muffnet import MuffNet
from compactnets.models.sharing import DenseSharing


def draw_sharing(model: nn.Module, output: Path) -> None:
    """Draw the sharing matrices of a MuffNet along one diagonal, as in its figure 5, and write the picture.

    Rows are source layers, columns the targets that take their channel groups; a cell holds the number of channels,
    its colour their share of the layer. A stage with DenseNet's pattern has no matrix: each layer's width is written
    at every block that reads it.

    Raises:
        InputError: another network than MuffNet, matplotlib missing, or a file that cannot be written.
    """
    if not isinstance(model, MuffNet):
        raise InputError(f"only MuffNet has sharing matrices, found a {type(model).__name__}")
    try:
        import matplotlib
    except ImportError:
        raise missing_extra("matplotlib", "plot", "drawing") from None
    from matplotlib.figure import Figure
    from matplotlib.patches import Rectangle

    stages = [_entries(sharing) for sharing in model.sharing]
    size = sum(map(len, stages))
    figure = Figure(figsize=(8, 8.4), layout="constrained")
    axes = figure.add_subplot()
    colours = matplotlib.colormaps["Blues"]
    offset = 0
    for number, entries in enumerate(stages, start=1):
        for i, row in enumerate(entries):
            for j, channels in enumerate(row):
                if channels:
                    share = channels / sum(row)
                    corner = (offset + j, offset + i)
                    axes.add_patch(Rectangle(corner, 1, 1, facecolor=colours(0.15 + 0.75 * share), edgecolor="white"))
                    colour = "white" if share > 0.6 else "black"
                    axes.text(corner[0] + 0.5, corner[1] + 0.5, str(channels), ha="center", va="center", color=colour)
        frame = Rectangle((offset, offset), len(entries), len(entries), fill=False, edgecolor="0.4", linewidth=1.2)
        axes.add_patch(frame)
        beside = offset + len(entries) + 0.2 if number < len(stages) else offset - 0.2
        side = "left" if number < len(stages) else "right"
        axes.text(beside, offset + len(entries) / 2, f"stage {number}", ha=side, va="center", color="0.3")
        offset += len(entries)
    axes.set(xlim=(0, size), ylim=(size, 0), aspect="equal", xlabel="target layer", ylabel="source layer")
    axes.set_xticks([k + 0.5 for k in range(size)], [str(k) for k in range(size)])
    axes.set_yticks([k + 0.5 for k in range(size)], [str(k) for k in range(size)])
    axes.set_title("Channels of each source layer (row) by the target that reads them (column)")
    axes.spines[["top", "right"]].set_visible(False)
    try:
        output.parent.mkdir(parents=True, exist_ok=True)
        figure.savefig(output)
    except (OSError, ValueError) as error:
        raise InputError(f"cannot write {output}: {error}") from None


def _entries(sharing: Any) -> list[list[int]]:
    if isinstance(sharing, DenseSharing):
        widths = sharing.layer_channels
        return [[width if j >= i else 0 for j in range(len(widths))] for i, width in enumerate(widths)]
    return [list(row) for row in sharing.entries]
