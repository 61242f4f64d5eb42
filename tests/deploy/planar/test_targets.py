"""Other machines: the compiler of the ``ziglang`` wheel makes programs for them, run by an emulator or by node."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from compactnets.compiler import find_compiler
from compactnets.deploy.planar.emit import Program, plan

from ..helpers import SIZE, small_form, tiny_network
from . import int8
from .helpers import WARNINGS, check_module, compile_in, missing, needs_program, write_alone

ZIG = [sys.executable, "-m", "ziglang", "cc"]


def needs_zig() -> None:
    if importlib.util.find_spec("ziglang") is None:
        missing("no ziglang: python -m pip install 'compactnets[c]'")


ARM = ["-target", "aarch64-freestanding-none", "-static", "-nostdlib", "-fno-stack-protector"]
BARE = """
#include "model.h"
static long call(long number, long a, long b, long c) {
    register long x8 __asm__("x8") = number, x0 __asm__("x0") = a, x1 __asm__("x1") = b, x2 __asm__("x2") = c;
    __asm__ volatile("svc 0" : "+r"(x0) : "r"(x8), "r"(x1), "r"(x2) : "memory");
    return x0;
}
static void stop(int code) { call(93, code, 0, 0); }
static void take(const char *path, void *to, long bytes) {
    long file = call(56, -100, (long)path, 0), found = 0;
    while (found < bytes) {
        long more = call(63, file, (long)to + found, bytes - found);
        if (more <= 0) stop(9);
        found += more;
    }
}
enum { PIXELS = MODEL_CHANNELS * MODEL_HEIGHT * MODEL_WIDTH };
static uint8_t weights[MODEL_WEIGHT_BYTES] __attribute__((aligned(64))), arena[ROOM] __attribute__((aligned(64)));
static float image[PIXELS], logits[MODEL_OUTPUTS];
static uint8_t pixels[PIXELS];
void _start(void) {
    if (model_arena_bytes() != ROOM) stop(8);
    take("model.bin", weights, sizeof weights), take("image", image, sizeof image), take("pixels", pixels, PIXELS);
    model_run(weights, arena, image, logits);
    call(64, 1, (long)logits, sizeof logits);
    model_run_pixels(weights, arena, pixels, logits);
    call(64, 1, (long)logits, sizeof logits);
    stop(0);
}
"""


@pytest.mark.parametrize(
    ("name", "precision", "flags"),
    [
        ("tiny", "float32", ["-O1"]),
        pytest.param("tiny", "float16", ["-O1"], marks=pytest.mark.slow),
        pytest.param("tiny", "float32", ["-O1", "-DPLANAR_VEC=1"], marks=pytest.mark.slow),
        pytest.param("menet_108_8x1_g3", "float32", ["-O3", "-mcpu=cortex_a76"], marks=pytest.mark.slow),
        pytest.param("muffnet_x0_5", "float16", ["-O3", "-mcpu=cortex_a53"], marks=pytest.mark.slow),
    ],
)
def test_arm(name: str, precision: str, flags: list[str], tmp_path: Path) -> None:
    """64-bit ARM with NEON, under an emulator: the same logits. Without a C library, whose build takes minutes."""
    needs_zig()
    emulator = needs_program("qemu-aarch64", "qemu-aarch64-static", package="qemu-user")
    model, side = (tiny_network(), SIZE) if name == "tiny" else small_form(name)
    alone = write_alone(model, (3, side, side), tmp_path, precision)
    (tmp_path / "main.c").write_text(BARE, encoding="utf-8")
    arena = [f"-DROOM={4 * plan(alone.program).layout.floats}"]
    compile_in(tmp_path, [*ZIG, *ARM, *arena, *flags, *WARNINGS, "main.c", "model.c", "-o", "main"])
    assert (tmp_path / "main").read_bytes()[18:20] == b"\xb7\x00"  # the machine that an ELF file names
    ran = subprocess.run([emulator, "./main"], cwd=tmp_path, capture_output=True, check=False)
    assert ran.returncode == 0, ran.stderr.decode(errors="replace")
    alone.check(ran.stdout, 1e-2 if precision == "float16" else 1e-4)


@pytest.mark.slow
@pytest.mark.parametrize("processor", ["cortex_a53", "cortex_a76", "neoverse_v1"])
def test_int8_on_arm(processor: str, tmp_path: Path) -> None:
    """The same bits without dot products, with those of signed bytes, and with those of both kinds."""
    needs_zig()
    emulator = needs_program("qemu-aarch64", "qemu-aarch64-static", package="qemu-user")
    _, graph, layers, images = int8.tiny()
    int8.write_files(graph, layers, images, tmp_path)
    (tmp_path / "main.c").write_text(BARE, encoding="utf-8")
    arena = f"-DROOM={4 * plan(Program(graph=graph, precision='int8')).layout.floats}"
    flags = [arena, "-O1", f"-mcpu={processor}", *WARNINGS]
    compile_in(tmp_path, [*ZIG, *ARM, *flags, "main.c", "model.c", "-o", "main"])
    ran = subprocess.run([emulator, "-cpu", "max", "./main"], cwd=tmp_path, capture_output=True, check=False)
    assert ran.returncode == 0, ran.stderr.decode(errors="replace")
    int8.check_output(ran.stdout, graph, layers, images)


WASM = ["-target", "wasm32-freestanding", "-msimd128", "-nostdlib"]
SCRIPT = """
import { readFileSync } from "node:fs";
const { instance } = await WebAssembly.instantiate(readFileSync("model.wasm"));
const { memory, __heap_base, model_arena_bytes, model_run, model_run_pixels } = instance.exports;
const [weights, image, pixels] = ["model.bin", "image", "pixels"].map((name) => readFileSync(name));
let end = __heap_base.value;
const place = (bytes) => {
    const start = (end + 63) & ~63;
    end = start + bytes;
    const pages = Math.ceil((end - memory.buffer.byteLength) / 65536);
    if (pages > 0) memory.grow(pages);
    return start;
};
const put = (content) => {
    const start = place(content.length);
    new Uint8Array(memory.buffer).set(content, start);
    return start;
};
const at = [weights, image, pixels].map(put);
const arena = place(model_arena_bytes()), logits = place(4 * OUTPUTS);
const print = () => process.stdout.write(new Uint8Array(memory.buffer.slice(logits, logits + 4 * OUTPUTS)));
model_run(at[0], arena, at[1], logits);
print();
model_run_pixels(at[0], arena, at[2], logits);
print();
"""


def wasm_command() -> list[str]:
    exports = [f"-Wl,--export={name}" for name in ("model_arena_bytes", "model_run", "model_run_pixels", "__heap_base")]
    return [*ZIG, *WASM, "-O1", *WARNINGS, "-Wl,--no-entry", *exports, "model.c", "-o", "model.wasm"]


@pytest.mark.parametrize("precision", ["float32", pytest.param("float16", marks=pytest.mark.slow)])
def test_webassembly(precision: str, tmp_path: Path) -> None:
    """WebAssembly with SIMD, by itself: it imports nothing from the page that runs it."""
    needs_zig()
    node = needs_program("node", package="nodejs")
    alone = write_alone(tiny_network(), (3, SIZE, SIZE), tmp_path, precision)
    compile_in(tmp_path, wasm_command())
    script = SCRIPT.replace("OUTPUTS", str(alone.expected.shape[1]))
    (tmp_path / "run.mjs").write_text(script, encoding="utf-8")
    ran = subprocess.run([node, "run.mjs"], cwd=tmp_path, capture_output=True, check=False)
    assert ran.returncode == 0, ran.stderr.decode(errors="replace")
    alone.check(ran.stdout, 1e-2 if precision == "float16" else 1e-4)


@pytest.mark.slow
def test_int8_in_webassembly(tmp_path: Path) -> None:
    """The same bits."""
    needs_zig()
    node = needs_program("node", package="nodejs")
    _, graph, layers, images = int8.tiny()
    int8.write_files(graph, layers, images, tmp_path)
    compile_in(tmp_path, wasm_command())
    (tmp_path / "run.mjs").write_text(SCRIPT.replace("OUTPUTS", str(graph.outputs)), encoding="utf-8")
    ran = subprocess.run([node, "run.mjs"], cwd=tmp_path, capture_output=True, check=False)
    assert ran.returncode == 0, ran.stderr.decode(errors="replace")
    int8.check_output(ran.stdout, graph, layers, images)


@pytest.mark.slow
def test_the_compiler_of_the_wheel(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Where there is no other: for this machine."""
    needs_zig()
    (tmp_path / "python").symlink_to(sys.executable)
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("CC", raising=False)
    assert find_compiler() == ZIG
    check_module(tiny_network(), torch.randn(1, 3, SIZE, SIZE), tolerance=1e-4)
