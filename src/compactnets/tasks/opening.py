"""Identify and open what a path or name stands for: a network, a checkpoint or an exported network, of any task."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeVar

import torch
from pydantic import BaseModel
from torch import nn

from compactnets.deploy.record import NAME, digest, find_artifact, task_of_artifact
from compactnets.deploy.subject import Subject
from compactnets.errors import InputError
from compactnets.files import as_path
from compactnets.models.pretrained import locate
from compactnets.tasks import find_task
from compactnets.tasks.contract import Model, Task
from compactnets.training.checkpoint import DEFAULT_TASK, digest_checkpoint, task_name, task_of
from compactnets.training.distributed import pick_device

Record = TypeVar("Record", bound=BaseModel)

SUFFIX = ".safetensors"


@dataclass(frozen=True)
class Found:
    """What a path or name stands for.

    Attributes:
        what: the path or name, or an open model.
        kind: see :class:`compactnets.tasks.contract.Model`.
        task: its task.
    """

    what: str | Path | Model
    kind: Literal["network", "checkpoint", "artifact"]
    task: Task[Any]

    def device(self, device: str) -> str:
        """Return the device to run it on: an open network stays on its device, an exported one runs on the CPU.

        Raises:
            InputError: another device is requested for one of these.
        """
        if isinstance(self.what, Model):
            if device not in ("auto", str(self.what.device)):
                raise InputError(
                    f"{self.what.name} is loaded on {self.what.device}, found device {device}: load it on that device"
                )
            return str(self.what.device)
        if self.kind != "artifact":
            return device
        if device not in ("auto", "cpu"):
            raise InputError(f"{self.what} is an exported network and runs on cpu only, found --device {device}")
        return "cpu"


def look(what: str | Path | Model) -> Found:
    """Identify a path or name without opening it; :func:`open_model` lists the possibilities.

    Raises:
        InputError: it is none of these; the message says what was found.
    """
    if isinstance(what, Model):
        return Found(what, what.kind, what.task)
    path = as_path(what)
    if (folder := find_artifact(path)) is not None:
        return Found(what, "artifact", find_task(task_of_artifact(folder)))
    remote = str(what).startswith("hf-hub:")
    if remote or path.suffix == SUFFIX or locate(path).exists() or (path.parent != Path() and ":" not in str(what)):
        return Found(what, "checkpoint", find_task(task_of(path)))  # reports what is wrong if there is no checkpoint
    return Found(what, "network", find_task(DEFAULT_TASK))


def open_model(
    what: str | Path | Model | Found,
    device: str | torch.device = "auto",
    *,
    threads: int | None = None,
    arguments: Mapping[str, Any] | None = None,
    options: Mapping[str, Any] | None = None,
) -> Model:
    """Open a network of any task.

    Args:
        what: one of

            * a checkpoint: the path of its ``.safetensors`` file, or the name of weights (``muffnet_x0_5.cifar10``);
            * an artifact: the folder of an exported network, of any format, or its main file;
            * the name of a network (``menet_108_8x1_g3``, ``timm:NAME``, ``pytorchcv:NAME``), which gets fresh weights
              and can only be measured;
            * a :class:`Model`, which is returned unchanged, on its device;
            * the result of :func:`look`.
        device: ``"auto"``, ``"cpu"``, ``"cuda"``, …; an artifact runs on the CPU.
        threads: threads of an artifact's runtime; by default the runtime decides.
        arguments: arguments of a network given by name, such as ``num_classes``.
        options: options of the task (its ``options["load"]``), such as ``class_agnostic_nms``.

    Raises:
        InputError: it is none of these, or cannot be used; the message says what was found.
    """
    found, given = what if isinstance(what, Found) else look(what), dict(arguments or {})
    what = found.what
    if isinstance(what, Model):
        if said := [*given, *(key for key, value in (options or {}).items() if value is not None)]:
            raise InputError(f"{what.name} is already loaded: give {', '.join(said)} when loading it")
        return what
    if given and found.kind != "network":
        raise InputError(f"{', '.join(given)} cannot be set for {what}: the arguments of a {found.kind} are fixed")
    path, task = as_path(what), found.task
    chosen = task.take("load", options or {})
    if found.kind == "artifact":
        found.device(str(device))
        network, record = task.load_artifact(path, threads, chosen)
        return Model(task, network, record, str(what), "artifact", torch.device("cpu"))
    place = pick_device(device) if isinstance(device, str) else device
    network, record = task.load(path, place, chosen) if found.kind == "checkpoint" else task.build(str(what), given)
    return Model(task, network.to(place), record, str(what), found.kind, place)


def digest_of(model: Model) -> str:
    """Return a digest of a checkpoint's or an artifact's weights and record, wherever it lies.

    Raises:
        InputError: it cannot be read, or the model is a network without weights.
    """
    path = as_path(check_trained(model, "predict").name)
    if model.kind == "artifact":
        folder = find_artifact(path)
        assert folder is not None
        return digest(folder / NAME)  # it has the digests of the files
    return digest_checkpoint(path)


def check_trained(model: Model, verb: str) -> Model:
    """Return a model with trained weights.

    Raises:
        InputError: the model is a network given by name, with fresh weights.
    """
    if model.kind == "network":
        raise InputError(
            f"{model.name} is a network without weights: {verb} needs a checkpoint, an exported network or the name of "
            f"weights (compactnets weights)"
        )
    return model


def open_subject(what: str | Path | Model, verb: str) -> Subject:
    """Open a PyTorch network on the CPU, of any task whose networks take images and give one tensor.

    Args:
        verb: what is done with it, for errors.

    Raises:
        InputError: as :func:`open_model`, or an artifact, or a network of a task without this verb.
    """
    found = look(what)
    if found.kind == "artifact":
        raise InputError(f"{what} is an exported network: {verb} takes the checkpoint it was made from (.safetensors)")
    model = open_model(found, "cpu")
    return model.task.subject(model, verb)


def open_to_write(
    what: str | Path | Model, kind: type[Record], verb: str, arguments: Mapping[str, Any] | None = None
) -> tuple[nn.Module, Record]:
    """Open a PyTorch network on the CPU, to export or measure it.

    Args:
        kind: record type of the task that the verb is for.
        verb: the verb, for errors.

    Returns:
        the network, in evaluation mode, and its record.

    Raises:
        InputError: as :func:`open_model`, or an artifact, or a network of another task.
    """
    found = look(what)
    if found.kind == "artifact":
        raise InputError(f"{what} is an exported network: {verb} takes the checkpoint it was made from (.safetensors)")
    model = open_model(found, "cpu", arguments=arguments)
    if not isinstance(model.record, kind):
        raise InputError(f"{what} is a network for {model.task.name}, {verb} takes one for {task_name(kind)}")
    return model.network, model.record
