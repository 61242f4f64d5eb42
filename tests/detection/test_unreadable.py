"""``on_error`` of a detector's training: wherever the image that cannot be read is; evaluation never replaces one."""

from __future__ import annotations

from pathlib import Path

import pytest
from PIL import Image

from compactnets.detection.data import open_detection
from compactnets.detection.evaluation import evaluate_on
from compactnets.detection.loading import DetectionEvalLoader
from compactnets.detection.setup import DetectionSetup
from compactnets.errors import InputError
from compactnets.training.distributed import World

from .data.helpers import write_tree
from .helpers import tiny_recipe

COUNT = 4


@pytest.mark.parametrize("index", [0, COUNT - 1])
def test_skip_holds_wherever_the_image_is(index: int, tmp_path: Path) -> None:
    images = {str(number): [("cat", 1, 1, 9, 9)] for number in range(COUNT)}
    root = write_tree(tmp_path, {"train": images, "val": images})
    broken = root / "JPEGImages" / f"{index}.png"
    broken.write_bytes(b"")
    sources = open_detection(str(root), "train"), open_detection(str(root), "val")

    def read(**changes: object) -> tuple[int, int]:
        task = DetectionSetup(tiny_recipe(batch_size=2, **changes), *sources, None, World())
        task.describe()
        loader = task.make_loader(World())
        found = sum(len(batch.images) for batch in loader.epoch(0))
        loader.close()
        return found, loader.skipped

    assert read(on_error="skip", max_skipped=1) == (COUNT, 1)
    with pytest.raises(InputError, match=broken.name):
        read()
    with pytest.raises(InputError, match=broken.name):
        list(DetectionEvalLoader(sources[1], World(), 0, "raise"))


@pytest.mark.parametrize("size", [(3000, 2), (2, 3000)])
def test_an_image_that_scales_to_nothing_is_one_that_cannot_be_read(size: tuple[int, int], tmp_path: Path) -> None:
    """Faster R-CNN scales to a longer side; in training such an image is skipped or named, in evaluation named."""
    images = {str(number): [("cat", 1, 1, 2, 2)] for number in range(COUNT)}
    root = write_tree(tmp_path, {"train": images, "val": images})
    strip = root / "JPEGImages" / "2.png"
    Image.new("RGB", size).save(strip)
    sources = open_detection(str(root), "train"), open_detection(str(root), "val")

    def task(**changes: object) -> DetectionSetup:
        return DetectionSetup(tiny_recipe("faster_rcnn", batch_size=2, **changes), *sources, None, World())

    loader = task(on_error="skip", max_skipped=1).make_loader(World())
    assert sum(len(batch.images) for batch in loader.epoch(0)) == COUNT
    assert loader.skipped == 1
    loader.close()
    refusing = task()
    with pytest.raises(InputError, match=strip.name):
        list(refusing.make_loader(World()).epoch(0))
    with pytest.raises(InputError, match=strip.name):
        evaluate_on(refusing.model, sources[1])
