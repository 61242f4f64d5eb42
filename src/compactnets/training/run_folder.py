"""What a run leaves behind: weights, metrics, events, a plot, its recipe and its environment."""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from compactnets.environment import commit, describe_environment
from compactnets.errors import InputError
from compactnets.files import replace_text
from compactnets.training.curves import Curves, draw_curves
from compactnets.training.distributed import World
from compactnets.training.recipe import RunRecipe
from compactnets.training.state import Progress, has_state
from compactnets.values import dump_yaml

FILES = ("last.safetensors", "best.safetensors", "metrics.jsonl", "recipe.yaml", "environment.json")
STARTED = {"recipe.yaml", "environment.json"}  # all that a run killed before its first checkpoint leaves
REDRAW = 30.0  # seconds between two drawings of the curves, which take a moment each


class RunFolder:
    """The output folder of a run; only the main process has one.

    Args:
        curves: what its plot shows.

    Raises:
        InputError: the folder cannot be made or written, or holds the files of something else than a run of ours.
    """

    def __init__(self, path: Path, recipe: RunRecipe, world: World, curves: Curves) -> None:
        self.path, self.curves = path, curves
        found = [name for name in FILES if (path / name).exists()]
        if found and not has_state(path) and set(found) != STARTED:
            raise InputError(
                f"{path} holds {', '.join(found)} but no checkpoint to go on from: choose another --output, or "
                f"remove it"
            )
        try:
            path.mkdir(parents=True, exist_ok=True)
            sessions = self._read_sessions()
            text = dump_yaml(recipe.model_dump(mode="json"))
            replace_text(path / "recipe.yaml", text)
            self._write_sessions([*sessions, _describe_session(world)])
        except OSError as error:
            raise InputError(f"cannot write to the output folder {path}: {error.strerror}") from None
        self._events: Any = None
        self._drawn = time.monotonic()

    def _read_sessions(self) -> list[dict[str, Any]]:
        """Return the starts of the run so far: it may go on under other versions, or elsewhere."""
        file = self.path / "environment.json"
        if not file.exists():
            return []
        try:
            return list(json.loads(file.read_text(encoding="utf-8"))["sessions"])
        except (ValueError, KeyError, TypeError):
            raise InputError(f"{file} is not the list of this run's starts: mend it, or move it away") from None

    def _write_sessions(self, sessions: list[dict[str, Any]]) -> None:
        text = json.dumps({"sessions": sessions}, indent=1) + "\n"
        replace_text(self.path / "environment.json", text)

    def write_scalars(self, step: int, group: str, values: Mapping[str, float]) -> None:
        """Write ``GROUP/NAME`` scalars of a step to the TensorBoard events."""
        for name, value in values.items():
            self._writer(step).add_scalar(f"{group}/{name}", value, step)

    def write_epoch(self, progress: Progress) -> None:
        """Write metrics.jsonl, the events and the plot after an epoch."""
        lines = "".join(json.dumps(line) + "\n" for line in progress.history)
        replace_text(self.path / "metrics.jsonl", lines)
        self.write_scalars(progress.step, "epoch", progress.history[-1])
        self._writer(progress.step).flush()
        if time.monotonic() - self._drawn > REDRAW:
            self._draw(progress)

    def close(self, progress: Progress) -> None:
        """Finish the events, and draw the curves a last time."""
        if self._events is not None:
            self._events.close()
        if progress.history:
            self._draw(progress)

    def _draw(self, progress: Progress) -> None:
        draw_curves(progress.history, self.path / "curves.svg", self.curves)
        self._drawn = time.monotonic()

    def _writer(self, step: int) -> Any:
        if self._events is None:
            os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
            from torch.utils.tensorboard import SummaryWriter

            # what a killed process wrote past the checkpoint that the run goes on from is hidden
            self._events = SummaryWriter(str(self.path / "tensorboard"), purge_step=step)
        return self._events


def _describe_session(world: World) -> dict[str, Any]:
    now = datetime.now(UTC).isoformat(timespec="seconds")
    command = [Path(sys.argv[0]).name, *sys.argv[1:]]
    run = {"started": now, "command": command, "commit": commit(), "processes": world.size}
    return run | describe_environment(world.device)
