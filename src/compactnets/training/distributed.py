"""Distributed training with the processes that ``torchrun`` starts."""

from __future__ import annotations

import os
import time
import uuid
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any

import torch
from torch import Tensor, distributed, nn

from compactnets.console import stderr, stdout
from compactnets.errors import InputError

PATIENCE = timedelta(minutes=30)  # another process may be compiling or evaluating


@dataclass(frozen=True)
class World:
    """This process among all of them: ``rank`` of ``size``, on ``device``."""

    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    rank: int = 0
    size: int = 1
    control: Any = None  # a gloo group: small CPU messages need not wait for an accelerator

    @property
    def is_main(self) -> bool:
        """Whether this process writes files and prints."""
        return self.rank == 0

    def sum(self, values: Sequence[float]) -> list[float]:
        """Add each value over all processes, exactly for integers up to 2**53."""
        if self.size == 1:
            return list(values)
        total = torch.tensor(values, dtype=torch.float64)
        distributed.all_reduce(total, group=self.control)
        return [float(value) for value in total]

    def largest(self, value: int) -> int:
        """Return the largest value over all processes."""
        if self.size == 1:
            return value
        highest = torch.tensor(value)
        distributed.all_reduce(highest, op=distributed.ReduceOp.MAX, group=self.control)
        return int(highest)

    def gather(self, value: Any) -> list[Any]:
        """Return the values of all processes, by rank."""
        if self.size == 1:
            return [value]
        values: list[Any] = [None] * self.size
        distributed.all_gather_object(values, value, group=self.control)
        return values


def pick_device(name: str = "auto") -> torch.device:
    """Return the device of this name; ``auto`` is the first GPU, or the CPU where there is none.

    Raises:
        InputError: a device that this machine does not have.
    """
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
    try:
        device = torch.device(name)
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError) as error:
        raise InputError(f"no device {name!r} here: {str(error).splitlines()[0]}") from None
    return device


@contextmanager
def join_world(device: str = "auto") -> Iterator[World]:
    """Join the processes started by ``torchrun``, or work alone.

    Each process gets the GPU of its local rank, or the CPU; NCCL exchanges gradients between GPUs, gloo between CPUs.
    All processes but the first are silent.

    Raises:
        InputError: a device that this machine does not have, or fewer GPUs than processes.
    """
    size = int(os.environ.get("WORLD_SIZE", "1"))
    if size == 1:
        yield World(pick_device(device))
        return
    rank, local_rank = int(os.environ["RANK"]), int(os.environ["LOCAL_RANK"])
    place = pick_device(device)
    if place.type == "cuda":
        if local_rank >= torch.cuda.device_count():
            raise InputError(
                f"process {local_rank} of this machine has no GPU: torchrun's --nproc-per-node must be at most "
                f"{torch.cuda.device_count()}, or use --device cpu"
            )
        place = torch.device("cuda", local_rank)
        torch.cuda.set_device(place)
    stdout.quiet = stderr.quiet = rank > 0
    store, rank, size = next(distributed.rendezvous("env://", timeout=PATIENCE))
    store = distributed.PrefixStore(_agree_on_name(store, rank, size), store)
    backend = "nccl" if place.type == "cuda" else "gloo"
    distributed.init_process_group(backend, store=store, rank=rank, world_size=size, timeout=PATIENCE)
    control = distributed.new_group(backend="gloo") if place.type == "cuda" else None
    try:
        yield World(place, rank, size, control)
    finally:
        stdout.quiet = stderr.quiet = False
        distributed.destroy_process_group()


def _agree_on_name(store: distributed.Store, rank: int, size: int) -> str:
    """Return a name shared by these processes but by none before them.

    torchrun gives restarted processes the store of their predecessors, which holds dead addresses (pytorch issue
    135712), and its TORCHELASTIC_RESTART_COUNT differs between machines (issue 108158). So every process leaves its own
    ticket under its rank, and the first answers all tickets, including those of dead processes, until every living
    process has confirmed.

    Raises:
        TimeoutError: a process did not join within ``PATIENCE``.
    """
    if rank > 0:
        ticket = uuid.uuid4().hex
        store.set(f"ticket {rank}", ticket)
        store.wait([f"answer {ticket}"], PATIENCE)
        name = store.get(f"answer {ticket}").decode()
        store.set(f"{name} {rank}", "here")
        return name
    name, missing, end = uuid.uuid4().hex, set(range(1, size)), time.monotonic() + PATIENCE.total_seconds()
    while missing:
        if time.monotonic() > end:
            raise TimeoutError(f"processes {sorted(missing)} of {size} did not join within {PATIENCE}")
        for other in list(missing):
            if store.check([f"{name} {other}"]):
                missing.remove(other)
            elif store.check([f"ticket {other}"]):
                store.set(f"answer {store.get(f'ticket {other}').decode()}", name)
        time.sleep(0.01)
    return name


def synchronize_batchnorm(model: nn.Module, world: World) -> nn.Module:
    """Synchronise the statistics of batch normalisation over all processes: torch's on GPUs, ours on CPUs.

    Changes ``model`` in place and returns it. On CPUs, batch normalisation other than
    ``torch.nn.BatchNorm2d`` keeps its own statistics, with a warning.
    """
    if world.device.type == "cuda":
        return nn.SyncBatchNorm.convert_sync_batchnorm(model)
    for name, child in model.named_children():
        if type(child) is nn.BatchNorm2d:
            own = CPUSyncBatchNorm(child.num_features, child.eps, child.momentum, child.affine)
            own.track_running_stats = child.track_running_stats
            own.train(child.training)
            own.load_state_dict(child.state_dict())
            setattr(model, name, own)
            continue
        if isinstance(child, nn.modules.batchnorm._BatchNorm) and not isinstance(child, CPUSyncBatchNorm):
            warnings.warn(
                f"{type(child).__name__} is not synchronised between processes on {world.device.type}", stacklevel=2
            )
        synchronize_batchnorm(child, world)
    return model


class CPUSyncBatchNorm(nn.BatchNorm2d):
    """torch's ``SyncBatchNorm``, which only supports accelerators, for CPUs: (N, C, H, W) -> the same shape.

    N, H and W may differ between the processes, as the images of a detector do.
    """

    def forward(self, x: Tensor) -> Tensor:
        if not self.training:
            return super().forward(x)
        wide = x.float() if x.dtype.itemsize < 4 else x
        here = x.numel() // x.shape[1]
        everywhere = torch.tensor(here)
        distributed.all_reduce(everywhere)
        count = int(everywhere)
        share = here / count
        mean = _SumOverProcesses.apply(wide.mean((0, 2, 3)) * share)
        centred = wide - mean[:, None, None]
        variance = _SumOverProcesses.apply(centred.square().mean((0, 2, 3)) * share)
        y = centred * (variance + self.eps).rsqrt()[:, None, None]
        if self.affine:
            y = y * self.weight[:, None, None] + self.bias[:, None, None]
        if self.running_mean is not None and self.running_var is not None and self.num_batches_tracked is not None:
            with torch.no_grad():
                self.num_batches_tracked += 1
                pace = 1 / float(self.num_batches_tracked) if self.momentum is None else self.momentum
                self.running_mean.lerp_(mean, pace)
                self.running_var.lerp_(variance * (count / max(count - 1, 1)), pace)
        return y.to(x.dtype)


class _SumOverProcesses(torch.autograd.Function):
    """All-reduce whose gradient is the all-reduce of the gradients."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        total = x.clone()
        distributed.all_reduce(total)
        return total

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        total = gradient.clone()
        distributed.all_reduce(total)
        return total
