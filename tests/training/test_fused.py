"""The package's own kernels: against torch in double precision, in a whole step, and in runs."""

from __future__ import annotations

import copy
import math
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from compactnets import create_model
from compactnets.classification.task import TASK
from compactnets.errors import InputError
from compactnets.training import fused
from compactnets.training.fused import FusedNetwork, Pending
from compactnets.training.interruption import Interrupted
from compactnets.training.native import kernels, missing

from .helpers import digits_part, make_tiny_recipe, stop_after

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


@pytest.mark.parametrize("size", [(2, 7, 5), (3, 1, 2), (1, 16, 16)])
def test_pooling(size: tuple[int, int, int]) -> None:
    torch.manual_seed(0)
    pooled = Layers(conv(3, 20), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(1), nn.Linear(20, 4))
    compare(pooled.train(), torch.randn(size[0], 3, *size[1:]))


def test_a_tensor_far_from_zero() -> None:
    """Statistics do not cancel."""
    torch.manual_seed(0)
    compare(Layers(conv(3, 6, 3), nn.ReLU(), conv(6, 6)).train(), torch.randn(4, 3, 8, 8) + 100)


def test_nan_is_not_hidden() -> None:
    model = Layers(conv(4, 4), nn.ReLU(), conv(4, 4), nn.ReLU()).train()
    x = torch.randn(2, 4, 4, 4).contiguous(memory_format=torch.channels_last)
    x[0, 0, 0, 0] = math.nan
    assert FusedNetwork(model).train()(x).isnan().any()


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


def test_a_pending_tensor_is_taken_by_torch() -> None:
    x = torch.randn(2, 4, 3, 3)
    pending = Pending((x,), (torch.zeros(4), torch.full((4,), 2.0), torch.ones(4)), 0.0)
    expected = (2 * x + 1).relu()
    taken: Any = pending
    torch.testing.assert_close(torch.sigmoid(taken), expected.sigmoid())
    torch.testing.assert_close(pending.flatten(1), expected.flatten(1))
    torch.testing.assert_close(pending[:, :2] * pending[:, 2:], expected[:, :2] * expected[:, 2:])
    assert pending.shape == x.shape


def run(folder: Path, **changes: Any) -> None:
    settings = {"model": "muffnet_x0_5", "batch_size": 16, "channels_last": True, **changes}
    TASK.train(make_tiny_recipe(**settings), *digits_part(48, 10), folder)


def test_a_run_that_goes_on_is_the_same_to_the_bit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    used = []

    def counted() -> Any:
        used.append(1)
        return kernels()

    monkeypatch.setattr(fused, "kernels", counted)
    run(tmp_path / "whole", kernels="own")
    assert used
    with monkeypatch.context() as patch:
        stop_after(patch, 1, signal.SIGTERM)
        with pytest.raises(Interrupted):
            run(tmp_path / "parts", kernels="own")
    run(tmp_path / "parts", kernels="own")
    whole, parts = ((tmp_path / name / "last.safetensors").read_bytes() for name in ("whole", "parts"))
    assert whole == parts


def test_other_kernels_are_announced(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with monkeypatch.context() as patch:
        stop_after(patch, 1, signal.SIGTERM)
        with pytest.raises(Interrupted):
            run(tmp_path, kernels="own")
    capsys.readouterr()
    run(tmp_path, kernels="torch")
    assert "the package's own kernels up to step 2" in " ".join(capsys.readouterr().err.split())


def test_without_a_compiler_torch_trains(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    kernels.cache_clear()
    monkeypatch.setenv("CC", "no-such-cc")
    try:
        run(tmp_path / "auto", kernels="auto")
        said = " ".join(capsys.readouterr().err.split())
        assert said.count("training with torch's kernels") == 1
        assert "no-such-cc" in said
        with pytest.raises(InputError, match="no-such-cc"):
            run(tmp_path / "own", kernels="own")
    finally:
        kernels.cache_clear()


def test_a_recipe_that_they_do_not_fit_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="channels_last"):
        run(tmp_path, kernels="own", channels_last=False)
    with pytest.raises(InputError, match="precision"):
        run(tmp_path, kernels="own", precision="bfloat16")
