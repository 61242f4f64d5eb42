"""Decide how a run's training step is computed: with whose kernels, and whether compiling it pays off."""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Literal, TypeVar

import torch

from compactnets.console import say
from compactnets.errors import InputError
from compactnets.training.distributed import World
from compactnets.training.fused.native import missing
from compactnets.training.recipe import RunRecipe
from compactnets.training.state import Progress

Result = TypeVar("Result")
Kernels = Literal["own", "torch"]

EAGER_STEPS = 4  # uncompiled and timed; the first ones are slower
# Estimates, not measurements with a record: on two CPU cores, runs of the package's networks took minutes longer with
# compiling, and a GPU is assumed to take a third of that. A compiled step is assumed to take half the time, so that
# twice these seconds of steps must be left. Only whether to compile hangs on it.
COMPILE_SECONDS = {"cpu": 180.0, "cuda": 60.0}


def choose_kernels(recipe: RunRecipe, fusible: bool, world: World) -> Kernels:
    """Return the kernels that a run trains with; with ``kernels: auto``, say why not the package's own.

    Args:
        fusible: whether the network can be trained with the package's own
            (:attr:`compactnets.training.setup.TrainingSetup.fusible`).

    Raises:
        InputError: ``kernels: own``, which cannot compute this run or are not available.
    """
    if recipe.kernels == "torch":
        return "torch"
    needed = {
        "a classifier, trained without --qat": fusible,
        f"a CPU, not {world.device}": world.device.type == "cpu",
        f"one process, not {world.size}": world.size == 1,
        f"precision: float32, not {recipe.precision}": recipe.precision == "float32",
        "channels_last: true, not false": recipe.channels_last,
        f"compile: true or false, not {recipe.compile}": isinstance(recipe.compile, bool),
    }
    unfit = [what for what, fits in needed.items() if not fits]
    reason = f"the package's own kernels need {', and '.join(unfit)}" if unfit else missing()
    if reason is None:
        return "own"
    if recipe.kernels == "own":
        raise InputError(f"kernels: own is not possible here: {reason} (with kernels: auto torch's would train)")
    say(f"training with torch's kernels: {reason}")
    return "torch"


@contextmanager
def without_cuda_warnings(device: torch.device) -> Iterator[None]:
    """Suppress warnings of torch and its compiler about a GPU that the run does not use."""
    with warnings.catch_warnings():
        if device.type == "cpu":
            warnings.filterwarnings("ignore", message=r"(?s).*\bCUDA\b", category=UserWarning, module=r"torch\b")
        yield


class Compiling:
    """Decides after :data:`EAGER_STEPS` steps, once per run; the decision is stored in the run's state.

    So a resumed run computes the same as an uninterrupted one.

    Args:
        compile: function that compiles later steps; ``None`` if there is nothing to decide.
        progress: of the run.
        total: its steps.
        first: the first step that is timed; those before it are of a frozen backbone.
    """

    def __init__(
        self,
        compile: Callable[[], None] | None,
        progress: Progress,
        total: int,
        device: torch.device,
        first: int = 0,
    ) -> None:
        self._compile, self._progress, self._total, self._device = compile, progress, total, device
        self._first = first
        self._quickest = float("inf")  # seconds of a step
        if compile is not None and progress.compiled:
            compile()

    @property
    def _decided(self) -> bool:
        return self._compile is None or self._progress.compiled is not None

    def time(self, step: Callable[[], Result]) -> Result:
        """Take a step, and time it if needed."""
        if self._decided or self._progress.step < self._first:
            return step()
        self._wait()
        start = time.perf_counter()
        result = step()
        self._wait()
        self._quickest = min(self._quickest, time.perf_counter() - start)
        return result

    def decide(self) -> None:
        """Decide, if it is time to; call it after each step."""
        if self._decided or self._progress.step < self._first + EAGER_STEPS:
            return
        assert self._compile is not None
        left = self._total - self._progress.step
        seconds = left * self._quickest
        self._progress.compiled = seconds > 2 * COMPILE_SECONDS.get(self._device.type, COMPILE_SECONDS["cpu"])
        about = f"the {left} remaining steps take about {timedelta(seconds=round(seconds))} uncompiled"
        if self._progress.compiled:
            say(f"compiling the step, which takes minutes at first: {about}")
            self._compile()
        else:
            say(f"the step is not compiled: {about}, compiling takes minutes (compile: default always compiles)")

    def _wait(self) -> None:
        if self._device.type == "cuda":
            torch.cuda.synchronize(self._device)
        elif self._device.type == "mps":
            torch.mps.synchronize()
