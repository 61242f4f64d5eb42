"""Several labels per image as a task (:mod:`compactnets.tasks.contract`)."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path

import torch
from pydantic import Field
from torch import nn

from compactnets.classification.batches import BATCH_SIZE, BatchRunner
from compactnets.classification.cost import NetworkCost, network_cost
from compactnets.classification.evaluation import match_classes, note_trained
from compactnets.classification.prediction import Guess
from compactnets.classification.preparation import network_of
from compactnets.classification.recipe import FROM_INIT
from compactnets.console import say
from compactnets.data import Preprocess
from compactnets.data.checking import check_images, check_source
from compactnets.data.dividing import share_of
from compactnets.data.inputs import Picture
from compactnets.data.report import SourceReport
from compactnets.errors import InputError
from compactnets.multilabel.checkpoint import NAME, MultilabelRecord, load_multilabel, record_type
from compactnets.multilabel.data import LabelsSource, holds_labels, open_divided, open_labels
from compactnets.multilabel.export import MultilabelArtifact, MultilabelSubject
from compactnets.multilabel.metrics import LabelsScore, measure_on
from compactnets.multilabel.prediction import COLUMNS, ImageLabels, as_labels, labels_of
from compactnets.multilabel.quantization import LabelsQuantization
from compactnets.multilabel.recipe import MultilabelRecipe
from compactnets.multilabel.setup import MultilabelSetup
from compactnets.quantization import QuantizeReport, quantize
from compactnets.tasks.contract import (
    DataRequest,
    ExportOptions,
    Model,
    Options,
    Predict,
    ProfileOptions,
    QuantizeOptions,
    Task,
)
from compactnets.tasks.opening import open_to_write
from compactnets.training.distributed import World
from compactnets.training.loop import TrainResult


class EvaluateOptions(Options):
    """``eval``."""

    batch_size: int = Field(128, ge=1, description="images at once; the result does not depend on it")
    score: float | None = Field(None, gt=0, lt=1, description="the threshold; default: that of the record")


class PredictOptions(Options):
    """``predict``."""

    score: float | None = Field(None, ge=0, le=1, description="least probability; default: the threshold of the record")
    batch_size: int | None = Field(None, ge=1, description="images at once; default: 1, or 64 with workers or parts")
    workers: int | None = Field(None, ge=0, description="processes that decode; default: none, or one a core for parts")


class Multilabel(Task[MultilabelRecipe]):
    """Images with several labels."""

    name = NAME
    recipe = MultilabelRecipe
    record = MultilabelRecord
    artifact = MultilabelArtifact
    options = {
        "evaluate": EvaluateOptions,
        "predict": PredictOptions,
        "export": ExportOptions,
        "quantize": QuantizeOptions,
        "profile": ProfileOptions,
    }
    columns = COLUMNS
    images = "images with several labels"

    def holds(self, name: str) -> bool:
        return holds_labels(name)

    def open_run(
        self, recipe: MultilabelRecipe, data: DataRequest, options: Options
    ) -> tuple[LabelsSource, LabelsSource]:
        data.refuse_download(self.name)
        name = data.only(self.name)
        if recipe.split is not None:
            train, val = open_divided(name, recipe.split)
        else:
            train, val = open_labels(name, "train"), open_labels(name, "val")
        say(f"{train!r}\n{val!r}")
        return train, val

    def open_split(self, model: Model, data: DataRequest, split: str, options: EvaluateOptions) -> LabelsSource:
        data.refuse_download(self.name)
        name, share = data.only(self.name), share_of(split)
        if share is not None:
            source = open_divided(name, share)[1]
        elif split in ("train", "val"):
            source = open_labels(name, split)  # type: ignore[arg-type]
        else:
            raise InputError(f"--split must be train, val or a share such as 0.8 for {self.images}, found {split!r}")
        match_classes(model.record, source)
        if not source.tags.any():
            raise InputError(f"{name}: no image of {split} has a label")
        if share is None and not source.divided:
            note_trained(model.record, source)
        return source

    def setup(
        self,
        recipe: MultilabelRecipe,
        train: LabelsSource,
        val: LabelsSource,
        output: Path,
        init: Path | None,
        world: World,
        options: Options,
    ) -> MultilabelSetup:
        return MultilabelSetup(recipe, train, val, init, world)

    def network_of(self, init: Path | None, options: Options, named: object) -> str | None:
        if named != FROM_INIT:
            return None
        return network_of(init, f"a recipe with model: {FROM_INIT}", record_type(init))

    def summarize(self, recipe: MultilabelRecipe, result: TrainResult) -> str:
        return f"best mAP {result.best:.2f} % after {result.epochs} epochs in {result.seconds:.0f} s"

    def load(self, path: Path, device: torch.device, options: Options) -> tuple[nn.Module, MultilabelRecord]:
        return load_multilabel(path, device)

    def evaluate(
        self, model: Model, source: LabelsSource, split: str, workers: int, world: World, options: EvaluateOptions
    ) -> LabelsScore:
        return measure_on(
            model.network,
            model.record,
            source,
            world,
            batch_size=options.batch_size,
            workers=workers,
            threshold=options.score,
        )

    def predict(
        self, model: Model, images: Iterable[str | Picture], every: int, options: PredictOptions
    ) -> Iterator[ImageLabels]:
        few = {"batch_size": options.batch_size or 1, "workers": options.workers or 0}
        if options.workers is not None and options.batch_size is None:
            few["batch_size"] = BATCH_SIZE
        least = _threshold(model, options)
        with self._runner(model, every, options.model_copy(update=few)) as run:
            yield from as_labels(run(images), least)

    @contextmanager
    def predicting(self, model: Model, every: int, options: PredictOptions) -> Iterator[Predict]:
        least = _threshold(model, options)
        with self._runner(model, every, options) as run:
            yield lambda images: as_labels(run(images), least)

    def _runner(self, model: Model, every: int, options: PredictOptions) -> closing[BatchRunner[tuple[Guess, ...]]]:
        record, least = model.record, _threshold(model, options)
        runner: BatchRunner[tuple[Guess, ...]] = BatchRunner(
            model.network,
            Preprocess.from_dict(record.preprocess),
            model.device,
            lambda logits: labels_of(record, logits, least),
            every=every,
            batch_size=options.batch_size or BATCH_SIZE,
            workers=options.workers,
        )
        return closing(runner)

    def check(self, data: DataRequest, split: str, options: Options) -> SourceReport:
        data.refuse_download(self.name)
        name, share = data.only(self.name), share_of(split)
        if share is not None:
            return check_images(open_divided(name, share), workers=data.workers)
        if split not in ("train", "val", "both"):
            raise InputError(
                f"--split must be train, val, both or a share such as 0.8 for {self.images}, found {split!r}"
            )
        return check_source(name, split, workers=data.workers, opener=open_labels)  # type: ignore[arg-type]

    def subject(self, model: Model, verb: str) -> MultilabelSubject:
        return MultilabelSubject(model.network, model.record)

    def quantize(
        self, network: str | Path | Model, format_name: str, output: Path, options: QuantizeOptions
    ) -> QuantizeReport:
        if options.float_network is not None:
            raise InputError(f"--float is for images with one label: for {self.images}, int8 is compared with float")
        size = options.image_size()
        subject = MultilabelSubject(*open_to_write(network, MultilabelRecord, "quantize"))
        subject = subject if size is None else subject.resized(size)
        return quantize(LabelsQuantization(subject), format_name, output, **options.arguments())

    def profile(self, name: str, arguments: Sequence[str], options: ProfileOptions) -> NetworkCost:
        return network_cost(name, arguments, kind=MultilabelRecord, **options.model_dump())


def _threshold(model: Model, options: EvaluateOptions | PredictOptions) -> float:
    return float(model.record.threshold if options.score is None else options.score)


TASK = Multilabel()
