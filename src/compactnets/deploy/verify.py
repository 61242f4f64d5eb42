"""Compare an artifact, in its own runtime, with the original network."""

from __future__ import annotations

import copy
import dataclasses
import itertools
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from compactnets.console import stage
from compactnets.data import Preprocess, open_source
from compactnets.data.base import readable
from compactnets.deploy.artifact import run_in_batches
from compactnets.deploy.formats.registry import (
    FLOAT16,
    FLOAT32,
    STEP,
    Format,
    Runner,
    other_side,
)
from compactnets.deploy.record import Check, Verification
from compactnets.errors import InputError, LimitError
from compactnets.failures import scratch_folder

BATCHES = (1, 2, 5)
NUM_IMAGES = max(BATCHES)
TOLERANCE = 1e-4  # of the largest absolute logit; every format stays below 1e-5 here
TOLERANCES = {FLOAT32: TOLERANCE, FLOAT16: 1e-2}  # trained networks stay below half of float16's, computed in it or not
TINY = float(np.finfo(np.float32).tiny)
MEASURES = {"relative_difference": "the largest logit", "rms_difference": "the logits' standard deviation"}

Measure = Literal["relative_difference", "rms_difference"]
Pictures = tuple[list[Image.Image], str]  # and where they come from
Write = Callable[[Tensor, Path], dict[str, Any]]  # (example, folder) -> further details for the record


def verify(
    fmt: Format,
    model: nn.Module,
    write: Write,
    folder: Path,
    preprocess: Preprocess,
    *,
    batch_size: int = 1,
    images: str | None = None,
    pictures: Pictures | None = None,
    tolerance: float = TOLERANCE,
    measure: Measure = "relative_difference",
) -> Verification:
    """Run the artifact in ``folder`` on real images in batches of 1, 2 and 5, at two sizes, and compare.

    A format that fixes batch and size is written again for the other batches and sizes, in a scratch folder; a network
    with a fixed size is only compared at that size.

    Args:
        model: the reference: the trained network, in evaluation mode, or the int8 simulation.
        write: called with (example, folder) to write further artifacts.
        images: a source of images; default: two photographs of scikit-learn.
        pictures: the result of :func:`load_pictures` for ``images``, if already called.
        tolerance: the largest difference allowed, of what ``measure`` names.
        measure: the field of :class:`Check` that the tolerance is for: ``"relative_difference"``, or
            ``"rms_difference"`` for int8, where a value near a rounding boundary may go either way.

    Raises:
        LimitError: a difference beyond the tolerance, or a result that is not finite.
        InputError: images or an artifact that cannot be used.
    """
    if not fmt.runs_here:
        note = f"{fmt.name} runs on {fmt.runs_on} only: its specification was checked, but the network was not run"
        return Verification(ran=False, note=note, tolerance=tolerance)
    chosen, origin = pictures or load_pictures(images)
    other = _other_size(model, preprocess)
    checks = []
    for batch, prepared, runner in _cases(fmt, write, folder, preprocess, other, batch_size):
        pixels = torch.stack([prepared(picture) for picture in chosen])
        with torch.inference_mode():
            expected = model(pixels).numpy()
        found = run_in_batches(runner, pixels.numpy(), batch)
        checks.append(compare(expected, found, batch, prepared.size))
        difference = getattr(checks[-1], measure)
        if not difference <= tolerance:  # also if it is NaN
            raise LimitError(
                f"the {fmt.name} artifact differs from PyTorch by {difference:.2g} of {MEASURES[measure]} at batch "
                f"{batch} and {prepared.size} x {prepared.size} pixels, beyond the tolerance of {tolerance:.2g}: it "
                f"was not kept"
            )
    return Verification(ran=True, images=origin, tolerance=tolerance, measure=measure, checks=checks)


def _other_size(model: nn.Module, preprocess: Preprocess) -> Preprocess:
    """Return the preprocessing for another size, as :func:`other_side` has it; the same for a network of one size."""
    sides = (other_side(preprocess.size), preprocess.size + STEP)  # the latter for networks with windows
    return next((other for side in sides if takes_size(model, other := resized(preprocess, side))), preprocess)


def check_float16(
    fmt: Format, deployed: nn.Module, model: nn.Module, preprocess: Preprocess, pictures: Pictures, tolerance: float
) -> float:
    """Emulate in PyTorch a runtime that computes in float16 but cannot run here, to detect overflow.

    Args:
        deployed: the network rewritten for inference.
        model: the network as it was trained.

    Returns:
        the largest difference, as a share of the largest logit.

    Raises:
        LimitError: a difference beyond the tolerance, or a result that is not finite.
    """
    stage("computing in float16")
    pixels = torch.stack([preprocess(picture) for picture in pictures[0]])
    with torch.inference_mode():
        expected, found = model(pixels), copy.deepcopy(deployed).half()(pixels.half()).float()
    difference = compare(expected.numpy(), found.numpy(), len(pixels), preprocess.size).relative_difference
    if not difference <= tolerance:
        raise LimitError(
            f"in float16, as {fmt.name} computes, the logits differ by {difference:.2g} of the largest, beyond the "
            f"tolerance of {tolerance:.2g}: it was not kept"
        )
    return difference


def compare(expected: np.ndarray, found: np.ndarray, batch: int, size: int) -> Check:
    """Compare logits, both ``(images, classes)``."""
    if found.shape != expected.shape:
        raise LimitError(f"the artifact gives {found.shape} where PyTorch gives {expected.shape}: it was not kept")
    difference = float(np.abs(found - expected).max())
    return Check(
        batch=batch,
        size=size,
        images=len(expected),
        max_difference=difference,
        relative_difference=difference / max(float(np.abs(expected).max()), TINY),
        rms_difference=float(np.sqrt(np.square(found - expected).mean())) / max(float(expected.std()), TINY),
        top1_agreement=float((found.argmax(1) == expected.argmax(1)).mean()),
    )


def _cases(
    fmt: Format, write: Write, folder: Path, kept: Preprocess, other: Preprocess, batch_size: int
) -> Iterator[tuple[int, Preprocess, Runner]]:
    """Yield every batch and size to compare, with an artifact that takes them."""
    stage("comparing with PyTorch")
    runner = fmt.open(folder / fmt.file)
    if fmt.any_batch and fmt.any_size:
        for batch, prepared in itertools.product(BATCHES, (kept, other)):
            yield batch, prepared, runner
        return
    for batch in BATCHES if fmt.any_batch else (batch_size,):
        yield batch, kept, runner
    batch = max(each for each in BATCHES if each != batch_size)
    with scratch_folder() as scratch:  # once: writing takes these formats seconds
        stage(f"writing again for a batch of {batch} at {other.size} x {other.size} pixels")
        write(example_input(other, batch), scratch)
        stage("comparing with PyTorch")
        yield batch, other, fmt.open(scratch / fmt.file)


def example_input(preprocess: Preprocess, batch_size: int = 1) -> Tensor:
    """Return zeros in the shape of preprocessed images."""
    return torch.zeros(batch_size, preprocess.channels, preprocess.size, preprocess.size)


def resized(preprocess: Preprocess, size: int | None) -> Preprocess:
    """Return the preprocessing for another side, with the crop covering the same share of the image."""
    if size is None:
        return preprocess
    resize = None if preprocess.resize is None else round(preprocess.resize * size / preprocess.size)
    return dataclasses.replace(preprocess, size=size, resize=resize)


def takes_size(model: nn.Module, preprocess: Preprocess) -> bool:
    """Tell whether a network takes images of a size; some of timm's only take their own."""
    try:
        with torch.inference_mode():
            model(example_input(preprocess))
    except (AssertionError, RuntimeError, ValueError) as error:
        if "memory" in str(error):  # not about the size
            raise
        return False
    return True


def load_pictures(spec: str | None) -> Pictures:
    """Return five real images and where they come from: a source's first five, or parts of two photographs.

    Raises:
        InputError: a source that cannot be opened, or one without a readable image.
    """
    if spec is not None:
        source = open_source(spec, "val")
        first = list(readable(source, range(min(NUM_IMAGES, len(source)))))  # any readable image will do
        if not first:
            raise InputError(f"{spec}: none of its {len(source):,} validation images can be read")
        pictures = [source.image(first[index % len(first)]) for index in range(NUM_IMAGES)]
        return pictures, f"the first images of {spec}"
    from sklearn.datasets import load_sample_images

    photographs = [Image.fromarray(array) for array in load_sample_images().images]  # 640 x 427 pixels
    boxes = [(0, 0, 400, 400), (240, 27, 640, 427), (100, 50, 340, 290)]
    pictures = [photographs[index % 2].crop(boxes[index // 2]) for index in range(NUM_IMAGES)]
    return pictures, "parts of the two photographs that scikit-learn ships"
