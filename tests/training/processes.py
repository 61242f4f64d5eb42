"""Runs in several processes, and how far apart the weights of two runs are."""

from __future__ import annotations

import math
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml
from safetensors.torch import load_file
from torch import Tensor

from compactnets.classification.preparation import prepare

from .helpers import digits_part, make_tiny_recipe

# of the way that the weights went: float32 sums in another order, which steps amplify. Measured: 7e-5 after 6 steps
TOLERANCE = 1e-3
PATIENCE = 120  # seconds for a run that takes three
CHILD = """
import faulthandler, sys
faulthandler.dump_traceback_later({patience}, exit=True)  # a process that hangs says where
from pathlib import Path
import yaml
sys.path.insert(0, {tests!r})
from helpers import digits_part
from compactnets.training.distributed import join_world
from compactnets.classification.task import TASK
from compactnets.classification.recipe import ClassificationRecipe
{before}
with join_world("cpu") as world:
    recipe = ClassificationRecipe.model_validate(yaml.safe_load(Path({recipe!r}).read_text()))
    TASK.train(recipe, *digits_part(100, 41), Path({run!r}), world=world)
"""


def run_processes(folder: Path, processes: int, before: str = "", options: Sequence[str] = (), **settings: Any) -> Path:
    """Train in ``processes`` processes, each of which runs the code ``before`` first, and return the run's folder."""
    recipe, script, run = folder / "recipe.yaml", folder / "train.py", folder / "run"
    recipe.write_text(yaml.safe_dump(make_tiny_recipe(**settings).model_dump(mode="json")))
    tests = str(Path(__file__).parent)
    script.write_text(CHILD.format(patience=PATIENCE, tests=tests, recipe=str(recipe), run=str(run), before=before))
    launch = ["torch.distributed.run", "--standalone", "--nproc-per-node", str(processes), *options]
    done = subprocess.run(
        [sys.executable, "-m", *launch, str(script)],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        check=False,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert "Timeout (0:" not in done.stderr, done.stderr  # faulthandler's
    return run


def distance(run: Path, other: Path, first: Mapping[str, Tensor] | None = None) -> float:
    """Length of the difference between two runs' weights, as a share of the way from the first weights.

    Args:
        first: the first weights; default: those of the tiny classifier.
    """
    a, b = load_file(run / "last.safetensors"), load_file(other / "last.safetensors")
    if first is None:
        first = prepare(make_tiny_recipe(), digits_part(100, 41)[0]).model.state_dict()
    assert a.keys() == b.keys() == first.keys()
    keys = [key for key in a if a[key].is_floating_point()]
    apart = sum(float((a[key] - b[key]).double().square().sum()) for key in keys)
    way = sum(float((b[key] - first[key]).double().square().sum()) for key in keys)
    return math.sqrt(apart / way)
