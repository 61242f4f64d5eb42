"""Latency of networks from that of their parts, each measured once in the runtime.

A part alone reads its input from outside and writes its output there, which a network does not do between its parts.
What that costs per value and per part is fitted on whole networks of the space; others, left out of the fit, tell the
error.
"""

from __future__ import annotations

import hashlib
import re
import shlex
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from compactnets.console import Tracker, say
from compactnets.deploy.formats.registry import find_format
from compactnets.deploy.record import size_in_bytes
from compactnets.deploy.rewrite import deploy_form
from compactnets.environment import cpu_features, cpu_name
from compactnets.errors import InputError
from compactnets.failures import scratch_folder
from compactnets.files import json_text, replace_text
from compactnets.locks import own_file
from compactnets.search.alignment import RANGES, Widths, choose, excess_of, unit
from compactnets.values import read_json

WARM_UP, CALLS, TURNS = 3, 8, 8  # calls before, in a turn, and turns
LEAST_SECONDS = 0.25  # of the turns together
FITTED, JUDGED = 8, 6  # whole networks to fit the correction on, and to tell its error
WIDTHS_SECONDS = 8.0  # of the turns of all widths of a range together
MOST_CHANNELS = 256  # of --align
LAYOUT = 1


class CommandError(InputError):
    """``--device-command`` failed; it would for every network."""


@dataclass(frozen=True)
class Part:
    """A part of a network with the shape of its input, (C, H, W), and the values that it reads and writes."""

    module: nn.Module
    shape: tuple[int, ...]
    values: int

    @property
    def key(self) -> str:
        """The same for parts that compute alike: of the layers, the sharing of a stage, and the shape."""
        sharing = getattr(self.module, "sharing", None)
        told = f"{self.module!r} {sharing.described() if sharing else ''} {self.shape}"
        return hashlib.sha256(told.encode()).hexdigest()[:16]


def parts_of(model: nn.Module, shape: tuple[int, int, int]) -> list[Part]:
    """Return stem, units and what follows them, of a network of the families for images of (C, H, W)."""
    units: list[nn.Module] = [model.stem]  # type: ignore[list-item]
    for stage in model.stages:  # type: ignore[union-attr]
        units += stage.children() if isinstance(stage, nn.Sequential) else [stage]
    units.append(nn.Sequential(model.final, model.global_pool, model.classifier))  # type: ignore[arg-type]
    parts, x = [], torch.zeros(1, *shape)
    with torch.inference_mode():
        for unit in units:
            y: Tensor = unit(x)
            parts.append(Part(unit, tuple(x.shape[1:]), x.numel() + y.numel()))
            x = y
    return parts


@dataclass
class LatencyTable:
    """Milliseconds of parts in one runtime on one machine, one thread count, batch 1.

    Attributes:
        path: where it is kept; what is measured is written at once.
        format_name, threads: the runtime.
        parts: milliseconds by key.
        per_value, per_part: what a part between two others does not cost in a network, in milliseconds.
        errors: of networks that the correction was not fitted on: predicted over measured, less 1.
        widths: milliseconds of a unit by its width, from which :attr:`multiple` follows.
    """

    path: Path
    format_name: str
    threads: int
    parts: dict[str, float] = field(default_factory=dict)
    per_value: float = 0.0
    per_part: float = 0.0
    errors: list[float] = field(default_factory=list)
    widths: list[Widths] = field(default_factory=list)

    @classmethod
    def at(cls, path: Path, format_name: str, threads: int) -> LatencyTable:
        """Read a table, or begin one.

        Raises:
            InputError: one of another machine, runtime or number of threads.
        """
        table = cls(path, format_name, threads)
        table._read()
        return table

    def _read(self) -> None:
        """Take what the file has, if there is one."""
        if not self.path.exists():
            return
        found = read_json(self.path, "a table of latencies")
        wanted = self._origin()
        if not isinstance(found, dict) or {key: found.get(key) for key in wanted} != wanted:
            raise InputError(
                f"{self.path} was measured elsewhere (another machine, runtime version or number of threads): remove "
                f"it to measure again, or choose another --table"
            )
        self.parts, self.errors = self.parts | found["parts"], list(found["errors"])
        self.per_value, self.per_part = found["per_value"], found["per_part"]
        self.widths = [Widths.from_dict(each) for each in found.get("widths", ())]  # none in older ones

    @contextmanager
    def measuring(self) -> Iterator[None]:
        """Measure alone: other processes with this table wait, and find here what was measured meanwhile.

        Raises:
            InputError: the file cannot be written, or is of another machine.
        """
        with own_file(self.path, wait=True):
            self._read()
            yield

    @property
    def error(self) -> float:
        """The largest error on networks left out of the fit, as a share; infinite before it is known."""
        return max(map(abs, self.errors), default=float("inf"))

    def predict(self, model: nn.Module, shape: tuple[int, int, int]) -> float:
        """Return the milliseconds of a network in evaluation mode; parts that are new are measured."""
        parts = parts_of(model, shape)
        return self._sum(parts) - self._correction(parts) @ np.array([self.per_value, self.per_part])

    @property
    def multiple(self) -> int:
        """The multiple of channels that the runtime likes; measured if that is not done."""
        if not self.widths:
            with self.measuring():
                if not self.widths:
                    self._measure_widths()
        return choose(self.widths)

    def _measure_widths(self) -> None:
        step, found = 16, []
        for first, side in Tracker(RANGES, len(RANGES), f"measuring widths in {self.format_name}"):
            modules = {width: (unit(width), (width, side, side)) for width in range(first, first + step + 1)}
            found.append(Widths(side, measure_in_turns(modules, self.format_name, self.threads)))
        self.widths = found
        self.save()

    def calibrate(self, networks: Iterable[Callable[[], tuple[nn.Module, tuple[int, int, int]]]]) -> None:
        """Fit the correction on whole networks, and tell the error on others; does nothing if that is done.

        Args:
            networks: make networks of the space, with the shape of their images; as many as are needed are taken.
        """
        if self.errors:
            return
        with self.measuring():
            if not self.errors:
                self._fit(networks)

    def _fit(self, networks: Iterable[Callable[[], tuple[nn.Module, tuple[int, int, int]]]]) -> None:
        from scipy.optimize import nnls  # loads much

        makers = iter(networks)
        rows, surplus, whole = [], [], []
        for _ in Tracker(range(FITTED + JUDGED), FITTED + JUDGED, f"measuring parts in {self.format_name}"):
            model, shape = next(makers)()
            parts = parts_of(model, shape)
            total = self._sum(parts)
            whole.append(measure(model, shape, self.format_name, self.threads))
            rows.append(self._correction(parts))
            surplus.append(total - whole[-1])
        (self.per_value, self.per_part), _ = nnls(np.array(rows[:FITTED]), np.array(surplus[:FITTED]))
        fit = np.array([self.per_value, self.per_part])
        judged = list(zip(rows, surplus, whole, strict=True))[FITTED:]
        self.errors = [float((extra + time_ - row @ fit) / time_ - 1) for row, extra, time_ in judged]
        self.save()

    def _sum(self, parts: Sequence[Part]) -> float:
        if any(part.key not in self.parts for part in parts):
            with self.measuring():
                for part in parts:
                    if part.key not in self.parts:
                        self.parts[part.key] = measure(part.module, part.shape, self.format_name, self.threads)
                self.save()
        return sum(self.parts[part.key] for part in parts)

    def _correction(self, parts: Sequence[Part]) -> np.ndarray:
        """Return the values and the number of what a sum of parts counts too much."""
        outside = int(np.prod(parts[0].shape))  # the image is read in any case
        return np.array([sum(part.values for part in parts) - outside, len(parts) - 1], dtype=np.float64)

    def _origin(self) -> dict[str, Any]:
        return {
            "layout": LAYOUT,
            "format": self.format_name,
            "threads": self.threads,
            "versions": find_format(self.format_name).versions(),
            "processor": cpu_name(),
            "features": cpu_features(),
        }

    def save(self) -> None:
        """Write the table, with the machine that it is of."""
        content = {
            **self._origin(),
            "parts": self.parts,
            "per_value": self.per_value,
            "per_part": self.per_part,
            "errors": self.errors,
            "widths": [each.to_dict() for each in self.widths],
        }
        with own_file(self.path, wait=True):
            replace_text(self.path, json_text(content, indent=2) + "\n")


def find_multiple(align: str, format_name: str | None = None, threads: int = 1, path: Path | None = None) -> int:
    """Return the multiple of ``--align``: the number given, or with ``auto`` the one that a runtime likes.

    Args:
        align: a number from 1, or ``auto``.
        format_name, threads: the runtime to measure.
        path: of its table, which is written where it does not have the widths yet; ``None`` keeps nothing.

    Raises:
        InputError: neither, no runtime, or one that cannot measure here.
    """
    if align != "auto":
        if not align.isascii() or not align.isdecimal() or not 1 <= int(align) <= MOST_CHANNELS:
            raise InputError(f"--align is a number of channels from 1 to {MOST_CHANNELS}, or auto, found {align!r}")
        if format_name is not None or path is not None:
            raise InputError("--format and --table are for --align auto: remove them, or give --align auto")
        return int(align)
    if format_name is None:
        raise InputError("--align auto measures a runtime: name it, such as --format onnx")
    find_format(format_name).versions()
    with scratch_folder() as scratch:
        table = LatencyTable.at(path or scratch / "table.json", format_name, threads)
        multiple = table.multiple
    say_multiple(table, multiple)
    return multiple


def measure(module: nn.Module, shape: Sequence[int], format_name: str, threads: int) -> float:
    """Return the milliseconds of a module in a runtime, in this process, for one image.

    The median of the calls of a turn, in the fastest of a few turns.

    On one thread, a call's time is what this process had of the core. A network that needs longer than the system's
    time slice is interrupted in every call where another program wants the core, a part of it is not; by the clock,
    the whole network would seem to be slower than its parts.

    Raises:
        InputError: it cannot be written in this format or run here.
    """
    with _opened(module, shape, format_name, threads) as call:
        for _ in range(WARM_UP):
            call()
        turns: list[float] = []
        end = time.perf_counter() + LEAST_SECONDS
        while len(turns) < TURNS or time.perf_counter() < end:
            turns.append(median(_seconds(call, threads)))
    return 1e3 * min(turns)


def measure_in_turns(
    modules: Mapping[int, tuple[nn.Module, Sequence[int]]], format_name: str, threads: int
) -> dict[int, float]:
    """Return the milliseconds of modules that are to be compared, given with the shapes of their inputs, (C, H, W).

    They are called in turns, so that all see the same machine; the fastest call of each counts, because what else runs
    only ever adds time.

    Raises:
        InputError: as :func:`measure`.
    """
    with ExitStack() as stack:
        calls = {
            key: stack.enter_context(_opened(module, shape, format_name, threads))
            for key, (module, shape) in modules.items()
        }
        fastest = dict.fromkeys(calls, float("inf"))
        turns, end = 0, time.perf_counter() + WIDTHS_SECONDS
        while turns < TURNS or time.perf_counter() < end:
            for key, call in calls.items():
                call()  # what another left in the caches
                fastest[key] = min(fastest[key], *_seconds(call, threads))
            turns += 1
    return {key: 1e3 * seconds for key, seconds in fastest.items()}


@contextmanager
def _opened(module: nn.Module, shape: Sequence[int], format_name: str, threads: int) -> Iterator[Callable[[], Any]]:
    """Write a module for images of (C, H, W), and yield a call of it in the runtime."""
    fmt = find_format(format_name)
    with tempfile.TemporaryDirectory(prefix="compactnets-") as scratch:
        folder = Path(scratch)
        image = torch.randn(1, *shape, generator=torch.Generator().manual_seed(0))
        fmt.write(deploy_form(module.eval()), image, folder)
        run, pixels = fmt.open(folder / fmt.file, threads), image.numpy()
        yield lambda: run(pixels)


def _seconds(call: Callable[[], Any], threads: int) -> list[float]:
    clock = time.process_time if threads == 1 else time.perf_counter
    seconds = []
    for _ in range(CALLS):
        start = clock()
        call()
        seconds.append(clock() - start)
    return seconds


def artifact_costs(module: nn.Module, shape: Sequence[int], format_name: str) -> dict[str, float | None]:
    """Return the bytes of a network's artifact, and the memory that it needs where the format says it.

    Raises:
        InputError: it cannot be written in this format.
    """
    fmt = find_format(format_name)
    with tempfile.TemporaryDirectory(prefix="compactnets-") as scratch:
        folder = Path(scratch)
        details = fmt.write(deploy_form(module.eval()), torch.zeros(1, *shape), folder)
        size = sum(size_in_bytes(folder / name) for name in fmt.files)
    return {"bytes": size, "memory": details.get("arena_bytes")}


def measure_elsewhere(module: nn.Module, shape: Sequence[int], format_name: str, command: str) -> float:
    """Return the milliseconds that a command prints for the artifact of a module, for images of (C, H, W).

    Raises:
        InputError: it cannot be written in this format, or as :func:`time_by_command`.
    """
    fmt = find_format(format_name)
    with tempfile.TemporaryDirectory(prefix="compactnets-") as scratch:
        fmt.write(deploy_form(module.eval()), torch.zeros(1, *shape), Path(scratch))
        return time_by_command(command, Path(scratch) / fmt.file)


def time_by_command(command: str, artifact: Path) -> float:
    """Run a command on an artifact; the last number that it prints is the milliseconds of a call.

    Args:
        command: in shell syntax; the artifact's main file is added as its last argument.

    Raises:
        CommandError: (an InputError) it fails or prints no positive number.
    """
    try:
        done = subprocess.run(
            [*shlex.split(command), str(artifact)],
            capture_output=True,
            text=True,
            encoding="utf-8",
            errors="replace",
            check=False,
        )
    except (OSError, ValueError) as error:
        raise CommandError(f"--device-command {command!r} cannot be run: {error}") from None
    if done.returncode:
        told = done.stderr.strip().splitlines()
        raise CommandError(
            f"--device-command {command!r} ended with code {done.returncode}{': ' + told[-1] if told else ''}"
        )
    numbers = re.findall(r"\d+(?:\.\d+)?(?:e[+-]?\d+)?", done.stdout)
    if not numbers or not float(numbers[-1]) > 0:
        raise CommandError(
            f"--device-command {command!r} must print the milliseconds of a call last, found "
            f"{done.stdout.strip()[-80:]!r}"
        )
    return float(numbers[-1])


def say_multiple(table: LatencyTable, multiple: int) -> None:
    """Say of which multiple the widths are, and why."""
    excess = excess_of(table.widths)
    told = (
        "no multiple of channels is much faster: widths are whole numbers"
        if multiple == 1
        else f"widths are multiples of {multiple}, with which a unit takes {excess[multiple] / excess[1]:.2f} times as "
        f"long as with any width"
    )
    say(f"{table.format_name}: {told}")


def say_error(table: LatencyTable) -> None:
    """Say how far the table's latencies are from those of whole networks."""
    threads = "1 thread" if table.threads == 1 else f"{table.threads} threads"
    mean = 100 * float(np.mean(np.abs(table.errors)))
    say(
        f"latencies of {len(table.parts)} parts in {table.format_name}, {threads}: for {len(table.errors)} whole "
        f"networks the prediction is off by {mean:.1f} % on average, {100 * table.error:.1f} % at most"
    )
