"""Detection as a task (:mod:`compactnets.tasks.contract`)."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from pydantic import Field
from torch import nn

from compactnets.console import say
from compactnets.data.dividing import share_of
from compactnets.data.inputs import Picture
from compactnets.deploy.tables import ExportReport
from compactnets.detection.anchors import AnchorFit, check_anchors
from compactnets.detection.checkpoint import DetectorRecord, load_detector
from compactnets.detection.cost import DetectorCost, detector_cost, planned_record
from compactnets.detection.data.base import DetectionSource
from compactnets.detection.data.checking import ALL, check_detection
from compactnets.detection.data.opening import is_detection, open_detection, open_run, without_others
from compactnets.detection.data.report import DetectionReport
from compactnets.detection.data.reviewing import review
from compactnets.detection.deploy.artifact import DetectorArtifact
from compactnets.detection.deploy.export import export_detector
from compactnets.detection.deploy.runtime import load_detector_artifact
from compactnets.detection.evaluation import evaluate_on
from compactnets.detection.examples import write_examples
from compactnets.detection.metrics import METRIC_TITLES, Metric
from compactnets.detection.prediction import COLUMNS, ImageObjects, predict_objects
from compactnets.detection.recipe import DetectionRecipe
from compactnets.detection.results import CocoIds, write_coco_results
from compactnets.detection.setup import ANCHORS, DetectionScore, DetectionSetup, review_run, write_page
from compactnets.detection.tables import show_artifact
from compactnets.errors import InputError
from compactnets.folders import check_file, check_folder
from compactnets.tasks.contract import DataRequest, Model, Options, Task, Verb
from compactnets.training.checkpoint import read_record
from compactnets.training.distributed import World
from compactnets.training.loop import TrainResult
from compactnets.training.recipe_files import load_recipe
from compactnets.training.state import read_run
from compactnets.values import parse_size

SMALL = ("small/faster_rcnn", "small/ssd512")  # recipes whose anchors a data check compares with the objects
SUFFIX = ".safetensors"


class LoadOptions(Options):
    """Options for opening a detector."""

    class_agnostic_nms: bool = False


class EvaluateOptions(Options):
    """``eval``."""

    metric: Metric = "voc07"
    bad_boxes: Literal["raise", "drop"] = "raise"
    on_error: Literal["raise", "skip"] = "raise"
    examples: Path | None = Field(None, description="HTML page to write, with the best and worst images")


class PredictOptions(Options):
    """``predict``."""

    output: Path | None = Field(None, description="folder for the images with their boxes drawn")
    score: float = Field(0.5, ge=0, le=1, description="least score of a box")
    coco: Path | None = Field(None, description="file of results for COCO's tools")
    annotations: Path | None = Field(None, description="COCO file with the ids for the results")


class ExportOptions(Options):
    """``export``; see :func:`compactnets.detection.deploy.export.export_detector`."""

    heads: Literal["boxes", "raw"] | None = None
    size: str | int | None = None
    precision: str = "float32"
    tolerance: float | None = None


class ProfileOptions(Options):
    """``profile``."""

    input_size: tuple[int, int, int] | None = None
    detector: Literal["faster_rcnn", "ssd"] | None = None
    recipe: str | None = None
    num_classes: int | None = None


class CheckOptions(Options):
    """``data check``."""

    recipe: Sequence[str] = SMALL


@dataclass(frozen=True)
class CheckedData:
    """The report on images with boxes, and how anchors fit them: split -> one entry per recipe."""

    report: DetectionReport
    anchors: dict[str, list[AnchorFit]]

    @property
    def clean(self) -> bool:
        """Whether there is no problem."""
        return self.report.clean

    def to_dict(self) -> dict[str, Any]:
        """Return everything, for JSON."""
        anchors = {name: [fit.to_dict() for fit in found] for name, found in self.anchors.items()}
        return {**self.report.to_dict(), **({"anchors": anchors} if anchors else {})}

    def lines(self, limit: int) -> Iterator[str]:
        """Yield the lines of text."""
        yield from self.report.lines(limit)
        yield from (f"{name}: {fit}" for name, found in self.anchors.items() for fit in found)


class Detection(Task[DetectionRecipe]):
    """Images with boxes."""

    name = "detection"
    recipe = DetectionRecipe
    record = DetectorRecord
    artifact = DetectorArtifact
    options = {
        "load": LoadOptions,
        "evaluate": EvaluateOptions,
        "predict": PredictOptions,
        "export": ExportOptions,
        "profile": ProfileOptions,
        "check": CheckOptions,
    }
    columns = COLUMNS
    needs_all = ("output", "coco", "annotations")
    images = "images with boxes"

    def describe(self, record: DetectorRecord) -> str:
        return f"{record.detector} on {record.model}"

    def holds(self, name: str) -> bool:
        return is_detection(name)

    def open_run(
        self, recipe: DetectionRecipe, data: DataRequest, options: Options
    ) -> tuple[DetectionSource, DetectionSource]:
        data.refuse_download(self.name)
        return open_run(
            list(data.names), recipe.train_split, recipe.val_split, share=recipe.split, classes=recipe.classes
        )

    def open_split(self, model: Model, data: DataRequest, split: str, options: EvaluateOptions) -> DetectionSource:
        data.refuse_download(self.name)
        share = share_of(split)
        names = model.record.class_names
        source = open_detection(list(data.names), "val" if share else split, class_names=names, share=share)
        if model.record.training.get("recipe", {}).get("classes"):  # chosen from the classes of its data
            source = without_others(source)
        return review(
            source,
            "val",
            bad_boxes=options.bad_boxes,
            on_error=options.on_error,
            workers=data.workers or 0,
            # an undecodable image ends the evaluation when it is reached, unless it may be skipped
            decode=options.on_error == "skip",
        )

    def check(self, data: DataRequest, split: str, options: CheckOptions) -> CheckedData:
        if data.download:
            say(f"note: --download has no effect on the folder {data.text}")
        names, share = list(data.names), share_of(split)
        recipes = {name: load_recipe(DetectionRecipe, name) for name in options.recipe}
        report = check_detection(names, ALL if share else split, workers=data.workers, share=share)
        try:
            fits = check_anchors(names, recipes, None if share or split == ALL else split, share=share)
        except InputError as error:  # also for a split that was not requested
            if options.recipe != SMALL:
                raise
            fits = {}
            say(f"note: anchors are not compared with the objects: {error}")
        return CheckedData(report, fits)

    def setup(
        self,
        recipe: DetectionRecipe,
        train: DetectionSource,
        val: DetectionSource,
        output: Path,
        init: Path | None,
        world: World,
        options: Options,
    ) -> DetectionSetup:
        train, val = review_run(recipe, train, val)
        found = read_run(output) or {}
        return DetectionSetup(recipe, train, val, init, world, found.get(ANCHORS))

    def summarize(self, recipe: DetectionRecipe, result: TrainResult) -> str:
        return (
            f"best {METRIC_TITLES[recipe.metric]} {result.best:.2f} % after {result.epochs} epochs in "
            f"{result.seconds:.0f} s"
        )

    def finish(self, setup: DetectionSetup, output: Path, world: World) -> None:
        if world.is_main:
            write_page(setup.recipe, setup.val_source, output, world)

    def load(self, path: Path, device: torch.device, options: LoadOptions) -> tuple[nn.Module, DetectorRecord]:
        return load_detector(path, device, class_agnostic_nms=options.class_agnostic_nms)

    def load_artifact(self, path: Path, threads: int | None, options: LoadOptions) -> tuple[nn.Module, DetectorRecord]:
        detector = load_detector_artifact(path, threads, class_agnostic_nms=options.class_agnostic_nms)
        return detector, detector.artifact.network

    def evaluate(
        self,
        model: Model,
        source: DetectionSource,
        split: str,
        workers: int,
        world: World,
        options: EvaluateOptions,
    ) -> DetectionScore:
        evaluator, seconds = evaluate_on(
            model.network,
            source,
            metric=options.metric,
            bad_boxes=options.bad_boxes,
            workers=workers,
            world=world,
        )
        if options.examples is not None and world.is_main:
            write_examples(options.examples, evaluator, source)
        return DetectionScore(evaluator.compute(), seconds)

    def predict(
        self, model: Model, images: Iterable[str | Picture], every: int, options: PredictOptions
    ) -> Iterator[ImageObjects]:
        if options.coco is not None:
            CocoIds(model.record.class_names, options.annotations)  # reports errors before the work
        return predict_objects(model.network, model.record, images, options.output, options.score, every)

    def check_outputs(self, verb: Verb, options: Any) -> None:
        if isinstance(options, EvaluateOptions) and options.examples is not None:
            check_file(options.examples, "--examples")
        if not isinstance(options, PredictOptions):
            return
        if options.coco is not None:
            check_file(options.coco, "--coco")
        if options.output is not None:
            check_folder(options.output)
        if options.annotations is not None and options.coco is None:
            raise InputError("--annotations gives the ids of --coco FILE, which is missing")

    def write_predictions(self, model: Model, predictions: Sequence[ImageObjects], options: PredictOptions) -> None:
        if options.coco is not None:
            write_coco_results(options.coco, predictions, CocoIds(model.record.class_names, options.annotations))

    def export(self, model: Model, output: Path, format_name: str, options: ExportOptions) -> ExportReport:
        fixed = None if options.size is None else parse_size(str(options.size))
        record = export_detector(
            model.network,
            model.record,
            output,
            format_name=format_name,
            heads=options.heads,
            size=fixed,
            tolerance=options.tolerance,
            precision=options.precision,
        )
        return ExportReport(record, output, show_artifact)

    def profile(self, name: str, arguments: Sequence[str], options: ProfileOptions) -> DetectorCost:
        if options.input_size is not None and options.input_size[0] != 3:
            raise InputError(f"a detector takes images of 3 channels, found --input-size {options.input_size[0]} ...")
        if name.endswith(SUFFIX):
            given = {"detector": options.detector, "recipe": options.recipe, "num-classes": options.num_classes}
            if wrong := [key for key, value in {**given, "set": arguments}.items() if value]:
                raise InputError(f"--{wrong[0]} has no effect on a checkpoint: remove it")
            record = read_record(name, DetectorRecord)
        else:
            record = planned_record(name, options.detector, options.recipe, options.num_classes, arguments)
        return detector_cost(record, None if options.input_size is None else options.input_size[1:])


TASK = Detection()
