"""Export a network to a verified artifact in a folder."""

from __future__ import annotations

import copy
import hashlib
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from compactnets.classification.checkpoint import CheckpointRecord, check_float, check_outputs
from compactnets.complexity import count
from compactnets.console import stage, stages
from compactnets.data import Preprocess
from compactnets.deploy.formats.registry import (
    FLOAT16,
    FLOAT32,
    FORMATS,
    STEP,
    Format,
    find_format,
)
from compactnets.deploy.metadata import classifier_metadata
from compactnets.deploy.record import LAYERS, NAME, ArtifactRecord, digest, size_in_bytes
from compactnets.deploy.rewrite import align_depthwise, deploy_form
from compactnets.deploy.verify import (
    TOLERANCES,
    Pictures,
    Write,
    check_float16,
    example_input,
    load_pictures,
    resized,
    takes_size,
    verify,
)
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
    batch_size: int = 1,
    images: str | None = None,
    tolerance: float | None = None,
    lanes: int | None = None,
    precision: str = FLOAT32,
    embed: bool = False,
) -> ArtifactRecord:
    """Export a network to a device runtime, compare it with PyTorch, and keep the artifact if they agree.

    Args:
        model: a network in evaluation mode; not modified.
        record: its classes and preprocessing, stored in the artifact's record.
        format_name: one of ``FORMATS``.
        output: folder for the artifact; written completely or not at all. An existing artifact is replaced.
        size: side of the images, if it differs from the preprocessing's.
        batch_size: batch size, for the formats that fix it.
        images: source of the images to compare on; default: two photographs of scikit-learn.
        tolerance: largest difference allowed, as a share of the largest absolute logit; default: that of the precision
            in ``verify.TOLERANCES``.
        lanes: pad the channels of depthwise convolutions to multiples of this, for formats whose runtime benefits
            (``onnx``, on x86).
        precision: of the weights in the file: ``"float32"`` or ``"float16"``. Input and output are always float32.
        embed: put the weights into the main file as well, for formats with files beside it that can do without (``c``).

    Raises:
        InputError: an unknown format, an unsupported precision, ``lanes`` for a format that does not benefit,
            ``embed`` for one that cannot, a missing extra, a folder with other content, a network that the format
            cannot express.
        LimitError: the artifact differs from PyTorch by more than ``tolerance``; nothing is kept.
    """
    output = as_path(output)
    check_float(record, f"this checkpoint of {record.model}")
    fmt = find_format(format_name)
    fmt.check_precision(precision)
    fmt.versions()
    if lanes is not None and not fmt.lanes:
        raise InputError(f"--lanes has no benefit for the runtime of {fmt.name}: remove it")
    if embed and not fmt.embeds:
        able = ", ".join(each.name for each in FORMATS.values() if each.embeds)
        raise InputError(f"--embed is for {able}: the format {fmt.name} has no source that could hold the weights")
    tolerance = TOLERANCES[precision] if tolerance is None else tolerance
    check_share(tolerance, "--tolerance")
    check_output(output)
    preprocess = resized(Preprocess.from_dict(record.preprocess), size)
    space = Space(output, weight_bytes(model, precision), round(fmt.scratch * weight_bytes(model)))
    space.check()
    computed = precision == FLOAT16 and fmt.float16 == "computed" and not fmt.runs_here
    pictures = load_pictures(images) if fmt.runs_here or computed else None
    with (
        stages(f"{record.model} to {fmt.name}"),
        writing(output) as partial,
        one_line(f"{record.model} cannot be exported to {fmt.name}", space),
    ):
        stage("rewriting")
        model = export_copy(model)
        with torch.inference_mode():
            check_outputs(record, model(example_input(preprocess)).shape[1])
        if fmt.any_size:
            _check_any_size(model, record.model, fmt, preprocess)
        weights = weights_digest(model)
        deployed = deploy_form(model)
        if lanes is not None:
            deployed = align_depthwise(deployed, lanes)

        def write(example: Tensor, folder: Path) -> dict[str, Any]:
            return fmt.write(deployed, example, folder, precision, embed_weights=embed)

        details = write(example_input(preprocess, batch_size), partial)
        details |= {} if lanes is None else {"lanes": lanes}
        details |= {"float16": fmt.float16} if precision == FLOAT16 else {}
        details |= {"embedded": True} if embed else {}
        if computed and pictures:
            found = check_float16(fmt, deployed, model, preprocess, pictures, tolerance)
            details |= {"float16_difference": found}
        return finish_artifact(
            fmt,
            model,
            record.model_copy(update={"preprocess": preprocess.to_dict()}),
            partial,
            details,
            write,
            batch_size=batch_size,
            images=images,
            pictures=pictures,
            tolerance=tolerance,
            weights=weights,
            precision=precision,
        )


def _check_any_size(model: nn.Module, name: str, fmt: Format, preprocess: Preprocess) -> None:
    """Raise if a network takes only its own size, but the format's artifacts take any.

    Raises:
        InputError: the size, and the formats that fix it.
    """
    side = preprocess.size
    if not takes_size(model, resized(preprocess, side + STEP)):
        fixed = ", ".join(each.name for each in FORMATS.values() if not each.any_size)
        raise InputError(
            f"{name} takes {side} x {side} pixels only, and artifacts of {fmt.name} take any size: export it to one "
            f"of {fixed}, which fix it"
        )


def export_copy(model: nn.Module) -> nn.Module:
    """Return a copy of a network ready for export: on the CPU, in float32, in evaluation mode."""
    return copy.deepcopy(model).cpu().float().eval()


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
    model: nn.Module,
    network: CheckpointRecord,
    folder: Path,
    details: dict[str, Any],
    write: Write,
    *,
    batch_size: int = 1,
    images: str | None = None,
    pictures: Pictures | None = None,
    tolerance: float,
    weights: str = "",
    precision: str = FLOAT32,
    simulation: nn.Module | None = None,
) -> ArtifactRecord:
    """Write metadata into the artifact in a folder, verify it, and write its record.

    Args:
        fmt: the format.
        model: the network, on the CPU, in evaluation mode.
        network: its record.
        folder: with the artifact's files.
        details: details from writing them.
        write: called with (example, folder); writes the artifact for another batch or size.
        batch_size: batch size, for the formats that fix it.
        images: source of the images to compare on.
        pictures: those images, if already read.
        tolerance: of the comparison.
        weights: :func:`weights_digest` of the network.
        precision: ``"float32"``, ``"float16"`` or ``"int8"``.
        simulation: what an int8 artifact is compared with instead of ``model``.

    Raises:
        LimitError: the artifact differs by more than ``tolerance``.
        InputError: images that cannot be used, or a record with more or fewer classes than the network has outputs.
    """
    preprocess = Preprocess.from_dict(network.preprocess)
    with torch.inference_mode():
        check_outputs(network, model(example_input(preprocess)).shape[1])
    shape = _input_shape(fmt, preprocess, batch_size)
    fmt.embed(
        folder, classifier_metadata(network, shape, precision)
    )  # before the comparison, so the final file is compared
    verification = verify(
        fmt,
        simulation or model,
        write,
        folder,
        preprocess,
        batch_size=batch_size,
        images=images,
        pictures=pictures,
        tolerance=tolerance,
        measure="rms_difference" if simulation else "relative_difference",
    )
    macs, params = count(model, (preprocess.channels, preprocess.size, preprocess.size))
    result = ArtifactRecord(
        format=fmt.name,
        files={name: digest(folder / name) for name in fmt.files},
        bytes=sum(size_in_bytes(folder / name) for name in fmt.files),
        precision=precision,
        input=shape,
        network=network,
        weights=weights,
        macs=macs,
        params=params,
        versions={**software_versions(), **fmt.versions()},
        details=details,
        verification=verification,
    )
    (folder / NAME).write_text(result.model_dump_json(indent=2) + "\n", encoding="utf-8")
    return result


def _input_shape(fmt: Format, preprocess: Preprocess, batch_size: int) -> list[int | None]:
    side = None if fmt.any_size else preprocess.size
    return [None if fmt.any_batch else batch_size, preprocess.channels, side, side]


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
