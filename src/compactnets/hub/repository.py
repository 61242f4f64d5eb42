"""Push a checkpoint to a repository of the Hugging Face Hub, and pull one.

The token is that of ``huggingface_hub``: ``$HF_TOKEN``, or what ``hf auth login`` stored. It is never printed.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from huggingface_hub import CommitOperationAdd, HfApi, constants
from huggingface_hub.errors import (
    GatedRepoError,
    HfHubHTTPError,
    HFValidationError,
    HTTPError,
    OfflineModeIsEnabled,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)
from huggingface_hub.utils import validate_repo_id
from timm.models._pretrained import filter_pretrained_cfg

from compactnets import __version__
from compactnets.classification.checkpoint import CheckpointRecord, check_float
from compactnets.errors import InputError, reason
from compactnets.files import as_bytes, as_path, json_text
from compactnets.folders import check_folder, entries, writing
from compactnets.hub.card import in_timm, make_card
from compactnets.hub.facts import Facts, read_facts
from compactnets.models.pretrained import Weights, locate
from compactnets.tasks.opening import open_model
from compactnets.training.checkpoint import read_record, task_name, task_of
from compactnets.values import read_json

WEIGHTS, RECORD, CONFIG, CARD = "model.safetensors", "model.json", "config.json", "README.md"
REMOTE = "hf-hub:"  # timm's spelling, taken before a name
MODEL = re.compile(r"(timm:|pytorchcv:)?[\w.-]+")  # a network's name; timm's hf-hub: and local-dir: load files
# arguments of timm's create_model that load files, or ask a host
LOADING = {"pretrained", "pretrained_cfg", "pretrained_cfg_overlay", "checkpoint_path", "cache_dir"}
MOST_TEXT = 64 * 2**20  # bytes of a record or a card


@dataclass(frozen=True)
class Pushed:
    """A repository as it was written: ``url`` of the commit, and names and bytes of the files."""

    repository: str
    revision: str
    url: str
    files: dict[str, int]

    def to_dict(self) -> dict[str, Any]:
        """Return the fields for JSON."""
        return asdict(self)


@dataclass(frozen=True)
class Pulled:
    """A repository as it was read: ``revision`` is the commit, ``checkpoint`` the path for the other verbs."""

    repository: str
    revision: str
    checkpoint: str
    model: str
    task: str
    license: str

    def to_dict(self) -> dict[str, Any]:
        """Return the fields for JSON."""
        return asdict(self)


def push(
    checkpoint: str | Path,
    repository: str,
    *,
    private: bool = False,
    revision: str = "main",
    message: str | None = None,
    license: str | None = None,
) -> Pushed:
    """Push a checkpoint to a repository, which is created if it is missing, in one commit.

    Args:
        checkpoint: a ``.safetensors`` file with its record, or the name of weights.
        repository: ``OWNER/NAME``.
        private: create a private repository; an existing one is not changed.
        revision: the branch to write to, created if missing.
        message: of the commit.
        license: of the weights, such as ``Apache-2.0``, for the record that is pushed; default: the record's.

    Raises:
        InputError: no such checkpoint, an exported or int8-trained network, a bad name, no token, no right to write,
            or no network.
    """
    owner, pinned = parse_name(repository)
    if pinned is not None:
        raise InputError(f"push takes the branch as --revision, found {repository!r}")
    path = as_path(checkpoint)
    if task_of(path) == task_name(CheckpointRecord):
        check_float(read_record(path, CheckpointRecord), path)
    facts = read_facts(path)
    if license is not None:
        facts.record["license"] = license
    files = {
        WEIGHTS: locate(path).read_bytes(),
        RECORD: as_bytes(json_text(facts.record, indent=2, ensure_ascii=False) + "\n"),
        CARD: as_bytes(make_card(facts, owner)),
    }
    if in_timm(facts):
        files[CONFIG] = as_bytes(json_text(timm_config(facts, locate(path)), indent=2, ensure_ascii=False) + "\n")
    with _hub(owner, "push"):
        api = _api()
        api.create_repo(owner, private=private or None, exist_ok=True)
        if revision != constants.DEFAULT_REVISION:
            api.create_branch(owner, branch=revision, exist_ok=True)
        done = api.create_commit(
            owner,
            [CommitOperationAdd(name, data) for name, data in files.items()],
            commit_message=message or f"{facts.record['model']}, by compactnets {__version__}",
            revision=revision,
        )
    return Pushed(owner, revision, str(done.commit_url), {name: len(data) for name, data in files.items()})


def pull(repository: str, output: str | Path, *, revision: str | None = None) -> Pulled:
    """Download a checkpoint to a folder, and check it: sizes, checksums, the record, and that the weights fit.

    Args:
        repository: ``OWNER/NAME``, or ``OWNER/NAME@REVISION``.
        output: an empty or new folder.
        revision: a branch, tag or commit instead; default: ``main``.

    Raises:
        InputError: no such repository or revision, no right to read, one without a record or without safetensors
            weights, a file that is damaged or does not fit, no network, or a folder that is not empty. Nothing is
            written then.
    """
    name, pinned = parse_name(repository)
    if pinned is not None and revision is not None:
        raise InputError(f"the revision is given twice: {pinned} and {revision}")
    wanted, output = pinned or revision, as_path(output)
    target = check_folder(output)
    if target.is_dir() and entries(target):
        raise InputError(f"--output {output} is not empty: give a new folder")
    with _hub(name, "pull"):
        found = _api().model_info(name, revision=wanted, files_metadata=True)
    siblings = {each.rfilename: each for each in found.siblings or []}
    _check_files(name, siblings)
    with writing(output) as folder:
        for file in (RECORD, WEIGHTS, CONFIG, CARD):
            if file in siblings:
                _download(name, found.sha or wanted or constants.DEFAULT_REVISION, siblings[file], folder)
        _check_record(folder / RECORD, name)
        model = open_model(folder / WEIGHTS, "cpu")
        record = model.record.model_dump(mode="json")
    return Pulled(name, str(found.sha), str(output / WEIGHTS), record["model"], model.task.name, str(record["license"]))


def parse_name(repository: str) -> tuple[str, str | None]:
    """Return ``OWNER/NAME``, and the revision after ``@`` if there is one.

    Raises:
        InputError: not the name of a repository.
    """
    name, at, revision = repository.removeprefix(REMOTE).partition("@")
    try:
        validate_repo_id(name)
    except HFValidationError as error:
        raise InputError(f"{repository!r} is not OWNER/NAME: {reason(error)}") from None
    if name.count("/") != 1 or (at and not revision):
        raise InputError(f"a repository is OWNER/NAME or OWNER/NAME@REVISION, found {repository!r}")
    return name, revision or None


def timm_config(facts: Facts, path: Path) -> dict[str, Any]:
    """Return timm's ``config.json`` of a classifier of the package."""
    record, network = facts.record, facts.network
    weights = Weights(path, record)
    fields = filter_pretrained_cfg(dict(network.pretrained_cfg), remove_source=True, remove_null=True)
    fields |= {key: value for key, value in weights.timm_cfg().items() if key not in ("file", "label_names")}
    fields.pop("architecture", None)
    return {
        "architecture": record["model"],
        "num_classes": record["arguments"]["num_classes"],
        "num_features": network.num_features,
        "global_pool": "avg",
        "label_names": record["class_names"],
        "model_args": weights.form,
        "pretrained_cfg": fields,
    }


def _api() -> HfApi:
    return HfApi(library_name="compactnets", library_version=__version__)


def _check_files(name: str, siblings: Mapping[str, Any]) -> None:
    if WEIGHTS not in siblings:
        pickles = sorted(each for each in siblings if each.endswith((".bin", ".pt", ".pth", ".ckpt", ".tar")))
        found = ", ".join(sorted(siblings)[:3]) or "nothing"
        if pickles:
            found = f"{pickles[0]}, a pickle, which is not read"
        raise InputError(f"{name} has no {WEIGHTS}, found {found}: pull takes what 'compactnets push' wrote")
    if RECORD not in siblings:
        raise InputError(
            f"{name} has no {RECORD}, the record of its weights: pull takes what 'compactnets push' wrote; timm may "
            f"load it as {REMOTE}{name}"
        )
    for file in (RECORD, CONFIG, CARD):
        if file in siblings and (siblings[file].size or 0) > MOST_TEXT:
            raise InputError(f"{name}: {file} has {siblings[file].size:,} bytes, expected at most {MOST_TEXT:,}")


def _download(name: str, revision: str, sibling: Any, folder: Path) -> None:
    """Copy one file from the Hub's cache, into which it is downloaded, and compare it with what the Hub states."""
    with _hub(name, "pull"):
        cached = Path(_api().hf_hub_download(name, sibling.rfilename, revision=revision))
        data = cached.read_bytes()
    stated = sibling.lfs.sha256 if sibling.lfs is not None else None
    if stated is not None and hashlib.sha256(data).hexdigest() != stated:
        cached.resolve().unlink(missing_ok=True)  # or the next attempt reads it again
        raise InputError(f"{name}: {sibling.rfilename} is damaged: its sha256 is not the one that the Hub states")
    (folder / sibling.rfilename).write_bytes(data)


def _check_record(path: Path, name: str) -> None:
    """Refuse a record that would have timm load a file or ask a host when its network is built."""
    record = read_json(path, f"{name}: {RECORD}")
    if not isinstance(record, dict):
        raise InputError(f"{name}: {RECORD} is not a record")
    model, arguments = str(record.get("model")), record.get("arguments")
    if not MODEL.fullmatch(model):
        raise InputError(f"{name}: the record's model is {model!r}, expected the name of a network")
    if isinstance(arguments, dict) and (loading := LOADING & arguments.keys()):
        raise InputError(f"{name}: the record's arguments have {', '.join(sorted(loading))}, which no network needs")


@contextmanager
def _hub(name: str, verb: str) -> Iterator[None]:
    """Report what the Hub or the network refuses in one line.

    Raises:
        InputError: the request failed.
    """
    login = "set HF_TOKEN, or run 'hf auth login'"
    try:
        yield
    except InputError:
        raise
    except GatedRepoError:
        raise InputError(f"{name} is gated: ask for access on its page, then {login}") from None
    except RevisionNotFoundError:
        raise InputError(f"{name} has no such revision") from None
    except RepositoryNotFoundError:
        raise InputError(f"there is no repository {name}, or it is private: {login}") from None
    except OfflineModeIsEnabled:
        raise InputError(f"cannot {verb} {name}: HF_HUB_OFFLINE is set") from None
    except HfHubHTTPError as error:
        status = getattr(error.response, "status_code", None)
        if status in (401, 403):
            told = "no valid token" if status == 401 else "this token may not do that"
            raise InputError(f"cannot {verb} {name}: {told}: {login}, with the right to write") from None
        raise InputError(f"cannot {verb} {name}: the Hub answered {status}: {reason(error)}") from None
    except (HTTPError, OSError, ValueError, RuntimeError) as error:
        raise InputError(f"cannot {verb} {name} at {constants.ENDPOINT}: {reason(error)}") from None
