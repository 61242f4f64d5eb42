"""What the engine asks of a task, so that one loop trains classifiers and detectors alike."""

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
    """A network that gives numbers which are not finite: neither its loss nor its accuracy means anything."""


class EvaluationStopped(Exception):  # noqa: N818 (like StopIteration, not an error)
    """An evaluation was asked to stop before its end."""


class Score(Protocol):
    """What an evaluation gives."""

    @property
    def title(self) -> str:
        """What a line of the log calls the figure by which checkpoints are compared: "top-1"."""

    @property
    def value(self) -> float:
        """That figure, in percent: the larger, the better."""

    def metrics(self) -> dict[str, float]:
        """Return what ``metrics.jsonl`` gets."""

    def summary(self) -> str:
        """Return what a line of the log says."""

    def to_dict(self) -> dict[str, Any]:
        """Return everything, for JSON."""


class Source(Protocol):
    """Images of a split, of either task."""

    def __len__(self) -> int: ...

    def fingerprint(self) -> str:
        """Return a digest of what the split says of its images: labels or boxes, and names of classes."""

    def content(self) -> str:
        """Return a digest of the images themselves."""

    def name(self, index: int) -> str:
        """Return what a person calls an image."""


class Batches(Protocol):
    """Batches of training images; :class:`compactnets.data.batches.TrainLoader` says what each must promise."""

    steps: int
    batch_size: int
    skipped: int
    unreadable: set[int]

    def epoch(self, epoch: int, start: int = 0) -> Iterator[Any]:
        """Yield this process's share of the batches ``start`` to the last of ``epoch``; each has ``indices``."""

    def close(self) -> None:
        """End worker processes."""


class EvalBatches(Protocol):
    """The images to evaluate on."""

    def close(self) -> None:
        """End worker processes."""


class Objective(Protocol):
    """From a batch to losses."""

    def micro_batches(self, batch: Any, step: int) -> Sequence[Any]:
        """Cut a batch into the recipe's ``accumulate`` parts; ``step`` is the number of the step in the run."""

    def losses(self, forward: Callable[..., Any], part: Any) -> Mapping[str, Tensor]:
        """Return the losses of every image of a part by name, ``(B,)`` each; the step lowers the mean of their sum.

        ``forward`` is the network in the recipe's precision.
        """


class TrainingSetup(ABC):
    """A network to train, its images, its loss and its score.

    Attributes:
        recipe: how to train, fitted to the data.
        train_source, val_source: what is trained and evaluated on.
        init: the checkpoint that the first weights come from.
        model: the network with its first weights, on the CPU.
        objective: the loss.
        compile: where the network compiles what the recipe's ``compile`` asks for: what lets it do so from then on.
        curves: what the plot of a run shows.
    """

    recipe: RunRecipe
    train_source: Any
    val_source: Any
    init: Path | None = None
    model: nn.Module
    objective: Objective
    compile: Callable[[], None] | None = None
    curves: ClassVar[Curves]

    def describe(self) -> dict[str, Any]:
        """Return what must be the same where a run goes on, besides the recipe: both sources and the first weights."""
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
        """Return what an error calls a training image."""
        return self.train_source.name(index)

    @abstractmethod
    def evaluate(
        self, model: nn.Module, loader: Any, world: World, description: str, stop: Callable[[], bool]
    ) -> Score:
        """Evaluate ``model`` on what :meth:`make_eval_loader` gave.

        Raises:
            EvaluationStopped: ``stop`` said yes, in any process.
        """

    @abstractmethod
    def save(self, folder: Path, name: str, weights: Mapping[str, Tensor], metrics: Mapping[str, Any]) -> None:
        """Write the checkpoint ``NAME.safetensors`` and its record into ``folder``, with what the epoch gave."""
