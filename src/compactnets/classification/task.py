"""Classification as a task (:mod:`compactnets.tasks.contract`)."""

from __future__ import annotations

import functools
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any, Literal

import torch
from pydantic import Field
from torch import nn

from compactnets.classification.batches import BATCH_SIZE, BatchRunner
from compactnets.classification.checkpoint import CheckpointRecord, load_checkpoint
from compactnets.classification.cost import NetworkCost, network_cost
from compactnets.classification.evaluation import match_classes, note_trained
from compactnets.classification.examples import write_examples
from compactnets.classification.judging import Judgement, check_suffix, judge, write_guesses
from compactnets.classification.networks import build_network
from compactnets.classification.prediction import COLUMNS, Guess, Prediction, as_predictions, guesses_of, predict
from compactnets.classification.preparation import network_of, open_splits, prepare
from compactnets.classification.quantization import quantize_model
from compactnets.classification.recipe import FROM_INIT, ClassificationRecipe
from compactnets.classification.setup import ClassificationSetup
from compactnets.console import say
from compactnets.data import ImageSource, Preprocess, open_source
from compactnets.data.checking import check_images, check_source
from compactnets.data.dividing import open_parts, share_of
from compactnets.data.inputs import Picture
from compactnets.data.opening import WORDS, open_quietly
from compactnets.data.report import SourceReport
from compactnets.deploy.int8.training import load_int8, prepare_int8
from compactnets.deploy.record import ArtifactRecord
from compactnets.deploy.subject import Classifier
from compactnets.errors import InputError
from compactnets.folders import check_file
from compactnets.quantization import QuantizeReport
from compactnets.tasks.contract import (
    DataRequest,
    ExportOptions,
    Model,
    Options,
    Predict,
    ProfileOptions,
    QuantizeOptions,
    Task,
    Verb,
)
from compactnets.training.checkpoint import read_record
from compactnets.training.distributed import World
from compactnets.training.loop import TrainResult


class TrainOptions(Options):
    """``train``."""

    qat: bool = Field(False, description="train the --init network with simulated int8 (quantisation-aware training)")
    teacher: str | None = Field(None, min_length=1, description="the recipe's distillation.teacher")


class EvaluateOptions(Options):
    """``eval``."""

    batch_size: int = Field(128, ge=1, description="images at once; the result does not depend on it")
    tta: Literal["flip"] | None = Field(None, description="also look at the mirror image, and take the mean")
    examples: Path | None = Field(
        None, description="HTML page to write, with the classes, and the worst and best images"
    )
    predictions: Path | None = Field(None, description="CSV or Parquet file to write, one row per image")


class PredictOptions(Options):
    """``predict``."""

    top: int = Field(5, ge=1, description="number of classes to return")
    batch_size: int | None = Field(None, ge=1, description="images at once; default: 1, or 64 with workers or parts")
    workers: int | None = Field(None, ge=0, description="processes that decode; default: none, or one a core for parts")


class Classification(Task[ClassificationRecipe]):
    """Images with labels."""

    name = "classification"
    recipe = ClassificationRecipe
    record = CheckpointRecord
    artifact = ArtifactRecord
    options = {
        "train": TrainOptions,
        "evaluate": EvaluateOptions,
        "predict": PredictOptions,
        "export": ExportOptions,
        "quantize": QuantizeOptions,
        "profile": ProfileOptions,
    }
    columns = COLUMNS
    images = "images with labels"

    def holds(self, name: str) -> bool:
        return name in WORDS or Path(name).expanduser().exists()

    def open_run(
        self, recipe: ClassificationRecipe, data: DataRequest, options: TrainOptions
    ) -> tuple[ImageSource, ImageSource]:
        name = data.only(self.name)
        train, val = open_splits(name, recipe.hold_out, recipe.split, download=data.download)
        say(f"{train!r}\n{val!r}")
        return train, val

    def open_split(self, model: Model, data: DataRequest, split: str, options: EvaluateOptions) -> ImageSource:
        name, share = data.only(self.name), share_of(split)
        source: ImageSource
        if share is not None:
            source = open_parts(name, share, download=data.download)[1]
        elif split in ("train", "val"):
            source = open_source(name, split, download=data.download)  # type: ignore[arg-type]
        else:
            raise InputError(
                f"--split must be train, val or a share such as 0.8 for images with labels, found {split!r}"
            )
        match_classes(model.record, source)
        if share is None and not getattr(source, "divided", True):
            note_trained(model.record, source)
        return source

    def check(self, data: DataRequest, split: str, options: Options) -> SourceReport:
        name = data.only(self.name)
        if (share := share_of(split)) is not None:
            return check_images(open_parts(name, share, download=data.download), workers=data.workers)
        if split not in ("train", "val", "both"):
            raise InputError(
                f"--split must be train, val, both or a share such as 0.8 for images with labels, found {split!r}"
            )
        opener = functools.partial(open_quietly, download=data.download)
        return check_source(name, split, workers=data.workers, opener=opener)  # type: ignore[arg-type]

    def setup(
        self,
        recipe: ClassificationRecipe,
        train: ImageSource,
        val: ImageSource,
        output: Path,
        init: Path | None,
        world: World,
        options: TrainOptions,
    ) -> ClassificationSetup:
        return ClassificationSetup(recipe, train, val, init, world, prepare_int8 if options.qat else prepare)

    def network_of(self, init: Path | None, options: TrainOptions, named: object) -> str | None:
        if options.qat:
            return network_of(init, "train --qat")
        return network_of(init, f"a recipe with model: {FROM_INIT}") if named == FROM_INIT else None

    def settings_of(self, options: TrainOptions) -> list[str]:
        return [] if options.teacher is None else [f"distillation.teacher={json.dumps(options.teacher)}"]

    def summarize(self, recipe: ClassificationRecipe, result: TrainResult) -> str:
        return (
            f"best top-1 {result.best:.2f} %, last {result.final['top1_percent']:.2f} %, after {result.epochs} epochs "
            f"in {result.seconds:.0f} s"
        )

    def load(self, path: Path, device: torch.device, options: Options) -> tuple[nn.Module, CheckpointRecord]:
        if read_record(path, CheckpointRecord).int8 is not None:
            return load_int8(path, device)  # the simulation of int8
        return load_checkpoint(path, device)

    def build(self, name: str, arguments: Mapping[str, Any]) -> tuple[nn.Module, CheckpointRecord]:
        return build_network(name, arguments)

    def evaluate(
        self, model: Model, source: ImageSource, split: str, workers: int, world: World, options: EvaluateOptions
    ) -> Judgement:
        judgement, guesses = judge(
            model.network,
            model.record,
            source,
            batch_size=options.batch_size,
            workers=workers,
            world=world,
            tta=options.tta,
        )
        if world.is_main and options.predictions is not None:
            write_guesses(options.predictions, source, guesses, model.class_names)
        if world.is_main and options.examples is not None:
            title = f"{model.record.model}: {source.spec} ({source.split})"
            write_examples(options.examples, source, judgement, guesses, model.record.labels, title)
        return judgement

    def check_outputs(self, verb: Verb, options: Options) -> None:
        if not isinstance(options, EvaluateOptions):
            return
        if options.examples is not None:
            check_file(options.examples, "--examples")
        if options.predictions is not None:
            check_suffix(options.predictions)
            check_file(options.predictions, "--predictions")

    def predict(
        self, model: Model, images: Iterable[str | Picture], every: int, options: PredictOptions
    ) -> Iterator[Prediction]:
        if options.batch_size is None and options.workers is None:
            return predict(model.network, model.record, images, options.top, every)
        return self._in_batches(model, images, every, options)

    def _in_batches(
        self, model: Model, images: Iterable[str | Picture], every: int, options: PredictOptions
    ) -> Iterator[Prediction]:
        with self._runner(model, every, options.model_copy(update={"workers": options.workers or 0})) as run:
            yield from as_predictions(run(images))

    @contextmanager
    def predicting(self, model: Model, every: int, options: PredictOptions) -> Iterator[Predict]:
        with self._runner(model, every, options) as run:
            yield lambda images: as_predictions(run(images))

    def _runner(self, model: Model, every: int, options: PredictOptions) -> closing[BatchRunner[tuple[Guess, ...]]]:
        runner: BatchRunner[tuple[Guess, ...]] = BatchRunner(
            model.network,
            Preprocess.from_dict(model.record.preprocess),
            model.device,
            lambda logits: guesses_of(model.record, logits, options.top),
            every=every,
            batch_size=options.batch_size or BATCH_SIZE,
            workers=options.workers,
        )
        return closing(runner)

    def subject(self, model: Model, verb: str) -> Classifier:
        return Classifier(model.network, model.record)

    def quantize(
        self, network: str | Path | Model, format_name: str, output: Path, options: QuantizeOptions
    ) -> QuantizeReport:
        size, other = options.image_size(), options.float_network
        return quantize_model(network, format_name, output, float_network=other, size=size, **options.arguments())

    def profile(self, name: str, arguments: Sequence[str], options: ProfileOptions) -> NetworkCost:
        return network_cost(name, arguments, **options.model_dump())


TASK = Classification()
