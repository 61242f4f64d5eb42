"""The output of a run: weights, metrics, events, a plot, its recipe and its environment."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from compactnets.environment import commit, describe_environment
from compactnets.errors import InputError
from compactnets.files import json_text, refusals, remove_partials, replace_text
from compactnets.locks import own_folder
from compactnets.training.curves import Curves, draw_curves
from compactnets.training.distributed import World
from compactnets.training.events import Events
from compactnets.training.recipe import RunRecipe
from compactnets.training.state import FOLDER, Progress, has_state
from compactnets.values import dump_yaml

FILES = ("last.safetensors", "best.safetensors", "metrics.jsonl", "recipe.yaml", "environment.json")
STARTED = {
    "recipe.yaml",
    "environment.json",
}  # left by a killed start in versions that did not write a checkpoint first
REDRAW = 30.0  # seconds between two drawings of the curves, which take a moment each


@contextmanager
def own_run_folder(output: Path, world: World) -> Iterator[None]:
    """Own ``output`` exclusively; the first process owns it for all.

    Raises:
        InputError: another run owns it (in every process), or it cannot be created or written.
    """
    with ExitStack() as stack:
        refused: InputError | None = None
        if world.is_main:
            try:
                stack.enter_context(own_folder(output))
            except InputError as error:
                refused = error
        if world.largest(int(refused is not None)):
            raise refused or InputError(f"the first process cannot write to {output}")
        yield


class RunFolder:
    """The output folder of a run; only the main process has one. Nothing is written before :meth:`start`.

    The order of writes lets a run resume from any of them: a state comes before all other files, and an epoch's state
    after everything else of the epoch. So after a kill or a full disk there is always a state from which the rest can
    be rewritten.

    Args:
        curves: the contents of its plot.

    Raises:
        InputError: the folder contains files that are not from a run.
    """

    def __init__(self, path: Path, recipe: RunRecipe, world: World, curves: Curves) -> None:
        self.path, self.recipe, self.world, self.curves = path, recipe, world, curves
        with refusals(f"to the output folder {path}"):
            found = [name for name in FILES if (path / name).exists()]
        if found and not has_state(path) and set(found) != STARTED:
            raise InputError(
                f"{path} holds {', '.join(found)} but no checkpoint to resume from: choose another --output, or "
                f"remove it"
            )
        self._sessions = self._read_sessions()
        self._events = Events(path / "tensorboard")
        self._drawn = time.monotonic()

    def start(self) -> None:
        """Write recipe and environment; a state must exist, so that a kill in between can be resumed.

        Raises:
            InputError: the folder cannot be written, as in all methods that write.
        """
        with refusals(f"to the output folder {self.path}"):
            self.path.mkdir(parents=True, exist_ok=True)
        for folder in (self.path, self.path / FOLDER):
            remove_partials(folder)
        replace_text(self.path / "recipe.yaml", dump_yaml(self.recipe.model_dump(mode="json")))
        sessions = [*self._sessions, _describe_session(self.world)]
        replace_text(self.path / "environment.json", json_text({"sessions": sessions}, indent=1) + "\n")

    def _read_sessions(self) -> list[dict[str, Any]]:
        """Return the starts of the run so far: it may be resumed with other versions, or elsewhere."""
        file = self.path / "environment.json"
        if not file.exists():
            return []
        try:
            return list(json.loads(file.read_text(encoding="utf-8"))["sessions"])
        except (OSError, ValueError, KeyError, TypeError):
            raise InputError(f"{file} is not the list of this run's starts: fix or remove it") from None

    def write_scalars(self, step: int, group: str, values: Mapping[str, float]) -> None:
        """Write ``GROUP/NAME`` scalars of a step to the TensorBoard events."""
        self._events.add({f"{group}/{name}": value for name, value in values.items()}, step)

    def write_epoch(self, progress: Progress) -> None:
        """Write metrics.jsonl, the events and the plot after an epoch."""
        lines = "".join(json_text(line) + "\n" for line in progress.history)
        replace_text(self.path / "metrics.jsonl", lines)
        self.write_scalars(progress.step, "epoch", progress.history[-1])
        self._events.flush()
        if time.monotonic() - self._drawn > REDRAW:
            self._draw(progress)

    def close(self, progress: Progress) -> None:
        """Write the remaining events, and draw the curves a last time."""
        self._events.close()
        if progress.history:
            self._draw(progress)

    def _draw(self, progress: Progress) -> None:
        draw_curves(progress.history, self.path / "curves.svg", self.curves)
        self._drawn = time.monotonic()


def _describe_session(world: World) -> dict[str, Any]:
    now = datetime.now(UTC).isoformat(timespec="seconds")
    command = [Path(sys.argv[0]).name, *sys.argv[1:]]
    run = {"started": now, "command": command, "commit": commit(), "processes": world.size}
    return run | describe_environment(world.device)
