"""Checkpoints: safetensors with a JSON record beside them, which says how to build, feed and read the network."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, TypeVar

import torch
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError
from safetensors import SafetensorError
from safetensors.torch import load_file
from safetensors.torch import save as tensors_as_bytes
from torch import Tensor, nn

from compactnets.data import Preprocess
from compactnets.data.content import digest_parts
from compactnets.data.listing import compose
from compactnets.errors import InputError, did_you_mean
from compactnets.files import as_bytes, as_path, replace_files
from compactnets.models.form import compare, is_form, with_form
from compactnets.models.pretrained import find_weights, locate
from compactnets.models.registry import build_on_meta, create_model
from compactnets.values import read_json

Record = TypeVar("Record", bound=BaseModel)
ClassName = Annotated[str, AfterValidator(compose)]  # as sources have them, however an older record encodes accents

ARTIFACT = "artifact.json"  # the record of an exported network (compactnets.deploy.record)
EXPORTED = {".onnx", ".xml", ".bin", ".pte", ".param", ".mlpackage", ".pt2"}  # what its files end in


class Int8Training(BaseModel):
    """What a checkpoint of ``train --qat`` holds: the quantised form of the network, its scales trained."""

    model_config = ConfigDict(extra="forbid")

    init: str = Field(description="the float checkpoint that training began with")
    calibration_images: int = Field(description="training images that the first ranges were measured on")
    quantizers: list[str] = Field(description="names of the quantised tensors, in the order of the network")
    logits: str | None = Field(description="the quantizer of the logits, left out where a runtime keeps them in float")


class CheckpointRecord(BaseModel):
    """What the JSON file beside the weights holds."""

    model_config = ConfigDict(extra="forbid")

    format: int = 1
    model: str = Field(description="name for compactnets.create_model")
    arguments: dict[str, Any] = Field(description="its arguments, num_classes among them")
    class_names: list[ClassName] = Field(description="identifiers of the classes, in the order of the outputs")
    class_labels: list[str] | None = Field(None, description="what a person reads, where the identifiers are codes")
    preprocess: dict[str, Any] = Field(description="fields of compactnets.data.Preprocess")
    source: str = Field(description="where the weights come from")
    license: str = Field(description="licence of the weights, as far as it is known")
    training: dict[str, Any] = Field(default_factory=dict, description="recipe, data, epochs, results")
    int8: Int8Training | None = Field(None, description="where it was trained for int8: what the weights are of")
    versions: dict[str, str] = Field(default_factory=dict)

    @property
    def labels(self) -> list[str]:
        """The names to show to a person."""
        return self.class_labels or self.class_names


def record_path(checkpoint: Path) -> Path:
    """Return where the record of a checkpoint lies: the same name with ``.json``."""
    checkpoint = locate(checkpoint)
    return checkpoint.with_suffix(".json")


def save_checkpoint(path: str | Path, state_dict: Mapping[str, Tensor], record: BaseModel) -> None:
    """Write weights and record; both appear whole or not at all.

    Raises:
        InputError: the name does not end in ``.safetensors``, or the folder cannot be written.
    """
    path = as_path(path)
    if path.suffix != ".safetensors":
        raise InputError(f"a checkpoint's name ends in .safetensors, found {path}")
    tensors = {key: value.detach().contiguous().cpu() for key, value in state_dict.items()}
    text = record.model_dump_json(indent=2) + "\n"
    weights = tensors_as_bytes(tensors, metadata={"format": "pt"})
    replace_files({path: weights, record_path(path): as_bytes(text)})


def read_record(path: str | Path) -> CheckpointRecord:
    """Read the record beside a checkpoint.

    Raises:
        InputError: no checkpoint, no record, or one that is not a record.
    """
    path = as_path(path)
    path = locate(path)
    if advice := _exported(path):
        raise InputError(advice)
    if not path.is_file():
        raise InputError(f"no checkpoint at {path}{did_you_mean(str(path), find_weights())}")
    if path.suffix != ".safetensors":
        raise InputError(
            f"{path} is not a .safetensors checkpoint; one of the MENet repository becomes one with "
            f"'compactnets convert {path} --model NAME --output FILE.safetensors'"
        )
    record = record_path(path)
    if not record.is_file():
        raise InputError(f"{path} has no record beside it: expected {record.name} in the same folder")
    if task_of(path) == "detection":
        raise InputError(f"{path} is a detector: the verbs of 'compactnets detect' take it")
    return parse_record(record, CheckpointRecord, "a checkpoint record")


def _exported(path: Path) -> str | None:
    """Return what to do about a path that is none of a checkpoint but of an exported network, or of any folder."""
    folder = path if path.is_dir() and path.suffix not in EXPORTED else path.parent
    if (folder / ARTIFACT).is_file() and (path.is_dir() or path.suffix in EXPORTED):
        return (
            f"{path} is of an exported network, and a checkpoint was expected: eval and predict take its folder "
            f"{folder}, the other verbs the .safetensors file that it was made from"
        )
    if path.suffix in EXPORTED and path.exists():
        return (
            f"{path} was exported, but {ARTIFACT}, which says how to feed it, is not beside it: give the folder that "
            f"'compactnets export' wrote, or export its checkpoint again"
        )
    if path.is_dir():
        inside = sorted(each.name for each in path.glob("*.safetensors"))
        found = f"give one of its checkpoints, such as {path / inside[0]}" if inside else "it has no checkpoint either"
        return f"{path} is a folder without {ARTIFACT}, so no exported network: {found}"
    return None


def task_of(checkpoint: Path) -> str | None:
    """Return what the record beside a checkpoint says that it is for; a classifier's says nothing."""
    try:
        found = read_json(record_path(checkpoint), str(checkpoint))
    except InputError:
        return None  # what is wrong with it is for whoever reads it to say
    return found.get("task") if isinstance(found, dict) else None


def parse_record(file: Path, kind: type[Record], what: str) -> Record:
    """Read a JSON file as a record of ``kind``.

    Raises:
        InputError: not JSON, or not ``what``; the message names the field.
    """
    try:
        return kind.model_validate(read_json(file, str(file)))
    except ValidationError as error:
        problem = error.errors()[0]
        raise InputError(f"{file} is not {what}: {'.'.join(map(str, problem['loc']))}: {problem['msg']}") from None


def digest_checkpoint(path: Path) -> str:
    """Return a digest of a checkpoint, weights and record, the same wherever it lies and however it is named.

    Raises:
        InputError: it cannot be read.
    """
    try:
        return digest_parts(file.read_bytes() for file in (locate(path), record_path(path)))
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror or error}") from None


def read_tensors(path: str | Path) -> dict[str, Tensor]:
    """Read the weights of a safetensors file; nothing in it can be executed."""
    path = as_path(path)
    try:
        return load_file(locate(path))
    except (SafetensorError, OSError) as error:
        raise InputError(f"{path} is not a readable safetensors file: {error}") from None


def read_weights(path: Path, record: CheckpointRecord) -> dict[str, Tensor]:
    """Read the weights of a checkpoint; where they do not say their form (:mod:`compactnets.models.form`), as in files
    older than that, it is the form of the record.

    Raises:
        InputError: a file that cannot be read, or a record that says another form than the weights.
    """
    network, tensors = build_on_meta(record.model, record.arguments), read_tensors(path)
    _check_forms(tensors, network.state_dict(), path)
    return with_form(tensors, network)


def load_weights(model: nn.Module, state_dict: Mapping[str, Tensor], name: str, origin: Path | str) -> None:
    """Copy weights into ``model``; nothing is copied where they do not fit.

    A state that does not say its form (:mod:`compactnets.models.form`) is taken to be of the network's.

    Raises:
        InputError: other keys or shapes than those of the network ``name``, of which the first ones are named, or
            another form.
    """
    whole, state_dict = model.state_dict(), with_form(state_dict, model)
    expected = {key: value for key, value in whole.items() if not is_form(key)}
    forms = {key: state_dict[key] for key in state_dict if is_form(key) and key in whole}
    state_dict = {key: value for key, value in state_dict.items() if key not in forms}
    # counters of batch normalisation: absent from files older than torch 0.4.1, and unused in evaluation
    missing = [key for key in expected if key not in state_dict and not key.endswith("num_batches_tracked")]
    unknown = [key for key in state_dict if key not in expected]
    shapes = [key for key in state_dict if key in expected and state_dict[key].shape != expected[key].shape]
    problems = []
    if missing:
        problems.append(f"{len(missing)} keys missing ({', '.join(missing[:2])})")
    if unknown:
        problems.append(f"{len(unknown)} keys unknown ({', '.join(unknown[:2])})")
    for key in shapes[:2]:
        problems.append(f"{key} is {tuple(state_dict[key].shape)}, {name} has {tuple(expected[key].shape)}")
    if problems:
        raise InputError(f"{origin} is a checkpoint of another network than {name}: {'; '.join(problems)}")
    _check_forms(forms, whole, origin)
    model.load_state_dict({**state_dict, **forms}, strict=False)


def _check_forms(state: Mapping[str, Tensor], wanted: Mapping[str, Tensor], origin: Path | str) -> None:
    if told := compare(state, wanted):
        raise InputError(
            f"{origin} holds weights of a network with {told}: the same tensors compute something else there"
        )


def check_outputs(record: CheckpointRecord, outputs: int) -> None:
    """Raise unless a record names as many classes as its network has outputs.

    Raises:
        InputError: both numbers.
    """
    for field, names in (("class_names", record.class_names), ("class_labels", record.class_labels)):
        if names is not None and len(names) != outputs:
            raise InputError(
                f"the record of {record.model} names {len(names)} classes in {field}, and the network has {outputs} "
                f"outputs: they must be as many"
            )


def load_checkpoint(path: str | Path, device: torch.device | str = "cpu") -> tuple[nn.Module, CheckpointRecord]:
    """Build the network of a checkpoint, in evaluation mode, and return it with its record.

    Raises:
        InputError: a file or record that cannot be read, weights that do not fit the network, or a checkpoint that was
            trained for int8 (:func:`compactnets.deploy.artifact.load_network` and ``quantize`` take those).
    """
    path = as_path(path)
    record = read_record(path)
    if record.int8 is not None:
        raise InputError(
            f"{path} was trained for int8 (train --qat): eval and predict take it, and 'compactnets quantize {path}' "
            f"writes it for a runtime; what needs a float network takes the one that it was made from, "
            f"{record.int8.init}"
        )
    model = create_model(record.model, **record.arguments)
    load_weights(model, read_tensors(path), record.model, path)
    check_outputs(record, getattr(model, "num_classes", len(record.class_names)))
    Preprocess.from_dict(record.preprocess)  # a record that cannot be used is refused here, not at the first image
    return model.to(device).eval(), record
