"""The training loop: a task in, a folder with checkpoints and metrics out."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import Any, NoReturn

from compactnets.console import Tracker, say
from compactnets.data.handover import lost_workers
from compactnets.errors import InputError
from compactnets.files import as_path
from compactnets.training.compiling import Compiling, choose_kernels, without_cuda_warnings
from compactnets.training.cpu import keep_freed_memory
from compactnets.training.distributed import World
from compactnets.training.interruption import Interrupted, Interruption
from compactnets.training.optimization import describe_lr
from compactnets.training.run_folder import RunFolder, own_run_folder
from compactnets.training.setup import EvaluationStopped, NotFiniteError, Score, TrainingSetup
from compactnets.training.state import Progress, describe_run, load_state, save_state
from compactnets.training.step import Learner
from compactnets.training.watch import NOT_FINITE, LossWatch

CHECK_INTERVAL = 25  # steps an accelerator may run ahead before losses are read
LOG_INTERVAL = 25  # steps between two points of the TensorBoard curves
SAVE_INTERVAL = 10.0  # seconds: an epoch that ends sooner after a checkpoint is not saved again


@dataclass(frozen=True)
class TrainResult:
    """The result of a finished run.

    Attributes:
        output: its folder.
        final: the last evaluation, as JSON types.
        best: the best score, in percent.
        seconds: spent on it, over all starts.
        stopped_early: whether it ended by the recipe's ``patience``, before its last epoch.
        is_main: whether this process is the one that reports it.
    """

    output: Path
    epochs: int
    final: dict[str, Any]
    best: float
    seconds: float
    stopped_early: bool = False
    is_main: bool = True

    def to_dict(self) -> dict[str, Any]:
        """Return the result for JSON."""
        return {
            "output": str(self.output),
            "checkpoint": str(self.output / "best.safetensors"),
            "epochs": self.epochs,
            "stopped_early": self.stopped_early,
            "final": self.final,
            "best_percent": self.best,
            "seconds": self.seconds,
        }


def run(task: TrainingSetup, output: str | Path, world: World | None = None) -> TrainResult:
    """Train a task by its recipe and write a run folder to ``output``; an interrupted run there is resumed.

    On a CPU, a run resumed after any step is bit-identical to an uninterrupted one, and the process reuses the memory
    of freed tensors (:func:`compactnets.training.cpu.keep_freed_memory`).

    Args:
        world: this process and its device (:func:`compactnets.training.distributed.join_world`); the CPU if not given.

    Raises:
        InputError: a setting or source that does not fit, an output folder that holds another run or that another
            process is writing to, a file that cannot be written, or a loss, score or weight that is not finite.
        Interrupted: SIGINT, SIGTERM or SIGHUP, after saving; a ``SystemExit`` with code 130, 143 or 129.
    """
    output, world = as_path(output), world or World()
    with own_run_folder(output, world):
        return _Run(task, output, world).complete()


class _Run:
    """The components of a run, and its loop."""

    def __init__(self, task: TrainingSetup, output: Path, world: World) -> None:
        self.task, self.recipe = task, task.recipe
        self.output, self.world = output, world
        kernels = choose_kernels(self.recipe, task.fusible, world)
        if world.device.type == "cpu":
            keep_freed_memory()
        self.described = describe_run(self.recipe, task.describe())
        self.loader, self.eval_loader = task.make_loader(world), task.make_eval_loader(world)
        # with our kernels, several processes or an explicit mode there is nothing to decide
        undecided = kernels == "torch" and self.recipe.compile is True and world.size == 1
        decided = task.compile is None and not undecided
        how = self.recipe if decided else self.recipe.model_copy(update={"compile": False})
        if task.compile is not None and self.recipe.compile and not undecided:
            task.compile()
        self.learner = Learner(task.model.to(world.device), how, self.loader.steps, task.objective, world, kernels)
        found = load_state(output, self.described)
        self._check_same_step(found[0].step if found else 0)
        self.folder = RunFolder(output, self.recipe, world, task.curves) if world.is_main else None
        self.progress = Progress()
        if found is not None:
            self.progress, learned = found
            self.learner.load_state_dict(learned)
            self.loader.skipped = self.progress.skipped if world.is_main else 0
            self.loader.unreadable.update(self.progress.unreadable)
        self._note_kernels()
        compile = (task.compile or partial(self.learner.set_forward, True)) if undecided else None
        total, frozen = (epochs * self.loader.steps for epochs in (self.recipe.epochs, self.recipe.frozen_epochs))
        self.compiling = Compiling(compile, self.progress, total, world.device, frozen)
        self.watch = self._make_watch()
        self.interruption = Interruption()
        self.saved = self.clock = time.monotonic()
        if found is None:
            self._save()  # before any other file, so that there is always a state to resume from
        if self.folder is not None:
            self.folder.start()

    def _check_same_step(self, step: int) -> None:
        """Check that all processes found the same state before one writes to the folder."""
        last, first = self.world.largest(step), -self.world.largest(-step)
        if first != last:
            raise InputError(
                f"the processes found different checkpoints in {self.output} (steps {first} to {last}): expected a "
                f"folder that all machines share"
            )

    def _note_kernels(self) -> None:
        """Note the kernels in the state, and say so if the steps so far were computed by others."""
        before, now = self.progress.kernels, self.learner.kernels
        if self.progress.step and before != now:
            said = {"own": "the package's own kernels", "torch": "torch's kernels"}
            say(
                f"{self.output}: trained with {said[before]} up to step {self.progress.step}, from now on with "
                f"{said[now]}: results differ by rounding from those of an uninterrupted run"
            )
        self.progress.kernels = now

    def _make_watch(self) -> LossWatch:
        interval = 1 if self.world.device.type == "cpu" else CHECK_INTERVAL
        return LossWatch(self.task.image_name, interval, self.progress.loss_totals, self.progress.loss_count)

    def complete(self) -> TrainResult:
        """Train from the current step to the end."""
        progress, recipe = self.progress, self.recipe
        self._announce()
        try:
            with self.interruption, lost_workers(), without_cuda_warnings(self.world.device):
                while not self._is_over():
                    epoch = progress.epoch
                    self._train_epoch(epoch)
                    self._end_epoch(epoch)
        except BaseException:
            with suppress(InputError):  # report the run's error, not a failure to draw its curves
                self._close()
            raise
        self._close()
        if progress.unreadable:
            count, times = len(progress.unreadable), progress.skipped
            say(
                f"{count:,} training image{'s' if count > 1 else ''} could not be read; others took "
                f"{'their' if count > 1 else 'its'} place, {times:,} time{'s' if times > 1 else ''} in all"
            )
        assert progress.final is not None  # the last epoch has an evaluation
        early = progress.epoch < recipe.epochs
        if early:
            say(self._stopped())
        return TrainResult(
            self.output, progress.epoch, progress.final, progress.best, progress.seconds, early, self.world.is_main
        )

    def _is_over(self) -> bool:
        """Whether all epochs are done, or the score has not risen for as long as the recipe waits."""
        patience = self.recipe.patience
        return self.progress.epoch >= self.recipe.epochs or (patience is not None and self.progress.stale >= patience)

    def _stopped(self) -> str:
        progress, recipe = self.progress, self.recipe
        return (
            f"{self.output}: stopped early after epoch {progress.epoch} of {recipe.epochs}, because {progress.stale} "
            f"evaluations (patience) brought nothing better than {progress.best_title} {progress.best:.2f} % of epoch "
            f"{progress.best_epoch}, which best.safetensors holds; raise patience to train on"
        )

    def _close(self) -> None:
        self.loader.close()
        self.eval_loader.close()
        if self.folder is not None:
            self.folder.close(self.progress)

    def _announce(self) -> None:
        progress, total = self.progress, self.recipe.epochs * self.loader.steps
        say(describe_lr(self.recipe))
        if progress.epoch == self.recipe.epochs:
            say(
                f"{self.output} holds this run, finished; for more, raise epochs (the learning rate then follows the "
                f"longer schedule), or give a run with another --output --init {self.output / 'best.safetensors'}"
            )
        elif self._is_over():
            say(f"{self.output} holds this run, which ended by itself")
        elif progress.step:
            lr = self.learner.lr(progress.step)
            say(f"{self.output}: resuming after step {progress.step} of {total}, learning rate {lr:.3g}")

    def _train_epoch(self, epoch: int) -> None:
        """Take the remaining steps of the epoch."""
        progress, recipe, steps = self.progress, self.recipe, self.loader.steps
        done = progress.step - epoch * steps
        self.learner.model.train()
        self._lap(training=False)
        start, title = time.monotonic(), f"epoch {epoch + 1}/{recipe.epochs}"
        tracker = Tracker(self.loader.epoch(epoch, done), steps, title, done, recipe.print_frequency)
        for taken, batch in enumerate(tracker, start=1):
            losses = self.compiling.time(partial(self.learner.step, batch, progress.step))
            progress.step += 1
            self.compiling.decide()
            self.interruption.nothing_to_lose = False
            self.watch.add(f"{title}, step {done + taken}", losses, batch.indices)
            pace = (time.monotonic() - start) / taken
            rate, left = self.loader.batch_size / pace, round(pace * (recipe.epochs * steps - progress.step))
            best = f", best {progress.best_title} {progress.best:.2f} %" if progress.final else ""
            tracker.note(f"loss {self.watch.mean:.3f}{best}, {rate:.0f} images/s, {timedelta(seconds=left)} left")
            if self.folder is not None and progress.step % LOG_INTERVAL == 0:
                scalars = {"lr": self.learner.lr(progress.step), "images_per_second": rate}
                means = _by_part("loss", self.watch.totals, self.watch.count)
                self.folder.write_scalars(progress.step, "step", means | scalars)
            due = self.world.is_main and time.monotonic() - self.saved >= 60 * recipe.checkpoint_minutes
            # 1 asks for a checkpoint, more is the number of a signal
            if request := self.world.largest(self.interruption.signum or int(due)):
                self._lap(training=True)
                self._save()
                self._lap(training=False)
                if request > 1:
                    self._leave(request)
        self.watch.check()
        self._lap(training=True)

    def _end_epoch(self, epoch: int) -> None:
        """Evaluate, and write the epoch's results."""
        progress, recipe, loader = self.progress, self.recipe, self.loader
        final = epoch + 1 == recipe.epochs
        self._check_weights()
        result = self._evaluate(epoch) if final or (epoch + 1) % recipe.eval_epochs == 0 else None
        self._lap(training=False)
        metrics = {
            "epoch": epoch + 1,
            **_by_part("train_loss", self._shared_totals(), self.watch.count),
            "lr": self.learner.lr(progress.step - 1),
            "images_per_second": loader.steps * loader.batch_size / max(progress.epoch_seconds, 1e-9),
            "seconds": progress.seconds,
        }
        report = f"epoch {epoch + 1}/{recipe.epochs}: loss {metrics['train_loss']:.4f}"
        better = False
        if result is not None:
            metrics |= result.metrics()
            report += f", {result.summary()}"
            better = result.value > progress.best
            if better:
                progress.best_epoch, progress.stale = epoch + 1, 0
            elif epoch >= recipe.frozen_epochs:
                progress.stale += 1
            progress.best, progress.best_title = max(progress.best, result.value), result.title
            progress.final = result.to_dict()
        progress.history.append(metrics)
        progress.epoch, progress.epoch_seconds, progress.loss_totals, progress.loss_count = epoch + 1, 0.0, {}, 0
        self.watch = self._make_watch()
        if self.folder is not None:
            self.folder.write_epoch(progress)
            if result is not None:
                for name in ("last", "best") if better else ("last",):
                    self.task.save(self.output, name, self.learner.evaluated.state_dict(), metrics)
        if self._is_over() or self.world.largest(int(time.monotonic() - self.saved > SAVE_INTERVAL)):
            self._save()
        say(f"{report}, {metrics['images_per_second']:.0f} images/s")

    def _evaluate(self, epoch: int) -> Score:
        description = f"epoch {epoch + 1}/{self.recipe.epochs} evaluating"
        try:
            score = self.task.evaluate(
                self.learner.evaluated,
                self.eval_loader,
                self.world,
                description,
                lambda: self.interruption.signum is not None,
            )
        except NotFiniteError as error:
            raise InputError(f"after epoch {epoch + 1}/{self.recipe.epochs} {error}. {NOT_FINITE}") from None
        except EvaluationStopped:  # the epoch's steps are kept; the evaluation is done again
            self._save()
            self._leave(self.world.largest(self.interruption.signum or 0))
        bad = [name for name, value in score.metrics().items() if not math.isfinite(value)]
        if bad or not math.isfinite(score.value):
            raise InputError(
                f"the evaluation after epoch {epoch + 1}/{self.recipe.epochs} is not finite ({', '.join(bad)}). "
                f"{NOT_FINITE}"
            )
        return score

    def _check_weights(self) -> None:
        """Check the weights before using them; a step's loss only reflects the weights before it.

        Raises:
            InputError: a weight or statistic that is not finite.
        """
        if bad := self.learner.not_finite():
            total = self.recipe.epochs * self.loader.steps
            raise InputError(
                f"the weights are not finite after step {self.progress.step} of {total}: {len(bad)} tensors, the first "
                f"is {bad[0]}. {NOT_FINITE}"
            )

    def _shared_totals(self) -> dict[str, float]:
        """Return the watch's totals, as the mean over the processes."""
        totals = self.watch.totals
        sums = self.world.sum(list(totals.values()))
        return {name: total / self.world.size for name, total in zip(totals, sums, strict=True)}

    def _save(self) -> None:
        """Save the state of the run; all processes take part."""
        progress = self.progress
        self.watch.check()
        self._check_weights()
        progress.loss_totals, progress.loss_count = self._shared_totals(), self.watch.count
        progress.skipped = round(self.world.sum([self.loader.skipped])[0])
        progress.unreadable = sorted(set[int]().union(*self.world.gather(sorted(self.loader.unreadable))))
        if self.world.is_main:
            save_state(self.output, self.described, progress, self.learner.state_dict())
        self.saved = time.monotonic()

    def _leave(self, signum: int) -> NoReturn:
        step, total = self.progress.step, self.recipe.epochs * self.loader.steps
        say(f"stopped after step {step} of {total}; rerun the command to resume")
        raise Interrupted(signum)

    def _lap(self, *, training: bool) -> None:
        """Count the time since the last lap."""
        now = time.monotonic()
        self.progress.seconds += now - self.clock
        self.progress.epoch_seconds += (now - self.clock) if training else 0.0
        self.clock = now


def _by_part(name: str, totals: Mapping[str, float], count: int) -> dict[str, float]:
    """Return the mean of ``count`` steps under ``name``, and of each part if there are several."""
    means = {part: total / max(count, 1) for part, total in totals.items()}
    parts = {f"{name}_{part}": mean for part, mean in means.items()} if len(means) > 1 else {}
    return {name: sum(means.values()), **parts}
