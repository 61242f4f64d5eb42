"""An exported network as a module, for evaluation and prediction."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from compactnets.deploy.formats.registry import Runner
from compactnets.deploy.record import ArtifactRecord, ImageArtifact, read_artifact
from compactnets.errors import InputError
from compactnets.failures import one_line


class Runs(nn.Module):
    """Runs a file in its runtime, on the CPU: (N, C, H, W) float32 -> (N, classes), or as the network gives.

    If the format fixes the ``batch`` size, images run in batches of that size, the last one padded with zeros.
    """

    def __init__(self, runner: Runner, batch: int | None) -> None:
        super().__init__()
        self.runner, self.batch = runner, batch

    def forward(self, images: Tensor) -> Tensor:
        pixels = np.ascontiguousarray(images.numpy(), dtype=np.float32)
        return torch.from_numpy(run_in_batches(self.runner, pixels, self.batch))


class Artifact(Runs):
    """An exported network, with its record: as :class:`Runs`, after checks of what goes in and comes out."""

    def __init__(self, runner: Runner, record: ImageArtifact) -> None:
        super().__init__(runner, record.input[0])
        self.record = record

    def forward(self, images: Tensor) -> Tensor:
        shape = self.record.input[1:]
        if any(wanted not in (None, found) for wanted, found in zip(shape, images.shape[1:], strict=True)):
            raise InputError(f"this artifact takes images of {shape}, found {list(images.shape[1:])}")
        if not len(images):
            return torch.zeros(0, len(self.record.network.class_names))
        with one_line(f"this {self.record.format} artifact cannot run on images of {list(images.shape[1:])}"):
            outputs = super().forward(images)
        self.record.check_outputs(outputs.shape[1])
        return outputs


def run_in_batches(runner: Runner, images: np.ndarray, batch: int | None) -> np.ndarray:
    """Run on any number of images, in batches of ``batch`` if the artifact has a fixed batch size."""
    if batch is None:
        return runner(images)
    results = []
    for start in range(0, len(images), batch):
        part = images[start : start + batch]
        missing = batch - len(part)
        filled = np.concatenate([part, np.zeros((missing, *part.shape[1:]), part.dtype)]) if missing else part
        results.append(runner(filled)[: len(part)])
    return np.concatenate(results)


def load_artifact(path: str | Path, threads: int | None = None, kind: type[ImageArtifact] = ArtifactRecord) -> Artifact:
    """Load an artifact into its runtime, by its folder or main file, and run it once.

    Args:
        threads: threads of the runtime; default: its own choice.
        kind: the record type of its task.

    Raises:
        InputError: a record or file that cannot be used, a record whose number of classes differs from the outputs,
            or a runtime that is not installed.
    """
    record, folder = read_artifact(path, kind)
    fmt = record.opener()
    with one_line(f"{folder / fmt.file} cannot be opened"):
        runner = fmt.open(folder / fmt.file, threads)
    artifact = Artifact(runner, record).eval()
    artifact(torch.zeros(1, *record.example))  # checks its outputs early
    return artifact
