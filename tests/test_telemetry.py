"""Nothing that runs here reports home: in processes with a home of their own, and without the ``CI`` of a test run."""

from __future__ import annotations

import os
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import pytest

from compactnets import telemetry
from compactnets.deploy import FORMATS

from .deploy.conftest import needs
from .deploy.helpers import write_pictures

SOURCE = Path(__file__).parents[1] / "src"
REPORTING = (1, 29)  # the first ONNX Runtime that reports on Linux


def _run(home: Path, *command: str, **more: str) -> subprocess.CompletedProcess[str]:
    """Run Python as a new user would: nothing of this process's environment but the paths."""
    for name in ("cache", "config", "data", "tmp"):
        (home / name).mkdir(parents=True, exist_ok=True)
    own = {
        "HOME": str(home),
        "XDG_CACHE_HOME": str(home / "cache"),
        "XDG_CONFIG_HOME": str(home / "config"),
        "XDG_DATA_HOME": str(home / "data"),
        "TMPDIR": str(home / "tmp"),
        "PATH": os.environ["PATH"],
        "PYTHONPATH": str(SOURCE),
    }
    done = subprocess.run(
        [sys.executable, *command], env=own | more, capture_output=True, text=True, check=False, timeout=600
    )
    assert done.returncode in (0, 3), done.stderr
    return done


def _files(home: Path) -> list[str]:
    """What a process left; PyTorch's compiler has a folder of its own for what it builds."""
    found = [path.relative_to(home).as_posix() for path in home.rglob("*") if path.is_file() or path.is_symlink()]
    return [name for name in found if not name.startswith("tmp/torchinductor")]


EXPORT = """
import multiprocessing, sys
from pathlib import Path

def work(folder):  # what a worker of the benchmark does
    from compactnets.latency import worker
    from compactnets.deploy import FORMATS
    for name in sys.argv[2:]:
        worker.open_artifact(name, Path(folder, name, FORMATS[name].file), "float32", (1, 3, 32, 32), 1)

if __name__ == "__main__":
    import torch
    from compactnets.deploy import FORMATS
    from compactnets.deploy.rewrite import deploy_form
    folder = Path(sys.argv[1])
    layers = torch.nn.Conv2d(3, 4, 3), torch.nn.AdaptiveAvgPool2d(1), torch.nn.Flatten()
    model = deploy_form(torch.nn.Sequential(*layers))
    for name in sys.argv[2:]:
        (folder / name).mkdir()
        FORMATS[name].write(model, torch.zeros(1, 3, 32, 32), folder / name)
        FORMATS[name].open(folder / name / FORMATS[name].file)(torch.zeros(1, 3, 32, 32).numpy())
    process = multiprocessing.get_context("spawn").Process(target=work, args=(str(folder),))
    process.start()
    process.join()
    assert process.exitcode == 0, process.exitcode
    assert not [name for name in sys.modules if name.startswith("openvino_telemetry")]
"""


@pytest.mark.slow
@pytest.mark.parametrize("names", [("onnx", "openvino"), ("litert",)], ids=" ".join)
def test_no_file_appears_where_worker_processes_run(tmp_path: Path, names: tuple[str, ...]) -> None:
    """Written and run, here and in a process that was started from here: by the runtimes that report, and LiteRT."""
    for name in names:
        needs(name)
    script = tmp_path / "export.py"
    script.write_text(EXPORT)
    (tmp_path / "work").mkdir()
    home = tmp_path / "home"
    _run(home, str(script), str(tmp_path / "work"), *names)
    assert _files(home) == []


def test_runtimes_leave_nothing_in_a_fresh_home(tmp_path: Path) -> None:
    """Each is imported as loading an artifact imports it, and used."""
    needs("onnx")
    needs("openvino")
    code = """
import sys
from compactnets.deploy.formats import onnx as onnx_format, openvino as openvino_format
import onnx
tensor = onnx.helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, [1])
graph = onnx.helper.make_graph([onnx.helper.make_node("Relu", ["x"], ["y"])], "g", [tensor], [
    onnx.helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, [1])])
onnx.save(onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 18)], ir_version=8), sys.argv[1])
onnx_format.open_session(sys.argv[1])
openvino_format._core().read_model(sys.argv[1])
assert not [name for name in sys.modules if name.startswith("openvino_telemetry")]
"""
    _run(tmp_path / "home", "-c", code, str(tmp_path / "x.onnx"))
    assert _files(tmp_path / "home") == []


def test_a_home_shows_what_reports(tmp_path: Path) -> None:
    """The control of the test above: imported by itself, ONNX Runtime leaves an identifier."""
    needs("onnx")
    if tuple(map(int, version("onnxruntime").split(".")[:2])) >= REPORTING and sys.platform == "linux":
        _run(tmp_path / "onnx", "-c", "import onnxruntime")
        assert any("onnxruntime" in name for name in _files(tmp_path / "onnx"))


def test_what_a_person_has_set_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in telemetry.VARIABLES:
        monkeypatch.delenv(name)
    monkeypatch.setenv("HF_HUB_DISABLE_TELEMETRY", "0")
    monkeypatch.setenv("RAY_USAGE_STATS_ENABLED", "")
    telemetry.turn_off()
    assert {name: os.environ[name] for name in telemetry.VARIABLES} == {
        **telemetry.VARIABLES,
        "HF_HUB_DISABLE_TELEMETRY": "0",
    }


def test_the_package_that_reports_can_be_imported_again() -> None:
    """Only OpenVINO's import goes without it."""
    before = sys.modules.get("openvino_telemetry")
    with telemetry.without_openvino_telemetry():
        if before is None:
            with pytest.raises(ImportError):
                import openvino_telemetry  # noqa: F401
    assert sys.modules.get("openvino_telemetry") is before


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_verbs_that_run_artifacts_in_a_fresh_home(tmp_path: Path) -> None:
    """Export to every format, eval, predict and benchmark, by the command line."""
    home, pictures = tmp_path / "home", write_pictures(tmp_path / "pictures")
    for folder in list(pictures.iterdir()):
        folder.rename(folder.with_name(folder.name.removeprefix("n")))  # the classes that fresh networks have
    network = ("muffnet_x0_5", "--set", "stem=cifar", "--set", "num_classes=5")
    here = []
    for name, form in FORMATS.items():
        try:
            form.versions()
        except ValueError:
            continue
        here.append(name)
        output = str(tmp_path / name)
        _run(home, "-m", "compactnets", "export", *network, "--format", name, "--output", output)
        if form.runs_here:
            picture = str(next(pictures.rglob("*.png")))
            _run(home, "-m", "compactnets", "predict", "--checkpoint", output, picture)
            _run(home, "-m", "compactnets", "eval", "--checkpoint", output, "--data", str(pictures))
        assert _files(home) == [], name
    formats = ",".join(("eager", *(name for name in ("onnx", "openvino", "litert") if name in here)))
    _run(home, "-m", "compactnets", "benchmark", network[0], "--formats", formats, "--rounds", "1", "--size", "32")
    assert _files(home) == []
