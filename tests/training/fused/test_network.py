"""Whole networks on the kernels, and which convolutions have one."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from compactnets import create_model
from compactnets.training.fused.native import missing
from compactnets.training.fused.network import FusedConv, FusedNetwork


@pytest.mark.skipif(missing() is not None, reason="no C compiler")
@pytest.mark.parametrize("name", ["muffnet_x0_5", "menet_108_8x1_g3", "shufflenetv2_x0_5", "mobilenetv2_x0_75"])
def test_a_step_is_that_of_torch(name: str) -> None:
    """As exact as torch's own in float32."""
    torch.manual_seed(0)
    model = create_model(name, num_classes=5, stem="cifar").train()
    exact, plain = copy.deepcopy(model).double(), copy.deepcopy(model)
    x, labels = torch.randn(8, 3, 24, 24), torch.arange(8) % 5
    gradients = []
    for network, runner, images in (
        (exact, exact, x.double()),
        (plain, plain, x),
        (model, FusedNetwork(model).train(), x.contiguous(memory_format=torch.channels_last)),
    ):
        F.cross_entropy(runner(images), labels).backward()
        buffers = [buffer.double().flatten() for buffer in network.buffers()]
        parameters = [parameter.grad.double().flatten() for parameter in network.parameters()]  # type: ignore[union-attr]
        gradients.append((torch.cat(parameters), torch.cat(buffers)))
    for expected, torchs, ours in zip(*gradients, strict=True):
        assert (ours - expected).norm() < 3 * (torchs - expected).norm() + 1e-6 * expected.norm()


def conv(channels: int, out: int, size: int, stride: int = 1, padding: int | None = None, **options: Any) -> nn.Conv2d:
    return nn.Conv2d(
        channels, out, size, stride, size // 2 if padding is None else padding, **{"bias": False, **options}
    )


@pytest.mark.parametrize(
    ("layer", "has_kernel"),
    [
        (conv(4, 6, 1), True),
        (conv(4, 6, 1, groups=2), True),
        (conv(4, 4, 5, 2, groups=4), True),
        (conv(4, 6, 1, bias=True), False),
        (conv(4, 6, 1, 2), False),
        (conv(4, 6, 3), False),
        (conv(4, 8, 3, groups=4), False),
        (conv(4, 4, 3, 3, groups=4), False),
        (conv(4, 4, 3, padding=0, groups=4), False),
        (conv(4, 4, 3, padding=2, dilation=2, groups=4), False),
        (conv(4, 4, 9, groups=4), False),
    ],
    ids=str,
)
def test_what_has_a_kernel(layer: nn.Conv2d, has_kernel: bool) -> None:
    assert FusedConv(layer).has_kernel is has_kernel
