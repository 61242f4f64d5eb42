"""Objects in image files: boxes as JSON, and the images with the boxes drawn on them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from compactnets.data import read_image
from compactnets.detection.checkpoint import Detector, DetectorRecord
from compactnets.detection.drawing import draw
from compactnets.detection.evaluation import find_objects, watched
from compactnets.detection.transform import plain_target
from compactnets.errors import InputError
from compactnets.files import as_path
from compactnets.folders import check_folder
from compactnets.training.evaluation import NotFiniteError


@dataclass(frozen=True)
class FoundObject:
    """One object: its class, its score from 0 to 1 and its box (left, top, right, bottom) in pixels of the image."""

    class_name: str
    score: float
    box: tuple[float, float, float, float]


@dataclass(frozen=True)
class ImageObjects:
    """The objects of one image, best first; or why there are none."""

    image: str
    width: int = 0
    height: int = 0
    objects: tuple[FoundObject, ...] = ()
    drawn: str | None = None  # the image with boxes
    error: str | None = None

    def to_dict(self) -> dict[str, Any]:
        """Return the objects for JSON; ``error`` and ``drawn`` only where there are any."""
        return {key: value for key, value in asdict(self).items() if value is not None}


def predict_objects(
    detector: Detector,
    record: DetectorRecord,
    paths: Iterable[str | Path],
    output: str | Path | None,
    score: float = 0.5,
) -> Iterator[ImageObjects]:
    """Find the objects of image files, one by one; a file that cannot be read gives a result with an ``error``.

    Args:
        output: folder for the images with boxes, ``NAME.jpg`` each; none are drawn where it is not given.
        score: least score of an object.

    Raises:
        InputError: the folder cannot be written.
        NotFiniteError: (an InputError) outputs that are not finite.
    """
    output = None if output is None else as_path(output)
    if output is not None:
        check_folder(output)
    weights = next(detector.parameters(), None)
    device = "cpu" if weights is None else weights.device  # an exported detector has none in PyTorch
    taken: set[str] = set()
    for path in paths:
        try:
            image = read_image(path).convert("RGB")
        except InputError as error:
            yield ImageObjects(str(path), error=str(error))
            continue
        pixels = plain_target(image).to(device).float().div_(255)
        with watched(detector) as finite:
            found = find_objects(detector, [pixels])[0].above(score)
        if not all(finite):
            raise NotFiniteError(f"the detector gives numbers that are not finite for {path}")
        drawn = None
        if output is not None:
            drawn = _free_name(output, Path(path).stem, taken)
            try:
                output.mkdir(parents=True, exist_ok=True)
                draw(image, found, record.class_names).save(drawn, quality=90)
            except OSError as error:
                raise InputError(f"cannot write {drawn}: {error.strerror}") from None
        objects = tuple(
            FoundObject(record.class_names[label], value, (box[0], box[1], box[2], box[3]))
            for label, value, box in zip(
                found.labels.tolist(), found.scores.tolist(), found.boxes.tolist(), strict=True
            )
        )
        yield ImageObjects(str(path), image.width, image.height, objects, None if drawn is None else str(drawn))


def _free_name(folder: Path, stem: str, taken: set[str]) -> Path:
    """Return where to draw an image: files of the same name from two folders get a number."""
    name, number = stem, 1
    while name in taken:
        number += 1
        name = f"{stem}-{number}"
    taken.add(name)
    return folder / f"{name}.jpg"
