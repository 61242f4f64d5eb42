"""Measurements, each with its origin: command, recipe, seed, device, commit, date."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from statistics import mean, median, stdev
from typing import Any

from compactnets.classification.recipe import ClassificationRecipe
from compactnets.detection.recipe import DetectionRecipe
from compactnets.errors import InputError
from compactnets.latency.benchmark import parse_format
from compactnets.latency.results import row_threads
from compactnets.models.registry import own_arguments
from compactnets.papers.ablation import NAME as ABLATION
from compactnets.papers.cost import count_network
from compactnets.papers.schema import Reproduction, Row
from compactnets.recorded import FOLDER, load_results, network_label, read_classifier_run
from compactnets.training.recipe import FREE_TO_CHANGE
from compactnets.training.recipe_files import load_recipe

EVALUATED = {"top1": "top1_percent", "top5": "top5_percent"}
# data and number of classes behind a stated accuracy: a folder of the same name may hold other classes
DATA = {
    "top1": ("imagenet", 1000),
    "top5": ("imagenet", 1000),
    "cifar10": ("cifar10", 10),
    "cifar100": ("cifar100", 100),
}


# what the paper's recipe leaves open; the networks are compared on their own
NOT_COMPARED = (*FREE_TO_CHANGE, "epochs", "eval_epochs", "seed", "channels_last", "model", "model_arguments")


@dataclass(frozen=True)
class Origin:
    """How a number was obtained."""

    what: str
    command: str
    commit: str
    date: str
    device: str
    seeds: str = ""
    recipe: str = ""
    versions: str = ""
    note: str = ""


@dataclass(frozen=True)
class Measured:
    """A number with its origin.

    Attributes:
        value: in percent or milliseconds.
        spread: standard deviation over seeds, if there are several.
        remark: what to know before comparing the number.
    """

    value: float
    origin: Origin
    spread: float | None = None
    remark: str = ""


@dataclass(frozen=True)
class Accuracies:
    """Our measurements of an accuracy that a paper states, apart by whose recipe trained the network.

    Attributes:
        by_paper: of runs by the paper's recipe, at full length.
        by_ours: of all others.
    """

    by_paper: Measured | None
    by_ours: Measured | None


class Evidence:
    """All recorded results, and the user's runs.

    Args:
        runs: folders of finished runs or ablations (``compactnets papers ablation``).
        folder: the recorded results.

    Raises:
        InputError: a folder that holds neither.
    """

    def __init__(self, runs: Iterable[Path] = (), folder: Path = FOLDER) -> None:
        self._latency = load_results("latency", folder)
        self._detection = load_results("detection", folder)
        self._evaluations = list(load_results("evaluation", folder).values())
        self.ablations = list(load_results("ablation", folder).values())
        self.runs: list[dict[str, Any]] = []
        for result in load_results("training", folder).values():
            self.runs += [{**run, "note": result["note"]} for run in result["runs"]]
        for path in runs:
            if (path / ABLATION).is_file():
                self.ablations.append(_read_ablation(path / ABLATION))
            else:
                self.runs.append({**read_classifier_run(path), "note": ""})

    def accuracy(self, row: Row, metric: str) -> Measured | None:
        """Return our measurement of a metric in a row, such as ``"cifar10"``; ``None`` if there is none.

        Of several settings, the one trained longest (:func:`_summarize`).
        """
        return _summarize(self._trained(row, metric), _key(metric))

    def accuracies(self, row: Row, metric: str, reproduction: Reproduction | None) -> Accuracies:
        """Return :meth:`accuracy` apart by whose recipe was used.

        Args:
            reproduction: the paper's, of this metric (:meth:`compactnets.papers.schema.Table.reproduction`).
        """
        theirs: list[dict[str, Any]] = []
        ours: list[dict[str, Any]] = []
        for run in self._trained(row, metric):
            (theirs if reproduction is not None and reproduces(run, reproduction) else ours).append(run)
        return Accuracies(_summarize(theirs, _key(metric)), _summarize(ours, _key(metric)))

    def _trained(self, row: Row, metric: str) -> list[dict[str, Any]]:
        return [
            run
            for run in self.runs
            if (run["data"], run["arguments"].get("num_classes", 1000)) == DATA.get(metric)
            and _same_network(run, row)
            and _key(metric) in run["epochs"][-1]
        ]

    def sample(self, row: Row, metric: str) -> Measured | None:
        """Return the accuracy of a row's network on other images than the paper's, or with weights from elsewhere.

        It is not comparable with the paper's.
        """
        for result in self._evaluations if metric in EVALUATED else ():
            if _same_network(result, row):
                return _evaluated(result, EVALUATED[metric])
        return None

    def latency(self, row: Row) -> Measured | None:
        """Return the latency of a row's network in its fastest float32 format, one thread, in ms."""
        found = [
            (each["milliseconds"]["median"], result, each)
            for result in self._latency.values()
            for each in result["rows"]
            if row_threads(each, result) == 1
            and each["network"] == row.model
            and tuple(each["input"][1:]) == row.input_size
            if not own_arguments(row.arguments) and parse_format(each["format"]).precision == "float32"
        ]
        if not found:
            return None
        value, result, each = min(found, key=lambda entry: entry[0])
        time, environment = each["milliseconds"], result["environment"]
        origin = Origin(
            what=f"latency of one image, 1 thread, {time['n']} calls",
            command=" ".join(result["command"]),
            commit=result["commit"],
            date=result["date"],
            device=environment["processor"],
            versions=_versions(environment["versions"]),
        )
        remark = f"{each['format']}, {time['p10']:.2f} to {time['p90']:.2f}"
        return Measured(value, origin, remark=remark)

    def others(self, rows: Iterable[Row]) -> list[Measured]:
        """Return the CIFAR results of networks that are in no row; ``remark`` names the network."""
        known = list(rows)
        groups: dict[tuple[str, ...], list[dict[str, Any]]] = defaultdict(list)
        for run in self.runs:
            if run["data"] in ("cifar10", "cifar100") and not any(
                getattr(row, run["data"]) is not None and _same_network(run, row) for row in known
            ):
                own = json.dumps(own_arguments(run["arguments"]), sort_keys=True)
                groups[run["model"], own, run["data"]].append(run)
        results = []
        for runs in groups.values():
            found, name = _summarize(runs), f"{network_label(runs[0])} on {runs[0]['data']}"
            assert found is not None
            results.append(Measured(found.value, found.origin, found.spread, f"{name}: {found.remark}"))
        return results

    def hours(self, reproduction: Reproduction, macs: int) -> float | None:
        """Estimate how long a run would take on the device of the recorded results; ``None`` if they do not tell.

        For a classifier, three times its multiply-adds per image (one forward, two backward) at the rate of the fastest
        recorded run (:attr:`training_rate`). For a detector, the recorded seconds per image of its kind, scaled by the
        multiply-adds of the backbone.
        """
        epochs = full_epochs(reproduction)
        if not reproduction.detector:
            return self.training_hours(macs, reproduction.images, epochs)
        kind = reproduction.recipe.partition("/")[2].removesuffix("512")
        paces = [
            median(1 / epoch["images_per_second"] for epoch in run["epochs"]) / count_network(run["model"])[0]
            for result in self._detection.values()
            for run in result["runs"]
            if run["detector"] == kind
        ]
        return min(paces) * macs * reproduction.images * epochs / 3600 if paces else None

    def training_hours(self, macs: int, images: int, epochs: int) -> float | None:
        """Estimate the hours that a classifier of ``macs`` multiply-adds trains for ``epochs`` epochs of ``images``."""
        return None if self.training_rate is None else 3 * macs * images * epochs / self.training_rate / 3600

    @cached_property
    def training_rate(self) -> float | None:
        """Multiply-adds per second of the fastest recorded training run, backward pass included."""
        rates = [3 * run["macs"] * median(epoch["images_per_second"] for epoch in run["epochs"]) for run in self.runs]
        return max(rates, default=None)


def command_for(row: Row, reproduction: Reproduction) -> str:
    """Return the command that trains a row's network by its table's recipe."""
    parts = [f"compactnets train {reproduction.recipe} --data {reproduction.data} --model {row.model}"]
    parts += [f"--set {key}={value}" for key, value in reproduction.settings.items()]
    parts += [f"--set model_arguments.{key}={value}" for key, value in own_arguments(row.arguments).items()]
    if reproduction.detector:
        parts.append("--init CLASSIFIER.safetensors")
    name = "-".join([row.paper, row.table, row.model, *map(str, own_arguments(row.arguments).values())])
    return " ".join([*parts, f"--output runs/{name}-{reproduction.data}"])


def reproduces(run: Mapping[str, Any], reproduction: Reproduction) -> bool:
    """Whether a classifier's run is by the table's recipe: its settings, its length or more, and no other weights."""
    if reproduction.detector or _recipe(run) != reproduction.recipe or run.get("init"):
        return False
    settings = [f"{key}={value}" for key, value in reproduction.settings.items()]
    wanted = load_recipe(ClassificationRecipe, reproduction.recipe, settings, run["model"]).model_dump(mode="json")
    # a setting that the package did not have then, or has no more, cannot differ
    same = all(run["recipe"][key] == wanted[key] for key in run["recipe"].keys() & wanted.keys() - set(NOT_COMPARED))
    return same and len(run["epochs"]) >= wanted["epochs"]


def full_epochs(reproduction: Reproduction) -> int:
    """Return the epochs of a table's recipe."""
    if not reproduction.detector:
        return load_recipe(ClassificationRecipe, reproduction.recipe).epochs
    return load_recipe(DetectionRecipe, reproduction.recipe).epochs


def _same_network(run: Mapping[str, Any], row: Row) -> bool:
    same = own_arguments(run["arguments"]) == own_arguments(row.arguments)
    return bool(run["model"] == row.model) and same


def _key(metric: str) -> str:
    return EVALUATED.get(metric, "top1_percent")


def _summarize(runs: Sequence[dict[str, Any]], key: str = "top1_percent") -> Measured | None:
    """Return the mean over seeds of the setting that was trained longest; of several, the one with the best mean."""
    if not runs:
        return None
    groups: dict[tuple[int, str], list[dict[str, Any]]] = defaultdict(list)
    for run in runs:
        settings = {key: value for key, value in run["recipe"].items() if key != "seed"}
        groups[len(run["epochs"]), json.dumps([settings, run.get("init")], sort_keys=True)].append(run)
    longest = max(epochs for epochs, _ in groups)
    chosen = max((group for (epochs, _), group in groups.items() if epochs == longest), key=_mean)
    values, recipe = _finals(chosen, key), _recipe(chosen[0])
    origin = Origin(
        what="training",
        command=chosen[0]["command"],
        commit=", ".join(dict.fromkeys(run["commit"] for run in chosen)),
        date=max(run["date"] for run in chosen),
        device=", ".join(dict.fromkeys(run["device"] for run in chosen)),
        seeds=", ".join(str(run["seed"]) for run in chosen),
        recipe=recipe,
        versions=_versions(chosen[0]["versions"]),
        note=chosen[0]["note"],
    )
    spread = stdev(values) if len(values) > 1 else None
    seeds = f"{len(values)} seeds" if len(values) > 1 else "1 seed"
    return Measured(mean(values), origin, spread, f"{longest} epochs of {recipe}, {seeds}")


def _finals(runs: Sequence[dict[str, Any]], key: str = "top1_percent") -> list[float]:
    return [run["epochs"][-1][key] for run in runs]


def _mean(runs: Sequence[dict[str, Any]]) -> float:
    return mean(_finals(runs))


def _evaluated(result: Mapping[str, Any], key: str) -> Measured:
    """Return an accuracy on a sample; the remark says of which weights and images."""
    origin = Origin(
        what="evaluation",
        command=result["command"],
        commit=result["commit"],
        date=result["date"],
        device=result["environment"]["processor"],
        versions=_versions(result["environment"]["versions"]),
        note=result["note"],
    )
    return Measured(result[key], origin, remark=f"{result['weights']} on {result['images']} {result['of']}")


def _recipe(run: Mapping[str, Any]) -> str:
    words = run["command"].split()
    return str(words[words.index("train") + 1]) if "train" in words[:-1] else "a recipe of its own"


def _versions(versions: Mapping[str, str]) -> str:
    return ", ".join(f"{name} {versions[name]}" for name in ("compactnets", "torch", "timm") if name in versions)


def _read_ablation(path: Path) -> dict[str, Any]:
    try:
        result: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(result["rows"], list):
            raise TypeError
    except (ValueError, KeyError, TypeError):
        raise InputError(f"{path} is not the result of 'compactnets papers ablation'") from None
    return result
