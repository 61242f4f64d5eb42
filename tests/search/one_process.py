"""One process of a search on a toy space, for the tests that run several.

Usage: ``python -m tests.search.one_process OUTPUT LOG OPTIONS``, with the options of ``find`` as JSON. Nothing is
trained or measured: what would be is a line of the log. A training takes ``seconds``, and does not end while the file
``LOG.hang`` is there; nor does a measurement with ``LOG.hold``.
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from compactnets.search import find, outcome, space, study

from .helpers import fake_benchmark, toy


def main() -> None:
    """Search, and print the outcome as JSON."""
    output, log, options = Path(sys.argv[1]), Path(sys.argv[2]), json.loads(sys.argv[3])
    seconds = options.pop("seconds", 0.2)

    def note(*words: Any) -> None:
        with log.open("a") as file:
            file.write(" ".join(map(str, words)) + "\n")

    def train(member: Any, data: str, folder: Path, *_: Any) -> Any:
        note("train", member.name, member.recipe.epochs)
        path = folder / member.name / "last.json"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps({"arguments": dict(member.recipe.model_arguments)}))
        while log.with_suffix(".hang").exists():
            time.sleep(0.05)
        time.sleep(seconds)
        return SimpleNamespace(result={"final": {"top1_percent": 50.0 + member.recipe.epochs}}, error=None)

    def benchmark(*arguments: Any, **options: Any) -> Any:
        note("measure")
        while log.with_suffix(".hold").exists():
            time.sleep(0.05)
        return fake_benchmark(*arguments, **options)

    space.FAMILIES["menet"] = toy
    study.train_member = train  # type: ignore[assignment]
    outcome.benchmark = benchmark  # type: ignore[assignment]
    print(json.dumps(find("digits", output, ["macs=1M"], **options).to_dict()))


if __name__ == "__main__":
    main()
