"""Networks of the page in the planar engine: compiled to WebAssembly, and compared with PyTorch as that."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path

import torch

from compactnets.console import stage, stages
from compactnets.deploy.formats.c import read_network
from compactnets.deploy.planar.emit import emit
from compactnets.deploy.planar.wasm import compile_wasm, run_wasm
from compactnets.deploy.record import ImageArtifact, Verification
from compactnets.deploy.subject import Subject
from compactnets.errors import LimitError


@dataclass(frozen=True)
class Module:
    """A network as WebAssembly."""

    name: str  # of its functions: NAME_run
    code: bytes
    weights: bytes
    verification: Verification | None  # of the WebAssembly itself; None where Node.js or the network is missing


def make_module(record: ImageArtifact, folder: Path, subject: Subject | None) -> Module:
    """Compile the network of an artifact of the format ``c``.

    The source is generated from the artifact's description of the network; its ``model.c`` is not compiled.

    Args:
        record: the artifact's.
        folder: with its files.
        subject: the network that it was made from, to compare with.

    Raises:
        InputError: an invalid artifact, or no compiler for WebAssembly.
        LimitError: the logits of the WebAssembly differ from PyTorch's by more than the artifact's tolerance.
    """
    with stages(f"{record.title} to WebAssembly"):
        program, weights = read_network(folder)
        program = program.model_copy(update={"embed": False})
        stage("compiling")
        code = compile_wasm(emit(program), program.name)
        module = Module(program.name, code, weights, None)
        if subject is None or shutil.which("node") is None:
            return module
        stage("comparing with PyTorch")
        return Module(program.name, code, weights, _verify(module, record.verification.tolerance, subject.ready()))


def _verify(module: Module, tolerance: float, subject: Subject) -> Verification:
    pictures, origin = subject.pictures(None)
    images = torch.stack([subject.prepare(picture) for picture in pictures])
    with torch.inference_mode():
        expected = subject.model(images).numpy()
    outputs = expected[0].size
    found = run_wasm(module.code, module.name, module.weights, images.numpy(), outputs).reshape(expected.shape)
    check = subject.compare(expected, found, 1)
    if not check.relative_difference <= tolerance:  # also if it is NaN
        raise LimitError(
            f"the WebAssembly of {subject.title} differs from PyTorch by {check.relative_difference:.2g} of the "
            f"largest logit, beyond the tolerance of {tolerance:.2g}: it was not kept"
        )
    return Verification(ran=True, images=origin, tolerance=tolerance, checks=[check])
