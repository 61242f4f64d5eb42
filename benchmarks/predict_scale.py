"""Measure ``predict --parquet`` on many small images: images per second, and memory, which must not grow with them.

The images are hard links to a few hundred PNG files, in folders of 1,000, in a temporary folder. Each measurement is
the command itself in a process of its own, whose memory is read several times a second (Linux).

python benchmarks/predict_scale.py cifar10 --images 20000 100000 --workers 1 --output record.json
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median
from typing import Any

import torch
from harness import write_record

import compactnets
from compactnets.data import open_source

DISTINCT = 500
INTERVAL = 0.2  # seconds between two looks at the memory
LOOKS = 25  # of which a figure is the median
PER_FOLDER = 1000
COMMAND = "from compactnets_cli import main; main()"
NOTE = (
    "Memory of the process and its workers together, in which a page that several share counts once (PSS): what they "
    "allocated (without pages of libraries, which the system drops and reads again) after a quarter, a half and three "
    "quarters of the time, and at the end; and the peak, of starting. The peak of the process alone is its RSS. The "
    "rates include reading, decoding and writing, and not starting."
)


def write_images(spec: str, folder: Path) -> list[Path]:
    """Write distinct images of a source."""
    source = open_source(spec, "val")
    paths = [folder / f"{number:04d}.png" for number in range(min(DISTINCT, len(source)))]
    folder.mkdir()
    for number, path in enumerate(paths):
        source.image(number).save(path)
    return paths


def link_images(paths: list[Path], folder: Path, count: int) -> Path:
    """Make a tree of so many images."""
    for number in range(count):
        path = folder / f"{number // PER_FOLDER:04d}" / f"{number:07d}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.hardlink_to(paths[number % len(paths)])
    return folder


def measure(arguments: list[str]) -> tuple[dict[str, Any], dict[str, int]]:
    """Run the command; return what it printed, and its memory in MB."""
    with tempfile.TemporaryFile("w+") as printed:
        process = subprocess.Popen([sys.executable, "-c", COMMAND, *arguments], stdout=printed)
        together: list[float] = []
        allocated: list[float] = []
        alone = 0.0
        while process.poll() is None:
            parts = [shared_out(number) for number in family(process.pid)]
            together.append(sum(whole for whole, _ in parts))
            allocated.append(sum(own for _, own in parts))
            alone = max(alone, field(Path(f"/proc/{process.pid}/status"), "VmHWM:"))
            time.sleep(INTERVAL)
        if process.returncode:
            raise SystemExit(f"the command failed with exit code {process.returncode}")
        printed.seek(0)
        late = {f"{share}%": median(allocated[len(allocated) * share // 100 :][:LOOKS]) for share in (25, 50, 75)}
        late["100%"] = median(allocated[-LOOKS - 1 : -1])  # the very last may be of a process that is ending
        memory = {f"allocated_mb_at_{share}": value for share, value in late.items()}
        memory |= {"peak_mb": max(together), "peak_mb_of_the_process": alone}
        return json.load(printed), {key: round(value) for key, value in memory.items()}


def family(number: int) -> list[int]:
    """Return a process and its children."""
    children: list[int] = []
    for path in Path(f"/proc/{number}/task").glob("*/children"):
        try:
            children += map(int, path.read_text().split())
        except OSError:
            continue
    return [number, *children]


def shared_out(number: int) -> tuple[float, float]:
    """Return the memory of a process in MB, and what it allocated of that; a page of n processes counts an n-th.

    The rest are pages of libraries, which the system drops and reads again as it likes.
    """
    whole, *own = (field(Path(f"/proc/{number}/smaps_rollup"), name) for name in ("Pss:", "Pss_Anon:", "Pss_Shmem:"))
    return whole, sum(own)


def field(path: Path, name: str) -> float:
    """Return a field of kB in MB; 0 where the process has ended."""
    try:
        return next(int(line.split()[1]) / 1000 for line in path.read_text().splitlines() if line.startswith(name))
    except (OSError, StopIteration):
        return 0.0


def main() -> None:
    """Parse the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("source", help="images to take, such as cifar10 or a folder")
    parser.add_argument("--weights", default="muffnet_x0_5.cifar10")
    parser.add_argument("--format", help="to which the network is exported first; default: it runs in PyTorch")
    parser.add_argument("--images", type=int, nargs="+", default=[20_000, 100_000])
    parser.add_argument("--workers", type=int, nargs="+", default=[0, 1])
    parser.add_argument("--note", default="", help="what else the machine did")
    parser.add_argument("--output", type=Path, help="JSON record to write")
    arguments = parser.parse_args()
    rows = []
    with tempfile.TemporaryDirectory() as name:
        paths = write_images(arguments.source, Path(name) / "distinct")
        network = ["--weights", arguments.weights]
        if arguments.format:
            exported = Path(name) / "exported"
            compactnets.export(arguments.weights, arguments.format, exported)
            network = ["--checkpoint", str(exported)]
        for count in arguments.images:
            tree = link_images(paths, Path(name) / f"{count}", count)
            for workers in arguments.workers:
                output = Path(name) / f"predictions-{count}-{workers}"
                options = ["--parquet", str(output), "--workers", str(workers), "--device", "cpu", "--json"]
                found, memory = measure(["predict", *network, str(tree), *options])
                assert (found["images"], found["failed"]) == (count, 0)
                row = {
                    "images": count,
                    "workers": workers,
                    "seconds": round(found["seconds"], 1),
                    "images_per_second": round(count / found["seconds"], 1),
                    **memory,
                    "parts": found["parts"],
                    "bytes": sum(path.stat().st_size for path in output.glob("*.parquet")),
                }
                rows.append(row)
                print(row, flush=True)
    if arguments.output:
        note = " ".join(filter(None, (NOTE, arguments.note)))
        what = {"weights": arguments.weights, "format": arguments.format, "data": Path(arguments.source).name}
        content = {"note": note, **what, "rows": rows}
        write_record(arguments.output, torch.device("cpu"), content)


if __name__ == "__main__":
    main()
