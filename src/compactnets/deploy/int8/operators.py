"""The operators that a frozen int8 network quantises with, and how each format writes them.

They are operators of our own because a private module alone registers PyTorch's (``quantized_decomposed``). They take
the same arguments, so that one can stand for the other.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.fx import Graph


@torch.library.custom_op("compactnets::quantize", mutates_args=())
def quantize(x: Tensor, scale: float, zero_point: int, low: int, high: int, dtype: torch.dtype) -> Tensor:
    """Return ``x / scale + zero_point``, rounded and limited to ``low`` to ``high``, as integers of ``dtype``."""
    return (x * (1 / scale)).round().add(zero_point).clamp(low, high).to(dtype)


@torch.library.custom_op("compactnets::dequantize", mutates_args=())
def dequantize(q: Tensor, scale: float, zero_point: int, low: int, high: int, dtype: torch.dtype) -> Tensor:
    """Return ``scale * (q - zero_point)`` in float32."""
    return (q.to(torch.float32) - zero_point) * scale


@torch.library.custom_op("compactnets::dequantize_channels", mutates_args=())
def dequantize_channels(
    q: Tensor, scales: Tensor, zeros: Tensor | None, axis: int, low: int, high: int, dtype: torch.dtype
) -> Tensor:
    """Return ``scales * (q - zeros)`` in float32, with a scale for each place of an axis; ``zeros`` may be omitted."""
    shape = [1] * q.dim()
    shape[axis] = -1
    values = q.to(torch.float32)
    return (values if zeros is None else values - zeros.view(shape)) * scales.view(shape)


@quantize.register_fake
def _(x: Tensor, scale: float, zero_point: int, low: int, high: int, dtype: torch.dtype) -> Tensor:
    return torch.empty_like(x, dtype=dtype)


@dequantize.register_fake
def _(q: Tensor, scale: float, zero_point: int, low: int, high: int, dtype: torch.dtype) -> Tensor:
    return torch.empty_like(q, dtype=torch.float32)


@dequantize_channels.register_fake
def _(q: Tensor, scales: Tensor, zeros: Tensor | None, axis: int, low: int, high: int, dtype: torch.dtype) -> Tensor:
    return torch.empty_like(q, dtype=torch.float32)


QUANTIZE = torch.ops.compactnets.quantize.default
DEQUANTIZE = torch.ops.compactnets.dequantize.default
DEQUANTIZE_CHANNELS = torch.ops.compactnets.dequantize_channels.default


def onnx_translations() -> dict[Callable[..., Any], Callable[..., Any]]:
    """Return how torch's exporter to ONNX writes the operators: as QuantizeLinear and DequantizeLinear."""
    import onnx
    from onnxscript import opset18 as op

    kinds = {torch.uint8: onnx.TensorProto.UINT8, torch.int8: onnx.TensorProto.INT8}

    def number(scale: float, zero_point: int, dtype: Any) -> tuple[Any, Any]:
        scalar = onnx.helper.make_tensor("scale", onnx.TensorProto.FLOAT, (), [scale])
        zero = onnx.helper.make_tensor("zero_point", kinds.get(dtype, dtype), (), [zero_point])
        return op.Constant(value=scalar), op.Constant(value=zero)

    def quantize(x: Any, scale: float, zero_point: int, low: int, high: int, dtype: Any) -> Any:
        return op.QuantizeLinear(x, *number(scale, zero_point, dtype))

    def dequantize(q: Any, scale: float, zero_point: int, low: int, high: int, dtype: Any) -> Any:
        return op.DequantizeLinear(q, *number(scale, zero_point, dtype))

    def dequantize_channels(q: Any, scales: Any, zeros: Any, axis: int, low: int, high: int, dtype: Any) -> Any:
        return op.DequantizeLinear(q, scales, zeros, axis=axis) if zeros else op.DequantizeLinear(q, scales, axis=axis)

    return {QUANTIZE: quantize, DEQUANTIZE: dequantize, DEQUANTIZE_CHANNELS: dequantize_channels}


def use_pytorch_operators(graph: Graph) -> None:
    """Replace the operators by PyTorch's, in place, which XNNPACK's partitioner looks for.

    They must be registered, as importing ExecuTorch does.
    """
    theirs = torch.ops.quantized_decomposed
    standing = {
        QUANTIZE: theirs.quantize_per_tensor.default,
        DEQUANTIZE: theirs.dequantize_per_tensor.default,
        DEQUANTIZE_CHANNELS: theirs.dequantize_per_channel.default,
    }
    for node in graph.nodes:
        if node.op == "call_function" and node.target in standing:
            node.target = standing[node.target]
