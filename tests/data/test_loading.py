"""Batches of any source: the same whatever loads them, errors in one line, replacement of unreadable images."""

from __future__ import annotations

import os
import pickle
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from compactnets.data import Augment, Preprocess, open_source
from compactnets.data.loading import Batch, TrainLoader, make_eval_loader, make_train_loader
from compactnets.data.order import Draws, epoch_order
from compactnets.data.pool import Wanted
from compactnets.data.presets import IMAGENET
from compactnets.data.workers import PixelBatches, WorkerLoader
from compactnets.errors import InputError

from .helpers import encode, noise
from .listed import ListedSource, noisy

PREPROCESS = Preprocess(size=8, resize=10, mean=(0.3, 0.5, 0.6), std=(0.2, 0.25, 0.3))
EVERYTHING = Augment(
    crop="resized", flip=True, color_jitter=0.3, hue=0.1, rotation=10, translate=0.1, cutout=3, scale=(0.3, 1.0)
)


@pytest.fixture
def made() -> Iterator[Any]:
    """Make loaders of large images, which are closed after the test."""
    loaders: list[TrainLoader] = []

    def make(source: ListedSource | None = None, augment: Augment = EVERYTHING, **options: Any) -> TrainLoader:
        chosen = {"batch_size": 8, "seed": 5, **options}
        loaders.append(make_train_loader(source or photographs(), augment, PREPROCESS, **chosen))
        assert isinstance(loaders[-1], WorkerLoader)
        return loaders[-1]

    yield make
    for loader in loaders:
        loader.close()


def photographs(count: int = 30, broken: tuple[int, ...] = ()) -> ListedSource:
    """Images of several sizes, every second one a JPEG file."""
    images = [noise(70 + seed % 3, 66, "L" if seed % 5 == 0 else "RGB", seed) for seed in range(count)]
    return ListedSource([encode(image, "JPEG") if seed % 2 else image for seed, image in enumerate(images)], broken)


def equal(left: list[Batch], right: list[Batch]) -> bool:
    return len(left) == len(right) and all(
        torch.equal(one, other) for a, b in zip(left, right, strict=True) for one, other in zip(a, b, strict=True)
    )


def test_a_batch_is_what_its_images_give(made: Any) -> None:
    source = photographs()
    loader = made(source)
    assert (loader.steps, loader.batch_size) == (3, 8)
    order = epoch_order(30, 5, 1)
    for step, batch in enumerate(loader.epoch(1)):
        assert batch.indices.tolist() == order[8 * step : 8 * step + 8].tolist()
        assert batch.labels.tolist() == [index % 10 for index in batch.indices.tolist()]
        assert batch.images.dtype == torch.float32
        assert batch.images.shape == (8, 3, 8, 8)
        assert batch.images.is_contiguous()
        one_by_one = []
        for index in batch.indices.tolist():
            draws, data = Draws.of(5, 1, index), source.encoded(index)
            pixels = None if data is None else loader.transform.decode(data, draws)
            one_by_one.append(loader.transform.pixels(source.image(index), draws) if pixels is None else pixels)
        numbers = Draws.of(5, 1, batch.indices.numpy())
        together = torch.stack(one_by_one).permute(0, 3, 1, 2).contiguous()
        assert torch.equal(batch.images, loader.transform.finish(together, numbers))


@pytest.mark.parametrize("channels_last", [True, False])
def test_the_number_of_workers_changes_nothing(made: Any, channels_last: bool) -> None:
    here, there = made(channels_last=channels_last), made(channels_last=channels_last, workers=2)
    for epoch in (0, 1):  # the processes are kept
        whole = list(here.epoch(epoch))
        assert equal(list(there.epoch(epoch)), whole)
        assert equal(list(there.epoch(epoch, 1)), whole[1:])
    assert whole[0].images.is_contiguous(memory_format=torch.channels_last) == channels_last
    next(there.epoch(2))  # left in the middle
    assert equal(list(there.epoch(3)), list(here.epoch(3)))


def test_goes_on_in_the_middle_of_an_epoch(made: Any) -> None:
    whole = list(made().epoch(2))
    for start in range(4):
        assert equal(list(made().epoch(2, start)), whole[start:])


@pytest.mark.parametrize("world_size", [2, 4])
def test_processes_share_the_batch(made: Any, world_size: int) -> None:
    whole = list(made().epoch(0))
    shares = [list(made(rank=rank, world_size=world_size).epoch(0)) for rank in range(world_size)]
    joined = [
        Batch(*(torch.cat(parts) for parts in zip(*batches, strict=True))) for batches in zip(*shares, strict=True)
    ]
    assert equal(joined, whole)


def test_images_change_from_epoch_to_epoch(made: Any) -> None:
    def by_index(epoch: int) -> dict[int, torch.Tensor]:
        parts = [(batch.indices, batch.images) for batch in made().epoch(epoch)]
        indices, images = (torch.cat(tensors) for tensors in zip(*parts, strict=True))
        return dict(zip(indices.tolist(), images, strict=True))

    first, second = by_index(0), by_index(1)
    both = first.keys() & second.keys()
    assert len(both) > 10
    assert not any(torch.equal(first[index], second[index]) for index in both)


@pytest.mark.parametrize("workers", [0, 1])
def test_the_caller_s_random_numbers_stay(made: Any, workers: int) -> None:
    torch.manual_seed(1)
    state = torch.get_rng_state()
    list(made(workers=workers).epoch(0))
    list(make_eval_loader(photographs(), PREPROCESS, batch_size=8, workers=workers))
    assert torch.equal(torch.get_rng_state(), state)


def test_the_batch_is_cut_to_the_source(made: Any) -> None:
    loader = made(batch_size=64, world_size=2, micro_batches=2)
    assert (loader.batch_size, loader.steps) == (28, 1)
    assert len(next(loader.epoch(0)).labels) == 14


def test_a_batch_that_cannot_be_divided() -> None:
    with pytest.raises(InputError, match="batch_size = 10 cannot be divided among 2 processes x 3 micro-batches.* 12"):
        make_train_loader(noisy(30), Augment(), PREPROCESS, batch_size=10, seed=0, world_size=2, micro_batches=3)
    with pytest.raises(InputError, match="listed has 5 training images, too few for 2 processes x 3"):
        make_train_loader(noisy(5), Augment(), PREPROCESS, batch_size=12, seed=0, world_size=2, micro_batches=3)


@pytest.mark.parametrize("workers", [0, 1])
def test_an_unreadable_image_is_one_line(made: Any, workers: int) -> None:
    with pytest.raises(InputError) as caught:
        list(made(photographs(broken=(11,)), workers=workers).epoch(0))
    assert str(caught.value).startswith("image-11.png cannot be read; ")
    assert "on_error=skip" in str(caught.value)
    evaluation = make_eval_loader(photographs(broken=(11,)), PREPROCESS, batch_size=8, workers=workers)
    with pytest.raises(InputError) as caught:
        list(evaluation)
    assert str(caught.value) == "image-11.png cannot be read"


@pytest.mark.parametrize("workers", [0, 2])
def test_an_unreadable_image_is_replaced(made: Any, capsys: pytest.CaptureFixture[str], workers: int) -> None:
    broken = tuple(epoch_order(30, 5, 0)[[3, 4, 16, 29]].tolist())  # two in a row; the last is in no batch
    loader = made(photographs(broken=broken), workers=workers, on_error="skip", max_skipped=4)
    order = epoch_order(30, 5, 0).tolist()
    expected = [next(index for index in order[place:] if index not in broken) for place in range(24)]
    batches = list(loader.epoch(0))
    assert [index for batch in batches for index in batch.indices.tolist()] == expected
    assert [label for batch in batches for label in batch.labels.tolist()] == [index % 10 for index in expected]
    assert loader.skipped == 3
    lines = capsys.readouterr().err.splitlines()
    assert sorted(lines) == sorted(f"skipped: image-{index}.png cannot be read" for index in broken[:3])
    list(loader.epoch(1))
    assert all(f"image-{index}.png" not in capsys.readouterr().err for index in broken[:3])  # said once
    assert equal(list(made(photographs(broken=broken), on_error="skip").epoch(0, 1)), batches[1:])


@pytest.mark.parametrize("workers", [0, 2])
def test_too_many_unreadable_images(made: Any, workers: int) -> None:
    first, second, third = epoch_order(30, 5, 0)[[2, 3, 20]].tolist()
    loader = made(photographs(broken=(first, second, third)), workers=workers, on_error="skip", max_skipped=2)
    batches = loader.epoch(0)
    next(batches)
    next(batches)
    with pytest.raises(InputError, match=f"listed: more than max_skipped = 2 training .* image-{third}.png cannot"):
        next(batches)
    every = made(photographs(10, tuple(range(10))), workers=workers, on_error="skip")
    with pytest.raises(InputError, match=r"listed: no training image can be read, image-\d\.png"):
        list(every.epoch(0))


@pytest.mark.parametrize("world_size", [1, 2, 3, 7])
@pytest.mark.parametrize("source", [photographs(20), noisy(20)], ids=["workers", "memory"])
def test_evaluation_counts_every_image_once(source: ListedSource, world_size: int) -> None:
    found = []
    for rank in range(world_size):
        loader = make_eval_loader(source, PREPROCESS, batch_size=8, rank=rank, world_size=world_size)
        batches = list(loader)
        assert len(batches) == len(loader)
        for batch in batches:
            found += batch.indices.tolist()
            expected = torch.stack([PREPROCESS(source.image(index)) for index in batch.indices.tolist()])
            assert torch.equal(batch.images, expected)
            assert batch.labels.tolist() == [index % 10 for index in batch.indices.tolist()]
        assert equal(list(loader), batches)  # and again
    assert found == list(range(20))


def test_more_processes_than_images() -> None:
    sizes = [len(make_eval_loader(noisy(2), PREPROCESS, batch_size=8, rank=rank, world_size=4)) for rank in range(4)]
    assert sorted(sizes) == [0, 0, 1, 1]


@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGTERM])
def test_workers_leave_signals_to_the_training_process(made: Any, signum: signal.Signals) -> None:
    loader = made(photographs(64), workers=2)
    batches = loader.epoch(0)
    next(batches)
    deadline = time.monotonic() + 60  # the first batch may come before the second worker has begun
    workers: list[int] = []
    while len(workers) < 2 and time.monotonic() < deadline:
        children = [int(pid) for pid in Path(f"/proc/self/task/{os.getpid()}/children").read_text().split()]
        workers = [pid for pid in children if signum in _ignored(pid)]
    assert len(workers) >= 2
    for pid in workers:
        os.kill(pid, signum)
    assert len(list(batches)) == 7
    assert equal(list(loader.epoch(1)), list(made(photographs(64)).epoch(1)))


def _ignored(pid: int) -> set[int]:
    """The signals that a process ignores."""
    lines = dict(line.split(":\t", 1) for line in Path(f"/proc/{pid}/status").read_text().splitlines())
    mask = int(lines["SigIgn"], 16)
    return {number for number in range(1, 65) if mask >> (number - 1) & 1}


def test_the_data_set_can_be_sent_to_a_spawned_worker() -> None:
    loader = make_train_loader(photographs(), EVERYTHING, PREPROCESS, batch_size=8, seed=0)
    data = PixelBatches(loader.source, loader.transform, loader.settings, fast=True)
    wanted = Wanted(1, 0, [3, 4])
    copy = pickle.loads(pickle.dumps(data))
    assert torch.equal(copy[wanted].items, data[wanted].items)


def test_exact_decoding_is_what_the_transform_gives() -> None:
    source = photographs()
    fast = make_train_loader(source, EVERYTHING, PREPROCESS, batch_size=30, seed=0)
    exact = make_train_loader(source, EVERYTHING, PREPROCESS, batch_size=30, seed=0, decoding="exact")
    near, true = next(fast.epoch(0)), next(exact.epoch(0))
    assert near.indices.tolist() == true.indices.tolist()
    assert not torch.equal(near.images, true.images)
    expected = torch.stack(
        [exact.transform.pixels(source.image(index), Draws.of(0, 0, index)) for index in true.indices.tolist()]
    )
    draws = Draws.of(0, 0, true.indices.numpy())
    assert torch.equal(exact.transform.finish(expected.permute(0, 3, 1, 2).contiguous(), draws), true.images)


def test_photographs_of_the_sample(shared: Path) -> None:
    source = open_source(str(shared / "data" / "imagenet_sample"), "val")
    batch = next(iter(make_eval_loader(source, IMAGENET, batch_size=8)))
    assert torch.equal(batch.images, torch.stack([IMAGENET(source.image(index)) for index in range(8)]))
