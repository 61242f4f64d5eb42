"""Analyse the error of a quantised network: per tensor, and which parts are worth keeping in float."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn
from torch.fx import GraphModule

from compactnets.deploy.int8.graph import module_of
from compactnets.deploy.int8.layers import (
    Mode,
    QuantizedConv2d,
    QuantizedLinear,
    Quantizer,
)
from compactnets.deploy.int8.quantized import layers, quantizers, set_mode


def layer_errors(network: nn.Module, reference: nn.Module, images: Tensor) -> list[dict[str, Any]]:
    """Compare every layer's output with that of the float network, including errors of earlier layers.

    Args:
        network: a calibrated network; its mode is :attr:`Mode.SIMULATE` afterwards.
        reference: the same network, before its weights were rounded and its biases corrected; :attr:`Mode.OFF`.
        images: ``(N, C, H, W)``, all at once.

    Returns:
        per layer ``layer``, ``signal_to_noise_db`` (10 log10 of the mean squares of signal and difference), ``int8``.
    """
    set_mode(network, Mode.SIMULATE)
    expected, found = _outputs(reference, images), _outputs(network, images)
    rows = []
    for name, layer in layers(network):
        noise = float((found[name] - expected[name]).square().mean())
        signal = float(expected[name].square().mean())
        decibels = 10 * math.log10(signal / noise) if signal and noise else None
        rows.append({"layer": name, "signal_to_noise_db": decibels, "int8": layer.enabled})
    return rows


def _outputs(network: nn.Module, images: Tensor) -> dict[str, Tensor]:
    outputs: dict[str, Tensor] = {}

    def keep(name: str) -> Any:
        return lambda module, inputs, output: outputs.__setitem__(name, output)

    handles = [layer.register_forward_hook(keep(name)) for name, layer in layers(network)]
    with torch.inference_mode():
        network(images)
    for handle in handles:
        handle.remove()
    return outputs


def sensitivities(network: GraphModule, images: Tensor) -> list[tuple[str, float]]:
    """Quantise one tensor, or the weights of one layer, at a time, and measure the effect on the logits.

    Returns:
        (name of the quantizer or layer, root mean square of the difference as a share of the logits' standard
        deviation), worst first.
    """
    parts: list[tuple[str, Any]] = [*quantizers(network), *layers(network)]
    set_mode(network, Mode.OFF)
    found = []
    with torch.inference_mode():
        expected = network(images)
        for name, part in parts:
            part.mode = Mode.SIMULATE
            found.append((name, relative_error(expected, network(images))))
            part.mode = Mode.OFF
    set_mode(network, Mode.SIMULATE)
    return sorted(found, key=lambda pair: -pair[1])


def relative_error(expected: Tensor, found: Tensor) -> float:
    """Return the root mean square of the difference as a share of the expected standard deviation."""
    return float((found - expected).square().mean().sqrt() / expected.std().clamp_min(1e-12))


def keep_float(network: GraphModule, name: str) -> None:
    """Leave a tensor and the layers that make and read it in float, or the weights of one layer."""
    part = network.get_submodule(name)
    if isinstance(part, (QuantizedConv2d, QuantizedLinear)):
        part.enabled = False
        return
    assert isinstance(part, Quantizer)
    part.enabled = False
    for node in network.graph.nodes:
        if node.op != "call_module" or node.target != name:
            continue
        near = [*node.users, node.args[0]]
        if isinstance(module_of(network, node.args[0]), (nn.ReLU, nn.ReLU6)):
            near.append(node.args[0].args[0])
        for neighbour in near:
            layer = module_of(network, neighbour)
            if isinstance(layer, (QuantizedConv2d, QuantizedLinear)):
                layer.enabled = False
