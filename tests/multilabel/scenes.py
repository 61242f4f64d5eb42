"""Images with red, green and blue squares, any of them or none, and tables of what is in them."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
from PIL import Image

COLOURS = {"blue": (30, 30, 230), "green": (30, 230, 30), "red": (230, 30, 30)}


def draw(names: list[str], seed: int) -> Image.Image:
    """Return an image of 16 x 16 pixels of noise, with a square of each colour in another quarter."""
    random = np.random.default_rng(seed)
    pixels = random.integers(90, 140, (16, 16, 3)).astype(np.uint8)
    for name, quarter in zip(names, random.permutation(4).tolist(), strict=False):
        y, x = 8 * (quarter // 2), 8 * (quarter % 2)
        pixels[y + 1 : y + 7, x + 1 : x + 7] = COLOURS[name]
    return Image.fromarray(pixels)


def write_images(root: Path, count: int = 60) -> list[tuple[str, list[str]]]:
    """Write images; return name and labels of each."""
    (root / "images").mkdir(parents=True)
    found = []
    for number in range(count):
        names = [name for place, name in enumerate(COLOURS) if number >> place & 1]
        draw(names, number).save(root / "images" / f"{number:02d}.png")
        found.append((f"images/{number:02d}.png", names))
    return found


def write_table(path: Path, rows: list[tuple[str, ...]]) -> Path:
    """Write a table."""
    with path.open("w", encoding="utf-8", newline="") as file:
        csv.writer(file).writerows(rows)
    return path


def write_tables(root: Path, count: int = 60) -> Path:
    """Write images and three tables: with a split, without, and with a column for each class."""
    images = write_images(root, count)
    split = ["val" if number % 4 == 3 else "train" for number in range(count)]
    named = [(image, ";".join(names), part) for (image, names), part in zip(images, split, strict=True)]
    write_table(root / "labels.csv", [("image", "labels", "split"), *named])
    write_table(root / "undivided.csv", [("image", "labels"), *(row[:2] for row in named)])
    flags = [(image, *(str(int(name in names)) for name in COLOURS)) for image, names in images]
    columns = [(*row, part) for row, part in zip(flags, split, strict=True)]
    write_table(root / "columns.csv", [("image", *COLOURS, "split"), *columns])
    return root
