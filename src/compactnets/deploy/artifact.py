"""An exported network as a module, for evaluation and prediction."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from compactnets.classification.checkpoint import (
    check_outputs,
)
from compactnets.data import Preprocess
from compactnets.deploy.formats.registry import FORMATS, Runner
from compactnets.deploy.record import ArtifactRecord, read_artifact
from compactnets.errors import InputError
from compactnets.failures import one_line


class Artifact(nn.Module):
    """Runs an exported network in its own runtime, on the CPU: (N, C, H, W) float32 -> (N, classes).

    If the format fixes the batch size, images run in batches of that size, the last one padded with zeros.
    """

    def __init__(self, runner: Runner, record: ArtifactRecord) -> None:
        super().__init__()
        self.runner, self.record = runner, record

    def forward(self, images: Tensor) -> Tensor:
        batch, *shape = self.record.input
        if any(wanted not in (None, found) for wanted, found in zip(shape, images.shape[1:], strict=True)):
            raise InputError(f"this artifact takes images of {shape}, found {list(images.shape[1:])}")
        if not len(images):
            return torch.zeros(0, len(self.record.network.class_names))
        pixels = np.ascontiguousarray(images.numpy(), dtype=np.float32)
        with one_line(f"this {self.record.format} artifact cannot run on images of {list(images.shape[1:])}"):
            logits = torch.from_numpy(run_in_batches(self.runner, pixels, batch))
        check_outputs(self.record.network, logits.shape[1])
        return logits


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


def load_artifact(path: str | Path, threads: int | None = None) -> Artifact:
    """Load an artifact into its runtime, by its folder or main file, and run it once.

    Args:
        threads: threads of the runtime; default: its own choice.

    Raises:
        InputError: a record or file that cannot be used, a record whose number of classes differs from the outputs,
            or a runtime that is not installed.
    """
    record, folder = read_artifact(path, ArtifactRecord)
    fmt = FORMATS[record.format]
    with one_line(f"{folder / fmt.file} cannot be opened"):
        runner = fmt.open(folder / fmt.file, threads)
    artifact = Artifact(runner, record).eval()
    preprocess = Preprocess.from_dict(record.network.preprocess)
    artifact(torch.zeros(1, preprocess.channels, preprocess.size, preprocess.size))  # checks its outputs early
    return artifact
