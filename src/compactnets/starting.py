"""Load torch's compiler when something is compiled, not when timm and torchvision are imported.

They name it at the top of modules: ``torchvision.ops.roi_align`` for a rare case of its function, ``timm.models`` and
``torchvision.tv_tensors`` to decorate functions. It takes longer to import than both of them, and only compiling,
exporting and training need it.
"""

from __future__ import annotations

import importlib
import sys
import types
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch

try:
    from torch._compile import _disable_dynamo
except ImportError:  # it is torch's own: a version without it imports the compiler earlier, and works as well
    _disable_dynamo = None  # type: ignore[assignment]

COMPILER = "torch._dynamo"
ASKED = f"{COMPILER}.utils"


class _StandIn(types.ModuleType):
    """A module whose every attribute is that of the real one, which the first of them imports."""

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):  # asked by the import system, of every module
            raise AttributeError(name)
        for each in (COMPILER, ASKED):
            if isinstance(sys.modules.get(each), _StandIn):
                del sys.modules[each]
        return getattr(importlib.import_module(self.__name__), name)


def _is_compile_supported(device_type: str) -> Any:
    """What torchvision takes from the compiler when it is imported, and calls later if at all."""
    return importlib.import_module(ASKED).is_compile_supported(device_type)


def _disable(function: Callable[..., Any] | None = None, recursive: bool = True, *, reason: str | None = None) -> Any:
    """torch's own form of ``torch.compiler.disable`` that imports the compiler at the first call of the function."""
    return _disable_dynamo(function, recursive)


@contextmanager
def without_the_compiler() -> Iterator[None]:
    """Import torchvision and timm without ``torch._dynamo``; where it is loaded already, this has no effect."""
    if COMPILER in sys.modules:
        yield
        return
    stand_ins = {name: _StandIn(name) for name in (COMPILER, ASKED)}
    stand_ins[ASKED].is_compile_supported = _is_compile_supported  # type: ignore[attr-defined]
    disable = torch.compiler.disable
    sys.modules.update(stand_ins)
    if _disable_dynamo is not None:
        torch.compiler.disable = _disable
    try:
        yield
    finally:
        torch.compiler.disable = disable
        for name, stand_in in stand_ins.items():
            if sys.modules.get(name) is stand_in:
                del sys.modules[name]
