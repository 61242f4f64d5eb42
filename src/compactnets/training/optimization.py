"""Optimizer and learning rate of a recipe."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping
from typing import Any

import torch
from timm.models import group_parameters
from torch import nn

from compactnets.errors import InputError
from compactnets.training.muon import Muon, is_kernel
from compactnets.training.recipe import ADAPTIVE, Optimizer, RunRecipe, Schedule


def lr_factor(schedule: Schedule, epochs: int, epoch: float) -> float:
    """Return the learning rate's share of its peak at ``epoch``, a fraction counted from the start of training.

    It only depends on the epoch, so a resumed run needs no history.
    """
    if epoch < schedule.warmup_epochs:
        return epoch / schedule.warmup_epochs
    if schedule.name in ("cosine", "linear", "poly"):
        progress = min(1.0, (epoch - schedule.warmup_epochs) / (epochs - schedule.warmup_epochs))
        power = schedule.power if schedule.name == "poly" else 1.0
        left = 0.5 * (1 + math.cos(math.pi * progress)) if schedule.name == "cosine" else (1 - progress) ** power
        return schedule.end + (1 - schedule.end) * left
    # those of whole epochs, as torch's StepLR, MultiStepLR and ExponentialLR stepped once per epoch
    if schedule.name == "step":
        return schedule.gamma ** math.floor(epoch / schedule.step_epochs)
    if schedule.name == "multistep":
        return schedule.gamma ** sum(milestone <= epoch for milestone in schedule.milestones)
    if schedule.name == "exponential":
        return schedule.gamma ** math.floor(epoch)
    return 1.0


def describe_lr(recipe: RunRecipe) -> str:
    """Describe the peak learning rate and its origin."""
    peak, reference = recipe.peak_lr, recipe.lr_batch_size or recipe.batch_size
    if peak == recipe.lr:
        return f"learning rate {peak:g} at a batch of {recipe.batch_size}"
    rule = "square root" if math.isclose(peak, recipe.lr * math.sqrt(recipe.batch_size / reference)) else "linear"
    return (
        f"learning rate {peak:g} at a batch of {recipe.batch_size}: the recipe's {recipe.lr:g} at {reference}, scaled "
        f"({rule}; lr_scaling=none keeps it)"
    )


def make_optimizer(
    model: nn.Module, settings: Optimizer, lr: float, later: Collection[nn.Parameter] = ()
) -> torch.optim.Optimizer:
    """Build the optimizer; without ``decay_norm_and_bias`` only matrices and kernels decay.

    Parameters in a module's attribute ``undecayed`` never decay, and their learning rate is multiplied by the factor
    there (``lr_scale`` of a group, in timm's terms). With ``layer_decay``, every block of the network has its own
    factor.

    Args:
        later: parameters that learn later than the others: they get groups of their own.

    Raises:
        InputError: a ``layer_decay`` for a network that does not name its blocks.
    """
    undecayed = _undecayed(model)
    apart = {id(p) for parameters in undecayed.values() for p in parameters}
    decayed = [p for p in model.parameters() if id(p) not in apart]
    weights = [p for p in decayed if p.ndim > 1]
    others = [p for p in decayed if p.ndim <= 1]
    groups: list[dict[str, Any]] = [
        {"params": weights, "weight_decay": settings.weight_decay},
        {"params": others, "weight_decay": settings.weight_decay if settings.decay_norm_and_bias else 0.0},
    ]
    groups += [{"params": undecayed[scale], "weight_decay": 0.0, "lr_scale": scale} for scale in sorted(undecayed)]
    eps: dict[str, Any] = {} if settings.eps is None else {"eps": settings.eps}
    if settings.name == "muon":
        groups[0] = _split_kernels(model, groups, settings.weight_decay)
    if settings.layer_decay < 1:
        groups = _split(groups, _layer_factors(model, settings.layer_decay), scale=True)
    if later:  # torch's fused SGD fails where some of a group's parameters had no step yet
        groups = _split(groups, dict.fromkeys(map(id, later), 1.0))
    if settings.name == "muon":
        # not fused: a scaler of float16 must scale the gradients back before
        return Muon(groups, lr=lr, betas=settings.betas, momentum=settings.momentum, foreach=True, **eps)
    # fused or foreach: few kernels for all parameters; these networks have hundreds of small ones
    if settings.name == "sgd":
        return torch.optim.SGD(groups, lr=lr, momentum=settings.momentum, nesterov=settings.nesterov, fused=True)
    if settings.name in ADAPTIVE:
        adaptive: Any = torch.optim.AdamW if settings.name == "adamw" else torch.optim.Adam
        optimizer: torch.optim.Optimizer = adaptive(groups, lr=lr, betas=settings.betas, fused=True, **eps)
        return optimizer
    if settings.name == "rmsprop":
        return torch.optim.RMSprop(
            groups,
            lr=lr,
            alpha=settings.alpha,
            momentum=settings.momentum,
            centered=settings.centered,
            foreach=True,
            **eps,
        )
    return torch.optim.Adadelta(groups, lr=lr, rho=settings.rho, foreach=True, **eps)


def _split_kernels(model: nn.Module, groups: list[dict[str, Any]], decay: float) -> dict[str, Any]:
    """Add a group of the kernels that Muon takes to ``groups``, and return the first group without them."""
    convs = {id(module.weight): int(module.groups) for module in model.modules() if is_kernel(module)}  # type: ignore[arg-type]
    kernels = [p for p in groups[0]["params"] if id(p) in convs]
    if kernels:
        groups.append({"params": kernels, "weight_decay": decay, "kernels": [convs[id(p)] for p in kernels]})
    return {**groups[0], "params": [p for p in groups[0]["params"] if id(p) not in convs]}


def _layer_factors(model: nn.Module, decay: float) -> dict[int, float]:
    """Return the learning rate's factor of each parameter, by its id.

    The classifier has the factor 1, the last block ``decay``, the one before it ``decay`` squared, and so on, by the
    blocks of timm's ``group_matcher``.
    """
    if not hasattr(model, "group_matcher"):
        raise InputError(
            f"optimizer.layer_decay needs a network that names its blocks (timm's group_matcher), which "
            f"{type(model).__name__} does not: remove it"
        )
    matcher: Any = model.group_matcher
    blocks = group_parameters(model, matcher(), reverse=True)
    last = max(blocks.values())
    return {id(p): decay ** (last - blocks[name]) for name, p in model.named_parameters()}


def _split(groups: list[dict[str, Any]], values: Mapping[int, float], scale: bool = False) -> list[dict[str, Any]]:
    """Cut each group into one for each value of its parameters (by their ids; zero if there is none).

    Args:
        scale: whether the value is a factor of the learning rate.
    """
    split = []
    for group in groups:
        found = [values.get(id(parameter), 0.0) for parameter in group["params"]]
        for value in sorted(set(found)):
            chosen = [index for index, each in enumerate(found) if each == value]
            # "kernels" belongs to the parameters one by one
            part = dict(group)
            for key in {"params", "kernels"} & set(group):
                part[key] = [group[key][index] for index in chosen]
            if scale:
                part["lr_scale"] = value * group.get("lr_scale", 1.0)
            split.append(part)
    return split


def set_lr(optimizer: torch.optim.Optimizer, lr: float) -> None:
    """Give every group of :func:`make_optimizer` the learning rate ``lr``, times its own factor."""
    for group in optimizer.param_groups:
        group["lr"] = lr * group.get("lr_scale", 1.0)


def _undecayed(model: nn.Module) -> dict[float, list[nn.Parameter]]:
    """Return the parameters that never decay, by the factor of their learning rate."""
    found: dict[float, list[nn.Parameter]] = {}
    for module in model.modules():
        for name, scale in getattr(module, "undecayed", {}).items():
            found.setdefault(scale, []).append(getattr(module, name))
    return found
