"""The interface between tasks and the training engine, so that one loop trains any task."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, Protocol

from torch import Tensor, nn

from compactnets.errors import InputError
from compactnets.training.checkpoint import digest_checkpoint
from compactnets.training.curves import Curves
from compactnets.training.distributed import World
from compactnets.training.recipe import RunRecipe
from compactnets.training.state import INIT, TRAINING, VALIDATION


class NotFiniteError(InputError):
    """A network gives outputs that are not finite: its loss and accuracy are meaningless."""


class EvaluationStopped(Exception):  # noqa: N818 (like StopIteration, not an error)
    """An evaluation was stopped before its end."""


class Score(Protocol):
    """The result of an evaluation."""

    @property
    def title(self) -> str:
        """The name of the score in the log: "top-1"."""

    @property
    def value(self) -> float:
        """The score that ranks checkpoints, in percent; larger is better."""

    def metrics(self) -> dict[str, float]:
        """Return the metrics for ``metrics.jsonl``."""

    def summary(self) -> str:
        """Return a line for the log."""

    def to_dict(self) -> dict[str, Any]:
        """Return everything, for JSON."""


class Source(Protocol):
    """Images of a split, for any task."""

    def __len__(self) -> int: ...

    def fingerprint(self) -> str:
        """Return a digest of the split's annotations: labels or boxes, and class names."""

    def content(self) -> str:
        """Return a digest of the images themselves."""

    def name(self, index: int) -> str:
        """Return an image's name."""


class Batches(Protocol):
    """Batches of training images; :class:`compactnets.data.batches.TrainLoader` defines their contract."""

    steps: int
    batch_size: int
    skipped: int
    unreadable: set[int]

    def epoch(self, epoch: int, start: int = 0) -> Iterator[Any]:
        """Yield this process's share of each batch of ``epoch`` from ``start`` on; each has ``indices``."""

    def close(self) -> None:
        """End worker processes."""


class EvalBatches(Protocol):
    """The validation images."""

    def close(self) -> None:
        """End worker processes."""


class Objective(Protocol):
    """From a batch to losses."""

    def micro_batches(self, batch: Any, step: int) -> Sequence[Any]:
        """Cut a batch into the recipe's ``accumulate`` micro-batches; ``step`` is the number of the step in the run."""

    def losses(self, forward: Callable[..., Any], part: Any) -> Mapping[str, Tensor]:
        """Return the losses of every image by name, ``(B,)`` each; the step minimises the mean of their sum.

        ``forward`` is the network in the recipe's precision.
        """


class TrainingSetup(ABC):
    """A network to train, its images, its loss and its score.

    Attributes:
        recipe: how to train, fitted to the data.
        train_source, val_source: the training and validation images.
        init: the checkpoint with the initial weights.
        model: the network with its initial weights, on the CPU.
        objective: the loss.
        compile: function that compiles the network's own parts for the recipe's ``compile``, if it has one.
        fusible: whether the network can be trained with the package's own kernels
            (:mod:`compactnets.training.fused`).
        curves: the contents of a run's plot.
    """

    recipe: RunRecipe
    train_source: Any
    val_source: Any
    init: Path | None = None
    model: nn.Module
    objective: Objective
    compile: Callable[[], None] | None = None
    fusible: bool = False
    curves: ClassVar[Curves]

    def describe(self) -> dict[str, Any]:
        """Return what must not change on resume, besides the recipe: both sources and the initial weights."""
        train, val, init = self.train_source, self.val_source, self.init
        return {
            TRAINING[0]: f"{len(train)} images, {train.fingerprint()[:12]}",
            VALIDATION[0]: f"{len(val)} images, {val.fingerprint()[:12]}",
            TRAINING[1]: train.content()[:12],
            VALIDATION[1]: val.content()[:12],
            INIT: None if init is None else digest_checkpoint(init)[:12],
        }

    @abstractmethod
    def make_loader(self, world: World) -> Batches:
        """Return the training images."""

    @abstractmethod
    def make_eval_loader(self, world: World) -> EvalBatches:
        """Return the images to evaluate on."""

    def image_name(self, index: int) -> str:
        """Return the name of a training image for errors."""
        return self.train_source.name(index)

    @abstractmethod
    def evaluate(
        self, model: nn.Module, loader: Any, world: World, description: str, stop: Callable[[], bool]
    ) -> Score:
        """Evaluate ``model`` on the loader of :meth:`make_eval_loader`.

        Raises:
            EvaluationStopped: ``stop`` returned true in any process.
        """

    @abstractmethod
    def save(self, folder: Path, name: str, weights: Mapping[str, Tensor], metrics: Mapping[str, Any]) -> None:
        """Write the checkpoint ``NAME.safetensors`` and its record into ``folder``, with the epoch's metrics."""
