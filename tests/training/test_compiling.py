"""With whose kernels a run trains, and compiling where it can pay, decided once in a run."""

from __future__ import annotations

import signal
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from compactnets.classification.task import TASK
from compactnets.errors import InputError
from compactnets.training import compiling
from compactnets.training.compiling import EAGER_STEPS, Compiling, choose_kernels, without_cuda_warnings
from compactnets.training.distributed import World
from compactnets.training.fused import functions
from compactnets.training.fused.native import kernels, missing
from compactnets.training.interruption import Interrupted
from compactnets.training.state import Progress
from compactnets.training.step import Learner

from .helpers import digits_part, make_tiny_recipe, stop_after

STEPS = 6
needs_compiler = pytest.mark.skipif(missing() is not None, reason="no C compiler")


@pytest.fixture
def compiled(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """What torch is asked to compile, as (mode); the network stays as it is."""
    asked: list[Any] = []

    def compile(model: Any, mode: str | None = None, dynamic: bool | None = None) -> Any:
        asked.append(mode)
        return model

    monkeypatch.setattr(torch, "compile", compile)
    return asked


def train(run: Path, **changes: Any) -> None:
    recipe = make_tiny_recipe(batch_size=16, epochs=2, channels_last=True, **changes)
    TASK.train(recipe, *digits_part(48, 10), run)


def test_a_short_run_is_not_compiled(compiled: list[Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    train(tmp_path, compile=True)
    assert compiled == []
    said = [line for line in capsys.readouterr().err.splitlines() if "compile" in line]
    assert len(said) == 1
    assert f"{STEPS - EAGER_STEPS} " in said[0]


@pytest.mark.parametrize("mode", ["default", "max-autotune"])
def test_a_mode_that_is_named_compiles(mode: str, compiled: list[Any], tmp_path: Path) -> None:
    train(tmp_path, compile=mode)
    assert compiled == [mode]


def test_a_run_that_goes_on_keeps_the_decision(
    compiled: list[Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """To the bit: the form of the network for the compiler rounds differently."""
    monkeypatch.setitem(compiling.COMPILE_SECONDS, "cpu", 0)
    train(tmp_path / "straight", compile=True)
    assert compiled == [None]
    take = Learner.step

    def step_and_signal(self: Learner, batch: Any, number: int) -> Any:
        if number in (1, EAGER_STEPS):
            signal.raise_signal(signal.SIGTERM)
        return take(self, batch, number)

    with monkeypatch.context() as patch:
        patch.setattr(Learner, "step", step_and_signal)
        with pytest.raises(Interrupted):
            train(tmp_path / "run", compile=True)
        assert len(compiled) == 1
        with pytest.raises(Interrupted):
            train(tmp_path / "run", compile=True)
        assert len(compiled) == 2
    monkeypatch.setitem(compiling.COMPILE_SECONDS, "cpu", 1e9)  # would decide otherwise
    train(tmp_path / "run", compile=True)
    assert len(compiled) == 3
    files = [tmp_path / name / "last.safetensors" for name in ("straight", "run")]
    assert files[0].read_bytes() == files[1].read_bytes()


@pytest.mark.parametrize(("steps", "pays"), [(100, False), (10_000, True)])
def test_what_is_left_decides(steps: int, pays: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = iter(range(0, 1000))
    monkeypatch.setattr(compiling.time, "perf_counter", lambda: next(clock))  # a second for each step
    done: list[bool] = []
    progress = Progress()
    one = Compiling(lambda: done.append(True), progress, steps, torch.device("cpu"))
    for _ in range(10):
        one.time(lambda: None)
        progress.step += 1
        one.decide()
    assert progress.compiled is pays
    assert len(done) == pays


@pytest.mark.parametrize(("device", "shown"), [("cpu", 2), ("cuda", 3)])
def test_warnings_of_a_gpu_that_is_not_used(device: str, shown: int) -> None:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        with without_cuda_warnings(torch.device(device)):
            for message, module in [
                ("CUDA initialization: Found no NVIDIA driver", "torch.cuda"),
                ("something else", "torch.nn"),
                ("CUDA", "compactnets"),
            ]:
                warnings.warn_explicit(message, UserWarning, "file.py", 1, module)
    assert len(caught) == shown


def train_muffnet(folder: Path, **changes: Any) -> None:
    settings = {"model": "muffnet_x0_5", "batch_size": 16, "channels_last": True, **changes}
    TASK.train(make_tiny_recipe(**settings), *digits_part(48, 10), folder)


@needs_compiler
def test_a_run_that_goes_on_is_the_same_to_the_bit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    used = []

    def counted() -> Any:
        used.append(1)
        return kernels()

    monkeypatch.setattr(functions, "kernels", counted)
    train_muffnet(tmp_path / "whole", kernels="own")
    assert used
    with monkeypatch.context() as patch:
        stop_after(patch, 1, signal.SIGTERM)
        with pytest.raises(Interrupted):
            train_muffnet(tmp_path / "parts", kernels="own")
    train_muffnet(tmp_path / "parts", kernels="own")
    whole, parts = ((tmp_path / name / "last.safetensors").read_bytes() for name in ("whole", "parts"))
    assert whole == parts


@needs_compiler
def test_other_kernels_are_announced(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with monkeypatch.context() as patch:
        stop_after(patch, 1, signal.SIGTERM)
        with pytest.raises(Interrupted):
            train_muffnet(tmp_path, kernels="own")
    capsys.readouterr()
    train_muffnet(tmp_path, kernels="torch")
    assert "the package's own kernels up to step 2" in " ".join(capsys.readouterr().err.split())


@pytest.fixture
def no_compiler(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    kernels.cache_clear()
    monkeypatch.setenv("CC", "no-such-cc")
    yield
    kernels.cache_clear()


CPU = World()
UNFIT: list[tuple[str, dict[str, Any], bool, World]] = [
    ("--qat", {}, False, CPU),
    ("a CPU, not cuda:1", {}, True, World(torch.device("cuda", 1))),
    ("one process, not 2", {}, True, World(size=2)),
    ("float32, not bfloat16", {"precision": "bfloat16"}, True, CPU),
    ("channels_last: true", {"channels_last": False}, True, CPU),
    ("not max-autotune", {"compile": "max-autotune"}, True, CPU),
]


@pytest.mark.parametrize(("told", "changes", "fusible", "world"), UNFIT)
def test_own_kernels_are_never_left_out_in_silence(
    told: str, changes: dict[str, Any], fusible: bool, world: World, capsys: pytest.CaptureFixture[str]
) -> None:
    recipe = make_tiny_recipe(**{"channels_last": True, "kernels": "own", **changes})
    with pytest.raises(InputError) as refused:
        choose_kernels(recipe, fusible, world)
    others = [each for each, *_ in UNFIT if each != told]
    assert told in str(refused.value)
    assert not [each for each in others if each in str(refused.value)]
    assert choose_kernels(recipe.model_copy(update={"kernels": "auto"}), fusible, world) == "torch"
    said = " ".join(capsys.readouterr().err.split())
    assert "torch's kernels" in said
    assert told in said
    assert choose_kernels(recipe.model_copy(update={"kernels": "torch"}), fusible, world) == "torch"
    assert capsys.readouterr().err == ""


@needs_compiler
@pytest.mark.parametrize("compile", [False, True])
@pytest.mark.parametrize("asked", ["own", "auto"])
def test_own_kernels_where_they_fit(asked: str, compile: bool, capsys: pytest.CaptureFixture[str]) -> None:
    recipe = make_tiny_recipe(channels_last=True, kernels=asked, compile=compile)
    assert choose_kernels(recipe, True, World()) == "own"
    assert capsys.readouterr().err == ""


@pytest.mark.usefixtures("no_compiler")
def test_without_a_compiler_torch_trains_or_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    train_muffnet(tmp_path / "auto", kernels="auto")
    said = " ".join(capsys.readouterr().err.split())
    assert said.count("training with torch's kernels") == 1
    assert "no-such-cc" in said
    with pytest.raises(InputError, match="kernels: own.*no-such-cc"):
        train_muffnet(tmp_path / "own", kernels="own")
    assert not (tmp_path / "own").exists()


@needs_compiler
def test_a_run_that_they_do_not_fit_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="precision"):
        train_muffnet(tmp_path / "run", kernels="own", precision="bfloat16")
    assert not (tmp_path / "run").exists()
