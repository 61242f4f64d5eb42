"""Layers that simulate int8 arithmetic in float, for calibration, training and export."""

from __future__ import annotations

import enum

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from compactnets.deploy.int8.operators import DEQUANTIZE_CHANNELS

LOW, HIGH = -128, 127  # of an activation
WEIGHT_HIGH = {8: 127, 7: 64}  # by their bits; weights are symmetric: their zero is 0
SMALLEST = 1e-4  # scale of an output channel, as a share of the layer's largest
BIAS_HIGH = 1 << 28  # the sum of a bias and the products stays below 2^31


class Mode(enum.Enum):
    """What a quantizer does with its input."""

    OFF = "off"
    OBSERVE = "observe"  # keep a sample of the values
    SIMULATE = "simulate"  # round to what int8 can hold; gradients pass where nothing was clipped
    EXPORT = "export"  # of a layer: the same with the operators that runtimes recognise


class Quantizer(nn.Module):
    """Rounds a tensor of any shape to ``scale * (q - zero_point)`` with q from -128 to 127 (affine, per tensor).

    Attributes:
        enabled: whether the tensor is quantised; if not, it is dropped on export.
        fixed: (scale, zero point) if runtimes prescribe them, as for a sigmoid's output.
        samples: values kept by :attr:`Mode.OBSERVE`.
    """

    scale: Tensor
    zero_point: Tensor

    def __init__(self, fixed: tuple[float, int] | None = None) -> None:
        super().__init__()
        self.fixed = fixed
        self.enabled = True
        self.mode = Mode.OFF
        self.samples: list[Tensor] = []
        self.register_buffer("scale", torch.tensor(fixed[0] if fixed else 1.0))
        self.register_buffer("zero_point", torch.tensor(fixed[1] if fixed else 0, dtype=torch.int32))

    def set_range(self, low: float, high: float) -> None:
        """Set the range from ``low`` to ``high``; it always includes 0, which is represented exactly."""
        if self.fixed:
            return
        low, high = min(low, 0.0), max(high, 0.0)
        scale = max(high - low, 1e-6) / (HIGH - LOW)
        self.scale.fill_(scale)
        self.zero_point.fill_(max(LOW, min(HIGH, round(LOW - low / scale))))

    def numbers(self, *, unsigned: bool) -> tuple[float, int, int, int, torch.dtype]:
        """Return scale, zero point, lowest and highest integer and their type, as operators take them."""
        shift = -LOW if unsigned else 0
        dtype = torch.uint8 if unsigned else torch.int8
        return float(self.scale), int(self.zero_point) + shift, LOW + shift, HIGH + shift, dtype

    @property
    def non_negative(self) -> bool:
        """Whether everything below zero becomes zero, so that a preceding ReLU is redundant."""
        return int(self.zero_point) == LOW

    def forward(self, x: Tensor) -> Tensor:
        if not self.enabled or self.mode is Mode.OFF:
            return x
        if self.mode is Mode.OBSERVE:
            self._observe(x)
            return x
        return torch.fake_quantize_per_tensor_affine(x, self.scale, self.zero_point, LOW, HIGH)

    def _observe(self, x: Tensor, kept: int = 1 << 15) -> None:
        values = x.detach().flatten()
        extremes = torch.stack([values.min(), values.max()])
        if len(values) > kept:
            values = values[torch.randint(len(values), (kept,))]
        self.samples.append(torch.cat([extremes, values]))


class AveragingConv2d(nn.Conv2d):
    """An average pooling expressed as a convolution, with equal weights that are never trained."""


class QuantizedConv2d(nn.Conv2d):
    """A convolution whose weights are int8, one scale for every output channel (symmetric: zero is 0)."""

    mode: Mode
    enabled: bool
    trainable: bool
    high: int
    scales: Tensor

    def __init__(self, layer: nn.Conv2d) -> None:
        nn.Module.__init__(self)
        _take(self, layer)

    def forward(self, x: Tensor) -> Tensor:
        return self._conv_forward(x, _weight(self), _bias(self))


class QuantizedLinear(nn.Linear):
    """A linear layer whose weights are int8, one scale for every output."""

    mode: Mode
    enabled: bool
    trainable: bool
    high: int
    scales: Tensor

    def __init__(self, layer: nn.Linear) -> None:
        nn.Module.__init__(self)
        _take(self, layer)

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(x, _weight(self), _bias(self))


Quantized = QuantizedConv2d | QuantizedLinear


def _take(layer: Quantized, original: nn.Conv2d | nn.Linear) -> None:
    """Take over ``original``, with an additional scale for every output."""
    layer.__dict__.update(original.__dict__)
    layer._buffers = dict(original._buffers)
    layer.high = WEIGHT_HIGH[8]
    weight = original.weight.detach()
    scales = weight.flatten(1).abs().amax(1) / layer.high
    # keep no scale far below the others: it adds nothing, and runtimes apply scales in fixed point
    layer.register_buffer("scales", scales.clamp_min(max(float(scales.max()) * SMALLEST, 1e-12)))
    layer.mode = Mode.OFF
    layer.enabled = True
    layer.trainable = not isinstance(original, AveragingConv2d)


def limit_weights(layer: Quantized, bits: int) -> None:
    """Give the weights of a layer this number of bits; their range stays what it is."""
    high = WEIGHT_HIGH[bits]
    layer.scales = layer.scales * (layer.high / high)
    layer.high = high


def _weight(layer: Quantized) -> Tensor:
    if not layer.enabled or layer.mode in (Mode.OFF, Mode.OBSERVE):
        return layer.weight
    if layer.mode is Mode.SIMULATE:
        zeros = torch.zeros(len(layer.scales), dtype=torch.int32, device=layer.scales.device)
        return torch.fake_quantize_per_channel_affine(layer.weight, layer.scales, zeros, 0, -layer.high, layer.high)
    return DEQUANTIZE_CHANNELS(layer.integers, layer.scales, layer.zeros, 0, -layer.high, layer.high, torch.int8)


def _bias(layer: Quantized) -> Tensor | None:
    if layer.mode is not Mode.EXPORT or not hasattr(layer, "bias_integers"):
        return layer.bias
    limits = torch.iinfo(torch.int32)
    return DEQUANTIZE_CHANNELS(layer.bias_integers, layer.bias_scales, None, 0, limits.min, limits.max, torch.int32)


def freeze_layer(layer: Quantized, input_scale: float | None, *, integer_bias: bool, small: bool) -> None:
    """Round the weights permanently: the layer then holds int8 numbers and is in :attr:`Mode.EXPORT`.

    Args:
        layer: a layer; it keeps its weights if not enabled.
        input_scale: scale of the layer's input; ``None`` if it is not quantised.
        integer_bias: whether the bias becomes int32 as well.
        small: whether to omit zero points, which are all 0.
    """
    layer.mode = Mode.EXPORT
    if not layer.enabled:
        return
    weight = layer.weight.detach()
    if input_scale is not None and layer.bias is not None:
        # runtimes store the bias in units of both scales: with tiny weights it would not fit into int32
        layer.scales = torch.maximum(layer.scales, layer.bias.detach().abs() / (input_scale * BIAS_HIGH))
    scales = layer.scales.view(-1, *[1] * (weight.dim() - 1))
    integers = (weight / scales).round().clamp(-layer.high, layer.high).to(torch.int8)
    layer.register_buffer("integers", integers)
    # XNNPACK looks for the zero points; ONNX takes none for 0, which is smaller
    layer.register_buffer("zeros", None if small else torch.zeros(len(weight), dtype=torch.int64))
    layer.weight = None  # type: ignore[assignment]
    if integer_bias and input_scale is not None and layer.bias is not None:
        bias_scales = layer.scales * input_scale
        layer.register_buffer("bias_integers", (layer.bias.detach() / bias_scales).round().to(torch.int32))
        layer.register_buffer("bias_scales", bias_scales)
        layer.bias = None


def one_group(layer: QuantizedConv2d, group: int) -> QuantizedConv2d:
    """Return one group of a frozen grouped convolution as a convolution of its own."""
    plain = nn.Conv2d(
        layer.in_channels // layer.groups,
        layer.out_channels // layer.groups,
        layer.kernel_size,  # type: ignore[arg-type]
        layer.stride,  # type: ignore[arg-type]
        layer.padding,  # type: ignore[arg-type]
        bias=False,
    )
    part = QuantizedConv2d(plain)
    part.mode, part.enabled, part.high = layer.mode, layer.enabled, layer.high
    part.register_buffer("zeros", None)
    rows = slice(group * plain.out_channels, (group + 1) * plain.out_channels)
    for name in ("integers", "scales", "zeros", "bias_integers", "bias_scales"):
        if getattr(layer, name, None) is not None:
            part.register_buffer(name, getattr(layer, name)[rows].clone())
    for name in ("weight", "bias"):
        values = getattr(layer, name)
        setattr(part, name, None if values is None else nn.Parameter(values[rows].clone(), requires_grad=False))
    return part
