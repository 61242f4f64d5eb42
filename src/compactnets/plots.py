"""Drawings of networks."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from torch import nn

from compactnets.errors import InputError
from compactnets.files import as_path
from compactnets.models.muffnet import MuffNet
from compactnets.models.sharing import DenseSharing, Sharing
from compactnets.pictures import check_picture, save_figure

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


def sharing_figure(model: nn.Module) -> Figure:
    """Draw the sharing matrices of a MuffNet along one diagonal, as in its figure 5.

    Rows are source layers, columns the targets of their channel groups: target j is the input of the block that
    computes layer j + 1, and the last target of a stage is its output. A cell has the number of channels, with a darker
    colour for larger numbers. A stage with DenseNet's pattern has no matrix: each layer's width appears at every target
    that reads it.

    Raises:
        InputError: the network is not a MuffNet.
    """
    if not isinstance(model, MuffNet):
        raise InputError(f"only MuffNet has sharing matrices, found a {type(model).__name__}")
    from matplotlib.figure import Figure  # here, because importing it takes a second

    size = sum(len(sharing.layer_channels) for sharing in model.sharing)
    figure = Figure(figsize=(9, 9.2), layout="constrained")
    axes = figure.add_subplot()
    first = 0
    for number, sharing in enumerate(model.sharing, start=1):
        _draw_stage(axes, sharing, first, number, label_left=number == len(model.sharing))
        first += len(sharing.layer_channels)
    ticks = range(size)
    axes.set(xlim=(-0.6, size - 0.4), ylim=(size - 0.4, -0.6), aspect="equal", xticks=ticks, yticks=ticks)
    axes.set_title("M of MuffNet: how many channels of a layer go to which target")
    axes.set_xlabel(
        "target j: input of the block that makes layer j + 1; the last of a stage is its output", labelpad=8
    )
    axes.set_ylabel("source: layer i", labelpad=8)
    axes.spines[:].set_visible(False)
    axes.tick_params(length=0, colors="0.35")
    return figure


def draw_sharing(model: nn.Module, output: str | Path) -> None:
    """Write the picture of :func:`sharing_figure`.

    Args:
        model: the network, on any device.
        output: the file; its suffix determines the format, such as ``.svg``, ``.png`` or ``.pdf``.

    Raises:
        InputError: the network is not a MuffNet, or the file cannot be written.
    """
    output = as_path(output)
    check_picture(output)
    save_figure(sharing_figure(model), output)


def _draw_stage(axes: Axes, sharing: Sharing, first: int, number: int, label_left: bool) -> None:
    """Draw one stage, whose first layer has the index ``first``, with its name."""
    from matplotlib import colormaps
    from matplotlib.patches import Rectangle

    entries = _entries(sharing)
    size, largest = len(entries), max(map(max, entries))
    for i, row in enumerate(entries):
        for j, channels in enumerate(row):
            if not channels:
                continue
            x, y, shade = first + j, first + i, channels / largest
            face = colormaps["Blues"](0.12 + 0.7 * shade)
            axes.add_patch(Rectangle((x - 0.5, y - 0.5), 1, 1, facecolor=face, edgecolor="white"))
            axes.text(x, y, str(channels), ha="center", va="center", color="white" if shade > 0.6 else "black")
    corner = (first - 0.5, first - 0.5)
    axes.add_patch(Rectangle(corner, size, size, fill=False, edgecolor="0.35", linewidth=1.2))
    kind = "\nwhole layers (dense)" if isinstance(sharing, DenseSharing) else ""
    at, side = (first - 0.8, "right") if label_left else (first + size - 0.2, "left")
    text = f"stage {number}\n{sharing.out_channels} channels out{kind}"
    axes.text(at, first + (size - 1) / 2, text, ha=side, va="center", fontsize=11, linespacing=1.4)


def _entries(sharing: Sharing) -> list[list[int]]:
    if isinstance(sharing, DenseSharing):
        widths = sharing.layer_channels
        return [[width if j >= i else 0 for j in range(len(widths))] for i, width in enumerate(widths)]
    return [list(row) for row in sharing.entries]
