"""An HTML page with the images on which a segmenter does best and worst."""

from __future__ import annotations

import base64
import io
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from PIL import Image
from torch import Tensor, nn

from compactnets.data.images import to_channels
from compactnets.detection.drawing import class_colour
from compactnets.files import replace_text
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
    groups = {
        "Worst": ranked[::-1][: min(COUNT, len(ranked) // 2)],
        "Best": ranked[: min(COUNT, (len(ranked) + 1) // 2)],
    }
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent), autoescape=True, undefined=StrictUndefined, trim_blocks=True
    )
    page = environment.get_template("examples.html").render(
        title=f"{record.title}: {source.spec} ({source.split})",
        score=score,
        colours=[class_colour(label) for label in range(len(source.class_names))],
        groups=[
            (heading, [_figure(each, network, record, source, world) for each in found])
            for heading, found in groups.items()
            if found
        ],
    )
    replace_text(path, page)
    return score


def _figure(
    example: Example, network: nn.Module, record: SegmenterRecord, source: MaskSource, world: World
) -> dict[str, Any]:
    image, labels = source.pair(example.place)
    found = label_image(network, record, to_channels(image, 3), world.device)
    wrong = (found != labels) & (labels != IGNORED)
    errors = np.where(wrong, found, IGNORED).astype(np.uint8)
    width, height = image.size
    size = (min(WIDTH, width), round(height * min(WIDTH, width) / width))
    pictures = (
        ("image", to_channels(image, 3)),
        ("mask", overlay(image, labels, source.class_names, legend=False)),
        ("found", overlay(image, found, source.class_names, legend=False)),
        ("wrong pixels, as what they were found", overlay(image, errors, source.class_names, legend=False)),
    )
    return {
        "name": source.name(example.place),
        "miou": example.miou,
        "right": 100 * (1 - wrong.sum() / max(1, (labels != IGNORED).sum())),
        "size": size,
        "pictures": [(what, _data_uri(picture.resize(size))) for what, picture in pictures],
    }


def _data_uri(picture: Image.Image) -> str:
    buffer = io.BytesIO()
    picture.save(buffer, format="JPEG", quality=80, optimize=True)
    return "data:image/jpeg;base64," + base64.b64encode(buffer.getvalue()).decode()
