"""Networks of the page in the planar engine: compiled to WebAssembly, and compared with PyTorch as that."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn

from compactnets.console import stage, stages
from compactnets.data import Preprocess
from compactnets.deploy.export import export_copy
from compactnets.deploy.formats.c import read_network
from compactnets.deploy.planar.emit import emit
from compactnets.deploy.planar.wasm import compile_wasm, run_wasm
from compactnets.deploy.record import ArtifactRecord, Verification
from compactnets.deploy.verify import compare, load_pictures
from compactnets.errors import LimitError


@dataclass(frozen=True)
class Module:
    """A network as WebAssembly."""

    name: str  # of its functions: NAME_run
    code: bytes
    weights: bytes
    verification: Verification | None  # of the WebAssembly itself; None where Node.js or the network is missing


def make_module(record: ArtifactRecord, folder: Path, model: nn.Module | None) -> Module:
    """Compile the network of an artifact of the format ``c``.

    The source is generated from the artifact's description of the network; its ``model.c`` is not compiled.

    Args:
        record: the artifact's.
        folder: with its files.
        model: the network that it was made from, to compare with.

    Raises:
        InputError: an invalid artifact, or no compiler for WebAssembly.
        LimitError: the logits of the WebAssembly differ from PyTorch's by more than the artifact's tolerance.
    """
    with stages(f"{record.network.model} to WebAssembly"):
        program, weights = read_network(folder)
        program = program.model_copy(update={"embed": False})
        stage("compiling")
        code = compile_wasm(emit(program), program.name)
        module = Module(program.name, code, weights, None)
        if model is None or shutil.which("node") is None:
            return module
        stage("comparing with PyTorch")
        return Module(program.name, code, weights, _verify(module, record, export_copy(model)))


def _verify(module: Module, record: ArtifactRecord, model: nn.Module) -> Verification:
    preprocess, tolerance = Preprocess.from_dict(record.network.preprocess), record.verification.tolerance
    pictures, origin = load_pictures(None)
    images = torch.stack([preprocess(picture) for picture in pictures])
    with torch.inference_mode():
        expected = model(images).numpy()
    found = run_wasm(module.code, module.name, module.weights, images.numpy(), expected.shape[1])
    check = compare(expected, found, 1, preprocess.size)
    if not check.relative_difference <= tolerance:  # also if it is NaN
        raise LimitError(
            f"the WebAssembly of {record.network.model} differs from PyTorch by {check.relative_difference:.2g} of the "
            f"largest logit, beyond the tolerance of {tolerance:.2g}: it was not kept"
        )
    return Verification(ran=True, images=origin, tolerance=tolerance, checks=[check])
