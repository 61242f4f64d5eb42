"""What a task is: the contract that classification, detection and whatever comes next fulfil.

A task is one folder with a subclass of :class:`Task`, and one line in :data:`compactnets.tasks.TASKS`. The verbs of the
command line and of the Python API (:mod:`compactnets.api`) know no task by name.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Generic, Literal, Protocol, Self, TypeVar

import torch
from pydantic import BaseModel, ConfigDict, ValidationError
from torch import nn

from compactnets.data.inputs import Picture
from compactnets.errors import InputError
from compactnets.files import as_path
from compactnets.training.distributed import World
from compactnets.training.loop import TrainResult, run
from compactnets.training.recipe import RunRecipe
from compactnets.training.run_folder import own_run_folder
from compactnets.training.setup import Source, TrainingSetup

Verb = Literal["load", "train", "evaluate", "predict", "export", "profile", "check"]


class Options(BaseModel):
    """The options of a verb that one task has and others lack; an option that is not a field is refused."""

    model_config = ConfigDict(extra="forbid", frozen=True, arbitrary_types_allowed=True)

    @classmethod
    def take(cls, given: Mapping[str, Any], what: str) -> Self:
        """Make the options of those that were given; ``None`` is none given.

        Args:
            given: by name, as Python has them (``on_error``); the command line's have dashes.
            what: what takes them, for the error: "classification".

        Raises:
            InputError: one that is not an option here, or a value that it does not take.
        """
        try:
            return cls.model_validate({key: value for key, value in given.items() if value is not None})
        except ValidationError as error:
            problem = error.errors()[0]
            option = "--" + ".".join(map(str, problem["loc"])).replace("_", "-")
            if problem["type"] == "extra_forbidden":
                known = ", ".join("--" + name.replace("_", "-") for name in cls.model_fields)
                raise InputError(
                    f"{option} means nothing for {what}: leave it out (it takes {known or 'none'})"
                ) from None
            message = problem["msg"].removeprefix("Value error, ")
            raise InputError(f"{option}: {message}, found {problem['input']!r}") from None


@dataclass(frozen=True)
class Model:
    """A network that can be used, whatever its task and wherever it came from.

    Attributes:
        task: what it is for.
        network: in evaluation mode; an exported one runs in its own runtime.
        record: what says how to feed and read it, of the task's own kind.
        name: what was asked for: a path, or a name.
        kind: a network by its name (fresh weights), a checkpoint, or an artifact (an exported network).
        device: where it computes.
    """

    task: Task
    network: nn.Module
    record: Any
    name: str
    kind: Literal["network", "checkpoint", "artifact"]
    device: torch.device

    @property
    def class_names(self) -> list[str]:
        """The classes, in the order of the outputs or labels."""
        return list(self.record.class_names)

    def __call__(self, *inputs: Any) -> Any:
        """Run the network."""
        return self.network(*inputs)


class Figures(Protocol):
    """What an evaluation gives: for JSON, and for a person."""

    def to_dict(self) -> dict[str, Any]:
        """Return everything, for JSON."""

    def show(self, title: str) -> None:
        """Print what a person reads; ``title`` says what was evaluated on what."""


class Result(Protocol):
    """What an export or a count of cost gives: for JSON, and for a person."""

    def to_dict(self) -> dict[str, Any]:
        """Return everything, for JSON."""

    def show(self) -> None:
        """Print what a person reads."""


class Prediction(Protocol):
    """What a network says of one image, or of one frame of a video; or why it says nothing."""

    @property
    def name(self) -> str:
        """What stands above it: the path, of a frame with its number and time."""

    @property
    def error(self) -> str | None:
        """Why there is nothing to say."""

    def to_dict(self) -> dict[str, Any]:
        """Return everything, for JSON."""

    def lines(self) -> Iterable[str]:
        """Yield what a person reads below the name."""

    def rows(self) -> Iterable[Sequence[Any]]:
        """Yield the rows of a CSV file, with the columns of the task's ``columns``."""


class Report(Protocol):
    """What a look at data found."""

    @property
    def clean(self) -> bool:
        """Whether there is no problem."""

    def to_dict(self) -> dict[str, Any]:
        """Return everything, for JSON."""

    def lines(self, limit: int) -> Iterable[str]:
        """Yield what a person reads; of each kind of problem the first ``limit``."""


@dataclass(frozen=True)
class DataRequest:
    """What a verb was told of the data.

    Attributes:
        names: what ``--data`` names; some tasks take several as one set.
        download: whether public sets may be fetched.
        workers: processes that load images, besides the main one; ``None``: what suits the work.
    """

    names: Sequence[str]
    download: bool = False
    workers: int | None = 0

    @property
    def text(self) -> str:
        """What a line calls the data."""
        return ", ".join(self.names)

    def only(self, task: str) -> str:
        """Return the name of the data of a task that takes one source.

        Raises:
            InputError: several were given.
        """
        if len(self.names) != 1:
            raise InputError(f"{task} takes one source of images, found {len(self.names)}: {self.text}")
        return self.names[0]

    def refuse_download(self, task: str) -> None:
        """Raise where a download is asked for of a task that has none.

        Raises:
            InputError: it is.
        """
        if self.download:
            raise InputError(f"--download fetches public sets of images with labels, none of {task}: leave it out")


RecipeT = TypeVar("RecipeT", bound=RunRecipe)


class Task(ABC, Generic[RecipeT]):
    """What can be trained, evaluated, used and exported in one way.

    Attributes:
        name: what records and recipes state as their ``task``.
        recipe: kind of its recipes.
        record: kind of the records beside its checkpoints.
        artifact: kind of the records of its exported networks, with ``network``, a ``record``; ``None``: no export.
        options: verb -> the options that this task has there besides those of every task.
        columns: of the CSV file of predictions.
        images: what an error calls its data: "images with boxes".
    """

    name: ClassVar[str]
    recipe: ClassVar[type[RunRecipe]]
    record: ClassVar[type[BaseModel]]
    artifact: ClassVar[type[BaseModel] | None] = None
    options: ClassVar[Mapping[Verb, type[Options]]] = {}
    columns: ClassVar[Sequence[str]] = ()
    images: ClassVar[str] = "images"

    def take(self, verb: Verb, given: Mapping[str, Any]) -> Any:
        """Return the options of a verb, checked.

        Raises:
            InputError: one that this task does not take there.
        """
        return self.options.get(verb, Options).take(given, f"{verb} of {self.name}")

    # ------------------------------------------------------------------------------------------------ data

    @abstractmethod
    def holds(self, name: str) -> bool:
        """Whether what ``--data`` names is of this task, complete or not."""

    @abstractmethod
    def open_run(self, recipe: RecipeT, data: DataRequest, options: Any) -> tuple[Source, Source]:
        """Open the two splits of a training run.

        Raises:
            InputError: what cannot be used; everything that a run would meet later is met here.
        """

    @abstractmethod
    def open_split(self, model: Model, data: DataRequest, split: str, options: Any) -> Source:
        """Open the split to evaluate a network on, checked against its classes.

        Raises:
            InputError: what cannot be used.
        """

    def check(self, data: DataRequest, split: str, options: Any) -> Report:
        """Look at every image and its labels before a run does.

        Raises:
            InputError: the data cannot be opened, or the task has no such check.
        """
        raise InputError(f"{self.name} has no check of data")

    # ------------------------------------------------------------------------------------------------ training

    @abstractmethod
    def setup(
        self, recipe: RecipeT, train: Any, val: Any, output: Path, init: Path | None, world: World, options: Any
    ) -> TrainingSetup:
        """Return the network with its first weights, its images, loss and score, for the training loop."""

    def network_of(self, init: Path | None, options: Any) -> str | None:
        """Return the name of the network to train where neither recipe nor caller may say it; ``None``: the recipe's.

        Raises:
            InputError: it follows from ``init``, which is missing or cannot be used.
        """
        return None

    def summarize(self, recipe: RecipeT, result: TrainResult) -> str:
        """Return what a line says of a finished run."""
        return f"best {result.best:.2f} % after {result.epochs} epochs in {result.seconds:.0f} s"

    def finish(self, setup: Any, output: Path, world: World) -> None:
        """Write what a finished run leaves besides, such as a page of examples. Called in every process."""

    def train(
        self,
        recipe: RecipeT,
        train: Any,
        val: Any,
        output: str | Path,
        *,
        init: str | Path | None = None,
        world: World | None = None,
        options: Any = None,
    ) -> TrainResult:
        """Train as a recipe says; see :func:`compactnets.training.loop.run`.

        Raises:
            InputError: what the loop raises, or a network and images that do not fit.
        """
        output, init, world = as_path(output), None if init is None else as_path(init), world or World()
        with own_run_folder(output, world):  # before the network is made, which may take a while
            setup = self.setup(recipe, train, val, output, init, world, options)
            result = run(setup, output, world)
            self.finish(setup, output, world)
        return result

    # ------------------------------------------------------------------------------------------------ use

    @abstractmethod
    def load(self, path: Path, device: torch.device, options: Any) -> tuple[nn.Module, Any]:
        """Return the network of a checkpoint, in evaluation mode, and its record.

        Raises:
            InputError: it cannot be used.
        """

    def build(self, name: str, arguments: Mapping[str, Any]) -> tuple[nn.Module, Any]:
        """Return a network by its name, with fresh weights, in evaluation mode, and a record as a checkpoint has it.

        Raises:
            InputError: there is none of this name, or the task has no networks by name.
        """
        raise InputError(f"{self.name} has no networks by name: give a checkpoint, found {name}")

    def load_artifact(self, path: Path, threads: int | None, options: Any) -> tuple[nn.Module, Any]:
        """Return an exported network as a module that runs in its own runtime, and the record of its checkpoint.

        Raises:
            InputError: it cannot be used, or the task has no export.
        """
        raise InputError(f"{self.name} has no exported networks")

    @abstractmethod
    def evaluate(self, model: Model, source: Any, split: str, workers: int, world: World, options: Any) -> Figures:
        """Measure how good a network is on a split."""

    @abstractmethod
    def predict(self, model: Model, images: Iterable[str | Picture], every: int, options: Any) -> Iterator[Prediction]:
        """Yield what a network says of images, one by one; what cannot be read yields a prediction with an error.

        Args:
            images: files of images and videos, or pictures (:func:`compactnets.data.inputs.find_files`).
            every: of a video, one frame in so many.
        """

    def check_outputs(self, verb: Verb, options: Any) -> None:
        """Look at the options of a verb before anything is opened.

        Raises:
            InputError: a file or folder that cannot be written, or options that contradict each other.
        """

    def write_predictions(self, model: Model, predictions: Sequence[Any], options: Any) -> None:
        """Write the files that a task's options of ``predict`` ask for."""

    def export(self, model: Model, output: Path, format_name: str, options: Any) -> Result:
        """Write a network for a runtime, compare it there with PyTorch, and keep it if they agree.

        Raises:
            InputError: it cannot be exported so.
            LimitError: they differ; nothing is kept.
        """
        raise InputError(f"{self.name} has no export")

    def profile(self, name: str, arguments: Sequence[str], options: Any) -> Result:
        """Count what a network costs.

        Args:
            name: of a network, or a checkpoint.
            arguments: ``key=value`` pairs of ``--set``.

        Raises:
            InputError: it cannot be counted.
        """
        raise InputError(f"{self.name} has no count of cost")
