"""Masks as pictures: with a palette, and over their image with a legend."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageDraw

from compactnets.data.images import to_channels
from compactnets.drawing.colours import BLACK, WHITE, class_colour
from compactnets.drawing.lettering import write
from compactnets.segmentation.recipe import IGNORED

OPACITY = 0.55  # of a mask over its image: dark photographs and pale colours are both still told apart
LEAST = 1e-3  # share of the pixels: what a legend leaves out
TEXT = (12, 28)  # smallest and largest size of a legend's text, pixels


def palette_image(labels: np.ndarray) -> Image.Image:
    """Return a mask whose values are the labels (H, W) uint8, with a palette to look at; 255 is black."""
    image = Image.fromarray(labels).convert("P")
    image.putpalette([level for label in range(IGNORED) for level in class_colour(label)] + list(BLACK))
    image.putdata(labels.ravel().tolist())
    return image


def overlay(image: Image.Image, labels: np.ndarray, class_names: Sequence[str], *, legend: bool = True) -> Image.Image:
    """Draw labels (H, W) uint8 over their image, each class in its colour; a pixel without one is left as it is.

    Args:
        legend: add colour, name and share of the classes below the image, the largest first.
    """
    colours = np.array([class_colour(label) for label in range(IGNORED)] + [BLACK], dtype=np.float32)
    pixels = np.asarray(to_channels(image, 3), dtype=np.float32)
    mixed = (1 - OPACITY) * pixels + OPACITY * colours[labels]
    mixed = np.where((labels == IGNORED)[..., None], pixels, mixed)
    drawn = Image.fromarray(mixed.round().astype(np.uint8))
    return _with_legend(drawn, labels, class_names) if legend else drawn


def _with_legend(drawn: Image.Image, labels: np.ndarray, class_names: Sequence[str]) -> Image.Image:
    shares = np.bincount(labels.ravel(), minlength=256)[: len(class_names)] / labels.size
    size = min(max(drawn.width // 36, TEXT[0]), TEXT[1])
    rows: list[list[tuple[int, int]]] = [[]]  # of (label, left)
    left, texts, line = size // 2, {}, 2 * size
    for label in np.argsort(-shares, kind="stable").tolist():
        if shares[label] < LEAST:
            break
        texts[label] = write(f"{class_names[label]} {shares[label]:.0%}", size)
        width = 2 * size + round(texts[label].width)
        if rows[-1] and left + width > drawn.width:
            rows.append([])
            left = size // 2
        rows[-1].append((label, left))
        left += width + size // 2
    canvas = Image.new("RGB", (drawn.width, drawn.height + line * len(rows)), WHITE)
    canvas.paste(drawn)
    pen = ImageDraw.Draw(canvas)
    for number, row in enumerate(rows):
        top = drawn.height + line * number + size // 2
        for label, start in row:
            pen.rectangle((start, top, start + size, top + size), fill=class_colour(label), outline=BLACK)
            texts[label].draw(pen, start + 1.4 * size, top + (size - texts[label].height) / 2, BLACK)
    return canvas
