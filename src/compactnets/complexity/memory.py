"""Which activation tensors are alive at once."""

from __future__ import annotations

import weakref
from collections.abc import Iterable
from functools import partial

import torch
from torch import Tensor


class LiveActivations:
    """Sum of the storages that are alive, and its peak.

    A storage counts once however many views it has, from the operator that creates it until PyTorch frees it because
    nothing holds it.

    Args:
        weights: tensors that never count (parameters and buffers).
    """

    def __init__(self, weights: Iterable[Tensor]) -> None:
        self.bytes = self.peak_bytes = 0
        self.peak_layer = ""
        self._weights = {tensor.untyped_storage()._cdata for tensor in weights}
        self._alive: dict[int, weakref.ref[torch.UntypedStorage]] = {}

    def add(self, tensors: Iterable[Tensor], layer: str) -> None:
        """Count the storages of ``tensors`` that are new, made by the module called ``layer``."""
        for tensor in tensors:
            storage = tensor.untyped_storage()
            key = storage._cdata
            if key in self._alive or key in self._weights:
                continue
            size = storage.nbytes()
            self._alive[key] = weakref.ref(storage, partial(self._free, key, size))
            self.bytes += size
        if self.bytes > self.peak_bytes:
            self.peak_bytes, self.peak_layer = self.bytes, layer

    def _free(self, key: int, size: int, _: object) -> None:
        del self._alive[key]
        self.bytes -= size
