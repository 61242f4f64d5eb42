"""Watch the losses: average them, and stop the run if one is not finite."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from compactnets.errors import InputError

NOT_FINITE = (
    "Lower lr, lengthen schedule.warmup_epochs or set clip_grad_norm, with another --output. The last checkpoint "
    "before is kept"
)


class LossWatch:
    """Collects the losses of the images of an epoch.

    On a CPU every step is checked. Reading a number waits for an accelerator, which runs ahead of the program, so there
    losses are checked every ``interval`` steps and before anything is saved; the step is still named.

    Args:
        name: name of an image, by its index in the source.
        totals: sums of the steps' mean losses so far, by name.
        count: steps in those sums.
    """

    def __init__(
        self, name: Callable[[int], str], interval: int, totals: Mapping[str, float] | None = None, count: int = 0
    ) -> None:
        self.totals, self.count = dict(totals or {}), count
        self._name, self._interval = name, interval
        self._pending: list[tuple[str, Mapping[str, Tensor], Tensor]] = []

    @property
    def mean(self) -> float:
        """Mean loss of the steps that were checked."""
        return sum(self.totals.values()) / max(self.count, 1)

    def add(self, step: str, losses: Mapping[str, Tensor], indices: Tensor) -> None:
        """Take the losses ``(B,)`` of the images ``indices`` ``(B,)`` at the step named ``step``."""
        self._pending.append((step, losses, indices))
        if len(self._pending) >= self._interval:
            self.check()

    def check(self) -> None:
        """Check the steps since the last check.

        Raises:
            InputError: a loss that is not finite; the message names the first such step and its images.
        """
        if not self._pending:
            return
        # one reading for all: each waits for an accelerator
        means = torch.stack([torch.stack([loss.mean() for loss in losses.values()]) for _, losses, _ in self._pending])
        for (step, losses, indices), values in zip(self._pending, means.tolist(), strict=True):
            if not abs(sum(values)) < float("inf"):  # false for NaN as well
                raise InputError(self._explain(step, torch.stack(list(losses.values())).sum(0).cpu(), indices))
            for name, value in zip(losses, values, strict=True):
                self.totals[name] = self.totals.get(name, 0.0) + value
            self.count += 1
        self._pending.clear()

    def _explain(self, step: str, losses: Tensor, indices: Tensor) -> str:
        bad = indices[~losses.isfinite()].tolist()
        names = ", ".join(self._name(index) for index in bad[:5]) + (", …" if len(bad) > 5 else "")
        return (
            f"the loss is not finite at {step}: {len(bad)} of {len(losses)} images ({names}). If it is all of them, "
            f"lower lr, lengthen schedule.warmup_epochs or set clip_grad_norm; if it is one, inspect it. The last "
            f"checkpoint before is kept"
        )
