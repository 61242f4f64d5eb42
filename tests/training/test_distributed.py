"""Several processes against one, with the launcher that users have: torchrun."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from compactnets import create_model
from compactnets.classification.task import TASK
from compactnets.training.distributed import CPUSyncBatchNorm, World, _agree_on_name, synchronize_batchnorm

from .helpers import digits_part, make_tiny_recipe
from .processes import TOLERANCE, distance, run_processes

SETTINGS: dict[str, Any] = {"epochs": 2, "lr": 0.005, "augment": {"rotation": 10}}


def last_metrics(run: Path) -> dict[str, Any]:
    metrics: dict[str, Any] = json.loads((run / "metrics.jsonl").read_text().splitlines()[-1])
    return metrics


def test_two_processes_give_what_one_gives(tmp_path: Path) -> None:
    """The same images in the same batches, the same statistics, the same evaluation of 41 images, an odd number."""
    settings = {**SETTINGS, "epochs": 1, "ema_decay": 0.9, "sampling": "balanced", "class_weights": {"3": 2.0}}
    TASK.train(make_tiny_recipe(**settings), *digits_part(100, 41), tmp_path / "one")
    two = run_processes(tmp_path, 2, **settings)
    assert distance(two, tmp_path / "one") < TOLERANCE
    one_metrics, two_metrics = last_metrics(tmp_path / "one"), last_metrics(two)
    for key in ("train_loss", "val_loss", "top1_percent", "top5_percent"):
        assert two_metrics[key] == pytest.approx(one_metrics[key], rel=1e-4), key
    sessions = json.loads((two / "environment.json").read_text())["sessions"]
    assert [session["processes"] for session in sessions] == [2]


@pytest.mark.slow
def test_statistics_of_each_process_alone_are_others(tmp_path: Path) -> None:
    """So the test above would fail without the synchronisation."""
    settings = {**SETTINGS, "sync_batchnorm": False}
    TASK.train(make_tiny_recipe(**settings), *digits_part(100, 41), tmp_path / "one")
    assert distance(run_processes(tmp_path, 2, **settings), tmp_path / "one") > 10 * TOLERANCE


def test_cpu_statistics_are_those_of_batch_norm(monkeypatch: pytest.MonkeyPatch) -> None:
    """With one process, forward, gradients and running statistics equal torch's."""
    monkeypatch.setattr(torch.distributed, "all_reduce", lambda tensor: None)
    torch.manual_seed(0)
    theirs, ours = nn.BatchNorm2d(5), CPUSyncBatchNorm(5)
    nn.init.normal_(theirs.weight)
    nn.init.normal_(theirs.bias)
    ours.load_state_dict(theirs.state_dict())
    x = torch.randn(4, 5, 3, 2) * 3 + 1
    inputs = [x.clone().requires_grad_(), x.clone().requires_grad_()]
    weight = torch.randn(4, 5, 3, 2)
    outputs = [layer(value) for layer, value in zip((theirs, ours), inputs, strict=True)]
    for output in outputs:
        (output * weight).sum().backward()
    torch.testing.assert_close(outputs[1], outputs[0], rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(inputs[1].grad, inputs[0].grad, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(ours.weight.grad, theirs.weight.grad, rtol=1e-4, atol=1e-4)
    for key, value in theirs.state_dict().items():
        torch.testing.assert_close(ours.state_dict()[key], value, rtol=1e-5, atol=1e-6)
    theirs.eval(), ours.eval()
    torch.testing.assert_close(ours(x), theirs(x), rtol=1e-5, atol=1e-5)
    assert ours.train()(x.bfloat16()).dtype == torch.bfloat16


UNEQUAL = """
import sys, torch
from pathlib import Path
from compactnets.training.distributed import CPUSyncBatchNorm, join_world
with join_world("cpu") as world:
    torch.manual_seed(world.rank)
    x = torch.randn(1 + world.rank, 5, 3 + world.rank, 4, requires_grad=True)
    norm = CPUSyncBatchNorm(5)
    y = norm(x * 2 + world.rank)
    (y * torch.arange(y.numel()).view_as(y).sin()).sum().backward()
    torch.save([x.detach(), y.detach(), x.grad, norm.running_mean, norm.running_var], sys.argv[1] + str(world.rank))
"""


@pytest.mark.slow
def test_processes_with_images_of_other_sizes(tmp_path: Path) -> None:
    """Every pixel counts the same, as in one batch normalisation over the pixels of both."""
    (tmp_path / "script.py").write_text(UNEQUAL)
    launch = ["torch.distributed.run", "--standalone", "--nproc-per-node", "2", str(tmp_path / "script.py")]
    subprocess.run([sys.executable, "-m", *launch, str(tmp_path / "rank")], check=True, capture_output=True)
    ranks = [torch.load(tmp_path / f"rank{rank}", weights_only=True) for rank in (0, 1)]

    def pixels(tensor: torch.Tensor) -> torch.Tensor:
        return tensor.permute(0, 2, 3, 1).reshape(-1, 5, 1, 1)

    together = torch.cat([pixels(found[0]) for found in ranks]).requires_grad_()
    shift = torch.cat([torch.full_like(pixels(found[0]), rank) for rank, found in enumerate(ranks)])
    norm = nn.BatchNorm2d(5)
    y = norm(together * 2 + shift)
    factors = [torch.arange(found[1].numel()).view_as(found[1]).sin() for found in ranks]
    (y * torch.cat([pixels(factor) for factor in factors])).sum().backward()
    assert together.grad is not None
    torch.testing.assert_close(torch.cat([pixels(found[1]) for found in ranks]), y.detach(), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(torch.cat([pixels(found[2]) for found in ranks]), together.grad, rtol=1e-3, atol=1e-5)
    for found in ranks:
        torch.testing.assert_close(found[3], norm.running_mean)
        torch.testing.assert_close(found[4], norm.running_var)


def test_every_batch_norm_is_converted_and_keeps_its_state() -> None:
    model = create_model("menet_108_8x1_g3", num_classes=3)
    before = {key: value.clone() for key, value in model.state_dict().items()}
    converted = synchronize_batchnorm(model, World(size=2))
    layers = [layer for layer in converted.modules() if isinstance(layer, nn.BatchNorm2d)]
    assert layers
    assert all(isinstance(layer, CPUSyncBatchNorm) for layer in layers)
    assert before.keys() == converted.state_dict().keys()
    assert all(torch.equal(before[key], value) for key, value in converted.state_dict().items())


def test_another_batch_norm_is_said_to_stay_apart() -> None:
    model = nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2))
    with pytest.warns(UserWarning, match="BatchNorm1d is not synchronised between processes on cpu"):
        assert synchronize_batchnorm(model, World(size=2)) is model


def test_processes_started_again_never_take_what_the_dead_left(monkeypatch: pytest.MonkeyPatch) -> None:
    """One store for all attempts, as torchrun gives it, with tickets of processes that died."""
    store = torch.distributed.HashStore()
    names = set()
    for size in (3, 3, 2):
        for rank in range(1, 3):
            store.set(f"ticket {rank}", f"dead {len(names)} {rank}")
        with ThreadPoolExecutor(size) as processes:
            first = processes.submit(_agree_on_name, store, 0, size)
            time.sleep(0.1)  # long enough to answer the dead
            others = [processes.submit(_agree_on_name, store, rank, size) for rank in range(1, size)]
            (name,) = {process.result(timeout=30) for process in (first, *others)}
        assert name not in names
        names.add(name)
    monkeypatch.setattr("compactnets.training.distributed.PATIENCE", timedelta(seconds=0.1))
    with pytest.raises(TimeoutError, match=r"\[1, 2\] of 3 .*0:00:00.1"):
        _agree_on_name(store, 0, 3)
    with pytest.raises(torch.distributed.DistStoreError):
        _agree_on_name(store, 1, 3)


@pytest.mark.slow
def test_a_killed_process_restarts_all_of_them(tmp_path: Path) -> None:
    """torchrun's elastic restart: the run goes on from its last checkpoint and ends as it would have.

    One restart is enough, though the second process comes late, when the first has looked for its address.
    """
    settings = {**SETTINGS, "checkpoint_minutes": 0}
    calm, shot = tmp_path / "calm", tmp_path / "shot"
    for folder in (calm, shot):
        folder.mkdir()
    straight = run_processes(calm, 2, **settings)
    kill = f"""
import os, signal, time
dead, again = Path({str(shot / "dead")!r}), Path({str(shot / "again")!r})
if dead.exists():
    if os.environ["RANK"] == "0":
        again.touch()
    while not again.exists():
        time.sleep(0.1)
    time.sleep(4 * int(os.environ["RANK"]))
from compactnets.training.step import Learner
take = Learner.step
def step(self, batch, number):
    if number == 4 and self.world.rank == 1 and not dead.exists():
        dead.touch()
        os.kill(os.getpid(), signal.SIGKILL)
    return take(self, batch, number)
Learner.step = step
"""
    restarted = run_processes(shot, 2, before=kill, options=("--max-restarts", "1"), **settings)
    assert (shot / "dead").exists()
    assert len(json.loads((restarted / "environment.json").read_text())["sessions"]) >= 2
    assert (restarted / "last.safetensors").read_bytes() == (straight / "last.safetensors").read_bytes()


@pytest.mark.slow
def test_the_command_line_under_torchrun(tmp_path: Path) -> None:
    """One report, of the main process, and one line per error of it."""
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    command = [*launch, "-m", "compactnets", "train", "digits/quickstart", "--data", "digits", "--set", "epochs=2"]
    settings = ["--set", "schedule.warmup_epochs=0.5", "--model", "shufflenet_g3_x0_25", "--json"]
    options: dict[str, Any] = {"capture_output": True, "text": True, "check": False}
    done = subprocess.run([*command, *settings, "--output", str(tmp_path / "run")], **options)
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    assert result["final"]["images"] == 360
    again = subprocess.run(
        [*launch, "-m", "compactnets", "eval", "--checkpoint", str(tmp_path / "run" / "last.safetensors"), "--data"]
        + ["digits", "--json"],
        **options,
    )
    assert json.loads(again.stdout)["top1_correct"] == result["final"]["top1_correct"]
    wrong = subprocess.run([*command, "--output", str(tmp_path / "run"), "--set", "lr=7"], **options)
    assert wrong.returncode != 0
    assert "holds another run: " in wrong.stderr
