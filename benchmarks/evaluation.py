"""Record the accuracy of a checkpoint on a sample of images: src/compactnets/recorded/evaluation.

python benchmarks/evaluation.py NAME CHECKPOINT DATA --weights TEXT --of TEXT --note TEXT
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch
from harness import write_record  # beside this file

from compactnets.classification.checkpoint import load_checkpoint
from compactnets.classification.evaluation import evaluate, match_classes
from compactnets.data import Preprocess, open_source
from compactnets.recorded import FOLDER


def main() -> None:
    """Parse the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("name")
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("data")
    parser.add_argument("--weights", required=True, help="what a reader may call them")
    parser.add_argument("--of", required=True, help="what the images are, in a few words")
    parser.add_argument("--note", required=True, help="how the result compares with that on the validation set")
    given = parser.parse_args()
    model, record = load_checkpoint(given.checkpoint)
    source = open_source(given.data, "val")
    result = evaluate(
        model, source, Preprocess.from_dict(record.preprocess), class_map=match_classes(record, source)
    ).to_dict()
    content = {
        "model": record.model,
        "arguments": record.arguments,
        "weights": given.weights,
        "of": given.of,
        "note": given.note,
        "data": Path(given.data).name,
        "images": result["images"],
        "top1_percent": result["top1_percent"],
        "top5_percent": result["top5_percent"],
        "command": f"compactnets eval --checkpoint {given.checkpoint.name} --data {Path(given.data).name}",
    }
    write_record(FOLDER / "evaluation" / f"{given.name}.json", torch.device("cpu"), content)


if __name__ == "__main__":
    main()
