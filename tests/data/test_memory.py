"""Small images in memory: every batch against images that are changed one by one, with loops."""

from __future__ import annotations

import itertools
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from compactnets.data import Augment, Preprocess, memory, open_source
from compactnets.data.loading import Batch, make_eval_loader, make_train_loader
from compactnets.data.memory import MemoryLoader, small_images
from compactnets.data.order import Draws, epoch_order
from compactnets.data.preprocess import Fit
from compactnets.data.presets import CIFAR10
from compactnets.data.transform import CUT_COLUMN, CUT_ROW, FLIP, LEFT, TOP, erase
from compactnets.data.workers import WorkerLoader
from compactnets.errors import InputError

from .helpers import noise
from .listed import ListedSource, noisy

COLOUR = Preprocess(size=12, resize=None, mean=(0.3, 0.5, 0.6), std=(0.2, 0.25, 0.3))
WIDE = Preprocess(size=8, resize=10, mean=(0.4,), std=(0.2,))
AUGMENTS = [
    Augment(crop="pad", pad=3, flip=True, cutout=5),
    Augment(crop="pad", pad=2, cutout=4),
    Augment(crop="none", flip=True),
    Augment(crop="none", cutout=7),
    Augment(),
]


def loader(source: ListedSource, augment: Augment, preprocess: Preprocess = COLOUR, **options: object) -> MemoryLoader:
    chosen = {"batch_size": 8, "seed": 5, **options}
    made = make_train_loader(source, augment, preprocess, **chosen)  # type: ignore[arg-type]
    assert isinstance(made, MemoryLoader)
    return made


def by_hand(image: Image.Image, augment: Augment, preprocess: Preprocess, draws: Draws[int]) -> np.ndarray:
    """Change one image with numpy alone, pixel by pixel: (C, S, S)."""
    size = preprocess.size
    levels = np.asarray(Fit(preprocess)(image)).reshape(-1)
    width, height = Fit(preprocess)(image).size
    levels = levels.reshape(height, width, -1)
    pad = augment.pad if augment.crop == "pad" else 0
    top = round((height - size) / 2)
    left = round((width - size) / 2)
    if augment.crop == "pad":
        top = int(draws.uniform(TOP) * (height + 2 * pad - size + 1)) - pad
        left = int(draws.uniform(LEFT) * (width + 2 * pad - size + 1)) - pad
    mirrored = augment.flip and draws.uniform(FLIP) < 0.5
    row, column = int(draws.uniform(CUT_ROW) * size), int(draws.uniform(CUT_COLUMN) * size)
    result = np.zeros((preprocess.channels, size, size), dtype=np.float32)
    for y, x in itertools.product(range(size), range(size)):
        from_y, from_x = top + y, left + (size - 1 - x if mirrored else x)
        inside = 0 <= from_y < height and 0 <= from_x < width
        before = augment.cutout // 2
        cut = 0 <= y - (row - before) < augment.cutout and 0 <= x - (column - before) < augment.cutout
        for channel in range(preprocess.channels):
            level = np.float32(levels[from_y, from_x, channel] if inside else 0) * np.float32(1 / 255)
            mean, std = np.float32(preprocess.mean[channel]), np.float32(preprocess.std[channel])
            result[channel, y, x] = 0 if cut else (level - mean) / std
    return result


@pytest.mark.parametrize("augment", AUGMENTS)
@pytest.mark.parametrize(("preprocess", "mode", "size"), [(COLOUR, "RGB", (12, 12)), (WIDE, "L", (30, 20))])
def test_equals_images_changed_one_by_one(
    augment: Augment, preprocess: Preprocess, mode: str, size: tuple[int, int]
) -> None:
    source = noisy(20, *size, mode)
    for epoch in range(2):
        for batch in loader(source, augment, preprocess).epoch(epoch):
            for image, index in zip(batch.images, batch.indices.tolist(), strict=True):
                expected = by_hand(source.image(index), augment, preprocess, Draws.of(5, epoch, index))
                np.testing.assert_array_equal(image.numpy(), expected)
            assert batch.labels.tolist() == [index % 10 for index in batch.indices.tolist()]


@pytest.mark.parametrize("augment", AUGMENTS)
@pytest.mark.parametrize("channels_last", [True, False])
@pytest.mark.parametrize(("preprocess", "mode", "size"), [(COLOUR, "RGB", (12, 12)), (WIDE, "L", (30, 20))])
def test_equals_the_loader_of_any_source(
    augment: Augment, channels_last: bool, preprocess: Preprocess, mode: str, size: tuple[int, int]
) -> None:
    source = noisy(20, *size, mode, broken=(3, 7))
    quick = loader(source, augment, preprocess, channels_last=channels_last, on_error="skip")
    slow = WorkerLoader(source, quick.transform, quick.settings, 0, fast=True)
    for one, other in zip(quick.epoch(2), slow.epoch(2), strict=True):
        assert all(torch.equal(left, right) for left, right in zip(one, other, strict=True))
        assert one.images.stride() == other.images.stride()
    assert quick.skipped == slow.skipped


@pytest.mark.parametrize("broken", [(), (3, 7, 19)])
def test_balanced_classes_equal_the_loader_of_any_source(broken: tuple[int, ...]) -> None:
    source = noisy(20, broken=broken)
    source.labels[:] = [0] * 17 + [4] * 3
    quick = loader(source, AUGMENTS[0], on_error="skip", sampling="balanced")
    slow = WorkerLoader(source, quick.transform, quick.settings, 1, fast=True)
    batches = list(quick.epoch(2))
    for one, other in zip(batches, slow.epoch(2), strict=True):
        assert all(torch.equal(left, right) for left, right in zip(one, other, strict=True))
    slow.close()
    assert quick.skipped == slow.skipped
    assert bool(quick.skipped) == bool(broken)
    assert quick.unreadable == slow.unreadable <= set(broken)
    assert [len(batches), *map(len, batches[0])] == [2, 8, 8, 8]
    labels, indices = (torch.cat([batch[field] for batch in batches]) for field in (1, 2))
    assert torch.equal(labels, torch.from_numpy(source.labels)[indices])
    for one, other in zip(batches[1:], quick.epoch(2, 1), strict=True):  # from the middle of an epoch
        assert all(torch.equal(left, right) for left, right in zip(one, other, strict=True))
    halves = [loader(source, AUGMENTS[0], on_error="skip", sampling="balanced", rank=r, world_size=2) for r in (0, 1)]
    for whole, *parts in zip(batches, *(half.epoch(2) for half in halves), strict=True):
        assert all(torch.equal(whole[field], torch.cat([part[field] for part in parts])) for field in range(3))
    if not broken:
        assert labels.tolist().count(4) == 8
        repeated = int(indices[labels == 4].mode().values)
        images = torch.cat([batch.images for batch in batches])[indices == repeated]
        assert len(images) > 1
        assert len({image.numpy().tobytes() for image in images}) == len(images), "each with other random changes"


def test_every_image_has_its_own_crop_flip_and_cutout() -> None:
    """One image many times: all 5 x 5 crops, both flips and all 12 x 12 centres occur, and are told by the pixels."""
    ramp = Image.fromarray(np.arange(144, dtype=np.uint8).reshape(12, 12) + 1)
    preprocess = Preprocess(size=12, resize=None, mean=(0.0,), std=(1.0,))
    source = ListedSource([ramp] * 4000)
    crops, squares = set(), set()
    plain = loader(source, Augment(crop="pad", pad=2, flip=True), preprocess, batch_size=4000)
    padded = np.pad(np.asarray(ramp), 2)
    windows = {}
    for top, left, step in itertools.product(range(5), range(5), (1, -1)):
        windows[padded[top : top + 12, left : left + 12][:, ::step].tobytes()] = (top, left, step)
    for image in next(plain.epoch(0)).images:
        crops.add(windows[np.rint(image[0].numpy() * 255).astype(np.uint8).tobytes()])
    assert len(crops) == 50
    cut = loader(source, Augment(cutout=3), preprocess, batch_size=4000)
    for image in next(cut.epoch(0)).images:
        rows, columns = np.nonzero(image[0].numpy() == 0)
        squares.add((rows.min(), rows.max(), columns.min(), columns.max()))
    assert len(squares) == 144


@pytest.mark.parametrize(
    ("side", "row", "rows"), [(4, 5, range(3, 7)), (3, 5, range(4, 7)), (6, 0, range(3)), (5, 11, range(9, 12))]
)
def test_cutout_is_clipped_at_the_border(side: int, row: int, rows: range) -> None:
    images = erase(torch.ones(1, 2, 12, 12), torch.tensor([[row], [6]]), side)
    found = (images[0] == 0).numpy()
    assert np.nonzero(found[0].any(axis=1))[0].tolist() == list(rows)
    assert found[0].sum() == len(rows) * side
    np.testing.assert_array_equal(found[0], found[1])


def equal(left: list[Batch], right: list[Batch]) -> bool:
    return len(left) == len(right) and all(
        torch.equal(one, other) for a, b in zip(left, right, strict=True) for one, other in zip(a, b, strict=True)
    )


def test_goes_on_in_the_middle_of_an_epoch() -> None:
    augment = AUGMENTS[0]
    whole = list(loader(noisy(45), augment).epoch(3))
    assert len(whole) == 5
    for start in range(6):
        assert equal(list(loader(noisy(45), augment).epoch(3, start)), whole[start:])


def test_processes_share_the_batch() -> None:
    augment = AUGMENTS[0]
    whole = list(loader(noisy(45), augment).epoch(0))
    shares = [list(loader(noisy(45), augment, rank=rank, world_size=2).epoch(0)) for rank in range(2)]
    joined = [
        Batch(*(torch.cat(tensors) for tensors in zip(one, other, strict=True)))
        for one, other in zip(*shares, strict=True)
    ]
    assert equal(joined, whole)


def test_the_caller_s_random_numbers_stay() -> None:
    torch.manual_seed(1)
    state = torch.get_rng_state()
    list(loader(noisy(20), AUGMENTS[0]).epoch(0))
    assert torch.equal(torch.get_rng_state(), state)


def test_unreadable_images(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(InputError, match=r"^image-4\.png cannot be read; .*on_error=skip"):
        loader(noisy(16, broken=(4,)), Augment())
    capsys.readouterr()
    skipping = loader(noisy(16, broken=(4, 9)), Augment(), on_error="skip", max_skipped=2)
    order = epoch_order(16, 5, 0).tolist()
    expected = [next(index for index in (order[place:] + order) if index not in (4, 9)) for place in range(len(order))]
    found = [index for batch in skipping.epoch(0) for index in batch.indices.tolist()]
    assert found == expected
    assert skipping.skipped == 2
    list(skipping.epoch(1))
    assert skipping.skipped == 4
    assert capsys.readouterr().err == "skipped: image-4.png cannot be read\nskipped: image-9.png cannot be read\n"
    with pytest.raises(InputError, match=r"more than max_skipped = 2 training images .* image-10\.png"):
        loader(noisy(16, broken=(4, 9, 10, 11)), Augment(), on_error="skip", max_skipped=2)


@pytest.mark.parametrize(
    ("source", "augment", "preprocess"),
    [
        (noisy(4), Augment(crop="resized"), COLOUR),
        (noisy(4), Augment(rotation=5), COLOUR),
        (noisy(4), Augment(translate=0.1), COLOUR),
        (noisy(4), Augment(color_jitter=0.1), COLOUR),
        (noisy(4), Augment(hue=0.1), COLOUR),
        (noisy(4, 65, 65), Augment(), COLOUR),
        (ListedSource([noise(12, 12), noise(12, 12), noise(14, 12)]), Augment(), WIDE),
        (ListedSource([noise(12, 12), noise(65, 65)]), Augment(), COLOUR),
    ],
)
def test_what_goes_to_the_other_loader(source: ListedSource, augment: Augment, preprocess: Preprocess) -> None:
    made = make_train_loader(source, augment, preprocess, batch_size=2, seed=0)
    assert isinstance(made, WorkerLoader)
    assert len(next(made.epoch(0)).images) == 2


def test_above_the_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    source = noisy(10)
    monkeypatch.setattr(memory, "LIMIT", 10 * 14 * 14 * 3)
    assert small_images(source, COLOUR, pad=1) is not None
    assert small_images(source, COLOUR, pad=2) is None
    monkeypatch.setattr(memory, "LIMIT", 10 * 12 * 12 * 3 - 1)
    assert small_images(noisy(10), COLOUR) is None


def test_images_are_read_once(monkeypatch: pytest.MonkeyPatch) -> None:
    source = noisy(10)
    assert small_images(source, COLOUR) is small_images(source, COLOUR)
    monkeypatch.setattr(source, "image", None)
    assert sum(len(batch.labels) for batch in make_eval_loader(source, COLOUR, batch_size=4)) == 10


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device here")
@pytest.mark.parametrize("augment", AUGMENTS)
@pytest.mark.parametrize("channels_last", [True, False])
def test_on_an_accelerator(augment: Augment, channels_last: bool) -> None:
    """The same bits, and no step waits for the device."""
    here = loader(noisy(45), augment, channels_last=channels_last)
    there = loader(noisy(45), augment, channels_last=channels_last, device="cuda")
    batches = there.epoch(1)
    found = [next(batches)]
    torch.cuda.set_sync_debug_mode("error")
    try:
        found += list(batches)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert found[0].images.device.type == found[0].labels.device.type == "cuda"
    assert found[0].indices.device.type == "cpu"
    assert equal([Batch(*(tensor.cpu() for tensor in batch)) for batch in found], list(here.epoch(1)))


def test_cifar10(shared: Path) -> None:
    source = open_source(str(shared / "data" / "cifar10"), "val")
    batches = list(itertools.islice(make_eval_loader(source, CIFAR10, batch_size=100), 3))
    for batch in batches:
        expected = torch.stack([CIFAR10(source.image(index)) for index in batch.indices.tolist()])
        assert torch.equal(batch.images, expected)
        assert batch.labels.tolist() == source.labels[batch.indices].tolist()
