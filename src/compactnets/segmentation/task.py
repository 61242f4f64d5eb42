"""Segmentation as a task (:mod:`compactnets.tasks.contract`)."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, Literal

import torch
from pydantic import Field
from torch import nn

from compactnets.console import say
from compactnets.data.base import shorten
from compactnets.data.inputs import Picture
from compactnets.errors import InputError
from compactnets.folders import check_file, check_folder
from compactnets.quantization import QuantizeReport, quantize
from compactnets.segmentation.checking import Frequencies, MaskReport, check_masks, survey
from compactnets.segmentation.checkpoint import SegmenterRecord, load_segmenter
from compactnets.segmentation.cost import SegmenterCost, planned_record, segmenter_cost
from compactnets.segmentation.data import MaskSource, find_masks, holds_masks
from compactnets.segmentation.examples import evaluate_and_show
from compactnets.segmentation.export import SegmenterArtifact, SegmenterSubject
from compactnets.segmentation.metrics import SegmentationScore, library
from compactnets.segmentation.prediction import COLUMNS, ImageClasses, predict_masks
from compactnets.segmentation.quantization import SegmenterQuantization
from compactnets.segmentation.recipe import SegmentationRecipe
from compactnets.segmentation.setup import SegmentationSetup, evaluate_on
from compactnets.tasks.contract import DataRequest, ExportOptions, Model, Options, QuantizeOptions, Task, Verb
from compactnets.tasks.opening import open_to_write
from compactnets.training.checkpoint import read_record
from compactnets.training.distributed import World
from compactnets.training.loop import TrainResult
from compactnets.training.recipe_files import load_recipe

SUFFIX = ".safetensors"


class EvaluateOptions(Options):
    """``eval``."""

    examples: Path | None = Field(None, description="HTML page to write, with the best and worst images")


class PredictOptions(Options):
    """``predict``."""

    output: Path | None = Field(None, description="folder for masks and overlays")


class ProfileOptions(Options):
    """``profile``."""

    input_size: tuple[int, int, int] | None = None
    head: Literal["lraspp", "deeplabv3plus"] | None = None
    output_stride: int | None = None
    recipe: str | None = None
    num_classes: int | None = None


class CheckOptions(Options):
    """``data check``."""

    recipe: Sequence[str] = ()


class Segmentation(Task[SegmentationRecipe]):
    """Images with masks."""

    name = "segmentation"
    recipe = SegmentationRecipe
    record = SegmenterRecord
    artifact = SegmenterArtifact
    options = {
        "evaluate": EvaluateOptions,
        "predict": PredictOptions,
        "export": ExportOptions,
        "quantize": QuantizeOptions,
        "profile": ProfileOptions,
        "check": CheckOptions,
    }
    columns = COLUMNS
    needs_all = ("output",)
    images = "images with masks"

    def describe(self, record: SegmenterRecord) -> str:
        return record.title

    def holds(self, name: str) -> bool:
        return holds_masks(name)

    def open_run(
        self, recipe: SegmentationRecipe, data: DataRequest, options: Options
    ) -> tuple[MaskSource, MaskSource]:
        data.refuse_download(self.name)
        library()  # reports a missing one before the first epoch
        tree = find_masks(data.only(self.name))
        if recipe.classes and tree.class_names and recipe.classes != tree.class_names:
            raise InputError(
                f"{tree.spec} states the classes {shorten(tree.class_names, 30)}; the recipe has "
                f"{shorten(recipe.classes, 30)}: add --set classes=null to take the data's (small/lraspp does)"
            )
        train, val = (
            tree.open(split, recipe.classes, recipe.ignore) for split in (recipe.train_split, recipe.val_split)
        )
        say(f"{train!r}\n{val!r}")
        return train, val

    def open_split(self, model: Model, data: DataRequest, split: str, options: EvaluateOptions) -> MaskSource:
        data.refuse_download(self.name)
        record: SegmenterRecord = model.record
        tree = find_masks(data.only(self.name))
        source = tree.open(split, record.class_names, record.ignore)
        survey(source, decode=False)
        return source

    def check(self, data: DataRequest, split: str, options: CheckOptions) -> MaskReport:
        if data.download:
            say(f"note: --download has no effect on the folder {data.text}")
        if len(options.recipe) > 1:
            raise InputError(f"the masks are checked with the classes of one recipe, found {len(options.recipe)}")
        plan = load_recipe(SegmentationRecipe, options.recipe[0]) if options.recipe else None
        return check_masks(
            data.only(self.name),
            None if split == "both" else [split],
            class_names=plan.classes if plan else None,
            ignore=plan.ignore if plan else (),
            workers=data.workers,
        )

    def setup(
        self,
        recipe: SegmentationRecipe,
        train: MaskSource,
        val: MaskSource,
        output: Path,
        init: Path | None,
        world: World,
        options: Options,
    ) -> SegmentationSetup:
        frequencies: Frequencies = survey(train, decode=False)
        survey(val, decode=True)  # a run first meets these images at the end of an epoch
        return SegmentationSetup(recipe, train, val, frequencies, init, world)

    def summarize(self, recipe: SegmentationRecipe, result: TrainResult) -> str:
        return f"best mIoU {result.best:.2f} % after {result.epochs} epochs in {result.seconds:.0f} s"

    def finish(self, setup: SegmentationSetup, output: Path, world: World) -> None:
        page, best = output / "examples.html", output / "best.safetensors"
        if world.is_main and not (page.exists() and page.stat().st_mtime >= best.stat().st_mtime):
            network, record = load_segmenter(best, world.device)
            evaluate_and_show(page, network, record, setup.val_source, World(world.device))

    def load(self, path: Path, device: torch.device, options: Options) -> tuple[nn.Module, SegmenterRecord]:
        return load_segmenter(path, device)

    def evaluate(
        self, model: Model, source: MaskSource, split: str, workers: int, world: World, options: EvaluateOptions
    ) -> SegmentationScore:
        if options.examples is not None:
            return evaluate_and_show(options.examples, model.network, model.record, source, world, workers)
        return evaluate_on(model.network, model.record, source, world, workers)

    def predict(
        self, model: Model, images: Iterable[str | Picture], every: int, options: PredictOptions
    ) -> Iterator[ImageClasses]:
        return predict_masks(model.network, model.record, model.device, images, options.output, every)

    def check_outputs(self, verb: Verb, options: Any) -> None:
        if isinstance(options, EvaluateOptions) and options.examples is not None:
            check_file(options.examples, "--examples")
        if isinstance(options, PredictOptions) and options.output is not None:
            check_folder(options.output)

    def subject(self, model: Model, verb: str) -> SegmenterSubject:
        return SegmenterSubject(model.network, model.record)

    def quantize(
        self, network: str | Path | Model, format_name: str, output: Path, options: QuantizeOptions
    ) -> QuantizeReport:
        if options.float_network is not None:
            raise InputError("--float is for images with labels: a segmenter is compared with its own weights")
        size = options.image_size()
        subject = SegmenterSubject(*open_to_write(network, SegmenterRecord, "quantize"))
        subject = subject if size is None else subject.resized(size)
        return quantize(SegmenterQuantization(subject), format_name, output, **options.arguments())

    def profile(self, name: str, arguments: Sequence[str], options: ProfileOptions) -> SegmenterCost:
        if options.input_size is not None and options.input_size[0] != 3:
            raise InputError(f"a segmenter takes images of 3 channels, found --input-size {options.input_size[0]} ...")
        size = None if options.input_size is None else options.input_size[1:]
        given = options.model_dump(exclude={"input_size"}, exclude_none=True)
        if not name.endswith(SUFFIX):
            return segmenter_cost(planned_record(name, settings=arguments, **{"head": None, **given}), size)
        if wrong := [*given, *(["set"] if arguments else [])]:
            raise InputError(f"--{wrong[0].replace('_', '-')} has no effect on a checkpoint: remove it")
        return segmenter_cost(read_record(name, SegmenterRecord), size)


TASK = Segmentation()
