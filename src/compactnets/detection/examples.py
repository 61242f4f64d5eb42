"""An HTML page with the images on which a detector does best and worst."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from PIL import Image

from compactnets.detection.data.base import DetectionSource
from compactnets.detection.drawing import LabelledBox, detection_boxes, draw_boxes, object_boxes
from compactnets.detection.matching import Matches, match
from compactnets.detection.metrics import METRIC_TITLES, DetectionEvaluator, DetectionScores
from compactnets.detection.objects import Detections, Objects
from compactnets.drawing.gallery import Figure, Picture, write_gallery
from compactnets.drawing.lettering import Legend
from compactnets.files import as_path

SIDES = (
    480,
    640,
)  # limits of a picture's longer side in the page, in pixels: small images are enlarged for their labels


@dataclass(frozen=True)
class Example:
    """One image of an evaluation.

    Attributes:
        name: its name, such as its path.
        load: returns the image, of any mode; only called for images that are shown.
        detections: of any score.
        objects: the annotated objects.
    """

    name: str
    load: Callable[[], Image.Image]
    detections: Detections
    objects: Objects


def examples_page(
    path: str | Path,
    examples: Sequence[Example],
    class_names: Sequence[str],
    *,
    scores: DetectionScores | None = None,
    title: str = "Detections",
    count: int = 6,
    score_threshold: float = 0.5,
    iou_threshold: float = 0.5,
) -> None:
    """Write one HTML file with the best and the worst images, each next to its annotation.

    An image is as good as its F1, the harmonic mean of precision and recall among the detections that reach
    ``score_threshold``; ties are broken by more right detections, then by fewer errors. The file is self-contained and
    works offline.

    Args:
        path: the file; its folder is created.
        examples: all images of the evaluation.
        class_names: those that labels index.
        scores: the result of the evaluation, shown above the images.
        title: heading of the page.
        count: number of best and of worst images; no image is shown twice.
        score_threshold: of the detections that are shown.
        iou_threshold: smallest IoU of a right detection (:func:`match`).

    Raises:
        InputError: an image that cannot be read, or a file that cannot be written.
    """
    path = as_path(path)
    judged = [
        (example, shown, match(shown, example.objects, iou_threshold))
        for example in examples
        for shown in [example.detections.above(score_threshold)]
    ]
    judged.sort(key=lambda entry: _rank(entry[2]), reverse=True)
    legend = Legend(class_names)
    write_gallery(
        path,
        Path(__file__).with_name("examples.html"),
        judged,
        count,
        lambda entry: _figure(*entry, legend.shown),
        title=title,
        class_names=class_names,
        scores=scores,
        mistaken=scores.confusion.mistaken(class_names)[:20] if scores else [],
        metric=scores and METRIC_TITLES[scores.metric],
        images=len(judged),
        score_threshold=score_threshold,
        iou_threshold=iou_threshold,
        legend=legend.lines(),
    )


def write_examples(path: str | Path, evaluator: DetectionEvaluator, source: DetectionSource) -> None:
    """Write the page of the best and the worst images of an evaluation of ``source``.

    Raises:
        InputError: an image that cannot be read, or a file that cannot be written.
    """
    path = as_path(path)

    def example(index: int) -> Example:
        detections, objects = found[index]
        return Example(source.name(index), lambda: source.image(index), detections, objects)

    found = {index: (detections, objects) for index, detections, objects in evaluator}
    examples_page(
        path,
        [example(index) for index in found],
        source.class_names,
        scores=evaluator.compute(),
        title=f"{source.spec} ({source.split})",
    )


def _rank(matches: Matches) -> tuple[float, int, int]:
    right, wrong, missed = (int(verdicts.sum()) for verdicts in (matches.right, matches.wrong, matches.missed))
    return matches.f1, right, -(wrong + missed)


def _figure(example: Example, shown: Detections, matches: Matches, class_names: Sequence[str]) -> Figure:
    """Draw one image twice, with the numbers for its caption."""
    image = example.load()
    longer = max(image.size)
    factor = min(max(longer, SIDES[0]), SIDES[1]) / longer
    size = (max(1, round(image.width * factor)), max(1, round(image.height * factor)))
    stretch = torch.tensor([size[0] / image.width, size[1] / image.height] * 2)
    picture = image.convert("RGB").resize(size, Image.Resampling.LANCZOS)
    objects = replace(example.objects, boxes=example.objects.boxes * stretch)
    detections = replace(shown, boxes=shown.boxes * stretch)
    right, wrong, missed = (int(verdicts.sum()) for verdicts in (matches.right, matches.wrong, matches.missed))
    ignored = int((~matches.right & ~matches.wrong).sum())
    uncounted = f", {ignored} on objects that do not count" if ignored else ""
    return Figure(
        example.name,
        f"{right} right, {wrong} wrong, {missed} missed{uncounted} \N{MIDDLE DOT} F1 {matches.f1:.2f}",
        [
            Picture.of("annotation", draw_boxes(picture, object_boxes(objects, class_names))),
            Picture.of("detections", draw_boxes(picture, _verdict_boxes(detections, objects, matches, class_names))),
        ],
    )


def _verdict_boxes(
    detections: Detections, objects: Objects, matches: Matches, class_names: Sequence[str]
) -> list[LabelledBox]:
    """Return missed objects in white, and detections: right ones solid, the others dashed and marked."""
    boxes = object_boxes(objects.pick(matches.missed), class_names, white=True)
    found = detection_boxes(detections, class_names)
    verdicts = zip(matches.right.tolist()[::-1], matches.wrong.tolist()[::-1], strict=True)
    for box, (right, wrong) in zip(found, verdicts, strict=True):
        text = f"\N{MULTIPLICATION SIGN} {box.text}" if wrong else box.text if right else f"{box.text} (ignored)"
        short = f"\N{MULTIPLICATION SIGN} {box.short}" if wrong and box.short else box.short
        boxes.append(replace(box, text=text, dashed=not right, short=short))
    return boxes
