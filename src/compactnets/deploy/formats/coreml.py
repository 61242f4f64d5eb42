"""Core ML: written and checked anywhere, run only on Apple systems."""

from __future__ import annotations

import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from compactnets.console import stage
from compactnets.deploy.formats.registry import INPUT, OUTPUT, Runner
from compactnets.deploy.quiet import quiet
from compactnets.errors import InputError
from compactnets.failures import scratch_folder

FLOAT32_ARRAY = 65568  # Core ML's type code (ArrayFeatureType.FLOAT32)


def write(model: nn.Module, example: Tensor, folder: Path) -> dict[str, Any]:
    """Write ``model.mlpackage`` in float32 for the shape of ``example``, and check its specification.

    Raises:
        InputError: the written specification has unexpected inputs or outputs.
    """
    return _write(model, example, folder, "FLOAT32")


def write_float16(model: nn.Module, example: Tensor, folder: Path) -> dict[str, Any]:
    """Write the same with weights and arithmetic in float16, and input and output in float32.

    Raises:
        InputError: as :func:`write`.
    """
    return _write(model, example, folder, "FLOAT16")


def _write(model: nn.Module, example: Tensor, folder: Path, precision: str) -> dict[str, Any]:
    with quiet(), own_scratch():
        import coremltools

        stage("tracing")
        traced = torch.jit.trace(model, example, check_trace=False)
        stage("converting to Core ML")
        package = coremltools.convert(
            traced,
            inputs=[coremltools.TensorType(INPUT, shape=tuple(example.shape), dtype=np.float32)],
            outputs=[coremltools.TensorType(OUTPUT, dtype=np.float32)],
            convert_to="mlprogram",
            minimum_deployment_target=coremltools.target.iOS16,
            compute_precision=coremltools.precision[precision],
            skip_model_load=True,
        )
        package.save(str(folder / "model.mlpackage"))
        specification = coremltools.utils.load_spec(str(folder / "model.mlpackage"))
    with torch.inference_mode():
        shapes = {INPUT: list(example.shape), OUTPUT: list(model(example).shape)}
    description = specification.description
    features = {feature.name: feature.type.multiArrayType for feature in (*description.input, *description.output)}
    found = {name: (list(array.shape), array.dataType) for name, array in features.items()}
    expected = {name: (shape, FLOAT32_ARRAY) for name, shape in shapes.items()}
    if found != expected:
        raise InputError(f"coremltools wrote {found} where {expected} was expected")
    operations = [
        operation.type
        for function in specification.mlProgram.functions.values()
        for block in function.block_specializations.values()
        for operation in block.operations
        if operation.type != "const"
    ]
    return {
        "specification": specification.specificationVersion,
        "operations": len(operations),
        "convolutions": operations.count("conv"),
    }


@contextmanager
def own_scratch() -> Iterator[None]:
    """Put temporary files in a folder that is removed: coremltools leaves its own behind."""
    before = tempfile.tempdir
    with scratch_folder() as scratch:
        tempfile.tempdir = str(scratch)
        try:
            yield
        finally:
            tempfile.tempdir = before


def open_runner(path: Path, threads: int | None) -> Runner:
    """Load into Core ML, on the CPU only."""
    import coremltools

    package = coremltools.models.MLModel(str(path), compute_units=coremltools.ComputeUnit.CPU_ONLY)

    lock = threading.Lock()  # Core ML does not guarantee concurrent calls on one model

    def run(images: np.ndarray) -> np.ndarray:
        with lock:
            logits: np.ndarray = package.predict({INPUT: images})[OUTPUT]
        return logits

    return run
