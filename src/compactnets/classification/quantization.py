"""int8 for classifiers: the images that it is calibrated and compared on, and networks trained for it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from torch import Tensor, nn
from torch.fx import GraphModule

from compactnets.classification.checkpoint import CheckpointRecord, check_float
from compactnets.classification.evaluation import match_classes
from compactnets.data import ImageSource, Preprocess, open_source
from compactnets.data.base import MissingSplitError, Split
from compactnets.data.dividing import open_parts
from compactnets.data.part import PartOfSource
from compactnets.deploy.formats.registry import Format
from compactnets.deploy.int8.comparison import Accuracy, compare_accuracy
from compactnets.deploy.int8.quantized import drop_output_quantizer, without_quantizers
from compactnets.deploy.int8.steps import Settings, check_names, read_pixels, spread_over
from compactnets.deploy.rewrite import deploy_form
from compactnets.deploy.subject import Classifier
from compactnets.errors import InputError
from compactnets.models.registry import create_model
from compactnets.quantization import Quantization, QuantizeReport, Start
from compactnets.quantization import quantize as quantize_subject
from compactnets.tasks.contract import Model
from compactnets.tasks.opening import open_to_write

Source = TypeVar("Source", bound=ImageSource)


def quantize_model(
    what: str | Path | Model,
    format_name: str,
    output: str | Path,
    *,
    float_network: str | Path | None = None,
    **options: Any,
) -> QuantizeReport:
    """Quantise a network given by path or name.

    Args:
        what: a checkpoint, or the name of weights or of a network.
        float_network: a float network to compare with, such as the one that int8 training started from, as ``what``.
        options: as for :func:`compactnets.quantization.quantize`.

    Raises:
        InputError: as there, or a network that cannot be quantised.
    """
    model, record = open_to_write(what, CheckpointRecord, "quantize")
    compared = None
    if float_network is not None:
        floating, its_record = open_to_write(float_network, CheckpointRecord, "quantize --float")
        check_float(its_record, float_network)
        compared = (str(float_network), floating, its_record)
    return quantize(model, record, format_name, output, float_network=compared, **options)


def quantize(
    model: nn.Module,
    record: CheckpointRecord,
    format_name: str,
    output: str | Path,
    *,
    float_network: tuple[str, nn.Module, CheckpointRecord] | None = None,
    size: tuple[int, int] | None = None,
    **options: Any,
) -> QuantizeReport:
    """Quantise a network given with its record; as :func:`quantize_model` otherwise.

    Args:
        size: height and width of the images, if they differ from the preprocessing's.
    """
    if size is not None:
        record = Classifier(model, record).resized(size).record
        if float_network is not None:
            name, floating, its_record = float_network
            float_network = (name, floating, Classifier(floating, its_record).resized(size).record)
    return quantize_subject(ClassifierQuantization(model, record, float_network), format_name, output, **options)


class ClassifierQuantization(Quantization):
    """A classifier, in float or the result of :func:`compactnets.deploy.int8.training.load_int8`."""

    subject: Classifier

    def __init__(
        self,
        model: nn.Module,
        record: CheckpointRecord,
        compared: tuple[str, nn.Module, CheckpointRecord] | None = None,
    ) -> None:
        """Take a network and its record.

        Args:
            compared: another float network to compare with: its name, the network and its record.
        """
        super().__init__(Classifier(model, record))
        self.record, self.compared = record, compared
        self.facts = {"trained_for_int8": None if record.int8 is None else record.int8.model_dump()}
        if record.int8 is None:
            self.advice = "train it for int8 ('compactnets train cifar/qat --qat --init CHECKPOINT …'), or allow more"
        else:
            self.advice = "train longer, or allow more"
        self.what = compared[0] if compared else self.what

    def take(self, calibration: str, evaluation: str, count: int) -> None:
        self.images, self.rest = disjoint_sources(
            self.record, calibration, evaluation, count, open_one=open_source, open_both=open_parts, part=PartOfSource
        )
        self.class_map = match_classes(self.record, self.rest)
        if self.compared is not None:
            name, _, record = self.compared
            for field in ("class_names", "preprocess"):
                if getattr(record, field) != getattr(self.record, field):
                    raise InputError(f"{name} and the network to quantise differ in {field}: they cannot be compared")

    def pixels(self) -> Tensor:
        return read_pixels(self.images, Preprocess.from_dict(self.record.preprocess))

    def compare(self, fmt: Format, plain: Path, int8: Path) -> Accuracy:
        return compare_accuracy(
            fmt, plain, int8, self.rest, Preprocess.from_dict(self.record.preprocess), self.class_map
        )

    def graph(self, model: nn.Module, fmt: Format) -> GraphModule:
        if self.record.int8 is None:
            return super().graph(model, fmt)
        assert isinstance(model, GraphModule)
        return model

    def start(self, model: nn.Module, fmt: Format, pixels: Tensor, settings: Settings) -> Start:
        start = (
            super().start(model, fmt, pixels, settings)
            if self.record.int8 is None
            else self._trained(model, fmt, settings)
        )
        return start if self.compared is None else replace(start, floating=deploy_form(self.compared[1]))

    def _trained(self, model: nn.Module, fmt: Format, settings: Settings) -> Start:
        assert isinstance(model, GraphModule)
        assert self.record.int8 is not None
        settings = replace(
            settings,
            ranges="trained",
            equalize=False,
            rounding=False,
            correction=False,
            weight_bits=self.record.int8.weight_bits,
        )
        reference = model if fmt.int8_output else drop_output_quantizer(model)
        check_names(reference, settings.keep)
        counted = create_model(self.record.model, **self.record.arguments).eval()
        return Start(reference, without_quantizers(model), counted, settings)


def disjoint_sources(
    record: CheckpointRecord,
    calibration: str,
    evaluation: str,
    count: int,
    *,
    open_one: Callable[[str, Split], Source],
    open_both: Callable[[str, float], tuple[Source, Source]],
    part: Callable[[Source, list[int]], Source],
) -> tuple[Source, Source]:
    """Return the images to calibrate on and those to evaluate on, without overlap.

    Of an undivided source that the network was trained on a share of, it is calibrated on that share and evaluated on
    the rest.

    Args:
        open_one: opens a split of a source.
        open_both: opens an undivided source, by the share to train on.
        part: takes some images of a source.

    Raises:
        InputError: sources that cannot be opened, or no image left to evaluate on.
    """
    rest = open_one(evaluation, "val")
    share = record.share_trained(evaluation)
    if share is not None and calibration == evaluation and not getattr(rest, "divided", True):
        trained, rest = open_both(evaluation, share)
        return part(trained, spread_over(trained, count).tolist()), rest
    try:
        images = open_one(calibration, "train")
    except MissingSplitError:
        images = open_one(calibration, "val")
    chosen = spread_over(images, count)
    if (images.fingerprint(), images.content()) == (rest.fingerprint(), rest.content()):
        left = np.setdiff1d(np.arange(len(rest)), chosen)
        if not len(left):
            raise InputError(
                f"{evaluation} has {len(rest)} images, all used for calibration: choose another --eval, or fewer "
                "--calibration-images"
            )
        rest = part(rest, left.tolist())
    return part(images, chosen.tolist()), rest
