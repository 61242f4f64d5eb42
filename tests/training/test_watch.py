"""A loss that is not finite ends the run and names step and images."""

from __future__ import annotations

import pytest
import torch

from compactnets import InputError
from compactnets.training.watch import LossWatch

NAN, INF = float("nan"), float("inf")


def watch(interval: int = 1) -> LossWatch:
    return LossWatch(lambda index: f"image-{index}.jpg", interval)


def test_mean_of_the_steps() -> None:
    one = LossWatch(str, 1, total=4.0, count=2)
    one.add("step 3", torch.tensor([4.0, 6.0]), torch.arange(2))
    assert (one.total, one.count, one.mean) == (9.0, 3, 3.0)


@pytest.mark.parametrize("bad", [NAN, INF, -INF])
def test_the_images_are_named(bad: float) -> None:
    one = watch()
    one.add("epoch 1/2, step 1", torch.tensor([1.0, 2.0]), torch.tensor([5, 6]))
    with pytest.raises(InputError) as error:
        one.add("epoch 1/2, step 2", torch.tensor([1.0, bad]), torch.tensor([7, 8]))
    message = str(error.value)
    assert "not finite at epoch 1/2, step 2: 1 of 2 images (image-8.jpg)" in message
    assert "\n" not in message


def test_many_images_are_cut_short() -> None:
    with pytest.raises(InputError, match=r"9 of 9 images \(image-0.jpg, .*image-4.jpg, …\)"):
        watch().add("step 1", torch.full((9,), NAN), torch.arange(9))


def test_a_late_check_names_the_first_bad_step() -> None:
    one = watch(interval=4)
    for step, value in enumerate([1.0, NAN, NAN], start=1):
        one.add(f"step {step}", torch.tensor([value]), torch.tensor([step]))
    assert one.count == 0
    with pytest.raises(InputError, match=r"at step 2: 1 of 1 images \(image-2.jpg\)"):
        one.check()


def test_a_late_check_counts_like_an_early_one() -> None:
    early, late = watch(1), watch(3)
    for step in range(7):
        for one in (early, late):
            one.add(f"step {step}", torch.tensor([float(step), 2.0]), torch.arange(2))
    late.check()
    assert (early.total, early.count) == (late.total, late.count)
