"""Comparable latency measurements of networks in device runtimes.

Every network in every format runs in its own process, so its memory can be measured. All are loaded first; then they
take turns, a few calls each, so that other activity on the machine affects all alike. A large matrix multiplication
takes turns with them: the time it would need for a network's multiply-adds is the CPU's limit.
"""

from __future__ import annotations

import re
import signal
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import torch

from compactnets.complexity import count
from compactnets.console import Tracker, say
from compactnets.deploy.export import export_subject, weights_digest
from compactnets.deploy.formats.registry import FLOAT16, FLOAT32, find_format
from compactnets.deploy.record import ImageArtifact, read_artifact
from compactnets.deploy.subject import Subject
from compactnets.deploy.verify import TOLERANCES
from compactnets.environment import commit, cpu_features, describe_environment, set_variables, software_versions
from compactnets.errors import InputError, LimitError
from compactnets.failures import one_line, scratch_folder
from compactnets.files import as_path
from compactnets.folders import check_folder
from compactnets.latency import worker
from compactnets.latency.process import Worker
from compactnets.stopping import Stopped, stoppable
from compactnets.tasks.opening import open_subject
from compactnets.timing import spread
from compactnets.values import parse_size

EAGER = "eager"  # plain PyTorch, as in training: no folding, no compiler
WARM_UP = 5  # calls after loading
PROFILED = 30  # calls whose operators are timed
THREAD_VARIABLES = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")


@dataclass(frozen=True)
class Variant:
    """One item of ``--formats``: ``onnx``, ``onnx@float16``, ``openvino@bf16``, ``onnx@lanes16``, or ``eager``."""

    format: str
    precision: str = FLOAT32  # of the weights in the file, as for ``export``, or of the runtime's arithmetic
    lanes: int | None = None  # as for ``export``

    @property
    def stored(self) -> str:
        """The precision of the weights in the file."""
        return FLOAT16 if self.precision == FLOAT16 else FLOAT32

    @property
    def arithmetic(self) -> str:
        """The precision requested for the runtime's arithmetic."""
        return FLOAT32 if self.precision == FLOAT16 else self.precision

    @property
    def label(self) -> str:
        """The notation of ``--formats``."""
        if self.lanes is not None:
            return f"{self.format}@lanes{self.lanes}"
        return self.format if self.precision == FLOAT32 else f"{self.format}@{self.precision}"


@dataclass(frozen=True)
class Entry:
    """One network in one format, ready to be timed."""

    network: str
    variant: Variant
    path: Path | None  # of the artifact; None for eager PyTorch
    shape: tuple[int, int, int, int]
    macs: int
    params: int
    bytes: int | None
    difference: float | None  # from PyTorch, as a share of the largest logit
    quality: Mapping[str, float | None] = field(default_factory=dict)  # on its training data, as recorded
    threads: int = 1

    def in_process(self) -> tuple[str, Path, str, tuple[int, ...], int]:
        """Return the arguments of ``latency.worker``'s functions that open the artifact."""
        assert self.path is not None
        return self.variant.format, self.path, self.variant.arithmetic, self.shape, self.threads


def benchmark(
    networks: Sequence[str],
    formats: Sequence[str],
    *,
    threads: int | Sequence[int] = 1,
    batch_size: int | Sequence[int] = 1,
    size: str | int | None = None,
    rounds: int = 20,
    calls: int = 8,
    operators: bool = False,
    artifacts: str | Path | None = None,
) -> dict[str, Any]:
    """Measure every network in every format.

    Networks that cannot be exported or differ from PyTorch are skipped and listed under ``failed``.

    Args:
        networks: classifiers and segmenters, as for :func:`compactnets.tasks.opening.open_model`.
        formats: names of formats, ``eager`` for plain PyTorch; ``onnx@float16`` for weights in
            float16, ``openvino@bf16`` for other arithmetic.
        threads: threads of every runtime; of several numbers, each is measured, all in turns.
        batch_size: images per call; of several numbers, each is measured, all in turns.
        size: side of the images, or ``HEIGHTxWIDTH``; default: each network's own.
        rounds: number of turns of every entry.
        calls: timed calls per turn, after two warm-up calls.
        operators: whether to time each kind of operator as well, if the runtime has a profiler.
        artifacts: folder that keeps the artifacts; existing ones that fit are reused. Default: a temporary folder.

    Returns:
        environment, settings and one row per entry, batch and number of threads: milliseconds (median, p10, p90, n),
        the limit and its multiple, ``images_per_second`` and the same per thread, multiply-adds, parameters, bytes,
        peak memory. ``limit_gflops`` is the rate of a matrix product, and ``core_gflops`` that of a loop of
        multiply-adds in registers (``None`` without a C compiler), of which a row has its ``share_of_core``. Both are
        measured for each number of threads, and rows refer to their own; those of the results are for the first number.

    Raises:
        InputError: an unknown network or format, a missing extra, or nothing that could be measured.
    """
    if artifacts is None:
        with scratch_folder() as scratch:
            return benchmark(
                networks,
                formats,
                threads=threads,
                batch_size=batch_size,
                size=size,
                rounds=rounds,
                calls=calls,
                operators=operators,
                artifacts=scratch,
            )
    artifacts = as_path(artifacts)
    counts, batches = _each_once(threads), _each_once(batch_size)
    wanted = list(dict.fromkeys(parse_format(name) for name in formats))
    for variant in wanted:
        if variant.format != EAGER:
            find_format(variant.format).versions()
    check_folder(artifacts, "--artifacts")
    # check all names before starting
    subjects = {network: _open(network, size) for network in networks}
    entries, failed = [], []
    with stoppable():
        for network, subject in subjects.items():
            for variant in wanted:
                say(f"preparing {network} for {variant.label}")
                try:
                    with one_line(f"{network} cannot be measured in {variant.label}"):
                        prepared = _prepare(network, subject, variant, batches, artifacts)
                    entries += [replace(entry, threads=count) for entry in prepared for count in counts]
                except (InputError, LimitError) as error:
                    failed.append({"network": network, "format": variant.label, "reason": str(error)})
                    say(f"skipped: {error}")
        if not entries:
            raise InputError(f"nothing could be measured: {failed[0]['reason']}")
        results = measure(entries, rounds=rounds, calls=calls, operators=operators)
    return {**results, "failed": [*failed, *results["failed"]]}


def measure(entries: Sequence[Entry], *, rounds: int, calls: int, operators: bool = False) -> dict[str, Any]:
    """Time entries in turns, each in its own process, together with a matrix product and the core's limit.

    Entries that cannot be loaded or run, or crash, are skipped and listed under ``failed``. Ctrl-C, SIGTERM and SIGHUP
    after a complete turn end the measurement: the results cover the turns so far, and ``interrupted`` is the signal's
    number.

    Args:
        entries: what to time.
        rounds: as for :func:`benchmark`, like the other arguments.

    Returns:
        as :func:`benchmark`.

    Raises:
        InputError: nothing could be timed.
    """
    measured = commit()  # now: a checkout may move on meanwhile
    with ExitStack() as stack:
        stack.enter_context(stoppable())

        def start(threads: int, function: Callable[..., None], *arguments: Any) -> Worker:
            process = Worker()
            stack.callback(process.close)
            # a process reads the variables when it starts
            with set_variables(dict.fromkeys(THREAD_VARIABLES, str(threads))):
                process.start(function, *arguments)
            return process

        counts = dict.fromkeys(entry.threads for entry in entries)
        limits = {threads: _Limits(threads, start(threads, worker.open_matrix, threads)) for threads in counts}
        running = []
        for entry in entries:
            if entry.path is None:
                process = start(entry.threads, worker.open_eager, entry.network, entry.shape, entry.threads)
            else:
                process = start(entry.threads, worker.open_artifact, *entry.in_process())
            running.append(_Running(entry, process))
        turns = _Turns(running, list(limits.values()))
        turns.load()
        signum = turns.take(rounds, calls)
        for one in turns.left:
            turns.attempt(one, lambda one: one.close_with(operators and signum is None))
        left = turns.left
        if not left:
            raise InputError(f"nothing could be measured: {turns.failed[0]['reason']}")
    first = next(iter(limits.values()))
    return {
        "commit": measured,
        "date": datetime.now(UTC).date().isoformat(),
        "environment": {**describe_environment(torch.device("cpu")), "cpu_features": cpu_features()},
        "settings": {
            "threads": list(counts),
            "batch_size": list(dict.fromkeys(entry.shape[0] for entry in entries)),
            "rounds": turns.done,
            "calls": calls,
            "matrix": worker.MATRIX,
        },
        "limit_gflops": first.gflops,
        "core_gflops": first.core_gflops,
        "rows": [{**_row(one, limits[one.entry.threads]), "operators": one.operators} for one in left],
        "failed": turns.failed,
        **({} if signum is None else {"interrupted": signum}),
    }


@dataclass
class _Running:
    """An entry in its process, with its measurements."""

    entry: Entry
    process: Worker
    times: list[float] = field(default_factory=list)
    turn: list[float] = field(default_factory=list)
    memory: int | None = None
    operators: list[dict[str, Any]] | None = None

    def take(self, calls: int) -> None:
        """Take a turn; it counts once all entries have taken theirs."""
        self.turn = self.process.call(worker.time_calls, calls)

    def close_with(self, operators: bool) -> None:
        """Read the peak memory, and time the operators if requested."""
        self.memory = self.process.call(worker.peak_memory)
        if operators:
            self.operators = _operators(self.entry, self.process)


@dataclass
class _Limits:
    """The process that measures the limits of a number of threads, with its measurements."""

    threads: int
    process: Worker
    matrix_times: list[float] = field(default_factory=list)
    core_times: list[float] = field(default_factory=list)
    core_macs: int = 0  # of a call; none without a compiler

    def load(self) -> None:
        """Wait until the matrices are there, and compile the loop."""
        self.process.result()
        try:
            self.core_macs = self.process.call(worker.open_core, self.threads)
        except InputError as error:  # no compiler
            say(f"the limit of the core is not measured: {error}")

    def take(self) -> tuple[list[float], list[float]]:
        """Return the seconds of a turn, of the product and of the loop."""
        matrix_times = self.process.call(worker.time_calls, 2)
        return matrix_times, self.process.call(worker.time_core, 2) if self.core_macs else []

    @property
    def gflops(self) -> float:
        """The rate of the matrix product."""
        return 2 * worker.MATRIX**3 / spread(self.matrix_times)["median"] / 1e9

    @property
    def core_gflops(self) -> float | None:
        """The rate of the loop; ``None`` without a compiler."""
        return 2 * self.core_macs / min(self.core_times) / 1e9 if self.core_times else None


class _Turns:
    """The turns of all running entries; a failed one is dropped."""

    def __init__(self, running: list[_Running], limits: list[_Limits]) -> None:
        self.left, self.limits = running, limits
        self.failed: list[dict[str, str]] = []
        self.done = 0

    def attempt(self, one: _Running, do: Callable[[_Running], object]) -> None:
        """Run a step of an entry, and drop the entry on failure."""
        try:
            do(one)
        except InputError as error:
            reason = str(error)
            self.failed.append({"network": one.entry.network, "format": one.entry.variant.label, "reason": reason})
            say(f"left out: {one.entry.network} in {one.entry.variant.label}: {reason}")
            one.process.close()
            self.left = [other for other in self.left if other is not one]

    def load(self) -> None:
        """Wait until all are loaded and warmed up."""
        for limits in self.limits:
            limits.load()
        for one in self.left:
            self.attempt(one, lambda one: one.process.result())
        for limits in self.limits:
            limits.process.call(worker.time_calls, WARM_UP)
        for one in self.left:
            self.attempt(one, lambda one: one.process.call(worker.time_calls, WARM_UP))

    def take(self, rounds: int, calls: int) -> int | None:
        """Take the turns. On a signal after the first, drop the unfinished turn and return the signal's number."""
        try:
            for turn in Tracker(range(rounds), rounds, "measuring"):
                if not self.left:
                    return None
                seconds = [limits.take() for limits in self.limits]
                order = np.roll(np.arange(len(self.left)), -turn)  # no entry always follows the same one
                turn_of = [self.left[index] for index in order]
                for one in turn_of:
                    self.attempt(one, lambda one: one.take(calls))
                for one in turn_of:
                    one.times += one.turn
                for limits, (matrix_times, core_times) in zip(self.limits, seconds, strict=True):
                    limits.matrix_times += matrix_times
                    limits.core_times += core_times
                self.done += 1
        except (KeyboardInterrupt, Stopped) as stop:
            if not self.done:
                raise
            return stop.signum if isinstance(stop, Stopped) else signal.SIGINT
        return None


def parse_format(text: str) -> Variant:
    """Split ``openvino@bf16`` or ``onnx@lanes16`` into a format and its option.

    Raises:
        InputError: an unknown format, or an unsupported option.
    """
    name, _, option = text.partition("@")
    fmt = None if name == EAGER else find_format(name)
    if fmt and fmt.lanes and (lanes := re.fullmatch(r"lanes([1-9]\d*)", option)):
        return Variant(name, lanes=int(lanes[1]))
    if fmt and (found := {each.name: each for each in fmt.delegates[1:]}.get(option)):
        raise InputError(f"{text} cannot be measured: it runs only on {found.device}")
    precision = option or FLOAT32
    allowed: list[str] = [FLOAT32]
    if fmt:
        allowed += [*([FLOAT16] if fmt.float16 else []), *fmt.precisions, *(["lanes16"] if fmt.lanes else [])]
    if precision not in allowed:
        raise InputError(f"{name} runs in {', '.join(allowed)}, found {precision!r}")
    return Variant(name, precision)


def _operators(entry: Entry, process: Worker) -> list[dict[str, Any]] | None:
    """Time each kind of operator in the entry's process; ``None`` if its runtime has no profiler."""
    found: list[dict[str, Any]] | None = None
    if entry.path is None:
        found = process.call(worker.operators_of_eager, entry.network, entry.shape, PROFILED)
    elif find_format(entry.variant.format).profiles:
        found = process.call(worker.operators_of_artifact, *entry.in_process(), PROFILED)
    return found


def _open(network: str, size: str | int | None) -> Subject:
    subject = open_subject(network, "benchmark")
    subject.check()
    if size is not None:
        return subject.resized(parse_size(str(size)))
    if subject.size is None:
        raise InputError(f"{network} takes images of any size: give --size HEIGHTxWIDTH")
    return subject


def _each_once(given: int | Sequence[int]) -> list[int]:
    return list(dict.fromkeys([given] if isinstance(given, int) else given))


def _prepare(network: str, subject: Subject, variant: Variant, batches: Sequence[int], artifacts: Path) -> list[Entry]:
    """Return an entry for every batch; one artifact serves them all if its format takes any batch."""
    found: list[Entry] = []
    any_batch = False
    for batch_size in batches:
        if any_batch:
            found.append(replace(found[0], shape=(batch_size, *subject.shape)))
        else:
            entry, any_batch = _prepare_batch(network, subject, variant, batch_size, artifacts)
            found.append(entry)
    return found


def _prepare_batch(
    network: str, subject: Subject, variant: Variant, batch_size: int, artifacts: Path
) -> tuple[Entry, bool]:
    """Return the entry of a batch, and whether its artifact takes any other."""
    quality = {subject.quality: subject.record.training.get(subject.quality)}
    shape = (batch_size, *subject.shape)
    if variant.format == EAGER:
        macs, params = count(subject.ready().model, subject.shape)
        return Entry(network, variant, None, shape, macs, params, None, None, quality), True
    name = re.sub(r"[^\w.-]+", "-", network).strip("-")  # the whole path, because every run has a best.safetensors
    lanes = f"-lanes{variant.lanes}" if variant.lanes else ""
    stored = "" if variant.stored == FLOAT32 else f"-{variant.stored}"
    sides = "x".join(map(str, subject.shape[1:]))
    folder = artifacts / f"{name}-{variant.format}{lanes}{stored}-{sides}-{batch_size}"
    artifact = _read_if_fits(folder, subject, variant, batch_size)
    if artifact is None:
        artifact = export_subject(
            subject, variant.format, folder, batch_size=batch_size, lanes=variant.lanes, precision=variant.stored
        )
    checks = artifact.verification.checks
    if not checks:
        raise InputError(f"{variant.format} does not run on this machine: it cannot be measured")
    entry = Entry(
        network,
        variant,
        folder / find_format(variant.format).file,
        shape,
        artifact.macs,
        artifact.params,
        artifact.bytes,
        max(check.relative_difference for check in checks),
        quality,
    )
    return entry, artifact.input[0] is None


def _read_if_fits(folder: Path, subject: Subject, variant: Variant, batch_size: int) -> ImageArtifact | None:
    """Return the record of an artifact with the same weights, settings and versions, or ``None``."""
    try:
        artifact, _ = read_artifact(folder, subject.artifact)
        opener = artifact.opener()
    except InputError:
        return None
    fits = (
        opener == find_format(variant.format)  # no other delegate
        and artifact.precision == variant.stored
        and artifact.details.get("lanes") == variant.lanes
        and artifact.input[0] in (None, batch_size)
        and artifact.network == subject.record
        and artifact.versions == {**software_versions(), **find_format(artifact.format).versions()}
        and artifact.verification.tolerance == TOLERANCES[variant.stored]
        and artifact.weights == weights_digest(subject.ready().model)
    )
    return artifact if fits else None


def _row(one: _Running, limits: _Limits) -> dict[str, Any]:
    entry, core_gflops = one.entry, limits.core_gflops
    milliseconds = {key: value * (1 if key == "n" else 1e3) for key, value in spread(one.times).items()}
    limit = 2 * entry.macs * entry.shape[0] / limits.gflops / 1e6
    rate = 1e3 * entry.shape[0] / milliseconds["median"]
    of_core = core_gflops and 2 * entry.macs * entry.shape[0] / core_gflops / 1e6 / milliseconds["median"]
    return {
        "network": entry.network,
        "format": entry.variant.label,
        "threads": entry.threads,
        "input": list(entry.shape),
        "milliseconds": milliseconds,
        "limit_milliseconds": limit,
        "times_limit": milliseconds["median"] / limit,
        "share_of_core": of_core,
        "images_per_second": rate,
        "images_per_second_per_thread": rate / entry.threads,
        "macs": entry.macs,
        "params": entry.params,
        "bytes": entry.bytes,
        "peak_memory_bytes": one.memory,
        "relative_difference": entry.difference,
        **entry.quality,
    }
