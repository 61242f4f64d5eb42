"""Make the training and evaluation loaders: from memory for small images, otherwise with worker processes."""

from __future__ import annotations

from typing import Literal

import torch

from compactnets.data.augment import Augment
from compactnets.data.base import ImageSource
from compactnets.data.batches import Batch, LoaderSettings, OnError, TrainLoader
from compactnets.data.memory import MemoryLoader, gathers, small_images
from compactnets.data.preprocess import Preprocess
from compactnets.data.transform import TrainTransform
from compactnets.data.workers import EvalLoader, WorkerLoader
from compactnets.errors import InputError

__all__ = ["Batch", "EvalLoader", "TrainLoader", "make_eval_loader", "make_train_loader"]

Decoding = Literal["fast", "exact"]
Sampling = Literal["uniform", "balanced"]


def make_train_loader(
    source: ImageSource,
    augment: Augment,
    preprocess: Preprocess,
    *,
    batch_size: int,
    seed: int,
    workers: int = 0,
    rank: int = 0,
    world_size: int = 1,
    micro_batches: int = 1,
    device: torch.device | str = "cpu",
    channels_last: bool = False,
    on_error: OnError = "raise",
    max_skipped: int = 100,
    decoding: Decoding = "fast",
    sampling: Sampling = "uniform",
) -> TrainLoader:
    """Make the loader of the training images.

    Args:
        batch_size: images per step over all processes; at most the whole source.
        workers: processes that decode and augment; 0 works in the main process. Small images in memory need none.
        rank: index of this process among ``world_size``.
        micro_batches: parts into which a process splits its share of a batch.
        channels_last: memory layout of the images.
        on_error: what to do with an image that cannot be read: ``"raise"``, or ``"skip"``: the next readable image in
            the epoch's order replaces it, and a line on standard error names it once.
        max_skipped: number of unreadable images that are tolerated.
        decoding: ``"fast"`` (:mod:`compactnets.data.jpeg`) or ``"exact"``: whole images, resized by Pillow.
        sampling: what an epoch shows: ``"uniform"``, every image once, or ``"balanced"``, every class equally often
            (:func:`compactnets.data.order.balanced_order`), in as many steps.

    Raises:
        InputError: a batch size that cannot be divided, or a transform that can remove the whole image.
    """
    parts = world_size * micro_batches
    if batch_size % parts:
        raise InputError(
            f"batch_size = {batch_size} cannot be divided among {world_size} processes x {micro_batches} "
            f"micro-batches: expected a multiple of {parts}, such as {-(-batch_size // parts) * parts}"
        )
    if (most := min(batch_size, len(source) // parts * parts)) == 0:
        raise InputError(
            f"{source.spec} has {len(source)} training images, too few for {world_size} processes x {micro_batches} "
            f"micro-batches: expected at least {parts}"
        )
    settings = LoaderSettings(
        batch_size=most,
        seed=seed,
        rank=rank,
        world_size=world_size,
        device=torch.device(device),
        channels_last=channels_last,
        on_error=on_error,
        max_skipped=max_skipped,
        balanced=source.labels if sampling == "balanced" else None,
    )
    transform = TrainTransform(augment, preprocess)
    if gathers(augment) and (images := small_images(source, preprocess, augment.pad)) is not None:
        return MemoryLoader(source, transform, settings, images)
    source.prepare_for_shuffling()
    return WorkerLoader(source, transform, settings, workers, fast=decoding == "fast")


def make_eval_loader(
    source: ImageSource,
    preprocess: Preprocess,
    *,
    batch_size: int,
    workers: int = 0,
    rank: int = 0,
    world_size: int = 1,
    device: torch.device | str = "cpu",
    channels_last: bool = False,
    decoding: Decoding = "exact",
) -> EvalLoader:
    """Make the loader of the images to evaluate on: every image once over all processes, in the order of the source.

    The arguments are those of :func:`make_train_loader`, but ``batch_size`` is per process. Iterating raises
    :class:`InputError` at an unreadable image: none is replaced or skipped.
    """
    images = small_images(source, preprocess)
    return EvalLoader(
        source,
        TrainTransform(Augment(), preprocess),
        LoaderSettings.in_order(batch_size, rank, world_size, device, channels_last=channels_last),
        workers,
        images,
        fast=decoding == "fast",
    )
