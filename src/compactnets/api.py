"""What the command line does, as functions: open, train, evaluate, predict, export, quantise, count and time networks.

Every function takes a network as :func:`load` does: by the path of a checkpoint or an exported network, by the name of
weights, or as the :class:`Model` that :func:`load` gave. What a task takes besides (``options``) is listed where the
task is: :class:`compactnets.classification.task.Classification` and :class:`compactnets.detection.task.Detection`.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from compactnets.data.inputs import Picture, find_files
from compactnets.errors import InputError
from compactnets.files import as_path, replace_csv
from compactnets.folders import check_file
from compactnets.tasks import DEFAULT, TASKS, find_task, task_of_data
from compactnets.tasks.contract import DataRequest, Model, Prediction, Report, Result, Task, Verb
from compactnets.tasks.opening import check_trained, look, open_model
from compactnets.training import recipe_files
from compactnets.training.checkpoint import stated_task
from compactnets.training.distributed import join_world
from compactnets.training.loop import TrainResult
from compactnets.training.recipe import RunRecipe

Images = str | Path | Image.Image | np.ndarray


@dataclass(frozen=True)
class Evaluation:
    """How good a network is on a split, and on which.

    Attributes:
        model: that was evaluated.
        data, split: what it was evaluated on.
        figures: what its task measures, such as :class:`compactnets.classification.evaluation.Evaluation` with ``top1``
            and ``loss``, or :class:`compactnets.detection.setup.DetectionScore` with ``scores``.
        is_main: whether this process, of several, is the one that says it.
    """

    model: Model
    data: str
    split: str
    figures: Any
    is_main: bool = True

    def to_dict(self) -> dict[str, Any]:
        """Return everything, for JSON."""
        return {
            "checkpoint": self.model.name,
            "task": self.model.task.name,
            "model": self.model.record.model,
            "data": self.data,
            "split": self.split,
            **self.figures.to_dict(),
        }

    def show(self) -> None:
        """Print what a person reads."""
        self.figures.show(f"{describe(self.model)} on {self.data} ({self.split})")


def describe(model: Model) -> str:
    """Return what a line calls a network."""
    detector = getattr(model.record, "detector", None)
    return f"{detector} on {model.record.model}" if detector else str(model.record.model)


def load(
    what: str | Path | Model,
    device: str = "auto",
    *,
    threads: int | None = None,
    arguments: Mapping[str, Any] | None = None,
    **options: Any,
) -> Model:
    """Open a network, of any task: a checkpoint, an exported network, the name of weights or of a network.

    Args:
        what: see :func:`compactnets.tasks.opening.open_model`.
        device: ``"auto"``, ``"cpu"``, ``"cuda"``, …; an exported network runs on the CPU.
        threads: of an exported network's runtime; its own choice if not given.
        arguments: of a network by its name, such as ``num_classes``.
        options: of the task: ``class_agnostic_nms`` of detection.

    Returns:
        the network, with the record that says how to feed and read it. It can be called like a module.

    Raises:
        InputError: nothing of the kind lies there, or it cannot be used.
    """
    return open_model(what, device, threads=threads, arguments=arguments, options=options)


def open_recipe(
    recipe: str | Path,
    settings: Iterable[str] = (),
    model: str | None = None,
    init: str | Path | None = None,
    **options: Any,
) -> tuple[Task[Any], RunRecipe]:
    """Read a recipe, of whatever task it states.

    Args:
        recipe: a recipe of the package (``compactnets recipes``) or a ``.yaml`` file.
        settings: ``key=value`` over it: ``epochs=2``.
        model: network, instead of the recipe's.
        init: checkpoint to start from, from which the network may follow.
        options: of the task, as for :func:`train`.

    Raises:
        InputError: no such recipe, or one that cannot be used.
    """
    found = recipe_files.read_recipe(recipe)
    task = find_task(stated_task(found))
    model = model or task.network_of(None if init is None else as_path(init), task.take("train", options))
    return task, recipe_files.load(task.recipe, found, recipe, settings, model)


def train(
    recipe: str | Path | RunRecipe,
    data: str | Path | Sequence[str | Path],
    output: str | Path,
    *,
    model: str | None = None,
    settings: Iterable[str] = (),
    init: str | Path | None = None,
    device: str = "auto",
    download: bool = False,
    **options: Any,
) -> TrainResult:
    """Train a network as a recipe says; the same call resumes a run that stopped.

    Args:
        recipe: a recipe of the package (``"cifar/muffnet"``), a ``.yaml`` file, or one that was made in Python.
        data: folder of images, or what else ``--data`` takes; several folders of images with boxes are one set.
        output: folder for checkpoints and metrics.
        model: network, instead of the recipe's.
        settings: ``key=value`` over the recipe: ``["epochs=2", "optimizer.nesterov=true"]``.
        init: checkpoint to start from.
        device: ``"auto"``, ``"cpu"``, ``"cuda"``, …
        download: fetch public data where they are missing.
        options: of the task: ``qat`` of classification.

    Returns:
        what the last evaluation gave, the best value in percent, and the seconds that it took.

    Raises:
        InputError: a recipe, data, network or folder that cannot be used.
    """
    if isinstance(recipe, RunRecipe):
        task, resolved = find_task(getattr(recipe, "task", "")), recipe
        if model is not None or list(settings):
            raise InputError("model and settings change a recipe by its name: this one was made in Python")
    else:
        task, resolved = open_recipe(recipe, settings, model, init, **options)
    chosen = task.take("train", options)
    with join_world(device) as world:
        asked = request(data, download=download)
        with _of_task(task, asked):
            train_source, val_source = task.open_run(resolved, asked, chosen)
        return task.train(resolved, train_source, val_source, output, init=init, world=world, options=chosen)


def evaluate(
    network: str | Path | Model,
    data: str | Path | Sequence[str | Path],
    *,
    split: str = "val",
    workers: int = 0,
    device: str = "auto",
    download: bool = False,
    **options: Any,
) -> Evaluation:
    """Measure how good a network is on a split of images: accuracy, or average precision.

    Args:
        network: a checkpoint, an exported network, or the name of weights.
        data: as for :func:`train`.
        split: its name; of images with boxes that are not divided also the share that was trained on: ``"0.8"``.
        workers: processes that load images, besides the main one.
        device: ``"auto"``, ``"cpu"``, ``"cuda"``, …; an exported network runs on the CPU.
        download: fetch public data where they are missing.
        options: of the task: ``batch_size`` of classification; ``metric``, ``bad_boxes``, ``on_error``, ``examples``
            and ``class_agnostic_nms`` of detection.

    Raises:
        InputError: a network or data that cannot be used, or a class that the network does not know.
    """
    found = look(network)
    task = found.task
    to_load, chosen = take_options(task, "evaluate", options)
    with join_world(found.device(device)) as world:
        model = check_trained(open_model(found, world.device, options=to_load), "eval")
        asked = request(data, download=download, workers=workers)
        with _of_task(task, asked):
            source = task.open_split(model, asked, split, chosen)
        figures = task.evaluate(model, source, split, workers, world, chosen)
        return Evaluation(model, asked.text, split, figures, world.is_main)


def predict(
    network: str | Path | Model,
    images: Images | Iterable[Images],
    *,
    every: int = 1,
    csv: str | Path | None = None,
    device: str = "auto",
    **options: Any,
) -> list[Any]:
    """Say what images show: classes with probabilities, or objects with boxes.

    Args:
        network: a checkpoint, an exported network, or the name of weights.
        images: one or many; each the path of an image, a video, a folder or a pattern, a Pillow image, or an array
            (H, W, 3) or (H, W) of uint8, RGB or grey.
        every: of a video, take one frame in so many.
        csv: file to write, with a row for each result.
        device: ``"auto"``, ``"cpu"``, ``"cuda"``, …; an exported network runs on the CPU.
        options: of the task: ``top`` of classification; ``score``, ``output``, ``coco``, ``annotations`` and
            ``class_agnostic_nms`` of detection.

    Returns:
        one prediction for each image or frame, in order. What cannot be read has an ``error`` and costs no other.

    Raises:
        InputError: a network that cannot be used, or a file that cannot be written.
    """
    model, predictions, finish = start_predicting(network, images, every=every, csv=csv, device=device, **options)
    found = list(predictions)
    finish(found)
    return found


def start_predicting(
    network: str | Path | Model,
    images: Images | Iterable[Images],
    *,
    every: int = 1,
    csv: str | Path | None = None,
    device: str = "auto",
    **options: Any,
) -> tuple[Model, Iterator[Prediction], Any]:
    """Do what :func:`predict` does, one by one.

    Returns:
        the network, the predictions as they come, and the function that writes the files once it has them all.
    """
    if csv is not None:
        check_file(as_path(csv), "--csv")
    found = look(network)
    task = found.task
    to_load, chosen = take_options(task, "predict", options)
    model = check_trained(open_model(found, found.device(device), options=to_load), "predict")

    def finish(predictions: Sequence[Any]) -> None:
        if csv is not None:
            replace_csv(as_path(csv), task.columns, (row for one in predictions for row in one.rows()))
        task.write_predictions(model, predictions, chosen)

    return model, task.predict(model, list(_pictures(images)), every, chosen), finish


def export(
    network: str | Path | Model,
    format: str,
    output: str | Path,
    *,
    arguments: Mapping[str, Any] | None = None,
    **options: Any,
) -> Result:
    """Write a network for a runtime, compare it there with PyTorch, and keep it if they agree.

    Args:
        network: a checkpoint, or the name of weights or of a network.
        format: ``"onnx"``, ``"openvino"``, ``"executorch"``, ``"ncnn"``, ``"coreml"`` or ``"torch"``.
        output: folder for the artifact; it appears whole or not at all.
        arguments: of a network by its name, such as ``num_classes``.
        options: of the task: ``size``, ``batch_size``, ``images``, ``precision``, ``tolerance`` and ``lanes`` of
            classification; ``heads``, ``size``, ``precision``, ``tolerance`` and ``class_agnostic_nms`` of detection.

    Returns:
        what was written: its ``record`` is what ``artifact.json`` holds.

    Raises:
        InputError: a network that cannot be used or written so.
        LimitError: (an InputError) the artifact differs from PyTorch; nothing is kept.
    """
    found = look(network)
    to_load, chosen = take_options(found.task, "export", options)
    if found.kind == "artifact":
        raise InputError(
            f"{network} is of an exported network already: expected the checkpoint that it was made from (.safetensors)"
        )
    model = open_model(found, "cpu", arguments=arguments, options=to_load)
    return found.task.export(model, as_path(output), format, chosen)


def quantize(
    network: str | Path | Model,
    format: str,
    output: str | Path,
    *,
    calibration: str,
    evaluation: str,
    max_drop: float = 0.5,
    beside: str | Path | None = None,
    threads: int = 1,
    **settings: Any,
) -> Result:
    """Quantise a classifier to int8, compare accuracy and latency with float, and keep it if it loses little.

    Args:
        network: a checkpoint, or the name of weights; one of ``train`` with ``qat`` keeps its weights and ranges.
        format: ``"onnx"``, ``"openvino"`` or ``"executorch"``.
        output: folder for the artifact and its report.
        calibration: source of the images that ranges are measured on.
        evaluation: source of the images to compare on; calibrated ones are left out.
        max_drop: points of top-1 accuracy that may be lost.
        beside: float network to compare with; that of the same weights if not given.
        threads: while latency is measured.
        settings: fields of :class:`compactnets.deploy.int8.Settings`.

    Returns:
        the artifact: its ``record``, and ``report`` with accuracy, latency and the error of every layer.

    Raises:
        InputError: a network, format or images that cannot be used.
        LimitError: (an InputError) it loses more than ``max_drop``; nothing is kept.
    """
    from compactnets.classification.quantization import quantize_model

    return quantize_model(
        network,
        format,
        output,
        calibration=calibration,
        evaluation=evaluation,
        max_drop=max_drop,
        beside=beside,
        threads=threads,
        settings=settings,
    )


def profile(network: str | Path, *, arguments: Sequence[str] = (), **options: Any) -> Result:
    """Count what a network costs: multiply-adds, other operations, parameters, memory; a detector's part by part.

    Args:
        network: the name of a network, or a checkpoint.
        arguments: ``key=value`` of a network by its name, or of a detector's recipe.
        options: of the task: ``input_size``, ``stem``, ``num_classes``, ``batch_size`` and ``per_layer`` of
            classification; ``input_size``, ``detector``, ``recipe`` and ``num_classes`` of detection.

    Raises:
        InputError: no such network or checkpoint, or an option that it does not take.
    """
    given = {key: value for key, value in options.items() if value is not None}
    found = look(network)
    task = task_taking("profile", given) if found.kind == "network" else found.task
    return task.profile(str(network), arguments, task.take("profile", given))


def check(
    data: str | Path | Sequence[str | Path],
    *,
    split: str = "both",
    workers: int | None = None,
    download: bool = False,
    **options: Any,
) -> Report:
    """Look at every image and its labels or boxes before a run does.

    Args:
        data: as for :func:`train`.
        split: one split, or ``"both"`` for all.
        workers: processes that decode; one per core, or none for under 1,000 images, if not given.
        download: fetch public data where they are missing.
        options: of the task: ``recipe`` of detection, whose anchors are compared with the objects.

    Returns:
        what was found; ``clean`` where there is no problem.

    Raises:
        InputError: data that cannot be opened.
    """
    asked = request(data, download=download, workers=workers)
    task = task_of_data(list(asked.names))
    return task.check(asked, split, task.take("check", options))


def request(data: str | Path | Sequence[str | Path], *, download: bool = False, workers: int | None = 0) -> DataRequest:
    """Return what a call was told of data, one name or several."""
    names = [data] if isinstance(data, str | Path) else list(data)
    return DataRequest([str(name) for name in names], download, workers)


def take_options(task: Task[Any], verb: Verb, options: Mapping[str, Any]) -> tuple[dict[str, Any], Any]:
    """Return the options of a call that are for opening the network, and those of the verb itself, checked.

    Raises:
        InputError: an option that the task does not take, or a file that cannot be written.
    """
    fields = {name: set(kind.model_fields) for name, kind in task.options.items()}
    opening = fields.get("load", set()) - fields.get(verb, set())
    chosen = task.take(verb, {key: value for key, value in options.items() if key not in opening})
    task.check_outputs(verb, chosen)
    return {key: value for key, value in options.items() if key in opening}, chosen


def task_taking(verb: Verb, given: Mapping[str, Any]) -> Task[Any]:
    """Return the task that takes the most of the options that were given, classification where that settles nothing."""
    tasks = [find_task(name) for name in TASKS]
    fields = [set(task.options[verb].model_fields) if verb in task.options else set() for task in tasks]
    own = [set(given) & mine - fields[0] for mine in fields]  # those that classification does not take
    most = max(range(len(tasks)), key=lambda index: len(own[index]))
    return tasks[most] if own[most] else find_task(DEFAULT)


@contextmanager
def _of_task(task: Task[Any], asked: DataRequest) -> Iterator[None]:
    """Say of data that cannot be opened, where they are of another task, which that is."""
    try:
        yield
    except InputError as error:
        other = task_of_data(list(asked.names))
        if other.name in (task.name, DEFAULT):
            raise
        raise InputError(
            f"{asked.text} holds {other.images}, for {other.name}, and this is {task.name} (as {task.images}: {error})"
        ) from None


def _pictures(images: Images | Iterable[Images]) -> Iterator[str | Picture]:
    many: Iterable[Any] = [images] if isinstance(images, str | Path | Image.Image | np.ndarray) else images
    for number, each in enumerate(many):
        if isinstance(each, str | Path):
            yield from find_files([each])
        elif isinstance(each, Image.Image):
            yield Picture(getattr(each, "filename", "") or f"image {number}", each)
        elif isinstance(each, np.ndarray):
            yield Picture(f"image {number}", _from_array(each, number))
        else:
            raise InputError(
                f"image {number} must be a path, a Pillow image or an array of uint8, found {type(each).__name__}"
            )


def _from_array(values: np.ndarray, number: int) -> Image.Image:
    if values.dtype != np.uint8 or values.ndim not in (2, 3) or (values.ndim == 3 and values.shape[2] not in (1, 3, 4)):
        raise InputError(
            f"image {number} must be an array (H, W), (H, W, 3) or (H, W, 4) of uint8, found {values.dtype} "
            f"{list(values.shape)}"
        )
    return Image.fromarray(values[:, :, 0] if values.ndim == 3 and values.shape[2] == 1 else values)
