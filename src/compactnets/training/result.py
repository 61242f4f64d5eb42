"""What a finished training run gives."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from compactnets.training.evaluation import Evaluation


@dataclass(frozen=True)
class TrainResult:
    """What a finished run gives."""

    output: Path
    epochs: int
    final: Evaluation
    best_top1: float
    seconds: float

    def to_dict(self) -> dict[str, Any]:
        """Return the result for JSON."""
        return {
            "output": str(self.output),
            "checkpoint": str(self.output / "best.safetensors"),
            "epochs": self.epochs,
            "final": self.final.to_dict(),
            "best_top1_percent": self.best_top1,
            "seconds": self.seconds,
        }
