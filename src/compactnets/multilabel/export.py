"""Networks for several labels as exports take them."""

from __future__ import annotations

import math
from typing import Literal

import numpy as np
from pydantic import Field

from compactnets.deploy.record import ArtifactRecord
from compactnets.deploy.subject import Classifier
from compactnets.multilabel.checkpoint import MultilabelRecord

AFTER = (
    "logits, one for each of class_names; a sigmoid makes probabilities of them, each of a class by itself, and those "
    "of at least threshold are the labels"
)


class MultilabelArtifact(ArtifactRecord):
    """The ``artifact.json`` of a network for several labels."""

    task: Literal["multilabel"] = "multilabel"  # type: ignore[assignment]
    agreement = "same labels"
    network: MultilabelRecord = Field(description="network, classes, preprocessing, source and licence of the weights")
    after: str = Field(AFTER, description="what is left to the caller")

    @property
    def threshold(self) -> float:
        return self.network.threshold

    def notes(self) -> list[str]:
        return [f"output: {self.after}"]


class MultilabelSubject(Classifier):
    """A network for several labels: (N, C, S, S) -> (N, classes)."""

    artifact = MultilabelArtifact
    quality = "map_percent"
    meaning = AFTER

    record: MultilabelRecord

    def resized(self, size: tuple[int, int]) -> MultilabelSubject:
        return MultilabelSubject(self.model, super().resized(size).record)

    def agreement(self, expected: np.ndarray, found: np.ndarray) -> float:
        """Return the share of the pairs of image and class that are on the same side of the threshold."""
        least = math.log(self.record.threshold / (1 - self.record.threshold))
        return float(((expected >= least) == (found >= least)).mean())
