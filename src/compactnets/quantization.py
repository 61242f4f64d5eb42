"""Quantise a checkpoint to an int8 artifact, and measure its quality and latency against float."""

from __future__ import annotations

import copy
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.fx import GraphModule

from compactnets.console import say, stages
from compactnets.deploy.export import check_output, finish_artifact, weight_bytes
from compactnets.deploy.formats.registry import FORMATS, Format, find_format
from compactnets.deploy.int8.comparison import Comparison
from compactnets.deploy.int8.graph import plain_graph
from compactnets.deploy.int8.layers import Mode
from compactnets.deploy.int8.noise import layer_errors, relative_error, sensitivities
from compactnets.deploy.int8.quantized import quantized_network, set_mode
from compactnets.deploy.int8.ranges import check_method
from compactnets.deploy.int8.steps import IMAGES_AT_ONCE, Settings, calibrated, check_names, settled
from compactnets.deploy.record import LAYERS, ImageArtifact, size_in_bytes
from compactnets.deploy.rewrite import deploy_form
from compactnets.deploy.subject import Subject
from compactnets.deploy.tables import show_quantized
from compactnets.errors import InputError, LimitError
from compactnets.failures import Space, one_line, scratch_folder
from compactnets.files import as_path, json_text
from compactnets.folders import writing
from compactnets.latency.benchmark import Entry, Variant, measure

TOLERANCE_INT8 = 0.25  # of the outputs' standard deviation: a value near a rounding boundary may go either way
IN_FLOAT = (2, 4, 8, 16)  # parts kept in float, tried in this order while the drop is too large
PROBES = 16  # images for measuring sensitivities


@dataclass(frozen=True)
class QuantizeReport:
    """An int8 artifact, its report and its folder."""

    record: ImageArtifact
    report: dict[str, Any]
    output: Path
    compared: Comparison

    def to_dict(self) -> dict[str, Any]:
        """Return everything, for JSON."""
        return {"output": str(self.output), **self.record.model_dump(mode="json"), "quantization": self.report}

    def show(self) -> None:
        """Print its quality, latency and size against float."""
        show_quantized(self.record, self.report, self.output, self.compared)


@dataclass(frozen=True)
class Start:
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


class Quantization(ABC):
    """What quantisation needs to know of a task.

    Attributes:
        subject: the network, in evaluation mode; it is not modified.
        least_agreement: least share of equal classes between the artifact and its simulation.
        advice: what to do about a loss that is too large.
        what: the float network that int8 is compared with.
        facts: further entries of the report.
    """

    least_agreement = 0.0
    advice = "allow more"
    what = "the same weights"

    def __init__(self, subject: Subject) -> None:
        self.subject = subject
        self.facts: dict[str, Any] = {}

    @abstractmethod
    def take(self, calibration: str, evaluation: str, count: int) -> None:
        """Open ``count`` images to calibrate on, and those to compare on, without the former.

        Raises:
            InputError: sources that cannot be used.
        """

    @abstractmethod
    def pixels(self) -> Tensor:
        """Return the images to calibrate on: (N, C, H, W).

        Raises:
            InputError: one cannot be read.
        """

    @abstractmethod
    def compare(self, fmt: Format, plain: Path, int8: Path) -> Comparison:
        """Run the float and the int8 artifact in these folders on the images to compare on.

        Raises:
            InputError: an image cannot be read.
        """

    def graph(self, model: nn.Module, fmt: Format) -> GraphModule:
        """Return a quantised network that has the names of layers and quantizers, but no ranges yet."""
        return quantized_network(
            plain_graph(copy.deepcopy(model), self.subject.example()), quantize_output=fmt.int8_output
        )

    def start(self, model: nn.Module, fmt: Format, pixels: Tensor, settings: Settings) -> Start:
        """Calibrate a network."""
        reference = calibrated(model, pixels, settings, quantize_output=fmt.int8_output)
        return Start(reference, deploy_form(model), model, settings)


def quantize(
    task: Quantization,
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
    embed: bool = False,
    mcu: str | None = None,
) -> QuantizeReport:
    """Quantise a trained network to int8 and keep the artifact if it loses no more than ``max_drop``.

    If the drop is larger, the parts that hurt most on calibration images are kept in float, more each time. A network
    trained for int8 keeps its weights and ranges. Calibration images then only rank its parts and give the error of
    each layer, and the float reference is the same network without its quantizers.

    Args:
        task: the network, and the images of its task.
        format_name: ``"onnx"``, ``"openvino"``, ``"executorch"`` or ``"c"``.
        output: folder for the artifact, as for :func:`compactnets.deploy.export`.
        calibration: source of the images to calibrate on (its training images, where it has some).
        evaluation: source of the images to compare float and int8 on; images that were calibrated on are left out.
        max_drop: points of what the task measures.
        settings: how to quantise.
        threads: threads of the runtime while latency is measured.
        rounds: turns of the latency measurement.
        command: the command line, for the report.
        embed: as for :func:`compactnets.deploy.export.export_subject`.
        mcu: as there.

    Returns:
        the artifact's record, and the report written next to it.

    Raises:
        InputError: a format without int8, sources or a network that cannot be used, an output folder in use.
        LimitError: the drop is past ``max_drop``, or the artifact does not compute what the simulation does; nothing is
            left behind.
    """
    output, settings = as_path(output), settings or Settings()
    fmt = int8_format(format_name)
    settings = replace(settings, weight_bits=settings.weight_bits or fmt.weight_bits)
    if not -100 <= max_drop <= 100:
        raise InputError(f"--max-drop must be points from -100 to 100, found {max_drop:g}")
    check_method(settings.ranges)
    if settings.keep and not fmt.int8_mixed:
        able = ", ".join(other.name for other in FORMATS.values() if other.int8 and other.int8_mixed)
        raise InputError(f"--keep-float is available for {able}: an int8 network in {fmt.name} is int8 throughout")
    fmt.check_embedding(embed, mcu)
    embed = embed or mcu is not None
    check_output(output)
    weight = weight_bytes(task.subject.model)
    space = Space(output, weight // 4, weight)
    space.check()
    title = task.subject.title
    model = task.subject.ready().model
    with one_line(f"{title} cannot be quantised for {fmt.name}", space):
        if settings.keep:  # before any image is read, and again on the network that is written
            check_names(task.graph(model, fmt), settings.keep)
    task.take(calibration, evaluation, settings.calibration_images)
    with one_line(f"{title} cannot be quantised for {fmt.name}", space):
        pixels = task.pixels()
        say(f"quantising {title} on {len(pixels)} images")
        start = task.start(model, fmt, pixels, settings)
        with scratch_folder() as plain, writing(output) as folder:
            with stages(f"{title} to {fmt.name}"):
                fmt.write(start.floating, task.subject.example(), plain, embed_weights=embed)  # of a size to compare

            def write_int8(simulation: GraphModule, example: Tensor, folder: Path) -> dict[str, Any]:
                return fmt.write_int8(simulation, example, folder, embed_weights=embed)

            chosen = _choose(task, fmt, start, pixels, plain, folder, evaluation, max_drop, write_int8)
            with stages(f"{title} int8 to {fmt.name}"):
                record = finish_artifact(
                    fmt,
                    task.subject.with_model(start.counted),
                    folder,
                    {**chosen.details, **({"embedded": True} if embed else {})},
                    lambda x, to: write_int8(chosen.simulation, x, to),
                    tolerance=TOLERANCE_INT8,
                    precision="int8",
                    simulation=chosen.simulation,
                    least_agreement=task.least_agreement,
                    mcu=mcu,
                )
            sizes = {"float32": sum(size_in_bytes(plain / name) for name in fmt.files), "int8": record.bytes}
            first = pixels[:IMAGES_AT_ONCE]
            report = {
                "command": list(command),
                "network": title,
                **task.facts,
                "float": task.what,
                "format": fmt.name,
                "versions": record.versions,
                "settings": {**asdict(start.settings), "keep": list(start.settings.keep)},
                "calibration": {"source": calibration, "images": len(pixels)},
                "evaluation": {
                    "source": evaluation,
                    **asdict(chosen.compared),
                    "drop_points": chosen.compared.drop,
                },
                "max_drop": max_drop,
                "kept_in_float": chosen.kept,
                "bytes": sizes,
                "simulation_error": relative_error(*_outputs(start.reference, chosen.simulation, first)),
                "latency": _latency(task.subject, fmt, record, (plain, folder), sizes, threads, rounds),
                "layers": layer_errors(chosen.simulation, start.reference, first),
            }
            (folder / LAYERS).write_text(json_text(report, indent=2) + "\n", encoding="utf-8")
    return QuantizeReport(record, report, output, chosen.compared)


@dataclass(frozen=True)
class _Chosen:
    """The int8 network that is kept: its simulation, its parts in float, and its quality next to float."""

    simulation: GraphModule
    kept: list[str]
    compared: Comparison
    details: dict[str, Any]


def _choose(
    task: Quantization,
    fmt: Format,
    start: Start,
    pixels: Tensor,
    plain: Path,
    folder: Path,
    evaluation: str,
    max_drop: float,
    write: Callable[[GraphModule, Tensor, Path], dict[str, Any]],
) -> _Chosen:
    """Write the int8 artifact that loses no more than ``max_drop``, with as few parts in float as that takes.

    Args:
        plain: folder of the float artifact.
        folder: folder to write to.
        evaluation: name of the images to compare on.
        write: writes a simulation to a folder, for images like the example.

    Raises:
        LimitError: none of the choices is within ``max_drop``.
    """
    for kept in _choices(start.reference, pixels, start.settings, fmt):
        simulation = settled(start.reference, kept, pixels, start.settings)
        for file in folder.iterdir():
            file.unlink()
        with stages(f"{task.subject.title} int8 to {fmt.name}"):
            details = write(simulation, task.subject.example(), folder)
        compared = task.compare(fmt, plain, folder)
        if compared.drop <= max_drop:
            return _Chosen(simulation, kept, compared, details)
        say(
            f"{compared.drop:.2f} points of {compared.measure} lost, more than {max_drop:g}, with {len(kept)} parts in "
            f"float"
        )
    tried = f"even with {len(kept)} parts in float" if fmt.int8_mixed else f"and {fmt.name} keeps no parts in float"
    raise LimitError(
        f"int8 loses {compared.drop:.2f} points of {compared.measure} on {compared.images} images of {evaluation}, "
        f"more than --max-drop {max_drop:g}, {tried}: it was not kept; {task.advice}"
    )


def _choices(quantized: GraphModule, pixels: Tensor, settings: Settings, fmt: Format) -> Iterator[list[str]]:
    """Yield what to keep in float: first what the settings name, then more and more of the most sensitive parts."""
    yield list(settings.keep)
    if not fmt.int8_mixed:
        return
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
        able = ", ".join(other.name for other in FORMATS.values() if other.int8)
        raise InputError(f"int8 is available for {able}, found --format {name}")
    fmt.versions()
    return fmt


def _latency(
    subject: Subject,
    fmt: Format,
    record: ImageArtifact,
    folders: tuple[Path, Path],
    sizes: Mapping[str, int],
    threads: int,
    rounds: int,
) -> dict[str, Any]:
    """Measure the float and the int8 artifact, in these folders, in turns.

    Raises:
        InputError: one of them cannot be measured.
    """
    entries = [
        Entry(
            network=name,
            variant=Variant(fmt.name),
            path=folder / fmt.file,
            shape=(1, *subject.shape),
            macs=record.macs,
            params=record.params,
            bytes=size,
            difference=None,
            threads=threads,
        )
        for name, folder, size in zip((record.title, f"{record.title} int8"), folders, sizes.values(), strict=True)
    ]
    timed = measure(entries, rounds=rounds, calls=8)
    if timed["failed"]:
        raise InputError(f"latency could not be measured: {timed['failed'][0]['reason']}")
    return timed


def _outputs(reference: nn.Module, simulation: nn.Module, images: Tensor) -> tuple[Tensor, Tensor]:
    set_mode(reference, Mode.OFF)
    with torch.inference_mode():
        return reference(images), simulation(images)
