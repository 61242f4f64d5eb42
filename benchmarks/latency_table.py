"""Record what the latency table of ``compactnets search`` measures here: src/compactnets/recorded/latency_table.

python benchmarks/latency_table.py --output DIR --note TEXT [--formats c,onnx] [--families menet,muffnet]

For each format, with one thread: the latency of a unit by its width; of a learned M rounded to multiples of channels,
whole; and how far the sum of the parts is from whole networks of each family, for images of 32 x 32. Repeat the command
to go on: the tables are kept in DIR, and whatever is measured is recorded.
"""

from __future__ import annotations

import argparse
import itertools
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import optuna
import torch
from harness import write_record  # beside this file
from torch import nn

from compactnets.complexity import count
from compactnets.errors import InputError
from compactnets.models.learned import discretize
from compactnets.models.registry import create_model
from compactnets.recorded import FOLDER, load_results
from compactnets.search.alignment import MULTIPLES, excess_of
from compactnets.search.space import build, suggest
from compactnets.search.table import LatencyTable, measure_in_turns

SHAPE = (3, 32, 32)
SMALL = {"stem": "cifar", "num_classes": 10}
LEARNED = ("cifar10-sharing", "found")  # a recorded ablation and its row with a learned M

Maker = Callable[[], tuple[nn.Module, tuple[int, int, int]]]


def main() -> None:
    """Parse the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--formats", default="c,onnx")
    parser.add_argument("--families", default="menet,muffnet")
    parser.add_argument("--note", required=True, help="what else ran on the machine")
    given = parser.parse_args()
    torch.set_num_threads(1)
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    given.output.mkdir(parents=True, exist_ok=True)
    rows: list[dict[str, Any]] = []
    for name in given.formats.split(","):
        table = LatencyTable.at(given.output / f"{name}.json", name, 1)
        row = {"format": name, "multiple": table.multiple, "widths": [each.to_dict() for each in table.widths]}
        row["excess"] = {str(multiple): share for multiple, share in excess_of(table.widths).items()}
        row["learned"] = learned_rows(name)
        row["whole"] = []
        rows.append(row)
        save(rows, given.note)
        print(name, row["multiple"], row["excess"], row["learned"], flush=True)
    for row, family in itertools.product(rows, filter(None, given.families.split(","))):
        table = LatencyTable.at(given.output / f"{row['format']}-{family}.json", row["format"], 1)
        table.calibrate(networks(family))
        row["whole"].append({"family": family, "parts": len(table.parts), "errors": table.errors})
        save(rows, given.note)
        print(row["format"], family, [round(error, 3) for error in table.errors], flush=True)


def learned_rows(format_name: str) -> list[dict[str, Any]]:
    """Measure the M of :data:`LEARNED` rounded to every multiple, at the cost that it had."""
    record, key = LEARNED
    (row,) = (each for each in load_results("ablation")[record]["rows"] if each["key"] == key)
    found = discretized(row["arguments"]["sharing"])
    modules: dict[int, tuple[nn.Module, Sequence[int]]] = {
        multiple: (create_model("muffnet_x0_5", sharing=list(plans), **SMALL).eval(), SHAPE)
        for multiple, plans in found.items()
    }
    modules[0] = create_model("muffnet_x0_5", **SMALL).eval(), SHAPE  # the paper's M
    times = measure_in_turns(modules, format_name, 1)
    return [
        {
            "multiple": multiple or None,
            "macs": count(model, SHAPE)[0],
            "milliseconds": times[multiple],
        }
        for multiple, (model, _) in modules.items()
    ]


def discretized(sharing: Sequence[Sequence[Sequence[int]]]) -> dict[int, Any]:
    """Return a recorded M, as if it had just been learned, rounded to each of the multiples."""
    search = create_model("muffnet_x0_5", sharing="learned", **SMALL)
    with torch.no_grad():
        for stage, rows in zip(search.stages, sharing, strict=True):
            stage.logits.copy_(torch.tensor(rows, dtype=torch.float32).clamp(min=1e-6).log())
    return {multiple: discretize(search, multiple) for multiple in MULTIPLES}


def networks(family: str) -> Iterator[Maker]:
    """Yield makers of networks of the space at random, of any width."""
    chance = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0))

    def make() -> tuple[nn.Module, tuple[int, int, int]]:
        while True:
            try:
                return build(suggest(chance.ask(), [family]), "cifar", 10, 3).eval(), SHAPE
            except InputError:  # values that make no network
                continue

    while True:
        yield make


def save(rows: Sequence[dict[str, Any]], note: str) -> None:
    """Write the record."""
    record, key = LEARNED
    content = {"note": note, "shape": SHAPE, "threads": 1, "learned": f"{key} of {record}", "rows": rows}
    write_record(FOLDER / "latency_table" / "c-onnx.json", torch.device("cpu"), content)


if __name__ == "__main__":
    main()
