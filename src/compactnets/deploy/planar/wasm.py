"""Compile a generated network to WebAssembly with SIMD, and run that in Node.js.

The module imports nothing: whoever instantiates it gives it no function to call. It computes the same bits everywhere,
which relaxed SIMD would not.
"""

from __future__ import annotations

import functools
import importlib.util
import os
import shlex
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from compactnets.compiler import run_compiler
from compactnets.errors import InputError
from compactnets.failures import scratch_folder

# no browser has SIMD without bulk memory, which spares the module its own memcpy and memset
TARGET = ("-target", "wasm32-freestanding", "-msimd128", "-mbulk-memory", "-nostdlib", "-Wl,--no-entry")
FLAGS = ("-std=gnu99", "-O3", "-Wl,--strip-all")
RUNNER = Path(__file__).with_name("run.mjs")
PROBE = "int probe(void) { return 1; }\n"


def find_wasm_compiler() -> list[str]:
    """Return the command of a C compiler that makes WebAssembly: ``$CC``, the ``ziglang`` wheel's, or ``clang``.

    Raises:
        InputError: none of them is there, or does.
    """
    chosen = shlex.split(os.environ.get("CC", ""))
    if chosen and shutil.which(chosen[0]) and _makes_wasm(tuple(chosen)):
        return chosen
    if importlib.util.find_spec("ziglang"):
        return [sys.executable, "-m", "ziglang", "cc"]
    if (clang := shutil.which("clang")) and _makes_wasm((clang,)):
        return [clang]
    raise InputError(
        "no C compiler that makes WebAssembly was found ($CC, ziglang, clang with wasm-ld): install one with "
        "python -m pip install 'compactnets[c]'"
    )


@functools.cache
def _makes_wasm(compiler: tuple[str, ...]) -> bool:
    with scratch_folder() as folder:
        (folder / "probe.c").write_text(PROBE, encoding="utf-8")
        options = [*TARGET, "-Wl,--export=probe"]
        return run_compiler(compiler, options, folder / "probe.c", folder / "probe.wasm") is None


def compile_wasm(texts: dict[str, str], name: str) -> bytes:
    """Compile the source of a network that does not embed its weights.

    Args:
        texts: content of ``model.c`` and ``model.h``, by name.
        name: of the network in the source.

    Returns:
        a module with the exports ``memory``, ``__heap_base``, ``NAME_arena_bytes`` and ``NAME_run``.

    Raises:
        InputError: no compiler, or it fails; the message has its first error.
    """
    return _compiled(texts["model.c"], texts["model.h"], name, tuple(find_wasm_compiler()))


@functools.lru_cache(maxsize=64)
def _compiled(source: str, header: str, name: str, compiler: tuple[str, ...]) -> bytes:
    exports = [f"-Wl,--export={each}" for each in (f"{name}_arena_bytes", f"{name}_run", "__heap_base")]
    with scratch_folder() as folder:
        (folder / "model.c").write_text(source, encoding="utf-8")
        (folder / "model.h").write_text(header, encoding="utf-8")
        output = folder / "model.wasm"
        if failed := run_compiler(compiler, [*TARGET, *FLAGS, *exports], folder / "model.c", output):
            raise InputError(f"{failed} (for WebAssembly)")
        return output.read_bytes()


def run_wasm(code: bytes, name: str, weights: bytes, images: np.ndarray, outputs: int) -> np.ndarray:
    """Run a module in Node.js on (N, C, H, W) float32; return (N, outputs).

    Raises:
        InputError: no Node.js, or it cannot run the module.
    """
    node = shutil.which("node")
    if node is None:
        raise InputError("running WebAssembly needs Node.js, found no node on the PATH")
    with scratch_folder() as folder:
        images = np.ascontiguousarray(images, np.float32)
        for file, content in (("code", code), ("weights", weights), ("images", images.tobytes())):
            (folder / file).write_bytes(content)
        arguments: Sequence[str] = [str(RUNNER), str(folder), name, str(len(images)), str(outputs)]
        done = subprocess.run([node, *arguments], capture_output=True, stdin=subprocess.DEVNULL, check=False)
    if done.returncode:
        lines = [line for line in done.stderr.decode(errors="replace").splitlines() if "Error" in line]
        raise InputError(f"Node.js cannot run the WebAssembly of {name}: {(lines or ['no message'])[0].strip()}")
    return np.frombuffer(done.stdout, np.float32).reshape(len(images), outputs).copy()
