"""Many training runs on one data set: in sequence, in parallel, or on a Ray cluster.

joblib or Ray distributes them. The engine (``training/loop.py``) trains and resumes each run.
"""

from __future__ import annotations

import contextlib
import logging
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import joblib
import torch

from compactnets.classification.preparation import open_splits
from compactnets.classification.recipe import ClassificationRecipe
from compactnets.classification.task import TASK
from compactnets.console import say
from compactnets.errors import InputError, missing_extra
from compactnets.files import as_path, refusals
from compactnets.locks import own_folder
from compactnets.training.distributed import World, pick_device

LOG = "log.txt"  # in a run's folder when several run at once: its output


@dataclass(frozen=True)
class Member:
    """One run: its name, also the name of its folder, and its settings."""

    name: str
    recipe: ClassificationRecipe


@dataclass(frozen=True)
class Outcome:
    """The outcome of one run: its result as in JSON, or the error."""

    member: Member
    result: dict[str, Any] | None
    error: str | None = None


@dataclass(frozen=True)
class Place:
    """Where a grid runs.

    Attributes:
        device: ``"auto"``, ``"cpu"``, ``"cuda"``, …, as for a single run.
        jobs: runs at once. On one machine they share its cores, or take its GPUs in turn.
        ray: address of a Ray cluster (``"auto"``, ``"ray://host:10001"``, or ``"local"`` to start one here); the data
            and the output folder must be visible to all its machines. Needs ``compactnets[ray]``.
    """

    device: str = "auto"
    jobs: int = 1
    ray: str | None = None


def train_grid(
    members: Sequence[Member], data: str, output: str | Path, place: Place, *, download: bool = False
) -> list[Outcome]:
    """Train every member into ``output / member.name``, and return the outcomes in order.

    A failed run is reported and does not stop the others. Repeat the call to resume: finished runs are read, the others
    continue.

    Args:
        data: what :func:`compactnets.data.open_source` takes.

    Raises:
        InputError: no such data or device, two members of one name, another process that writes to ``output``, or Ray
            is missing or unreachable.
        Interrupted: as for a single run, if the runs are in this process.
    """
    output = as_path(output)
    names = [member.name for member in members]
    if len(set(names)) < len(names):
        raise InputError(f"two runs of the grid have the same name: {', '.join(sorted(names))}")
    if place.jobs < 1:
        raise InputError(f"jobs must be at least 1, found {place.jobs}")
    if place.ray is None:
        pick_device(place.device)
    for share in {member.recipe.split for member in members}:  # bad data is reported before anything runs
        open_splits(data, share=share, download=download)
    outcomes: dict[str, Outcome] = {}
    with own_folder(output):
        for outcome in _run(members, data, output, place):
            outcomes[outcome.member.name] = outcome
            told = f"top-1 {outcome.result['final']['top1_percent']:.2f} %" if outcome.result else outcome.error
            say(f"[{len(outcomes)}/{len(members)}] {outcome.member.name}: {told}")
    return [outcomes[name] for name in names]


def _run(members: Sequence[Member], data: str, output: Path, place: Place) -> Iterator[Outcome]:
    """Yield the outcome of each member as it finishes."""
    if place.ray is not None:
        with _cluster(place) as submit:
            yield from submit([(member, data, output, place, index) for index, member in enumerate(members)])
    elif place.jobs == 1:
        yield from (train_member(member, data, output, place, None) for member in members)
    else:
        calls = (
            joblib.delayed(train_member)(member, data, output, place, index) for index, member in enumerate(members)
        )
        yield from joblib.Parallel(n_jobs=place.jobs, return_as="generator_unordered")(calls)


def train_member(member: Member, data: str, output: Path, place: Place, index: int | None = None) -> Outcome:
    """Train one member; ``index`` is its position among the members if several run at once."""
    folder = output / member.name
    try:
        with contextlib.ExitStack() as stack:
            if index is not None:
                stack.enter_context(own_folder(folder))  # nor may the log of another run be overwritten
                with refusals(folder / LOG):
                    log = stack.enter_context((folder / LOG).open("a", encoding="utf-8", errors="backslashreplace"))
                stack.enter_context(contextlib.redirect_stderr(log))
            world = World(_pick(place, index))
            splits = open_splits(data, member.recipe.hold_out, member.recipe.split)
            result = TASK.train(member.recipe, *splits, folder, world=world)
            return Outcome(member, result.to_dict())
    except InputError as error:
        return Outcome(member, None, str(error))


def _pick(place: Place, index: int | None) -> torch.device:
    """Return the device of a run, and share the CPU's cores among parallel runs."""
    device = pick_device(place.device)
    if index is None:
        return device
    if place.ray is None:
        torch.set_num_threads(max(1, (os.cpu_count() or 1) // place.jobs))
        if device == torch.device("cuda"):
            return torch.device("cuda", index % torch.cuda.device_count())
    return device


@contextlib.contextmanager
def _cluster(place: Place) -> Iterator[Callable[[Sequence[tuple[Any, ...]]], Iterator[Outcome]]]:
    """Connect to a Ray cluster and yield a function that maps :func:`train_member` over a list of arguments there."""
    try:
        import ray
    except ImportError:
        raise missing_extra("ray", "ray", "--ray") from None
    try:
        ray.init(address=place.ray, log_to_driver=False, logging_level=logging.ERROR)
    except (ConnectionError, ValueError, RuntimeError) as error:
        raise InputError(f"no Ray cluster at {place.ray!r}: {str(error).splitlines()[0]}") from None
    resources = ray.cluster_resources()
    cpus = max(1, int(resources["CPU"] // place.jobs))
    gpus = min(1.0, resources.get("GPU", 0) / place.jobs) if place.device in ("auto", "cuda") else 0

    def submit(calls: Sequence[tuple[Any, ...]]) -> Iterator[Outcome]:
        remote = ray.remote(num_cpus=cpus, num_gpus=gpus)(train_member)
        pending = [remote.remote(*call) for call in calls]
        while pending:
            done, pending = ray.wait(pending)
            yield from ray.get(done)

    try:
        yield submit
    finally:
        ray.shutdown()
