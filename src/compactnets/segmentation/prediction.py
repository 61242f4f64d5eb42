"""Segment image files and videos: as shares of the classes, masks and overlays."""

from __future__ import annotations

import io
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import nn

from compactnets.data.images import to_channels
from compactnets.data.inputs import OutputNames, Picture, run_on
from compactnets.files import replace_files
from compactnets.segmentation.checkpoint import SegmenterRecord
from compactnets.segmentation.drawing import overlay, palette_image
from compactnets.segmentation.metrics import best_class
from compactnets.segmentation.networks import upscale
from compactnets.segmentation.transform import network_input, normalize
from compactnets.training.setup import NotFiniteError

COLUMNS = {  # of a table of results
    **{"image": str, "frame": int, "seconds": float, "width": int, "height": int},
    **{"class_name": str, "share": float, "error": str},
}
MASK, OVERLAY = ".png", "-overlay.jpg"  # endings of the files of an image


@dataclass(frozen=True)
class ImageClasses:
    """The classes of one image or video frame, the largest first; or the error.

    Attributes:
        image: path of the file.
        shares: class name -> share of the pixels, from 0 to 1, of the classes that were found.
        mask, overlay: paths of the files that were written.
        frame, seconds: of a video.
        name: the heading.
    """

    image: str
    width: int = 0
    height: int = 0
    shares: dict[str, float] | None = None
    mask: str | None = None
    overlay: str | None = None
    frame: int | None = None
    seconds: float | None = None
    error: str | None = None
    name: str = ""

    def to_dict(self) -> dict[str, Any]:
        """Return the result for JSON, without what there is not."""
        return {key: value for key, value in asdict(self).items() if value is not None and key != "name"}

    def lines(self) -> Iterator[str]:
        """Yield a line for each class."""
        for name, share in (self.shares or {}).items():
            yield f"{share:6.1%}  {name}"

    def rows(self) -> Iterator[tuple[Any, ...]]:
        """Yield a row for each class, or one with the error; see :data:`COLUMNS`."""
        place = (self.image, self.frame, self.seconds, self.width or None, self.height or None)
        for name, share in (self.shares or {}).items():
            yield (*place, name, share, None)
        if not self.shares:
            yield (*place, None, None, self.error)


def label_image(network: nn.Module, record: SegmenterRecord, image: Image.Image, device: torch.device) -> np.ndarray:
    """Return the class of every pixel of an image, (H, W) uint8, at its own size.

    Raises:
        InputError: pixels whose range is unknown, or a size that an exported network does not take.
        NotFiniteError: (an InputError) outputs that are not finite.
    """
    pixels = network_input(image, record.size)[None].to(device)
    with torch.inference_mode():
        scores = network(normalize(pixels, *record.statistics))
        if not scores.isfinite().all():
            raise NotFiniteError("the network gives outputs that are not finite")
        labels: np.ndarray = best_class(upscale(scores, image.size[::-1]))[0].cpu().numpy()
    return labels


def predict_masks(
    network: nn.Module,
    record: SegmenterRecord,
    device: torch.device,
    images: Iterable[str | Picture],
    output: Path | None,
    every: int = 1,
) -> Iterator[ImageClasses]:
    """Segment images and video frames one by one; an unusable one gives an ``error``.

    Args:
        images: the result of :func:`compactnets.data.finding.find_files`.
        output: folder for ``NAME.png``, a mask whose values are the classes' places in ``class_names``, and
            ``NAME-overlay.jpg``; ``None``: nothing is written.
        every: use every n-th frame of a video.

    Raises:
        InputError: a file that cannot be written.
        NotFiniteError: (an InputError) outputs that are not finite.
    """
    files = list(images)
    names = OutputNames(output, files, (MASK, OVERLAY))

    def run(image: Image.Image) -> tuple[Image.Image, np.ndarray]:
        image = to_channels(image, 3)
        return image, label_image(network, record, image, device)

    for picture, result in run_on(files, every, run, NotFiniteError):
        found = ImageClasses(**picture.facts)
        if result is None:
            yield found
            continue
        image, labels = result
        counts = np.bincount(labels.ravel(), minlength=len(record.class_names))
        order = [label for label in np.argsort(-counts, kind="stable").tolist() if counts[label]]
        shares = {record.class_names[label]: int(counts[label]) / labels.size for label in order}
        found = replace(found, width=image.width, height=image.height, shares=shares)
        if (base := names.take(picture)) is not None:
            mask, drawn = Path(f"{base}{MASK}"), Path(f"{base}{OVERLAY}")
            replace_files(
                {
                    mask: _encoded(palette_image(labels), "PNG"),
                    drawn: _encoded(overlay(image, labels, record.class_names), "JPEG", quality=90),
                }
            )
            found = replace(found, mask=str(mask), overlay=str(drawn))
        yield found


def _encoded(picture: Image.Image, kind: str, **options: Any) -> bytes:
    data = io.BytesIO()
    picture.save(data, kind, **options)
    return data.getvalue()
