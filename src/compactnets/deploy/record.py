"""The record of an exported network: its input, its output and its verification."""

from __future__ import annotations

import hashlib
from abc import abstractmethod
from pathlib import Path
from typing import Any, ClassVar, Literal, TypeVar

from pydantic import AliasChoices, BaseModel, ConfigDict, Field

from compactnets.classification.checkpoint import CheckpointRecord, check_outputs
from compactnets.data import Preprocess
from compactnets.deploy.formats.registry import FORMATS, Format
from compactnets.errors import InputError
from compactnets.files import as_path
from compactnets.training.checkpoint import parse_record, stated_task
from compactnets.values import read_json

NAME = "artifact.json"
LAYERS = "quantization.json"  # beside an int8 artifact: how it was quantised, and the error of every layer


class Check(BaseModel):
    """One comparison with PyTorch: ``images`` images in batches of ``batch``, of ``size`` pixels."""

    model_config = ConfigDict(extra="forbid")

    batch: int
    size: int | tuple[int, int] = Field(description="side, or height and width where they differ")
    images: int
    max_difference: float = Field(description="largest absolute difference between two outputs")
    relative_difference: float = Field(description="the same, divided by the largest absolute output")
    rms_difference: float = Field(description="root mean square of the differences, divided by the outputs' deviation")
    agreement: float = Field(
        description="share of images, or of the pixels of segmenters, with the same best class, from 0 to 1",
        validation_alias=AliasChoices("agreement", "top1_agreement"),  # its name in earlier artifacts
    )


class Verification(BaseModel):
    """How an artifact was compared with the original network."""

    model_config = ConfigDict(extra="forbid")

    ran: bool = Field(description="whether the artifact was run in its own runtime")
    note: str = ""
    images: str = Field("", description="where the images came from")
    tolerance: float = Field(description="limit of the measure")
    measure: str = Field("relative_difference", description="the field of a check that the tolerance applies to")
    least_agreement: float = Field(0.0, description="limit of the agreement")
    checks: list[Check] = Field(default_factory=list)


class ExportedRecord(BaseModel):
    """The fields of every task's ``artifact.json``."""

    model_config = ConfigDict(extra="forbid")

    version: int = 1
    task: str
    format: str
    files: dict[str, str] = Field(description="name -> sha256, the main file first")
    bytes: int = Field(description="of all files together")
    precision: str = Field("float32", description="of the weights: float32, float16 or int8")
    versions: dict[str, str] = Field(description="packages that wrote and checked it")

    def expected_files(self) -> tuple[str, ...] | None:
        """Return the names that ``files`` must have, in order; ``None`` if the format is unknown."""
        fmt = FORMATS.get(self.format)
        return None if fmt is None else fmt.files


class ImageArtifact(ExportedRecord):
    """The ``artifact.json`` of a network that takes images and gives one tensor."""

    input: list[int | None] = Field(description="(N, C, H, W); null for a dynamic axis")
    network: Any
    agreement: ClassVar[str] = "same top-1"
    agreement_digits: ClassVar[int] = 0
    weights: str = Field("", description="sha256 of the original tensors, with their names and shapes")
    macs: int = Field(description="multiply-adds for one image of the size that it was compared at")
    params: int
    details: dict[str, Any] = Field(default_factory=dict, description="format-specific details")
    verification: Verification

    @property
    def title(self) -> str:
        """The network's name in messages."""
        return str(self.network.model)

    @property
    @abstractmethod
    def example(self) -> tuple[int, int, int]:
        """Channels, height and width of an image that it takes."""

    def opener(self) -> Format:
        """Return the format that opens it, with the delegate that it was made for.

        Raises:
            InputError: an unknown delegate.
        """
        return FORMATS[self.format].delegating(self.details.get("delegate"))

    @property
    def map_size(self) -> tuple[int, int] | None:
        """Height and width of the scores for an ``example``; ``None`` for one score a class."""
        return None

    @property
    def threshold(self) -> float | None:
        """Least probability of a class, where an image may have several; ``None`` where the best one counts."""
        return None

    def notes(self) -> list[str]:
        """Return further lines about input and output."""
        return []

    def check_outputs(self, outputs: int) -> None:
        """Check that the record names as many classes as the network has outputs.

        Raises:
            InputError: both numbers.
        """
        if outputs != len(self.network.class_names):
            raise InputError(
                f"the record of {self.title} names {len(self.network.class_names)} classes, and the network has "
                f"{outputs} outputs: they must match"
            )


class ArtifactRecord(ImageArtifact):
    """The ``artifact.json`` of a classifier."""

    task: Literal["classification"] = "classification"
    network: CheckpointRecord = Field(description="network, classes, preprocessing, source and licence of the weights")

    @property
    def example(self) -> tuple[int, int, int]:
        preprocess = Preprocess.from_dict(self.network.preprocess)
        return preprocess.channels, preprocess.size, preprocess.size

    def check_outputs(self, outputs: int) -> None:
        check_outputs(self.network, outputs)


Exported = TypeVar("Exported", bound=ExportedRecord)


def find_artifact(path: Path) -> Path | None:
    """Return the folder of the artifact that ``path`` names, by folder or by one of its files; ``None`` otherwise."""
    folder = path if path.is_dir() else path.parent
    if not (folder / NAME).is_file():
        return None
    return folder if path.is_dir() or path.name in _content(folder).get("files", ()) else None


def task_of_artifact(folder: Path) -> str:
    """Return the task that the record in the folder of an artifact states."""
    return stated_task(_content(folder))


def _content(folder: Path) -> dict[str, Any]:
    try:
        found = read_json(folder / NAME, str(folder / NAME))
    except InputError:
        return {}  # whoever reads the record reports the error
    return found if isinstance(found, dict) else {}


def read_artifact(path: str | Path, kind: type[Exported]) -> tuple[Exported, Path]:
    """Read the record of an artifact, check the files against it, and return it with the folder.

    Args:
        path: folder, or one of its files.
        kind: the record type of its task.

    Raises:
        InputError: no record, a record of another task, an invalid record, an unknown format, or files that do not
            match the record.
    """
    path = as_path(path)
    folder = path if path.is_dir() else path.parent
    file = folder / NAME
    if not file.is_file():
        raise InputError(f"{path} has no {NAME} beside it: expected the output of 'compactnets export'")
    record = parse_record(file, kind, "the record of an artifact")
    if tuple(record.files) != (expected := record.expected_files()):
        raise InputError(
            f"{file} names the format {record.format!r} with {', '.join(record.files) or 'no files'}: expected "
            f"{', '.join(expected) if expected else 'a format of this version'}"
        )
    for name, wanted in record.files.items():
        if not (folder / name).exists():
            raise InputError(f"{folder / name} is missing, although {NAME} lists it: export again")
        if digest(folder / name) != wanted:
            raise InputError(f"{folder / name} is not the file that {NAME} describes (sha256 differs): export again")
    return record, folder


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
