"""How worker processes hand over batches: in shared memory, or through a pipe if shared memory is full.

By default, torch moves a batch to shared memory in a thread of the worker. If shared memory is full (a container's
``/dev/shm`` is often 64 MB), the thread prints a traceback and drops the batch, and the training process waits forever.
Here the worker moves the batch itself, so a failure is noticed and the bytes are sent instead.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor

from compactnets.errors import InputError

ADVICE = "use fewer workers (0 decodes in the process itself)"


class Sent:
    """The bytes of a tensor that does not fit in shared memory."""

    def __init__(self, tensor: Tensor) -> None:
        if tensor.untyped_storage().nbytes() != tensor.nbytes:  # a view of more
            tensor = tensor.clone()
        self.shape, self.stride = tuple(tensor.shape), tensor.stride()  # the layout in memory too
        self.values: np.ndarray = torch.empty(0, dtype=tensor.dtype).set_(tensor.untyped_storage()).numpy()

    def tensor(self) -> Tensor:
        """Return the tensor."""
        return torch.from_numpy(self.values).as_strided(self.shape, self.stride)


class Parts:
    """The fields of a dataclass that holds tensors."""

    def __init__(self, kind: type, values: dict[str, Any]) -> None:
        self.kind, self.values = kind, values


def hand_over(value: Any) -> Any:
    """Prepare a worker's result for another process: tensors move to shared memory, or become :class:`Sent`.

    Outside a worker process it is returned unchanged.
    """
    return value if torch.utils.data.get_worker_info() is None else _share(value)


def receive(value: Any) -> tuple[Any, bool]:
    """Undo :func:`hand_over`; also return whether a tensor was sent because shared memory was full."""
    sent = False

    def restore(part: Any) -> Any:
        nonlocal sent
        if isinstance(part, Sent):
            sent = True
            return part.tensor()
        if isinstance(part, Parts):
            return part.kind(**{name: restore(inner) for name, inner in part.values.items()})
        return _rebuild(part, restore)

    return restore(value), sent


@contextmanager
def starting_workers(workers: int) -> Iterator[None]:
    """Report a failure to start worker processes in one line.

    Raises:
        InputError: no room in ``/dev/shm``, too many processes or open files.
    """
    try:
        yield
    except OSError as error:
        if not workers:
            raise
        raise InputError(
            f"{workers} worker processes cannot be started: {error.strerror or error} (their locks need room in "
            f"/dev/shm); {ADVICE}"
        ) from None


@contextmanager
def lost_workers() -> Iterator[None]:
    """Report a lost worker process in one line; torch may raise its error anywhere in the program.

    Raises:
        InputError: a worker process ended.
    """
    try:
        yield
    except RuntimeError as error:
        text = " ".join(str(error).split())
        if not text.startswith(("DataLoader worker", "Too many open files")):
            raise
        raise InputError(f"a worker process was lost, often because memory ran out: {text[:120]}; {ADVICE}") from None


def _share(value: Any) -> Any:
    if isinstance(value, Tensor):
        try:
            return value.share_memory_()
        except (RuntimeError, OSError):  # no room, no /dev/shm, or no more files may be open
            return Sent(value)
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return Parts(
            type(value), {field.name: _share(getattr(value, field.name)) for field in dataclasses.fields(value)}
        )
    return _rebuild(value, _share)


def _rebuild(value: Any, change: Any) -> Any:
    """Return a container with changed values; anything else is returned unchanged."""
    if isinstance(value, dict):
        return {key: change(inner) for key, inner in value.items()}
    if isinstance(value, tuple) and hasattr(value, "_fields"):
        return type(value)(*map(change, value))
    if isinstance(value, list | tuple):
        return type(value)(map(change, value))
    return value
