"""A run that was stopped, in any way and after any step, ends with the bits of one that was not."""

from __future__ import annotations

import os
import random
import select
import shutil
import signal
import subprocess
import sys
import time
from contextlib import nullcontext, suppress
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from compactnets import InputError
from compactnets.classification import setup
from compactnets.classification.recipe import ClassificationRecipe
from compactnets.classification.task import TASK
from compactnets.data import ImageSource
from compactnets.training.interruption import Interrupted
from compactnets.training.optimization import lr_factor
from compactnets.training.state import FOLDER
from compactnets.training.step import Learner

from .helpers import HARD, digits_part, make_tiny_recipe, metrics, stop_after, weights

Sources = tuple[ImageSource, ImageSource]
STEPS = 3  # of an epoch: 100 images in batches of 32
FEW = (1, 3, 5)  # in the middle, at the end and at the last but one of two epochs, each by another signal


@pytest.fixture(scope="module")
def sources() -> Sources:
    return digits_part(100, 40)


@pytest.fixture(scope="module")
def straight(sources: Sources, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that nothing stopped."""
    run = tmp_path_factory.mktemp("straight") / "run"
    TASK.train(make_tiny_recipe(**HARD), *sources, run)
    return run


@pytest.mark.parametrize(
    "step", [step if step in FEW else pytest.param(step, marks=pytest.mark.slow) for step in range(1, 2 * STEPS)]
)
def test_a_signal_after_any_step(
    step: int, sources: Sources, straight: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe, run = make_tiny_recipe(**HARD), tmp_path / "run"
    with monkeypatch.context() as patch:
        signum, code = [(signal.SIGTERM, 143), (signal.SIGINT, 130), (signal.SIGHUP, 129)][step % 3]
        stop_after(patch, step, signum)
        with pytest.raises(Interrupted) as stopped:
            TASK.train(recipe, *sources, run)
        assert stopped.value.code == code
    assert (run / FOLDER / f"step-{step + 1:09d}.pt").exists()
    # the settings that may change
    TASK.train(make_tiny_recipe(**HARD, workers=1, print_frequency=1), *sources, run)
    assert weights(run) == weights(straight)
    assert metrics(run) == metrics(straight)


def test_a_signal_during_the_evaluation(
    sources: Sources, straight: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe, run, measure = make_tiny_recipe(**HARD), tmp_path / "run", setup.evaluate_batches

    def signal_and_measure(*arguments: Any, **options: Any) -> Any:
        signal.raise_signal(signal.SIGTERM)
        return measure(*arguments, **options)

    with monkeypatch.context() as patch:
        patch.setattr(setup, "evaluate_batches", signal_and_measure)
        with pytest.raises(Interrupted):
            TASK.train(recipe, *sources, run)
    assert not (run / "metrics.jsonl").exists()
    TASK.train(recipe, *sources, run)
    assert weights(run) == weights(straight)
    assert metrics(run) == metrics(straight)


@pytest.mark.parametrize(
    ("signals", "code"),
    [
        ((signal.SIGHUP, signal.SIGHUP), 129),  # the shell's and the kernel's
        ((signal.SIGTERM, signal.SIGHUP), 143),  # systemd's
        ((signal.SIGHUP, signal.SIGTERM), 143),
    ],
)
def test_a_hang_up_never_makes_it_leave_at_once(
    signals: tuple[int, ...], code: int, sources: Sources, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stop_after(monkeypatch, 1, *signals)
    with pytest.raises(Interrupted) as stopped:
        TASK.train(make_tiny_recipe(), *sources, tmp_path)
    assert stopped.value.code == code
    assert (tmp_path / FOLDER / "step-000000002.pt").exists()


def test_a_signal_that_is_ignored_stays_so(sources: Sources, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As ``nohup`` sets it before the program starts."""
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        stop_after(monkeypatch, 1, signal.SIGHUP)
        assert TASK.train(make_tiny_recipe(), *sources, tmp_path).epochs == 1
        assert signal.getsignal(signal.SIGHUP) == signal.SIG_IGN
    finally:
        signal.signal(signal.SIGHUP, before)


def test_a_finished_run_is_not_trained_again(sources: Sources, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = TASK.train(make_tiny_recipe(), *sources, tmp_path)
    monkeypatch.setattr(Learner, "step", None)
    again = TASK.train(make_tiny_recipe(), *sources, tmp_path)
    assert again == first


def test_a_signal_before_the_first_step_leaves_at_once(
    sources: Sources, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first step may compile for minutes: there is nothing to save yet."""

    def never_ends(self: Learner, batch: Any, number: int) -> Any:
        signal.raise_signal(signal.SIGTERM)
        raise AssertionError("the signal did not end the step")

    with monkeypatch.context() as patch:
        patch.setattr(Learner, "step", never_ends)
        with pytest.raises(Interrupted):
            TASK.train(make_tiny_recipe(), *sources, tmp_path / "run")
    assert TASK.train(make_tiny_recipe(), *sources, tmp_path / "run").epochs == 1


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"epochs": 1, "schedule": {"warmup_epochs": 0.5}}, "epochs was 2, now 1"),
        ({"schedule": {"name": "linear"}}, "schedule.name was 'cosine', now 'linear'"),
        ({"lr": 0.01}, "lr was 0.05, now 0.01"),
        ({"seed": 7}, "seed was 0, now 7"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_another_recipe_is_refused(changes: dict[str, Any], message: str, sources: Sources, straight: Path) -> None:
    before = {path: path.read_bytes() for path in straight.rglob("*") if path.is_file()}
    with pytest.raises(InputError) as error:
        TASK.train(make_tiny_recipe(**{**HARD, **changes}), *sources, straight)
    assert message in str(error.value)
    assert "\n" not in str(error.value)
    assert {path: path.read_bytes() for path in straight.rglob("*") if path.is_file()} == before


@pytest.mark.parametrize("stopped", [True, pytest.param(False, marks=pytest.mark.slow)])
def test_epochs_may_be_raised(
    stopped: bool,
    sources: Sources,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Of a finished run, and of one that stopped: from there on the rate is that of the longer run, bit for bit."""
    short, long, run = make_tiny_recipe(**HARD), make_tiny_recipe(**{**HARD, "epochs": 4}), tmp_path / "run"
    with monkeypatch.context() as patch:
        if stopped:
            stop_after(patch, 1)
        with pytest.raises(Interrupted) if stopped else nullcontext():
            TASK.train(short, *sources, run)
    if stopped:
        shutil.copytree(run, tmp_path / "again")
    capsys.readouterr()
    rates: list[tuple[int, float]] = []
    take = Learner.step
    with monkeypatch.context() as patch:

        def watched(self: Learner, batch: Any, number: int) -> Any:
            rates.append((number, self.lr(number)))
            return take(self, batch, number)

        patch.setattr(Learner, "step", watched)
        result = TASK.train(long, *sources, run)
    assert result.epochs == 4
    assert "epochs were 2 and are 4 now" in capsys.readouterr().err
    assert [number for number, _ in rates] == list(range(2 if stopped else 2 * STEPS, 4 * STEPS))
    wanted = [long.peak_lr * lr_factor(long.schedule, 4, number / STEPS) for number, _ in rates]
    assert [rate for _, rate in rates] == wanted
    assert len(metrics(run)) == 4
    if not stopped:
        return
    # the same once more, with a stop in the part that was added
    with monkeypatch.context() as patch:
        stop_after(patch, 3 * STEPS)
        with pytest.raises(Interrupted):
            TASK.train(long, *sources, tmp_path / "again")
    TASK.train(long, *sources, tmp_path / "again")
    assert weights(tmp_path / "again") == weights(run)
    with pytest.raises(InputError, match="epochs was 4, now 2"):
        TASK.train(short, *sources, run)


def test_a_floor_of_steps_gives_more_epochs(
    sources: Sources, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Three steps an epoch: eight are two epochs and a part, and there are as many evaluations as before."""
    recipe = make_tiny_recipe(epochs=1, min_steps=8)
    result = TASK.train(recipe, *sources, tmp_path / "run")
    assert result.epochs == 3
    told = capsys.readouterr().err
    assert "epochs are 3, not 1" in told
    assert "3 steps an epoch" in told
    lines = metrics(tmp_path / "run")
    assert [("top1_percent" in line) for line in lines] == [False, False, True]
    # a cosine ends with the last epoch that results
    assert lines[-1]["lr"] == pytest.approx(recipe.peak_lr * lr_factor(recipe.schedule, 3, 8 / STEPS))
    TASK.train(recipe, *sources, tmp_path / "run")  # the same run, finished
    assert TASK.train(make_tiny_recipe(epochs=1, min_steps=10), *sources, tmp_path / "run").epochs == 4
    enough = make_tiny_recipe(epochs=2, min_steps=6)
    assert TASK.train(enough, *sources, tmp_path / "enough").epochs == 2


def test_other_data_are_refused(straight: Path) -> None:
    with pytest.raises(InputError, match="training data was '100 images, .*', now '96 images, "):
        TASK.train(make_tiny_recipe(**HARD), *digits_part(96, 40), straight)


@pytest.mark.parametrize(
    "damage",
    [
        "cut",
        "a pickle that runs code",
        *(pytest.param(name, marks=pytest.mark.slow) for name in ("empty", "other bytes")),
    ],
)
def test_a_damaged_checkpoint_falls_back(
    damage: str,
    sources: Sources,
    straight: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    recipe, run = make_tiny_recipe(**HARD, checkpoint_minutes=0), tmp_path / "run"
    with monkeypatch.context() as patch:
        stop_after(patch, 4)
        with pytest.raises(Interrupted):
            TASK.train(recipe, *sources, run)
    older, newest = sorted((run / FOLDER).iterdir())
    content = newest.read_bytes()
    if damage == "a pickle that runs code":
        torch.save({"progress": Canary(str(tmp_path / "canary"))}, newest)
    else:
        newest.write_bytes({"cut": content[: len(content) // 2], "empty": b"", "other bytes": b"x" * 999}[damage])
    TASK.train(recipe, *sources, run)
    assert f"{newest.name} cannot be read" in capsys.readouterr().err
    assert not (tmp_path / "canary").exists()
    assert weights(run) == weights(straight)
    assert older.name != newest.name


class Canary:
    """Writes a file when it is unpickled."""

    def __init__(self, path: str) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return os.mkdir, (self.path,)


def test_a_run_without_a_readable_checkpoint_is_refused(sources: Sources, tmp_path: Path) -> None:
    TASK.train(make_tiny_recipe(), *sources, tmp_path)
    for state in (tmp_path / FOLDER).iterdir():
        state.write_bytes(b"")
    with pytest.raises(InputError, match="no checkpoint in .* can be read"):
        TASK.train(make_tiny_recipe(), *sources, tmp_path)


CHILD = """
import os, signal, sys
from pathlib import Path
import yaml
sys.path.insert(0, {tests!r})
from helpers import digits_part
from compactnets.classification.task import TASK
from compactnets.training.optimization import lr_factor
from compactnets.classification.recipe import ClassificationRecipe
from compactnets.training.step import Learner

kill, take = {kill}, Learner.step
def step(self, batch, number):
    losses = take(self, batch, number)
    if number == kill:
        os.kill(os.getpid(), signal.SIGKILL)
    return losses
Learner.step = step
if __name__ == "__main__":
    recipe = ClassificationRecipe.model_validate(yaml.safe_load({recipe!r}))
    TASK.train(recipe, *digits_part(100, 40), Path({run!r}))
"""


def run_child(recipe: ClassificationRecipe, run: Path, kill: int | None) -> int:
    text = yaml.safe_dump(recipe.model_dump(mode="json"))
    code = CHILD.format(tests=str(Path(__file__).parent), kill=kill, recipe=text, run=str(run))
    threads = {"OMP_NUM_THREADS": str(torch.get_num_threads())}
    done = subprocess.run([sys.executable, "-c", code], env={**os.environ, **threads}, check=False, capture_output=True)
    assert done.returncode in (0, -signal.SIGKILL), done.stderr.decode()
    return done.returncode


@pytest.mark.slow
def test_kill_9_after_random_steps(straight: Path, tmp_path: Path) -> None:
    """The kernel ends the process in the middle of a step; at most the steps since the last checkpoint are lost."""
    recipe, run = make_tiny_recipe(**HARD, workers=2, checkpoint_minutes=0), tmp_path / "run"
    for kill in sorted(random.Random(time.time_ns()).sample(range(1, 2 * STEPS), 2)):
        assert run_child(recipe, run, kill) == -signal.SIGKILL
    assert run_child(recipe, run, None) == 0
    assert weights(run) == weights(straight)
    assert metrics(run) == metrics(straight)


@pytest.mark.slow
@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGTERM])
def test_the_command_line_saves_and_goes_on(signum: int, tmp_path: Path) -> None:
    """The signal reaches the loaders as well, as from a terminal or a scheduler; the exit code says which it was."""
    command = [sys.executable, "-m", "compactnets", "train", "digits/quickstart", "--data", "digits", "--model"]
    settings = ["epochs=3", "workers=2", "schedule.warmup_epochs=0.5", "print_frequency=1"]
    command += ["shufflenet_g3_x0_25", *(word for setting in settings for word in ("--set", setting)), "--output"]
    stopped, straight = tmp_path / "stopped", tmp_path / "straight"
    for _ in range(2):
        process = subprocess.Popen([*command, str(stopped)], stderr=subprocess.PIPE, text=True, start_new_session=True)
        assert process.stderr is not None
        lines = iter(process.stderr.readline, "")
        next(line for line in lines if ": 9/" in line or ": 20/" in line)
        started = time.monotonic()
        os.killpg(process.pid, signum)
        rest = list(lines)
        assert process.wait() == 128 + signum
        assert time.monotonic() - started < 10
        assert "rerun the command" in rest[-1]
        assert not any("Traceback" in line for line in rest)
    for run in (stopped, straight):
        done = subprocess.run([*command, str(run)], capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
    assert weights(stopped) == weights(straight)


@pytest.mark.slow
@pytest.mark.parametrize("ignored", [False, True], ids=["closed", "nohup"])
def test_a_terminal_that_is_closed(ignored: bool, tmp_path: Path) -> None:
    """A real one: the system sends SIGHUP, workers included, and whatever is printed from then on fails."""
    import pty

    command = [sys.executable, "-m", "compactnets", "train", "digits/quickstart", "--data", "digits", "--model"]
    settings = ["epochs=3", "workers=2", "schedule.warmup_epochs=0.5", "preprocess.size=8", "batch_size=256"]
    command += ["shufflenet_g3_x0_25", *(word for setting in settings for word in ("--set", setting)), "--output"]
    run = tmp_path / "run"
    process, terminal = pty.fork()
    if process == 0:
        os.chdir(tmp_path)  # nohup writes its file there
        os.execvp("env", ["env", *(["nohup"] if ignored else []), *command, str(run)])
    while not (run / "metrics.jsonl").exists():
        time.sleep(0.1)
        if select.select([terminal], [], [], 0)[0]:
            with suppress(OSError):  # nohup has turned away from the terminal
                os.read(terminal, 4096)
    os.close(terminal)
    _, status = os.waitpid(process, 0)
    assert os.waitstatus_to_exitcode(status) == (0 if ignored else 129)
    epochs = len((run / "metrics.jsonl").read_text().splitlines())
    assert epochs == 3 if ignored else epochs in (1, 2)
    done = subprocess.run([*command, str(run)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert len((run / "metrics.jsonl").read_text().splitlines()) == 3
