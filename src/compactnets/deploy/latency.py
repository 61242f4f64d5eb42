"""Latency of networks in the runtimes of devices, measured so that the figures can be compared.

Every network in every format runs in a process of its own, whose memory is then its own. All are loaded first; then
they take turns, a few calls each, so that what the machine does besides touches all alike. A large matrix multiply
takes turns with them: the time that it would need for a network's multiply-adds is the limit that the processor sets.
"""

from __future__ import annotations

import ctypes
import gc
import multiprocessing
import re
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import ExitStack
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import torch

from compactnets.complexity import count
from compactnets.console import Tracker, say
from compactnets.deploy.export import export
from compactnets.deploy.formats import find_format
from compactnets.deploy.networks import load_for_export
from compactnets.deploy.record import ArtifactRecord, read_artifact
from compactnets.environment import commit, cpu_features, describe_environment, set_variables, software_versions
from compactnets.errors import InputError
from compactnets.timing import spread
from compactnets.training.checkpoint import CheckpointRecord

EAGER = "eager"  # plain PyTorch, as the network is trained: no folding, no compiler
MATRIX = 2048  # side of the matrices whose product sets the limit
WARM_UP = 5  # calls after loading
UNCOUNTED = 2  # calls at the start of every turn
THREAD_VARIABLES = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")


@dataclass(frozen=True)
class Entry:
    """One network in one format, ready to be timed."""

    network: str
    format: str
    precision: str
    path: Path | None  # of the artifact; None for eager PyTorch
    shape: tuple[int, int, int, int]
    macs: int
    params: int
    bytes: int | None
    difference: float | None  # from PyTorch, as a share of the largest logit

    @property
    def label(self) -> str:
        """Format and precision, as ``--formats`` takes them."""
        return self.format if self.precision == "float32" else f"{self.format}@{self.precision}"


def benchmark(
    networks: Sequence[str],
    formats: Sequence[str],
    *,
    threads: int = 1,
    batch_size: int = 1,
    size: int | None = None,
    rounds: int = 20,
    calls: int = 8,
    artifacts: Path,
) -> dict[str, Any]:
    """Measure every network in every format.

    Args:
        networks: what :func:`load_for_export` takes.
        formats: names of formats, ``eager`` for plain PyTorch; ``openvino@bf16`` for another arithmetic.
        threads: threads of every runtime.
        batch_size: images at once.
        size: side of the images; each network's own where it is not given.
        rounds: turns of every entry.
        calls: calls in a turn that count; two before them do not.
        artifacts: folder for the artifacts; those that are there and fit are used again.

    Returns:
        environment, settings and one row per entry: milliseconds (median, p10, p90, n), the limit and the share of it,
        multiply-adds, parameters, bytes, peak memory.

    Raises:
        InputError: an unknown network or format, or a missing extra.
        LimitError: an artifact that differs from PyTorch.
    """
    wanted = [parse_format(name) for name in formats]
    entries = []
    for network in networks:
        for name, precision in wanted:
            say(f"preparing {network} for {name}")
            entries.append(_prepare(network, name, precision, batch_size, size, artifacts))
    return measure(entries, threads=threads, rounds=rounds, calls=calls)


def measure(entries: Sequence[Entry], *, threads: int, rounds: int, calls: int) -> dict[str, Any]:
    """Time entries in turns, each in a process of its own, and a product of matrices beside them.

    Args:
        entries: what to time.
        threads: as for :func:`benchmark`, as the others.

    Returns:
        as :func:`benchmark`.

    Raises:
        InputError: a process ended.
    """
    context = multiprocessing.get_context("spawn")
    with ExitStack() as stack:
        stack.enter_context(set_variables(dict.fromkeys(THREAD_VARIABLES, str(threads))))

        def start(initializer: Callable[..., None], *arguments: Any) -> ProcessPoolExecutor:
            return stack.enter_context(ProcessPoolExecutor(1, context, initializer, arguments))

        matrix = start(_open_matrix, threads)
        runners = [start(_open_entry, entry, threads) for entry in entries]
        try:
            for ready in [runner.submit(_time, WARM_UP) for runner in (matrix, *runners)]:
                ready.result()
            times: list[list[float]] = [[] for _ in runners]
            matrix_times: list[float] = []
            for turn in Tracker(range(rounds), rounds, "measuring"):
                matrix_times += matrix.submit(_time, 2).result()
                order = np.roll(np.arange(len(runners)), -turn)  # nobody always follows the same neighbour
                for index in order:
                    times[index] += runners[index].submit(_time, calls).result()
            memory = [runner.submit(_peak_memory).result() for runner in runners]
        except BrokenProcessPool:
            raise InputError("a process of the benchmark ended: too little memory, or a runtime that crashed") from None
    gflops = 2 * MATRIX**3 / spread(matrix_times)["median"] / 1e9
    return {
        "commit": commit(),
        "date": datetime.now(UTC).date().isoformat(),
        "environment": {**describe_environment(torch.device("cpu")), "cpu_features": cpu_features()},
        "settings": {
            "threads": threads,
            "batch_size": entries[0].shape[0],
            "rounds": rounds,
            "calls": calls,
            "matrix": MATRIX,
        },
        "limit_gflops": gflops,
        "rows": [
            _row(entry, seconds, peak, gflops) for entry, seconds, peak in zip(entries, times, memory, strict=True)
        ],
    }


def parse_format(text: str) -> tuple[str, str]:
    """Split ``openvino@bf16`` into format and precision.

    Raises:
        InputError: an unknown format, or a precision that it does not have.
    """
    name, _, precision = text.partition("@")
    precision = precision or "float32"
    allowed = ("float32",) if name == EAGER else ("float32", *find_format(name).precisions)
    if precision not in allowed:
        raise InputError(f"{name} runs in {', '.join(allowed)}, found {precision!r}")
    return name, precision


def _prepare(
    network: str, format_name: str, precision: str, batch_size: int, size: int | None, artifacts: Path
) -> Entry:
    model, record = load_for_export(network)
    if format_name == EAGER:
        side = size or record.preprocess["size"]
        channels = len(record.preprocess["mean"])
        macs, params = count(model, (channels, side, side))
        return Entry(network, EAGER, precision, None, (batch_size, channels, side, side), macs, params, None, None)
    name = re.sub(r"[^\w.-]+", "-", network).strip("-")  # the whole path: two runs both have a best.safetensors
    folder = artifacts / f"{name}-{format_name}-{size or 'own'}-{batch_size}"
    written = _read_if_fits(folder, record)
    if written is None:
        written = export(model, record, format_name, folder, size=size, batch_size=batch_size)
    checks = written.verification.checks
    if not checks:
        raise InputError(f"{format_name} does not run on this machine: it cannot be measured")
    side = written.network.preprocess["size"]
    return Entry(
        network,
        format_name,
        precision,
        folder / find_format(format_name).file,
        (batch_size, len(record.preprocess["mean"]), side, side),
        written.macs,
        written.params,
        written.bytes,
        max(check.relative_difference for check in checks),
    )


def _read_if_fits(folder: Path, network: CheckpointRecord) -> ArtifactRecord | None:
    """Return the record of an artifact of this network, preprocessing aside, that these versions wrote, or ``None``."""
    try:
        record, form = read_artifact(folder)
    except InputError:
        return None
    fits = record.network.model_copy(update={"preprocess": network.preprocess}) == network
    return record if fits and record.versions == {**software_versions(), **form.versions()} else None


def _row(entry: Entry, seconds: list[float], peak: int | None, gflops: float) -> dict[str, Any]:
    milliseconds = {key: value * (1 if key == "n" else 1e3) for key, value in spread(seconds).items()}
    limit = 2 * entry.macs * entry.shape[0] / gflops / 1e6
    return {
        "network": entry.network,
        "format": entry.label,
        "input": list(entry.shape),
        "milliseconds": milliseconds,
        "limit_milliseconds": limit,
        "times_limit": milliseconds["median"] / limit,
        "macs": entry.macs,
        "params": entry.params,
        "bytes": entry.bytes,
        "peak_memory_bytes": peak,
        "relative_difference": entry.difference,
    }


# What runs in the process of one entry; its state is the process's own.

_call: Callable[[], object]
_memory_before: int | None = None


def _open_entry(entry: Entry, threads: int) -> None:
    global _call, _memory_before
    torch.set_num_threads(threads)
    images = np.random.default_rng(0).standard_normal(entry.shape, dtype=np.float32)
    if entry.path is None:
        _memory_before = _resident()
        model, _ = load_for_export(entry.network)
        batch = torch.from_numpy(images)

        def run() -> object:
            with torch.inference_mode():
                return model(batch)

        _call = run
        return
    form = find_format(entry.format)
    form.load_runtime()
    _memory_before = _resident()
    runner = form.open(entry.path, threads, entry.precision)
    _call = lambda: runner(images)  # noqa: E731


def _open_matrix(threads: int) -> None:
    global _call
    torch.set_num_threads(threads)
    a, b = torch.rand(MATRIX, MATRIX), torch.rand(MATRIX, MATRIX)
    out = torch.empty(MATRIX, MATRIX)
    _call = lambda: torch.mm(a, b, out=out)  # noqa: E731


def _time(calls: int) -> list[float]:
    """Return seconds per call; the first ones, which find another network in the caches, do not count."""
    seconds = []
    for _ in range(UNCOUNTED + calls):
        start = time.perf_counter()
        _call()
        seconds.append(time.perf_counter() - start)
    return seconds[UNCOUNTED:]


def _resident() -> int | None:
    """Return the resident memory now, in bytes, and start the peak afresh; ``None`` where the system does not say."""
    gc.collect()
    try:
        ctypes.CDLL(None).malloc_trim(0)  # or a network would settle in what the imports left
        Path("/proc/self/clear_refs").write_text("5")
    except (OSError, AttributeError):
        return None
    return _status("VmRSS")


def _peak_memory() -> int | None:
    """Return how far resident memory went beyond what was there before the network was loaded, in bytes."""
    return None if _memory_before is None else max(0, _status("VmHWM") - _memory_before)


def _status(key: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return 1024 * int(next(line for line in lines if line.startswith(key)).split()[1])
