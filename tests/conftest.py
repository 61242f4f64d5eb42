"""Fixtures shared by the tests."""

from __future__ import annotations

import functools
import math
import os
import shutil
import signal
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from filelock import FileLock

# not the package, nor PyTorch, outside functions: xdist waits for this file before it starts its workers, each of which
# reads it again
if TYPE_CHECKING:
    from compactnets.training.curves import Curves

Once = Callable[[str, Callable[[Path], object]], Path]

if "PYTEST_XDIST_WORKER" in os.environ:
    # the workers share the cores, and so do the programs that they start: two of two threads on two cores wait for one
    # another at every parallel loop
    import torch

    torch.set_num_threads(1)
    os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.pop("COLUMNS", None)  # of the terminal that the tests run in, which xdist hands on: output is a pipe's
for number, usual in ((signal.SIGINT, signal.default_int_handler), (signal.SIGHUP, signal.SIG_DFL)):
    if signal.getsignal(number) is signal.SIG_IGN:
        # a shell starts what it runs in the background so, and nohup; the program would rightly go on ignoring it
        signal.signal(number, usual)


def pytest_pycollect_makemodule() -> None:
    """Import the package before any file of tests, which may import a library that the package keeps from reporting."""
    import compactnets  # noqa: F401


@pytest.fixture(scope="session")
def shared() -> Path:
    """Folder with real data and reference weights; the test is skipped where it is absent."""
    root = Path(os.environ.get("COMPACTNETS_SHARED") or Path(__file__).parents[2] / "shared")
    if not (root / "data").is_dir():
        pytest.skip(f"real data not present: neither $COMPACTNETS_SHARED nor {root.name} beside the checkout")
    return root


@pytest.fixture(scope="session", autouse=True)
def _exporter_reads_its_operators_once() -> None:
    """Spare the second it takes torch's ONNX exporter, at every export, to parse the source of onnxscript's operators.

    What it parses never changes within a process; where torch keeps it elsewhere, nothing is spared.
    """
    try:
        from torch.onnx._internal._lazy_import import onnxscript_apis

        operators = onnxscript_apis.get_torchlib_ops
        onnxscript_apis._module.get_torchlib_ops = functools.cache(operators)
    except (ImportError, AttributeError):
        return


@pytest.fixture(scope="session", autouse=True)
def _runtimes_use_one_thread() -> Iterator[None]:
    """Run artifacts on one thread in a worker: most runtimes wait actively, for a core that the other worker has."""
    if "PYTEST_XDIST_WORKER" not in os.environ:
        yield
        return
    from compactnets.deploy.formats.registry import Format

    original = Format.open

    def open_with_one(self: Format, path: Path, threads: int | None = None, precision: str = "float32") -> Any:
        return original(self, path, threads or 1, precision)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Format, "open", open_with_one)
        yield


@pytest.fixture(scope="session", autouse=True)
def _curves_of_one_kind_are_drawn_once() -> Iterator[None]:
    """Spare a run of a second the quarter of it in which matplotlib draws what it drew for an earlier one.

    Runs are of one kind if they have the same epochs and scores, all finite or not; the file is that of the first.
    """
    from compactnets.files import replace_bytes
    from compactnets.training import run_folder
    from compactnets.training.curves import draw_curves

    drawn: dict[object, bytes] = {}

    def draw(history: Sequence[Mapping[str, Any]], path: Path, curves: Curves) -> None:
        points = [
            {key: value if key == "epoch" else math.isfinite(value) for key, value in line.items()} for line in history
        ]
        kind = str((points, curves))
        if kind in drawn:
            replace_bytes(path, drawn[kind])
        else:
            draw_curves(history, path, curves)
            drawn[kind] = path.read_bytes()

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(run_folder, "draw_curves", draw)
        yield


@pytest.fixture(scope="session")
def own_network(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """``found.safetensors``: a MuffNet whose M is in no paper, for 3 classes, with weights that nothing has trained."""
    import compactnets
    from compactnets.classification.checkpoint import CheckpointRecord
    from compactnets.data import Preprocess
    from compactnets.training.checkpoint import save_checkpoint

    stages = [(4, 20, 10), (8, 20, 5), (4, 40, 10)]  # layers, channels kept, channels sent to each later layer
    sharing = [
        [[0] * layer + [kept] + [sent] * (depth - 1 - layer) for layer in range(depth)] for depth, kept, sent in stages
    ]
    arguments = {"num_classes": 3, "in_chans": 3, "stem": "imagenet", "sharing": sharing}
    record = CheckpointRecord(
        model="muffnet_x0_5",
        arguments=arguments,
        class_names=["a", "b", "c"],
        preprocess=Preprocess(size=64, resize=64, mean=(0.5,) * 3, std=(0.5,) * 3).to_dict(),
        source="a test",
        license="none needed",
    )
    path = tmp_path_factory.mktemp("own") / "found.safetensors"
    save_checkpoint(path, compactnets.create_model("muffnet_x0_5", **arguments).state_dict(), record)
    return path


@pytest.fixture(scope="session")
def once(tmp_path_factory: pytest.TempPathFactory) -> Once:
    """Make a folder in one process of the run; the others wait for it."""
    root = tmp_path_factory.getbasetemp()
    root = root.parent if "PYTEST_XDIST_WORKER" in os.environ else root

    def make(name: str, write: Callable[[Path], object]) -> Path:
        folder = root / f"once-{name}"
        with FileLock(root / f"once-{name}.lock"):
            if not folder.exists():
                partial = root / f"once-{name}.partial"
                shutil.rmtree(partial, ignore_errors=True)
                write(partial)
                partial.rename(folder)
        return folder

    return make
