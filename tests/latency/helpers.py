"""Results of benchmarks that nobody measured."""

from __future__ import annotations

from typing import Any


def row(network: str, form: str, middle: float, macs: int = 1000) -> dict[str, Any]:
    """A row of a benchmark's results: `network` in format `form` takes `middle` milliseconds."""
    return {
        "network": network,
        "format": form,
        "input": [1, 3, 32, 32],
        "milliseconds": {"median": middle, "p10": middle * 0.95, "p90": middle * 1.05, "n": 9},
        "limit_milliseconds": macs / 1e3,
        "times_limit": middle / macs * 1e3,
        "macs": macs,
        "params": 10,
        "bytes": 2_000_000 if form != "eager" else None,
        "peak_memory_bytes": None,
        "relative_difference": None,
    }


def results(*rows: dict[str, Any]) -> dict[str, Any]:
    """The results of a benchmark with these rows."""
    return {
        "environment": {"processor": "one", "system": "two", "versions": {"torch": "3"}, "cpu_features": ["avx2"]},
        "settings": {"threads": 1, "batch_size": 1, "rounds": 3, "calls": 3, "matrix": 64},
        "limit_gflops": 100.0,
        "rows": list(rows),
    }
