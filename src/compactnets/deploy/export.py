"""From a network to a verified artifact in a folder."""

from __future__ import annotations

import dataclasses
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import timm
import torch
from torch import nn

from compactnets.complexity import count
from compactnets.data import Preprocess
from compactnets.data.presets import CIFAR10, IMAGENET
from compactnets.deploy.formats import FORMATS, Format, find_format
from compactnets.deploy.record import NAME, ArtifactRecord, digest, size_in_bytes
from compactnets.deploy.rewrite import deploy_form
from compactnets.deploy.verify import TOLERANCE, example_input, verify
from compactnets.environment import software_versions
from compactnets.errors import InputError, did_you_mean, missing_extra
from compactnets.models.registry import accepted_arguments, create_model, default_form
from compactnets.training.checkpoint import CheckpointRecord, load_checkpoint

IMAGENET_CLASSES = 1000
SEED = 0  # of the weights of a network that is exported by its name


def export(
    model: nn.Module,
    record: CheckpointRecord,
    format_name: str,
    output: Path,
    *,
    size: int | None = None,
    batch_size: int = 1,
    images: str | None = None,
    tolerance: float = TOLERANCE,
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
        tolerance: largest difference allowed, as a share of the largest absolute logit.

    Raises:
        InputError: an unknown format, a missing extra, a folder that holds something else, a network that the format
            cannot express.
        LimitError: the artifact differs from PyTorch by more than ``tolerance``; nothing is left behind.
    """
    form = find_format(format_name)
    versions = form.versions()
    _check_output(output)
    preprocess = _resized(Preprocess.from_dict(record.preprocess), size)
    model = model.cpu().float().eval()
    deployed = deploy_form(model)
    partial = output.absolute().with_name(f".{output.absolute().name}.{os.getpid()}.partial")
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
            tolerance=tolerance,
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
        _move(partial, output)
    except OSError as error:
        raise InputError(f"cannot write {output}: {error.strerror}") from None
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return result


def load_for_export(what: str, arguments: dict[str, Any] | None = None) -> tuple[nn.Module, CheckpointRecord]:
    """Return the network of a checkpoint, or a network by its name with fresh weights, which only serve to measure.

    Args:
        what: path of a ``.safetensors`` checkpoint, a name, or ``timm:NAME`` or ``pytorchcv:NAME`` to compare with.
        arguments: of a network given by its name (``stem``, ``num_classes``, …).

    Raises:
        InputError: neither, or arguments with a checkpoint.
    """
    given = dict(arguments or {})
    if what.endswith(".safetensors") or Path(what).exists():
        if given:
            raise InputError(f"{', '.join(given)} cannot be set for {what}: a checkpoint has its own arguments")
        return load_checkpoint(what)
    if ":" in what:
        return _from_library(what, given)
    accepted_arguments(what)
    form = default_form(what, given.get("stem"))
    del form["input_size"]
    arguments = {**form, **given}
    if arguments["num_classes"] < 1:
        raise InputError("an exported network needs a classifier, found num_classes = 0")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(SEED)
        model = create_model(what, **arguments).eval()
    return model, _fresh_record(what, arguments, _usual_preprocess(arguments))


def _fresh_record(name: str, arguments: dict[str, Any], preprocess: Preprocess) -> CheckpointRecord:
    return CheckpointRecord(
        model=name,
        arguments=arguments,
        class_names=[str(index) for index in range(arguments["num_classes"])],
        preprocess=preprocess.to_dict(),
        source=f"fresh weights (seed {SEED}), not trained",
        license="none needed",
    )


def _from_library(what: str, arguments: dict[str, Any]) -> tuple[nn.Module, CheckpointRecord]:
    """Build ``timm:NAME`` or ``pytorchcv:NAME`` with 1,000 classes and ImageNet's preprocessing, for comparisons."""
    library, _, name = what.partition(":")
    if arguments:
        raise InputError(f"{', '.join(arguments)} cannot be set for {what}")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(SEED)
        if library == "timm":
            if name not in timm.list_models():
                raise InputError(f"timm has no network {name!r}{did_you_mean(name, timm.list_models())}")
            model = timm.create_model(name)
        elif library == "pytorchcv":
            try:
                from pytorchcv.model_provider import get_model
            except ImportError:
                raise missing_extra("pytorchcv", "peers", f"the network {what}") from None
            try:
                model = get_model(name)
            except ValueError as error:
                raise InputError(f"pytorchcv has no network {name!r}: {error}") from None
        else:
            raise InputError(f"a network of another library is timm:NAME or pytorchcv:NAME, found {what!r}")
    return model.eval(), _fresh_record(what, {"num_classes": IMAGENET_CLASSES}, IMAGENET)


def _usual_preprocess(arguments: Mapping[str, Any]) -> Preprocess:
    usual = CIFAR10 if arguments["stem"] == "cifar" else IMAGENET
    channels = arguments.get("in_chans", usual.channels)
    if channels not in (1, usual.channels):
        raise InputError(f"images have 1 or 3 channels, found in_chans = {channels}")
    middle = (sum(usual.mean) / 3,), (sum(usual.std) / 3,)
    return usual if channels == 3 else dataclasses.replace(usual, mean=middle[0], std=middle[1])


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


def _move(partial: Path, output: Path) -> None:
    """Put the finished folder in place of what is there."""
    before = partial.with_suffix(".before")
    if output.exists():
        output.rename(before)
    partial.rename(output)
    shutil.rmtree(before, ignore_errors=True)
