"""One process of a search on a toy space, for the tests that run several.

Usage: ``python -m tests.search.one_process OUTPUT LOG OPTIONS``, with the options of ``find`` as JSON. Nothing is
trained or measured: what would be is a line of the log, with the process. A training does not end while the file
``LOG.hang`` is there; nor does a measurement with ``LOG.hold``. What a worker imports again is made up there too.
"""

from __future__ import annotations

import json
import os
import sys
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from compactnets.search import find, outcome, space, study

from .helpers import fake_benchmark, toy

LOG = Path(sys.argv[2])


def _note(*words: Any) -> None:
    with LOG.open("a") as file:
        file.write(" ".join(map(str, [*words, os.getpid()])) + "\n")


def _train(member: Any, data: str, folder: Path, *_: Any) -> Any:
    _note("train", member.name, member.recipe.epochs)
    path = folder / member.name / "last.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({"arguments": dict(member.recipe.model_arguments)}))
    path.with_suffix(".safetensors").touch()
    while LOG.with_suffix(".hang").exists():
        time.sleep(0.05)
    time.sleep(0.2)
    return SimpleNamespace(result={"final": {"top1_percent": 50.0 + member.recipe.epochs}}, error=None)


def _benchmark(*arguments: Any, **options: Any) -> Any:
    _note("measure")
    while LOG.with_suffix(".hold").exists():
        time.sleep(0.05)
    return fake_benchmark(*arguments, **options)


space.FAMILIES["menet"] = toy
study.train_member = _train  # type: ignore[assignment]
outcome.benchmark = _benchmark  # type: ignore[assignment]

if __name__ == "__main__":
    print(json.dumps(find("digits", sys.argv[1], ["macs=1M"], **json.loads(sys.argv[3])).to_dict()))
