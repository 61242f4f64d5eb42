"""The training loop: a recipe and two sources in, a folder with checkpoints and metrics out."""

from __future__ import annotations

import time
from dataclasses import asdict
from datetime import timedelta
from pathlib import Path
from typing import Any, NoReturn

from compactnets.console import Tracker, say
from compactnets.data import ImageSource
from compactnets.data.loading import EvalLoader, TrainLoader, make_eval_loader, make_train_loader
from compactnets.environment import software_versions
from compactnets.errors import InputError
from compactnets.training.checkpoint import CheckpointRecord
from compactnets.training.distributed import World
from compactnets.training.evaluation import Evaluation, EvaluationStopped, evaluate_batches
from compactnets.training.interruption import Interrupted, Interruption
from compactnets.training.optimization import describe_lr
from compactnets.training.preparation import Prepare, fit_batch, prepare
from compactnets.training.processor import keep_freed_memory
from compactnets.training.recipe import Recipe
from compactnets.training.result import TrainResult
from compactnets.training.run_folder import RunFolder
from compactnets.training.state import Progress, describe_run, load_state, save_state
from compactnets.training.step import Learner
from compactnets.training.watch import LossWatch

CHECK_INTERVAL = 25  # steps that an accelerator may run ahead before its losses are read
LOG_INTERVAL = 25  # steps between two points of the TensorBoard curves
SAVE_INTERVAL = 10.0  # seconds: an epoch that ends sooner after a checkpoint than this is not saved again


def train(
    recipe: Recipe,
    train_source: ImageSource,
    val_source: ImageSource,
    output: Path,
    *,
    init: Path | None = None,
    world: World | None = None,
    prepare: Prepare = prepare,
) -> TrainResult:
    """Train as ``recipe`` says and write a run folder to ``output``; a run that stopped there goes on.

    On a processor a run that was stopped after any step ends with the same bits as one that was not, and the process
    keeps the memory that tensors free (:func:`compactnets.training.processor.keep_freed_memory`).

    Args:
        init: checkpoint to start from; its classifier is replaced where the classes differ.
        world: this process and its device (:func:`compactnets.training.distributed.join_world`); the processor where
            it is not given.
        prepare: what builds the network that is trained; for int8
            :func:`compactnets.deploy.quantization.training.prepare_int8`.

    Raises:
        InputError: a network, setting or source that does not fit, an output folder that holds another run, or a loss
            that is not finite.
        Interrupted: SIGINT or SIGTERM, after saving; a ``SystemExit`` with code 130 or 143.
    """
    world = world or World()
    recipe = fit_batch(recipe, train_source, world)
    return _Run(recipe, train_source, val_source, output, init, world, prepare).complete()


class _Run:
    """The parts of a run, and the loop over them."""

    def __init__(
        self,
        recipe: Recipe,
        train_source: ImageSource,
        val_source: ImageSource,
        output: Path,
        init: Path | None,
        world: World,
        prepare: Prepare,
    ) -> None:
        self.recipe, self.train_source, self.val_source = recipe, train_source, val_source
        self.output, self.world = output, world
        if world.device.type == "cpu":
            keep_freed_memory()
        self.prepared = prepare(recipe, train_source, init)
        self.preprocess, model = self.prepared.preprocess, self.prepared.model
        self.described = describe_run(recipe, train_source, val_source, init, int8=self.prepared.int8 is not None)
        self.loader, self.eval_loader = self._make_loader(), self._make_eval_loader()
        how = recipe.model_copy(update={"compile": False}) if self.prepared.compiles_itself else recipe
        self.learner = Learner(model.to(world.device), how, self.loader.steps, len(train_source.class_names), world)
        found = load_state(output, self.described)
        self._check_same_step(found[0].step if found else 0)
        self.folder = RunFolder(output, recipe, world) if world.is_main else None
        self.progress = Progress()
        if found is not None:
            self.progress, learned = found
            self.learner.load_state_dict(learned)
            self.loader.skipped = self.progress.skipped if world.is_main else 0
        self.watch = self._make_watch()
        self.interruption = Interruption()
        self.saved = self.clock = time.monotonic()

    def _check_same_step(self, step: int) -> None:
        """All processes have read the folder before one writes to it, and found the same there."""
        last, first = self.world.largest(step), -self.world.largest(-step)
        if first != last:
            raise InputError(
                f"the processes found different checkpoints in {self.output} (steps {first} to {last}): expected a "
                f"folder that all machines share"
            )

    def _make_loader(self) -> TrainLoader:
        recipe, world = self.recipe, self.world
        return make_train_loader(
            self.train_source,
            recipe.augment,
            self.preprocess,
            batch_size=recipe.batch_size,
            seed=recipe.seed,
            workers=recipe.workers,
            rank=world.rank,
            world_size=world.size,
            micro_batches=recipe.accumulate,
            device=world.device,
            channels_last=recipe.channels_last,
            on_error=recipe.on_error,
            max_skipped=recipe.max_skipped,
        )

    def _make_eval_loader(self) -> EvalLoader:
        return make_eval_loader(
            self.val_source,
            self.preprocess,
            batch_size=self.recipe.batch_size,
            workers=self.recipe.workers,
            rank=self.world.rank,
            world_size=self.world.size,
            device=self.world.device,
            channels_last=self.recipe.channels_last,
        )

    def _make_watch(self) -> LossWatch:
        interval = 1 if self.world.device.type == "cpu" else CHECK_INTERVAL
        return LossWatch(self.train_source.name, interval, self.progress.loss_total, self.progress.loss_count)

    def complete(self) -> TrainResult:
        """Train from where the run stands to its end."""
        progress, recipe = self.progress, self.recipe
        self._announce()
        try:
            with self.interruption:
                for epoch in range(progress.epoch, recipe.epochs):
                    self._train_epoch(epoch)
                    self._end_epoch(epoch)
        finally:
            self.loader.close()
            self.eval_loader.close()
            if self.folder is not None:
                self.folder.close(progress)
        if progress.skipped:
            say(f"{progress.skipped} training images could not be read; others took their place")
        assert progress.final is not None  # the last epoch has an evaluation
        final = Evaluation(**progress.final)
        return TrainResult(self.output, recipe.epochs, final, progress.best_top1, progress.seconds)

    def _announce(self) -> None:
        progress, total = self.progress, self.recipe.epochs * self.loader.steps
        say(describe_lr(self.recipe))
        if progress.epoch == self.recipe.epochs:
            say(f"{self.output} holds this run, finished")
        elif progress.step:
            say(f"{self.output}: going on after step {progress.step} of {total}")

    def _train_epoch(self, epoch: int) -> None:
        """Take the steps of the epoch that are left."""
        progress, recipe, steps = self.progress, self.recipe, self.loader.steps
        done = progress.step - epoch * steps
        self.learner.model.train()
        self._lap(training=False)
        start, title = time.monotonic(), f"epoch {epoch + 1}/{recipe.epochs}"
        tracker = Tracker(self.loader.epoch(epoch, done), steps, title, done, recipe.print_frequency)
        for taken, batch in enumerate(tracker, start=1):
            losses = self.learner.step(batch, progress.step)
            progress.step += 1
            self.interruption.nothing_to_lose = False
            self.watch.add(f"{title}, step {done + taken}", losses, batch.indices)
            pace = (time.monotonic() - start) / taken
            rate, left = self.loader.batch_size / pace, round(pace * (recipe.epochs * steps - progress.step))
            best = f", best top-1 {progress.best_top1:.2f} %" if progress.final else ""
            tracker.note(f"loss {self.watch.mean:.3f}{best}, {rate:.0f} images/s, {timedelta(seconds=left)} left")
            if self.folder is not None and progress.step % LOG_INTERVAL == 0:
                scalars = {"loss": self.watch.mean, "lr": self.learner.lr(progress.step), "images_per_second": rate}
                self.folder.write_scalars(progress.step, "step", scalars)
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
        """Evaluate, and write what the epoch gave."""
        progress, recipe, loader = self.progress, self.recipe, self.loader
        last = epoch + 1 == recipe.epochs
        result = self._evaluate(epoch) if last or (epoch + 1) % recipe.eval_epochs == 0 else None
        self._lap(training=False)
        metrics = {
            "epoch": epoch + 1,
            "train_loss": self._mean_loss(),
            "lr": self.learner.lr(progress.step - 1),
            "images_per_second": loader.steps * loader.batch_size / max(progress.epoch_seconds, 1e-9),
            "seconds": progress.seconds,
        }
        report = f"epoch {epoch + 1}/{recipe.epochs}: loss {metrics['train_loss']:.4f}"
        better = False
        if result is not None:
            metrics |= {"val_loss": result.loss, "top1_percent": result.top1, "top5_percent": result.top5}
            report += f", val loss {result.loss:.4f}, top-1 {result.top1:.2f} %"
            better = result.top1 > progress.best_top1
            progress.best_top1 = max(progress.best_top1, result.top1)
            progress.final = asdict(result)
        progress.history.append(metrics)
        progress.epoch, progress.epoch_seconds, progress.loss_total, progress.loss_count = epoch + 1, 0.0, 0.0, 0
        self.watch = self._make_watch()
        if self.folder is not None:
            self.folder.write_epoch(progress)
            if result is not None:
                record = self._record(metrics)
                for name in ("last", "best") if better else ("last",):
                    self.folder.write_weights(name, self.learner.evaluated.state_dict(), record)
        if last or self.world.largest(int(time.monotonic() - self.saved > SAVE_INTERVAL)):
            self._save()
        say(f"{report}, {metrics['images_per_second']:.0f} images/s")

    def _evaluate(self, epoch: int) -> Evaluation:
        try:
            return evaluate_batches(
                self.learner.evaluated,
                self.eval_loader,
                self.world,
                description=f"epoch {epoch + 1}/{self.recipe.epochs} evaluating",
                stop=lambda: self.interruption.signum is not None,
            )
        except EvaluationStopped:  # the epoch's steps are kept; the evaluation is done again
            self._save()
            self._leave(self.world.largest(self.interruption.signum or 0))

    def _record(self, metrics: dict[str, Any]) -> CheckpointRecord:
        return CheckpointRecord(
            model=self.recipe.model,
            arguments=self.prepared.arguments,
            class_names=list(self.train_source.class_names),
            preprocess=self.preprocess.to_dict(),
            source=f"trained by compactnets on {self.train_source.spec}",
            license="that of whoever trained it",
            training={"recipe": self.recipe.model_dump(mode="json"), "data": self.train_source.spec, **metrics},
            versions=software_versions(),
            int8=self.prepared.int8,
        )

    def _mean_loss(self) -> float:
        return self.world.sum([self.watch.total])[0] / self.world.size / max(self.watch.count, 1)

    def _save(self) -> None:
        """Write where the run stands; all processes take part."""
        progress = self.progress
        self.watch.check()
        progress.loss_total, progress.loss_count = self._mean_loss() * self.watch.count, self.watch.count
        progress.skipped = round(self.world.sum([self.loader.skipped])[0])
        if self.world.is_main:
            save_state(self.output, self.described, progress, self.learner.state_dict())
        self.saved = time.monotonic()

    def _leave(self, signum: int) -> NoReturn:
        step, total = self.progress.step, self.recipe.epochs * self.loader.steps
        say(f"stopped after step {step} of {total}; the same command goes on from there")
        raise Interrupted(signum)

    def _lap(self, *, training: bool) -> None:
        """Count the time since the last lap."""
        now = time.monotonic()
        self.progress.seconds += now - self.clock
        self.progress.epoch_seconds += (now - self.clock) if training else 0.0
        self.clock = now
