"""ncnn, written by its converter pnnx. An artifact takes one image at a time, of any size."""

from __future__ import annotations

import errno
import os
import shutil
import subprocess
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from compactnets.console import stage
from compactnets.deploy.formats.registry import Runner, other_side
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
    import pnnx

    one = example[:1]
    # pnnx takes a size that two examples share, also that of a feature map, for one that never changes
    shapes = [_shape(list(one.shape)), _shape([*one.shape[:2], *map(other_side, one.shape[2:])])]
    with scratch_folder() as scratch, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # TorchScript, which pnnx needs, is deprecated
        stage("tracing")
        # when torch itself writes a file, a full disk aborts the process
        (scratch / "model.pt").write_bytes(torch.jit.trace(model, one, check_trace=False).save_to_buffer())
        stage("converting with pnnx")
        command = [
            pnnx.EXEC_PATH,
            "model.pt",
            f"inputshape={shapes[0]}",
            f"inputshape2={shapes[1]}",
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
        for name in ("model.ncnn.param", "model.ncnn.bin"):
            shutil.move(scratch / name, folder / name)
    return {"layers": len(layers)}


def _shape(sides: list[int]) -> str:
    return "[" + ",".join(map(str, sides)) + "]f32"


def open_runner(path: Path, threads: int | None) -> Runner:
    """Load into ncnn on the CPU, in float32."""
    import ncnn

    net = ncnn.Net()
    net.opt.use_vulkan_compute = False
    for option in ("use_fp16_packed", "use_fp16_storage", "use_fp16_arithmetic", "use_bf16_storage"):
        setattr(net.opt, option, False)
    if threads:
        net.opt.num_threads = threads
    if net.load_param(str(path)) or net.load_model(str(path.with_suffix(".bin"))):
        raise InputError(f"{path} cannot be loaded by ncnn")
    source, target = net.input_names()[0], net.output_names()[0]

    def run(images: np.ndarray) -> np.ndarray:
        rows = []
        for image in images:
            extractor = net.create_extractor()
            extractor.input(source, ncnn.Mat(np.ascontiguousarray(image)))
            code, logits = extractor.extract(target)
            if code:
                raise InputError(f"{path} cannot run on images of {image.shape[1]} x {image.shape[2]}: code {code}")
            rows.append(np.array(logits))
        return np.stack(rows)

    return run
