"""Change the settings of a recipe one at a time, and record what each gains: src/compactnets/recorded/levers.

python benchmarks/levers.py NAME DATA --output DIR [--recipe cifar/fast] [--epochs 5] [--seeds 2] [--only LEVER ...]

The levers are those of levers.yaml. Runs are evaluated on training images held out, never on the test set. Repeat
the command to go on; whatever is finished is recorded.
"""

from __future__ import annotations

import argparse
import re
from pathlib import Path
from statistics import mean, stdev

import torch
from harness import write_record  # beside this file

from compactnets.classification.grid import Member, Place, train_grid
from compactnets.classification.recipe import ClassificationRecipe
from compactnets.recorded import FOLDER
from compactnets.training.recipe_files import load_recipe
from compactnets.values import read_yaml

LEVERS = Path(__file__).with_name("levers.yaml")


def main() -> None:
    """Parse the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("name")
    parser.add_argument("data")
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--recipe", default="cifar/fast")
    parser.add_argument("--model", default="muffnet_x0_5")
    parser.add_argument("--epochs", type=int, default=5)
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--held-out", type=int, default=5000, help="training images to evaluate on")
    parser.add_argument("--set", action="append", default=[], help="of every run, such as kernels=own")
    parser.add_argument("--only", nargs="*", help="names of levers; default: all")
    parser.add_argument("--note", required=True, help="what else ran on the machine")
    given = parser.parse_args()
    levers = read_yaml(LEVERS, str(LEVERS))
    chosen = {name: levers[name] for name in given.only or levers}
    common = [f"hold_out={given.held_out}", f"epochs={given.epochs}", "schedule.warmup_epochs=1", *given.set]
    rows = []
    for name, settings in chosen.items():
        members = [
            Member(
                f"{re.sub(r'[^a-z0-9.-]+', '-', name)}-{seed}",
                load_recipe(ClassificationRecipe, given.recipe, [*common, *settings, f"seed={seed}"], given.model),
            )
            for seed in range(given.seeds)
        ]
        outcomes = train_grid(members, given.data, given.output, Place(device="cpu"))
        results = [outcome.result for outcome in outcomes if outcome.result]
        top1 = [result["final"]["top1_percent"] for result in results]
        rows.append(
            {
                "lever": name,
                "settings": settings,
                "top1_percent": top1,
                "mean": mean(top1) if top1 else None,
                "deviation": stdev(top1) if len(top1) > 1 else None,
                "seconds": [result["seconds"] for result in results],
                "errors": [outcome.error for outcome in outcomes if outcome.error],
            }
        )
        content = {
            "note": given.note,
            "recipe": given.recipe,
            "model": given.model,
            "data": Path(given.data).name,
            "epochs": given.epochs,
            "common": common,
            "rows": rows,
        }
        write_record(FOLDER / "levers" / f"{given.name}.json", torch.device("cpu"), content)
        print(f"{name}: {', '.join(f'{value:.2f}' for value in top1)}", flush=True)


if __name__ == "__main__":
    main()
