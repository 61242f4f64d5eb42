"""The contract of a task, such as classification or detection.

A task is one folder with a subclass of :class:`Task`, and one line in :data:`compactnets.tasks.TASKS`. The verbs of the
command line and the Python API (:mod:`compactnets.api`) know no task by name.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Generic, Literal, Protocol, Self, TypeVar

import torch
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from torch import nn

from compactnets.data.inputs import Picture
from compactnets.deploy.artifact import load_artifact
from compactnets.deploy.export import export_subject
from compactnets.deploy.int8 import Settings
from compactnets.deploy.record import ImageArtifact
from compactnets.deploy.serving import VERSION, export_to_serve
from compactnets.deploy.subject import Subject
from compactnets.deploy.tables import ExportReport, show
from compactnets.errors import InputError
from compactnets.files import as_path
from compactnets.training.distributed import World
from compactnets.training.loop import TrainResult, run
from compactnets.training.recipe import RunRecipe
from compactnets.training.run_folder import own_run_folder
from compactnets.training.setup import Source, TrainingSetup
from compactnets.values import parse_size

Verb = Literal["load", "train", "evaluate", "predict", "export", "quantize", "profile", "check"]


class Options(BaseModel):
    """Task-specific options of a verb; options that are not fields are refused."""

    model_config = ConfigDict(extra="forbid", frozen=True, arbitrary_types_allowed=True)

    @classmethod
    def take(cls, given: Mapping[str, Any], what: str) -> Self:
        """Build the options from the given values; ``None`` means not given.

        Args:
            given: values by Python name (``on_error``; the command line uses dashes).
            what: verb and task, for errors: "train for classification".

        Raises:
            InputError: an unknown option, or an invalid value.
        """
        try:
            return cls.model_validate({key: value for key, value in given.items() if value is not None})
        except ValidationError as error:
            problem = error.errors()[0]
            option = "--" + ".".join(map(str, problem["loc"])).replace("_", "-")
            if problem["type"] == "extra_forbidden":
                known = ", ".join("--" + name.replace("_", "-") for name in cls.model_fields)
                raise InputError(
                    f"{option} is not an option of {what}: remove it (options: {known or 'none'})"
                ) from None
            message = problem["msg"].removeprefix("Value error, ")
            raise InputError(f"{option}: {message}, found {problem['input']!r}") from None


class ProfileOptions(Options):
    """``profile``, of tasks whose whole network is one of :mod:`compactnets.models`."""

    input_size: tuple[int, int, int] | None = None
    stem: Literal["imagenet", "cifar"] | None = None
    num_classes: int | None = None
    batch_size: int = 1
    per_layer: bool = False


class QuantizeOptions(Options):
    """``quantize``, of every task that has it; the last seven are :class:`compactnets.deploy.int8.Settings`."""

    calibration: str
    evaluation: str
    max_drop: float = 0.5
    float_network: str | Path | None = None
    size: str | int | None = None
    embed: bool = False
    mcu: str | None = None
    threads: int = Field(1, ge=1)
    command: Sequence[str] = ()
    calibration_images: int = Field(128, ge=1)
    ranges: str = "mse"
    equalize: bool = True
    rounding: bool = True
    correction: bool = True
    weight_bits: Literal[7, 8] | None = None
    keep: Sequence[str] = ()

    def arguments(self) -> dict[str, Any]:
        """Return the arguments of :func:`compactnets.quantization.quantize`."""
        names = ("calibration_images", "ranges", "equalize", "rounding", "correction", "weight_bits")
        settings = Settings(**{name: getattr(self, name) for name in names}, keep=tuple(self.keep))
        others = ("calibration", "evaluation", "max_drop", "threads", "command", "embed", "mcu")
        return {**{name: getattr(self, name) for name in others}, "settings": settings}

    def image_size(self) -> tuple[int, int] | None:
        """Return height and width of ``size``.

        Raises:
            InputError: it is no size.
        """
        return None if self.size is None else parse_size(str(self.size))


class ExportOptions(Options):
    """``export``, of tasks whose networks have one output: :func:`compactnets.deploy.export.export_subject`.

    ``serving`` names a server (:func:`compactnets.deploy.serving.export_to_serve`), and ``batch_size`` is then the
    largest batch that it makes.
    """

    size: str | int | None = None
    batch_size: int | None = Field(None, ge=1)
    serving: str | None = None
    images: str | None = None
    precision: str = "float32"
    tolerance: float | None = None
    lanes: int | None = None
    embed: bool = False
    mcu: str | None = None
    delegate: str | None = None


@dataclass(frozen=True)
class Model:
    """A network ready for use, of any task and origin.

    Attributes:
        task: its task.
        network: the module, in evaluation mode; an exported network runs in its own runtime.
        record: the task's record: classes, preprocessing, and how to read the outputs.
        name: the path or name it was opened by.
        kind: a network by name (fresh weights), a checkpoint, or an artifact (an exported network).
        device: the device it runs on.
    """

    task: Task
    network: nn.Module
    record: Any
    name: str
    kind: Literal["network", "checkpoint", "artifact"]
    device: torch.device

    @property
    def class_names(self) -> list[str]:
        """The classes, in order of the outputs or labels."""
        return list(self.record.class_names)

    def __call__(self, *inputs: Any) -> Any:
        """Run the network."""
        return self.network(*inputs)


class Figures(Protocol):
    """The result of an evaluation."""

    def to_dict(self) -> dict[str, Any]:
        """Return everything, for JSON."""

    def show(self, title: str) -> None:
        """Print it as text; ``title`` names the network and the data."""


class Result(Protocol):
    """The result of an export or a profile."""

    def to_dict(self) -> dict[str, Any]:
        """Return everything, for JSON."""

    def show(self) -> None:
        """Print it as text."""


class Prediction(Protocol):
    """The prediction for an image or a video frame, or the error that prevented it."""

    @property
    def name(self) -> str:
        """The heading: the path; for a frame, with its number and time."""

    @property
    def error(self) -> str | None:
        """The error, if there is no prediction."""

    def to_dict(self) -> dict[str, Any]:
        """Return everything, for JSON."""

    def lines(self) -> Iterable[str]:
        """Yield the lines of text below the heading."""

    def rows(self) -> Iterable[Sequence[Any]]:
        """Yield the rows of a table, with the task's ``columns``."""


Predict = Callable[[Iterable[str | Picture]], Iterator[Prediction]]


class Report(Protocol):
    """The result of a data check."""

    @property
    def clean(self) -> bool:
        """Whether no problem was found."""

    def to_dict(self) -> dict[str, Any]:
        """Return everything, for JSON."""

    def lines(self, limit: int) -> Iterable[str]:
        """Yield the lines of text; at most ``limit`` problems of each kind."""


@dataclass(frozen=True)
class DataRequest:
    """The data that a verb works on.

    Attributes:
        names: values of ``--data``; some tasks accept several as one set.
        download: whether public sets may be downloaded.
        workers: worker processes that load images; ``None``: chosen automatically.
    """

    names: Sequence[str]
    download: bool = False
    workers: int | None = 0

    @property
    def text(self) -> str:
        """The data's name in messages."""
        return ", ".join(self.names)

    def only(self, task: str) -> str:
        """Return the data's only name, for a task that takes a single source.

        Raises:
            InputError: several names were given.
        """
        if len(self.names) != 1:
            raise InputError(f"{task} takes one source of images, found {len(self.names)}: {self.text}")
        return self.names[0]

    def refuse_download(self, task: str) -> None:
        """Refuse ``download``, for a task without public sets.

        Raises:
            InputError: a download was requested.
        """
        if self.download:
            raise InputError(f"--download fetches public sets of images with labels, none for {task}: remove it")


RecipeT = TypeVar("RecipeT", bound=RunRecipe)


class Task(ABC, Generic[RecipeT]):
    """A kind of network and everything the verbs do with it.

    Attributes:
        name: the ``task`` in records and recipes.
        recipe: type of its recipes.
        record: type of its checkpoints' records.
        artifact: type of its exported networks' records, whose ``network`` is a ``record``; ``None``: no export.
        options: verb -> its task-specific options.
        columns: columns of the table of predictions, with their types: ``str``, ``int`` or ``float``; two of them are
            ``image`` and ``error``.
        needs_all: options of ``predict`` for which all predictions must be known: they do not go with Parquet parts.
        images: name of its data in errors: "images with boxes".
    """

    name: ClassVar[str]
    recipe: ClassVar[type[RunRecipe]]
    record: ClassVar[type[BaseModel]]
    artifact: ClassVar[type[BaseModel] | None] = None
    options: ClassVar[Mapping[Verb, type[Options]]] = {}
    columns: ClassVar[Mapping[str, type]] = {}
    needs_all: ClassVar[Sequence[str]] = ()
    images: ClassVar[str] = "images"

    def take(self, verb: Verb, given: Mapping[str, Any]) -> Any:
        """Return the validated options of a verb.

        Raises:
            InputError: an option that this task's verb does not have.
        """
        return self.options.get(verb, Options).take(given, f"{verb} for {self.name}")

    def describe(self, record: Any) -> str:
        """Return the name of a record's network, for a reader."""
        return str(record.model)

    # ------------------------------------------------------------------------------------------------ data

    @abstractmethod
    def holds(self, name: str) -> bool:
        """Whether a value of ``--data`` is data of this task, complete or not."""

    @abstractmethod
    def open_run(self, recipe: RecipeT, data: DataRequest, options: Any) -> tuple[Source, Source]:
        """Open the two splits of a training run.

        Raises:
            InputError: data that cannot be used; everything that would stop the run later is reported here.
        """

    @abstractmethod
    def open_split(self, model: Model, data: DataRequest, split: str, options: Any) -> Source:
        """Open a split to evaluate a network on, and compare its classes with the network's.

        Raises:
            InputError: data that cannot be used.
        """

    def check(self, data: DataRequest, split: str, options: Any) -> Report:
        """Check every image and its annotations.

        Raises:
            InputError: the data cannot be opened, or the task has no data check.
        """
        raise InputError(f"{self.name} has no data check")

    # ------------------------------------------------------------------------------------------------ training

    @abstractmethod
    def setup(
        self, recipe: RecipeT, train: Any, val: Any, output: Path, init: Path | None, world: World, options: Any
    ) -> TrainingSetup:
        """Return what the training loop needs: network with initial weights, loaders, loss and score."""

    def network_of(self, init: Path | None, options: Any, named: object) -> str | None:
        """Return the name of the network if ``init`` determines it; ``None``: the recipe does.

        Args:
            named: the network in the recipe's file.

        Raises:
            InputError: ``init`` determines it, but is missing or unusable.
        """
        return None

    def settings_of(self, options: Any) -> list[str]:
        """Return the recipe's settings, as ``key=value``, that options of ``train`` stand for."""
        return []

    def summarize(self, recipe: RecipeT, result: TrainResult) -> str:
        """Return one line of text about a finished run."""
        return f"best {result.best:.2f} % after {result.epochs} epochs in {result.seconds:.0f} s"

    def finish(self, setup: Any, output: Path, world: World) -> None:
        """Write further results of a finished run, such as a page of examples. Called in every process."""

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
        """Train by a recipe; see :func:`compactnets.training.loop.run`.

        Args:
            train: the training split, as :meth:`open_run` opens it.
            val: the validation split.
            init: checkpoint with the initial weights.
            options: the task's own options of ``train``; the defaults if not given.

        Raises:
            InputError: as the loop, or a network and images that do not fit.
        """
        output, init, world = as_path(output), None if init is None else as_path(init), world or World()
        options = self.take("train", {}) if options is None else options
        with own_run_folder(output, world):  # before the network is built: calibrating it takes a while
            setup = self.setup(recipe, train, val, output, init, world, options)
            result = run(setup, output, world)
            self.finish(setup, output, world)
        return result

    # ------------------------------------------------------------------------------------------------ use

    @abstractmethod
    def load(self, path: Path, device: torch.device, options: Any) -> tuple[nn.Module, Any]:
        """Return a checkpoint's network, in evaluation mode, and its record.

        Raises:
            InputError: a checkpoint that cannot be used.
        """

    def build(self, name: str, arguments: Mapping[str, Any]) -> tuple[nn.Module, Any]:
        """Return a network by name, with fresh weights and in evaluation mode, and a record as for a checkpoint.

        Raises:
            InputError: no network has this name, or the task has no named networks.
        """
        raise InputError(f"{self.name} has no named networks: give a checkpoint, found {name}")

    def load_artifact(self, path: Path, threads: int | None, options: Any) -> tuple[nn.Module, Any]:
        """Return an exported network as a module that runs in its own runtime, and its checkpoint's record.

        Raises:
            InputError: an artifact that cannot be used, or the task has no export.
        """
        if self.artifact is None or not issubclass(self.artifact, ImageArtifact):
            raise InputError(f"{self.name} has no exported networks")
        artifact = load_artifact(path, threads, self.artifact)
        return artifact, artifact.record.network

    @abstractmethod
    def evaluate(self, model: Model, source: Any, split: str, workers: int, world: World, options: Any) -> Figures:
        """Measure the quality of a network on a split."""

    @abstractmethod
    def predict(self, model: Model, images: Iterable[str | Picture], every: int, options: Any) -> Iterator[Prediction]:
        """Yield the prediction for each image; an unreadable one yields a prediction with an error.

        Args:
            images: image and video files, or pictures (:func:`compactnets.data.finding.find_files`).
            every: use every n-th frame of a video.
        """

    @contextmanager
    def predicting(self, model: Model, every: int, options: Any) -> Iterator[Predict]:
        """Yield a function that predicts as :meth:`predict`, for many calls.

        A task may keep worker processes for the time of the block.
        """
        yield lambda images: self.predict(model, images, every, options)

    def check_outputs(self, verb: Verb, options: Any) -> None:
        """Check the options of a verb before anything is opened.

        Raises:
            InputError: a file or folder that cannot be written, or conflicting options.
        """

    def write_predictions(self, model: Model, predictions: Sequence[Any], options: Any) -> None:
        """Write the files requested by the options of ``predict``."""

    def subject(self, model: Model, verb: str) -> Subject:
        """Return a network as exports, int8, the benchmark and the page for browsers take it.

        A task whose networks take images and give one tensor needs no ``export`` and ``load_artifact`` of its own.

        Args:
            verb: for the error.

        Raises:
            InputError: the task's networks are not of this kind.
        """
        raise InputError(f"{self.name} has no {verb}: {model.name} is a network for {self.name}")

    def export(self, model: Model, output: Path, format_name: str, options: Any) -> Result:
        """Export a network to a runtime, compare the two, and keep the artifact if they agree.

        Raises:
            InputError: a network that cannot be exported to this format.
            LimitError: the artifact differs from PyTorch; nothing is kept.
        """
        subject = self.subject(model, "export")
        if options.size is not None:
            subject = subject.resized(parse_size(str(options.size)))
        given, batch = options.model_dump(exclude={"size", "batch_size", "serving"}), options.batch_size
        if options.serving is None:
            return ExportReport(
                export_subject(subject, format_name, output, batch_size=batch or 1, **given), output, show
            )
        record = export_to_serve(subject, options.serving, format_name, output, largest_batch=batch, **given)
        return ExportReport(record, output / VERSION, show)

    def quantize(self, network: str | Path | Model, format_name: str, output: Path, options: Any) -> Result:
        """Quantise a network to int8, compare it with float, and keep the artifact if the loss is small.

        Raises:
            InputError: a network that cannot be quantised.
            LimitError: it loses too much; nothing is kept.
        """
        name = network.name if isinstance(network, Model) else network
        raise InputError(f"{self.name} has no int8: {name} is a network for {self.name}")

    def profile(self, name: str, arguments: Sequence[str], options: Any) -> Result:
        """Count the cost of a network.

        Args:
            name: name of a network, or a checkpoint.
            arguments: ``key=value`` pairs of ``--set``.

        Raises:
            InputError: a network that cannot be counted.
        """
        raise InputError(f"{self.name} has no profile")
