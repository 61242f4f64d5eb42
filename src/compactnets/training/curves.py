"""The plot of loss and scores in a run folder."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from compactnets.files import replace_bytes
from compactnets.pictures import write_figure

PART = "train_loss_"  # key of a part of the training loss, if it has several


class Curves(NamedTuple):
    """The contents of a run's plot.

    Attributes:
        scores: key of ``metrics.jsonl`` -> name of the curve.
        scores_title: title of the plot of the scores.
        loss_title: title of the plot of the losses.
    """

    scores: Mapping[str, str]
    scores_title: str
    loss_title: str


def draw_curves(history: Sequence[Mapping[str, Any]], path: Path, curves: Curves) -> None:
    """Draw training and validation loss, and the scores, over the epochs of ``history`` into an SVG.

    Raises:
        InputError: the file cannot be written.
    """
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator

    figure = Figure(figsize=(9, 3.6))
    # fixed margins: matplotlib's layout engines draw everything twice, which takes most of a short run's last second
    loss, score = figure.subplots(1, 2, gridspec_kw={"left": 0.075, "right": 0.985, "bottom": 0.14, "top": 0.86})
    parts = {key: key.removeprefix(PART).replace("_", " ") for key in history[-1] if key.startswith(PART)}
    losses = {"train_loss": "sum" if parts else "training", "val_loss": "validation"}
    _draw(loss, history, losses | parts, curves.loss_title)
    _draw(score, history, curves.scores, curves.scores_title)
    for axes in (loss, score):
        axes.set_xlabel("epoch")
        axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
        first, last = history[0]["epoch"], history[-1]["epoch"]
        if first == last:  # matplotlib would widen the axis by a few hundredths, with ticks between the epochs
            axes.set_xlim(first - 1, last + 1)
            axes.set_xticks([first])
        axes.grid(alpha=0.3)
        if axes.lines:  # no score before the first evaluation
            axes.legend(frameon=False)
        axes.spines[["top", "right"]].set_visible(False)
    data = io.BytesIO()
    write_figure(figure, data, "svg")
    replace_bytes(path, data.getbuffer())


def _draw(axes: Any, history: Sequence[Mapping[str, Any]], labels: Mapping[str, str], title: str) -> None:
    for key, label in labels.items():
        points = [(line["epoch"], line[key]) for line in history if key in line]
        if not points:  # a detector has no loss on validation images
            continue
        marker = "o" if len(points) < 30 else None
        axes.plot([epoch for epoch, _ in points], [value for _, value in points], label=label, marker=marker, ms=3)
    axes.set_title(title, loc="left", fontsize=10)
