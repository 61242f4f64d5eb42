"""Average precision of a detector on a source of images with boxes."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torchvision.models.detection.transform import GeneralizedRCNNTransform

from compactnets.console import Tracker
from compactnets.detection.data.base import DetectionSource
from compactnets.detection.data.problems import OnBad
from compactnets.detection.loading import DetectionEvalLoader
from compactnets.detection.metrics import DetectionEvaluator, Metric
from compactnets.detection.objects import Detections
from compactnets.detection.transform import check_narrow
from compactnets.errors import InputError
from compactnets.training.distributed import World
from compactnets.training.setup import EvaluationStopped, NotFiniteError

PARTS = ("backbone", "head", "rpn.head", "roi_heads.box_predictor")  # of torchvision's SSD and Faster R-CNN


def find_objects(detector: nn.Module, images: list[Tensor]) -> list[Detections]:
    """Run a detector in evaluation mode on images (3, H, W) float32 from 0 to 1; the results are on the CPU.

    Raises:
        InputError: an image that is too narrow for the detector's input.
    """
    if (sides := input_sides(detector)) is not None:
        for image in images:
            check_narrow(image.shape[-1], image.shape[-2], *sides)
    with torch.inference_mode():
        found = detector(images)
    return [
        Detections(one["boxes"].float().cpu(), one["labels"].cpu() - 1, one["scores"].float().cpu()) for one in found
    ]


def input_sides(detector: nn.Module) -> tuple[int, int] | None:
    """Return shorter and longer side to which a detector scales an image; ``None`` if it has a fixed size."""
    if isinstance(scaling := getattr(detector, "transform", None), GeneralizedRCNNTransform):  # torchvision's
        return None if scaling.fixed_size is not None else (int(scaling.min_size[-1]), int(scaling.max_size))
    found = getattr(getattr(getattr(detector, "artifact", None), "input", None), "longer_side", None)  # an exported one
    if found is None or detector.artifact.input.size is not None:  # type: ignore[union-attr]
        return None
    return int(detector.artifact.input.shorter_side), int(found)  # type: ignore[union-attr]


@contextmanager
def watched(detector: nn.Module) -> Iterator[list[bool]]:
    """Collect, for each output of the detector's networks, whether it is finite.

    With NaN scores, torchvision's detectors silently find nothing, so the average precision would be zero. An exported
    detector checks its outputs itself.
    """
    finite: list[bool] = []

    def look(module: nn.Module, inputs: Any, output: Any) -> None:
        finite.extend(bool(tensor.isfinite().all()) for tensor in _tensors(output))

    parts = [module for name, module in detector.named_modules() if name in PARTS]
    handles = [part.register_forward_hook(look) for part in parts]
    try:
        yield finite
    finally:
        for handle in handles:
            handle.remove()


def _tensors(value: Any) -> Iterator[Tensor]:
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, Mapping):
        for each in value.values():
            yield from _tensors(each)
    elif isinstance(value, list | tuple):
        for each in value:
            yield from _tensors(each)


def evaluate_detector(
    detector: nn.Module,
    loader: DetectionEvalLoader,
    world: World,
    evaluator: DetectionEvaluator,
    *,
    description: str = "evaluating",
    stop: Callable[[], bool] | None = None,
) -> float:
    """Add the detections of all processes on a loader's images to ``evaluator``, and return the seconds.

    Raises:
        InputError: an image that cannot be read.
        NotFiniteError: (an InputError) outputs that are not finite.
        EvaluationStopped: ``stop`` returned true in any process.
    """
    was_training = detector.training
    detector.eval()
    start, stopped, bad_images, images = time.perf_counter(), False, 0, 0
    for batch in Tracker(loader, len(loader), description):
        with watched(detector) as finite:
            try:
                found = find_objects(detector, batch.images)
            except NotFiniteError:
                raise
            except InputError as error:
                source = loader.source
                where = ", ".join(str(source.root / source.name(index)) for index in batch.indices.tolist())
                raise InputError(f"{where}: {error}") from None
        images += len(batch.images)
        bad_images += 0 if all(finite) else len(batch.images)
        for detections, objects, index in zip(found, batch.objects, batch.indices.tolist(), strict=True):
            evaluator.update(detections, objects, index)
        if stopped := stop is not None and stop():
            break
    detector.train(was_training)
    if world.largest(int(stopped)):
        raise EvaluationStopped
    bad, all_images = (round(count) for count in world.sum([bad_images, images]))
    if bad:
        raise NotFiniteError(f"the detector gives outputs that are not finite for {bad} of {all_images} images")
    states: list[Any] = world.gather(evaluator.state())
    for rank, state in enumerate(states):
        if rank != world.rank:
            evaluator.add_state(state)
    return time.perf_counter() - start


def evaluate_on(
    detector: nn.Module,
    source: DetectionSource,
    *,
    metric: Metric = "voc07",
    bad_boxes: OnBad = "raise",
    workers: int = 0,
    world: World | None = None,
) -> tuple[DetectionEvaluator, float]:
    """Evaluate a detector on every image of a source; several processes share them.

    Returns:
        an evaluator with all detections, and the duration in seconds.

    Raises:
        InputError: an image that cannot be read, or an unusable box, if those are rejected.
    """
    world = world or World()
    loader = DetectionEvalLoader(source, world, workers, bad_boxes)
    evaluator = DetectionEvaluator(source.class_names, metric=metric)
    try:
        return evaluator, evaluate_detector(detector, loader, world, evaluator)
    finally:
        loader.close()
