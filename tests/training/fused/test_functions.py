"""Every kernel against torch in double precision."""

from __future__ import annotations

import copy
import math
import platform
import shlex
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from compactnets.compiler import find_compiler
from compactnets.training.fused.native import kernels, missing
from compactnets.training.fused.network import FusedNetwork

pytestmark = pytest.mark.skipif(missing() is not None, reason="no C compiler")


class Layers(nn.Module):
    """A sequence of layers as networks have them: on this, ``FusedNetwork`` runs the kernels."""

    def __init__(self, *layers: nn.Module, forward: Callable[[Layers, Tensor], Any] | None = None) -> None:
        super().__init__()
        self.layers = nn.ModuleList(layers)
        self._forward = forward

    def forward(self, x: Any) -> Any:
        if self._forward is not None:
            return self._forward(self, x)
        for layer in self.layers:
            x = layer(x)
        return x


def conv(channels: int, out: int, size: int = 1, stride: int = 1, groups: int = 1) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(channels, out, size, stride, size // 2, groups=groups, bias=False), nn.BatchNorm2d(out)
    )


def results(model: nn.Module, runner: nn.Module, x: Tensor) -> dict[str, Tensor]:
    """The output, the gradients of a loss with respect to input and parameters, and the buffers."""
    x = x.clone(memory_format=torch.preserve_format).requires_grad_()
    y = runner(x)
    weights = torch.randn(y.shape, generator=torch.Generator().manual_seed(2), dtype=torch.float64).to(y.dtype)
    (y * weights).sum().backward()
    found = {name: parameter.grad for name, parameter in model.named_parameters()}
    return {"output": y, "input": x.grad, **found, **dict(model.named_buffers())}


def compare(model: nn.Module, x: Tensor, tolerance: float = 1e-4) -> None:
    """Fused in float32 against torch in double precision; where statistics are of few pixels, as exact as torch."""
    for norm in (module for module in model.modules() if isinstance(module, nn.BatchNorm2d)):
        nn.init.uniform_(norm.weight, -1.5, 1.5)
        nn.init.uniform_(norm.bias, -1, 1)
    exact, plain = copy.deepcopy(model).double(), copy.deepcopy(model)
    expected, torchs = results(exact, exact, x.double()), results(plain, plain, x)
    found = results(model, FusedNetwork(model).train(), x.contiguous(memory_format=torch.channels_last))
    assert expected.keys() == found.keys()
    for name, value in expected.items():
        assert value is not None
        assert found[name] is not None, name
        errors = [float((each[name].double() - value).detach().norm()) for each in (found, torchs)]
        assert errors[0] < tolerance * float(value.detach().double().norm()) + 10 * errors[1] + 1e-6, (
            f"{name}: {errors}"
        )


@pytest.mark.parametrize(
    ("channels", "out", "groups"), [(1, 1, 1), (3, 5, 1), (8, 24, 1), (17, 33, 1), (27, 54, 3), (64, 64, 1), (12, 4, 4)]
)
@pytest.mark.parametrize("size", [(2, 7, 5), (1, 1, 3), (3, 16, 16)])
def test_pointwise(channels: int, out: int, groups: int, size: tuple[int, int, int]) -> None:
    torch.manual_seed(0)
    n, height, width = size
    model = Layers(conv(channels, channels), nn.ReLU(), conv(channels, out, groups=groups), nn.ReLU6())
    compare(model.train(), torch.randn(n, channels, height, width) + 0.5)


@pytest.mark.parametrize("channels", [1, 3, 8, 20, 64])
@pytest.mark.parametrize("window", [3, 5, 7])
@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("size", [(2, 9, 6), (3, 13, 16), (2, 1, 4)])
def test_depthwise(channels: int, window: int, stride: int, size: tuple[int, int, int]) -> None:
    torch.manual_seed(0)
    n, height, width = size
    model = Layers(conv(channels, channels), nn.ReLU(), conv(channels, channels, window, stride, channels))
    compare(model.train(), torch.randn(n, channels, height, width))


def test_sums_splits_and_concatenations() -> None:
    """Read by several kernels and by torch: every gradient is added up, once."""

    def forward(self: Layers, x: Tensor) -> Tensor:
        first, second, third, fourth, fifth = self.layers
        x = F.relu(first(x))
        a, b, c = torch.split(x, [5, 3, 4], dim=1)
        d = F.relu(second(torch.cat((c, a), dim=1)))
        e = F.relu(third(torch.cat((c, b), dim=1)))
        both = F.relu(fourth(a) + fourth(a))
        joined = torch.cat((d, e, both), dim=1)
        narrow = F.avg_pool2d(joined, 3, 1, 1) + fifth(joined)
        return torch.relu(narrow + joined) * torch.sigmoid(c.mean((1, 2, 3), keepdim=True))

    torch.manual_seed(0)
    layers = (conv(6, 12), conv(9, 4), conv(7, 6, 1), conv(5, 5, 3, 1, 5), conv(15, 15, 5, 1, 15))
    compare(Layers(*layers, forward=forward).train(), torch.randn(4, 6, 8, 8))


@pytest.mark.parametrize("groups", [1, 3])
@pytest.mark.parametrize("depthwise", [False, True])
def test_parts_of_any_size(groups: int, depthwise: bool) -> None:
    """Parts shorter and longer than a vector, and of one channel, across the groups' borders."""
    sizes = [1, 17, 2, 33, 5, 1, 4]  # 63 channels

    def forward(self: Layers, x: Tensor) -> Tensor:
        before, after = self.layers
        parts = torch.split(before(x), sizes, dim=1)
        again = torch.cat([parts[index] for index in (3, 0, 6, 1, 4, 2, 5)], dim=1)
        return F.relu(after(F.relu(again))) + F.relu(after(F.relu(torch.cat(parts, dim=1))))

    torch.manual_seed(0)
    channels = sum(sizes)
    after = conv(channels, channels, 3, 1, channels) if depthwise else conv(channels, 21, groups=groups)
    compare(Layers(conv(4, channels), after, forward=forward).train(), torch.randn(3, 4, 9, 7))


@pytest.mark.skipif(platform.machine() not in ("x86_64", "AMD64"), reason="options of x86")
@pytest.mark.parametrize("without", [["-mno-avx512f"], ["-mno-avx512f", "-mno-avx"]], ids=["AVX2", "SSE"])
def test_with_narrower_vectors(without: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """What another processor compiles is as exact."""
    monkeypatch.setenv("CC", shlex.join([*find_compiler(), *without]))
    kernels.cache_clear()
    try:
        test_parts_of_any_size(3, depthwise=False)
        test_depthwise(20, 5, 2, (3, 13, 16))
        test_pointwise(17, 33, 1, (2, 7, 5))
        test_pooling((2, 7, 5))
    finally:
        kernels.cache_clear()


@pytest.mark.parametrize("size", [(2, 7, 5), (3, 1, 2), (1, 16, 16)])
def test_pooling(size: tuple[int, int, int]) -> None:
    torch.manual_seed(0)
    pooled = Layers(conv(3, 20), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(1), nn.Linear(20, 4))
    compare(pooled.train(), torch.randn(size[0], 3, *size[1:]))


def test_a_tensor_far_from_zero() -> None:
    """Statistics do not cancel."""
    torch.manual_seed(0)
    compare(Layers(conv(3, 6, 3), nn.ReLU(), conv(6, 6)).train(), torch.randn(4, 3, 8, 8) + 100)


def test_what_follows_a_frozen_convolution_learns() -> None:
    """Its normalisation has gradients though what it normalises has none."""
    torch.manual_seed(0)
    model = Layers(conv(3, 6, 3), nn.ReLU(), conv(6, 6), nn.ReLU(), nn.AdaptiveAvgPool2d(1)).train()
    model.layers[0][0].weight.requires_grad_(False)  # type: ignore[index]
    plain = copy.deepcopy(model)
    x = torch.randn(2, 3, 8, 8).contiguous(memory_format=torch.channels_last)
    for runner in (plain, FusedNetwork(model).train()):
        (runner(x) * torch.arange(1.0, 7)[:, None, None]).sum().backward()
    for name in ("layers.0.1.weight", "layers.0.1.bias"):
        torch.testing.assert_close(model.get_parameter(name).grad, plain.get_parameter(name).grad, rtol=1e-3, atol=1e-4)


def test_nan_is_not_hidden() -> None:
    model = Layers(conv(4, 4), nn.ReLU(), conv(4, 4), nn.ReLU()).train()
    x = torch.randn(2, 4, 4, 4).contiguous(memory_format=torch.channels_last)
    x[0, 0, 0, 0] = math.nan
    assert FusedNetwork(model).train()(x).isnan().any()


def test_it_does_not_depend_on_threads() -> None:
    found = []
    before = torch.get_num_threads()
    try:
        for threads in (1, 2, 3):
            torch.set_num_threads(threads)
            torch.manual_seed(0)
            model = Layers(conv(8, 12), nn.ReLU(), conv(12, 12, 5, 2, 12), nn.ReLU(), conv(12, 6)).train()
            x = torch.randn(5, 8, 12, 12).contiguous(memory_format=torch.channels_last)
            found.append(results(model, FusedNetwork(model).train(), x))
    finally:
        torch.set_num_threads(before)
    for other in found[1:]:
        assert all(torch.equal(value, other[name]) for name, value in found[0].items())
