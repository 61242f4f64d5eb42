"""Randomness without state: good numbers, and nothing but seed, epoch and index decides them."""

from __future__ import annotations

import random

import numpy as np
import pytest
import torch

from compactnets.data.order import Draws, epoch_order, local_share, mix_seed


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
