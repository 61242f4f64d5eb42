"""Compute an int8 network slowly, channel by channel: the kernels have to give the same, bit for bit."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch.nn import functional as F

from compactnets.deploy.planar.graph import Graph, Numbers, Operation
from compactnets.deploy.planar.integers import Layer, to_bytes


def interpret(graph: Graph, layers: Sequence[Layer], images: np.ndarray) -> np.ndarray:
    """Run an int8 network on (N, C, H, W) float32; return (N, outputs) float32."""
    planes = interpret_planes(graph, layers, images)
    return np.concatenate([planes[plane].reshape(len(images), -1) for plane in graph.results], 1)


def interpret_planes(graph: Graph, layers: Sequence[Layer], images: np.ndarray) -> list[np.ndarray]:
    """Return every plane: (N, H, W) uint8, or float32 for those of the image and of the last layer."""
    planes: list[np.ndarray] = [np.asarray(images, np.float32)[:, channel] for channel in range(graph.channels)]
    for each in graph.operations:
        planes += interpret_operation(each, layers, planes)
    return planes


def interpret_operation(each: Operation, layers: Sequence[Layer], planes: Sequence[np.ndarray]) -> list[np.ndarray]:
    """Return the planes that one operation makes of the planes before it."""
    layer = None if each.weights is None else layers[each.weights]
    inputs = np.stack([planes[plane] for plane in each.inputs], 1)
    others = [planes[plane] for plane in (*each.times, *each.plus)]
    made = _computed(each, layer, inputs, np.stack(others, 1) if others else None)
    return [made[:, channel] for channel in range(each.outputs)]


def _computed(each: Operation, layer: Layer | None, inputs: np.ndarray, others: np.ndarray | None) -> np.ndarray:
    numbers = each.numbers
    assert numbers is not None
    if each.kind == "quantize":
        return to_bytes(inputs * _factor(numbers), numbers)
    if each.kind == "lookup":
        assert layer is not None
        return layer.weight[inputs]
    if each.kind == "maximum":
        return _windows(each, inputs, numbers.zeros[0]).max(axis=-1)
    if each.kind in ("convolution", "dense"):
        assert layer is not None
        sums = _sums(each, layer, inputs, numbers)
        values = sums.astype(np.float32) * layer.factors.reshape(1, -1, 1, 1)
        return values if each.kind == "dense" else to_bytes(values, numbers)
    if each.plus:
        assert others is not None
        assert numbers.terms is not None
        first, second, third, shift = numbers.terms
        sums = inputs.astype(np.int64) * first + others.astype(np.int64) * second + third
        return to_bytes((sums >> shift).astype(np.float32), numbers)
    values = inputs.astype(np.int64) - numbers.zeros[0]
    if each.kind == "mean":
        values = values.sum((2, 3), keepdims=True)
    else:
        assert others is not None
        values = values * (others.astype(np.int64) - numbers.zeros[1])
    return to_bytes(values.astype(np.float32) * _factor(numbers), numbers)


def _factor(numbers: Numbers) -> np.float32:
    assert numbers.factor is not None
    return np.float32(numbers.factor)


def _sums(each: Operation, layer: Layer, inputs: np.ndarray, numbers: Numbers) -> np.ndarray:
    """Return the sums of a convolution or dense layer as exact integers."""
    weight, bias = layer.weight.astype(np.float64), layer.bias.astype(np.float64)
    if each.kind == "dense":
        sums = inputs.reshape(len(inputs), -1).astype(np.float64) @ weight.reshape(len(weight), -1).T + bias
        return sums.astype(np.int64)[:, :, None, None]
    padded = _padded(each, inputs, numbers.zeros[0])
    found = F.conv2d(
        torch.from_numpy(padded.astype(np.float64)),
        torch.from_numpy(weight),
        torch.from_numpy(bias),
        each.stride,
        dilation=each.dilation,
        groups=each.groups,
    )
    return found[:, :, : each.height, : each.width].numpy().astype(np.int64)


def _padded(each: Operation, inputs: np.ndarray, margin: int) -> np.ndarray:
    """Return the inputs with margins on all sides, as far as the windows reach."""
    ends = []
    for axis, start in enumerate((each.top, each.left)):
        reach = ((each.height, each.width)[axis] - 1) * each.stride[axis] + each.reach[axis]
        ends.append((start, max(0, reach - start - inputs.shape[2 + axis])))
    return np.pad(inputs, ((0, 0), (0, 0), *ends), constant_values=margin)


def _windows(each: Operation, inputs: np.ndarray, margin: int) -> np.ndarray:
    """Return the values of every window: (N, C, H, W, places)."""
    padded = _padded(each, inputs, margin)
    found = []
    for y in range(0, each.reach[0], each.dilation[0]):
        for x in range(0, each.reach[1], each.dilation[1]):
            rows = slice(y, y + (each.height - 1) * each.stride[0] + 1, each.stride[0])
            columns = slice(x, x + (each.width - 1) * each.stride[1] + 1, each.stride[1])
            found.append(padded[:, :, rows, columns])
    return np.stack(found, -1)
