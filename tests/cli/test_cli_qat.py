"""compactnets train --qat, and the verbs that meet its checkpoint."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image

from compactnets.deploy.int8 import Settings
from compactnets.deploy.int8 import training as qat

from .helpers import Outcome

Run = Callable[..., Outcome]
QUICK = ["--set", "preprocess.size=8", "--set", "batch_size=256", "--set", "compile=false", "--device", "cpu"]


@pytest.mark.slow  # trains twice
def test_from_float_to_an_int8_artifact(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(qat, "Settings", lambda: Settings(calibration_images=16, ranges="minmax"))
    start, run_folder = tmp_path / "float", tmp_path / "int8"
    begin = ["train", "cifar/short", "--data", "digits", *QUICK, "--set", "precision=float32"]
    done = run(*begin, "--model", "shufflenet_g3_x0_25", "--output", start)
    assert done.code == 0, done.err
    train = ["train", "cifar/qat", "--data", "digits", *QUICK, "--qat"]
    refused = run(*train, "--output", run_folder)
    assert (refused.code, len(refused.err.splitlines())) == (2, 1)
    assert "--init CHECKPOINT" in refused.err
    done = run(*train, "--init", start / "best.safetensors", "--output", run_folder, "--json")
    assert done.code == 0, done.err  # the network is that of --init
    checkpoint = run_folder / "best.safetensors"
    found = run("eval", "--checkpoint", checkpoint, "--data", "digits", "--device", "cpu", "--json").json
    assert found["top1_percent"] == done.json["best_percent"]
    Image.new("L", (8, 8)).save(tmp_path / "image.png")
    guesses = run("predict", "--checkpoint", checkpoint, tmp_path / "image.png", "--device", "cpu", "--json").json
    assert len(guesses[0]["guesses"]) == 5
    for wrong, message in (
        (["export", checkpoint, "--format", "torch", "--output", tmp_path / "a"], "was trained for int8"),
        (["benchmark", checkpoint], "was trained for int8"),
        ([*train, "--init", checkpoint, "--output", tmp_path / "a"], "trained for int8"),
        ([*begin, "--init", checkpoint, "--output", tmp_path / "a"], "expected a float checkpoint"),
        (
            ["convert", checkpoint, "--model", "muffnet_x0_5", "--output", tmp_path / "b.safetensors"],
            "expected keys of the MENet repository",
        ),
        (
            [
                "quantize",
                checkpoint,
                "--format",
                "onnx",
                "--calibration",
                "digits",
                "--eval",
                "digits",
                "--output",
                tmp_path / "a",
                "--keep-float",
                "stem",
            ],
            "is called 'stem'",
        ),
        (
            [*train, "--init", start / "best.safetensors", "--set", "seed=3", "--output", run_folder],
            "seed was 0, now 3",
        ),
    ):
        refused = run(*wrong)
        assert refused.code == 2, (wrong, refused.err)
        assert message in refused.err.splitlines()[-1]
        assert sum(line.startswith("compactnets: error: ") for line in refused.err.splitlines()) == 1
