"""Export a network to a verified artifact in a folder."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from compactnets.classification.checkpoint import CheckpointRecord
from compactnets.complexity import count
from compactnets.console import stage, stages
from compactnets.deploy.formats.registry import FLOAT16, FLOAT32, FORMATS, STEP, Format, find_format
from compactnets.deploy.metadata import image_metadata
from compactnets.deploy.record import LAYERS, NAME, ImageArtifact, digest, size_in_bytes
from compactnets.deploy.rewrite import align_depthwise, deploy_form
from compactnets.deploy.subject import Classifier, Pictures, Subject
from compactnets.deploy.verify import TOLERANCES, Write, check_float16, verify
from compactnets.environment import software_versions
from compactnets.errors import InputError
from compactnets.failures import Space, one_line
from compactnets.files import as_path
from compactnets.folders import check_folder, entries, writing


def export(
    model: nn.Module,
    record: CheckpointRecord,
    format_name: str,
    output: str | Path,
    *,
    size: int | None = None,
    **options: Any,
) -> Any:
    """Export a classifier; see :func:`export_subject`.

    Args:
        model: a network in evaluation mode; not modified.
        record: its classes and preprocessing, stored in the artifact's record.
        size: side of the images, if it differs from the preprocessing's.
        options: as for :func:`export_subject`.
    """
    subject = Classifier(model, record)
    return export_subject(subject if size is None else subject.resized((size, size)), format_name, output, **options)


def export_subject(
    subject: Subject,
    format_name: str,
    output: str | Path,
    *,
    batch_size: int = 1,
    images: str | None = None,
    tolerance: float | None = None,
    lanes: int | None = None,
    precision: str = FLOAT32,
    embed: bool = False,
    mcu: str | None = None,
    delegate: str | None = None,
) -> ImageArtifact:
    """Export a network to a device runtime, compare it with PyTorch, and keep the artifact if they agree.

    Args:
        subject: the network, of any task that has one output.
        format_name: one of ``FORMATS``.
        output: folder for the artifact; written completely or not at all. An existing artifact is replaced.
        batch_size: batch size, for the formats that fix it.
        images: images to compare on (:meth:`Subject.pictures`); default: two photographs of scikit-learn.
        tolerance: largest difference allowed, as a share of the largest absolute output; default: that of the precision
            in ``verify.TOLERANCES``.
        lanes: pad the channels of depthwise convolutions to multiples of this, for formats whose runtime benefits
            (``onnx``, on x86).
        precision: of the weights in the file: ``"float32"`` or ``"float16"``. Input and output are always float32.
        embed: put the weights into the main file as well, for formats with files beside it that can do without (``c``).
        mcu: core of a microcontroller, such as ``"cortex-m7"``: embed the weights, compile for it, and record the flash
            and RAM that the network takes (``c``).
        delegate: what the runtime leaves the computation to (``executorch``): ``"xnnpack"``, the default, ``"vulkan"``
            or ``"coreml"``. Where the runtime here does not have it, the artifact's specification is checked instead.

    Returns:
        the record, of the subject's ``artifact``.

    Raises:
        InputError: an unknown format or delegate, an unsupported precision, ``lanes``, ``embed`` or ``delegate`` for a
            format that cannot, a missing extra, a folder with other content, a network that the format cannot express,
            a format that fixes the size where none is known.
        LimitError: the artifact differs from PyTorch by more than ``tolerance``; nothing is kept.
    """
    output = as_path(output)
    subject.check()
    fmt = find_format(format_name).delegating(delegate)
    fmt.check_precision(precision)
    fmt.versions()
    if lanes is not None and not fmt.lanes:
        raise InputError(f"--lanes has no benefit for the runtime of {fmt.name}: remove it")
    fmt.check_embedding(embed, mcu)
    embed = embed or mcu is not None
    if subject.size is None and not fmt.any_size:
        raise InputError(f"an artifact of {fmt.title} takes one size, and this network any: give --size HEIGHTxWIDTH")
    tolerance = TOLERANCES[precision] if tolerance is None else tolerance
    check_share(tolerance, "--tolerance")
    check_output(output)
    weight = weight_bytes(subject.model)
    space = Space(output, weight_bytes(subject.model, precision), round(fmt.scratch * weight))
    space.check()
    computed = precision == FLOAT16 and fmt.float16 == "computed" and not fmt.runs_here
    pictures = subject.pictures(images) if fmt.runs_here or computed else None
    with (
        stages(f"{subject.title} to {fmt.title}"),
        writing(output) as partial,
        one_line(f"{subject.title} cannot be exported to {fmt.title}", space),
    ):
        stage("rewriting")
        subject = subject.ready()
        with torch.inference_mode():
            subject.check_outputs(subject.model(subject.example()).shape[1])
        if fmt.any_size:
            _check_any_size(subject, fmt)
        deployed = deploy_form(subject.model)
        if lanes is not None:
            deployed = align_depthwise(deployed, lanes)

        def write(example: Tensor, folder: Path) -> dict[str, Any]:
            return fmt.write(deployed, example, folder, precision, embed_weights=embed)

        details = write(subject.example(batch_size), partial)
        details |= {} if lanes is None else {"lanes": lanes}
        details |= {"float16": fmt.float16} if precision == FLOAT16 else {}
        details |= {"embedded": True} if embed else {}
        if computed and pictures:
            found = check_float16(fmt, deployed, subject, pictures, tolerance)
            details |= {"float16_difference": found}
        return finish_artifact(
            fmt,
            subject,
            partial,
            details,
            write,
            batch_size=batch_size,
            images=images,
            pictures=pictures,
            tolerance=tolerance,
            precision=precision,
            mcu=mcu,
        )


def _check_any_size(subject: Subject, fmt: Format) -> None:
    """Raise if a network takes only its own size, but the format's artifacts take any.

    Raises:
        InputError: the size, and the formats that fix it.
    """
    _, height, width = subject.shape
    if not subject.resized((height + STEP, width + STEP)).takes_size():
        fixed = ", ".join(each.name for each in FORMATS.values() if not each.any_size)
        raise InputError(
            f"{subject.title} takes {height} x {width} pixels only, and artifacts of {fmt.name} take any size: export "
            f"it to one of {fixed}, which fix it"
        )


def weight_bytes(model: nn.Module, precision: str = FLOAT32) -> int:
    """Return the bytes of a network's weights in float32 or float16: the minimum size of an artifact."""
    return (2 if precision == FLOAT16 else 4) * sum(tensor.numel() for tensor in model.parameters())


def weights_digest(model: nn.Module) -> str:
    """Return the sha256 of a network's tensors with their names, kinds and shapes."""
    total = hashlib.sha256()
    for name, tensor in model.state_dict().items():
        total.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        total.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
    return total.hexdigest()


def check_share(value: float, option: str) -> None:
    """Raise unless a tolerance is a share: a number from 0 to 1.

    Raises:
        InputError: the value; also if it is NaN.
    """
    if not 0 <= value <= 1:
        raise InputError(f"{option} must be a share from 0 to 1, found {value:g}")


def finish_artifact(
    fmt: Format,
    subject: Subject,
    folder: Path,
    details: dict[str, Any],
    write: Write,
    *,
    batch_size: int = 1,
    images: str | None = None,
    pictures: Pictures | None = None,
    tolerance: float,
    precision: str = FLOAT32,
    simulation: nn.Module | None = None,
    least_agreement: float | None = None,
    mcu: str | None = None,
) -> ImageArtifact:
    """Write metadata into the artifact in a folder, verify it, and write its record.

    Args:
        fmt: the format.
        subject: the network, on the CPU, in evaluation mode.
        folder: with the artifact's files.
        details: details from writing them.
        write: called with (example, folder); writes the artifact for another batch or size.
        batch_size: batch size, for the formats that fix it.
        images: images to compare on.
        pictures: those images, if already read.
        tolerance: of the comparison.
        precision: ``"float32"``, ``"float16"`` or ``"int8"``.
        simulation: what an int8 artifact is compared with instead of the network.
        least_agreement: as for :func:`compactnets.deploy.verify.verify`.
        mcu: as for :func:`export_subject`.

    Raises:
        LimitError: the artifact differs by more than ``tolerance``.
        InputError: images that cannot be used, or a record with more or fewer classes than the network has outputs.
    """
    with torch.inference_mode():
        subject.check_outputs(subject.model(subject.example()).shape[1])
    sides = [None, None] if fmt.any_size else list(subject.shape[1:])
    taken = [None if fmt.any_batch else batch_size, subject.shape[0], *sides]
    given = subject.output_shape(taken[0], *sides)
    # before the comparison, so the final file is compared
    fmt.embed(
        folder,
        image_metadata(subject.record, subject.title, subject.preprocess, precision, taken, given, subject.meaning),
    )
    verification = verify(
        fmt,
        subject if simulation is None else subject.with_model(simulation),
        write,
        folder,
        batch_size=batch_size,
        images=images,
        pictures=pictures,
        tolerance=tolerance,
        measure="relative_difference" if simulation is None else "rms_difference",
        least_agreement=least_agreement,
    )
    if mcu is not None:
        details = {**details, "microcontroller": fmt.footprint(folder, mcu)}
    macs, params = count(subject.model, subject.shape)
    result = subject.artifact(
        format=fmt.name,
        files={name: digest(folder / name) for name in fmt.files},
        bytes=sum(size_in_bytes(folder / name) for name in fmt.files),
        precision=precision,
        input=taken,
        network=subject.record,
        weights=weights_digest(subject.model),
        macs=macs,
        params=params,
        versions={**software_versions(), **fmt.versions()},
        details={**details, **subject.details(fmt)},
        verification=verification,
        **subject.fields(given),
    )
    (folder / NAME).write_text(result.model_dump_json(indent=2) + "\n", encoding="utf-8")
    return result


def check_output(output: Path, files: Iterable[str] = ()) -> None:
    """Raise unless ``output`` can be written and is new, empty, or only holds an artifact.

    Args:
        output: folder to write to.
        files: further file names that an artifact may have.
    """
    folder = check_folder(output)
    if not folder.exists():
        return
    known = {NAME, LAYERS, *files, *(name for fmt in FORMATS.values() for name in fmt.files)}
    found = entries(folder)
    if found and not (NAME in found and found <= known):
        foreign = sorted(found - known) or sorted(found)
        raise InputError(f"{output} holds {foreign[0]}, which no export wrote: choose another --output")
