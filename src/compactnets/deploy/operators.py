"""Time per kind of operator, as reported by the runtime's profiler."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import torch
from torch import nn
from torch.profiler import ProfilerActivity, profile

from compactnets.deploy.quiet import quiet


@dataclass(frozen=True)
class OperatorTime:
    """The time of all operators of one kind in one call.

    Attributes:
        kind: such as ``"1x1 grouped convolution"``; otherwise the runtime's own name.
        milliseconds: in total.
        count: number of them in the network.
    """

    kind: str
    milliseconds: float
    count: int


def convolution(kernel: Sequence[int], groups: int, inputs_per_group: int) -> str:
    """Return the kind of a convolution: ``"3x3 depthwise convolution"``, ``"1x1 grouped convolution"``, ….

    Args:
        kernel: (height, width).
        groups: their number.
        inputs_per_group: input channels of each.
    """
    what = "" if groups == 1 else "depthwise " if inputs_per_group == 1 else "grouped "
    return f"{'x'.join(map(str, kernel))} {what}convolution"


def summarize(events: Iterable[tuple[str, float]], calls: int) -> list[OperatorTime]:
    """Sum a profiler's events by kind, slowest kind first.

    Args:
        events: the kind and the microseconds of every operator in every call.
        calls: their number.
    """
    times: Counter[str] = Counter()
    counts: Counter[str] = Counter()
    for kind, microseconds in events:
        times[kind] += microseconds  # type: ignore[assignment]
        counts[kind] += 1
    return [OperatorTime(kind, time / 1e3 / calls, round(counts[kind] / calls)) for kind, time in times.most_common()]


def time_eager(model: nn.Module, images: torch.Tensor, calls: int) -> list[OperatorTime]:
    """Time the operators of plain PyTorch.

    Args:
        model: the network, in evaluation mode.
        images: ``(N, C, H, W)``.
        calls: number of timed calls; one warm-up call precedes them.
    """
    with torch.inference_mode(), quiet():
        model(images)
        with profile(activities=[ProfilerActivity.CPU], record_shapes=True) as seen:
            for _ in range(calls):
                model(images)
    events = []
    for event in seen.events():
        if event.cpu_parent is not None:  # its time is part of that one's
            continue
        kind = event.name.removeprefix("aten::")
        if kind == "conv2d":
            images_shape, (_, per_group, *kernel) = event.input_shapes[:2]
            kind = convolution(kernel, images_shape[1] // per_group, per_group)
        events.append((kind, event.cpu_time_total))
    return summarize(events, calls)
