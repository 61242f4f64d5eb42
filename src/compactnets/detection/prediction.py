"""Detect objects in image files and videos: as data, and drawn on the images."""

from __future__ import annotations

import io
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from PIL import Image

from compactnets.console import say
from compactnets.data.images import to_channels
from compactnets.data.inputs import OutputNames, Picture, run_on
from compactnets.detection.checkpoint import Detector, DetectorRecord
from compactnets.detection.drawing import draw
from compactnets.detection.evaluation import find_objects, watched
from compactnets.detection.objects import Detections
from compactnets.detection.transform import plain_target
from compactnets.drawing.lettering import Legend
from compactnets.files import as_path, replace_bytes
from compactnets.folders import check_folder
from compactnets.training.setup import NotFiniteError

COLUMNS = {  # of a table of results
    **{"image": str, "frame": int, "seconds": float, "width": int, "height": int},
    **{"class_name": str, "score": float, "left": float, "top": float, "right": float, "bottom": float, "error": str},
}


@dataclass(frozen=True)
class FoundObject:
    """One object: its class, its score from 0 to 1 and its box (left, top, right, bottom) in pixels of the image."""

    class_name: str
    score: float
    box: tuple[float, float, float, float]


@dataclass(frozen=True)
class ImageObjects:
    """The objects of one image or video frame, best first; or the error."""

    image: str  # path of the file
    width: int = 0
    height: int = 0
    objects: tuple[FoundObject, ...] = ()
    drawn: str | None = None  # the image with boxes
    frame: int | None = None  # of a video
    seconds: float | None = None
    error: str | None = None
    name: str = ""  # the heading above the objects
    least: float = 0.0  # the score threshold

    def to_dict(self) -> dict[str, Any]:
        """Return the objects for JSON; ``drawn``, ``frame``, ``seconds`` and ``error`` only where there are any."""
        values = {key: value for key, value in asdict(self).items() if value is not None}
        del values["name"], values["least"]
        return values

    def lines(self) -> Iterator[str]:
        """Yield a line for each object."""
        for found in self.objects:
            left, top, right, bottom = (round(end) for end in found.box)
            yield f"{found.score:5.2f}  {found.class_name}  {left}, {top} to {right}, {bottom}"
        if not self.objects:
            yield f"nothing with a score of {self.least:g} or more"

    def rows(self) -> Iterator[tuple[Any, ...]]:
        """Yield a row for each object, or one without; see :data:`COLUMNS`."""
        place = (self.image, self.frame, self.seconds, self.width or None, self.height or None)
        for found in self.objects:
            yield (*place, found.class_name, found.score, *found.box, None)
        if not self.objects:
            yield (*place, *[None] * 6, self.error)


def predict_objects(
    detector: Detector,
    record: DetectorRecord,
    images: Iterable[str | Picture],
    output: str | Path | None,
    score: float = 0.5,
    every: int = 1,
) -> Iterator[ImageObjects]:
    """Find the objects in images and video frames one by one; an unusable one gives an ``error``.

    Args:
        detector: a checkpoint's or an exported one, in evaluation mode.
        record: its classes.
        images: the result of :func:`compactnets.data.finding.find_files`.
        output: folder for the images with boxes, ``NAME.jpg`` each; default: none are drawn. Input files are never
            overwritten.
        score: least score of an object.
        every: use every n-th frame of a video.

    Raises:
        InputError: the folder cannot be written.
        NotFiniteError: (an InputError) outputs that are not finite.
    """
    output = None if output is None else as_path(output)
    if output is not None:
        check_folder(output)
    weights = next(detector.parameters(), None)
    device = "cpu" if weights is None else weights.device  # an exported detector has none in PyTorch
    files = list(images)
    legend = Legend(record.class_names)
    names = OutputNames(output, files, (".jpg",))

    def run(image: Image.Image) -> tuple[Image.Image, Detections]:
        image = to_channels(image, 3)
        with watched(detector) as finite:
            found = find_objects(detector, [plain_target(image).to(device).float().div_(255)])[0].above(score)
        if not all(finite):
            raise NotFiniteError("the detector gives outputs that are not finite")
        return image, found

    for picture, result in run_on(files, every, run, NotFiniteError):
        if result is None:
            yield ImageObjects(**picture.facts)
            continue
        image, found = result
        drawn = None if (base := names.take(picture)) is None else Path(f"{base}.jpg")
        if drawn is not None:
            _save(draw(image, found, legend.shown), drawn)
            legend.met(found.labels.tolist())
        objects = _objects(found, record.class_names)
        width, height = image.size
        yield ImageObjects(
            width=width,
            height=height,
            objects=objects,
            drawn=None if drawn is None else str(drawn),
            least=score,
            **picture.facts,
        )
    if note := legend.note():
        say(f"note: {note}")


def _objects(found: Detections, class_names: Sequence[str]) -> tuple[FoundObject, ...]:
    return tuple(
        FoundObject(class_names[label], value, (box[0], box[1], box[2], box[3]))
        for label, value, box in zip(found.labels.tolist(), found.scores.tolist(), found.boxes.tolist(), strict=True)
    )


def _save(picture: Image.Image, path: Path) -> None:
    """Write a drawing completely or not at all."""
    data = io.BytesIO()
    picture.save(data, "JPEG", quality=90)
    replace_bytes(path, data.getbuffer())
