"""The steps from a float network to its int8 simulation, shared by quantisation and int8 training."""

from __future__ import annotations

import copy
from collections.abc import Sequence, Sized
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn
from torch.fx import GraphModule

from compactnets.console import Tracker
from compactnets.data import ImageSource, Preprocess
from compactnets.data.base import ImageDataset, readable
from compactnets.data.part import PartOfSource
from compactnets.deploy.int8.equalization import equalize
from compactnets.deploy.int8.graph import plain_graph
from compactnets.deploy.int8.layers import Mode
from compactnets.deploy.int8.noise import keep_float
from compactnets.deploy.int8.quantized import (
    layers,
    quantized_network,
    quantizers,
    set_mode,
    set_weight_bits,
)
from compactnets.deploy.int8.ranges import calibrate
from compactnets.deploy.int8.rounding import correct_biases, output_means, round_weights
from compactnets.deploy.record import LAYERS
from compactnets.errors import InputError, did_you_mean

IMAGES_AT_ONCE = 64  # for rounding, and the errors of the layers


@dataclass(frozen=True)
class Settings:
    """Settings of quantisation.

    Attributes:
        calibration_images: images for choosing ranges, rounding and biases.
        ranges: one of ``ranges.METHODS``.
        equalize, rounding, correction: whether to apply the step of this name (``docs/deploy.md``).
        weight_bits: 8, or 7, with which no sum of two products overflows the 16 bits that x86 without VNNI adds them
            in; ``None``: what the format needs.
        keep: names of layers or quantizers that stay in float.
    """

    calibration_images: int = 128
    ranges: str = "mse"
    equalize: bool = True
    rounding: bool = True
    correction: bool = True
    weight_bits: int | None = None
    keep: tuple[str, ...] = ()


def calibrated(model: nn.Module, pixels: Tensor, settings: Settings, *, quantize_output: bool) -> GraphModule:
    """Quantise a network: set its ranges and keep its weights unrounded.

    Args:
        model: the network, in evaluation mode.
        pixels: ``(N, C, H, W)``.
        settings: how.
        quantize_output: whether to quantise the logits as well.

    Raises:
        InputError: a network that cannot be traced, an unknown part to keep, an unknown method for ranges.
    """
    graph = plain_graph(model, pixels[:1])
    batches = pixels.split(16)
    if settings.equalize:
        equalize(graph, batches)
    quantized = quantized_network(graph, quantize_output=quantize_output)
    set_weight_bits(quantized, settings.weight_bits or 8)
    check_names(quantized, settings.keep)
    calibrate(quantized, batches, settings.ranges)
    return quantized


def check_names(quantized: GraphModule, keep: Sequence[str]) -> None:
    """Raise unless every name is that of a layer or quantizer of a quantised network.

    Raises:
        InputError: the unknown name, with a near match.
    """
    known = [*(name for name, _ in layers(quantized)), *(name for name, _ in quantizers(quantized))]
    for name in keep:
        if name not in known:
            raise InputError(
                f"no layer or tensor to keep in float is called {name!r}{did_you_mean(name, known)}: see "
                f"{LAYERS} of an artifact for their names"
            )


def settled(quantized: GraphModule, kept: Sequence[str], pixels: Tensor, settings: Settings) -> GraphModule:
    """Return a copy of a calibrated network that simulates int8, with rounded weights and corrected biases.

    Args:
        quantized: the quantised network.
        kept: names of the parts that stay in float.
        pixels: ``(N, C, H, W)``.
        settings: whether to round and correct.
    """
    quantized = copy.deepcopy(quantized)
    for name in kept:
        keep_float(quantized, name)
    set_mode(quantized, Mode.OFF)
    # now, because rounding the weights also shifts them
    means = output_means(quantized, pixels) if settings.correction else {}
    if settings.rounding:
        round_weights(quantized, pixels[:IMAGES_AT_ONCE])
    if settings.correction:
        correct_biases(quantized, pixels, means)
    set_mode(quantized, Mode.SIMULATE)
    return quantized


def read_pixels(images: ImageSource, preprocess: Preprocess) -> Tensor:
    """Return all images of a source, preprocessed: ``(N, C, H, W)``.

    Raises:
        InputError: an image that cannot be read.
    """
    dataset = ImageDataset(images, preprocess)
    return torch.stack([dataset[index][0] for index in Tracker(range(len(dataset)), len(dataset), "reading")])


def calibration_part(images: ImageSource, count: int, readable_by: Preprocess | None = None) -> ImageSource:
    """Return ``count`` images spread evenly over a source, or all if there are fewer; always the same ones.

    Args:
        readable_by: skip images that cannot be read or prepared by this, and take the following ones.

    Raises:
        InputError: images are skipped, and none is left.
    """
    chosen = spread_over(images, count).tolist()
    if readable_by is not None:
        chosen = sorted(readable(images, chosen, readable_by.pixels))
        if not chosen:
            raise InputError(f"{images.spec}: none of its {len(images):,} training images can be read")
    return PartOfSource(images, chosen)


def spread_over(images: Sized, count: int) -> np.ndarray:
    """Return the indices of ``count`` images spread evenly over a source, or of all if there are fewer."""
    return np.unique(np.linspace(0, len(images) - 1, min(count, len(images)), dtype=np.int64))
