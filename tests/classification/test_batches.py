"""Batches give what one image after the other gives, in the same order, whatever the files."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from torch import Tensor, nn

from compactnets.classification.batches import BatchRunner, PreparedFiles
from compactnets.classification.checkpoint import CheckpointRecord, load_checkpoint
from compactnets.classification.prediction import as_predictions, guesses_of, predict
from compactnets.data.inputs import Picture
from compactnets.data.preprocess import Preprocess
from compactnets.errors import InputError

from ..cli.helpers import save_digits
from ..data.helpers import noise, write_video

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def digits(tmp_path_factory: pytest.TempPathFactory) -> tuple[nn.Module, CheckpointRecord]:
    return load_checkpoint(save_digits(tmp_path_factory.mktemp("a") / "a.safetensors", "shufflenet_g3_x0_25"), CPU)


def runner(network: nn.Module, record: CheckpointRecord, **options: int) -> BatchRunner[Any]:
    preprocess = Preprocess.from_dict(record.preprocess)
    return BatchRunner(network, preprocess, CPU, lambda logits: guesses_of(record, logits, 3), **options)


@pytest.fixture
def files(tmp_path: Path) -> list[str | Picture]:
    """Images of several sizes and modes, some unusable, a video between them, and one in memory."""
    for number, (size, mode) in enumerate(itertools.product((8, 13), ("RGB", "L", "P", "RGBA"))):
        noise(size, size + number, mode, number).save(tmp_path / f"{number}.png")
    (tmp_path / "broken.png").write_bytes(b"no image")
    paths = [str(tmp_path / f"{name}.png") for name in (0, 1, "broken", 2, "none", 3, 4, 5, 6, 7)]
    video = str(write_video(tmp_path / "clip.mp4", 4))
    return [*paths[:5], video, *paths[5:8], Picture("array", noise(9, 9)), Picture("*.gif", error="none"), *paths[8:]]


@pytest.mark.parametrize(("batch_size", "workers"), [(1, 0), (3, 0), (64, 0), (2, 2)])
def test_batches_give_what_single_images_give(
    digits: tuple[nn.Module, CheckpointRecord], files: list[str | Picture], batch_size: int, workers: int
) -> None:
    expected = list(predict(*digits, files, top_k=3, every=2))
    many = runner(*digits, every=2, batch_size=batch_size, workers=workers)
    for _ in range(2):  # the processes are used again
        found = list(as_predictions(many(files)))
        assert [(one.name, one.frame, one.error) for one in found] == [
            (one.name, one.frame, one.error) for one in expected
        ]
        for one, other in zip(found, expected, strict=True):
            assert [guess.class_name for guess in one.guesses] == [guess.class_name for guess in other.guesses]
            shares, others = ([guess.probability for guess in each.guesses] for each in (one, other))
            assert shares == pytest.approx(others, abs=1e-6)
    many.close()
    assert sum(bool(one.error) for one in expected) == 3
    assert len(expected) == 14


class Choosy(Preprocess):
    """Takes no grey images."""

    def pixels(self, image: Image.Image) -> Tensor:
        if image.mode == "L":
            raise InputError("too grey")
        if image.mode == "P":
            raise ValueError("too\nfew colours")
        return super().pixels(image)


def test_what_preprocessing_refuses_costs_no_other(
    digits: tuple[nn.Module, CheckpointRecord], files: list[str]
) -> None:
    many = runner(*digits, batch_size=4, workers=0)
    loaded = PreparedFiles(Choosy(**digits[1].preprocess))[files[:2] + files[3:4]]
    assert loaded.items.shape == (1, 8, 8, 1)
    found = list(as_predictions(many._batch(files[:2] + files[3:4], loaded)))
    assert [(files[place] in str(one.error), one.error) for place, one in zip((0, 1, 3), found, strict=True)] == [
        (False, None),
        (True, f"{files[1]}: too grey"),
        (True, f"{files[3]}: ValueError: too"),
    ]
    assert [len(one.guesses) for one in found] == [3, 0, 0]


def test_files_are_taken_as_they_are_needed(digits: tuple[nn.Module, CheckpointRecord], files: list[str]) -> None:
    taken = 0

    def endless() -> Iterator[str]:
        nonlocal taken
        while True:
            taken += 1
            yield files[0]

    many = runner(*digits, batch_size=4, workers=0)
    for done, found in enumerate(itertools.islice(as_predictions(many(endless())), 100)):
        assert found.error is None
        assert taken <= done + 8
    many.close()


class Unsound(nn.Module):
    """Gives NaN for the second image of a batch."""

    def forward(self, images: Tensor) -> Tensor:
        logits = torch.zeros(len(images), 10)
        logits[1:2] = torch.nan
        return logits


class Failing(nn.Module):
    def forward(self, images: Tensor) -> Tensor:
        raise RuntimeError("an operator\nthat fails")


def test_outputs_that_are_not_finite_cost_no_other(
    digits: tuple[nn.Module, CheckpointRecord], files: list[str]
) -> None:
    many = runner(Unsound(), digits[1], batch_size=4, workers=0)
    found = list(as_predictions(many([str(file) for file in (files[0], files[1], files[3])])))
    assert ["finite" in str(one.error) for one in found] == [False, True, False]
    assert files[1] in str(found[1].error)


def test_a_network_that_cannot_run_is_one_line(digits: tuple[nn.Module, CheckpointRecord], files: list[str]) -> None:
    many = runner(Failing(), digits[1], batch_size=4, workers=0)
    with pytest.raises(InputError, match=r"batch of 2 images.*an operator") as refused:
        list(many(files[:2]))
    assert "\n" not in str(refused.value)
