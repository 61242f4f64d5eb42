"""Randomness without state: good numbers, and nothing but seed, epoch and index decides them."""

from __future__ import annotations

import random

import numpy as np
import pytest
import torch

from compactnets.data.order import Draws, balanced_order, epoch_order, local_share, mix_seed


def test_seeds_of_near_numbers_are_far_apart() -> None:
    parts = [(a, b) for a in range(-20, 20) for b in range(20)] + [(5,), (5, 0), (0, 5), (2**80,), (-(2**80),)]
    seeds = {mix_seed(*part) for part in parts}
    assert len(seeds) == len(set(parts))
    assert all(0 <= seed < 2**63 for seed in seeds)
    assert mix_seed(3, 4) == mix_seed(np.int64(3), np.int32(4))  # type: ignore[arg-type]
    bits = [bin(mix_seed(seed) ^ mix_seed(seed + 1)).count("1") for seed in range(200)]
    assert 30 < np.mean(bits) < 33  # half of the 63


def test_an_order_is_a_permutation_of_its_own() -> None:
    orders = [tuple(epoch_order(50, seed, epoch)) for seed in range(3) for epoch in range(3)]
    assert len(set(orders)) == 9
    assert all(sorted(order) == list(range(50)) for order in orders)
    assert epoch_order(50, 1, 2).tolist() == epoch_order(50, 1, 2).tolist()
    assert epoch_order(50, 1, 2).dtype == np.int64


def test_balanced_epochs_draw_every_class_equally_often() -> None:
    labels = np.array([0] * 40 + [2] * 7 + [3] * 3)[epoch_order(50, 0, 0)]  # no image of class 1
    runs = [balanced_order(labels, 6, epoch, 44) for epoch in range(12)]
    for draws in runs:
        assert len(set(draws.tolist())) == 44  # so that every draw has random numbers of its own
        assert {*np.bincount(labels[draws % 50], minlength=4)[[0, 2, 3]].tolist()} <= {14, 15}
    assert np.bincount(labels[np.concatenate(runs) % 50]).tolist() == [176, 0, 176, 176]
    for label in (0, 2, 3):
        times = np.bincount(np.concatenate(runs) % 50, minlength=50)[labels == label]
        assert times.max() - times.min() <= 1, "every image of a class before any of them again"
    first = [draws[labels[draws % 50] == 3] % 50 for draws in runs]
    assert len({tuple(each[:3]) for each in first}) > 1
    assert sorted({*(runs[0] // 50).tolist()}) == [0, 1, 2, 3, 4], "14 or 15 draws of three images"
    again = balanced_order(labels, 6, 5, 44)
    assert np.array_equal(again, runs[5])
    assert not np.array_equal(balanced_order(labels, 7, 5, 44), again)
    # each round of a small class is an order of its own, and equal classes do not go in step
    pairs = np.array([0, 0, 1, 1])
    rounds = [tuple(balanced_order(pairs, 6, epoch, 4) % 4) for epoch in range(300)]
    assert len(set(rounds)) == 24


def test_more_classes_than_draws() -> None:
    labels = np.arange(7)
    epochs = [balanced_order(labels, 1, epoch, 3) % 7 for epoch in range(7)]
    assert np.bincount(np.concatenate(epochs)).tolist() == [3] * 7


@pytest.mark.parametrize("world_size", [1, 2, 3])
def test_shares_are_together_the_batch(world_size: int) -> None:
    order = epoch_order(50, 0, 0)
    for step in range(4):
        shares = [local_share(order, 12, step, rank, world_size) for rank in range(world_size)]
        assert {len(share) for share in shares} == {12 // world_size}
        assert np.concatenate(shares).tolist() == order[12 * step : 12 * step + 12].tolist()


def test_the_numbers_are_those_of_splitmix64() -> None:
    """The outputs of the published generator from the state 0 (Vigna's ``splitmix64.c``)."""
    outputs = [0xE220A8397B1DCDAF, 0x6E789E6AA1B965F4, 0x06C45D188009454F, 0xF88BB8A8724C81EC]
    assert [Draws(0).uniform(place) for place in range(4)] == [(output >> 11) / 2**53 for output in outputs]


def test_many_images_at_once_are_one_after_the_other() -> None:
    indices = np.array([0, 1, 2, 17, 10**9, 2**40])
    together = Draws.of(7, 3, indices)
    for place in (0, 1, 30, 1000):
        alone = [Draws.of(7, 3, int(index)) for index in indices]
        assert together.uniform(place, -2, 5).tolist() == [draws.uniform(place, -2, 5) for draws in alone]
        assert together.integer(place, 9).tolist() == [draws.integer(place, 9) for draws in alone]


@pytest.mark.parametrize("place", [0, 3, 40])
def test_the_numbers_are_uniform_and_independent(place: int) -> None:
    count = 20_000
    indices = np.arange(count)
    numbers = Draws.of(0, 0, indices).uniform(place)
    assert 0 <= numbers.min() < 1e-3
    assert 1 - 1e-3 < numbers.max() < 1
    limit = 4 / np.sqrt(count)
    assert abs(numbers.mean() - 0.5) < limit * np.sqrt(1 / 12)
    others = [
        np.roll(numbers, 1),  # of the next image
        Draws.of(0, 0, indices).uniform(place + 1),
        Draws.of(0, 1, indices).uniform(place),
        Draws.of(1, 0, indices).uniform(place),
    ]
    assert max(abs(np.corrcoef(numbers, other)[0, 1]) for other in others) < limit
    counts = np.bincount(Draws.of(0, 0, indices).integer(place, 9), minlength=9)
    assert len(counts) == 9
    assert abs(counts - count / 9).max() < 4 * np.sqrt(count / 9)


def test_no_generator_is_touched() -> None:
    torch.manual_seed(0)
    states = torch.get_rng_state(), random.getstate(), np.random.get_state()[1].tolist()
    epoch_order(20, 0, 0)
    Draws.of(0, 0, 3).uniform(0)
    assert torch.equal(torch.get_rng_state(), states[0])
    assert random.getstate() == states[1]
    assert np.random.get_state()[1].tolist() == states[2]
