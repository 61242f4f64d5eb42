"""Small sets of images with masks, in every layout."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

NAMES = ("grass", "ball", "box")
COLOURS = np.array([(40, 160, 60), (220, 60, 40), (50, 70, 210)], np.uint8)


def scene(number: int, height: int = 64, width: int = 96) -> tuple[np.ndarray, np.ndarray]:
    """A ball and a box on grass, each in its colour with a little noise: pixels (H, W, 3) and labels (H, W)."""
    random = np.random.default_rng(number)
    rows, columns = np.mgrid[:height, :width]
    labels = np.zeros((height, width), np.uint8)
    top, left = random.integers(4, height // 2), random.integers(4, width // 3)
    labels[top : top + height // 3, left : left + width // 4] = 2
    centre = random.integers(height // 4, 3 * height // 4), random.integers(width // 2, 3 * width // 4)
    labels[(rows - centre[0]) ** 2 + (columns - centre[1]) ** 2 < (height // 5) ** 2] = 1
    noise = random.integers(-20, 20, (height, width, 3))
    return np.clip(COLOURS[labels].astype(int) + noise, 0, 255).astype(np.uint8), labels


def write_folders(root: Path, train: int = 4, val: int = 2, *, classes: bool = True, **size: int) -> Path:
    """images/SPLIT and masks/SPLIT, with classes.txt."""
    for split, start, count in (("train", 0, train), ("val", 100, val)):
        for number in range(start, start + count):
            pixels, labels = scene(number, **size)
            for kind, array in (("images", pixels), ("masks", labels)):
                folder = root / kind / split
                folder.mkdir(parents=True, exist_ok=True)
                Image.fromarray(array).save(folder / f"{number}.png")
    if classes:
        (root / "classes.txt").write_text("\n".join(NAMES) + "\n")
    return root


def save_palette(labels: np.ndarray, path: Path) -> None:
    """As Pascal VOC saves masks."""
    image = Image.fromarray(labels).convert("P")
    image.putpalette([value * step % 256 for value in range(256) for step in (37, 71, 113)])
    image.putdata(labels.ravel().tolist())
    path.parent.mkdir(parents=True, exist_ok=True)
    image.save(path)


def write_voc(root: Path) -> Path:
    """Pascal VOC, with a border of 255 around the ball."""
    for split, start in (("train", 0), ("val", 100)):
        for number in (start, start + 1):
            pixels, labels = scene(number)
            labels[0] = 255
            (root / "JPEGImages").mkdir(parents=True, exist_ok=True)
            Image.fromarray(pixels).save(root / "JPEGImages" / f"{number}.jpg", quality=95)
            save_palette(labels, root / "SegmentationClass" / f"{number}.png")
        lists = root / "ImageSets" / "Segmentation"
        lists.mkdir(parents=True, exist_ok=True)
        (lists / f"{split}.txt").write_text(f"{start}\n{start + 1}\n")
    return root


def write_cityscapes(root: Path) -> Path:
    """Its names, with ids: road 7, car 26, and 4, which is in no class."""
    for split, start in (("train", 0), ("val", 100)):
        pixels, labels = scene(start)
        ids = np.array([7, 26, 4], np.uint8)[labels]
        for folder, ending, array in (
            ("leftImg8bit", "leftImg8bit", pixels),
            ("gtFine", "gtFine_labelIds", ids),
            ("gtFine", "gtFine_instanceIds", ids),
        ):
            place = root / folder / split / "bonn"
            place.mkdir(parents=True, exist_ok=True)
            Image.fromarray(array).save(place / f"bonn_000_{ending}.png")
    return root


def write_coco(root: Path) -> Path:
    """A square polygon, run lengths of another class over half of it, and a crowd."""
    runs = np.zeros((64, 96), np.uint8)
    runs[20:30, 10:30] = 1
    flat, counts, last = runs.ravel(order="F"), [0], 0
    for value in flat.tolist():
        if value != last:
            counts.append(0)
            last = value
        counts[-1] += 1
    crowd = {"size": [64, 96], "counts": [0, 64 * 5, 64 * 91]}  # the five columns at the left
    objects: list[tuple[int, Any, int]] = [
        (7, [[10, 10, 30, 10, 30, 25, 10, 25]], 0),
        (3, {"size": [64, 96], "counts": counts}, 0),
        (3, crowd, 1),
    ]
    for split in ("train", "val"):
        folder = root / split
        folder.mkdir(parents=True, exist_ok=True)
        Image.fromarray(scene(split == "val")[0]).save(folder / "a.png")
        document = {
            "images": [{"id": 5, "file_name": "a.png", "width": 96, "height": 64}],
            "categories": [{"id": 3, "name": "ball"}, {"id": 7, "name": "box"}],
            "annotations": [
                {"id": n, "image_id": 5, "category_id": c, "segmentation": m, "iscrowd": many, "bbox": [0, 0, 9, 9]}
                for n, (c, m, many) in enumerate(objects)
            ],
        }
        (root / "annotations").mkdir(exist_ok=True)
        (root / "annotations" / f"instances_{split}.json").write_text(json.dumps(document))
    return root
