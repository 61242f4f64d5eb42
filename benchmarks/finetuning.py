"""Fine-tune on five folders of 40 photographs: recipe `finetune`, the settings before it, and a plain timm script.

python benchmarks/finetuning.py NAME INIT SOURCE --output DIR [--seeds 0 1 2 3 4] [--classes …] [--only METHOD …]

SOURCE is a data set of which five classes are taken for each seed: a folder of Parquet files like that of CIFAR-100, or
CamVid's, of which windows are cut around the pixels of a class. Of each class 40 images are to train on; those to
evaluate on are the split ``val``. All methods take as many steps of the same batch. Repeat the command to go on.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import timm
import torch
from harness import write_record  # beside this file
from PIL import Image
from timm.data.transforms_factory import create_transform
from torch.nn import functional as F
from torch.utils.data import DataLoader
from torchvision.datasets import ImageFolder

import compactnets
from compactnets.classification.checkpoint import CheckpointRecord, read_weights
from compactnets.data import Preprocess, open_source
from compactnets.files import as_path
from compactnets.timing import spread
from compactnets.training.checkpoint import read_record

CLASSES, PHOTOGRAPHS, MOST_VALIDATION = 5, 40, 100
STEPS, BATCH, LR = 300, 32, 1e-3  # of the timm script, as finetune has them
CAMVID = ("sky", "building", "pole", "road", "pavement", "tree", "sign", "fence", "car", "pedestrian", "bicyclist")
WINDOW, LEAST_SHARE = 112, 0.1  # of CamVid: pixels of a window's side, and the share that is of its class


def make_folders(source: Path, names: list[str] | None, seed: int, folder: Path) -> None:
    """Write ``SPLIT/CLASS/NUMBER.png`` of five classes; the seed chooses images, and classes unless they are named."""
    choose = np.random.default_rng(seed)
    windows = (source / "masks").is_dir()
    all_names = list(CAMVID) if windows else list(open_source(str(source), "train").class_names)
    chosen = names or sorted(choose.choice(all_names, CLASSES, replace=False).tolist())
    for split, most in (("train", PHOTOGRAPHS), ("val", MOST_VALIDATION)):
        take = _windows if windows else _images
        for name in chosen:
            target = folder / split / name
            target.mkdir(parents=True)
            for number, image in enumerate(take(source, split, all_names.index(name), most, choose)):
                image.save(target / f"{number}.png")


def _images(source: Path, split: str, label: int, most: int, choose: np.random.Generator) -> list[Image.Image]:
    images = open_source(str(source), split)
    own = np.flatnonzero(np.asarray(images.labels) == label)
    return [images.image(int(index)) for index in choose.permutation(own)[:most]]


def _windows(source: Path, split: str, label: int, most: int, choose: np.random.Generator) -> list[Image.Image]:
    """Cut at most one window from each photograph, around a pixel of the class."""
    found: list[Image.Image] = []
    for path in choose.permutation(sorted((source / "masks" / split).glob("*.png"))):
        mask = np.asarray(Image.open(path)) == label
        rows, columns = np.nonzero(mask)
        if not len(rows) or len(found) == most:
            continue
        pick = choose.integers(len(rows))
        top = int(np.clip(rows[pick] - WINDOW // 2, 0, mask.shape[0] - WINDOW))
        left = int(np.clip(columns[pick] - WINDOW // 2, 0, mask.shape[1] - WINDOW))
        if mask[top : top + WINDOW, left : left + WINDOW].mean() >= LEAST_SHARE:
            photograph = Image.open(source / "images" / split / f"{path.stem}.jpg").convert("RGB")
            found.append(photograph.crop((left, top, left + WINDOW, top + WINDOW)))
    return found


def by_recipe(recipe: str, *settings: str) -> Callable[[Path, Path, int, Path], float]:
    """Train with the package; the last epoch counts."""

    def run(init: Path, data: Path, seed: int, output: Path) -> float:
        model = read_record(init, CheckpointRecord).model
        own = [] if recipe == "finetune" else [f"model={model}"]
        result = compactnets.train(recipe, data, output, init=init, settings=[*settings, *own, f"seed={seed}"])
        return float(result.final["top1_percent"])

    return run


def by_timm(init: Path, data: Path, seed: int, output: Path) -> float:
    """Train as a short script does: timm's transforms, AdamW, cosine, no warm-up; the classifier is new."""
    record = read_record(init, CheckpointRecord)
    preprocess = Preprocess.from_dict(record.preprocess)
    shared = {"input_size": (3, preprocess.size, preprocess.size), "mean": preprocess.mean, "std": preprocess.std}
    torch.manual_seed(seed)
    train = ImageFolder(str(data / "train"), create_transform(**shared, is_training=True))
    crop = preprocess.size / (preprocess.resize or preprocess.size)
    val = ImageFolder(str(data / "val"), create_transform(**shared, crop_pct=crop, interpolation="bilinear"))
    model = timm.create_model(record.model, **{**record.arguments, "num_classes": len(train.classes)})
    kept = {key: value for key, value in read_weights(init, record).items() if not key.startswith("classifier.")}
    model.load_state_dict({**model.state_dict(), **kept})
    optimizer = torch.optim.AdamW(model.parameters(), lr=LR, weight_decay=0.05)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, STEPS)
    loader, step = DataLoader(train, BATCH, shuffle=True, drop_last=True), 0
    model.train()
    while step < STEPS:
        for images, labels in loader:
            loss = F.cross_entropy(model(images), labels, label_smoothing=0.1)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
            if (step := step + 1) == STEPS:
                break
    model.eval()
    with torch.inference_mode():
        right = sum(int((model(images).argmax(1) == labels).sum()) for images, labels in DataLoader(val, 100))
    return 100 * right / len(val)


METHODS: dict[str, Callable[[Path, Path, int, Path], float]] = {
    "finetune": by_recipe("finetune"),
    "before: imagenet/menet": by_recipe(
        "imagenet/menet", "epochs=60", "lr=0.01", "batch_size=64", "schedule.step_epochs=20"
    ),
    "before: cifar/modern": by_recipe("cifar/modern", "epochs=300", "lr=0.01", "compile=false"),
    "timm script": by_timm,
}


def main() -> None:
    """Parse the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("name")
    parser.add_argument("init", type=Path, help="checkpoint to start from")
    parser.add_argument("source", type=Path)
    parser.add_argument("--output", type=Path, required=True, help="folder for the runs and NAME.json")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2, 3, 4])
    parser.add_argument("--classes", nargs="+", help="names of the classes; default: drawn for each seed")
    parser.add_argument("--only", nargs="+", default=list(METHODS), choices=list(METHODS))
    parser.add_argument("--set", action="append", default=[], help="of finetune, to choose settings: lr=0.002")
    parser.add_argument("--note", required=True, help="what else ran on the machine")
    given = parser.parse_args()
    init = as_path(given.init)
    methods = {**METHODS, "finetune": by_recipe("finetune", *given.set)}
    rows: list[dict[str, Any]] = []
    for method in given.only:
        runs = []
        for seed in given.seeds:
            place = given.output / given.name / f"seed-{seed}"
            if not (place / "data").is_dir():
                make_folders(given.source, given.classes, seed, place / "data")
            done = place / f"{method.replace(': ', '-').replace('/', '-').replace(' ', '-')}.json"
            if not done.is_file():
                start = time.perf_counter()
                top1 = methods[method](init, place / "data", seed, done.with_suffix(""))
                classes = sorted(each.name for each in (place / "data" / "val").iterdir())
                result = {"seed": seed, "top1": top1, "seconds": time.perf_counter() - start, "classes": classes}
                done.write_text(json.dumps(result), encoding="utf-8")
            runs.append(json.loads(done.read_text(encoding="utf-8")))
            print(method, runs[-1], flush=True)
        rows.append({"method": method, "runs": runs, "top1": spread([run["top1"] for run in runs])})
    content = {
        "init": read_record(init, CheckpointRecord).model,
        "weights": init.name,
        "data": given.source.name,
        "photographs": PHOTOGRAPHS,
        "steps": STEPS,
        "batch_size": BATCH,
        "note": given.note,
        "settings": given.set,
        "rows": rows,
    }
    write_record(given.output / f"{given.name}.json", torch.device("cpu"), content)


if __name__ == "__main__":
    main()
