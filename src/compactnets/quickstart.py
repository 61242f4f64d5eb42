"""``compactnets quickstart``: train, evaluate and predict on real data that ships with a dependency, offline."""

from __future__ import annotations

import io
import itertools
import statistics
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from compactnets.classification.checkpoint import load_checkpoint
from compactnets.classification.evaluation import evaluate
from compactnets.classification.prediction import Guess, classify
from compactnets.classification.recipe import ClassificationRecipe
from compactnets.classification.task import TASK
from compactnets.complexity import count
from compactnets.console import Table, Tracker, say, stdout
from compactnets.data import ImageSource, Preprocess, open_source, read_image
from compactnets.files import as_path, refusals, replace_bytes
from compactnets.locks import own_folder
from compactnets.training.recipe_files import load_recipe

RECIPE = "digits/quickstart"
NETWORKS = ("menet_108_8x1_g3", "muffnet_x0_5")
EXAMPLES = 5  # images that are written out and classified


@dataclass(frozen=True)
class QuickstartRow:
    """One network: cost at the size of the digits, accuracy on held-out images, speed on this machine."""

    network: str
    params: int
    macs: int
    images: int
    top1_percent: float
    train_seconds: float
    latency_ms: float  # median, one image, all threads
    checkpoint: str
    predictions: tuple[tuple[str, str, Guess], ...]  # image, true class, best guess


@dataclass(frozen=True)
class QuickstartResult:
    """The files that the command wrote, and its measurements."""

    output: str
    seconds: float
    rows: tuple[QuickstartRow, ...]
    files: tuple[str, ...]

    def to_dict(self) -> dict[str, Any]:
        """Return the result for JSON."""
        return asdict(self)


def run(output: str | Path = Path("quickstart"), overrides: Sequence[str] = ()) -> QuickstartResult:
    """Train, evaluate and try the two networks.

    Args:
        output: folder for the results; if it exists, a number is appended.
        overrides: ``key=value`` changes to the recipe.
    """
    output = as_path(output)
    start = time.perf_counter()
    sources = open_source("digits", "train"), open_source("digits", "val")
    recipes = [load_recipe(ClassificationRecipe, RECIPE, overrides, name) for name in NETWORKS]
    folder = _make_new(output)
    with own_folder(folder):
        examples = _write_examples(sources[1], folder / "images")
        rows = tuple(_run_one(recipe, *sources, folder / recipe.model, examples) for recipe in recipes)
    paths = sorted(folder.rglob("*"), key=lambda path: (path.parent, path))
    files = tuple(str(path) for path in paths if path.is_file())
    return QuickstartResult(str(folder), time.perf_counter() - start, rows, files)


def _make_new(output: Path) -> Path:
    """Create a folder with an unused name, and return it; concurrent runs get different ones."""
    names = itertools.chain([output], (output.with_name(f"{output.name}-{number}") for number in itertools.count(2)))
    for name in names:
        with refusals(name), suppress(FileExistsError):
            name.mkdir(parents=True)
            return name
    raise AssertionError("there are infinitely many names")


def _write_examples(source: ImageSource, folder: Path) -> list[tuple[Path, str]]:
    """Write a few held-out images as files, and return their paths and true classes."""
    with refusals(folder):
        folder.mkdir(parents=True)
    examples = []
    for index in range(EXAMPLES):
        path, data = folder / f"digit-{index}.png", io.BytesIO()
        source.image(index).save(data, "png")
        replace_bytes(path, data.getbuffer())
        examples.append((path, source.class_names[source.labels[index]]))
    return examples


def _run_one(
    recipe: ClassificationRecipe,
    train_source: ImageSource,
    val_source: ImageSource,
    folder: Path,
    examples: list[tuple[Path, str]],
) -> QuickstartRow:
    say(f"training {recipe.model} on {len(train_source):,} handwritten digits")
    result = TASK.train(recipe, train_source, val_source, folder)
    checkpoint = folder / "last.safetensors"  # not the best epoch: choosing it would use the held-out images
    model, record = load_checkpoint(checkpoint)
    preprocess = Preprocess.from_dict(record.preprocess)
    accuracy = evaluate(model, val_source, preprocess, description=f"{recipe.model}: evaluating the checkpoint")
    size = (preprocess.channels, preprocess.size, preprocess.size)
    macs, params = count(model, size)
    predictions = tuple(
        (str(path), truth, classify(model, record, read_image(path), top_k=1)[0]) for path, truth in examples
    )
    return QuickstartRow(
        network=recipe.model,
        params=params,
        macs=macs,
        images=accuracy.images,
        top1_percent=accuracy.top1,
        train_seconds=result.seconds,
        latency_ms=median_latency_ms(model, size),
        checkpoint=str(checkpoint),
        predictions=predictions,
    )


def median_latency_ms(model: nn.Module, size: tuple[int, int, int], runs: int = 50, warm_up: int = 10) -> float:
    """Return the median time of one image through ``model``, in milliseconds, after a warm-up."""
    x = torch.zeros(1, *size)
    times = []
    with torch.inference_mode():
        for index in Tracker(range(warm_up + runs), warm_up + runs, "timing"):
            start = time.perf_counter()
            model(x)
            if index >= warm_up:
                times.append(time.perf_counter() - start)
    return 1000 * statistics.median(times)


def show(result: QuickstartResult) -> None:
    """Print the measurements, the predictions for the examples, and the files."""
    table = Table("network", title="Handwritten digits, trained here", lines=True)
    table.add_figures("parameters", "MACs", "accuracy", "training", "latency")
    for row in result.rows:
        table.add_row(
            row.network,
            f"{row.params:,}",
            f"{row.macs / 1e6:.2f} M",
            f"{row.top1_percent:.2f} %",
            f"{row.train_seconds:.1f} s",
            f"{row.latency_ms:.2f} ms",
        )
    stdout.print(table)
    images, threads = result.rows[0].images, torch.get_num_threads()
    stdout.print(
        f"accuracy on {images} held-out images; latency of one image, median of 50, {threads} threads, eager PyTorch",
        style="dim",
    )
    guesses = Table("image", "is", *(row.network for row in result.rows), title="A few held-out images", lines=True)
    for index, (image, truth, _) in enumerate(result.rows[0].predictions):
        cells = [row.predictions[index][2] for row in result.rows]
        guesses.add_row(image, truth, *(f"{guess.label}  ({100 * guess.probability:.1f} %)" for guess in cells))
    stdout.print(guesses)
    stdout.print(f"{len(result.files)} files in {result.output}, in {result.seconds:.0f} s altogether:")
    for folder, files in itertools.groupby(map(Path, result.files), key=lambda path: path.parent):
        names = ", ".join(file.name for file in files)
        stdout.print(f"  {folder}: {names}")
    checkpoint, image = result.rows[0].checkpoint, result.rows[0].predictions[0][0]
    stdout.print("Next:")
    stdout.print(f"  compactnets predict --checkpoint {checkpoint} {image}")
