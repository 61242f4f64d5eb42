"""Learned scales, trained with the weights, for quantisation-aware training.

A scale's gradient is that of learned step size quantization (LSQ; Esser et al. 2020, arXiv:1902.08153, equations 3 and
4, the gradient of a layer's scale divided by the square root of what it counts, section 2.2); what is trained is the
scale's logarithm, so that it stays positive and a step of Adam changes it by a share of itself (TQT; Jain et al. 2020,
arXiv:1903.08066, appendix B). Zero points stay where calibration put them: zero is always represented exactly.

Why learned: muffnet_x0_5 of ``compactnets quickstart``, two epochs of ``cifar/qat`` on the digits at a rate of 0.001,
one seed, ends with a validation loss of 0.034; with scales as calibrated 0.038; with those of the largest weights, and
tensors as calibrated, 0.042. Starting from minmax ranges alone: 0.023, 0.029, 0.032.

Written in plain operations: compiled, they take a sixth of the time of torch's own
``_fake_quantize_learnable_per_tensor_affine``; uncompiled, about the same (128 x 108 x 32 x 32 values forward and
backward on two cores: 29, 170 and 145 ms).
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.fx import GraphModule
from torch.nn import functional as F

from compactnets.deploy.int8.layers import (
    HIGH,
    LOW,
    SMALLEST,
    Mode,
    Quantized,
    QuantizedConv2d,
    QuantizedLinear,
    Quantizer,
)
from compactnets.deploy.int8.quantized import layers, quantizers


class LearnedQuantizer(Quantizer):
    """A quantizer in :attr:`Mode.SIMULATE` whose scale is trained; replaces ``quantizer``."""

    undecayed: ClassVar = {"log_scale": 1.0}  # weight decay of a logarithm would pull the scale towards 1

    def __init__(self, quantizer: Quantizer) -> None:
        nn.Module.__init__(self)
        self.fixed, self.enabled, self.mode, self.samples = None, True, Mode.SIMULATE, []
        self.register_buffer("zero_point", quantizer.zero_point.clone())
        self.log_scale = nn.Parameter(quantizer.scale.detach().log())
        self.compiled = False

    def forward(self, x: Tensor) -> Tensor:
        with torch.autocast(x.device.type, enabled=False):
            x = x.float()
            if not self.training:
                return torch.fake_quantize_per_tensor_affine(x, self.log_scale.exp(), self.zero_point, LOW, HIGH)
            scale = _for_training(self.log_scale, x.numel() * HIGH)
            limits = LOW - self.zero_point, HIGH - self.zero_point
            return _rounded_compiled(x, scale, *limits) if self.compiled else _rounded(x, scale, *limits)


class LearnedConv2d(QuantizedConv2d):
    """A convolution in :attr:`Mode.SIMULATE` with trained weight scales."""

    undecayed: ClassVar = {"log_scales": 1.0}
    log_scales: nn.Parameter

    def __init__(self, layer: QuantizedConv2d) -> None:
        nn.Module.__init__(self)
        _learn_layer(self, layer)

    def forward(self, x: Tensor) -> Tensor:
        return self._conv_forward(x, _weight(self), self.bias)


class LearnedLinear(QuantizedLinear):
    """A linear layer in :attr:`Mode.SIMULATE` with trained weight scales."""

    undecayed: ClassVar = {"log_scales": 1.0}
    log_scales: nn.Parameter

    def __init__(self, layer: QuantizedLinear) -> None:
        nn.Module.__init__(self)
        _learn_layer(self, layer)

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(x, _weight(self), self.bias)


def compile_rounding(quantized: GraphModule) -> None:
    """Compile the rounding of activations where it is trained, once for all quantizers of a network."""
    for module in quantized.modules():
        if isinstance(module, LearnedQuantizer):
            module.compiled = True


def learn_scales(quantized: GraphModule) -> GraphModule:
    """Make the weights, biases and scales of a quantised network trainable, in place, and return it.

    Zero points, prescribed quantizers, and averages expressed as convolutions (exact in int8) stay fixed.

    Args:
        quantized: calibrated, with every layer in int8.
    """
    for name, quantizer in list(quantizers(quantized)):
        if quantizer.fixed:
            quantizer.mode = Mode.SIMULATE
        else:
            quantized.set_submodule(name, LearnedQuantizer(quantizer))
    for name, layer in list(layers(quantized)):
        if not layer.trainable:
            layer.mode = Mode.SIMULATE
        elif isinstance(layer, QuantizedConv2d):
            quantized.set_submodule(name, LearnedConv2d(layer))
        else:
            quantized.set_submodule(name, LearnedLinear(layer))
    quantized.requires_grad_(True)
    for _, layer in layers(quantized):
        layer.requires_grad_(layer.trainable)
    return quantized


def fix_scales(quantized: GraphModule) -> GraphModule:
    """Turn the result of :func:`learn_scales` into a plain quantised network that computes the same, in place."""
    for name, quantizer in list(quantizers(quantized)):
        if isinstance(quantizer, LearnedQuantizer):
            plain = Quantizer()
            plain.scale, plain.zero_point = quantizer.log_scale.detach().exp(), quantizer.zero_point
            plain.mode = Mode.SIMULATE
            quantized.set_submodule(name, plain)
    for name, layer in list(layers(quantized)):
        if isinstance(layer, (LearnedConv2d, LearnedLinear)):
            fixed = QuantizedConv2d(layer) if isinstance(layer, LearnedConv2d) else QuantizedLinear(layer)
            fixed._parameters = {key: value for key, value in layer._parameters.items() if key != "log_scales"}
            fixed.scales, fixed.mode = _scales(layer.log_scales.detach()), Mode.SIMULATE
            fixed.high = layer.high
            quantized.set_submodule(name, fixed)
    return quantized.requires_grad_(False)


def _learn_layer(layer: LearnedConv2d | LearnedLinear, original: Quantized) -> None:
    layer.__dict__.update(original.__dict__)
    layer._buffers = {key: value for key, value in original._buffers.items() if key != "scales"}
    layer._parameters = dict(original._parameters)
    layer.log_scales = nn.Parameter(original.scales.detach().log())
    layer.mode = Mode.SIMULATE


def _weight(layer: LearnedConv2d | LearnedLinear) -> Tensor:
    with torch.autocast(layer.weight.device.type, enabled=False):
        if not layer.training:
            scales = _scales(layer.log_scales)
            zeros = torch.zeros(len(scales), dtype=torch.int32, device=scales.device)
            return torch.fake_quantize_per_channel_affine(layer.weight, scales, zeros, 0, -layer.high, layer.high)
        scales = _for_training(layer.log_scales, layer.weight[0].numel() * layer.high)
        shape = (-1, *[1] * (layer.weight.dim() - 1))
        return _rounded(layer.weight, scales.view(shape), -layer.high, layer.high)


def _scales(logarithms: Tensor) -> Tensor:
    """Return the scales of a layer's outputs; as after calibration, none is far below the others."""
    scales = logarithms.exp()
    return scales.clamp_min(scales.detach().max() * SMALLEST)


def _for_training(logarithms: Tensor, count: int) -> Tensor:
    """Return scales whose gradient is divided by the square root of ``count``, so that no layer dominates."""
    share = 1 / math.sqrt(count)
    return _scales(share * logarithms + (1 - share) * logarithms.detach())


def _rounded(x: Tensor, scale: Tensor, low: Any, high: Any) -> Tensor:
    """Round to multiples of ``scale``: gradients pass the rounding, and stop where a value is clipped."""
    steps = (x * scale.reciprocal()).clamp(low, high)
    return (steps + (steps.round() - steps).detach()) * scale


def _rounded_compiled(x: Tensor, scale: Tensor, low: Tensor, high: Tensor) -> Tensor:
    """Do the same in compiled code, on flattened numbers, so that one kernel serves every shape and layout."""
    last = x.dim() == 4 and x.is_contiguous(memory_format=torch.channels_last)
    ordered = x.permute(0, 2, 3, 1) if last else x
    rounded = _compiled()(ordered.reshape(-1), scale, low, high).view(ordered.shape)
    return rounded.permute(0, 3, 1, 2) if last else rounded


@functools.cache
def _compiled() -> Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]:
    return torch.compile(_rounded, dynamic=True)
