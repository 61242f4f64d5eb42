"""Put the weights of a finished run into the package: float16, with record and model card, measured as they ship.

python benchmarks/ship_weights.py RUN TAG DATA [--init TEXT]

RUN/last.safetensors becomes src/compactnets/weights/NETWORK.TAG.*.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import torch

from compactnets.classification.checkpoint import load_checkpoint
from compactnets.classification.evaluation import evaluate
from compactnets.complexity import count
from compactnets.data import Preprocess, open_source
from compactnets.models.pretrained import FOLDER
from compactnets.recorded import read_classifier_run
from compactnets.training.checkpoint import load_weights, read_tensors, save_checkpoint

LICENSE = "Apache-2.0"
CARD = """# {name}

{model} of [compactnets](../../../README.md), trained by the project on {data}.

| | |
| --- | --- |
| top-1 on {data}'s {images:,} validation images | {top1:.2f} % as shipped (float16), {trained:.2f} % before rounding |
| parameters, multiply-adds | {params:,}, {macs:.1f} M at {size} x {size} |
| recipe | `{command}` |
| initial weights | {init} |
| weights | of the last of {epochs} epochs, averaged as `ema_decay` says; no epoch was chosen by its accuracy |
| seed, commit, date | {seed}, {commit}, {date} |
| device, versions | {device}; torch {torch}, timm {timm} |
| licence | {license}; the images are {data}'s, whose terms are their authors' |

Input: {channels} x {size} x {size}, scaled to [0, 1], mean {mean}, standard deviation {std}. Classes: {classes}.

```python
import compactnets
import timm

model = timm.create_model("{name}", pretrained=True).eval()
```

Trained for {epochs} epochs where MuffNet's paper has 300. It knows these classes at this size and nothing else.
"""


def main() -> None:
    """Parse the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path)
    parser.add_argument("tag")
    parser.add_argument("data", help="the validation images")
    parser.add_argument("--init", help="what --init of the run was: its name may mean other weights by now")
    given = parser.parse_args()
    if (given.init is not None) != ("--init" in read_classifier_run(given.run)["command"]):
        parser.error("say what the initial weights were, with --init, if and only if the run had some")
    run, checkpoint = read_classifier_run(given.run), given.run / "last.safetensors"
    model, record = load_checkpoint(checkpoint)
    halves = {
        key: value.half() if value.is_floating_point() else value for key, value in read_tensors(checkpoint).items()
    }
    load_weights(model, halves, record.model, checkpoint)
    preprocess = Preprocess.from_dict(record.preprocess)
    found = evaluate(model, open_source(given.data, "val"), preprocess).to_dict()
    name = f"{record.model}.{given.tag}"
    trained = run["epochs"][-1]["top1_percent"]
    shipped = record.model_copy(
        update={
            "source": f"trained by compactnets: {run['command']}",
            "license": LICENSE,
            "training": {
                "recipe": run["recipe"],
                "data": run["data"],
                "init": given.init,
                "epochs": len(run["epochs"]),
                "seed": run["seed"],
                "commit": run["commit"],
                "date": run["date"],
                "top1_percent": found["top1_percent"],
                "images": found["images"],
            },
        }
    )
    save_checkpoint(FOLDER / f"{name}.safetensors", halves, shipped)
    macs, params = count(model, (preprocess.channels, preprocess.size, preprocess.size))
    card = CARD.format(
        name=name,
        **{key: run[key] for key in ("model", "data", "command", "seed", "commit", "date", "device")},
        images=found["images"],
        top1=found["top1_percent"],
        trained=trained,
        init=given.init or "random",
        params=params,
        macs=macs / 1e6,
        size=preprocess.size,
        channels=preprocess.channels,
        epochs=len(run["epochs"]),
        mean=json.dumps(preprocess.mean),
        std=json.dumps(preprocess.std),
        classes=", ".join(record.class_names),
        license=LICENSE,
        **{key: run["versions"][key] for key in ("torch", "timm")},
    )
    (FOLDER / f"{name}.md").write_text(card, encoding="utf-8")
    print(f"{name}: {found['top1_percent']:.2f} % as float16, {trained:.2f} % trained")


if __name__ == "__main__":
    torch.set_grad_enabled(False)
    main()
