"""Images with rectangles to detect, recipes that take seconds, and detectors that are small."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageDraw

from compactnets.detection.data.base import DetectionSource
from compactnets.detection.data.opening import open_detection
from compactnets.detection.recipe import DetectionRecipe

from .data.helpers import annotation, voc_object

TINY = "shufflenet_g3_x0_25"
SIDE = 96
COLOURS = {"red": (220, 40, 40), "blue": (40, 60, 220)}
FASTER_RCNN = {
    "shorter_side": 96,
    "longer_side": 128,
    "anchor_sizes": (24, 48),
    "anchor_ratios": (1.0,),
    "rois_per_image": 32,
    "proposals_train": 64,
    "proposals_test": 32,
    "roi_size": 5,
}
SSD = {"size": 128, "strides": (8, 16, 32), "extra_channels": (32, 32), "smallest": 0.15, "ratios": ((2,),)}


def draw_scene(seed: int, side: int = SIDE) -> tuple[Image.Image, list[tuple[str, int, int, int, int]]]:
    """Return an image with a red and a blue rectangle on noise, and their boxes as Pascal VOC has them."""
    random = np.random.default_rng(seed)
    image = Image.fromarray(random.integers(90, 150, (side, side, 3), dtype=np.uint8))
    pen, boxes = ImageDraw.Draw(image), []
    for number, (name, colour) in enumerate(COLOURS.items()):
        width, height = random.integers(20, 40, 2).tolist()
        left = int(random.integers(1, side // 2 - width + 8)) + number * (side // 2 - 4)
        top = int(random.integers(1, side - height - 1))
        right = min(left + width, side - 2)
        pen.rectangle((left, top, right, top + height), fill=colour)
        boxes.append((name, left + 1, top + 1, right + 1, top + height + 1))
    return image, boxes


def write_scenes(root: Path, *, alike: bool = False, **splits: int) -> Path:
    """Write a Pascal VOC tree with that many images in each split, which may all be the same image."""
    for part in ("Annotations", "JPEGImages", "ImageSets/Main"):
        (root / part).mkdir(parents=True, exist_ok=True)
    for offset, (split, count) in enumerate(splits.items()):
        stems = [f"{split}{number}" for number in range(count)]
        (root / "ImageSets/Main" / f"{split}.txt").write_text("".join(f"{stem}\n" for stem in stems))
        for number, stem in enumerate(stems):
            image, boxes = draw_scene(0 if alike else 1000 * offset + number)
            image.save(root / "JPEGImages" / f"{stem}.png")
            objects = "".join(voc_object(*box) for box in boxes)
            (root / "Annotations" / f"{stem}.xml").write_text(annotation(objects, f"{stem}.png", (SIDE, SIDE)))
    return root


def scenes(root: Path, train: int, val: int, *, alike: bool = False) -> tuple[DetectionSource, DetectionSource]:
    """Write such a tree and open both splits."""
    write_scenes(root, alike=alike, train=train, val=val)
    return open_detection(str(root), "train"), open_detection(str(root), "val")


def tiny_recipe(detector: str = "ssd", **changes: Any) -> DetectionRecipe:
    """A recipe that takes seconds on :func:`scenes`; keyword arguments replace its settings."""
    settings: dict[str, Any] = {
        "detector": detector,
        "model": TINY,
        "epochs": 1,
        "batch_size": 2,
        "lr": 0.02,
        "frozen_batchnorm": False,
        "augment": {"flip": False},
        **({"ssd": SSD} if detector == "ssd" else {"faster_rcnn": FASTER_RCNN}),
    }
    return DetectionRecipe.model_validate({**settings, **changes})
