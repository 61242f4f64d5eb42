"""Checkpoints: safetensors, and next to them a JSON record with everything needed to build and use the network."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, TypeVar

from pydantic import AfterValidator, BaseModel, ValidationError
from safetensors import SafetensorError
from safetensors.torch import load_file
from safetensors.torch import save as tensors_as_bytes
from torch import Tensor, nn

from compactnets.data.content import digest_parts
from compactnets.data.listing import compose
from compactnets.errors import InputError, did_you_mean
from compactnets.files import as_bytes, as_path, replace_files
from compactnets.models.form import compare, is_form, with_form
from compactnets.models.pretrained import find_weights, locate
from compactnets.values import read_json

Record = TypeVar("Record", bound=BaseModel)
ClassName = Annotated[str, AfterValidator(compose)]  # accents as in data sources, whatever an old record has

DEFAULT_TASK = "classification"  # of records without a task
ARTIFACT = "artifact.json"  # the record of an exported network (compactnets.deploy.record)
# file types of exported networks (compactnets.deploy.formats.registry)
EXPORTED = {".onnx", ".xml", ".bin", ".pte", ".tflite", ".param", ".mlpackage", ".pt2", ".c"}


def record_path(checkpoint: Path) -> Path:
    """Return the path of a checkpoint's record: the same name with ``.json``."""
    checkpoint = locate(checkpoint)
    return checkpoint.with_suffix(".json")


def save_checkpoint(path: str | Path, state_dict: Mapping[str, Tensor], record: BaseModel) -> None:
    """Write weights and record, both completely or not at all.

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


def _exported(path: Path) -> str | None:
    """Return advice on a path that is an exported network or a folder instead of a checkpoint."""
    folder = path if path.is_dir() and path.suffix not in EXPORTED else path.parent
    if (folder / ARTIFACT).is_file() and (path.is_dir() or path.suffix in EXPORTED):
        return (
            f"{path} is part of an exported network, expected a checkpoint: eval and predict take its folder "
            f"{folder}, other verbs the .safetensors file it was made from"
        )
    if path.suffix in EXPORTED and path.exists():
        return (
            f"{path} is an exported file without its {ARTIFACT}: give the folder that 'compactnets export' wrote, or "
            f"export the checkpoint again"
        )
    if path.is_dir():
        inside = sorted(each.name for each in path.glob("*.safetensors"))
        found = f"give one of its checkpoints, such as {path / inside[0]}" if inside else "it has no checkpoint either"
        return f"{path} is a folder without {ARTIFACT}, so it is no exported network: {found}"
    return None


def stated_task(found: Any) -> str:
    """Return the ``task`` of a record or recipe; without one (earlier versions) it is classification."""
    return str(found.get("task", DEFAULT_TASK)) if isinstance(found, dict) else DEFAULT_TASK


def task_of(checkpoint: Path) -> str:
    """Return the task of a checkpoint, from its record.

    Raises:
        InputError: no checkpoint, no record, or a record that is not JSON.
    """
    file = find_record(checkpoint)
    return stated_task(read_json(file, str(file)))


def read_record(path: str | Path, kind: type[Record]) -> Record:
    """Read a checkpoint's record as ``kind``, the record type of its task.

    Raises:
        InputError: no checkpoint, no record, a record of another task, or an invalid one.
    """
    return parse_record(find_record(as_path(path)), kind, f"the record of a checkpoint of {task_name(kind)}")


def find_record(path: Path) -> Path:
    """Return the path of a checkpoint's record; both files exist.

    Raises:
        InputError: no checkpoint, or no record; the message says what was found and what to do.
    """
    if (name := path.as_posix()).startswith("hf-hub:"):  # only push and pull ask a host
        name = name.removeprefix("hf-hub:")
        raise InputError(
            f"hf-hub:{name} is not on this disk: 'compactnets pull {name} --output DIR' downloads it, then give "
            f"DIR/model.safetensors"
        )
    path = locate(path)
    if advice := _exported(path):
        raise InputError(advice)
    if not path.is_file():
        raise InputError(f"no checkpoint at {path}{did_you_mean(str(path), find_weights())}")
    if path.suffix != ".safetensors":
        raise InputError(
            f"{path} is not a .safetensors checkpoint; convert a checkpoint of the MENet repository with "
            f"'compactnets convert {path} --model NAME --output FILE.safetensors'"
        )
    record = record_path(path)
    if not record.is_file():
        raise InputError(f"{path} has no record: expected {record.name} in the same folder")
    return record


def task_name(kind: type[BaseModel]) -> str:
    """Return the task of a record type."""
    return str(kind.model_fields["task"].default)


def parse_record(file: Path, kind: type[Record], what: str) -> Record:
    """Read a JSON file as a record of ``kind``.

    Raises:
        InputError: not JSON, a record of another task, or an invalid one; the message names the field.
    """
    content = read_json(file, str(file))
    if "task" in kind.model_fields and (task := stated_task(content)) != task_name(kind):
        raise InputError(f"{file} is a record of {task}, expected one of {task_name(kind)}")
    try:
        return kind.model_validate(content)
    except ValidationError as error:
        problem = error.errors()[0]
        raise InputError(f"{file} is not {what}: {'.'.join(map(str, problem['loc']))}: {problem['msg']}") from None


def digest_checkpoint(path: Path) -> str:
    """Return a digest of a checkpoint's weights and record, independent of its path and name.

    Weights that others saved (:mod:`compactnets.training.foreign`) have no record.

    Raises:
        InputError: it cannot be read.
    """
    record = record_path(path)
    files = (locate(path), record) if locate(path).suffix == ".safetensors" and record.is_file() else (locate(path),)
    try:
        return digest_parts(file.read_bytes() for file in files)
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror or error}") from None


def read_tensors(path: str | Path) -> dict[str, Tensor]:
    """Read the weights in a safetensors file; nothing in it can be executed."""
    path = as_path(path)
    try:
        return load_file(locate(path))
    except (SafetensorError, OSError) as error:
        raise InputError(f"{path} is not a readable safetensors file: {error}") from None


def load_weights(
    model: nn.Module, state_dict: Mapping[str, Tensor], name: str, origin: Path | str, advice: str = ""
) -> None:
    """Copy weights into ``model``; if they do not fit, nothing is copied.

    A state without a form (:mod:`compactnets.models.form`) is assumed to have the network's.

    Args:
        advice: what to do about other keys and shapes, for the message.

    Raises:
        InputError: keys or shapes differ from those of the network ``name`` (the message lists the first ones), or the
            form does.
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
        advised = f": {advice}" if advice else ""
        raise InputError(f"{origin} is not a checkpoint of {name}: {'; '.join(problems)}{advised}")
    check_forms(forms, whole, origin)
    model.load_state_dict({**state_dict, **forms}, strict=False)


def check_forms(state: Mapping[str, Tensor], wanted: Mapping[str, Tensor], origin: Path | str) -> None:
    """Check that weights have the form that a network has.

    Raises:
        InputError: another form; the message says what differs.
    """
    if told := compare(state, wanted):
        raise InputError(
            f"{origin} holds weights of a network with {told}: the same tensors compute something else here"
        )
