"""What lies at a path, or behind a name: the one place that answers it, for every task."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeVar

import torch
from pydantic import BaseModel
from torch import nn

from compactnets.deploy.record import find_artifact, task_of_artifact
from compactnets.errors import InputError
from compactnets.files import as_path
from compactnets.models.pretrained import locate
from compactnets.tasks import find_task
from compactnets.tasks.contract import Model, Task
from compactnets.training.checkpoint import DEFAULT_TASK, task_name, task_of
from compactnets.training.distributed import pick_device

Record = TypeVar("Record", bound=BaseModel)

SUFFIX = ".safetensors"


@dataclass(frozen=True)
class Found:
    """What lies at a path, or behind a name: of which kind, and of which task.

    Attributes:
        what: that was asked for.
        kind: see :class:`compactnets.tasks.contract.Model`.
        task: what it is for.
    """

    what: str | Path | Model
    kind: Literal["network", "checkpoint", "artifact"]
    task: Task[Any]

    def device(self, device: str) -> str:
        """Return the device for it: a network that is open stays where it is, an exported one runs on the CPU.

        Raises:
            InputError: another device for one of these.
        """
        if isinstance(self.what, Model):
            if device not in ("auto", str(self.what.device)):
                raise InputError(
                    f"{self.what.name} was loaded on {self.what.device}, found device {device}: load it there"
                )
            return str(self.what.device)
        if self.kind != "artifact":
            return device
        if device not in ("auto", "cpu"):
            raise InputError(f"{self.what} is an exported network, which runs on cpu, found --device {device}")
        return "cpu"


def look(what: str | Path | Model) -> Found:
    """Say what was named, without opening it; see :func:`open_model` for what can be.

    Raises:
        InputError: nothing of the kind lies there; the message says what was found.
    """
    if isinstance(what, Model):
        return Found(what, what.kind, what.task)
    path = as_path(what)
    if (folder := find_artifact(path)) is not None:
        return Found(what, "artifact", find_task(task_of_artifact(folder)))
    if path.suffix == SUFFIX or locate(path).exists() or (path.parent != Path() and ":" not in str(what)):
        return Found(what, "checkpoint", find_task(task_of(path)))  # which says what is wrong where there is none
    return Found(what, "network", find_task(DEFAULT_TASK))


def open_model(
    what: str | Path | Model | Found,
    device: str | torch.device = "auto",
    *,
    threads: int | None = None,
    arguments: Mapping[str, Any] | None = None,
    options: Mapping[str, Any] | None = None,
) -> Model:
    """Open a network, of any task, to use it.

    Args:
        what: one of

            * a checkpoint: the path of its ``.safetensors`` file, or the name of weights (``muffnet_x0_5.cifar10``);
            * an artifact: the folder of an exported network, of any format, or its main file;
            * the name of a network (``menet_108_8x1_g3``, ``timm:NAME``, ``pytorchcv:NAME``), which gets fresh weights
              that only serve to measure;
            * a :class:`Model`, which is returned as it is, on its device;
            * what :func:`look` said of one of these.
        device: ``"auto"``, ``"cpu"``, ``"cuda"``, …; an artifact runs on the CPU.
        threads: of an artifact's runtime; its own choice if not given.
        arguments: of a network by its name, such as ``num_classes``.
        options: of the task (its ``options["load"]``), such as ``class_agnostic_nms``.

    Raises:
        InputError: nothing of the kind lies there, or it cannot be used; the message says what was found.
    """
    found, given = what if isinstance(what, Found) else look(what), dict(arguments or {})
    what = found.what
    if isinstance(what, Model):
        if said := [*given, *(key for key, value in (options or {}).items() if value is not None)]:
            raise InputError(f"{what.name} is loaded: {', '.join(said)} must be given when it is")
        return what
    if given and found.kind != "network":
        raise InputError(f"{', '.join(given)} cannot be set for {what}: a {found.kind} has its own arguments")
    path, task = as_path(what), found.task
    chosen = task.take("load", options or {})
    if found.kind == "artifact":
        found.device(str(device))
        network, record = task.load_artifact(path, threads, chosen)
        return Model(task, network, record, str(what), "artifact", torch.device("cpu"))
    place = pick_device(device) if isinstance(device, str) else device
    network, record = task.load(path, place, chosen) if found.kind == "checkpoint" else task.build(str(what), given)
    return Model(task, network.to(place), record, str(what), found.kind, place)


def check_trained(model: Model, verb: str) -> Model:
    """Return a model that has weights.

    Raises:
        InputError: it is a network by its name, whose weights are fresh.
    """
    if model.kind == "network":
        raise InputError(
            f"{model.name} is a network without weights, and {verb} needs some: give a checkpoint, an exported network "
            f"or the name of weights (compactnets weights)"
        )
    return model


def open_to_write(
    what: str | Path | Model, kind: type[Record], verb: str, arguments: Mapping[str, Any] | None = None
) -> tuple[nn.Module, Record]:
    """Open a network of PyTorch's on the CPU, to be written or measured in another form.

    Args:
        kind: of the record: that of the task that the verb is for.
        verb: what errors call it.

    Returns:
        the network, in evaluation mode, and its record.

    Raises:
        InputError: what :func:`open_model` raises, an artifact, or a network of another task.
    """
    found = look(what)
    if found.kind == "artifact":
        raise InputError(
            f"{what} is of an exported network, and {verb} takes the checkpoint that it was made from (.safetensors)"
        )
    model = open_model(found, "cpu", arguments=arguments)
    if not isinstance(model.record, kind):
        raise InputError(f"{what} is of {model.task.name}, and {verb} takes one of {task_name(kind)}")
    return model.network, model.record
