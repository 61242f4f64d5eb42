"""One step of training: a batch in, new weights out."""

from __future__ import annotations

import gc
from contextlib import nullcontext
from typing import Any

import torch
from timm.utils import ModelEmaV3
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from compactnets.data.order import mix_seed
from compactnets.errors import InputError
from compactnets.models.form import with_form
from compactnets.training.compiling import Kernels
from compactnets.training.cpu import optimize_for_cpu
from compactnets.training.distributed import World, synchronize_batchnorm
from compactnets.training.fused.network import FusedNetwork
from compactnets.training.optimization import lr_factor, make_optimizer, set_lr
from compactnets.training.recipe import RunRecipe
from compactnets.training.setup import Objective


class Learner:
    """A network, its average, its optimizer, and the training step.

    All randomness in a step (dropout, mixing) is determined by the recipe's seed, the step number and the process, so a
    resumed run draws the same numbers.

    Args:
        model: the network with its initial weights, on the world's device.
        recipe: how to train it.
        steps: steps of an epoch.
        objective: from a batch to losses.
        world: this process and its device.
        kernels: what :func:`compactnets.training.compiling.choose_kernels` chose.
    """

    def __init__(
        self,
        model: nn.Module,
        recipe: RunRecipe,
        steps: int,
        objective: Objective,
        world: World,
        kernels: Kernels = "torch",
    ) -> None:
        self.recipe, self.steps, self.objective, self.world = recipe, steps, objective, world
        if recipe.channels_last:
            model = model.to(memory_format=torch.channels_last)
        if world.size > 1 and recipe.sync_batchnorm:
            model = synchronize_batchnorm(model, world)
        self.model = model
        self._odd = set(_not_finite(model))  # such as the -inf of a mask
        self.ema = ModelEmaV3(model, decay=recipe.ema_decay, use_warmup=True) if recipe.ema_decay else None
        self.backbone = _backbone(model) if recipe.frozen_epochs else []
        self.optimizer = make_optimizer(model, recipe.optimizer, recipe.peak_lr, later=self.backbone)
        self.frozen = False
        # float16 has few exponents: small gradients vanish unless the loss is scaled up
        self.scaler = torch.amp.GradScaler(world.device.type, enabled=recipe.precision == "float16")
        self.kernels = kernels
        self.forward: Any
        self.set_forward(recipe.compile)

    def set_forward(self, compile: bool | str) -> None:
        """Compile the steps from now on, ``True`` or with a mode of torch's, or not; several processes do so once.

        With kernels of our own nothing is compiled, and nothing of a frozen backbone is.
        """
        self._compiled = compile
        recipe, forward = self.recipe, self.model
        if self.frozen:
            compile = False
        elif self.kernels == "own":
            forward, compile = FusedNetwork(forward).train(), False
        elif self.world.device.type == "cpu" and recipe.channels_last:
            forward = optimize_for_cpu(forward, half=recipe.precision != "float32", compiled=bool(compile)).train()
        if self.world.size > 1:
            self.forward = None
            gc.collect()  # the hooks of an earlier one on the gradients go with it, not before
            forward = DistributedDataParallel(forward)
        # only the training step is compiled: evaluation would compile again, for another mode and batch
        mode = compile if isinstance(compile, str) else None
        self.forward = torch.compile(forward, mode=mode, dynamic=recipe.dynamic) if compile else forward

    def freeze(self, frozen: bool) -> None:
        """Train the classifier alone from now on, or again the whole network.

        A frozen backbone computes as in an evaluation: its batch normalisation uses its running statistics, and keeps
        them. The optimizer passes over its weights.
        """
        for parameter in self.backbone:
            parameter.requires_grad_(not frozen)
        self.frozen = frozen
        self.model.train()
        self.set_forward(self._compiled)

    @property
    def evaluated(self) -> nn.Module:
        """The network to evaluate and save: the average if there is one."""
        return self.model if self.ema is None else self.ema.module

    def lr(self, step: int) -> float:
        """Return the learning rate of step number ``step``."""
        recipe = self.recipe
        return recipe.peak_lr * lr_factor(recipe.schedule, recipe.epochs, step / self.steps)

    def step(self, batch: Any, step: int) -> dict[str, Tensor]:
        """Take step number ``step`` of the run, counted from zero; return every image's losses by name, detached."""
        recipe = self.recipe
        if (frozen := step < recipe.frozen_epochs * self.steps) != self.frozen:
            self.freeze(frozen)
        if frozen:  # an evaluation before this step has set all layers to training
            _fix_statistics(self.model)
        set_lr(self.optimizer, self.lr(step))
        torch.manual_seed(mix_seed(recipe.seed, step, self.world.rank))
        losses: dict[str, list[Tensor]] = {}
        micro_batches = self.objective.micro_batches(batch, step)
        for number, micro_batch in enumerate(micro_batches, start=1):
            with nullcontext() if number == len(micro_batches) or self.world.size == 1 else self.forward.no_sync():
                found = self.objective.losses(self._forward, micro_batch)
                loss = torch.stack(list(found.values())).sum(0).mean()
                self.scaler.scale(loss / len(micro_batches)).backward()
            for name, per_image in found.items():
                losses.setdefault(name, []).append(per_image.detach())
        if recipe.clip_grad_norm is not None:
            self.scaler.unscale_(self.optimizer)
            nn.utils.clip_grad_norm_(self.model.parameters(), recipe.clip_grad_norm)
        self.scaler.step(self.optimizer)
        self.scaler.update()
        self.optimizer.zero_grad(set_to_none=True)
        if self.ema is not None:
            self.ema.update(self.model, step=step)
        return {name: torch.cat(values) for name, values in losses.items()}

    def _forward(self, *inputs: Any) -> Any:
        precision = self.recipe.precision
        dtype = torch.float32 if precision == "float32" else getattr(torch, precision)
        with torch.autocast(self.world.device.type, dtype=dtype, enabled=precision != "float32"):
            return self.forward(*inputs)

    def not_finite(self) -> list[str]:
        """Return the names of weights and statistics that hold NaN or infinity but initially did not."""
        models = [self.model] if self.ema is None else [self.model, self.ema.module]
        return [name for model in models for name in _not_finite(model) if name not in self._odd]

    def state_dict(self) -> dict[str, Any]:
        """Return everything that the next step depends on."""
        return {
            "model": self.model.state_dict(),
            "ema": None if self.ema is None else self.ema.module.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "scaler": self.scaler.state_dict(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore :meth:`state_dict`."""
        # older states have no form; the run's description, already compared, does
        self.model.load_state_dict(with_form(state["model"], self.model))
        if self.ema is not None:
            self.ema.module.load_state_dict(with_form(state["ema"], self.ema.module))
        self.optimizer.load_state_dict(state["optimizer"])
        self.scaler.load_state_dict(state["scaler"])


def _backbone(model: nn.Module) -> list[nn.Parameter]:
    """Return the parameters of a network that learn and are not of its classifier.

    Raises:
        InputError: a network that does not say which layer is its classifier.
    """
    if not hasattr(model, "get_classifier"):
        raise InputError(
            f"freeze_epochs needs a network that names its classifier (timm's get_classifier), which "
            f"{type(model).__name__} does not: remove it"
        )
    classifier: Any = model.get_classifier
    own = {id(parameter) for parameter in classifier().parameters()}
    return [parameter for parameter in model.parameters() if parameter.requires_grad and id(parameter) not in own]


def _fix_statistics(model: nn.Module) -> None:
    """Have batch normalisation use its running statistics, and keep them."""
    for module in model.modules():
        if isinstance(module, nn.modules.batchnorm._NormBase):
            module.eval()


def _not_finite(model: nn.Module) -> list[str]:
    tensors = {name: value for name, value in model.state_dict().items() if value.is_floating_point() and value.numel()}
    if not tensors:
        return []
    # one read for all: each read waits for an accelerator
    finite = torch.stack([value.isfinite().all() for value in tensors.values()]).tolist()
    return [name for name, good in zip(tensors, finite, strict=True) if not good]
