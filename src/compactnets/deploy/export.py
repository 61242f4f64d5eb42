"""From a network to a verified artifact in a folder."""

from __future__ import annotations

import copy
import dataclasses
import shutil
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from compactnets.complexity import count
from compactnets.data import Preprocess
from compactnets.deploy.folders import move_folder, partial_folder
from compactnets.deploy.formats import FORMATS, Format, find_format
from compactnets.deploy.record import LAYERS, NAME, ArtifactRecord, digest, size_in_bytes
from compactnets.deploy.rewrite import align_depthwise, deploy_form
from compactnets.deploy.verify import TOLERANCE, Write, example_input, verify
from compactnets.environment import software_versions
from compactnets.errors import InputError
from compactnets.training.checkpoint import CheckpointRecord


def export(
    model: nn.Module,
    record: CheckpointRecord,
    format_name: str,
    output: Path,
    *,
    size: int | None = None,
    batch_size: int = 1,
    images: str | None = None,
    tolerance: float | None = None,
    lanes: int | None = None,
) -> ArtifactRecord:
    """Write a network in the format of a device's runtime, compare it with PyTorch, and keep it if they agree.

    Args:
        model: a network in evaluation mode; it is left alone.
        record: its classes and preprocessing, which go into the artifact's record.
        format_name: one of ``FORMATS``.
        output: folder for the artifact; it appears whole or not at all. An artifact that is there is replaced.
        size: side of the images, where it differs from the preprocessing's.
        batch_size: images at once, for the formats that fix it.
        images: source of the images to compare on; two photographs of scikit-learn where it is not given.
        tolerance: largest difference allowed, as a share of the largest absolute logit; ``verify.TOLERANCE``.
        lanes: pad the channels of depthwise convolutions to multiples of this, for the formats whose runtime gains from
            it (``onnx``, on x86).

    Raises:
        InputError: an unknown format, ``lanes`` for one that gains nothing from it, a missing extra, a folder that
            holds something else, a network that the format cannot express.
        LimitError: the artifact differs from PyTorch by more than ``tolerance``; nothing is left behind.
    """
    form = find_format(format_name)
    form.versions()
    if lanes is not None and not form.lanes:
        raise InputError(f"the runtime of {form.name} gains nothing from --lanes: leave it out")
    check_output(output)
    preprocess = _resized(Preprocess.from_dict(record.preprocess), size)
    model = copy.deepcopy(model).cpu().float().eval()
    deployed = deploy_form(model)
    if lanes is not None:
        deployed = align_depthwise(deployed, lanes)

    def write(example: Tensor, folder: Path) -> dict[str, Any]:
        return form.write(deployed, example, folder)

    with writing(output) as partial:
        details = write(example_input(preprocess, batch_size), partial)
        details |= {} if lanes is None else {"lanes": lanes}
        return finish_artifact(
            form,
            model,
            record.model_copy(update={"preprocess": preprocess.to_dict()}),
            partial,
            details,
            write,
            batch_size=batch_size,
            images=images,
            tolerance=TOLERANCE if tolerance is None else tolerance,
        )


@contextmanager
def writing(output: Path) -> Iterator[Path]:
    """Give a folder to write to, which takes the place of ``output`` when the block ends without an error.

    Raises:
        InputError: the folder cannot be written.
    """
    partial = partial_folder(output)
    try:
        partial.mkdir(parents=True)
        yield partial
        move_folder(partial, output)
    except OSError as error:
        raise InputError(f"cannot write {output}: {error.strerror}") from None
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def finish_artifact(
    form: Format,
    model: nn.Module,
    network: CheckpointRecord,
    folder: Path,
    details: dict[str, Any],
    write: Write,
    *,
    batch_size: int = 1,
    images: str | None = None,
    tolerance: float,
    precision: str = "float32",
    simulation: nn.Module | None = None,
) -> ArtifactRecord:
    """Verify the artifact in a folder and write its record.

    Args:
        form: the format.
        model: the network, on the processor, in evaluation mode.
        network: its record.
        folder: with the artifact's files.
        details: what writing them said.
        write: called with (example, folder); writes such an artifact for another batch or size.
        batch_size: images at once, for the formats that fix it.
        images: source of the images to compare on.
        tolerance: of the comparison.
        precision: ``"float32"`` or ``"int8"``.
        simulation: what an int8 artifact is compared with, in the place of ``model``.

    Raises:
        LimitError: the artifact differs by more than ``tolerance``.
        InputError: images that cannot be used.
    """
    preprocess = Preprocess.from_dict(network.preprocess)
    verification = verify(
        form,
        simulation or model,
        write,
        folder,
        preprocess,
        batch_size=batch_size,
        images=images,
        tolerance=tolerance,
        measure="rms_difference" if simulation else "relative_difference",
    )
    macs, params = count(model, (preprocess.channels, preprocess.size, preprocess.size))
    result = ArtifactRecord(
        format=form.name,
        files={name: digest(folder / name) for name in form.files},
        bytes=sum(size_in_bytes(folder / name) for name in form.files),
        precision=precision,
        input=_input_shape(form, preprocess, batch_size),
        network=network,
        macs=macs,
        params=params,
        versions={**software_versions(), **form.versions()},
        details=details,
        verification=verification,
    )
    (folder / NAME).write_text(result.model_dump_json(indent=2) + "\n", encoding="utf-8")
    return result


def _resized(preprocess: Preprocess, size: int | None) -> Preprocess:
    """Return the preprocessing for another side, with the same share of the image in the crop."""
    if size is None:
        return preprocess
    resize = None if preprocess.resize is None else round(preprocess.resize * size / preprocess.size)
    return dataclasses.replace(preprocess, size=size, resize=resize)


def _input_shape(form: Format, preprocess: Preprocess, batch_size: int) -> list[int | None]:
    side = None if form.any_size else preprocess.size
    return [None if form.any_batch else batch_size, preprocess.channels, side, side]


def check_output(output: Path, files: Iterable[str] = ()) -> None:
    """Raise unless ``output`` is free, empty, or an artifact and nothing more.

    Args:
        output: folder to write to.
        files: names that an artifact may have besides those of classifiers.
    """
    if output.exists() and not output.is_dir():
        raise InputError(f"--output must be a folder, {output} is a file")
    if not output.exists():
        return
    known = {NAME, LAYERS, *files, *(name for form in FORMATS.values() for name in form.files)}
    found = {entry.name for entry in output.iterdir()}
    if found and not (NAME in found and found <= known):
        foreign = sorted(found - known) or sorted(found)
        raise InputError(f"{output} holds {foreign[0]}, which no export wrote: choose another --output")
