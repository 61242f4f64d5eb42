"""Flash and RAM that a generated network takes on a microcontroller: its code, compiled for the core and counted."""

from __future__ import annotations

import re
import shutil
import struct
import subprocess
from pathlib import Path
from typing import Any

from compactnets.compiler import run_compiler
from compactnets.deploy.planar.emit import Program
from compactnets.errors import InputError, did_you_mean
from compactnets.failures import scratch_folder

COMPILER = "arm-none-eabi-gcc"
FLAGS = ("-std=gnu99", "-O2", "-ffreestanding", "-mthumb")
FPU = ("-mfloat-abi=hard",)
CORES = {
    "cortex-m3": ("-mcpu=cortex-m3",),
    "cortex-m4": ("-mcpu=cortex-m4", "-mfpu=fpv4-sp-d16", *FPU),
    "cortex-m7": ("-mcpu=cortex-m7", "-mfpu=fpv5-sp-d16", *FPU),
    "cortex-m33": ("-mcpu=cortex-m33", "-mfpu=fpv5-sp-d16", *FPU),
}


def check_core(core: str) -> None:
    """Raise unless code can be compiled for a core here.

    Raises:
        InputError: an unknown core, or no compiler; the message says which are known, or what to install.
    """
    if core not in CORES:
        raise InputError(f"--mcu is {', '.join(CORES)}, found {core!r}{did_you_mean(core, CORES)}")
    if shutil.which(COMPILER) is None:
        raise InputError(
            f"--mcu compiles with {COMPILER}, which is not on the PATH: apt-get install gcc-arm-none-eabi, or Arm's "
            f"GNU toolchain"
        )


def footprint(source: Path, program: Program, arena: int, weights: int, core: str) -> dict[str, Any]:
    """Compile a ``model.c`` that holds its weights, and count what it takes.

    Args:
        source: the ``model.c``, its ``model.h`` beside it.
        program: what it was generated from.
        arena: bytes of the arena.
        weights: bytes of the weights.
        core: one of ``CORES``.

    Returns:
        core, compiler and options, and bytes: ``flash_bytes``, of which ``weight_bytes`` and ``code_bytes`` (with the
        tables); ``ram_bytes``, of which ``arena_bytes``, ``pixel_bytes`` (the 8-bit image; 0 for int8, as it
        lies in the arena), ``output_bytes`` and
        ``stack_bytes`` (deepest call of ``NAME_run_pixels``, without interrupts), and ``static_bytes``.

    Raises:
        InputError: the source cannot be compiled.
    """
    options = [*FLAGS, *CORES[core]]
    with scratch_folder() as folder:
        compiled = Path(folder, "model.o")
        if failed := run_compiler([COMPILER], [*options, "-fstack-usage", "-c"], source, compiled):
            raise InputError(failed)
        read_only, written = section_bytes(compiled.read_bytes())
        stack = stack_bytes(compiled.with_suffix(".su").read_text(encoding="utf-8"), program.name)
    graph = program.graph
    ram = {
        "arena_bytes": arena,
        "pixel_bytes": 0 if program.precision == "int8" else graph.channels * graph.height * graph.width,
        "output_bytes": 4 * graph.outputs,
        "stack_bytes": stack,
        "static_bytes": written,
    }
    return {
        "core": core,
        "compiler": _version(),
        "options": options,
        "flash_bytes": read_only,
        "weight_bytes": weights,
        "code_bytes": read_only - weights,
        "ram_bytes": sum(ram.values()),
        **ram,
    }


def section_bytes(elf: bytes) -> tuple[int, int]:
    """Return the bytes that a 32-bit ELF file takes in memory: only read (code, constants), and written (variables).

    Initialised variables, which take flash as well, count as written alone: generated code has none.
    """
    start, size, number = *struct.unpack_from("<I", elf, 32), *struct.unpack_from("<HH", elf, 46)
    read_only = written = 0
    for index in range(number):
        _, _, flags, _, _, length = struct.unpack_from("<6I", elf, start + size * index)
        if flags & 2:  # SHF_ALLOC
            if flags & 1:  # SHF_WRITE
                written += length
            else:
                read_only += length
    return read_only, written


def stack_bytes(usage: str, name: str) -> int:
    """Return the deepest stack of ``NAME_run_pixels``: it calls ``layers``, which calls one function after another."""
    frames = {}
    for line in usage.splitlines():
        place, size, _ = line.split("\t")
        frames[re.split(r"[.]", place.rsplit(":", 1)[1])[0]] = int(size)
    outer = [f"{name}_run_pixels", "layers"]
    others = {key: size for key, size in frames.items() if key not in (*outer, f"{name}_run", f"{name}_weights")}
    return sum(frames.get(each, 0) for each in outer) + max(others.values())


def _version() -> str:
    done = subprocess.run([COMPILER, "-dumpfullversion"], capture_output=True, encoding="utf-8", check=False)
    return f"{COMPILER} {done.stdout.strip()}"
