"""What a processor is given computes what the network computes, and frees nothing that it needs again."""

from __future__ import annotations

import subprocess
import sys

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from compactnets import create_model
from compactnets.training.cpu import Float32, RowBatchNorm, optimize_for_cpu

NETWORKS = ("menet_108_8x1_g3", "muffnet_x0_5", "mobilenetv2_x0_75", "mobilenetv2_x1_0", "shufflenetv2_x0_5")


def filled(norm: nn.BatchNorm2d) -> nn.BatchNorm2d:
    generator = torch.Generator().manual_seed(0)
    for tensor in (norm.weight, norm.bias, norm.running_mean, norm.running_var):
        assert tensor is not None
        tensor.data.uniform_(0.5, 1.5, generator=generator)
    return norm


def images(*shape: int) -> Tensor:
    generator = torch.Generator().manual_seed(1)
    return torch.randn(shape, generator=generator, dtype=torch.float64).contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize("name", NETWORKS)
def test_form_computes_what_the_network_computes(name: str) -> None:
    """Loss, every gradient and every running statistic, in double precision."""
    results = []
    for replaced in (False, True):
        torch.manual_seed(0)
        model = create_model(name, num_classes=5, stem="cifar").double().train()
        form = optimize_for_cpu(model, half=False, compiled=True) if replaced else model
        assert any(isinstance(module, RowBatchNorm) for module in form.modules()) == replaced
        logits = form(images(4, 3, 16, 16))
        F.cross_entropy(logits, torch.arange(4)).backward()
        gradients = {key: parameter.grad for key, parameter in model.named_parameters()}
        results.append({"logits": logits, **gradients, **dict(model.named_buffers())})
    expected, found = results
    assert expected.keys() == found.keys()
    for key, value in expected.items():
        assert value is not None
        torch.testing.assert_close(found[key], value, rtol=1e-7, atol=1e-9, msg=lambda text, key=key: f"{key}: {text}")


def test_bfloat16_gradients_of_dilated_convolutions_are_numbers() -> None:
    """PyTorch's own read freed memory, which is filled with NaN here."""
    conv = nn.Conv2d(24, 24, 3, padding=2, dilation=2, groups=24).to(memory_format=torch.channels_last)
    form = optimize_for_cpu(nn.Sequential(conv), half=True, compiled=False)
    x = images(4, 24, 23, 30).float()
    for _ in range(3):
        used = [torch.full((kibibytes << 8,), torch.nan) for kibibytes in (4, 20, 100, 500, 1000, 4000) for _ in "123"]
        del used
        with torch.autocast("cpu", dtype=torch.bfloat16):
            form(x).float().square().mean().backward()
        assert conv.weight.grad is not None
        assert conv.weight.grad.isfinite().all()
        conv.weight.grad = None


def test_form_shares_and_leaves_the_network() -> None:
    model = create_model("muffnet_x0_5", num_classes=5, stem="cifar").train()
    kinds = [type(module) for module in model.modules()]
    form = optimize_for_cpu(model, half=True, compiled=True)
    assert [type(module) for module in model.modules()] == kinds
    assert {id(p) for p in form.parameters()} == {id(p) for p in model.parameters()}
    assert {id(b) for b in form.buffers()} == {id(b) for b in model.buffers()}
    slow = [module.layer for module in form.modules() if isinstance(module, Float32)]
    assert slow
    assert all(conv.kernel_size == (5, 5) or conv.stride == (2, 2) for conv in slow)
    assert not any(isinstance(m, RowBatchNorm) for m in optimize_for_cpu(model, half=True, compiled=False).modules())


@pytest.mark.parametrize("limit", [None, float("inf"), 1.0])
@pytest.mark.parametrize("shape", [(4, 3, 16, 5), (3, 1, 5, 7), (1, 6, 3, 1)])
def test_row_batch_norm(shape: tuple[int, int, int, int], limit: float | None) -> None:
    norms = [filled(nn.BatchNorm2d(shape[1], momentum=0.3).double()) for _ in range(2)]
    inputs = [images(*shape).requires_grad_() for _ in range(2)]
    expected, found = norms[0](inputs[0]), RowBatchNorm(norms[1], limit)(inputs[1])
    if limit is not None:
        expected = expected.clamp(0, limit)
    upstream = images(*shape).flip(0)
    for y in (expected, found):
        y.backward(upstream)
    torch.testing.assert_close(found, expected)
    torch.testing.assert_close(inputs[1].grad, inputs[0].grad)
    for key, value in norms[0].state_dict().items():
        torch.testing.assert_close(norms[1].state_dict()[key], value)
    torch.testing.assert_close(norms[1].weight.grad, norms[0].weight.grad)
    torch.testing.assert_close(norms[1].bias.grad, norms[0].bias.grad)


def test_row_batch_norm_far_from_zero() -> None:
    """A mean a thousand times the deviation costs no digits."""
    x = (images(8, 6, 8, 8) + 1000).float()
    norm, other = nn.BatchNorm2d(6), nn.BatchNorm2d(6)
    torch.testing.assert_close(RowBatchNorm(norm)(x), other(x), rtol=1e-3, atol=1e-3)
    torch.testing.assert_close(norm.running_var, other.running_var, rtol=1e-4, atol=0)


def test_row_batch_norm_keeps_float32_statistics() -> None:
    x = images(8, 6, 8, 8).bfloat16()
    norm, exact = nn.BatchNorm2d(6), nn.BatchNorm2d(6).double()
    assert RowBatchNorm(norm)(x).dtype == torch.bfloat16
    exact(x.double())
    torch.testing.assert_close(norm.running_mean.double(), exact.running_mean, rtol=1e-6, atol=1e-7)


def test_float32_is_outside_autocast() -> None:
    conv = nn.Conv2d(4, 4, 3, 2, padding=1, groups=4)
    x = torch.randn(2, 4, 8, 8)
    with torch.autocast("cpu", torch.bfloat16):
        assert conv(x).dtype == torch.bfloat16
        y = Float32(conv)(x.bfloat16())
    assert y.dtype == torch.float32
    torch.testing.assert_close(y, conv(x.bfloat16().float()))


FAULTS = """
import resource, torch
from compactnets.training.cpu import keep_freed_memory
if {keep} and not keep_freed_memory():
    raise SystemExit(3)
def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    torch.ones(16 << 20)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before
faults()
print(min(faults() for _ in range(3)))
"""


@pytest.mark.slow
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="glibc only")
def test_freed_memory_is_kept() -> None:
    """64 MiB again and again: mapped anew each time by default, and not at all after the call."""
    counts = []
    for keep in (False, True):
        done = subprocess.run([sys.executable, "-c", FAULTS.format(keep=keep)], capture_output=True, text=True)
        if done.returncode == 3:
            pytest.skip("another C library than glibc")
        counts.append(int(done.stdout))
    assert counts[1] < 100 < counts[0]
