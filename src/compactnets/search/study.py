"""The search itself: candidates within the budget by their parts, short trainings, successive halving.

Optuna proposes the candidates, stops the weak ones and keeps the study in a file of its own, from which the same
command goes on and which ``optuna-dashboard`` shows. Several processes may run the same command at once.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch

from compactnets.classification.grid import Member, Place, train_member
from compactnets.classification.preparation import open_training
from compactnets.classification.recipe import ClassificationRecipe
from compactnets.complexity import count
from compactnets.console import say
from compactnets.environment import cpu_name
from compactnets.errors import InputError, missing_extra
from compactnets.failures import cause
from compactnets.files import as_path
from compactnets.models.registry import accepted_arguments
from compactnets.search.budget import Budget, show_amount
from compactnets.search.claims import ENOUGH, Claims
from compactnets.search.space import Candidate, build, suggest
from compactnets.search.table import (
    CommandError,
    LatencyTable,
    artifact_costs,
    measure_elsewhere,
    say_error,
    say_multiple,
)
from compactnets.training.recipe_files import load_recipe

STUDY = "study.log"  # Optuna's journal
RECORD = "search.json"  # of the outcome
PATIENCE = 200  # candidates over the budget in sequence, after which there is none within it
WARM_UP = "schedule.warmup_epochs="
HELD_OUT = 10  # one in so many training images judges the candidates
REDUCTION = 2  # of each rung's candidates, the better half goes on to twice the epochs


@dataclass(frozen=True)
class Request:
    """What is searched for; :func:`compactnets.search.find` and the command line take their defaults from here.

    Attributes:
        families: names of :data:`compactnets.search.space.FAMILIES`.
        budget: limits of a candidate.
        format_name, threads: the runtime whose latency counts.
        data: what :func:`compactnets.data.open_source` takes.
        output: folder of the study and its runs.
        storage: where the study is instead: a database's URL, or a file that several machines share.
        recipe: of all trainings.
        settings: as for ``--set``.
        trials: candidates to train.
        epochs: of a candidate that is never stopped; the first rung has a fraction of them.
        rungs: how often the weak half is stopped.
        sizes: sides of the images to choose from; the data's own if empty.
        compared: networks by name that are trained alike for comparison, whatever they cost.
        seed: of the proposals and of all trainings.
        workers: processes that train at once, here.
        device: that trains.
        table: file of the parts' latencies; in ``output`` if not given.
        device_command: command that gets an artifact's main file and prints milliseconds, instead of measuring here.
        download: download public data that is missing.
    """

    families: tuple[str, ...]
    budget: Budget
    format_name: str
    data: str
    output: Path
    threads: int = 1
    recipe: str = "cifar/short"
    settings: tuple[str, ...] = ()
    trials: int = 24
    epochs: int = 4
    rungs: int = 2
    sizes: tuple[int, ...] = ()
    compared: tuple[str, ...] = ()
    seed: int = 0
    workers: int = 1
    device: str = "auto"
    table: Path | None = None
    device_command: str | None = None
    storage: str | None = None
    download: bool = False

    def __post_init__(self) -> None:
        if self.workers < 1:
            raise InputError(f"--workers must be at least 1, found {self.workers}")
        if self.epochs < (least := REDUCTION**self.rungs):
            raise InputError(
                f"--epochs must be at least {least} for {self.rungs} rungs, each of which doubles them, found "
                f"{self.epochs}"
            )

    @property
    def steps(self) -> list[int]:
        """The epochs after which a candidate is compared: 1, 2, 4 for 4 epochs and two rungs."""
        return [self.epochs // REDUCTION ** (self.rungs - rung) for rung in range(self.rungs + 1)]


def library() -> Any:
    """Import Optuna, without its notes on every trial.

    Raises:
        InputError: it is missing.
    """
    try:
        import optuna
    except ImportError:
        raise missing_extra("optuna", "search", "search") from None
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    return optuna


class Search:
    """A study with what its candidates are measured and trained by.

    Args:
        request: what is searched for.
        worker: number of this process among those that one command has started, from 1.
    """

    def __init__(self, request: Request, worker: int | None = None) -> None:
        self.request, self.worker = request, worker
        self.optuna = library()
        for name in request.compared:
            accepted_arguments(name)  # before anything is measured
        self.base = load_recipe(ClassificationRecipe, request.recipe, request.settings)
        train = open_training(request.data, self.base.split, download=request.download)
        self.classes, self.held_out = len(train.class_names), max(1, len(train) // HELD_OUT)
        self._images = f"{len(train)} of {hashlib.sha256(repr(list(train.class_names)).encode()).hexdigest()[:16]}"
        self.preprocess = self.base.resolve_preprocess(train.default_preprocess)
        self.channels, self.size = self.preprocess.channels, self.preprocess.size
        request.output.mkdir(parents=True, exist_ok=True)
        self.record_before = read_record(request.output)
        self.table = LatencyTable.at(
            request.table or request.output / f"latency-{request.format_name}.json",
            request.format_name,
            request.threads,
        )
        storage = open_storage(self.optuna, request.storage or str(request.output / STUDY))
        self.study = self.optuna.create_study(
            study_name="compactnets",
            storage=storage,
            sampler=self.optuna.samplers.TPESampler(seed=None if self._others(storage) else request.seed),
            pruner=self.optuna.pruners.SuccessiveHalvingPruner(
                min_resource=request.steps[0], reduction_factor=REDUCTION
            ),
            direction="maximize",
            load_if_exists=True,
        )
        self._check_origin()
        self.claims = Claims(self.optuna, self.study, request.trials, self._say)
        self.multiple = 1  # of the widths that are proposed

    @cached_property
    def stem(self) -> str | None:
        """The stem of all candidates: the recipe's."""
        found = self.base.model_arguments.get("stem")
        return None if found is None else str(found)

    @property
    def _measures_here(self) -> bool:
        """Whether latencies of this machine are limited."""
        return "latency" in self.request.budget.limits and self.request.device_command is None

    def measure(self) -> None:
        """Make the table of latencies ready, where they are limited and measured here.

        Raises:
            InputError: nothing can be measured here.
        """
        if not self._measures_here:
            return
        self.multiple = self._agreed(self.table.multiple)
        self.table.calibrate(self._samples())
        if self.worker is None:
            say_multiple(self.table, self.multiple)
            say_error(self.table)

    def train(self) -> None:
        """Propose and train candidates until as many as requested are done, by this process and others.

        Raises:
            InputError: no candidate within the budget, or data or settings that cannot be used.
            Interrupted: a signal; the run in progress is saved, and the same command goes on.
        """
        self.claims.queue(self.request.compared)
        refused = 0
        while (trial := self.claims.next()) is not None:
            refused = refused + 1 if self._refuses(trial) else 0
            if refused >= PATIENCE:
                raise InputError(
                    f"none of {PATIENCE} candidates in sequence is new and within the budget: raise the budget, or ask "
                    f"for fewer --trials (trained so far: {self.claims.done})"
                )

    def _refuses(self, trial: Any) -> bool:
        """Train a trial's network, or refuse it: over the budget, or known."""
        if (compared := trial.user_attrs.get("compared")) is not None:
            candidate = Candidate(compared)
            trial.set_user_attr("candidate", candidate.to_dict())
            trial.set_user_attr("costs", self.costs(candidate, counts_alone=True))
            self._train(trial, candidate)
            return False
        try:
            candidate = suggest(trial, self.request.families, self.request.sizes, self.multiple)
            why_not = self.claims.admit(trial, candidate.to_dict())
            if why_not == ENOUGH:  # it is withdrawn
                return False
            if why_not is not None:
                self._refuse(trial, 0.0, why_not)
                return True
            costs = trial.user_attrs.get("costs") or self.costs(candidate)  # known of one that is queued again
        except CommandError:
            self.study.tell(trial, state=self.optuna.trial.TrialState.FAIL)
            raise
        except InputError as error:  # values that make no network
            self._refuse(trial, 1.0, str(error))
            return True
        trial.set_user_attr("costs", costs)
        excess = self.request.budget.excess(costs)
        if excess > 0:
            self._refuse(trial, excess, "over the budget")
            return True
        self._train(trial, candidate)
        return False

    def costs(self, candidate: Candidate, *, counts_alone: bool = False) -> dict[str, float | None]:
        """Return the costs of a candidate that are known without training: by count, and by its parts.

        Args:
            counts_alone: for a network of any family, which need not have the parts of ours.

        Raises:
            InputError: it cannot be built or written.
        """
        shape = self._shape(candidate)
        model = self._build(candidate)
        macs, params = count(model, shape)
        found: dict[str, float | None] = {"macs": macs, "params": params}
        limits = self.request.budget.limits
        cheap = {name: value for name, value in found.items() if name in limits}
        if counts_alone or self.request.budget.excess(cheap) > 0:
            return found
        if "bytes" in limits or "memory" in limits:
            found |= artifact_costs(model, shape, self.request.format_name)
        if "latency" in limits:
            if (command := self.request.device_command) is None:
                found["latency"] = self.table.predict(model, shape)
            else:
                with self.table.measuring():  # one process at a time, as for the table
                    found["latency"] = measure_elsewhere(model, shape, self.request.format_name, command)
        return found

    def recipe(self, candidate: Candidate, epochs: int) -> ClassificationRecipe:
        """Return the recipe of a candidate's short training."""
        settings = [
            *self.request.settings,
            *candidate.settings(self.preprocess),
            f"hold_out={self.held_out}",
            f"epochs={epochs}",
            f"seed={self.request.seed}",
        ]
        if self.base.schedule.warmup_epochs >= self.request.steps[0]:  # of all rungs alike: each goes on with the last
            settings = [each for each in settings if not each.startswith(WARM_UP)]
            settings.append(f"{WARM_UP}0")
        return load_recipe(ClassificationRecipe, self.request.recipe, settings, candidate.model)

    def _shape(self, candidate: Candidate) -> tuple[int, int, int]:
        side = candidate.size or self.size
        return self.channels, side, side

    def _build(self, candidate: Candidate) -> torch.nn.Module:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            model: torch.nn.Module = build(candidate, self.stem, self.classes, self.channels).eval()
        return model

    def _train(self, trial: Any, candidate: Candidate) -> None:
        """Train a candidate rung by rung; the pruner may stop it after each, unless it is there for comparison."""
        costs, compared = trial.user_attrs["costs"], "compared" in trial.user_attrs
        told = ", ".join(f"{name} {show_amount(name, value)}" for name, value in costs.items() if value is not None)
        self._say(f"candidate {trial.number}: {candidate.key}: {told}")
        top1, before = 0.0, dict(trial.user_attrs.get("reported", ()))
        place = Place(self.request.device, self.request.workers)
        for epochs in self.request.steps:
            if epochs in before:  # by the process that had begun; its run may be past these epochs
                trial.report(top1 := before[epochs], epochs)
                continue
            member = Member(candidate.key, self.recipe(candidate, epochs))
            outcome = train_member(member, self.request.data, self.request.output / "runs", place, self.worker)
            if outcome.result is None:
                self._refuse(trial, 1.0, str(outcome.error))
                self._say(f"candidate {trial.number} failed: {outcome.error}")
                return
            top1 = outcome.result["final"]["top1_percent"]
            trial.report(top1, epochs)
            if not compared and epochs < self.request.epochs and trial.should_prune():
                self._say(f"candidate {trial.number}: {top1:.2f} % after {epochs} epochs, stopped")
                self.study.tell(trial, state=self.optuna.trial.TrialState.PRUNED)
                return
        self._say(f"candidate {trial.number}: {top1:.2f} % after {self.request.epochs} epochs")
        self.study.tell(trial, top1)

    def _say(self, message: str) -> None:
        say(message if self.worker is None else f"worker {self.worker}: {message}")

    def _refuse(self, trial: Any, excess: float, reason: str) -> None:
        trial.set_constraint("budget", max(excess, 1e-6))  # positive: not feasible
        trial.set_user_attr("reason", reason)
        self.study.tell(trial, state=self.optuna.trial.TrialState.PRUNED)

    def _samples(self) -> Iterator[Callable[[], tuple[torch.nn.Module, tuple[int, int, int]]]]:
        """Yield makers of networks of the space at random, for the table's correction."""
        chance = self.optuna.create_study(sampler=self.optuna.samplers.RandomSampler(seed=self.request.seed))

        def make() -> tuple[torch.nn.Module, tuple[int, int, int]]:
            while True:
                candidate = suggest(chance.ask(), self.request.families, self.request.sizes, self.multiple)
                try:
                    return self._build(candidate), self._shape(candidate)
                except InputError:
                    continue

        while True:
            yield make

    def _agreed(self, multiple: int) -> int:
        """Return the multiple of the study's widths: the first process has measured it for all."""
        agreed = self.study.user_attrs.get("multiple")
        if agreed is None:
            self.study.set_user_attr("multiple", agreed := multiple)
        return int(agreed)

    def _others(self, storage: Any) -> bool:
        """Whether the study exists: a process that joins, or goes on, must not propose the same again."""
        return bool(storage.get_all_studies())

    def _check_origin(self) -> None:
        """Raise unless the study was begun with the same settings; more trials may be asked for."""
        wanted = {
            "families": list(self.request.families),
            "budget": dict(self.request.budget.limits),
            "format": self.request.format_name,
            "threads": self.request.threads,
            "sizes": list(self.request.sizes),
            "epochs": self.request.steps,
            "recipe": self.base.model_dump(mode="json"),
            "seed": self.request.seed,
            "images": self._images,
        }
        if self._measures_here:
            wanted["processor"] = cpu_name()
        found = self.study.user_attrs.get("request")
        if found is None:
            self.study.set_user_attr("request", wanted)
        elif changed := [key for key, value in wanted.items() if found.get(key, value) != value]:  # older have fewer
            where, other = (
                (self.request.output, "--output") if self.request.storage is None else ("the storage", "--storage")
            )
            raise InputError(
                f"{where} holds a search with another {', '.join(changed)}: give the same options, or another {other}"
            )


def open_storage(optuna: Any, storage: str) -> Any:
    """Open where a study is kept: in a database by its URL, such as ``sqlite:///search.db``, or in a file.

    Raises:
        InputError: it cannot be opened.
    """
    try:
        if "://" not in storage:
            return optuna.storages.JournalStorage(optuna.storages.journal.JournalFileBackend(str(as_path(storage))))
        patient = {"connect_args": {"timeout": 60}} if storage.startswith("sqlite") else None  # others write too
        return optuna.storages.RDBStorage(storage, engine_kwargs=patient)
    except Exception as error:  # each database's driver has errors of its own
        raise InputError(
            f"--storage cannot be opened ({cause(error)}): give a URL such as sqlite:///search.db, or a file's path"
        ) from None


def read_record(folder: Path) -> str | None:
    """Return the text of the outcome that a folder has; ``None`` if it has none."""
    try:
        return (folder / RECORD).read_text(encoding="utf-8")
    except OSError:
        return None
