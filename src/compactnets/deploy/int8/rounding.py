"""Round weights and correct biases so that each layer's output stays close to the original."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from compactnets.deploy.int8.layers import (
    Mode,
    Quantized,
    QuantizedConv2d,
)
from compactnets.deploy.int8.quantized import layers, set_mode

COLUMNS = 20_000  # positions of a layer's input used to choose its rounding
DAMPING = 0.01  # share of the mean variance, added to all, so that few positions suffice


def round_weights(network: nn.Module, images: Tensor) -> None:
    """Round the weights of every layer, each compensating for the errors of those rounded before it.

    Layer by layer, with the inputs from the already rounded layers before it: the error of one weight is spread over
    the remaining ones, weighted by how their inputs vary together (Frantar et al. 2022, GPTQ, arXiv:2210.17323, section
    3, after Hassibi and Stork's optimal brain surgeon). Afterwards, the weights are multiples of their scales.

    Args:
        network: a calibrated network; its mode is :attr:`Mode.SIMULATE` afterwards.
        images: ``(N, C, H, W)``, all at once.
    """

    def watch(layer: Quantized, name: str) -> Callable[..., None]:
        def hook(module: nn.Module, inputs: tuple[Tensor]) -> None:
            if layer.enabled:
                layer.weight.data = _rounded(layer, _columns(layer, inputs[0]))

        return hook

    set_mode(network, Mode.SIMULATE)
    _run_with_hooks(network, images, "register_forward_pre_hook", watch)


def output_means(network: nn.Module, images: Tensor) -> dict[str, Tensor]:
    """Return the mean of every output channel of every layer, (channels,), by the layer's name.

    Args:
        network: a quantised network, in the mode to measure.
        images: ``(N, C, H, W)``, all at once.
    """
    means: dict[str, Tensor] = {}

    def watch(layer: Quantized, name: str) -> Callable[..., None]:
        def hook(module: nn.Module, inputs: Any, output: Tensor) -> None:
            means[name] = _means(output)

        return hook

    _run_with_hooks(network, images, "register_forward_hook", watch)
    return means


def correct_biases(network: nn.Module, images: Tensor, wanted: Mapping[str, Tensor]) -> None:
    """Restore the mean of every layer's outputs, channel by channel.

    In the order of the network, each layer on the outputs of the corrected layers before it (Nagel et al. 2019,
    arXiv:1906.04721, section 4.2, with the means measured on images).

    Args:
        network: a calibrated network; its mode is :attr:`Mode.SIMULATE` afterwards.
        images: ``(N, C, H, W)``, all at once.
        wanted: :func:`output_means` before anything was rounded.
    """

    def watch(layer: Quantized, name: str) -> Callable[..., Tensor | None]:
        def hook(module: nn.Module, inputs: Any, output: Tensor) -> Tensor | None:
            if layer.bias is None:
                return None
            shift = wanted[name] - _means(output)
            layer.bias.data += shift
            return output + shift.view(1, -1, *[1] * (output.dim() - 2))

        return hook

    set_mode(network, Mode.SIMULATE)
    _run_with_hooks(network, images, "register_forward_hook", watch)


def _run_with_hooks(
    network: nn.Module, images: Tensor, register: str, make: Callable[[Quantized, str], Callable[..., Any]]
) -> None:
    handles = [getattr(layer, register)(make(layer, name)) for name, layer in layers(network)]
    try:
        with torch.no_grad():
            network(images)
    finally:
        for handle in handles:
            handle.remove()


def _means(output: Tensor) -> Tensor:
    return output.mean([dim for dim in range(output.dim()) if dim != 1])


def _columns(layer: Quantized, x: Tensor) -> Tensor:
    """Return the inputs of each output's product, for many positions: (groups, weights of one output, positions)."""
    if not isinstance(layer, QuantizedConv2d):
        return x.t()[None]
    columns = F.unfold(x, layer.kernel_size, layer.dilation, layer.padding, layer.stride)  # type: ignore[arg-type]
    columns = columns.unflatten(1, (layer.groups, -1)).permute(1, 2, 0, 3).flatten(2)
    if columns.shape[2] > COLUMNS:
        chosen = torch.linspace(0, columns.shape[2] - 1, COLUMNS).long()
        columns = columns[:, :, chosen]
    return columns


def _rounded(layer: Quantized, columns: Tensor) -> Tensor:
    groups, inputs, _ = columns.shape
    hessian = torch.bmm(columns, columns.transpose(1, 2)).double()
    damping = DAMPING * hessian.diagonal(dim1=1, dim2=2).mean(1) + 1e-9
    hessian += damping.view(-1, 1, 1) * torch.eye(inputs, dtype=torch.float64)
    inverse = torch.linalg.cholesky(torch.linalg.inv(hessian), upper=True)
    weight = layer.weight.data.double().view(groups, -1, inputs).clone()
    scales = layer.scales.double().view(groups, -1)
    for index in range(inputs):
        column = weight[:, :, index]
        rounded = (column / scales).round().clamp(-layer.high, layer.high) * scales
        error = (column - rounded) / inverse[:, index, index].view(-1, 1)
        weight[:, :, index] = rounded
        weight[:, :, index + 1 :] -= error[:, :, None] * inverse[:, None, index, index + 1 :]
    return weight.view_as(layer.weight).to(layer.weight.dtype)
