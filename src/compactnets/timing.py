"""Statistics of time measurements."""

from __future__ import annotations

import statistics
from collections.abc import Sequence

import numpy as np


def spread(values: Sequence[float]) -> dict[str, float]:
    """Return median, 10th and 90th percentile (the nearest measured values), and count."""
    low, high = np.quantile(values, [0.1, 0.9], method="nearest").tolist()
    return {"median": statistics.median(values), "p10": low, "p90": high, "n": len(values)}
