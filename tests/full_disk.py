"""Disks that are full: one that is made up within this process, and the verbs that meet it, on small inputs."""

from __future__ import annotations

import builtins
import errno
import io
import os
import shutil
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from compactnets import failures
from compactnets.deploy.subject import Classifier
from compactnets.failures import Space
from compactnets.training.checkpoint import save_checkpoint

from .deploy.helpers import Small, tiny_record, write_pictures
from .detection.data.helpers import HEIGHT, WIDTH, write_tree
from .detection.lively import lively_detector
from .latency.helpers import results, row

PLENTY = 10**12


class MadeUpDisk:
    """A folder that holds so many bytes: what Python writes past them meets ``ENOSPC`` in the middle of a file."""

    def __init__(self, root: Path, room: int, patch: pytest.MonkeyPatch) -> None:
        self.root, self.room, self.open = str(root), room, io.open
        disk = self

        class Raw(io.FileIO):
            def write(self, data: Any) -> int:
                size = memoryview(data).nbytes
                if not disk.room:
                    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
                taken = min(size, disk.room)
                disk.room -= taken
                return super().write(memoryview(data).cast("B")[:taken])

        def patched(file: Any, mode: str = "r", buffering: int = -1, encoding: Any = None, *more: Any, **options: Any):  # type: ignore[no-untyped-def]
            if not set(mode) & set("wax+") or not self.holds(file):
                return self.open(file, mode, buffering, encoding, *more, **options)
            buffered = io.BufferedWriter(Raw(file, mode.replace("b", "").replace("t", "")))
            return buffered if "b" in mode else io.TextIOWrapper(buffered, encoding=encoding)

        patch.setattr(io, "open", patched)
        patch.setattr(builtins, "open", patched)
        for name in [each for each in vars(shutil) if each.startswith("_USE_CP_")]:  # they pass Python by
            patch.setattr(shutil, name, False)
        patch.setattr(failures, "_free", lambda folder: self.room if self.holds(folder) else PLENTY)

    def holds(self, file: Any) -> bool:
        return isinstance(file, str | os.PathLike) and os.path.realpath(os.fspath(file)).startswith(self.root)


def _patch_network(patch: pytest.MonkeyPatch) -> None:
    patch.setattr("compactnets.classification.quantization.open_to_write", lambda *_: (Small(), tiny_record()))
    for place in ("web.site", "latency.benchmark"):
        patch.setattr(f"compactnets.{place}.open_subject", lambda *_: Classifier(Small(), tiny_record()))


def quantize(base: Path, output: Path, patch: pytest.MonkeyPatch) -> list[object]:
    _patch_network(patch)
    images = write_pictures(base / "images")
    settings = ["--format", "onnx", "--calibration-images", 5, "--max-drop", 100]
    return ["quantize", "a", "--calibration", images, "--eval", images, *settings, "--output", output]


def detect_export(base: Path, output: Path, patch: pytest.MonkeyPatch) -> list[object]:
    detector, record = lively_detector("ssd")
    save_checkpoint(base / "best.safetensors", detector.state_dict(), record)
    return ["export", base / "best.safetensors", "--format", "onnx", "--output", output]


def web(base: Path, output: Path, patch: pytest.MonkeyPatch) -> list[object]:
    _patch_network(patch)
    (base / "page" / "assets").mkdir(parents=True)
    (base / "page" / "assets" / "a.wasm").write_bytes(bytes(10_000))
    patch.setattr("compactnets.web.site.find_page", lambda: base / "page")
    return ["web", "--checkpoint", "a", "--no-serve", "--output", output]


def convert(base: Path, output: Path, patch: pytest.MonkeyPatch) -> list[object]:
    from compactnets.models.registry import create_model

    model = create_model("menet_108_8x1_g3")
    (base / "a.pth.tar").touch()
    patch.setattr("compactnets.classification.legacy.load_legacy", lambda _: model.state_dict())
    return ["convert", base / "a.pth.tar", "--model", "menet_108_8x1_g3", "--output", output / "new" / "a.safetensors"]


def report(base: Path, output: Path, patch: pytest.MonkeyPatch) -> list[object]:
    return ["papers", "report", "--output", output]


def boxes(base: Path) -> Path:
    tree = write_tree(base / "boxes", {"trainval": {str(number): [("cat", 2, 3, 20, 16)] for number in range(4)}})
    for number, path in enumerate((tree / "JPEGImages").iterdir()):  # all of them differ
        pixels = np.random.default_rng(number).integers(0, 256, (HEIGHT, WIDTH, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(path)
    return tree


def data_convert(base: Path, output: Path, patch: pytest.MonkeyPatch) -> list[object]:
    return ["data", "convert", boxes(base), "--to", "coco", "--output", output]


def data_convert_voc(base: Path, output: Path, patch: pytest.MonkeyPatch) -> list[object]:
    return ["data", "convert", boxes(base), "--to", "voc", "--output", output]


def data_split(base: Path, output: Path, patch: pytest.MonkeyPatch) -> list[object]:
    return ["data", "split", write_pictures(base / "images"), "--output", output]


def data_split_boxes(base: Path, output: Path, patch: pytest.MonkeyPatch) -> list[object]:
    return ["data", "split", boxes(base), "--output", output]


def benchmark_files(base: Path, output: Path, patch: pytest.MonkeyPatch, option: str, name: str) -> list[object]:
    found = {**results(*(row(f"network {number}", "onnx", 1.5) for number in range(20))), "failed": []}  # over 4 kB
    patch.setattr("compactnets.latency.benchmark.benchmark", lambda *_, **__: found)
    return ["benchmark", "a", option, output / "new" / name]


def benchmark_output(base: Path, output: Path, patch: pytest.MonkeyPatch) -> list[object]:
    return benchmark_files(base, output, patch, "--output", "r.json")


def benchmark_plot(base: Path, output: Path, patch: pytest.MonkeyPatch) -> list[object]:
    return benchmark_files(base, output, patch, "--plot", "r.svg")


def benchmark_artifacts(base: Path, output: Path, patch: pytest.MonkeyPatch) -> list[object]:
    _patch_network(patch)
    return ["benchmark", "a", "--formats", "onnx", "--rounds", 1, "--calls", 1, "--artifacts", output]


def draw(base: Path, output: Path, patch: pytest.MonkeyPatch) -> list[object]:
    return ["draw", "muffnet_x0_5", "--output", output / "new" / "m.svg"]


Prepare = Callable[[Path, Path, pytest.MonkeyPatch], list[object]]
VERBS: dict[str, Prepare] = {
    "quantize": quantize,
    "detect export": detect_export,
    "web": web,
    "convert": convert,
    "papers report": report,
    "data convert --to coco": data_convert,
    "data convert --to voc": data_convert_voc,
    "data split": data_split,
    "data split of boxes": data_split_boxes,
    "benchmark --output": benchmark_output,
    "benchmark --plot": benchmark_plot,
    "benchmark --artifacts": benchmark_artifacts,
    "draw": draw,
}
# these write to the temporary folder, too; a benchmark says that the core's limit is left out, and measures on
SCRATCH = ("quantize", "detect export", "web")


def everything(folder: Path) -> dict[str, bytes | None]:
    """The files and folders in a folder, with the content of files."""
    return {str(path.relative_to(folder)): path.read_bytes() if path.is_file() else None for path in folder.rglob("*")}


def fill(verb: str, base: Path, where: str) -> None:
    """Run a verb on a mounted disk that has ever more room, until it fits, and print what came of each run."""
    import subprocess
    from contextlib import redirect_stderr, redirect_stdout

    from compactnets_cli import main

    disk, large = base / "disk", base / "large"
    scratch = disk if where == "scratch" else large / "scratch"
    scratch.mkdir(exist_ok=True)
    tempfile.tempdir = str(scratch)
    os.environ["TMPDIR"] = str(scratch)
    with pytest.MonkeyPatch.context() as patch:
        (large / "inputs").mkdir()
        arguments = VERBS[verb](large / "inputs", (disk if where == "output" else large) / "out", patch)
        sys.argv = ["compactnets", *map(str, arguments)]
        size, checks = 4, (True, False)
        while True:
            for checked in checks:
                with pytest.MonkeyPatch.context() as inner:
                    if not checked:  # as where another program fills the disk meanwhile
                        inner.setattr(Space, "check", lambda self: None)
                    said, code = io.StringIO(), 0
                    try:
                        with redirect_stderr(said), redirect_stdout(io.StringIO()):
                            main()
                    except SystemExit as stop:
                        code = int(stop.code or 0)
                    except BaseException as error:
                        code, _ = -1, said.write(f"\n{type(error).__name__} escaped: {error}")
                left = (
                    []
                    if code == 0
                    else sorted(
                        str(path.relative_to(base))
                        for path in (*disk.rglob("*"), *(large / "out").rglob("*"), *scratch.rglob("*"))
                        if not path.name.startswith(("torchinductor", ".ses"))
                    )
                )
                lines = [line for line in said.getvalue().splitlines() if line.startswith("compactnets: ")]
                other = "Traceback" in said.getvalue() or len(lines) > 1
                last = said.getvalue().strip().splitlines()[-1:] if other or not lines else lines
                print("RESULT", repr((size, checked, code, last, left)), flush=True)
                if code == 0:
                    return
            size *= 4
            if size > 2**17:
                raise SystemExit("it never fits")
            subprocess.run(["mount", "-o", f"remount,size={size}k", disk], check=True)


if __name__ == "__main__":
    fill(sys.argv[1], Path(sys.argv[2]), sys.argv[3])
