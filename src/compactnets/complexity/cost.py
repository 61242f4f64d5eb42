"""The result of a profile, and the convention behind its numbers."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any

from compactnets.complexity.groups import InterGroup

CONVENTION = (
    "MACs: multiply-adds of convolution and linear layers for one image, without biases (the papers call them FLOPs); "
    "1 M = 10^6. Memory: float32, 1 KiB = 1024 bytes."
)


@dataclass(frozen=True)
class LayerCost:
    """The cost of a module's own work: its ``forward`` without the modules that it calls.

    Attributes:
        name: qualified name of the module; ``""`` is the network itself.
        type: class of the module.
        output_shape: shape of its output, batch first; ``None`` if it returns no tensor or did not run.
        macs: multiply-adds of its convolutions and matrix products, per image.
        other_operations: all other arithmetic, per image, by the rule of :mod:`compactnets.complexity.operations`.
        moved_elements: elements that it copies without arithmetic (concatenation, channel shuffle), per image.
        params: elements of its own parameters.
        macs_share: its part of the network's ``macs``, between 0 and 1.
    """

    name: str
    type: str
    output_shape: tuple[int, ...] | None
    macs: int
    other_operations: int
    moved_elements: int
    params: int
    macs_share: float


@dataclass(frozen=True)
class Cost:
    """The cost of a network in inference, for one input size.

    Attributes:
        input_size: channels, height and width of the input.
        batch_size: images that ``peak_activation_bytes`` and the layers' shapes are for.
        macs: multiply-adds of convolution and linear layers, per image (:data:`CONVENTION`).
        other_operations: all other arithmetic, per image, by the rule of :mod:`compactnets.complexity.operations`.
        moved_elements: elements copied without arithmetic (concatenation, channel shuffle), per image.
        params: elements of all parameters, each counted once.
        buffers: elements of all buffers (running statistics and their counters).
        weight_bytes: parameters and buffers in memory, floating-point ones as float32.
        peak_activation_bytes: largest sum of the activation tensors that eager inference holds at once in float32, for
            the whole batch: with the input, without weights, without the scratch memory inside an operator.
        peak_layer: name of the module whose work reached that peak.
        inter_group: inter-group connections (MENet, equations 1 to 3), or ``None`` if no two grouped pointwise
            convolutions follow each other.
        layers: one entry per module with work or parameters of its own, in the order of ``named_modules``; their
            ``macs``, ``other_operations``, ``moved_elements`` and ``params`` sum to the network's.
    """

    input_size: tuple[int, int, int]
    batch_size: int
    macs: int
    other_operations: int
    moved_elements: int
    params: int
    buffers: int
    weight_bytes: int
    peak_activation_bytes: int
    peak_layer: str
    inter_group: InterGroup | None
    layers: tuple[LayerCost, ...]

    def to_dict(self) -> dict[str, Any]:
        """Return the cost as JSON-ready values, with ``convention`` stating what ``macs`` means."""
        return {"convention": CONVENTION, **_plain(dataclasses.asdict(self))}


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _plain(entry) for key, entry in value.items()}
    return [_plain(entry) for entry in value] if isinstance(value, (list, tuple)) else value
