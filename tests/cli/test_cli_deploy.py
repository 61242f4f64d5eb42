"""compactnets export, and eval and predict on what it writes."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image

from compactnets.errors import InputError
from compactnets.recorded import load_results

from .helpers import Outcome, save_digits

Run = Callable[..., Outcome]


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    return save_digits(tmp_path / "digits.safetensors", "resnet20")


def test_an_artifact_is_evaluated_and_predicts_like_its_checkpoint(run: Run, checkpoint: Path, tmp_path: Path) -> None:
    folder = tmp_path / "artifact"
    exported = run("export", checkpoint, "--format", "onnx", "--output", folder, "--images", "digits")
    assert exported.code == 0, exported.err
    assert "same top-1" in exported.out
    assert "100 %" in exported.out
    results = [run("eval", "--checkpoint", path, "--data", "digits", "--json").json for path in (checkpoint, folder)]
    assert results[1]["top1_correct"] == results[0]["top1_correct"]
    assert results[1]["loss"] == pytest.approx(results[0]["loss"], rel=1e-5)
    Image.new("L", (8, 8), 90).save(tmp_path / "a.png")
    for path in (folder, folder / "model.onnx"):
        guesses = run("predict", "--checkpoint", path, tmp_path / "a.png", "--json").json[0]["guesses"]
        expected = run("predict", "--checkpoint", checkpoint, tmp_path / "a.png", "--json").json[0]["guesses"]
        assert [guess["label"] for guess in guesses] == [guess["label"] for guess in expected]
    wrong = run("eval", "--checkpoint", folder, "--data", "digits", "--device", "cuda")
    assert wrong.code == 2
    assert "cpu only, found --device cuda" in wrong.err


@pytest.mark.slow
def test_float16_predicts_like_its_checkpoint(run: Run, checkpoint: Path, tmp_path: Path) -> None:
    folder = tmp_path / "artifact"
    given = ["--format", "torch", "--precision", "float16", "--images", "digits", "--output", folder]
    exported = run("export", checkpoint, *given)
    assert exported.code == 0, exported.err
    assert "float16" in exported.out
    record = json.loads((folder / "artifact.json").read_text())
    assert (record["precision"], record["verification"]["tolerance"]) == ("float16", 0.01)
    Image.new("L", (8, 8), 90).save(tmp_path / "a.png")
    expected, *found = (
        run("predict", "--checkpoint", path, tmp_path / "a.png", "--json").json[0]["guesses"]
        for path in (checkpoint, folder, folder / "model.pt2")
    )
    assert found[0] == found[1]
    shares = [{guess["label"]: guess["probability"] for guess in guesses} for guesses in (expected, found[0])]
    assert all(share == pytest.approx(shares[1][label], abs=1e-2) for label, share in shares[0].items())


def test_exit_code_3_past_the_tolerance(run: Run, checkpoint: Path, tmp_path: Path) -> None:
    folder = tmp_path / "artifact"
    done = run("export", checkpoint, "--format", "onnx", "--output", folder, "--tolerance", "0")
    assert done.code == 3
    *stages, last = done.err.splitlines()
    assert last.startswith("compactnets: the onnx artifact differs from PyTorch by")
    assert stages
    assert all(line.startswith("resnet20 to onnx: ") for line in stages)
    assert not folder.exists()


def test_a_network_by_its_name(run: Run, tmp_path: Path) -> None:
    chosen = ["--size", "32", "--set", "num_classes=3", "--precision", "float16", "--json"]
    done = run("export", "resnet20", "--format", "onnx", "--output", tmp_path / "a", *chosen)
    assert done.code == 0, done.err
    assert done.json["input"] == [None, 3, None, None]
    assert done.json["precision"] == "float16"
    assert done.json["network"]["preprocess"]["size"] == 32
    assert json.loads((tmp_path / "a" / "artifact.json").read_text())["network"]["class_names"] == ["0", "1", "2"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["menet_108", "--format", "torch"], "no network is called 'menet_108'"),
        (["muffnet_x0_5", "--format", "tflite"], "no format is called 'tflite'"),
        (["nowhere.safetensors", "--format", "torch"], "no checkpoint at nowhere.safetensors"),
        (["muffnet_x0_5", "--format", "torch", "--images", "nowhere"], "nowhere"),
        (
            ["muffnet_x0_5", "--format", "executorch", "--precision", "float16"],
            "onnx, openvino, litert",
        ),
        (["muffnet_x0_5", "--format", "torch", "--precision", "int8"], "compactnets quantize"),
    ],
)
def test_wrong_input_is_one_line(run: Run, tmp_path: Path, arguments: list[str], message: str) -> None:
    done = run("export", *arguments, "--output", tmp_path / "a")
    assert done.code == 2
    assert message in done.err
    assert len(done.err.splitlines()) == 1
    assert not (tmp_path / "a").exists()


def test_a_missing_extra_is_one_line(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def absent(self: object) -> dict[str, str]:
        raise InputError("the format onnx needs onnx")

    monkeypatch.setattr("compactnets.deploy.formats.registry.Format.versions", absent)
    done = run("export", "muffnet_x0_5", "--format", "onnx", "--output", tmp_path / "a")
    assert (done.code, done.err) == (2, "compactnets: error: the format onnx needs onnx\n")


@pytest.mark.parametrize("text", ["", "0", "1,", "1,x", "-1", "1;2", "1e3", "\u0661"])
def test_numbers_of_threads_are_checked(run: Run, text: str) -> None:
    wrong = run("benchmark", "muffnet_x0_5", f"--threads={text}")
    assert (wrong.code, len(wrong.err.splitlines())) == (2, 1)
    assert "--threads" in wrong.err


@pytest.mark.slow  # a process for each network, twice
def test_benchmark(run: Run, tmp_path: Path) -> None:
    files = {name: tmp_path / name for name in ("r.json", "r.svg")}
    quick = ["muffnet_x0_5", "--formats", "eager", "--size", "32", "--rounds", "2", "--calls", "1"]
    done = run("benchmark", *quick, "--output", files["r.json"], "--plot", files["r.svg"])
    assert done.code == 0, done.err
    assert "muffnet_x0_5" in done.out
    assert all(path.stat().st_size > 1000 for path in files.values())
    again = run("benchmark", *quick, "--compare", files["r.json"], "--json")
    assert [change["network"] for change in again.json["compared"]] == ["muffnet_x0_5"]


@pytest.mark.parametrize("option", [("--compare", "nowhere.json"), ("--formats", "onnx,bogus")])
def test_benchmark_takes_no_wrong_input(run: Run, option: tuple[str, str]) -> None:
    wrong = run("benchmark", "muffnet_x0_5", *option)
    assert (wrong.code, len(wrong.err.splitlines())) == (2, 1)
    assert option[1].rpartition(",")[2] in wrong.err


@pytest.mark.parametrize(
    ("option", "words"),
    [
        (("--plot", "x.xyz"), ["--plot", ".svg", "x.xyz"]),
        (("--plot", "plot"), ["--plot", "plot"]),
        (("--plot", "file/x.svg"), ["--plot", "file"]),
        (("--output", "folder"), ["--output", "folder"]),
        (("--output", "file/r.json"), ["--output", "file"]),
        (("--output", "folder", "--plot", "file/x.svg"), ["--output", "folder", "--plot", "file/x.svg"]),
        (("--artifacts", "file"), ["--artifacts", "file"]),
        (("--compare", "file"), ["file"]),
    ],
)
def test_benchmark_looks_at_its_files_before_the_work(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, option: tuple[str, ...], words: list[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("compactnets.latency.benchmark.open_subject", lambda *_: pytest.fail("work was done"))
    (tmp_path / "file").touch()
    (tmp_path / "folder").mkdir()
    wrong = run("benchmark", "muffnet_x0_5", "--formats", "eager", *option)
    assert (wrong.code, len(wrong.err.splitlines())) == (2, 1)
    assert all(word in wrong.err for word in words)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file", "folder"]


def test_a_plot_is_drawn_though_the_results_cannot_be_written(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Both are checked before, and the disk may be full after the work."""
    results = load_results("latency")["planar"]
    monkeypatch.setattr("compactnets.latency.benchmark.benchmark", lambda *_, **__: dict(results))
    output, plot = tmp_path / "r.json", tmp_path / "r.svg"

    def fail(what: str) -> Callable[..., None]:
        def write(*_: object) -> None:
            raise InputError(f"cannot write {what}: no space left")

        return write

    monkeypatch.setattr("compactnets.latency.results.replace_text", fail("the results"))
    arguments = ("benchmark", "muffnet_x0_5", "--output", output, "--plot", plot)
    done = run(*arguments)
    assert (done.code, len(done.err.splitlines())) == (2, 1)
    assert "cannot write the results" in done.err
    assert "muffnet_x0_5" in done.out
    assert plot.stat().st_size > 1000
    monkeypatch.setattr("compactnets.latency.results.save_figure", lambda *_: fail("the plot")())
    done = run(*arguments)
    assert (done.code, len(done.err.splitlines())) == (2, 1)
    assert "cannot write the results: no space left; cannot write the plot" in done.err


@pytest.mark.parametrize(
    ("option", "words"),
    [
        *((("--max-drop", value), ["--max-drop", value]) for value in ("nan", "inf", "-inf", "101", "-100.5")),
        (("--ranges", "mode"), ["'mode'", "mse"]),
        (("--output", "file"), ["--output", "file"]),
        (("--eval", "nowhere"), ["nowhere"]),
    ],
)
def test_quantize_looks_at_its_options_before_the_work(
    run: Run,
    checkpoint: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    option: tuple[str, str],
    words: list[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("compactnets.classification.quantization.read_pixels", lambda *_: pytest.fail("work was done"))
    (tmp_path / "file").touch()
    common = {"--format": "onnx", "--calibration": "digits", "--eval": "digits", "--output": "int8"} | dict([option])
    wrong = run("quantize", checkpoint, *(part for pair in common.items() for part in pair))
    assert (wrong.code, len(wrong.err.splitlines())) == (2, 1)
    assert all(word in wrong.err for word in words)


@pytest.mark.parametrize("value", ["nan", "inf", "-1", "1.01"])
def test_export_takes_a_share_as_tolerance(run: Run, checkpoint: Path, tmp_path: Path, value: str) -> None:
    done = run("export", checkpoint, "--format", "torch", "--output", tmp_path / "a", "--tolerance", value)
    assert (done.code, len(done.err.splitlines())) == (2, 1)
    assert "--tolerance" in done.err
    assert value in done.err
    assert not (tmp_path / "a").exists()


def test_quantize_says_what_it_cannot_do(run: Run, checkpoint: Path, tmp_path: Path) -> None:
    common = ("--calibration", "digits", "--eval", "digits", "--output", tmp_path / "int8")
    refused = run("quantize", checkpoint, "--format", "ncnn", *common)
    assert refused.code == 2
    assert refused.err.strip().endswith(
        "int8 is available for onnx, openvino, executorch, litert, c, found --format ncnn"
    )
    refused = run(
        "quantize", checkpoint, "--format", "onnx", *common, "--keep-float", "stem", "--calibration-images", "4"
    )
    assert refused.code == 2
    assert "is called 'stem'" in refused.err
    assert not (tmp_path / "int8").exists()
