"""What a finished training run gives."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class TrainResult:
    """What a finished run gives.

    Attributes:
        output: its folder.
        final: what its last evaluation gave, as JSON has it.
        best: the best value of the figure by which checkpoints are compared, in percent.
        seconds: spent on it, over all starts.
    """

    output: Path
    epochs: int
    final: dict[str, Any]
    best: float
    seconds: float

    def to_dict(self) -> dict[str, Any]:
        """Return the result for JSON."""
        return {
            "output": str(self.output),
            "checkpoint": str(self.output / "best.safetensors"),
            "epochs": self.epochs,
            "final": self.final,
            "best_percent": self.best,
            "seconds": self.seconds,
        }
