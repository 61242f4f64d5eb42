"""Turn a MuffNet that has learned its M into one with whole channels, as a checkpoint to train."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from compactnets.classification.checkpoint import CheckpointRecord, load_checkpoint
from compactnets.complexity import count
from compactnets.environment import software_versions
from compactnets.files import as_path
from compactnets.folders import check_file
from compactnets.locks import own_file
from compactnets.models.learned import LearnedMuffNet, discretize
from compactnets.models.registry import create_model
from compactnets.models.sharing import SharingMatrix
from compactnets.training.checkpoint import save_checkpoint


@dataclass(frozen=True)
class Discretized:
    """The discretised network and what changed.

    Attributes:
        matrices: M of each stage.
        moved: typical factor by which the groups of each stage grew or shrank during the search.
        macs, params: of the network with these matrices, at the search's input size.
        variant_macs: of the variant whose cost had to be kept.
    """

    matrices: tuple[SharingMatrix, ...]
    moved: tuple[float, ...]
    macs: int
    params: int
    variant_macs: int

    def to_dict(self) -> dict[str, Any]:
        """Return the fields for JSON, a matrix as its rows."""
        return {
            "sharing": [[list(row) for row in matrix.entries] for matrix in self.matrices],
            "moved": list(self.moved),
            "macs": self.macs,
            "params": self.params,
            "variant_macs": self.variant_macs,
        }


def discretize_checkpoint(
    checkpoint: str | Path, output: str | Path, *, start: bool = False, multiple: int = 1, seed: int = 0
) -> Discretized:
    """Write the network with the M that a checkpoint has learned, with fresh weights, for ``train --init``.

    The weights are fresh because only M was searched for: the network is then trained like any other.

    Args:
        checkpoint: of a network with ``sharing="learned"``.
        output: the checkpoint to write.
        start: use the M that the search started from, not the learned one: the control for what learning adds.
        multiple: that the groups of channels are rounded to (:func:`compactnets.models.learned.discretize`).
        seed: of the fresh weights.

    Raises:
        InputError: not a checkpoint of a network with ``sharing="learned"``, or ``output`` cannot be written.
    """
    checkpoint = as_path(checkpoint)
    output = as_path(output)
    check_file(output)
    searched, record = load_checkpoint(checkpoint)
    if start and isinstance(searched, LearnedMuffNet):
        searched.reset()
    matrices = discretize(searched, multiple)
    others = {key: value for key, value in record.arguments.items() if key != "sharing"}
    arguments = {**others, "sharing": [[list(row) for row in matrix.entries] for matrix in matrices]}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = create_model(record.model, **arguments)
    told = "began to learn it" if start else "has learned it"
    fresh = CheckpointRecord(
        model=record.model,
        arguments=arguments,
        class_names=record.class_names,
        class_labels=record.class_labels,
        preprocess=record.preprocess,
        source=f"fresh weights (seed {seed}), not trained; M as {checkpoint.name} {told}",
        license="none needed",
        training={"search": record.training},
        versions=software_versions(),
    )
    with own_file(output):
        save_checkpoint(output, model.state_dict(), fresh)
    size = (record.arguments.get("in_chans", 3), *[record.preprocess["size"]] * 2)
    macs, params = count(model, size)
    with torch.device("meta"):
        variant = create_model(record.model, **others)
    moved = tuple(stage.moved() for stage in searched.stages)  # type: ignore[union-attr]
    return Discretized(matrices, moved, macs, params, count(variant, size)[0])
