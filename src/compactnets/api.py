"""The Python API: load, train, evaluate, predict, export, quantise and profile networks.

Every function takes a network as :func:`load` does: the path of a checkpoint or exported network, the name of weights,
or the :class:`Model` that :func:`load` returned. Task-specific ``options`` are listed with the task:
:class:`compactnets.classification.task.Classification`, :class:`compactnets.detection.task.Detection`,
:class:`compactnets.segmentation.task.Segmentation` and :class:`compactnets.multilabel.task.Multilabel`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from compactnets.data.finding import find_files, stream_files
from compactnets.data.inputs import Picture
from compactnets.errors import InputError
from compactnets.files import as_path, replace_csv
from compactnets.folders import check_file, check_folder
from compactnets.tasks import TASKS, find_task, task_of_data
from compactnets.tasks.contract import DataRequest, Model, Prediction, Report, Result, Task, Verb
from compactnets.tasks.opening import check_trained, digest_of, look, open_model
from compactnets.tasks.parts import PART_SIZE, Shard, Written, write_parts
from compactnets.training import recipe_files
from compactnets.training.checkpoint import DEFAULT_TASK, stated_task
from compactnets.training.distributed import join_world
from compactnets.training.loop import TrainResult
from compactnets.training.recipe import RunRecipe

Images = str | Path | Image.Image | np.ndarray
HOW = {"workers", "batch_size"}  # options that change the results by rounding at most


@dataclass(frozen=True)
class Evaluated:
    """The result of evaluating a network on one split.

    Attributes:
        model: the network that was evaluated.
        data, split: what it was evaluated on.
        figures: what its task measures: :class:`compactnets.classification.judging.Judgement` with ``top1``, ``loss``
            and ``classes``, :class:`compactnets.detection.setup.DetectionScore` with ``scores``, or
            :class:`compactnets.segmentation.metrics.SegmentationScore` with ``miou``.
        is_main: whether this process is the one that prints the result.
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
        """Print the results."""
        self.figures.show(f"{describe(self.model)} on {self.data} ({self.split})")


def describe(model: Model) -> str:
    """Return a network's display name."""
    return model.task.describe(model.record)


def load(
    what: str | Path | Model,
    device: str = "auto",
    *,
    threads: int | None = None,
    arguments: Mapping[str, Any] | None = None,
    **options: Any,
) -> Model:
    """Load a network of any task from a checkpoint, an exported network, or the name of weights or of a network.

    Args:
        what: see :func:`compactnets.tasks.opening.open_model`.
        device: ``"auto"``, ``"cpu"``, ``"cuda"``, …; an exported network runs on the CPU.
        threads: threads of an exported network's runtime; default: the runtime's own choice.
        arguments: arguments of a network given by name, such as ``num_classes``.
        options: task-specific: ``class_agnostic_nms`` of detection.

    Returns:
        the network, with the record of its preprocessing and classes. It can be called like a module.

    Raises:
        InputError: no such network, or one that cannot be used.
    """
    found = look(what)
    return open_model(found, found.device(device), threads=threads, arguments=arguments, options=options)


def open_recipe(
    recipe: str | Path,
    settings: Iterable[str] = (),
    model: str | None = None,
    init: str | Path | None = None,
    **options: Any,
) -> tuple[Task[Any], RunRecipe]:
    """Read a recipe of any task.

    Args:
        recipe: a built-in recipe (``compactnets recipes``) or a ``.yaml`` file.
        settings: ``key=value`` overrides: ``epochs=2``.
        model: network, instead of the recipe's.
        init: checkpoint to start from; it may also determine the network.
        options: task-specific, as for :func:`train`.

    Raises:
        InputError: no such recipe, or one that cannot be used.
    """
    found = recipe_files.read_recipe(recipe)
    task = find_task(stated_task(found))
    chosen = task.take("train", options)
    model = model or task.network_of(None if init is None else as_path(init), chosen, found.get("model"))
    return task, recipe_files.load(task.recipe, found, recipe, [*settings, *task.settings_of(chosen)], model)


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
    """Train a network by a recipe. Repeat the call to resume an interrupted run.

    Args:
        recipe: a built-in recipe (``"cifar/muffnet"``), a ``.yaml`` file, or a recipe object.
        data: folder of images, or anything else that ``--data`` takes; several folders of images with boxes form one
            set.
        output: folder for checkpoints and metrics.
        model: network, instead of the recipe's.
        settings: ``key=value`` overrides of the recipe: ``["epochs=2", "optimizer.nesterov=true"]``.
        init: checkpoint to start from.
        device: ``"auto"``, ``"cpu"``, ``"cuda"``, …
        download: download public data that is missing.
        options: task-specific: ``qat`` and ``teacher`` of classification.

    Returns:
        the last evaluation's metrics, the best value in percent, and the duration in seconds.

    Raises:
        InputError: a recipe, data, network or folder that cannot be used.
    """
    if isinstance(recipe, RunRecipe):
        task, resolved = find_task(getattr(recipe, "task", "")), recipe
        if model is not None or list(settings) or task.settings_of(task.take("train", options)):
            raise InputError(
                "model, settings and teacher only apply to a recipe given by name: edit this recipe object instead"
            )
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
) -> Evaluated:
    """Evaluate a network on a split: accuracy, or average precision.

    Args:
        network: a checkpoint, an exported network, or the name of weights.
        data: as for :func:`train`.
        split: its name. For undivided images with labels or boxes, it may be the share trained on: ``"0.8"``.
        workers: worker processes that load images.
        device: ``"auto"``, ``"cpu"``, ``"cuda"``, …; an exported network runs on the CPU.
        download: download public data that is missing.
        options: task-specific: ``examples`` of all but multilabel; ``batch_size``, ``tta`` and ``predictions`` of
            classification; ``metric``, ``bad_boxes``, ``on_error`` and ``class_agnostic_nms`` of detection;
            ``batch_size`` and ``score`` of multilabel.

    Raises:
        InputError: a network or data that cannot be used, or a class unknown to the network.
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
        return Evaluated(model, asked.text, split, figures, world.is_main)


def predict(
    network: str | Path | Model,
    images: Images | Iterable[Images],
    *,
    every: int = 1,
    csv: str | Path | None = None,
    device: str = "auto",
    **options: Any,
) -> list[Any]:
    """Predict what images show: classes with probabilities, or objects with boxes.

    Args:
        network: a checkpoint, an exported network, or the name of weights.
        images: one or many; each the path of an image, a video, a folder or a pattern, ``@`` and the path of a list
            (:func:`compactnets.data.finding.stream_files`), a Pillow image, or an array (H, W, 3) or (H, W) of uint8,
            RGB or grey.
        every: use every n-th frame of a video.
        csv: CSV file to write, one row per result.
        device: ``"auto"``, ``"cpu"``, ``"cuda"``, …; an exported network runs on the CPU.
        options: task-specific: ``top``, ``batch_size`` and ``workers`` of classification; ``score``, ``output``,
            ``coco``, ``annotations`` and ``class_agnostic_nms`` of detection; ``output`` of segmentation; ``score``,
            ``batch_size`` and ``workers`` of multilabel.

    Returns:
        one prediction per image or frame, in order. An unreadable image gets an ``error``; the others are unaffected.

    Raises:
        InputError: a network that cannot be used, or a file that cannot be written.
    """
    model, predictions, finish = start_predicting(network, images, every=every, csv=csv, device=device, **options)
    found = list(predictions)
    finish(found)
    return found


def predict_to_parquet(
    network: str | Path | Model,
    images: str | Path | Iterable[str | Path],
    folder: str | Path,
    *,
    every: int = 1,
    part_size: int = PART_SIZE,
    shard: str | None = None,
    device: str = "auto",
    **options: Any,
) -> Written:
    """Predict any number of images, a million as well, into Parquet files: streams, and resumes.

    Repeat the call after an interruption: parts that are there are kept, and no image is lost or twice in them. The
    columns are those of the CSV file of :func:`predict`, with an ``error`` for each image that cannot be used.

    Args:
        network: a checkpoint, an exported network, or the name of weights.
        images: one or many; each the path of an image, a video, a folder or a pattern, or ``@`` and the path of a list
            (:func:`compactnets.data.finding.stream_files`).
        folder: for the parts, ``part-00000.parquet`` and so on.
        every: use every n-th frame of a video.
        part_size: files of a part, which an interrupted call loses at most.
        shard: ``"3/8"``: only the third of eight equal shares of the files. Each may be computed by a machine of its
            own, into the same folder.
        device: ``"auto"``, ``"cpu"``, ``"cuda"``, …; an exported network runs on the CPU.
        options: task-specific, as for :func:`predict`, without those that write other files.

    Raises:
        InputError: a network or an option that cannot be used, a folder that cannot be written or has other
            predictions, or files that have changed since a part was written.
    """
    names = [str(Path(name)) for name in ([images] if isinstance(images, str | Path) else images)]
    share, output = Shard() if shard is None else Shard.parse(shard), as_path(folder)
    check_folder(output, "--parquet")
    found = look(network)
    task = found.task
    to_load, chosen = take_options(task, "predict", options)
    for name in task.needs_all:
        if getattr(chosen, name) is not None:
            raise InputError(f"--{name.replace('_', '-')} needs all predictions at once: it does not go with --parquet")
    model = check_trained(open_model(found, found.device(device), options=to_load), "predict")
    results = {key: value for key, value in chosen.model_dump(mode="json").items() if key not in HOW}
    settings = {
        "task": task.name,
        "weights": digest_of(model),
        "options": {**{key: value for key, value in to_load.items() if value is not None}, **results},
        "every": every,
        "images": names,
    }
    with task.predicting(model, every, chosen) as run:
        return write_parts(run, stream_files(names), output, settings, task.columns, part_size=part_size, shard=share)


def start_predicting(
    network: str | Path | Model,
    images: Images | Iterable[Images],
    *,
    every: int = 1,
    csv: str | Path | None = None,
    device: str = "auto",
    **options: Any,
) -> tuple[Model, Iterator[Prediction], Callable[[Sequence[Any]], None]]:
    """Predict lazily; see :func:`predict`.

    Returns:
        the network, an iterator of predictions, and the function that writes the output files once all are done.
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
    """Export a network to a runtime, compare the two, and keep the artifact if they agree.

    Args:
        network: a checkpoint, or the name of weights or of a network.
        format: ``"onnx"``, ``"openvino"``, ``"executorch"``, ``"litert"``, ``"ncnn"``, ``"coreml"``, ``"torch"`` or
            ``"c"``; for detectors ``"onnx"``, ``"openvino"`` or ``"ncnn"``.
        output: folder for the artifact; written completely or not at all.
        arguments: arguments of a network given by name, such as ``num_classes``.
        options: task-specific: ``size``, ``batch_size``, ``serving``, ``images``, ``precision``, ``tolerance``,
            ``lanes``, ``embed``, ``mcu`` and ``delegate`` of classification and segmentation; ``heads``, ``size``,
            ``precision``, ``tolerance`` and ``class_agnostic_nms`` of detection.

    Returns:
        the report; its ``record`` is the content of ``artifact.json``.

    Raises:
        InputError: a network that cannot be used or exported.
        LimitError: the artifact differs from PyTorch; nothing is kept.
    """
    found = look(network)
    to_load, chosen = take_options(found.task, "export", options)
    if found.kind == "artifact":
        raise InputError(f"{network} is already exported: expected the checkpoint it was made from (.safetensors)")
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
    float_network: str | Path | None = None,
    size: str | int | None = None,
    embed: bool = False,
    mcu: str | None = None,
    threads: int = 1,
    command: Sequence[str] = (),
    **settings: Any,
) -> Result:
    """Quantise a classifier or segmenter to int8, compare quality and latency with float, and keep it if the loss is
    within ``max_drop``.

    Args:
        network: a checkpoint, or the name of weights. A checkpoint trained with ``qat`` keeps its weights and ranges.
        format: ``"onnx"``, ``"openvino"``, ``"executorch"`` or ``"c"``.
        output: folder for the artifact and its report.
        calibration: images for measuring ranges.
        evaluation: images to compare on, without those used for calibration.
        max_drop: largest acceptable loss, in points of top-1 accuracy, or of mean IoU.
        float_network: float network to compare with; default: the same weights. For classifiers.
        size: side of the images, or ``"HEIGHTxWIDTH"``; default: that of the preprocessing.
        embed: put the weights into ``model.c`` as well (``"c"``).
        mcu: core of a microcontroller, such as ``"cortex-m7"``: embed the weights, and record flash and RAM (``"c"``).
        threads: threads for measuring latency.
        command: the command line, for the report.
        settings: fields of :class:`compactnets.deploy.int8.Settings`.

    Returns:
        the artifact: its ``record``, and ``report`` with accuracy, latency and the error of every layer.

    Raises:
        InputError: a network, format or images that cannot be used.
        LimitError: it loses more than ``max_drop``; nothing is kept.
    """
    found = look(network)
    given = {
        "calibration": calibration,
        "evaluation": evaluation,
        "max_drop": max_drop,
        "float_network": float_network,
        "size": size,
        "embed": embed,
        "mcu": mcu,
        "threads": threads,
        "command": command,
    }
    able = "quantize" in found.task.options  # a task without int8 says so, rather than refuse its options
    chosen = found.task.take("quantize", {**given, **settings}) if able else None
    return found.task.quantize(network, format, as_path(output), chosen)


def profile(network: str | Path, *, arguments: Sequence[str] = (), **options: Any) -> Result:
    """Count a network's multiply-adds, other operations, parameters and memory; for a detector, per part.

    Args:
        network: the name of a network, or a checkpoint.
        arguments: ``key=value`` arguments of a network given by name, or settings of a detector's recipe.
        options: task-specific: ``input_size``, ``stem``, ``num_classes``, ``batch_size`` and ``per_layer`` of
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
    """Check every image and its label, boxes or mask before training.

    Args:
        data: as for :func:`train`.
        split: one split, or ``"both"`` for all.
        workers: processes that decode; default: one per core, or none below 1,000 images.
        download: download public data that is missing.
        options: task-specific: ``recipe`` of detection, whose anchors are compared with the annotated objects, and of
            segmentation, whose classes the masks should have. It also decides the task where the data do not: folders
            of Pascal VOC and COCO may have boxes and masks.

    Returns:
        the report; ``clean`` if there is no problem.

    Raises:
        InputError: data that cannot be opened.
    """
    asked = request(data, download=download, workers=workers)
    task = task_of_recipes(options.get("recipe")) or task_of_data(asked.names)
    return task.check(asked, split, task.take("check", options))


def request(data: str | Path | Sequence[str | Path], *, download: bool = False, workers: int | None = 0) -> DataRequest:
    """Bundle the data arguments of a call."""
    names = [data] if isinstance(data, str | Path) else list(data)
    return DataRequest([str(name) for name in names], download, workers)


def take_options(task: Task[Any], verb: Verb, options: Mapping[str, Any]) -> tuple[dict[str, Any], Any]:
    """Split the options of a call into those for opening the network and those of the verb, and check the latter.

    Raises:
        InputError: an option that the task does not take, or a file that cannot be written.
    """
    fields = {name: set(kind.model_fields) for name, kind in task.options.items()}
    opening = fields.get("load", set()) - fields.get(verb, set())
    chosen = task.take(verb, {key: value for key, value in options.items() if key not in opening})
    task.check_outputs(verb, chosen)
    return {key: value for key, value in options.items() if key in opening}, chosen


def task_taking(verb: Verb, given: Mapping[str, Any]) -> Task[Any]:
    """Return the task of a given recipe, or that accepts the most of the given options; classification on a tie."""
    if (named := task_of_recipes(given.get("recipe"))) is not None:
        return named
    tasks = [find_task(name) for name in TASKS]
    fields = [set(task.options[verb].model_fields) if verb in task.options else set() for task in tasks]
    own = [set(given) & mine - fields[0] for mine in fields]  # options that classification does not take
    most = max(range(len(tasks)), key=lambda index: len(own[index]))
    return tasks[most] if own[most] else find_task(DEFAULT_TASK)


def task_of_recipes(recipes: str | Sequence[str] | None) -> Task[Any] | None:
    """Return the task of recipes; ``None`` if there are none.

    Raises:
        InputError: no such recipe, or recipes of several tasks.
    """
    names = [recipes] if isinstance(recipes, str) else list(recipes or ())
    found = dict.fromkeys(stated_task(recipe_files.read_recipe(name)) for name in names)
    if len(found) > 1:
        raise InputError(f"the recipes {', '.join(names)} are of several tasks ({', '.join(found)}): give those of one")
    return find_task(next(iter(found))) if found else None


@contextmanager
def _of_task(task: Task[Any], asked: DataRequest) -> Iterator[None]:
    """If data cannot be opened because it belongs to another task, name that task."""
    try:
        yield
    except InputError as error:
        other = task_of_data(asked.names)
        if other.name in (task.name, DEFAULT_TASK):
            raise
        raise InputError(
            f"{asked.text} holds {other.images}, for {other.name}, but this is {task.name} (as {task.images}: {error})"
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
