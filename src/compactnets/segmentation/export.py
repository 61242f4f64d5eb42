"""Export a segmenter to a device runtime, compare it with PyTorch, and run the result."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor, nn

from compactnets.complexity import count
from compactnets.console import Table, stage, stages, stdout
from compactnets.data.inputs import find_files, read_pictures
from compactnets.deploy.artifact import run_in_batches
from compactnets.deploy.export import check_output, check_share, export_copy, weight_bytes, weights_digest
from compactnets.deploy.formats.registry import FLOAT32, FORMATS, INPUT, OUTPUT, Format, Runner, find_format
from compactnets.deploy.metadata import texts
from compactnets.deploy.record import NAME, ExportedRecord, digest, read_artifact, size_in_bytes
from compactnets.deploy.rewrite import deploy_form
from compactnets.deploy.verify import MEASURES, NUM_IMAGES, TOLERANCES, Pictures, compare, load_pictures
from compactnets.detection.deploy.export import parse_size
from compactnets.environment import software_versions
from compactnets.errors import InputError, LimitError
from compactnets.failures import Space, one_line
from compactnets.folders import writing
from compactnets.segmentation.checkpoint import SegmenterRecord
from compactnets.segmentation.metrics import best_class
from compactnets.segmentation.networks import Segmenter, upscale
from compactnets.segmentation.transform import network_input, normalize

__all__ = ["SegmenterArtifact", "export_segmenter", "load_segmenter_artifact", "parse_size", "show_artifact"]

BATCHES = (1, 2)  # of the comparison, where a format takes any
SIZE = (384, 512)  # height and width of the comparison where nothing fixes it
OTHER = (192, 288)  # of a second one, where a format takes any
EQUAL_PIXELS = 0.999  # least share of pixels of the same class
AFTER = (
    "the scores have the resolution of the network: scale them bilinearly to the image (pixel centres at halves, no "
    "corners aligned), then take the class with the largest at every pixel"
)


class MaskCheck(BaseModel):
    """One comparison with PyTorch: images of ``size`` (height, width) in batches of ``batch``."""

    model_config = ConfigDict(extra="forbid")

    batch: int
    size: tuple[int, int]
    images: int
    max_difference: float = Field(description="largest absolute difference between two scores")
    relative_difference: float = Field(description="the same, divided by the largest absolute score")
    rms_difference: float = Field(description="root mean square of the differences, divided by the scores' deviation")
    equal_pixels: float = Field(description="share of the pixels, at the image's size, with the same class")


class MaskVerification(BaseModel):
    """The comparison of an artifact with its network."""

    model_config = ConfigDict(extra="forbid")

    ran: bool = Field(description="whether the artifact was run in its own runtime")
    note: str = ""
    images: str = ""
    tolerance: float = Field(description="limit of the measure")
    measure: str = Field("relative_difference", description="the field of a check that the tolerance applies to")
    least_equal_pixels: float = Field(EQUAL_PIXELS, description="limit of equal_pixels")
    checks: list[MaskCheck] = Field(default_factory=list)


class SegmenterArtifact(ExportedRecord):
    """The ``artifact.json`` of a segmenter."""

    task: Literal["segmentation"] = "segmentation"
    network: SegmenterRecord = Field(description="network, classes, preprocessing, source and licence of the weights")
    input: list[int | None] = Field(description="(N, 3, H, W); null for a dynamic axis")
    output: list[int | None] = Field(description="(N, classes, H / stride, W / stride), rounded up")
    stride: int
    after: str = Field(AFTER, description="what is left to the caller")
    weights: str = Field(description="sha256 of the original tensors, with their names and shapes")
    macs: int = Field(description="multiply-adds for one image of the verification's first size")
    params: int
    details: dict[str, Any] = Field(default_factory=dict)
    verification: MaskVerification


def export_segmenter(
    network: nn.Module,
    record: SegmenterRecord,
    output: Path,
    format_name: str,
    *,
    size: tuple[int, int] | None = None,
    batch_size: int = 1,
    images: str | None = None,
    precision: str = FLOAT32,
    tolerance: float | None = None,
) -> SegmenterArtifact:
    """Export a network, compare it with PyTorch, and keep the artifact if they agree. See :data:`AFTER`.

    Args:
        network: a :class:`Segmenter` in evaluation mode; not modified.
        record: its record.
        output: folder for the artifact; written completely or not at all.
        format_name: one of ``FORMATS``.
        size: height and width of the input, if it differs from the record's; a format that takes any size still does.
        batch_size: for the formats that fix it.
        images: file, folder or pattern of images to compare on; default: two photographs of scikit-learn.
        precision: of the weights: ``"float32"`` or ``"float16"``.
        tolerance: largest difference of a score, as a share of the largest; default: that of the precision.

    Raises:
        InputError: a format that cannot express the network, one that fixes the size where none is known, a missing
            extra, a folder with other content, or images that cannot be used.
        LimitError: the artifact differs; nothing is kept.
    """
    assert isinstance(network, Segmenter)
    fmt = find_format(format_name)
    fmt.check_precision(precision)
    fmt.versions()
    tolerance = TOLERANCES[precision] if tolerance is None else tolerance
    check_share(tolerance, "--tolerance")
    check_output(output)
    chosen = size or record.size
    if chosen is None and not fmt.any_size:
        raise InputError(f"an artifact of {fmt.name} takes one size, and this network any: give --size HEIGHTxWIDTH")
    record = record.model_copy(update={"size": chosen})
    space = Space(output, weight_bytes(network, precision), round(fmt.scratch * weight_bytes(network)))
    space.check()
    pictures = _pictures(images) if fmt.runs_here else ([], "")
    setting = Setting(fmt, record, chosen or SIZE, batch_size, precision, tolerance)
    with (
        stages(f"{record.title} to {fmt.name}"),
        writing(output) as folder,
        one_line(f"{record.title} cannot be exported to {fmt.name}", space),
    ):
        stage("rewriting")
        plain = plain_copy(network)
        details = fmt.write(deploy_form(plain), torch.zeros(batch_size, 3, *setting.size), folder, precision)
        details |= {"least_side": plain.least_side} if fmt.any_size else {}
        return finish_artifact(setting, plain, folder, details, pictures)


def plain_copy(network: Segmenter) -> Segmenter:
    """Return a copy ready for export, without the head that only training uses."""
    plain = export_copy(network)
    assert isinstance(plain, Segmenter)
    plain.auxiliary = None
    return plain


@dataclass(frozen=True)
class Setting:
    """How an artifact is written and checked.

    Attributes:
        size: height and width of the input, or of an example of it.
        batch_size: for the formats that fix it.
        tolerance: limit of ``measure``.
        least_equal: limit of ``equal_pixels``.
    """

    fmt: Format
    record: SegmenterRecord
    size: tuple[int, int]
    batch_size: int
    precision: str
    tolerance: float
    least_equal: float = EQUAL_PIXELS
    measure: Literal["relative_difference", "rms_difference"] = "relative_difference"

    @property
    def shapes(self) -> tuple[list[int | None], list[int | None]]:
        """Input and output; ``None`` for a dynamic axis."""
        batch = None if self.fmt.any_batch else self.batch_size
        stride = min(self.record.settings.low_stride, self.record.settings.output_stride)
        sides = (None, None) if self.fmt.any_size else self.size
        given = [side if side is None else -(-side // stride) for side in sides]
        return [batch, 3, *sides], [batch, len(self.record.class_names), *given]


def finish_artifact(
    setting: Setting,
    plain: Segmenter,
    folder: Path,
    details: dict[str, Any],
    pictures: Pictures | None = None,
    simulation: nn.Module | None = None,
) -> SegmenterArtifact:
    """Write metadata into the artifact in a folder, compare it with PyTorch, and write its record.

    Args:
        plain: the network, without its auxiliary head.
        details: of writing the artifact.
        pictures: to compare on; default: two photographs of scikit-learn.
        simulation: what an int8 artifact is compared with instead.

    Raises:
        LimitError: the artifact differs.
    """
    fmt, record = setting.fmt, setting.record
    taken, given = setting.shapes
    fmt.embed(folder, _metadata(record, (taken, given), setting.precision))
    note = f"{fmt.name} runs on {fmt.runs_on} only"
    checked = MaskVerification(ran=False, note=note, tolerance=setting.tolerance)
    if fmt.runs_here:
        checked = _verify(setting, simulation or plain, folder, pictures or load_pictures(None))
    macs, params = count(plain, (3, *setting.size))
    result = SegmenterArtifact(
        format=fmt.name,
        files={name: digest(folder / name) for name in fmt.files},
        bytes=sum(size_in_bytes(folder / name) for name in fmt.files),
        precision=setting.precision,
        versions={**software_versions(), **fmt.versions()},
        network=record,
        input=taken,
        output=given,
        stride=plain.stride,
        weights=weights_digest(plain),
        macs=macs,
        params=params,
        details=details,
        verification=checked,
    )
    (folder / NAME).write_text(result.model_dump_json(indent=2) + "\n", encoding="utf-8")
    return result


def _verify(setting: Setting, reference: nn.Module, folder: Path, pictures: Pictures) -> MaskVerification:
    """Compare scores and classes on real images, at two sizes and in two batches where the format takes any.

    Raises:
        LimitError: a difference beyond the limits, or a result that is not finite.
    """
    stage("comparing with PyTorch")
    fmt, checks = setting.fmt, []
    runner = fmt.open(folder / fmt.file)
    sizes = [setting.size, OTHER] if fmt.any_size and setting.precision != "int8" else [setting.size]
    batches = BATCHES if fmt.any_batch else (setting.batch_size,)
    for size, batch in itertools.product(sizes, batches):
        pixels = torch.stack([network_input(picture, size) for picture in pictures[0]])
        inputs = normalize(pixels, *setting.record.statistics)
        with torch.inference_mode():
            expected = reference(inputs)
        found = run_in_batches(runner, inputs.numpy(), batch)
        compared = compare(expected.numpy(), found, batch, size[0])
        one, other = (best_class(upscale(scores, size)) for scores in (expected, torch.from_numpy(found)))
        checks.append(
            MaskCheck(
                batch=batch,
                size=size,
                images=len(pixels),
                max_difference=compared.max_difference,
                relative_difference=compared.relative_difference,
                rms_difference=compared.rms_difference,
                equal_pixels=float((one == other).float().mean()),
            )
        )
        difference = getattr(compared, setting.measure)
        if not difference <= setting.tolerance or not checks[-1].equal_pixels >= setting.least_equal:  # also NaN
            raise LimitError(
                f"the {fmt.name} artifact differs from PyTorch by {difference:.2g} of {MEASURES[setting.measure]} (at "
                f"most {setting.tolerance:.2g}), and gives the same class to {checks[-1].equal_pixels:.2%} of the "
                f"pixels (at least {setting.least_equal:.1%}), at {size[0]} x {size[1]} pixels: it was not kept"
            )
    return MaskVerification(
        ran=True,
        images=pictures[1],
        tolerance=setting.tolerance,
        measure=setting.measure,
        least_equal_pixels=setting.least_equal,
        checks=checks,
    )


def _pictures(spec: str | None) -> Pictures:
    if spec is None:
        return load_pictures(None)
    found = itertools.islice(read_pictures(find_files([spec])), NUM_IMAGES)
    readable = []
    for picture in found:
        if picture.image is None:
            raise InputError(f"--images: {picture.error}")
        readable.append(picture.image)
    return readable, f"the first images of {spec}"


def _metadata(record: SegmenterRecord, shapes: Sequence[list[int | None]], precision: str) -> dict[str, str]:
    layout = "(N, C, H, W): pixels from 0 to 1, less preprocess.mean, divided by preprocess.std"
    return texts(
        {
            "task": record.task,
            "network": record.title,
            "precision": precision,
            "class_names": record.class_names,
            "preprocess": {"size": record.size, "mean": record.mean, "std": record.std},
            "inputs": [{"name": INPUT, "shape": shapes[0], "dtype": "float32", "meaning": layout}],
            "outputs": [{"name": OUTPUT, "shape": shapes[1], "dtype": "float32", "meaning": AFTER}],
            "source": record.source,
            "license": record.license,
        }
    )


class ExportedSegmenter(nn.Module):
    """Runs an exported segmenter in its own runtime, on the CPU: as :class:`Segmenter`."""

    def __init__(self, runner: Runner, shape: Sequence[int | None], classes: int) -> None:
        """Wrap a runner of images of ``shape``, (N, 3, H, W), ``None`` for a dynamic axis."""
        super().__init__()
        self.runner, self.shape, self.classes = runner, shape, classes

    def forward(self, images: Tensor) -> Tensor:
        batch, *shape = self.shape
        if any(wanted not in (None, found) for wanted, found in zip(shape, images.shape[1:], strict=True)):
            raise InputError(f"this artifact takes images of {shape}, found {list(images.shape[1:])}")
        pixels = np.ascontiguousarray(images.numpy(), dtype=np.float32)
        scores = torch.from_numpy(run_in_batches(self.runner, pixels, batch))
        if scores.ndim != 4 or scores.shape[1] != self.classes:
            raise InputError(
                f"this artifact gives {list(scores.shape)}, its record names {self.classes} classes: they must match"
            )
        return scores


def load_segmenter_artifact(path: Path, threads: int | None) -> tuple[ExportedSegmenter, SegmenterRecord]:
    """Load an artifact into its runtime, by its folder or main file.

    Args:
        threads: of the runtime; default: its own choice.

    Raises:
        InputError: a record or file that cannot be used, or a runtime that is not installed.
    """
    artifact, folder = read_artifact(path, SegmenterArtifact)
    fmt = FORMATS[artifact.format]
    with one_line(f"{folder / fmt.file} cannot be opened"):
        runner = fmt.open(folder / fmt.file, threads)
    network = ExportedSegmenter(runner, artifact.input, len(artifact.network.class_names))
    return network.eval(), artifact.network


def show_artifact(artifact: SegmenterArtifact, output: Path) -> None:
    """Print what was exported, its input and output, and how it was checked."""
    network, checked = artifact.network, artifact.verification
    taken, given = (
        " x ".join("any" if side is None else str(side) for side in shape)
        for shape in (artifact.input, artifact.output)
    )
    lines = [
        f"{network.title} -> {output / next(iter(artifact.files))}: {artifact.bytes / 1e6:.2f} MB, "
        f"{artifact.macs / 1e6:.1f} M MACs, {artifact.params / 1e6:.2f} M parameters; weights: {artifact.precision}",
        f"input {taken}, output {given} of {len(network.class_names)} classes: {artifact.after}",
        *(f"{key.replace('_', ' ')}: {value}" for key, value in artifact.details.items()),
        f"compared with PyTorch on {checked.images}, tolerance {checked.tolerance:g}:"
        if checked.ran
        else f"not run: {checked.note}",
    ]
    for line in lines:
        stdout.print(line)
    table = Table()
    table.add_figures("batch", "pixels", "images", "largest difference", "of the largest score", "equal pixels")
    for check in checked.checks:
        table.add_row(
            str(check.batch),
            f"{check.size[0]} x {check.size[1]}",
            str(check.images),
            f"{check.max_difference:.1e}",
            f"{check.relative_difference:.1e}",
            f"{100 * check.equal_pixels:.3f} %",
        )
    if checked.ran:
        stdout.print(table)
