"""Bilinear scaling against PyTorch, at every pixel, over odd shapes and all widths of vectors."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from compactnets.deploy.planar.trace import trace
from compactnets.errors import InputError

from .helpers import WIDTHS, check_module

FROM = [(1, 1), (2, 3), (5, 4), (9, 13), (23, 30)]
TO = [(1, 1), (1, 7), (3, 2), (9, 13), (10, 26), (46, 60), (33, 17)]


class Resize(nn.Module):
    """Every size that maps are scaled to, from one, with and without what a kernel finishes."""

    def __init__(self, size: tuple[int, int]) -> None:
        super().__init__()
        self.names = [f"{size} {name}" for name, _ in self.outputs(torch.zeros(1, 4, *size))]

    def outputs(self, x: Tensor) -> Iterator[tuple[str, Tensor]]:
        for aligned, to in itertools.product((False, True), TO):
            how: dict[str, Any] = {"size": to, "mode": "bilinear", "align_corners": aligned}
            of_image, of_arena = F.interpolate(x, **how), F.interpolate(F.relu(x), **how)
            yield f"image, {how}", of_image
            yield f"arena, {how}", of_arena
            yield f"ended, {how}", F.relu(F.interpolate(F.relu(x), **how) + of_arena) * of_image

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        return tuple(output for _, output in self.outputs(x))


@pytest.mark.parametrize(
    ("size", "width"),
    [
        pytest.param(size, width, marks=[] if (size, width) == ((5, 4), "") else pytest.mark.slow)
        for size in FROM
        for width in WIDTHS
    ],
)
def test_scaling_equals_pytorch(size: tuple[int, int], width: str) -> None:
    torch.manual_seed(1)
    check_module(Resize(size), torch.randn(2, 4, *size), [width] if width else [])


class Scaled(nn.Module):
    def __init__(self, **options: Any) -> None:
        super().__init__()
        self.options = options

    def forward(self, x: Tensor) -> Tensor:
        return F.interpolate(F.relu(x), **self.options)


def test_a_factor_that_gives_whole_pixels_is_a_size() -> None:
    torch.manual_seed(1)
    check_module(Scaled(scale_factor=2.0, mode="bilinear"), torch.randn(1, 3, 5, 7))
    with pytest.raises(InputError, match="a factor of 1.5 for 5 pixels"):
        trace(Scaled(scale_factor=1.5, mode="bilinear"), torch.zeros(1, 3, 5, 7))


@pytest.mark.parametrize("mode", ["nearest", "bicubic", "antialias"])
def test_other_scaling_is_refused_by_name(mode: str) -> None:
    options = {"mode": "bilinear", "antialias": True} if mode == "antialias" else {"mode": mode}
    with pytest.raises(InputError, match="the planar engine does not support aten._?upsample"):
        trace(Scaled(size=(4, 4), **options), torch.zeros(1, 3, 5, 7))
