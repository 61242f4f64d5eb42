"""Run int8 networks in C on an emulated microcontroller, and record the flash and RAM that they take.

python benchmarks/microcontroller.py NETWORK --output FILE [--set num_classes=10] [--sizes 96,128,160,192,224]
    [--mcu cortex-m7] [--flash 1048576] [--ram 524288] [--stack 4096] [--calibration SOURCE]

For every size, the network is quantised as ``compactnets quantize --format c --mcu`` does, linked with
``cortex_m/firmware.c`` against a memory of just that much flash and RAM, and run in QEMU on a real image. Its logits
must be those of this machine, bit by bit. QEMU is no model of time: none is recorded. Debian has all that it needs:
``apt-get install gcc-arm-none-eabi qemu-system-arm``.
"""

from __future__ import annotations

import argparse
import shutil
import subprocess
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import torch
from harness import write_record  # beside this file
from PIL import Image

from compactnets.classification.checkpoint import CheckpointRecord
from compactnets.classification.cost import parse_arguments
from compactnets.data import Preprocess, open_source
from compactnets.data.part import PartOfSource
from compactnets.deploy.formats.c import footprint, read_network
from compactnets.deploy.formats.registry import FORMATS
from compactnets.deploy.int8.steps import Settings, calibrated, read_pixels, settled, spread_over
from compactnets.deploy.metadata import image_metadata
from compactnets.deploy.planar.build import load
from compactnets.deploy.planar.emit import emit
from compactnets.deploy.planar.footprint import COMPILER, CORES, FLAGS, section_bytes
from compactnets.deploy.subject import Classifier, load_pictures
from compactnets.tasks.opening import open_to_write

BOARDS = {  # QEMU's name of a board with this core, and where its flash and RAM begin
    "cortex-m3": ("mps2-an385", 0x00000000, 0x20000000),
    "cortex-m4": ("mps2-an386", 0x00000000, 0x20000000),
    "cortex-m7": ("mps2-an500", 0x00000000, 0x20000000),
    "cortex-m33": ("mps2-an505", 0x10000000, 0x38000000),
}
EMULATOR = "qemu-system-arm"
FIRMWARE = Path(__file__).parent / "cortex_m"
CALIBRATION = 128


def write_int8(subject: Classifier, calibration: str | None, folder: Path) -> None:
    """Write an int8 artifact with embedded weights; without a source, five pictures give the ranges."""
    if calibration is None:
        pixels = torch.stack([subject.prepare(picture) for picture in load_pictures(None)[0]])
    else:
        images = open_source(calibration, "train")
        chosen = PartOfSource(images, spread_over(images, CALIBRATION).tolist())
        pixels = read_pixels(chosen, Preprocess.from_dict(subject.preprocess))
    fmt, settings = FORMATS["c"], Settings(weight_bits=8)
    reference = calibrated(subject.ready().model, pixels, settings, quantize_output=fmt.int8_output)
    fmt.write_int8(settled(reference, (), pixels, settings), pixels[:1], folder, embed_weights=True)
    taken, given = [None, *subject.shape], subject.output_shape(None, *subject.shape[1:])
    about = image_metadata(subject.record, subject.title, subject.preprocess, "int8", taken, given, subject.meaning)
    fmt.embed(folder, about)


def link(folder: Path, core: str, flash: int, ram: int, stack: int) -> str | None:
    """Compile and link the firmware of an artifact to ``firmware.elf``; return the linker's complaint, or nothing."""
    name = read_network(folder)[0].name
    _, flash_at, ram_at = BOARDS[core]
    script = (FIRMWARE / "board.ld").read_text(encoding="utf-8")
    values = {"FLASH_AT": flash_at, "FLASH_BYTES": flash, "RAM_AT": ram_at, "RAM_BYTES": ram, "STACK_BYTES": stack}
    for key, value in values.items():
        script = script.replace(key, str(value))
    (folder / "board.ld").write_text(script, encoding="utf-8")
    command = [COMPILER, *FLAGS, *CORES[core], "-Wall", "-Wextra", "-ffunction-sections", "-fdata-sections"]
    command += [f"-DNETWORK={name}", f"-DMACROS={name.upper()}", f"-I{folder}", str(FIRMWARE / "firmware.c")]
    command += [str(folder / "model.c"), "-nostdlib", "-Wl,--gc-sections", "-Wl,-T", str(folder / "board.ld"), "-lgcc"]
    command += ["-o", str(folder / "firmware.elf")]
    done = subprocess.run(command, capture_output=True, encoding="utf-8", check=False)
    if done.returncode == 0:
        return None
    complaints = [line.partition("ld: ")[2] for line in done.stderr.splitlines() if "overflowed" in line]
    if not complaints:
        raise SystemExit(done.stderr)
    return "; ".join(complaints)


def emulate(folder: Path, core: str, pixels: np.ndarray) -> tuple[np.ndarray, int]:
    """Run the firmware on an image of 8-bit pixels, (H, W, C); return its logits, and the bytes of stack it used."""
    (folder / "pixels").write_bytes(np.ascontiguousarray(pixels, np.uint8).tobytes())
    command = [EMULATOR, "-M", BOARDS[core][0], "-nographic", "-monitor", "none", "-serial", "none"]
    command += ["-semihosting-config", "enable=on,target=native", "-kernel", "firmware.elf"]
    done = subprocess.run(command, cwd=folder, capture_output=True, encoding="utf-8", check=False, timeout=3600)
    if done.returncode:
        raise SystemExit(f"the firmware ended with {done.returncode}: {done.stderr.strip()}")
    return np.fromfile(folder / "logits", np.float32), int(np.fromfile(folder / "stack", np.uint32)[0])


def here(folder: Path, pixels: np.ndarray) -> np.ndarray:
    """Run the same network on this machine: (outputs,)."""
    program, weights = read_network(folder)
    shape = (program.graph.channels, program.graph.height, program.graph.width)
    library = load(emit(program, weights), program.name, shape, program.graph.outputs, weights)
    return library.run(pixels[None])[0]


def measure(subject: Classifier, core: str, limits: tuple[int, int, int], calibration: str | None) -> dict[str, Any]:
    """Quantise a network for one size, count what it takes, and run it if it fits: one row of the record."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_int8(subject, calibration, folder)
        row: dict[str, Any] = {"size": subject.shape[1], **footprint(folder / "model.c", core)}
        row["complaint"] = link(folder, core, *limits)
        if row["complaint"] is None:
            picture: Image.Image = load_pictures(calibration)[0][0]
            side = min(picture.size)
            pixels = np.asarray(picture.convert("RGB").resize(subject.shape[1:][::-1], box=(0, 0, side, side)))
            row["firmware_flash_bytes"], row["firmware_ram_bytes"] = section_bytes(
                (folder / "firmware.elf").read_bytes()
            )
            found, row["used_stack_bytes"] = emulate(folder, core, pixels)
            expected = here(folder, pixels)
            if found.tobytes() != expected.tobytes():
                raise SystemExit(f"the logits differ: {found.tolist()} and here {expected.tolist()}")
            row |= {"bit_exact": True, "logits": len(found), "nonzero_logits": int(np.count_nonzero(found))}
    return row


def main() -> None:
    """Measure and record."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("network")
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--set", nargs="*", default=[], metavar="KEY=VALUE")
    parser.add_argument("--sizes", default="", help="sides of the images; default: the network's own")
    parser.add_argument("--mcu", default="cortex-m7", choices=list(BOARDS))
    parser.add_argument("--flash", type=int, default=2**20, help="bytes")
    parser.add_argument("--ram", type=int, default=2**19, help="bytes")
    parser.add_argument("--stack", type=int, default=4096, help="bytes of RAM that the stack has")
    parser.add_argument("--calibration", help="images for the ranges; default: parts of two photographs")
    arguments = parser.parse_args()
    for needed, package in ((COMPILER, "gcc-arm-none-eabi"), (EMULATOR, "qemu-system-arm")):
        if shutil.which(needed) is None:
            parser.error(f"{needed} is not on the PATH: apt-get install {package}")
    model, record = open_to_write(arguments.network, CheckpointRecord, "export", parse_arguments(arguments.set))
    subject, rows = Classifier(model, record), []
    for size in [int(each) for each in arguments.sizes.split(",") if each] or [subject.shape[1]]:
        row = measure(
            subject.resized((size, size)),
            arguments.mcu,
            (arguments.flash, arguments.ram, arguments.stack),
            arguments.calibration,
        )
        rows.append(row)
        state = row["complaint"] or f"bit-exact in {BOARDS[arguments.mcu][0]}, stack {row['used_stack_bytes']:,}"
        print(f"{size}: flash {row['flash_bytes']:,}, RAM {row['ram_bytes']:,}: {state}", flush=True)
    version = subprocess.run([EMULATOR, "--version"], capture_output=True, encoding="utf-8", check=True).stdout
    limits = {"flash_bytes": arguments.flash, "ram_bytes": arguments.ram, "stack_bytes": arguments.stack}
    content = {
        "network": arguments.network,
        "arguments": arguments.set,
        "classes": len(record.class_names),
        "board": BOARDS[arguments.mcu][0],
        "emulator": version.splitlines()[0],
        "limits": limits,
        "rows": rows,
    }
    write_record(arguments.output, torch.device("cpu"), content)


if __name__ == "__main__":
    main()
