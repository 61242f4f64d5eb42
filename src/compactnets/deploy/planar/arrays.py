"""Tensors as arrays of planes, and the graph that a trace builds with them.

In-place operations must be visible through every view; therefore an array holds cells, and a cell holds a plane.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from compactnets.deploy.planar.graph import Operation
from compactnets.errors import InputError


class UnsupportedError(InputError):
    """A network that the planar engine cannot express; the message says why."""


@dataclass(frozen=True)
class Weights:
    """Weights and one bias per output.

    Weights are (outputs, inputs per group, rows, columns) for a convolution, (outputs, inputs) for a dense layer. With
    ``scales``, one per output, the weights are int8 and the biases int32.
    """

    weight: np.ndarray
    bias: np.ndarray
    scales: np.ndarray | None = None


@dataclass(frozen=True)
class Scaled:
    """A constant of integers, with one scale for each entry of its first dimension."""

    integers: Tensor
    scales: Tensor

    @property
    def shape(self) -> torch.Size:
        """The constant's shape."""
        return self.integers.shape


@dataclass
class Value:
    """A tensor: an array of cells, followed by two dimensions of ``size`` if it is ``spatial``.

    Otherwise, the last dimension has the pixels of every cell's plane, one plane after the other.
    """

    cells: np.ndarray
    size: tuple[int, int]
    spatial: bool

    @property
    def shape(self) -> tuple[int, ...]:
        """The tensor's shape in PyTorch."""
        if self.spatial:
            return (*self.cells.shape, *self.size)
        return (*self.cells.shape[:-1], self.cells.shape[-1] * self.size[0] * self.size[1])


@dataclass
class Builder:
    """The graph under construction."""

    operations: list[Operation] = field(default_factory=list)
    weights: list[Weights] = field(default_factory=list)
    planes: int = 0
    cells: list[int] = field(default_factory=list)  # cell -> plane

    def new_cells(self, planes: Sequence[int]) -> np.ndarray:
        """Return an array of new cells that hold these planes."""
        first = len(self.cells)
        self.cells += planes
        return np.arange(first, first + len(planes))

    def read(self, value: Value) -> list[int]:
        """Return a tensor's current planes."""
        return [self.cells[cell] for cell in value.cells.flat]

    def add(
        self,
        kind: str,
        inputs: Sequence[int],
        outputs: int,
        size: tuple[int, int],
        weights: Weights | None = None,
        **more: Any,
    ) -> range:
        """Append an operation; return the planes it writes."""
        number = None
        if weights is not None:
            number = len(self.weights)
            self.weights.append(weights)
        made = Operation(
            kind=kind,
            inputs=tuple(inputs),
            output=self.planes,
            outputs=outputs,
            height=size[0],
            width=size[1],
            weights=number,
            **more,
        )
        self.operations.append(made)
        self.planes += outputs
        return made.made


class RefusedError(Exception):
    """An operator that the planar engine does not support; the message says in what respect."""
