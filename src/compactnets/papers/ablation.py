"""The ablations of both papers as grids of training runs on small images: rows of a table times seeds.

The papers ran them on ImageNet. Here the same networks train with the cifar stem, for as many epochs as the user
chooses. Compare the order of the rows and the size of their differences, with the spread over seeds. The user can add
networks, such as one with a learned M.
"""

from __future__ import annotations

import dataclasses
import fnmatch
import itertools
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from statistics import mean, stdev
from typing import Any

import torch
from scipy.stats import spearmanr, ttest_ind

import compactnets
from compactnets.classification.checkpoint import CheckpointRecord
from compactnets.classification.grid import (
    Member,
    Outcome,
    Place,
    train_grid,
)
from compactnets.classification.recipe import ClassificationRecipe
from compactnets.complexity import count
from compactnets.console import Table, stdout
from compactnets.data import open_source
from compactnets.environment import commit, describe_environment, portable_command
from compactnets.errors import InputError, did_you_mean
from compactnets.files import as_path, json_text, replace_text
from compactnets.locks import own_folder
from compactnets.models.registry import build_on_meta, own_arguments
from compactnets.papers.schema import Row
from compactnets.papers.stated import stated_rows
from compactnets.training.checkpoint import read_record
from compactnets.training.distributed import pick_device
from compactnets.training.recipe_files import load_recipe

ABLATIONS = {  # name -> paper and tables; tables may share rows
    "sharing": ("muffnet", ("1", "2", "3", "4")),
    "fusion_width": ("menet", ("V",)),
    "expansion": ("menet", ("VI",)),
    "fusion_operation": ("menet", ("VII",)),
}
NAME = "ablation.json"
STEM = {"stem": "cifar"}


@dataclass(frozen=True)
class Entry:
    """A network of an ablation: a row of a paper, or a network that the user adds.

    Attributes:
        key: name of its folder of runs.
        label: its name in tables.
        model, arguments: for :func:`compactnets.create_model`.
        stated_top1: the paper's accuracy on ImageNet, in percent; ``None`` for a network of the user.
    """

    key: str
    label: str
    model: str
    arguments: Mapping[str, Any]
    stated_top1: float | None = None


def ablation_rows(name: str, patterns: Sequence[str] = ()) -> list[Row]:
    """Return the networks of an ablation, each once: of equal rows, the first.

    Args:
        name: one of :data:`ABLATIONS`.
        patterns: keys of rows, or shell patterns for them (``"average+*"``); all rows if none is given.

    Raises:
        InputError: no such ablation, or a pattern that matches no row.
    """
    if name not in ABLATIONS:
        hint = did_you_mean(name, ABLATIONS)
        raise InputError(f"no ablation is called {name!r}{hint or ': expected one of ' + ', '.join(ABLATIONS)}")
    paper, tables = ABLATIONS[name]
    rows: dict[str, Row] = {}
    for row in (row for table in tables for row in stated_rows(paper, table)):
        rows.setdefault(row.key, row)
    for pattern in patterns:
        if not fnmatch.filter(rows, pattern):
            raise InputError(f"{name} has no row {pattern!r}{did_you_mean(pattern, rows) or ': ' + ', '.join(rows)}")
    chosen = {key for pattern in patterns or ["*"] for key in fnmatch.filter(rows, pattern)}
    return [row for key, row in rows.items() if key in chosen]


def own_entries(checkpoints: Sequence[str | Path]) -> list[Entry]:
    """Return the networks of checkpoints, without their weights, as entries of an ablation.

    Raises:
        InputError: not a classifier's checkpoint.
    """
    entries = []
    for path in map(as_path, checkpoints):
        record = read_record(path, CheckpointRecord)
        entries.append(Entry(path.stem, f"{path.stem} ({record.model})", record.model, own_arguments(record.arguments)))
    return entries


def run_ablation(
    name: str,
    data: str,
    output: str | Path,
    *,
    recipe: str = "cifar/short",
    settings: Sequence[str] = (),
    seeds: int = 3,
    patterns: Sequence[str] = (),
    networks: Sequence[str | Path] = (),
    place: Place | None = None,
    download: bool = False,
) -> dict[str, Any]:
    """Train every network of an ablation with every seed, write ``ablation.json`` to ``output``, and return it.

    Repeat the call to resume. Each run has its run folder, ``output / KEY / seed-N``.

    Args:
        data: what :func:`compactnets.data.open_source` takes, such as ``"cifar10"``.
        recipe, settings: recipe of all runs, and ``KEY=VALUE`` changes to it; ``model_arguments`` apply to every
            network, in addition to the arguments of its row.
        seeds: runs per network; the first uses the recipe's seed, each further one the next seed.
        patterns: train only these rows (:func:`ablation_rows`).
        networks: checkpoints; their networks are trained as well, from fresh weights like the others.
        place: device, number of parallel runs, Ray cluster.

    Raises:
        InputError: no such ablation, row, checkpoint, recipe or data; two networks with the same name; settings that
            conflict with the arguments of a row; or every run failed.
    """
    output = as_path(output)
    if seeds < 1:
        raise InputError(f"seeds must be at least 1, found {seeds}")
    place = place or Place()
    rows = [Entry(row.key, row.label, row.model, row.arguments, row.top1) for row in ablation_rows(name, patterns)]
    entries = [*rows, *own_entries(networks)]
    keys = [entry.key for entry in entries]
    if twice := sorted({key for key in keys if keys.count(key) > 1}):
        raise InputError(f"two networks of the ablation have the same name, {', '.join(twice)}: rename one file")
    recipes = [_recipe(entry, recipe, settings) for entry in entries]
    entries = [
        dataclasses.replace(entry, arguments=own_arguments(resolved.model_arguments))
        for entry, resolved in zip(entries, recipes, strict=True)
    ]
    members = {
        (entry.key, seed): _member(entry, seed, resolved)
        for entry, resolved in zip(entries, recipes, strict=True)
        for seed in range(seeds)
    }
    with own_folder(output):
        outcomes = train_grid(list(members.values()), data, output, place, download=download)
        result = _result(name, data, recipe, settings, place, entries, members, outcomes)
        replace_text(output / NAME, json_text(result, indent=1) + "\n")
    return result


def _result(
    name: str,
    data: str,
    recipe: str,
    settings: Sequence[str],
    place: Place,
    entries: Sequence[Entry],
    members: Mapping[tuple[str, int], Member],
    outcomes: Sequence[Outcome],
) -> dict[str, Any]:
    seeds = len(members) // len(entries)
    found = dict(zip(members, outcomes, strict=True))
    num_classes = len(open_source(data, "val").class_names)
    if all(outcome.error for outcome in outcomes):
        raise InputError(f"every run of the ablation failed; the first: {outcomes[0].error}")
    return {
        "name": name,
        "command": portable_command(sys.argv[1:]),
        "commit": commit(),
        "date": datetime.now(UTC).date().isoformat(),
        "environment": describe_environment(pick_device(place.device if place.ray is None else "cpu")),
        "data": Path(data).name,
        "recipe": recipe,
        "settings": list(settings),
        "epochs": next(iter(members.values())).recipe.epochs,
        "rows": [_row(entry, [found[entry.key, seed] for seed in range(seeds)], num_classes) for entry in entries],
    }


def summarize(row: Mapping[str, Any]) -> tuple[float, float | None, int] | None:
    """Return mean, standard deviation and number of a row's accuracies, in percent.

    ``None`` if no run finished; the deviation is ``None`` for a single run.
    """
    accuracies = [run["top1_percent"] for run in row["runs"] if run.get("top1_percent") is not None]
    if not accuracies:
        return None
    return mean(accuracies), stdev(accuracies) if len(accuracies) > 1 else None, len(accuracies)


@dataclass(frozen=True)
class Contrast:
    """How a row differs from another, by Welch's test (unequal variances) over the seeds.

    Attributes:
        difference: of the means, in points.
        low, high: of its 95 % confidence interval.
        p: probability of a difference at least as large if the means are equal; of one comparison, whatever number of
            them is made.
    """

    difference: float
    low: float
    high: float
    p: float


def contrast(row: Mapping[str, Any], other: Mapping[str, Any]) -> Contrast | None:
    """Compare the accuracies of two rows; ``None`` unless both have two runs or more, not all of them equal."""
    ours, theirs = (
        [run["top1_percent"] for run in each["runs"] if run.get("top1_percent") is not None] for each in (row, other)
    )
    if min(len(ours), len(theirs)) < 2 or stdev(ours) == stdev(theirs) == 0:
        return None
    test = ttest_ind(ours, theirs, equal_var=False)
    low, high = test.confidence_interval(0.95)
    return Contrast(mean(ours) - mean(theirs), float(low), float(high), float(test.pvalue))


def describe_contrast(row: Mapping[str, Any], first: Mapping[str, Any]) -> tuple[str, str, str]:
    """Return the difference of a row to the first one, its interval, and p, as text; dashes where there is none."""
    found = None if row is first else contrast(row, first)
    if found is None:
        return "-", "-", "-"
    return f"{found.difference:+.2f}", f"{found.low:+.2f} to {found.high:+.2f}", f"{found.p:.2g}"


def rank_correlation(result: Mapping[str, Any]) -> float | None:
    """Return Spearman's rank correlation of our means with the paper's accuracies; ``None`` for fewer than 3 rows."""
    stated = [row for row in result["rows"] if row["stated_top1"] is not None]
    pairs = [(row["stated_top1"], summary[0]) for row in stated if (summary := summarize(row))]
    return float(spearmanr(*zip(*pairs, strict=True)).statistic) if len(pairs) > 2 else None


def own_sharings(results: Iterable[Mapping[str, Any]]) -> dict[str, Mapping[str, Any]]:
    """Return the rows with an M that is not in the paper, such as a learned one: each M once, under a unique name.

    The name is the row's key; if several M share it, the second and later ones get a number.
    """
    found: dict[str, Mapping[str, Any]] = {}
    for row in (row for result in results for row in result["rows"]):
        if row["stated_top1"] is not None or not isinstance(row["arguments"].get("sharing"), list):
            continue
        names = itertools.chain([row["key"]], (f"{row['key']}-{number}" for number in itertools.count(2)))
        found.setdefault(next(name for name in names if name not in found or _same_network(found[name], row)), row)
    return found


def _same_network(row: Mapping[str, Any], other: Mapping[str, Any]) -> bool:
    return (row["model"], row["arguments"]) == (other["model"], other["arguments"])


def show(result: Mapping[str, Any]) -> None:
    """Print a result as a table, the paper's accuracies next to ours."""
    table = Table("row")
    table.add_figures("MACs (M)", "params (M)", "paper, %", "here, %", "runs", "to the first", "95 %", "p")
    for row in result["rows"]:
        cost = [f"{row['macs'] / 1e6:.1f}", f"{row['params'] / 1e6:.3f}"]
        table.add_row(row["label"], *cost, *describe(row), *describe_contrast(row, result["rows"][0]))
    stdout.print(table)
    stdout.print(f"accuracy: paper, on ImageNet; here, on {result['data']}, mean and standard deviation over seeds")
    if any(contrast(row, result["rows"][0]) for row in result["rows"][1:]):
        stdout.print("to the first: difference to the first row in points; p of Welch's test, one comparison each")
    if (correlation := rank_correlation(result)) is not None:
        stdout.print(f"rank correlation of the two: {correlation:.2f}")


def describe(row: Mapping[str, Any]) -> tuple[str, str, str]:
    """Return the paper's accuracy of a row, our mean and spread, and the number of runs, as text."""
    stated = "-" if row["stated_top1"] is None else f"{row['stated_top1']:.2f}"
    failed = sum("error" in run for run in row["runs"])
    summary = summarize(row)
    if summary is None:
        return stated, "-", f"0, {failed} failed"
    value, spread, number = summary
    text = f"{value:.2f}" + ("" if spread is None else f" ± {spread:.2f}")
    return stated, text, f"{number}" + (f", {failed} failed" if failed else "")


def _recipe(entry: Entry, name: str, settings: Sequence[str]) -> ClassificationRecipe:
    """Return the recipe of an entry: the arguments of its row, and those that recipe and settings add."""
    resolved = load_recipe(ClassificationRecipe, name, settings, entry.model)
    fixed = {**entry.arguments, **STEM}
    for key, value in resolved.model_arguments.items():
        if key in fixed and fixed[key] != value:
            raise InputError(
                f"{entry.key} has {key}={fixed[key]}, but the recipe or --set gives model_arguments.{key}={value}: "
                "remove it"
            )
    resolved = resolved.model_copy(update={"model_arguments": {**resolved.model_arguments, **fixed}})
    build_on_meta(entry.model, resolved.model_arguments)  # refuses an argument that the network does not take
    return resolved


def _member(entry: Entry, seed: int, recipe: ClassificationRecipe) -> Member:
    resolved = recipe.model_copy(update={"seed": recipe.seed + seed})
    return Member(f"{entry.key}/seed-{resolved.seed}", resolved)


def _row(entry: Entry, outcomes: Sequence[Outcome], num_classes: int) -> dict[str, Any]:
    with torch.device("meta"):
        model = compactnets.create_model(entry.model, **{**entry.arguments, **STEM, "num_classes": num_classes}).eval()
    macs, params = count(model, (3, 32, 32))
    return {
        "key": entry.key,
        "label": entry.label,
        "model": entry.model,
        "arguments": entry.arguments,
        "macs": macs,
        "params": params,
        "stated_top1": entry.stated_top1,
        "runs": [_run(outcome) for outcome in outcomes],
    }


def _run(outcome: Outcome) -> dict[str, Any]:
    seed = outcome.member.recipe.seed
    if outcome.result is None:
        return {"seed": seed, "error": outcome.error}
    # the last epoch: the best one would be chosen with the images that it is measured on
    final = outcome.result["final"]
    return {"seed": seed, "top1_percent": final["top1_percent"], "seconds": outcome.result["seconds"]}
