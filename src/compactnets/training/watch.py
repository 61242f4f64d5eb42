"""The loss as it comes: its mean, and the end of the run where it is not finite."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from compactnets.errors import InputError


class LossWatch:
    """Collects the losses of the images of an epoch.

    On a processor every step is checked. An accelerator runs ahead of the program, and reading a number waits for it,
    so there the check comes every ``interval`` steps and before anything is saved; it still names the step.

    Args:
        name: what an image is called, by its index in the source.
        total: sum of the steps' mean losses so far.
        count: steps in that sum.
    """

    def __init__(self, name: Callable[[int], str], interval: int, total: float = 0.0, count: int = 0) -> None:
        self.total, self.count = total, count
        self._name, self._interval = name, interval
        self._pending: list[tuple[str, Tensor, Tensor]] = []

    @property
    def mean(self) -> float:
        """Mean loss of the steps that were checked."""
        return self.total / max(self.count, 1)

    def add(self, step: str, losses: Tensor, indices: Tensor) -> None:
        """Take the losses ``(B,)`` of the images ``indices`` ``(B,)`` at the step that is called ``step``."""
        self._pending.append((step, losses, indices))
        if len(self._pending) >= self._interval:
            self.check()

    def check(self) -> None:
        """Look at the steps since the last check.

        Raises:
            InputError: a loss that is not finite; the message names the first such step and its images.
        """
        if not self._pending:
            return
        for (step, losses, indices), mean in zip(
            self._pending, torch.stack([losses.mean() for _, losses, _ in self._pending]).tolist(), strict=True
        ):
            if not abs(mean) < float("inf"):  # false for NaN as well
                raise InputError(self._explain(step, losses.cpu(), indices))
            self.total += mean
            self.count += 1
        self._pending.clear()

    def _explain(self, step: str, losses: Tensor, indices: Tensor) -> str:
        bad = indices[~losses.isfinite()].tolist()
        names = ", ".join(self._name(index) for index in bad[:5]) + (", …" if len(bad) > 5 else "")
        return (
            f"the loss is not finite at {step}: {len(bad)} of {len(losses)} images ({names}). Where all are concerned, "
            f"lower lr, lengthen schedule.warmup_epochs or set clip_grad_norm; where one is, look at it. The last "
            f"checkpoint before is kept"
        )
