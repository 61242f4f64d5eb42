"""An HTML page with the images on which a classifier errs worst and does best."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image

from compactnets.classification.judging import Guesses, Judgement
from compactnets.data import ImageSource
from compactnets.data.images import to_channels
from compactnets.drawing.gallery import Figure, Picture, write_gallery

COUNT = 24  # of the worst images, and of the best
SIDES = (128, 320)  # limits of a picture's longer side in the page, in pixels


def write_examples(
    path: Path, source: ImageSource, judgement: Judgement, guesses: Guesses, labels: list[str], title: str
) -> None:
    """Write a page of the classes, of what is taken for what, and of the worst and the best images. It works offline.

    The worst image is the one whose wrong guess is farthest above its own class.

    Args:
        labels: a name for each output of the network.
        title: heading of the page.

    Raises:
        InputError: an image that cannot be read, or a file that cannot be written.
    """
    margin = guesses.target_probability - np.where(guesses.right, 0, guesses.probability)
    shown = {row.class_name: row.label for row in judgement.classes}
    counts = {(one, other): count for one, other, count in judgement.confusions}
    counts |= {(row.class_name,) * 2: row.right for row in judgement.classes}
    write_gallery(
        path,
        Path(__file__).with_name("examples.html"),
        np.argsort(-margin, kind="stable").tolist(),
        COUNT,
        lambda index: _figure(index, source, guesses, labels),
        title=title,
        class_names=labels,
        judgement=judgement,
        counts=counts,
        mistaken=[(shown[one], shown[other], count) for one, other, count in judgement.confusions[:20]],
    )


def _figure(index: int, source: ImageSource, guesses: Guesses, labels: list[str]) -> Figure:
    image = to_channels(source.image(index), 3)
    factor = min(max(max(image.size), SIDES[0]), SIDES[1]) / max(image.size)
    size = (max(1, round(image.width * factor)), max(1, round(image.height * factor)))
    resample = Image.Resampling.NEAREST if factor > 1 else Image.Resampling.LANCZOS
    own, found = labels[guesses.targets[index]], labels[guesses.found[index]]
    sure, share = (
        f"{100 * each[index]:.1f}\N{NO-BREAK SPACE}%" for each in (guesses.probability, guesses.target_probability)
    )
    caption = f"{own}, {sure}" if guesses.right[index] else f"{own}, {share}; found as {found}, {sure}"
    return Figure(source.name(index), caption, [Picture.of(own, image.resize(size, resample))])
