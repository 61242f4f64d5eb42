"""Flash and RAM on a microcontroller, and the network on an emulated one: the same bits within its memory."""

from __future__ import annotations

import ctypes
import json
import shutil
import struct
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from compactnets.deploy import export
from compactnets.deploy.planar.build import aligned
from compactnets.deploy.planar.emit import Program, emit, pack, plan
from compactnets.deploy.planar.footprint import COMPILER, CORES, footprint, section_bytes, stack_bytes
from compactnets.errors import InputError

from ..helpers import SIZE, Small, tiny_record
from . import int8
from .helpers import needs_program

SCRIPT = Path(__file__).parents[3] / "benchmarks" / "microcontroller.py"


def needs_compiler_of_arm() -> None:
    if shutil.which(COMPILER) is None:
        pytest.skip(f"no {COMPILER}: apt-get install gcc-arm-none-eabi")


def test_an_unknown_core_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"cortex-m3.*cortex-m33, found 'cortex-m44'; did you mean"):
        export(Small(), tiny_record(), "c", tmp_path / "a", mcu="cortex-m44")
    assert not list(tmp_path.iterdir())


def test_a_missing_compiler_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    with pytest.raises(InputError, match=rf"{COMPILER}.*gcc-arm-none-eabi"):
        export(Small(), tiny_record(), "c", tmp_path / "a", mcu="cortex-m4")
    assert not list(tmp_path.iterdir())


def test_only_a_source_is_for_microcontrollers(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"--mcu is for c: the format onnx"):
        export(Small(), tiny_record(), "onnx", tmp_path / "a", mcu="cortex-m4")
    assert not list(tmp_path.iterdir())


def test_sections_are_counted_by_what_they_are() -> None:
    """Code and constants are flash; variables, zeroed or not, are RAM; names and symbols are neither."""
    sections = [(0, 0, 0), (1, 6, 100), (1, 2, 30), (1, 3, 7), (8, 3, 500), (3, 0, 999)]  # type, flags, size
    head = bytearray(52)
    struct.pack_into("<I", head, 32, 52)
    struct.pack_into("<HH", head, 46, 40, len(sections))
    rows = [struct.pack("<10I", 0, kind, flags, 0, 0, size, 0, 0, 0, 0) for kind, flags, size in sections]
    assert section_bytes(bytes(head) + b"".join(rows)) == (130, 507)


def test_the_stack_is_that_of_the_deepest_call() -> None:
    frames = {"layers": 40, "net_run": 90, "net_run_pixels": 16, "quad_window_3.constprop": 2100, "quad_sum_1": 8}
    usage = "".join(f"model.c:{line}:6:{name}\t{size}\tstatic\n" for line, (name, size) in enumerate(frames.items()))
    assert stack_bytes(usage, "net") == 40 + 16 + 2100
    inlined = "model.c:1:2:quad_sum_1\t8\tstatic\nmodel.c:1:2:net_run_pixels\t24\tstatic\n"
    assert stack_bytes(inlined, "net") == 32


def test_flash_and_ram_of_a_network(tmp_path: Path) -> None:
    """What the compiler makes is counted, the weights are in it once, and the header has the size of the arena."""
    needs_compiler_of_arm()
    images = int8.pictures(2, SIZE)
    graph, layers = int8.lowered(int8.simulation_of(Small(), images), images)
    program = Program(graph=graph, precision="int8", embed=True)
    ready = plan(program)
    packed = pack(ready, layers)
    for name, text in emit(program, packed).items():
        (tmp_path / name).write_text(text, encoding="utf-8")
    arena = 4 * ready.layout.floats
    assert f"MODEL_ARENA_BYTES {arena} " in (tmp_path / "model.h").read_text(encoding="utf-8")
    found = footprint(tmp_path / "model.c", program, arena, len(packed), "cortex-m4")
    assert (found["core"], found["weight_bytes"], found["static_bytes"]) == ("cortex-m4", len(packed), 0)
    assert found["flash_bytes"] == len(packed) + found["code_bytes"]
    assert 2_000 < found["code_bytes"] < 100_000
    assert found["pixel_bytes"] == 0  # they lie in the arena
    parts = ("arena_bytes", "pixel_bytes", "output_bytes", "stack_bytes", "static_bytes")
    assert found["ram_bytes"] == sum(found[part] for part in parts)
    assert 300 < found["stack_bytes"] < 4_000
    assert set(CORES["cortex-m4"]) < set(found["options"])


def test_the_image_may_lie_in_the_arena() -> None:
    """At the place that the code names, which is inside and overwritten; the logits are the same."""
    images = int8.pictures(2, SIZE)
    library = int8.compiled(*int8.lowered(int8.simulation_of(Small(), images), images))
    pixels = np.random.default_rng(0).integers(0, 256, (SIZE, SIZE, 3), np.uint8)
    expected, found = library.run(pixels[None])[0], np.empty(library.outputs, np.float32)
    arena = aligned(library.arena_bytes)
    function = library._library["model_pixels"]
    function.restype, function.argtypes = ctypes.c_void_p, [ctypes.c_void_p]
    place = function(arena.ctypes.data) - arena.ctypes.data
    assert 0 <= place <= library.arena_bytes - pixels.size
    arena[place : place + pixels.size] = pixels.ravel()
    library._run_pixels(library._address, arena.ctypes.data, arena.ctypes.data + place, found.ctypes.data)
    np.testing.assert_array_equal(found, expected)


def run_script(*options: str, output: Path) -> dict[str, object]:
    """Run the benchmark on the smallest MuffNet at 64 x 64 pixels; return the row of its record."""
    needs_program(COMPILER, package="gcc-arm-none-eabi")
    needs_program("qemu-system-arm", package="qemu-system-arm")
    network = ["muffnet_x0_5", "--set", "num_classes=10", "--sizes", "64"]
    command = [sys.executable, str(SCRIPT), *network, *options, "--output", str(output)]
    done = subprocess.run(command, capture_output=True, encoding="utf-8", check=False)
    assert done.returncode == 0, done.stderr
    (row,) = json.loads(output.read_text(encoding="utf-8"))["rows"]
    return row


@pytest.mark.slow
@pytest.mark.parametrize("core", CORES)
def test_the_same_bits_on_an_emulated_core(core: str, tmp_path: Path) -> None:
    """Without a C library, within 1 MB of flash and 512 KB of RAM; what was counted is what is linked and used."""
    row = run_script("--mcu", core, output=tmp_path / "record.json")
    assert (row["core"], row["complaint"], row["bit_exact"], row["nonzero_logits"]) == (core, None, True, 10)
    parts = ("weight_bytes", "arena_bytes", "output_bytes", "code_bytes", "stack_bytes")
    weights, arena, outputs, code, stack = (int(str(row[part])) for part in parts)
    assert -0.05 * code < int(str(row["firmware_flash_bytes"])) - weights - code < 4096
    assert 0 <= int(str(row["firmware_ram_bytes"])) - arena - outputs - 4096 < 128  # alignment
    assert abs(int(str(row["used_stack_bytes"])) - stack) < 256


@pytest.mark.slow
def test_what_does_not_fit_is_not_linked(tmp_path: Path) -> None:
    row = run_script("--flash", "400000", "--ram", "65536", output=tmp_path / "record.json")
    assert "FLASH" in str(row["complaint"])
    assert "RAM" in str(row["complaint"])
    assert "bit_exact" not in row
