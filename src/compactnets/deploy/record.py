"""The record beside an exported network: how to feed it, what comes out, how it was checked."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field

from compactnets.deploy.formats import FORMATS, Format
from compactnets.errors import InputError
from compactnets.files import as_path
from compactnets.training.checkpoint import CheckpointRecord, parse_record
from compactnets.values import read_json

NAME = "artifact.json"
LAYERS = "quantization.json"  # beside an int8 artifact: how it was made, and the error of every layer


class Check(BaseModel):
    """One comparison with PyTorch: ``images`` images in batches of ``batch``, of ``size`` x ``size`` pixels."""

    model_config = ConfigDict(extra="forbid")

    batch: int
    size: int
    images: int
    max_difference: float = Field(description="largest absolute difference between two logits")
    relative_difference: float = Field(description="the same, divided by the largest absolute logit")
    rms_difference: float = Field(description="root mean square of the differences, divided by the logits' deviation")
    top1_agreement: float = Field(description="share of images with the same best class, from 0 to 1")


class Verification(BaseModel):
    """How an artifact was compared with the network that it was made from."""

    model_config = ConfigDict(extra="forbid")

    ran: bool = Field(description="whether the artifact was run in its own runtime")
    note: str = ""
    images: str = Field("", description="where the images came from")
    tolerance: float = Field(description="limit of the measure")
    measure: str = Field("relative_difference", description="the field of a check that the tolerance is for")
    checks: list[Check] = Field(default_factory=list)


class ArtifactRecord(BaseModel):
    """What ``artifact.json`` holds."""

    model_config = ConfigDict(extra="forbid")

    version: int = 1
    format: str
    files: dict[str, str] = Field(description="name -> sha256, the main file first")
    bytes: int = Field(description="of all files together")
    precision: str = Field("float32", description="of the weights: float32, float16 or int8")
    input: list[int | None] = Field(description="(N, C, H, W); null where any number is taken")
    network: CheckpointRecord = Field(description="network, classes, preprocessing, source and licence of the weights")
    weights: str = Field("", description="sha256 of the tensors that it was made from, with their names and shapes")
    macs: int = Field(description="multiply-adds for one image of the preprocessing's size")
    params: int
    versions: dict[str, str] = Field(description="what wrote and checked it")
    details: dict[str, Any] = Field(default_factory=dict, description="what the format has besides")
    verification: Verification


def artifact_folder(path: Path) -> Path | None:
    """Return the folder of the artifact that ``path`` names, by folder or main file; ``None`` for anything else."""
    folder = path if path.is_dir() else path.parent
    named = path.is_dir() or path.name in {form.file for form in FORMATS.values()}
    return folder if named and (folder / NAME).is_file() else None


def read_artifact(path: str | Path) -> tuple[ArtifactRecord, Format]:
    """Read the record of an artifact and check the files against it.

    Raises:
        InputError: no record, one that is not a record, an unknown format, or files that differ from the record.
    """
    path = as_path(path)
    folder = path if path.is_dir() else path.parent
    file = folder / NAME
    if not file.is_file():
        raise InputError(f"{path} has no {NAME} beside it: expected what 'compactnets export' writes")
    if is_detectors(file):
        raise InputError(f"{folder} is an exported detector: 'compactnets detect eval' and 'detect predict' take it")
    record = parse_record(file, ArtifactRecord, "the record of an artifact")
    form = FORMATS.get(record.format)
    if form is None or tuple(record.files) != form.files:
        raise InputError(f"{file} names the format {record.format!r} with {', '.join(record.files) or 'no files'}")
    for name, expected in record.files.items():
        if not (folder / name).exists():
            raise InputError(f"{folder / name} is missing, which {NAME} names: export again")
        if digest(folder / name) != expected:
            raise InputError(f"{folder / name} is not the file that {NAME} describes (sha256 differs): export again")
    return record, form


def is_detectors(file: Path) -> bool:
    """Whether an ``artifact.json`` says that it is a detector's."""
    try:
        found = read_json(file, str(file))
    except InputError:
        return False  # what is wrong with it is for whoever reads it to say
    return isinstance(found, dict) and found.get("task") == "detection"


def digest(path: Path) -> str:
    """Return the sha256 of a file, or of a folder's files with their names."""
    if path.is_file():
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    total = hashlib.sha256()
    for file_path in sorted(path.rglob("*")):
        if file_path.is_file():
            total.update(f"{file_path.relative_to(path).as_posix()} {digest(file_path)}\n".encode())
    return total.hexdigest()


def size_in_bytes(path: Path) -> int:
    """Return the size of a file, or of all files of a folder."""
    return sum(file.stat().st_size for file in ([path] if path.is_file() else path.rglob("*")) if file.is_file())
