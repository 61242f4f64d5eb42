"""Worker processes where shared memory is small, full or missing, and workers that are lost: never a hang."""

from __future__ import annotations

import hashlib
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from compactnets.data import Augment, Preprocess, make_train_loader
from compactnets.data.batches import TrainLoader
from compactnets.data.handover import hand_over, lost_workers, receive
from compactnets.detection.objects import Objects, no_objects

from .listed import noisy

PREPROCESS = Preprocess(size=96, resize=None, mean=(0.5,) * 3, std=(0.5,) * 3)
LIMIT = 120  # seconds

needs_namespaces = pytest.mark.skipif(
    not shutil.which("unshare")
    or subprocess.run(["unshare", "-rm", "true"], capture_output=True, check=False).returncode != 0,
    reason="the system does not let a test mount a /dev/shm of its own",
)


def make_loader(workers: int, *, channels_last: bool = True) -> TrainLoader:
    """Two batches of 4 images, 110 KB each."""
    augment = Augment(crop="resized")
    source = noisy(8, 100, 100)
    return make_train_loader(
        source, augment, PREPROCESS, batch_size=4, seed=0, workers=workers, channels_last=channels_last
    )


def describe(images: Tensor) -> str:
    """Every bit of a batch, and how it lies in memory; a sum would depend on where the memory begins."""
    return f"{hashlib.sha256(images.contiguous().numpy().tobytes()).hexdigest()} {images.stride()}"


def print_batches() -> None:
    """What the process does that a test starts in a mount namespace."""
    loader = make_loader(1)
    for batch in loader.epoch(0):
        print(describe(batch.images))
    loader.close()


def command_of(function: str) -> str:
    return f"exec {sys.executable} -c 'import {__name__} as test; test.{function}()'"


def run(command: list[str]) -> subprocess.CompletedProcess[str]:
    root = Path(__file__).parents[__name__.count(".")]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(root), *filter(None, sys.path)])}
    return subprocess.run(command, capture_output=True, text=True, timeout=LIMIT, check=False, env=environment)


def run_with_shared_memory(mount: str) -> subprocess.CompletedProcess[str]:
    """Run :func:`print_batches` where ``mount`` has made /dev/shm."""
    return run(["unshare", "-rm", "sh", "-c", f"{mount} && {command_of('print_batches')}"])


@needs_namespaces
def test_a_small_shared_memory_is_told_and_changes_nothing() -> None:
    done = run_with_shared_memory("mount -t tmpfs -o size=64k tmpfs /dev/shm")
    assert done.returncode == 0, done.stderr
    expected = [describe(batch.images) for batch in make_loader(0).epoch(0)]
    assert done.stdout.splitlines() == expected
    assert done.stderr.count("/dev/shm") == 1, "told once"
    assert "Traceback" not in done.stderr


@pytest.mark.slow
@needs_namespaces
@pytest.mark.parametrize("options", ["ro", "size=4k,nr_inodes=1"])
def test_no_shared_memory_is_one_error(options: str) -> None:
    done = run_with_shared_memory(f"mount -t tmpfs -o {options} tmpfs /dev/shm")
    last = done.stderr.strip().splitlines()[-1]
    assert "InputError: 1 worker processes cannot be started" in last
    assert "/dev/shm" in last


def refuse(tensor: Tensor) -> Tensor:
    raise RuntimeError("unable to allocate shared memory(shm) for file </torch_1>: No space left on device (28)")


@pytest.mark.parametrize("channels_last", [True, False])
def test_what_is_sent_arrives(channels_last: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """The same batches and layout, in shared memory or not."""
    expected = list(make_loader(0, channels_last=channels_last).epoch(0))
    for _ in ("shared", "sent"):
        loader = make_loader(1, channels_last=channels_last)
        for batch, wanted in zip(loader.epoch(0), expected, strict=True):
            assert torch.equal(batch.images, wanted.images)
            assert batch.images.stride() == wanted.images.stride()
            assert torch.equal(batch.indices, wanted.indices)
        loader.close()
        monkeypatch.setattr(Tensor, "share_memory_", refuse)  # the next loader's workers are forked with it


def test_containers_of_any_kind(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.utils.data, "get_worker_info", lambda: "a worker")
    monkeypatch.setattr(Tensor, "share_memory_", refuse)
    objects = Objects(
        torch.rand(2, 4), torch.arange(2), torch.tensor([True, False]), torch.zeros(2).bool(), torch.ones(2)
    )
    image = torch.rand(2, 3, 4, 5).to(memory_format=torch.channels_last)
    value = [(image, objects), (image[:, 1:, ::2], {"boxes": objects.boxes, "none": None}), no_objects(), "text", 3]
    handed = hand_over(value)
    assert "tensor" not in str([type(part) for part in flatten(handed)]).lower()
    restored, sent = receive(handed)
    assert sent
    for one, other in zip(flatten(restored), flatten(value), strict=True):
        assert type(one) is type(other)
        assert torch.equal(one, other) if isinstance(one, Tensor) else one == other
    assert restored[0][0].is_contiguous(memory_format=torch.channels_last)


def flatten(value: Any) -> list[Any]:
    """The parts of containers, dataclasses among them."""
    if isinstance(value, dict):
        return [part for inner in value.values() for part in flatten(inner)]
    if isinstance(value, list | tuple):
        return [part for inner in value for part in flatten(inner)]
    return flatten(vars(value)) if isinstance(value, Objects) else [value]


def lose_a_worker() -> None:
    """What another process does that a test starts: torch remembers a lost worker for as long as the process lives."""
    loader = make_loader(1)
    with lost_workers():  # as the training loop does: torch raises wherever the program is
        for _ in loader.epoch(0):
            (worker,) = loader._pool._loader._iterator._workers  # type: ignore[attr-defined]
            os.kill(worker.pid, signal.SIGKILL)
            worker.join(LIMIT)


@pytest.mark.slow
def test_a_worker_that_is_killed_is_one_line() -> None:
    """As the system does that runs out of memory."""
    done = run(["sh", "-c", command_of("lose_a_worker")])
    assert done.returncode == 1
    last = done.stderr.strip().splitlines()[-1]
    assert "InputError: a worker process was lost" in last
    assert "workers" in last
