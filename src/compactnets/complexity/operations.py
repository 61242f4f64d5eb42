"""How one operator counts.

=====================================================  ===========================================================
operator                                               count
=====================================================  ===========================================================
convolution, matrix product                            ``macs``: the library's formula, a multiply-add counted once;
                                                       a bias adds one other operation per output element
element-wise arithmetic, activation, softmax           1 per output element
reduction, global and adaptive pooling                 1 per input element
pooling with a window                                  elements of the window per output element
batch normalisation with running statistics            2 per element (scale and shift)
normalisation that computes its statistics             4 per element (mean, variance, scale and shift)
concatenation, shuffle, padding, indexing, cast        0; the written elements count as ``moved_elements``
view, reshape without a copy, new constant             0
=====================================================  ===========================================================
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from torch import Tensor
from torch.utils.flop_counter import flop_registry

POOLING = re.compile(r"(?:max|avg)_pool([123])d(?:_with_indices)?")
RUNNING_NORM = {"native_batch_norm", "_native_batch_norm_legit", "_native_batch_norm_legit_no_training"}
STATISTICS_NORM = {"native_layer_norm", "native_group_norm", "_fused_rms_norm"}
COPIES = {"clone", "copy_", "_to_copy"}  # the element order stays, so channels keep their places
MOVES = COPIES | {
    "cat",
    "channel_shuffle",
    "constant_pad_nd",
    "embedding",
    "flip",
    "gather",
    "index",
    "index_select",
    "native_channel_shuffle",
    "pixel_shuffle",
    "pixel_unshuffle",
    "reflection_pad2d",
    "repeat",
    "replication_pad2d",
    "roll",
    "stack",
}
CONSTANTS = {"empty_like", "full_like", "new_empty", "new_full", "new_ones", "new_zeros", "ones_like", "zeros_like"}


class Work(NamedTuple):
    """What one call of an operator costs, for the whole batch."""

    macs: int = 0
    other_operations: int = 0
    moved_elements: int = 0


def tensors_of(values: Any) -> list[Tensor]:
    """Return the tensors among an operator's arguments or results, lists of them included."""
    if isinstance(values, Tensor):
        return [values]
    if isinstance(values, Mapping):
        return [tensor for value in values.values() for tensor in tensors_of(value)]
    if isinstance(values, Sequence) and not isinstance(values, str):
        return [tensor for value in values for tensor in tensors_of(value)]
    return []


def macs_of(func: Any, args: Sequence[Any], kwargs: Mapping[str, Any], out: Any) -> int:
    """Return the multiply-adds of a convolution or matrix product, and 0 for any other operator."""
    formula = flop_registry.get(func.overloadpacket)
    return int(formula(*args, **kwargs, out_val=out)) // 2 if formula else 0  # the library counts two per multiply-add


def work_of(func: Any, args: Sequence[Any], kwargs: Mapping[str, Any], out: Any) -> Work:
    """Return what the call ``func(*args, **kwargs) -> out`` costs, by the rule above."""
    name = func.overloadpacket.__name__
    inputs, outputs = tensors_of((args, kwargs)), tensors_of(out)
    if not inputs or not outputs or name in CONSTANTS:
        return Work()
    result = outputs[0]  # max pooling also returns indices, normalisation its statistics: they come with the result
    size = result.numel()
    if func.overloadpacket in flop_registry:
        biased = name in ("addmm", "baddbmm") or ("convolution" in name and args[2] is not None)
        return Work(macs_of(func, args, kwargs, out), size if biased else 0)
    if name in MOVES:
        return Work(moved_elements=size)
    if not name.endswith("_") and any(shares_memory(result, value) for value in inputs):
        return Work()  # a view
    if window := POOLING.fullmatch(name):
        kernel = args[1] if len(args[1]) > 1 else args[1] * int(window[1])
        return Work(other_operations=size * math.prod(kernel))
    if name in STATISTICS_NORM or (name in RUNNING_NORM and uses_batch_statistics(name, args)):
        return Work(other_operations=4 * size)
    if name in RUNNING_NORM:
        return Work(other_operations=2 * size)
    return Work(other_operations=max(size, *(value.numel() for value in inputs)))


def uses_batch_statistics(name: str, args: Sequence[Any]) -> bool:
    """Tell whether a batch normalisation computes its statistics (as instance normalisation makes it do)."""
    return not name.endswith("no_training") and bool(args[5])


def shares_memory(first: Tensor, second: Tensor) -> bool:
    """Tell whether two tensors share storage."""
    return first.untyped_storage()._cdata == second.untyped_storage()._cdata
