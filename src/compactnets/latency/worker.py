"""Code that runs in the process of one benchmark entry; this module's state belongs to the process."""

from __future__ import annotations

import ctypes
import gc
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch

from compactnets.deploy.formats.registry import find_format
from compactnets.deploy.operators import time_eager
from compactnets.deploy.planar.build import core_limit
from compactnets.deploy.planar.emit import limit_source
from compactnets.tasks.opening import open_model

MATRIX = 2048  # side of the matrices whose product defines the limit
UNCOUNTED = 2  # calls at the start of every turn

_call: Callable[[], object]
_core: Callable[[], object]  # of the process that measures the limits
_memory_before: int | None = None


def open_artifact(format_name: str, path: Path, precision: str, shape: tuple[int, ...], threads: int) -> None:
    """Load an artifact into its runtime, ready for images of ``shape``, (N, C, H, W)."""
    global _call, _memory_before
    torch.set_num_threads(threads)
    find_format(format_name).load_runtime()
    _memory_before = _resident()
    runner = find_format(format_name).open(path, threads, precision)
    images = example_images(shape)
    _call = lambda: runner(images)  # noqa: E731


def open_eager(network: str, shape: tuple[int, ...], threads: int) -> None:
    """Build a network as in training, ready for images of ``shape``, (N, C, H, W)."""
    global _call, _memory_before
    torch.set_num_threads(threads)
    _memory_before = _resident()
    model = open_model(network, "cpu").network
    batch = torch.from_numpy(example_images(shape))

    def run() -> object:
        with torch.inference_mode():
            return model(batch)

    _call = run


def open_matrix(threads: int) -> None:
    """Create two matrices whose product defines the limit."""
    global _call
    torch.set_num_threads(threads)
    a, b = torch.rand(MATRIX, MATRIX), torch.rand(MATRIX, MATRIX)
    out = torch.empty(MATRIX, MATRIX)
    _call = lambda: torch.mm(a, b, out=out)  # noqa: E731


def open_core(threads: int) -> int:
    """Compile a loop of multiply-adds in registers, which ``threads`` cores run at once: the limit of the cores.

    Returns:
        multiply-adds of one call.

    Raises:
        InputError: no C compiler.
    """
    global _core
    run, macs = core_limit(limit_source())
    pool = ThreadPoolExecutor(threads)
    _core = lambda: list(pool.map(lambda _: run(), range(threads)))  # noqa: E731
    return threads * macs


def example_images(shape: tuple[int, ...]) -> np.ndarray:
    """Return float32 noise of this shape."""
    return np.random.default_rng(0).standard_normal(shape, dtype=np.float32)


def time_calls(calls: int) -> list[float]:
    """Return seconds per call; the first ones do not count, because the caches hold another network."""
    return _time(_call, calls)


def time_core(calls: int) -> list[float]:
    """Return seconds per call of the loop of :func:`open_core`."""
    return _time(_core, calls)


def _time(call: Callable[[], object], calls: int) -> list[float]:
    seconds = []
    for _ in range(UNCOUNTED + calls):
        start = time.perf_counter()
        call()
        seconds.append(time.perf_counter() - start)
    return seconds[UNCOUNTED:]


def peak_memory() -> int | None:
    """Return the peak resident memory above that before loading the network, in bytes."""
    return None if _memory_before is None else max(0, _status("VmHWM") - _memory_before)


def operators_of_artifact(
    format_name: str, path: Path, precision: str, shape: tuple[int, ...], threads: int, calls: int
) -> list[dict[str, Any]]:
    """Return the time of each kind of operator, reloading the artifact with its runtime's profiler enabled."""
    found = find_format(format_name).time_operators(path, example_images(shape), threads, calls, precision)
    return [asdict(operator) for operator in found]


def operators_of_eager(network: str, shape: tuple[int, ...], calls: int) -> list[dict[str, Any]]:
    """Return the time of each kind of operator in plain PyTorch."""
    model = open_model(network, "cpu").network
    return [asdict(operator) for operator in time_eager(model, torch.from_numpy(example_images(shape)), calls)]


def _resident() -> int | None:
    """Return the resident memory now, in bytes, and start the peak afresh; ``None`` if the system does not say."""
    gc.collect()
    if not sys.platform.startswith("linux"):  # where CDLL(None) need not be the C library, or is an error (Windows)
        return None
    try:
        ctypes.CDLL(None).malloc_trim(0)  # otherwise a network would reuse memory freed by the imports
        Path("/proc/self/clear_refs").write_text("5", encoding="ascii")
    except (OSError, AttributeError):
        return None
    return _status("VmRSS")


def _status(key: str) -> int:
    lines = Path("/proc/self/status").read_text(encoding="utf-8", errors="replace").splitlines()
    return 1024 * int(next(line for line in lines if line.startswith(key)).split()[1])
