"""An HTML page with the images on which a segmenter does best and worst."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import numpy as np
from torch import Tensor, nn

from compactnets.data.images import to_channels
from compactnets.drawing.gallery import Figure, Picture, write_gallery
from compactnets.segmentation.checkpoint import SegmenterRecord
from compactnets.segmentation.data import MaskSource
from compactnets.segmentation.drawing import overlay
from compactnets.segmentation.metrics import SegmentationScore
from compactnets.segmentation.prediction import label_image
from compactnets.segmentation.recipe import IGNORED
from compactnets.segmentation.setup import evaluate_on
from compactnets.training.distributed import World

COUNT = 6  # of the best images, and of the worst
WIDTH = 480  # pixels of a picture in the page, at most


class Example(NamedTuple):
    """An image's mean IoU over the classes that are in its mask or were found in it, in percent."""

    miou: float
    place: int


def evaluate_and_show(
    path: Path, network: nn.Module, record: SegmenterRecord, source: MaskSource, world: World, workers: int = 0
) -> SegmentationScore:
    """Measure a network and write a page of its best and worst images; several processes share the images.

    The page has image, mask and result side by side, and works offline.

    Raises:
        InputError: an image that cannot be used, or a file that cannot be written.
    """
    examples: list[Example] = []

    def note(index: int, found: Tensor, counts: Tensor) -> None:
        examples.append(Example(SegmentationScore.of(counts, source.class_names, 1, 0.0).miou, index))

    score = evaluate_on(network, record, source, world, workers, note)
    ranked = sorted((each for part in world.gather(examples) for each in part), reverse=True)
    if not world.is_main:
        return score
    write_gallery(
        path,
        Path(__file__).with_name("examples.html"),
        ranked,
        COUNT,
        lambda each: _figure(each, network, record, source, world),
        title=f"{record.title}: {source.spec} ({source.split})",
        class_names=source.class_names,
        score=score,
    )
    return score


def _figure(example: Example, network: nn.Module, record: SegmenterRecord, source: MaskSource, world: World) -> Figure:
    image, labels = source.pair(example.place)
    found = label_image(network, record, to_channels(image, 3), world.device)
    wrong = (found != labels) & (labels != IGNORED)
    errors = np.where(wrong, found, IGNORED).astype(np.uint8)
    right = 100 * (1 - wrong.sum() / max(1, (labels != IGNORED).sum()))
    width = min(WIDTH, image.width)
    size = (width, round(image.height * width / image.width))
    pictures = {"image": to_channels(image, 3)} | {
        what: overlay(image, drawn, source.class_names, legend=False)
        for what, drawn in (("mask", labels), ("found", found), ("wrong pixels, as what they were found", errors))
    }
    return Figure(
        source.name(example.place),
        f"mean IoU {example.miou:.1f} %, {right:.1f} % of the pixels right",
        [Picture.of(what, picture.resize(size)) for what, picture in pictures.items()],
    )
