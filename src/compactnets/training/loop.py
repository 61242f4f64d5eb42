"""The training loop: a recipe and two sources in, a folder with checkpoints and metrics out."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Iterable
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import yaml
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader

from compactnets.console import Tracker, say
from compactnets.data import ImageDataset, ImageSource, Preprocess
from compactnets.errors import InputError
from compactnets.models.registry import accepted_arguments, create_model
from compactnets.training.checkpoint import (
    CheckpointRecord,
    load_weights,
    read_record,
    read_tensors,
    save_checkpoint,
    software_versions,
)
from compactnets.training.evaluation import Evaluation, evaluate
from compactnets.training.recipe import Optimizer, Recipe, Schedule

RUN_FILES = ("last.safetensors", "best.safetensors", "metrics.jsonl", "recipe.yaml")


@dataclass(frozen=True)
class TrainResult:
    """What a finished run gives."""

    output: Path
    epochs: int
    final: Evaluation
    best_top1: float
    seconds: float

    def to_dict(self) -> dict[str, Any]:
        """Return the result for JSON."""
        return {
            "output": str(self.output),
            "checkpoint": str(self.output / "best.safetensors"),
            "epochs": self.epochs,
            "final": self.final.to_dict(),
            "best_top1_percent": self.best_top1,
            "seconds": self.seconds,
        }


def pick_device(name: str = "auto") -> torch.device:
    """Return the device of this name; ``auto`` is the first GPU, or the processor where there is none.

    Raises:
        InputError: a device that this machine does not have.
    """
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
    try:
        device = torch.device(name)
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError) as error:
        raise InputError(f"no device {name!r} here: {str(error).splitlines()[0]}") from None
    return device


def lr_factor(schedule: Schedule, epochs: int, epoch: float) -> float:
    """Return the learning rate's share of its peak at ``epoch``, a fraction counted from the start of training."""
    if epoch < schedule.warmup_epochs:
        return epoch / schedule.warmup_epochs
    if schedule.name == "cosine":
        progress = (epoch - schedule.warmup_epochs) / (epochs - schedule.warmup_epochs)
        return 0.5 * (1 + math.cos(math.pi * min(1.0, progress)))
    if schedule.name == "step":
        return schedule.gamma ** math.floor(epoch / schedule.step_epochs)
    return 1.0


def make_optimizer(model: nn.Module, settings: Optimizer, lr: float) -> torch.optim.Optimizer:
    """Build the optimizer; without ``decay_norm_and_bias`` only matrices and kernels decay."""
    weights = [p for p in model.parameters() if p.ndim > 1]
    others = [p for p in model.parameters() if p.ndim <= 1]
    # fused: one kernel for all parameters; these networks have hundreds of small ones
    groups = [
        {"params": weights, "weight_decay": settings.weight_decay},
        {"params": others, "weight_decay": settings.weight_decay if settings.decay_norm_and_bias else 0.0},
    ]
    if settings.name == "adamw":
        return torch.optim.AdamW(groups, lr=lr, betas=(settings.momentum, 0.999), fused=True)
    return torch.optim.SGD(groups, lr=lr, momentum=settings.momentum, nesterov=settings.nesterov, fused=True)


def train(
    recipe: Recipe,
    train_source: ImageSource,
    val_source: ImageSource,
    output: Path,
    *,
    init: Path | None = None,
    device: torch.device | str = "cpu",
) -> TrainResult:
    """Train as ``recipe`` says and write ``last`` and ``best`` checkpoints, metrics and the recipe to ``output``.

    Args:
        init: checkpoint to start from; its classifier is replaced where the classes differ.

    Raises:
        InputError: a network, setting or source that does not fit, an output folder that holds a run already, or a
            loss that is not finite.
    """
    preprocess, model, arguments = prepare(recipe, train_source, init)
    model = model.to(device)
    if recipe.channels_last:
        model = model.to(memory_format=torch.channels_last)
    _claim(output)
    settings = recipe.model_dump(mode="json")
    (output / "recipe.yaml").write_text(yaml.safe_dump(settings, sort_keys=False), encoding="utf-8")

    loader = _make_loader(recipe, train_source, preprocess)
    # only the training step is compiled: evaluation would compile again, for another mode and batch
    forward: Any = torch.compile(model) if recipe.compile else model
    optimizer = make_optimizer(model, recipe.optimizer, recipe.lr)
    start = time.perf_counter()
    best_top1 = -1.0
    for epoch in range(recipe.epochs):
        loss, images_per_second = _train_epoch(forward, loader, optimizer, recipe, epoch, device)
        result = evaluate(
            model,
            val_source,
            preprocess,
            batch_size=recipe.batch_size,
            workers=recipe.workers,
            device=device,
            description=f"epoch {epoch + 1}/{recipe.epochs} evaluating",
        )
        metrics = {
            "epoch": epoch + 1,
            "train_loss": loss,
            "val_loss": result.loss,
            "top1_percent": result.top1,
            "top5_percent": result.top5,
            "images_per_second": images_per_second,
            "seconds": time.perf_counter() - start,
        }
        with (output / "metrics.jsonl").open("a", encoding="utf-8") as file:
            file.write(json.dumps(metrics) + "\n")
        record = CheckpointRecord(
            model=recipe.model,
            arguments=arguments,
            class_names=list(train_source.class_names),
            preprocess=preprocess.to_dict(),
            source=f"trained by compactnets on {train_source.spec}",
            license="that of whoever trained it",
            training={"recipe": settings, "data": train_source.spec, **metrics},
            versions=software_versions(),
        )
        save_checkpoint(output / "last.safetensors", model.state_dict(), record)
        if result.top1 > best_top1:
            best_top1 = result.top1
            save_checkpoint(output / "best.safetensors", model.state_dict(), record)
        say(
            f"epoch {epoch + 1}/{recipe.epochs}: loss {loss:.4f}, val loss {result.loss:.4f}, "
            f"top-1 {result.top1:.2f} %, {images_per_second:.0f} images/s"
        )
    return TrainResult(output, recipe.epochs, result, best_top1, time.perf_counter() - start)


def prepare(
    recipe: Recipe, source: ImageSource, init: Path | None = None
) -> tuple[Preprocess, nn.Module, dict[str, Any]]:
    """Return the preprocessing, the network with its first weights, and the arguments that build the network again."""
    preprocess = recipe.resolve_preprocess(source.default_preprocess)
    given = {key for key in ("num_classes", "in_chans") if key in recipe.model_arguments}
    if given:
        raise InputError(f"model_arguments: {' and '.join(sorted(given))} follow from the data, leave them out")
    accepted_arguments(recipe.model)
    torch.manual_seed(recipe.seed)
    arguments = {**recipe.model_arguments, "num_classes": len(source.class_names), "in_chans": preprocess.channels}
    if init is None:
        return preprocess, create_model(recipe.model, **arguments), arguments
    record = read_record(init)
    if record.model != recipe.model:
        raise InputError(f"{init} is a checkpoint of {record.model}, the recipe trains {recipe.model}")
    arguments = {**record.arguments, **arguments}
    model = create_model(recipe.model, **arguments)
    weights = read_tensors(init)
    if record.class_names != list(source.class_names):
        found, wanted = len(record.class_names), len(source.class_names)
        say(f"classifier replaced: {init} has {found} classes, {source.spec} has {wanted}")
        fresh = model.state_dict()
        weights |= {key: fresh[key] for key in fresh if key.startswith("classifier.")}
    load_weights(model, weights, recipe.model, init)
    return preprocess, model, arguments


def _claim(output: Path) -> None:
    """Make the output folder; a folder that holds a run is left alone."""
    found = [name for name in RUN_FILES if (output / name).exists()]
    if found:
        raise InputError(f"{output} holds a run already ({', '.join(found)}): choose another --output, or remove it")
    try:
        output.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"cannot make the output folder {output}: {error.strerror}") from None


def _make_loader(recipe: Recipe, source: ImageSource, preprocess: Preprocess) -> DataLoader[tuple[Tensor, int]]:
    dataset = ImageDataset(source, recipe.augment.transform(preprocess))
    return DataLoader(
        dataset,
        batch_size=min(recipe.batch_size, len(source)),
        shuffle=True,
        drop_last=True,  # a last batch of one image has no variance for batch normalisation
        num_workers=recipe.workers,
        persistent_workers=recipe.workers > 0,
        generator=torch.Generator().manual_seed(recipe.seed),
    )


def _train_epoch(
    model: nn.Module,
    loader: DataLoader[tuple[Tensor, int]],
    optimizer: torch.optim.Optimizer,
    recipe: Recipe,
    epoch: int,
    device: torch.device | str,
) -> tuple[float, float]:
    """Train for one epoch and return the mean loss and the images per second."""
    model.train()
    autocast = _autocast(recipe, device)
    total, start = 0.0, time.perf_counter()
    batches: Iterable[tuple[Tensor, Tensor]] = loader
    tracker = Tracker(batches, len(loader), f"epoch {epoch + 1}/{recipe.epochs}")
    for step, (images, labels) in enumerate(tracker):
        lr = recipe.lr * lr_factor(recipe.schedule, recipe.epochs, epoch + step / len(loader))
        for group in optimizer.param_groups:
            group["lr"] = lr
        images = images.to(
            device, memory_format=torch.channels_last if recipe.channels_last else torch.contiguous_format
        )
        with autocast():
            logits = model(images)
        loss = F.cross_entropy(logits.float(), labels.to(device), label_smoothing=recipe.label_smoothing)
        value = float(loss.detach())
        if not math.isfinite(value):
            raise InputError(
                f"the loss became {value} at epoch {epoch + 1}, step {step + 1}: lower lr (now {lr:g}) or lengthen "
                f"schedule.warmup_epochs; the checkpoints of the epochs before are kept"
            )
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        if recipe.clip_grad_norm is not None:
            nn.utils.clip_grad_norm_(model.parameters(), recipe.clip_grad_norm)
        optimizer.step()
        total += value
        seen = (step + 1) * (loader.batch_size or 1)
        tracker.note(f"loss {total / (step + 1):.3f}, {seen / (time.perf_counter() - start):.0f} images/s")
    seconds = time.perf_counter() - start
    return total / len(loader), len(loader) * (loader.batch_size or 1) / seconds


def _autocast(recipe: Recipe, device: torch.device | str) -> Callable[[], Any]:
    if recipe.precision == "float32":
        return nullcontext
    return lambda: torch.autocast(torch.device(device).type, dtype=torch.bfloat16)
