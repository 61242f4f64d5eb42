"""What the benchmarks share: alternating blocks, ratios with their spread, and records that name everything."""

from __future__ import annotations

import json
import multiprocessing
import sys
import time
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import torch

from compactnets.environment import commit, describe_environment
from compactnets.timing import spread

ROOT = Path(__file__).parents[1]
Call = Callable[[], None]


def compare(
    reference: Call,
    ours: Call,
    rounds: int,
    steps: int,
    wait: Call | None = None,
) -> dict[str, Any]:
    """Time ``steps`` calls of each in turn, ``rounds`` times after a warm-up: seconds per call, and their ratio.

    Args:
        wait: called before each reading of the clock, where calls only queue their work.
    """

    def block(call: Call) -> float:
        if wait:
            wait()
        start = time.perf_counter()
        for _ in range(steps):
            call()
        if wait:
            wait()
        return (time.perf_counter() - start) / steps

    block(reference), block(ours)
    pairs = []
    for number in range(rounds):
        # alternate which goes first: what the machine does besides drifts
        if number % 2:
            second, first = block(ours), block(reference)
        else:
            first, second = block(reference), block(ours)
        pairs.append((first, second))
    return {
        "reference_seconds": spread([first for first, _ in pairs]),
        "our_seconds": spread([second for _, second in pairs]),
        "ratio": spread([first / second for first, second in pairs]),
        "steps_per_block": steps,
    }


class RemoteCall:
    """A call in a process of its own, whose settings (memory, compiler) do not reach the other side's.

    Args:
        make: returns the call and what waits for its queued work; runs, with ``arguments``, in the other process.
    """

    def __init__(self, make: Callable[..., tuple[Call, Call]], *arguments: Any) -> None:
        context = multiprocessing.get_context("spawn")
        self._connection, theirs = context.Pipe()
        self._process = context.Process(target=_serve, args=(theirs, make, arguments), daemon=True)
        self._process.start()
        theirs.close()
        self._connection.recv()

    def __call__(self) -> None:
        self._ask(0)

    def wait(self) -> None:
        """Wait until what was called has been done."""
        self._ask(1)

    def close(self) -> None:
        """End the other process."""
        self._connection.send(None)
        self._process.join()

    def _ask(self, which: int) -> None:
        self._connection.send(which)
        self._connection.recv()


def _serve(connection: Connection, make: Callable[..., tuple[Call, Call]], arguments: Sequence[Any]) -> None:
    calls = make(*arguments)
    connection.send(None)
    while (which := connection.recv()) is not None:
        calls[which]()
        connection.send(None)


def describe(row: dict[str, Any], reference: str, ours: str) -> str:
    """Return one line for a person."""
    ratio, images = row["ratio"], row["images_per_step"]
    rates = [images / row[key]["median"] for key in ("reference_seconds", "our_seconds")]
    return (
        f"{row['network']}: {ours} {rates[1]:.0f} images/s, {reference} {rates[0]:.0f} images/s, ratio "
        f"{ratio['median']:.2f} (p10 {ratio['p10']:.2f}, p90 {ratio['p90']:.2f}, n = {ratio['n']})"
    )


def write_record(path: Path, device: torch.device, content: dict[str, Any]) -> None:
    """Write a record: command (absolute paths reduced to their last part), commit, date, environment, ``content``."""
    record = {
        "command": ["python", *(Path(each).name if each.startswith("/") else each for each in sys.argv)],
        "commit": commit(),
        "date": datetime.now(UTC).date().isoformat(),
        "environment": describe_environment(device),
        **content,
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(record, indent=1, default=str) + "\n", encoding="utf-8")
