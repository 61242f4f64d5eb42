"""Quantisation-aware training: turn a float checkpoint into one whose weights and scales are trained for int8.

The training loop is that of float networks. It trains the quantised network that ``quantize`` would write:
normalisation folded, channels equalised, ranges calibrated, weights rounded and biases corrected (for this start, and
for folding before training: Nagel et al. 2021, arXiv:2106.08295, sections 4.2 and 4.3).
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import torch
from torch.fx import GraphModule

from compactnets.classification.checkpoint import CheckpointRecord, Int8Training
from compactnets.classification.preparation import Prepared, network_of, prepare
from compactnets.classification.recipe import ClassificationRecipe
from compactnets.console import say
from compactnets.data import ImageSource, Preprocess
from compactnets.deploy.int8.graph import plain_graph
from compactnets.deploy.int8.learned import compile_rounding, fix_scales, learn_scales
from compactnets.deploy.int8.quantized import output_quantizer, quantized_network, quantizers, set_weight_bits
from compactnets.deploy.int8.steps import (
    Settings,
    calibrated,
    calibration_part,
    read_pixels,
    settled,
)
from compactnets.errors import InputError
from compactnets.files import as_path
from compactnets.models.form import carry_form, form_of
from compactnets.models.registry import create_model
from compactnets.training.checkpoint import load_weights, read_record, read_tensors


def prepare_int8(recipe: ClassificationRecipe, source: ImageSource, init: str | Path | None = None) -> Prepared:
    """Build the quantised network of a checkpoint for training, calibrated on images of ``source``.

    The calibration images are spread evenly over the source, without augmentation; every process of a run finds the
    same ranges.

    Args:
        recipe: how to train; its network must be that of the checkpoint.
        source: training images.
        init: the float checkpoint.

    Raises:
        InputError: no checkpoint, one already trained for int8, for other classes or of another network; a
            network that cannot be traced; a calibration image that cannot be read.
    """
    init = None if init is None else as_path(init)
    network_of(init, "train --qat")
    assert init is not None
    found = read_record(init, CheckpointRecord)
    if found.int8 is None and found.class_names != list(source.class_names):
        raise InputError(
            f"{init} has other classes than {source.spec}, and --qat starts from a network trained on the same "
            f"classes: run the same command without --qat first"
        )
    prepared = prepare(recipe, source, init)
    settings = Settings(weight_bits=7)  # for all formats: which one it will be is not known yet
    passes_over = prepared.preprocess if recipe.on_error == "skip" else None
    images = calibration_part(source, settings.calibration_images, passes_over)
    pixels = read_pixels(images, prepared.preprocess)
    say(f"calibrating {recipe.model} on {len(pixels)} images of {source.spec}")
    quantized = calibrated(prepared.model.eval(), pixels, settings, quantize_output=True)
    quantized = learn_scales(settled(quantized, (), pixels, settings))
    carry_form(quantized, form_of(prepared.model))
    int8 = Int8Training(
        init=str(init),
        calibration_images=len(pixels),
        quantizers=[name for name, _ in quantizers(quantized)],
        logits=output_quantizer(quantized),
        weight_bits=7,
    )
    return replace(prepared, model=quantized, int8=int8, compile=lambda: compile_rounding(quantized))


def load_int8(path: str | Path, device: torch.device | str = "cpu") -> tuple[GraphModule, CheckpointRecord]:
    """Load the quantised network of a ``train --qat`` checkpoint: (N, C, H, W) -> (N, classes), as int8 computes it.

    Args:
        path: the checkpoint.
        device: where the simulation runs.

    Returns:
        the network, which simulates int8 with the logits quantised, in evaluation mode; and the record.

    Raises:
        InputError: a file or record that cannot be read, a checkpoint that was not trained for int8, or one whose
            quantised network this version builds differently.
    """
    path = as_path(path)
    record = read_record(path, CheckpointRecord)
    if record.int8 is None:
        raise InputError(f"{path} was not trained for int8: expected a checkpoint of train --qat")
    preprocess = Preprocess.from_dict(record.preprocess)
    example = torch.zeros(1, preprocess.channels, preprocess.size, preprocess.size)
    model = create_model(record.model, **record.arguments).eval()
    quantized = quantized_network(plain_graph(model, example), quantize_output=True)
    set_weight_bits(quantized, record.int8.weight_bits)
    quantized = learn_scales(quantized)
    names = [name for name, _ in quantizers(quantized)]
    if names != record.int8.quantizers:
        odd = sorted(set(names) ^ set(record.int8.quantizers))
        raise InputError(
            f"{path} was trained by a version that places its {len(record.int8.quantizers)} quantizers differently "
            f"from the {len(names)} here ({', '.join(odd[:2]) or 'their order differs'}): train again from "
            f"{record.int8.init}"
        )
    tensors = read_tensors(path)
    for key, values in tensors.items():
        if not torch.isfinite(values).all():
            raise InputError(f"{path} holds numbers that are not finite, in {key}: it cannot be used")
    carry_form(quantized, form_of(model))
    load_weights(quantized, tensors, record.model, path)
    return fix_scales(quantized).to(device).eval(), record
