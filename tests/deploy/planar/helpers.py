"""Compiling a module with the planar engine and comparing every number that it gives with PyTorch's."""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from compactnets.compiler import find_compiler
from compactnets.deploy import deploy_form
from compactnets.deploy.planar.build import Library, load
from compactnets.deploy.planar.emit import Program, emit, pack, plan
from compactnets.deploy.planar.trace import trace
from compactnets.errors import InputError

# flags of the compiler: vectors of the machine's width, and of others
WIDTHS = ["", "-DPLANAR_VEC=1", "-DPLANAR_VEC=4", "-DPLANAR_VEC=8", "-DPLANAR_VEC=16", "-DPLANAR_REGISTERS=32"]


def needs_compiler() -> None:
    try:
        find_compiler()
    except InputError as error:
        pytest.skip(str(error))


def compile_module(
    model: nn.Module, example: Tensor, flags: Sequence[str] = (), threads: int = 1, precision: str = "float32"
) -> Library:
    needs_compiler()
    graph, weights, _ = trace(deploy_form(model), example[:1])
    program = Program(graph=graph, precision=precision)
    shape = (graph.channels, graph.height, graph.width)
    packed = pack(plan(program), weights)
    return load(emit(program), program.name, shape, graph.outputs, packed, flags, threads)


def flat_outputs(model: nn.Module, images: Tensor) -> list[Tensor]:
    """What a module gives for images, output by output, one row for an image."""
    with torch.inference_mode():
        outputs = model(images)
    return [each.flatten(1) for each in (outputs if isinstance(outputs, (tuple, list)) else [outputs])]


def check_module(
    model: nn.Module,
    images: Tensor,
    flags: Sequence[str] = (),
    tolerance: float = 1e-5,
    *,
    like: nn.Module | None = None,
    precision: str = "float32",
) -> Library:
    """Every output is within ``tolerance`` of its own largest number.

    Args:
        model: what is compiled; ``model.names`` are the names of the outputs.
        like: what gives the right numbers; default: ``model``.
    """
    model = model.eval()
    library = compile_module(model, images, flags, precision=precision)
    found = torch.from_numpy(library.run(images.numpy()))
    assert np.array_equal(found.numpy(), library.run(images.numpy())), "two runs differ"
    expected = flat_outputs(like or model, images)
    assert found.shape[1] == sum(each.shape[1] for each in expected)
    names = getattr(model, "names", [f"output {index}" for index in range(len(expected))])
    for name, part, right in zip(names, found.split([e.shape[1] for e in expected], dim=1), expected, strict=True):
        difference = float((part - right).abs().max()) / max(float(right.abs().max()), 1e-6)
        assert difference <= tolerance, f"{name} differs by {difference:.2g}"
    return library


MAIN = """
#include <stdio.h>
#include <stdlib.h>
#include "model.h"
static void *read(const char *path, size_t bytes, size_t align) {
    FILE *file = fopen(path, "rb");
    void *memory = 0;
    if (align <= 4) memory = malloc(bytes);
    else if (posix_memalign(&memory, align, bytes)) exit(9);
    if (!memory || !file || fread(memory, 1, bytes, file) != bytes) exit(9);
    fclose(file);
    return memory;
}
int main(void) {
    void *weights = read("model.bin", MODEL_WEIGHT_BYTES, 64), *arena = 0;
    size_t pixels = MODEL_CHANNELS * MODEL_HEIGHT * MODEL_WIDTH;
    float *image = (float *)read("image", 4 * pixels, 4), *logits = (float *)malloc(4 * MODEL_OUTPUTS);
    uint8_t *bytes = (uint8_t *)read("pixels", pixels, 1);
    if (posix_memalign(&arena, 64, model_arena_bytes())) return 9;
    model_run(weights, arena, image, logits);
    fwrite(logits, 4, MODEL_OUTPUTS, stdout);
    model_run_pixels(weights, arena, bytes, logits);
    fwrite(logits, 4, MODEL_OUTPUTS, stdout);
    free(weights), free(arena), free(image), free(logits), free(bytes);
    return 0;
}
"""


@dataclass(frozen=True)
class Alone:
    """The files of a network in a folder, with an image and pixels beside them, and the logits of both."""

    program: Program
    expected: Tensor

    def check(self, output: bytes, tolerance: float = 1e-4) -> None:
        """Hold what a program printed against PyTorch."""
        found = torch.from_numpy(np.frombuffer(output, np.float32).copy()).view(2, -1)
        assert float((found - self.expected).abs().max()) < tolerance * float(self.expected.abs().max())


def write_alone(model: nn.Module, shape: tuple[int, int, int], folder: Path, precision: str = "float32") -> Alone:
    graph, weights, _ = trace(deploy_form(model), torch.zeros(1, *shape))
    mean, std = (0.4, 0.5, 0.6)[: shape[0]], (0.2, 0.3, 0.4)[: shape[0]]
    program = Program(graph=graph, mean=mean, std=std, precision=precision)
    for name, text in emit(program).items():
        (folder / name).write_text(text, encoding="utf-8")
    torch.manual_seed(1)
    image, pixels = torch.randn(1, *shape), torch.randint(0, 256, (1, *shape))
    (folder / "main.c").write_text(MAIN, encoding="utf-8")
    (folder / "model.bin").write_bytes(pack(plan(program), weights))
    (folder / "image").write_bytes(image.numpy().tobytes())
    (folder / "pixels").write_bytes(pixels[0].permute(1, 2, 0).to(torch.uint8).contiguous().numpy().tobytes())
    normalised = (pixels / 255 - torch.tensor(mean).view(-1, 1, 1)) / torch.tensor(std).view(-1, 1, 1)
    with torch.inference_mode():
        return Alone(program, torch.cat([model(image), model(normalised)]))


WARNINGS = ["-Wall", "-Wextra", "-Werror"]


def compile_in(folder: Path, command: Sequence[str]) -> None:
    done = subprocess.run(command, cwd=folder, capture_output=True, encoding="utf-8", errors="replace", check=False)
    assert done.returncode == 0, done.stderr


def run_alone(model: nn.Module, shape: tuple[int, int, int], flags: list[str], folder: Path) -> None:
    """Compile with a main function of its own, run it on one image, and compare."""
    needs_compiler()
    alone = write_alone(model, shape, folder)
    sources = ["main.c", "model.c", "-lm", "-o", "main"]
    compile_in(folder, [*find_compiler(), *flags, *WARNINGS, "-D_GNU_SOURCE", *sources])
    ran = subprocess.run(["./main"], cwd=folder, capture_output=True, check=False)
    assert ran.returncode == 0, ran.stderr.decode(errors="replace")
    alone.check(ran.stdout)


def printed_command(folder: Path) -> str:
    """What the README of an artifact says to compile with, warnings being errors, and quickly."""
    readme = (folder / "README.md").read_text(encoding="utf-8")
    command = next(line.strip() for line in readme.splitlines() if line.strip().startswith("cc "))
    return command.replace("cc", shlex.join(find_compiler()), 1).replace("-O3", "-O1 -Wall -Wextra -Werror")


def compile_example(folder: Path) -> None:
    needs_compiler()
    done = subprocess.run(printed_command(folder), cwd=folder, shell=True, capture_output=True, check=False)
    assert done.returncode == 0, done.stderr.decode(errors="replace")


def run_example(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    run = ["./example", *arguments]
    return subprocess.run(run, cwd=folder, capture_output=True, encoding="utf-8", check=False)


def missing(reason: str) -> None:
    """Skip; where the machine is meant to have everything, fail."""
    if os.environ.get("COMPACTNETS_NEED_QEMU"):
        pytest.fail(reason)
    pytest.skip(reason)


def needs_program(*names: str, package: str) -> str:
    for name in names:
        if found := shutil.which(name):
            return found
    missing(f"no {names[0]}: apt-get install {package}")
    raise AssertionError
