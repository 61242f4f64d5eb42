"""Quantise a checkpoint to an int8 artifact, and measure its accuracy and latency against float."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.fx import GraphModule

from compactnets.classification.checkpoint import CheckpointRecord, check_float
from compactnets.classification.evaluation import match_classes
from compactnets.console import say, stages
from compactnets.data import ImageSource, Preprocess, open_source
from compactnets.data.base import MissingSplitError
from compactnets.data.part import PartOfSource
from compactnets.deploy.export import check_output, finish_artifact, weight_bytes, weights_digest
from compactnets.deploy.formats.registry import Format, find_format
from compactnets.deploy.int8.comparison import Comparison, compare_accuracy
from compactnets.deploy.int8.graph import plain_graph
from compactnets.deploy.int8.layers import Mode
from compactnets.deploy.int8.noise import layer_errors, relative_error, sensitivities
from compactnets.deploy.int8.quantized import (
    drop_output_quantizer,
    quantized_network,
    set_mode,
    without_quantizers,
)
from compactnets.deploy.int8.ranges import check_method
from compactnets.deploy.int8.steps import (
    IMAGES_AT_ONCE,
    Settings,
    calibrated,
    check_names,
    read_pixels,
    settled,
    spread_over,
)
from compactnets.deploy.record import LAYERS, ArtifactRecord, size_in_bytes
from compactnets.deploy.rewrite import deploy_form
from compactnets.deploy.tables import show_quantized
from compactnets.deploy.verify import example_input
from compactnets.errors import InputError, LimitError
from compactnets.failures import Space, one_line, scratch_folder
from compactnets.files import as_path, json_text
from compactnets.folders import writing
from compactnets.latency.benchmark import Entry, Variant, measure
from compactnets.models.registry import create_model
from compactnets.tasks.contract import Model
from compactnets.tasks.opening import open_to_write

TOLERANCE_INT8 = 0.25  # of the logits' standard deviation: a value near a rounding boundary may go either way
IN_FLOAT = (2, 4, 8, 16)  # parts kept in float, tried in this order while the drop is too large
PROBES = 16  # images for measuring sensitivities
TRAIN = "train it for int8 ('compactnets train cifar/qat --qat --init CHECKPOINT …'), or allow more"


@dataclass(frozen=True)
class QuantizeReport:
    """An int8 artifact, its report and its folder."""

    record: ArtifactRecord
    report: dict[str, Any]
    output: Path

    def to_dict(self) -> dict[str, Any]:
        """Return everything, for JSON."""
        return {"output": str(self.output), **self.record.model_dump(mode="json"), "quantization": self.report}

    def show(self) -> None:
        """Print its accuracy, latency and size against float."""
        show_quantized(self.record, self.report, self.output)


def quantize_model(
    what: str | Path | Model,
    format_name: str,
    output: str | Path,
    *,
    float_network: str | Path | None = None,
    settings: Mapping[str, Any] | None = None,
    **others: Any,
) -> QuantizeReport:
    """Quantise a network given by path or name; see :func:`quantize`.

    Args:
        what: a checkpoint, or the name of weights or of a network.
        float_network: a float network to compare with, as ``what``.
        settings: fields of :class:`compactnets.deploy.int8.Settings`.
        others: as for :func:`quantize`.

    Raises:
        InputError: as :func:`quantize`, or a network that cannot be quantised.
    """
    model, record = open_to_write(what, CheckpointRecord, "quantize")
    compared = None
    if float_network is not None:
        floating, its_record = open_to_write(float_network, CheckpointRecord, "quantize --float")
        check_float(its_record, float_network)
        compared = (str(float_network), floating, its_record)
    chosen = Settings(**settings) if settings else None
    return QuantizeReport(
        *quantize(model, record, format_name, output, settings=chosen, float_network=compared, **others),
        as_path(output),
    )


def quantize(
    model: nn.Module,
    network: CheckpointRecord,
    format_name: str,
    output: str | Path,
    *,
    calibration: str,
    evaluation: str,
    max_drop: float,
    settings: Settings | None = None,
    threads: int = 1,
    rounds: int = 100,
    command: Sequence[str] = (),
    float_network: tuple[str, nn.Module, CheckpointRecord] | None = None,
) -> tuple[ArtifactRecord, dict[str, Any]]:
    """Quantise a trained network to int8 and keep the artifact if it loses no more than ``max_drop``.

    If the drop is larger, the parts that hurt most on calibration images are kept in float, more each time. A network
    trained for int8 keeps its weights and ranges. Calibration images then only rank its parts and give the error of
    each layer, and the float reference is the same network without its quantizers.

    Args:
        model: the network, or the result of :func:`compactnets.deploy.int8.training.load_int8`.
        network: its record.
        format_name: ``"onnx"``, ``"openvino"`` or ``"executorch"``.
        output: folder for the artifact, as for :func:`compactnets.deploy.export`.
        calibration: source of the images to calibrate on (its training images, where it has some).
        evaluation: source of the images to compare float and int8 on; images that were calibrated on are left out.
        max_drop: points of top-1 accuracy.
        settings: how to quantise.
        threads: threads of the runtime while latency is measured.
        rounds: turns of the latency measurement.
        command: the command line, for the report.
        float_network: another float network to compare with, such as the one that int8 training started from: its name,
            the network and its record.

    Returns:
        the artifact's record, and the report written next to it.

    Raises:
        InputError: a format without int8, sources or a network that cannot be used, an output folder in use.
        LimitError: the drop is past ``max_drop``, or the artifact does not compute what the simulation does; nothing is
            left behind.
    """
    output = as_path(output)
    settings = settings or Settings()
    fmt = int8_format(format_name)
    if not -100 <= max_drop <= 100:
        raise InputError(f"--max-drop must be points from -100 to 100, found {max_drop:g}")
    check_method(settings.ranges)
    check_output(output)
    space = Space(output, weight_bytes(model) // 4, weight_bytes(model))
    space.check()
    model = copy.deepcopy(model).cpu().float().eval()
    if settings.keep:  # before any image is read, and again on the network that is written
        with one_line(f"{network.model} cannot be quantised for {fmt.name}"):
            check_names(_names_of(model, network, fmt), settings.keep)
    images, rest = _sources(calibration, evaluation, settings.calibration_images)
    class_map = match_classes(network, rest)
    if float_network is not None:
        _check_comparable(*float_network, network)
    with one_line(f"{network.model} cannot be quantised for {fmt.name}", space):
        return _quantize(
            fmt,
            model,
            network,
            output,
            images,
            rest,
            class_map,
            sources=(calibration, evaluation),
            max_drop=max_drop,
            settings=settings,
            threads=threads,
            rounds=rounds,
            command=command,
            float_network=float_network,
        )


def _names_of(model: nn.Module, network: CheckpointRecord, fmt: Format) -> GraphModule:
    """Return a quantised network that has the names of layers and quantizers, but no ranges yet."""
    if network.int8 is not None:
        assert isinstance(model, GraphModule)
        return model
    example = example_input(Preprocess.from_dict(network.preprocess))
    return quantized_network(plain_graph(copy.deepcopy(model), example), quantize_output=fmt.int8_output)


@dataclass(frozen=True)
class _Start:
    """What quantisation starts from.

    Attributes:
        reference: the calibrated network, its quantizers off.
        floating: the float network to compare with.
        counted: the network whose multiply-adds and weights the record states.
        settings: how to quantise; a network trained for int8 keeps its own ranges and roundings.
    """

    reference: GraphModule
    floating: nn.Module
    counted: nn.Module
    settings: Settings


def _start(fmt: Format, model: nn.Module, network: CheckpointRecord, pixels: Tensor, settings: Settings) -> _Start:
    if network.int8 is None:
        reference = calibrated(model, pixels, settings, quantize_output=fmt.int8_output)
        return _Start(reference, deploy_form(model), model, settings)
    assert isinstance(model, GraphModule)
    settings = replace(settings, ranges="trained", equalize=False, rounding=False, correction=False)
    reference = model if fmt.int8_output else drop_output_quantizer(model)
    check_names(reference, settings.keep)
    counted = create_model(network.model, **network.arguments).eval()
    return _Start(reference, without_quantizers(model), counted, settings)


@dataclass(frozen=True)
class _Chosen:
    """The int8 network that is kept: its simulation, its parts in float, and its accuracy next to float."""

    simulation: GraphModule
    kept: list[str]
    compared: Comparison
    details: dict[str, Any]


def _choose(
    fmt: Format,
    start: _Start,
    network: CheckpointRecord,
    pixels: Tensor,
    plain: Path,
    folder: Path,
    rest: ImageSource,
    class_map: list[int] | None,
    max_drop: float,
) -> _Chosen:
    """Write the int8 artifact that loses no more than ``max_drop``, with as few parts in float as that takes.

    Args:
        plain: folder of the float artifact.
        folder: folder to write to.
        rest: images to compare on.

    Raises:
        LimitError: none of the choices is within ``max_drop``.
    """
    preprocess = Preprocess.from_dict(network.preprocess)
    for kept in choices(start.reference, pixels, start.settings):
        simulation = settled(start.reference, kept, pixels, start.settings)
        for file in folder.iterdir():
            file.unlink()
        with stages(f"{network.model} int8 to {fmt.name}"):
            details = fmt.write_int8(simulation, example_input(preprocess), folder)
        compared = compare_accuracy(fmt, plain, folder, rest, preprocess, class_map)
        if compared.drop <= max_drop:
            return _Chosen(simulation, kept, compared, details)
        say(f"{compared.drop:.2f} points lost, more than {max_drop:g}, with {len(kept)} parts in float")
    raise LimitError(
        f"int8 loses {compared.drop:.2f} points of top-1 on {compared.images} images of {rest.spec}, more than "
        f"--max-drop {max_drop:g}, even with {len(kept)} parts in float: it was not kept; "
        + (TRAIN if network.int8 is None else "train longer, or allow more")
    )


def _quantize(
    fmt: Format,
    model: nn.Module,
    network: CheckpointRecord,
    output: Path,
    images: ImageSource,
    rest: ImageSource,
    class_map: list[int] | None,
    *,
    sources: tuple[str, str],
    max_drop: float,
    settings: Settings,
    threads: int,
    rounds: int,
    command: Sequence[str],
    float_network: tuple[str, nn.Module, CheckpointRecord] | None,
) -> tuple[ArtifactRecord, dict[str, Any]]:
    """Quantise once all arguments are checked."""
    preprocess = Preprocess.from_dict(network.preprocess)
    pixels = read_pixels(images, preprocess)
    say(f"quantising {network.model} on {len(pixels)} images")
    start = _start(fmt, model, network, pixels, settings)
    floating = start.floating if float_network is None else deploy_form(float_network[1])
    with scratch_folder() as plain, writing(output) as folder:
        with stages(f"{network.model} to {fmt.name}"):
            fmt.write(floating, example_input(preprocess), plain)
        chosen = _choose(fmt, start, network, pixels, plain, folder, rest, class_map, max_drop)
        with stages(f"{network.model} int8 to {fmt.name}"):
            record = finish_artifact(
                fmt,
                start.counted,
                network,
                folder,
                chosen.details,
                lambda x, to: fmt.write_int8(chosen.simulation, x, to),
                tolerance=TOLERANCE_INT8,
                weights=weights_digest(start.counted),
                precision="int8",
                simulation=chosen.simulation,
            )
        sizes = {"float32": sum(size_in_bytes(plain / name) for name in fmt.files), "int8": record.bytes}
        first = pixels[:IMAGES_AT_ONCE]
        report = {
            "command": list(command),
            "network": network.model,
            "trained_for_int8": None if network.int8 is None else network.int8.model_dump(),
            "float": float_network[0] if float_network else "the same weights",
            "format": fmt.name,
            "versions": record.versions,
            "settings": {**asdict(start.settings), "keep": list(start.settings.keep)},
            "calibration": {"source": sources[0], "images": len(pixels)},
            "evaluation": {"source": sources[1], **asdict(chosen.compared), "drop_points": chosen.compared.drop},
            "max_drop": max_drop,
            "kept_in_float": chosen.kept,
            "bytes": sizes,
            "simulation_error": relative_error(*_logits(start.reference, chosen.simulation, first)),
            "latency": _latency(fmt, record, (plain, folder), sizes, threads, rounds),
            "layers": layer_errors(chosen.simulation, start.reference, first),
        }
        (folder / LAYERS).write_text(json_text(report, indent=2) + "\n", encoding="utf-8")
    return record, report


def _latency(
    fmt: Format,
    record: ArtifactRecord,
    folders: tuple[Path, Path],
    sizes: Mapping[str, int],
    threads: int,
    rounds: int,
) -> dict[str, Any]:
    """Measure the float and the int8 artifact, in these folders, in turns.

    Raises:
        InputError: one of them cannot be measured.
    """
    name = record.network.model
    entries = [
        _entry(name, fmt, record, folders[0], sizes["float32"]),
        _entry(f"{name} int8", fmt, record, folders[1], sizes["int8"]),
    ]
    timed = measure([replace(entry, threads=threads) for entry in entries], rounds=rounds, calls=8)
    if timed["failed"]:
        raise InputError(f"latency could not be measured: {timed['failed'][0]['reason']}")
    return timed


def _check_comparable(name: str, model: nn.Module, record: CheckpointRecord, network: CheckpointRecord) -> None:
    for field in ("class_names", "preprocess"):
        if getattr(record, field) != getattr(network, field):
            raise InputError(f"{name} and the network to quantise differ in {field}: they cannot be compared")


def choices(quantized: GraphModule, pixels: Tensor, settings: Settings) -> Iterator[list[str]]:
    """Yield what to keep in float: first what the settings name, then more and more of the most sensitive parts."""
    yield list(settings.keep)
    ranking = [name for name, _ in sensitivities(copy.deepcopy(quantized), pixels[:PROBES])]
    for number in IN_FLOAT:
        yield [*settings.keep, *ranking[:number]]


def int8_format(name: str) -> Format:
    """Return a format that has int8.

    Raises:
        InputError: no such format, one without int8, or a missing extra.
    """
    fmt = find_format(name)
    if not fmt.int8:
        from compactnets.deploy.formats.registry import FORMATS

        able = ", ".join(other.name for other in FORMATS.values() if other.int8)
        raise InputError(f"int8 is available for {able}, found --format {name}")
    fmt.versions()
    return fmt


def _sources(calibration: str, evaluation: str, count: int) -> tuple[ImageSource, ImageSource]:
    """Return the images to calibrate on and those to evaluate on, without overlap."""
    rest = open_source(evaluation, "val")
    try:
        images = open_source(calibration, "train")
    except MissingSplitError:
        images = open_source(calibration, "val")
    chosen = spread_over(images, count)
    if (images.fingerprint(), images.content()) == (rest.fingerprint(), rest.content()):
        left = np.setdiff1d(np.arange(len(rest)), chosen)
        if not len(left):
            raise InputError(
                f"{evaluation} has {len(rest)} images, all used for calibration: choose another --eval, or fewer "
                "--calibration-images"
            )
        rest = PartOfSource(rest, left.tolist())
    return PartOfSource(images, chosen.tolist()), rest


def _entry(name: str, fmt: Format, record: ArtifactRecord, folder: Path, size: int) -> Entry:
    side, channels = record.network.preprocess["size"], len(record.network.preprocess["mean"])
    return Entry(
        network=name,
        variant=Variant(fmt.name),
        path=folder / fmt.file,
        shape=(1, channels, side, side),
        macs=record.macs,
        params=record.params,
        bytes=size,
        difference=None,
    )


def _logits(reference: nn.Module, simulation: nn.Module, images: Tensor) -> tuple[Tensor, Tensor]:
    set_mode(reference, Mode.OFF)
    with torch.inference_mode():
        return reference(images), simulation(images)
