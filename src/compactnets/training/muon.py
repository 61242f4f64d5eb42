"""Muon (Jordan et al. 2024, https://kellerjordan.github.io/posts/muon/) for convolutional networks.

``torch.optim.Muon`` takes matrices alone, and timm's takes a kernel for one matrix, also where its convolution has
groups that share nothing. Here it is one matrix per group. Everything else (biases, normalisation, depthwise kernels,
the classifier) learns by AdamW in the same optimizer. The iteration itself is timm's.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

STEPS = 5
COEFFICIENTS = (3.4445, -4.7750, 2.0315)  # of the quintic iteration
EPS = 1e-7


class Muon(torch.optim.AdamW):
    """AdamW, but Muon for the groups of parameters with ``kernels``: the number of groups of each one's convolution.

    The update of a kernel has the size of AdamW's, 0.2 sqrt(max(rows, columns)) times an orthogonal matrix
    (arXiv:2502.16982, section 2.2), so that one learning rate and weight decay are for all.

    Args:
        params: groups of parameters; those with ``kernels`` hold (O, I / groups, H, W) each.
        momentum: of Muon, with Nesterov's rule.
        options: AdamW's.
    """

    def __init__(self, params: Any, *, momentum: float, **options: Any) -> None:
        super().__init__(params, **options)
        self.momentum = momentum

    def step(self, closure: Callable[[], float] | None = None) -> Any:
        """Take a step; gradients of kernels are released."""
        with torch.no_grad():
            for group in self.param_groups:
                if "kernels" in group:
                    self._step_kernels(group)
        return super().step(closure)  # which passes over parameters without gradients

    def _step_kernels(self, group: dict[str, Any]) -> None:
        matrices: dict[torch.Size, list[tuple[Tensor, Tensor]]] = {}  # those of one shape are multiplied together
        for parameter, groups in zip(group["params"], group["kernels"], strict=True):
            if (gradient := parameter.grad) is None:
                continue
            state = self.state[parameter]
            if not state:
                state["momentum"] = torch.zeros_like(parameter)
                state["step"] = torch.zeros(())  # AdamW looks for it when a state is loaded
            state["step"] += 1
            average = state["momentum"].lerp_(gradient, 1 - self.momentum)
            update = as_matrices(gradient.lerp(average, self.momentum), groups)
            matrices.setdefault(update.shape[1:], []).append((parameter, update))
            parameter.grad = None
        lr, decay = group["lr"], group["weight_decay"]
        for shape, pairs in matrices.items():
            updates = orthogonalize(torch.cat([update for _, update in pairs]))
            for (parameter, _), update in zip(pairs, updates.split([len(each) for _, each in pairs]), strict=True):
                parameter.mul_(1 - lr * decay)
                parameter.add_(from_matrices(update, parameter), alpha=-0.2 * math.sqrt(max(shape)) * lr)


def is_kernel(module: nn.Module) -> bool:
    """Whether a layer's weight is one or more matrices of at least two rows: not of a depthwise convolution."""
    return isinstance(module, nn.Conv2d) and module.out_channels // module.groups > 1 and module.weight[0].numel() > 1


def as_matrices(kernel: Tensor, groups: int) -> Tensor:
    """(O, I / groups, H, W) -> (groups, O / groups, H W I / groups); in channels_last, without a copy."""
    return kernel.permute(0, 2, 3, 1).reshape(groups, len(kernel) // groups, -1)


def from_matrices(matrices: Tensor, like: Tensor) -> Tensor:
    """Undo :func:`as_matrices`."""
    out_channels, in_channels, height, width = like.shape
    return matrices.reshape(out_channels, height, width, in_channels).permute(0, 3, 1, 2).to(like.dtype)


def orthogonalize(matrices: Tensor) -> Tensor:
    """Return nearly U V^T of each matrix U S V^T: (N, rows, columns) -> the same shape, float32 on a CPU.

    Five steps of a quintic Newton-Schulz iteration; singular values end between about 0.7 and 1.2.
    """
    from timm.optim.muon import zeropower_via_newtonschulz  # loads torch's compiler

    dtype = torch.bfloat16 if matrices.is_cuda else torch.float32
    return zeropower_via_newtonschulz(matrices, STEPS, [COEFFICIENTS], eps=EPS, dtype=dtype)
