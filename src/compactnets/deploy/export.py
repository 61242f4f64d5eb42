"""From a network to a verified artifact in a folder."""

from __future__ import annotations

import copy
import dataclasses
import shutil
from pathlib import Path

from torch import nn

from compactnets.complexity import count
from compactnets.data import Preprocess
from compactnets.deploy.folders import move_folder, partial_folder
from compactnets.deploy.formats import FORMATS, Format, find_format
from compactnets.deploy.record import NAME, ArtifactRecord, digest, size_in_bytes
from compactnets.deploy.rewrite import deploy_form
from compactnets.deploy.verify import TOLERANCE, example_input, verify
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

    Raises:
        InputError: an unknown format, a missing extra, a folder that holds something else, a network that the format
            cannot express.
        LimitError: the artifact differs from PyTorch by more than ``tolerance``; nothing is left behind.
    """
    form = find_format(format_name)
    versions = form.versions()
    _check_output(output)
    preprocess = _resized(Preprocess.from_dict(record.preprocess), size)
    model = copy.deepcopy(model).cpu().float().eval()
    deployed = deploy_form(model)
    partial = partial_folder(output)
    try:
        partial.mkdir(parents=True)
        details = form.write(deployed, example_input(preprocess, batch_size), partial)
        verification = verify(
            form,
            model,
            deployed,
            partial,
            preprocess,
            batch_size=batch_size,
            images=images,
            tolerance=TOLERANCE if tolerance is None else tolerance,
        )
        macs, params = count(model, (preprocess.channels, preprocess.size, preprocess.size))
        result = ArtifactRecord(
            format=form.name,
            files={name: digest(partial / name) for name in form.files},
            bytes=sum(size_in_bytes(partial / name) for name in form.files),
            input=_input_shape(form, preprocess, batch_size),
            network=record.model_copy(update={"preprocess": preprocess.to_dict()}),
            macs=macs,
            params=params,
            versions={**software_versions(), **versions},
            details=details,
            verification=verification,
        )
        (partial / NAME).write_text(result.model_dump_json(indent=2) + "\n", encoding="utf-8")
        move_folder(partial, output)
    except OSError as error:
        raise InputError(f"cannot write {output}: {error.strerror}") from None
    finally:
        shutil.rmtree(partial, ignore_errors=True)
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


def _check_output(output: Path) -> None:
    """Raise unless ``output`` is free, empty, or an artifact and nothing more."""
    if output.exists() and not output.is_dir():
        raise InputError(f"--output must be a folder, {output} is a file")
    if not output.exists():
        return
    known = {NAME, *(name for form in FORMATS.values() for name in form.files)}
    found = {entry.name for entry in output.iterdir()}
    if found and not (NAME in found and found <= known):
        foreign = sorted(found - known) or sorted(found)
        raise InputError(f"{output} holds {foreign[0]}, which no export wrote: choose another --output")
