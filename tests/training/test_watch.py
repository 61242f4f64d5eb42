"""A loss that is not finite ends the run and names step and images."""

from __future__ import annotations

import pytest
import torch

from compactnets import InputError
from compactnets.training.watch import LossWatch

NAN, INF = float("nan"), float("inf")


def watch(interval: int = 1) -> LossWatch:
    return LossWatch(lambda index: f"image-{index}.jpg", interval)


def add(one: LossWatch, step: str, *values: float, first: int = 0) -> None:
    one.add(step, {"loss": torch.tensor(values)}, torch.arange(first, first + len(values)))


def test_mean_of_the_steps() -> None:
    one = LossWatch(str, 1, totals={"loss": 4.0}, count=2)
    add(one, "step 3", 4.0, 6.0)
    assert (one.totals, one.count, one.mean) == ({"loss": 9.0}, 3, 3.0)


def test_the_mean_is_that_of_the_sum_of_the_parts() -> None:
    one = watch(interval=2)
    for boxes in (1.0, 3.0):
        one.add("step", {"classes": torch.tensor([2.0, 4.0]), "boxes": torch.full((2,), boxes)}, torch.arange(2))
    assert (one.totals, one.mean) == ({"classes": 6.0, "boxes": 4.0}, 5.0)


def test_a_part_that_is_not_finite_names_the_images() -> None:
    with pytest.raises(InputError, match=r"1 of 2 images \(image-8.jpg\)"):
        watch().add("step 1", {"classes": torch.ones(2), "boxes": torch.tensor([1.0, NAN])}, torch.tensor([7, 8]))


@pytest.mark.parametrize("bad", [NAN, INF, -INF])
def test_the_images_are_named(bad: float) -> None:
    one = watch()
    add(one, "epoch 1/2, step 1", 1.0, 2.0, first=5)
    with pytest.raises(InputError) as error:
        add(one, "epoch 1/2, step 2", 1.0, bad, first=7)
    message = str(error.value)
    assert "not finite at epoch 1/2, step 2: 1 of 2 images (image-8.jpg)" in message
    assert "\n" not in message


def test_many_images_are_cut_short() -> None:
    with pytest.raises(InputError, match=r"9 of 9 images \(image-0.jpg, .*image-4.jpg, …\)"):
        add(watch(), "step 1", *[NAN] * 9)


def test_a_late_check_names_the_first_bad_step() -> None:
    one = watch(interval=4)
    for step, value in enumerate([1.0, NAN, NAN], start=1):
        add(one, f"step {step}", value, first=step)
    assert one.count == 0
    with pytest.raises(InputError, match=r"at step 2: 1 of 1 images \(image-2.jpg\)"):
        one.check()


def test_a_late_check_counts_like_an_early_one() -> None:
    early, late = watch(1), watch(3)
    for step in range(7):
        for one in (early, late):
            add(one, f"step {step}", float(step), 2.0)
    late.check()
    assert (early.totals, early.count) == (late.totals, late.count)
