"""ncnn, written by its converter pnnx. An artifact takes one image at a time, of any size."""

from __future__ import annotations

import errno
import os
import shutil
import subprocess
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from compactnets.console import stage
from compactnets.deploy.formats.registry import Runner, TensorRunner, other_side
from compactnets.errors import InputError
from compactnets.failures import scratch_folder

FULL = 2**16  # bytes free: with fewer a disk counts as full


def write(model: nn.Module, example: Tensor, folder: Path) -> dict[str, Any]:
    """Write ``model.ncnn.param`` and ``model.ncnn.bin`` in float32.

    Raises:
        InputError: an operator that ncnn does not have.
    """
    return _write(model, example, folder)


def write_float16(model: nn.Module, example: Tensor, folder: Path) -> dict[str, Any]:
    """Write the same with the weights in float16.

    Raises:
        InputError: an operator that ncnn does not have.
    """
    return _write(model, example, folder, float16=True)


def _write(model: nn.Module, example: Tensor, folder: Path, *, float16: bool = False) -> dict[str, Any]:
    one = example[:1]
    # pnnx takes a size that two examples share, also that of a feature map, for one that never changes
    other = torch.zeros(*one.shape[:2], *map(other_side, one.shape[2:]))
    return convert(model, [one], folder / "model.ncnn.param", others=[other], float16=float16)


def convert(
    model: nn.Module,
    examples: Sequence[Tensor],
    path: Path,
    *,
    others: Sequence[Tensor] = (),
    float16: bool = False,
) -> dict[str, Any]:
    """Write a network of any inputs and outputs as ``path`` (``.ncnn.param``) and its ``.ncnn.bin``.

    Args:
        model: the network.
        examples: its inputs, (1, ...) each: ncnn has no axis of images.
        path: of the main file.
        others: inputs of another size, where sizes are open.
        float16: whether weights are stored in float16.

    Raises:
        InputError: an operator that ncnn does not have.
    """
    import pnnx

    with scratch_folder() as scratch, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # TorchScript, which pnnx needs, is deprecated
        stage("tracing")
        # when torch itself writes a file, a full disk aborts the process
        (scratch / "model.pt").write_bytes(torch.jit.trace(model, tuple(examples), check_trace=False).save_to_buffer())
        stage("converting with pnnx")
        command = [
            pnnx.EXEC_PATH,
            "model.pt",
            f"inputshape={_shapes(examples)}",
            *([f"inputshape2={_shapes(others)}"] if others else []),
            f"fp16={int(float16)}",
        ]
        done = subprocess.run(
            command, cwd=scratch, capture_output=True, encoding="utf-8", errors="replace", check=False
        )
        if shutil.disk_usage(scratch).free < FULL:  # pnnx does not check that its files are complete
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(scratch))
        if done.returncode or not (scratch / "model.ncnn.param").is_file():
            last = (done.stderr or done.stdout).strip().splitlines()[-1:] or ["no message"]
            raise InputError(f"pnnx cannot convert this network to ncnn: {last[0]}")
        parameters = (scratch / "model.ncnn.param").read_text(encoding="utf-8")
        layers = [line.split()[0] for line in parameters.splitlines()[2:]]
        if foreign := sorted({layer for layer in layers if "." in layer or "::" in layer}):
            raise InputError(f"ncnn has no layer for {', '.join(foreign)} of this network: export to another format")
        shutil.move(scratch / "model.ncnn.param", path)
        shutil.move(scratch / "model.ncnn.bin", path.with_suffix(".bin"))
    return {"layers": len(layers)}


def _shapes(tensors: Sequence[Tensor]) -> str:
    return ",".join("[" + ",".join(map(str, one.shape)) + "]f32" for one in tensors)


def open_runner(path: Path, threads: int | None) -> Runner:
    """Load into ncnn on the CPU, in float32."""
    run_all = open_tensors(path, threads)
    return lambda images: run_all([images])[0]


def open_tensors(path: Path, threads: int | None) -> TensorRunner:
    """Load a file of any inputs and outputs into ncnn on the CPU, in float32; it takes one of each at a time."""
    import ncnn

    net = ncnn.Net()
    net.opt.use_vulkan_compute = False
    for option in ("use_fp16_packed", "use_fp16_storage", "use_fp16_arithmetic", "use_bf16_storage"):
        setattr(net.opt, option, False)
    if threads:
        net.opt.num_threads = threads
    if net.load_param(str(path)) or net.load_model(str(path.with_suffix(".bin"))):
        raise InputError(f"{path} cannot be loaded by ncnn")
    sources, targets = sorted(net.input_names()), sorted(net.output_names())  # in0, in1; out0, out1

    def run(arrays: Sequence[np.ndarray]) -> list[np.ndarray]:
        rows = []
        for each in zip(*arrays, strict=True):
            extractor = net.create_extractor()
            for source, values in zip(sources, each, strict=True):
                extractor.input(source, ncnn.Mat(np.ascontiguousarray(values)))
            row = []
            for target in targets:
                code, found = extractor.extract(target)
                if code:
                    shapes = " and ".join(" x ".join(map(str, values.shape)) for values in each)
                    raise InputError(f"{path} cannot run on {shapes}: code {code}")
                row.append(np.array(found))
            rows.append(row)
        return [np.stack(column) for column in zip(*rows, strict=True)]

    return run
