"""Compare an artifact, in its own runtime, with the original network."""

from __future__ import annotations

import copy
import itertools
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn

from compactnets.console import stage
from compactnets.deploy.artifact import run_in_batches
from compactnets.deploy.formats.registry import FLOAT16, FLOAT32, Format, Runner
from compactnets.deploy.record import Check, Verification
from compactnets.deploy.subject import Pictures, Subject
from compactnets.errors import LimitError
from compactnets.failures import scratch_folder

TOLERANCE = 1e-4  # of the largest absolute output; every format stays below 1e-5 here
TOLERANCES = {FLOAT32: TOLERANCE, FLOAT16: 1e-2}  # trained networks stay below half of float16's, computed in it or not
MEASURES = {"relative_difference": "the largest logit", "rms_difference": "the logits' standard deviation"}

Measure = Literal["relative_difference", "rms_difference"]
Write = Callable[[Tensor, Path], dict[str, Any]]  # (example, folder) -> further details for the record


def verify(
    fmt: Format,
    subject: Subject,
    write: Write,
    folder: Path,
    *,
    batch_size: int = 1,
    images: str | None = None,
    pictures: Pictures | None = None,
    tolerance: float = TOLERANCE,
    measure: Measure = "relative_difference",
    least_agreement: float | None = None,
) -> Verification:
    """Run the artifact in ``folder`` on real images in several batches, at two sizes, and compare.

    A format that fixes batch and size is written again for another batch and size, in a scratch folder; a network with
    a fixed size is only compared at that size.

    Args:
        subject: the reference: the trained network, in evaluation mode, or the int8 simulation.
        write: called with (example, folder) to write further artifacts.
        images: where to find images (:meth:`Subject.pictures`).
        pictures: the result of :meth:`Subject.pictures` for ``images``, if already called.
        tolerance: the largest difference allowed, of what ``measure`` names.
        measure: the field of :class:`Check` that the tolerance is for: ``"relative_difference"``, or
            ``"rms_difference"`` for int8, where a value near a rounding boundary may go either way.
        least_agreement: least share of equal classes; default: the subject's.

    Raises:
        LimitError: a difference beyond the limits, or a result that is not finite.
        InputError: images or an artifact that cannot be used.
    """
    if not fmt.runs_here:
        note = f"{fmt.title} runs {fmt.where}; its specification was checked, but the network was not run"
        return Verification(ran=False, note=note, tolerance=tolerance)
    chosen, origin = pictures or subject.pictures(images)
    least = subject.least_agreement if least_agreement is None else least_agreement
    checks = []
    for batch, sized, runner in _cases(fmt, write, folder, subject, batch_size):
        pixels = torch.stack([sized.prepare(picture) for picture in chosen])
        with torch.inference_mode():
            expected = sized.model(pixels).numpy()
        checks.append(sized.compare(expected, run_in_batches(runner, pixels.numpy(), batch), batch))
        _judge(fmt, checks[-1], sized, tolerance, measure, least)
    return Verification(
        ran=True, images=origin, tolerance=tolerance, measure=measure, least_agreement=least, checks=checks
    )


def _judge(fmt: Format, check: Check, subject: Subject, tolerance: float, measure: Measure, least: float) -> None:
    difference, (_, height, width) = getattr(check, measure), subject.shape
    at = f"at batch {check.batch} and {height} x {width} pixels"
    if not difference <= tolerance:  # also if it is NaN
        raise LimitError(
            f"the {fmt.name} artifact differs from PyTorch by {difference:.2g} of {MEASURES[measure]} {at}, beyond the "
            f"tolerance of {tolerance:.2g}: it was not kept"
        )
    if check.agreement < least:
        raise LimitError(
            f"the {fmt.name} artifact gives another class than PyTorch to {1 - check.agreement:.2%} of the pixels "
            f"{at}, more than {1 - least:.2%}: it was not kept"
        )


def check_float16(fmt: Format, deployed: nn.Module, subject: Subject, pictures: Pictures, tolerance: float) -> float:
    """Emulate in PyTorch a runtime that computes in float16 but cannot run here, to detect overflow.

    Args:
        deployed: the network rewritten for inference.
        subject: the network as it was trained.

    Returns:
        the largest difference, as a share of the largest logit.

    Raises:
        LimitError: a difference beyond the tolerance, or a result that is not finite.
    """
    stage("computing in float16")
    pixels = torch.stack([subject.prepare(picture) for picture in pictures[0]])
    with torch.inference_mode():
        expected, found = subject.model(pixels), copy.deepcopy(deployed).half()(pixels.half()).float()
    difference = subject.compare(expected.numpy(), found.numpy(), len(pixels)).relative_difference
    if not difference <= tolerance:
        raise LimitError(
            f"in float16, as {fmt.title} computes, the logits differ by {difference:.2g} of the largest, beyond the "
            f"tolerance of {tolerance:.2g}: it was not kept"
        )
    return difference


def _cases(
    fmt: Format, write: Write, folder: Path, subject: Subject, batch_size: int
) -> Iterator[tuple[int, Subject, Runner]]:
    """Yield every batch and size to compare, with an artifact that takes them."""
    stage("comparing with PyTorch")
    other, runner = subject.other(), fmt.open(folder / fmt.file)
    if fmt.any_batch and fmt.any_size:
        for batch, sized in itertools.product(subject.batches, (subject, other)):
            yield batch, sized, runner
        return
    for batch in subject.batches if fmt.any_batch else (batch_size,):
        yield batch, subject, runner
    batch = max(each for each in subject.batches if each != batch_size)
    with scratch_folder() as scratch:  # once: writing takes these formats seconds
        _, height, width = other.shape
        stage(f"writing again for a batch of {batch} at {height} x {width} pixels")
        write(other.example(batch), scratch)
        stage("comparing with PyTorch")
        yield batch, other, fmt.open(scratch / fmt.file)
