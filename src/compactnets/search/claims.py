"""Which process of a search trains which candidate, so that as many are trained as asked for, by however many.

All of it is in Optuna's study. A trial is claimed as it is asked for, before anybody knows its network, and then counts
with those that are trained. Trials are numbered in the order in which they were asked for: of two claims too many, the
one with the lower number stays. What a dead process has claimed is queued again.
"""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

POLL = 0.5  # seconds between two looks at the study while others train
UNOWNED = 60.0  # seconds after which the process died that asked for a trial and has not signed it
KNOWN, ENOUGH = "trained before", "enough are trained"  # why a candidate is not admitted


class Claims:
    """The candidates of a study as they are shared between its processes.

    Args:
        optuna: the package.
        study: Optuna's.
        wanted: candidates to train, those for comparison not counted.
        say: prints a line of progress.
    """

    def __init__(self, optuna: Any, study: Any, wanted: int, say: Callable[[str], None]) -> None:
        self.study, self.wanted, self.say = study, wanted, say
        self.states = optuna.trial.TrialState
        # two processes may tell one trial: ValueError if the first was seen to, the other error if not
        self.ended = (ValueError, optuna.exceptions.UpdateFinishedTrialError)
        self._unsigned: dict[int, float] = {}  # trials without an owner, since when they are known

    def trained(self) -> list[Any]:
        """Return the trials that were trained and have ended, those for comparison too."""
        return [trial for trial in self._trials() if self._is_trained(trial)]

    @property
    def done(self) -> int:
        """Number of candidates that were trained, to the end or until they were stopped."""
        return len(_ours(self.trained()))

    def queue(self, compared: Sequence[str]) -> None:
        """Queue networks for comparison that the study does not have."""
        known = {trial.user_attrs.get("compared") for trial in self._trials() if trial.state != self.states.FAIL}
        for name in compared:
            if name not in known:
                self.study.enqueue_trial({}, {"compared": name})

    def next(self) -> Any | None:
        """Return a trial for this process, and ``None`` when all are trained.

        While others train as many as are missing, it waits: one of them may fail or die.
        """
        told = False
        while True:
            self._take_over()
            open_ = self._open()
            waiting = [trial for trial in open_ if trial.state == self.states.WAITING]
            done = self.done
            if done >= self.wanted and not any("compared" in trial.user_attrs for trial in open_):
                return None
            if waiting or done + len(_ours(open_)) < self.wanted:
                trial = self.study.ask()
                trial.set_user_attr("owner", _this_process())
                if self._is_first(trial):
                    return trial
                continue
            if not told:
                self.say(f"waiting for what other processes train: {', '.join(map(_describe, open_))}")
                told = True
            time.sleep(POLL)

    def admit(self, trial: Any, candidate: dict[str, Any]) -> str | None:
        """Declare what a trial would train; return ``None`` if it may, and otherwise why not.

        A claim too many is withdrawn here.
        """
        trial.set_user_attr("candidate", candidate)
        while True:
            lower = [other for other in self._trials() if other.number < trial.number]
            undeclared = (
                other
                for other in lower
                if other.state == self.states.RUNNING and not {"candidate", "compared"} & other.user_attrs.keys()
            )
            if not any(map(self._lives, undeclared)):
                break
            time.sleep(0.05)  # it takes a moment to propose
        if any(
            other.user_attrs.get("candidate") == candidate
            and "reason" not in other.user_attrs
            and other.state != self.states.FAIL
            for other in lower
        ):
            return KNOWN
        if sum(1 for other in _ours(lower) if self._is_trained(other) or not other.state.is_finished()) >= self.wanted:
            self._withdraw(trial)
            return ENOUGH
        return None

    def _trials(self) -> list[Any]:
        found: list[Any] = self.study.get_trials(deepcopy=False)
        return found

    def _is_trained(self, trial: Any) -> bool:
        ended = trial.state in (self.states.COMPLETE, self.states.PRUNED)
        return ended and bool(trial.intermediate_values) and "reason" not in trial.user_attrs

    def _open(self) -> list[Any]:
        """Return the trials that are claimed or queued; not those that are queued again."""
        trials = [trial for trial in self._trials() if not trial.state.is_finished()]
        again = {trial.user_attrs.get("again") for trial in trials}
        return [trial for trial in trials if trial.number not in again]

    def _take_over(self) -> None:
        """Queue again what a process of this machine has left; its run goes on where it stopped."""
        for trial in self._open():
            if trial.state != self.states.RUNNING or self._lives(trial):
                continue
            if declared := {"candidate", "costs", "compared"} & trial.user_attrs.keys():
                kept = {name: trial.user_attrs[name] for name in declared}
                reported = {**dict(trial.user_attrs.get("reported", ())), **trial.intermediate_values}
                kept["reported"] = sorted(reported.items())
                self.study.enqueue_trial(trial.params, {**kept, "again": trial.number})
            else:
                self._withdraw(trial.number)

    def _is_first(self, trial: Any) -> bool:
        """Whether no other process had queued the same: two may do so at once. Otherwise it is withdrawn."""
        attributes = trial.user_attrs
        for name in ("again", "compared"):
            for other in self._trials():
                same = name in attributes and other.user_attrs.get(name) == attributes[name]
                replaced = other.number == attributes.get("again")
                if same and other.number < trial.number and other.state != self.states.FAIL and not replaced:
                    self._withdraw(trial)
                    return False
        if "again" in attributes:
            self._withdraw(attributes["again"])
        return True

    def _withdraw(self, trial: Any) -> None:
        with suppress(*self.ended):
            self.study.tell(trial, state=self.states.FAIL)

    def _lives(self, trial: Any) -> bool:
        """Whether a running trial's process lives, as far as this machine can tell."""
        owner = trial.user_attrs.get("owner")
        if owner is None:
            return time.monotonic() - self._unsigned.setdefault(trial.number, time.monotonic()) < UNOWNED
        return is_alive(*owner)


def is_alive(host: str, process: int, since: str | None = None) -> bool:
    """Whether a process runs that is not this one; one of another machine is taken to.

    Args:
        since: when it began, as :func:`_begin` says it: a number is used again, in containers soon.
    """
    if host != socket.gethostname():
        return True
    if process == os.getpid():
        return False
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass
    return since is None or _begin(process) in (None, since)


def _this_process() -> list[Any]:
    return [socket.gethostname(), os.getpid(), _begin(os.getpid())]


def _begin(process: int) -> str | None:
    """Return when a process began, in the kernel's ticks; ``None`` where there is no ``/proc``."""
    try:
        return Path(f"/proc/{process}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()[19]
    except (OSError, UnicodeDecodeError, IndexError):
        return None


def _ours(trials: Iterable[Any]) -> list[Any]:
    return [trial for trial in trials if "compared" not in trial.user_attrs]


def _describe(trial: Any) -> str:
    host, process, *_ = trial.user_attrs.get("owner", ("?", "?"))
    return f"candidate {trial.number} (process {process} on {host})"
