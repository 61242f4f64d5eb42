"""The end of a search: the finalists measured whole, in turns, the best of each latency, and the chosen network."""

from __future__ import annotations

import json
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from compactnets.classification.recipe import ClassificationRecipe
from compactnets.console import Table, stdout
from compactnets.deploy.formats.registry import find_format
from compactnets.deploy.record import ArtifactRecord, read_artifact
from compactnets.errors import InputError
from compactnets.files import json_text, replace_text
from compactnets.latency.benchmark import benchmark
from compactnets.locks import own_file, own_folder
from compactnets.pictures import save_figure
from compactnets.search.budget import show_amount
from compactnets.search.space import Candidate
from compactnets.search.study import RECORD, Request, Search, read_record
from compactnets.search.table import time_by_command
from compactnets.training.recipe_files import load_recipe
from compactnets.values import dump_yaml

FINALISTS = 8
PLOT, CHOSEN = "search.svg", "chosen.yaml"
MEASURED = ("commit", "date", "environment", "settings")  # of the benchmark, in the record


@dataclass(frozen=True)
class Finalist:
    """A network that was trained to the end and measured whole.

    Attributes:
        name: of its run's folder, or the network's own if it is there for comparison.
        candidate: the network.
        compared: whether it is there for comparison only.
        top1: accuracy on the held-out training images after the short training, in percent.
        costs: as measured.
        predicted: its latency by its parts, in milliseconds; ``None`` if it was not predicted.
        over: quantities over the budget.
        best: whether no other within the budget is at least as fast and more accurate.
    """

    name: str
    candidate: dict[str, Any]
    compared: bool
    top1: float
    costs: dict[str, float | None]
    predicted: float | None
    over: tuple[str, ...]
    best: bool = False

    @property
    def latency(self) -> float:
        """Milliseconds of a call."""
        return float(self.costs["latency"] or 0.0)


@dataclass(frozen=True)
class Outcome:
    """What a search found.

    Attributes:
        finalists: networks that were measured.
        chosen: the most accurate finalist within the budget, ``None`` if there is none.
        trained, stopped: number of candidates, by all processes.
        table_errors: of the latency table.
        environment: of the measurement.
        elsewhere: names of finalists that another machine has trained, and that are not in the output folder.
    """

    request: Request
    finalists: tuple[Finalist, ...]
    chosen: Finalist | None
    trained: int
    stopped: int
    table_errors: tuple[float, ...]
    environment: dict[str, Any]
    elsewhere: tuple[str, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """Return everything, for JSON."""
        request = {
            **asdict(self.request),
            "output": str(self.request.output),
            "budget": dict(self.request.budget.limits),
        }
        del request["storage"]  # its URL may have a password
        request["table"] = None if self.request.table is None else str(self.request.table)
        return {
            "request": request,
            "trained": self.trained,
            "stopped": self.stopped,
            "finalists": [asdict(each) for each in self.finalists],
            "chosen": None if self.chosen is None else asdict(self.chosen),
            "latency_errors": list(self.table_errors),
            "elsewhere": list(self.elsewhere),
            **self.environment,
        }

    @classmethod
    def from_dict(cls, request: Request, given: dict[str, Any]) -> Outcome:
        """Return what :meth:`to_dict` had, of the same request."""
        finalists = tuple(Finalist(**{**each, "over": tuple(each["over"])}) for each in given["finalists"])
        return cls(
            request=request,
            finalists=finalists,
            chosen=next((each for each in finalists if given["chosen"] and each.name == given["chosen"]["name"]), None),
            trained=given["trained"],
            stopped=given["stopped"],
            table_errors=tuple(given["latency_errors"]),
            environment={key: given[key] for key in MEASURED if key in given},
            elsewhere=tuple(given.get("elsewhere", ())),
        )

    def show(self) -> None:
        """Print the finalists, the fastest first, and the next commands."""
        names = ("latency", "macs", "params", "bytes", "memory")
        table = Table("network", "")
        table.add_figures("top-1", *names)
        for each in sorted(self.finalists, key=lambda one: (one.latency, -one.top1)):
            note = "for comparison" if each.compared else f"over {', '.join(each.over)}" if each.over else ""
            if each.best:
                note = "chosen" if each is self.chosen else "best of its speed"
            amounts = (show_amount(name, each.costs.get(name)) for name in names)
            table.add_row(each.name, note, f"{each.top1:.2f} %", *amounts)
        limits = ", ".join(f"{name} {show_amount(name, limit)}" for name, limit in self.request.budget.limits.items())
        stdout.print(
            f"{self.trained} networks trained, {self.stopped} of them stopped early; budget: {limits}; accuracy on "
            f"training images held out, after {self.request.epochs} epochs"
        )
        stdout.print(table)
        output = self.request.output
        if self.elsewhere:
            stdout.print(
                f"{len(self.elsewhere)} of the best were trained on other machines and are not measured: copy these "
                f"folders from there into {output / 'runs'}, and rerun the command: {', '.join(self.elsewhere)}"
            )
        if not self.finalists:
            return
        if self.chosen is None:
            stdout.print("no finalist is within the budget as measured whole: raise it, or ask for more --trials")
            return
        train = ["train", str(output / CHOSEN), "--data", self.request.data, "--output", "runs/chosen"]
        export = ["export", "runs/chosen/best.safetensors", "--format", self.request.format_name]
        for command in (train, [*export, "--output", "deploy/chosen"]):
            stdout.print(f"next: {shlex.join(['compactnets', *command])}")


def conclude(search: Search) -> Outcome:
    """Measure the finalists whole, and write the record, the plot and the recipe of the chosen one.

    Where another process of the search does so at this time, its outcome is returned when it has.

    Raises:
        InputError: nothing was trained to the end, or nothing can be measured or written.
    """
    request, trials = search.request, search.claims.trained()
    ended = [trial for trial in trials if trial.state.name == "COMPLETE"]  # a stopped one has a value too
    if not ended:
        raise InputError("no candidate was trained to the end: ask for more --trials")
    ours = sorted((trial for trial in ended if "compared" not in trial.user_attrs), key=lambda trial: -trial.value)
    best = [*ours[:FINALISTS], *(trial for trial in ended if "compared" in trial.user_attrs)]
    chosen = [trial for trial in best if _checkpoint(request, trial).is_file()]
    record = request.output / RECORD
    with own_file(record, wait=True):
        if (text := read_record(request.output)) is not None and text != search.record_before:
            written = Outcome.from_dict(request, json.loads(text))
            if written.trained == search.claims.done and [each.name for each in written.finalists] == [
                _name(trial) for trial in chosen
            ]:
                return written
        measured, environment = _measure(request, chosen) if chosen else ({}, {})
        finalists = _mark([_finalist(request, trial, measured) for trial in chosen])
        outcome = Outcome(
            request=request,
            finalists=tuple(finalists),
            chosen=max((each for each in finalists if each.best), key=lambda each: each.top1, default=None),
            trained=search.claims.done,
            stopped=len(trials) - len(ended),
            table_errors=tuple(search.table.errors),
            environment=environment,
            elsewhere=tuple(_folder(trial) for trial in best if trial not in chosen),
        )
        _write(outcome, search)
    return outcome


def _write(outcome: Outcome, search: Search) -> None:
    request, best = outcome.request, outcome.chosen
    if outcome.finalists:
        save_figure(plot(outcome.to_dict()), request.output / PLOT)
    if best is not None:
        candidate = Candidate(**best.candidate)
        recipe = load_recipe(
            ClassificationRecipe,
            request.recipe,
            [*request.settings, *candidate.settings(search.preprocess)],
            candidate.model,
        )
        told = f"{best.top1:.2f} % on held-out training images after {request.epochs} epochs"
        text = f"# found by compactnets search: {told}\n"
        replace_text(request.output / CHOSEN, text + dump_yaml(recipe.model_dump(mode="json", exclude_none=True)))
    replace_text(request.output / RECORD, json_text(outcome.to_dict(), indent=2) + "\n")  # last: others read it


def _measure(request: Request, trials: Sequence[Any]) -> tuple[dict[str, dict[str, Any]], dict[str, Any]]:
    """Measure the trained networks whole: rows of the benchmark by checkpoint, and its environment."""
    paths = [str(_checkpoint(request, trial)) for trial in trials]
    artifacts = request.output / "artifacts"
    with own_folder(artifacts):
        results = benchmark(paths, [request.format_name], threads=request.threads, artifacts=artifacts)
        if results["failed"]:
            raise InputError(f"{results['failed'][0]['network']} cannot be measured: {results['failed'][0]['reason']}")
        rows = {row["network"]: row for row in results["rows"]}
        for folder in sorted(each for each in artifacts.iterdir() if each.is_dir()):
            record, _ = read_artifact(folder, ArtifactRecord)
            for path, row in rows.items():
                if Path(path).parent.name in folder.name and "arena_bytes" in record.details:
                    row["peak_memory_bytes"] = record.details["arena_bytes"]
        if request.device_command is not None:
            file = find_format(request.format_name).file
            for path, row in rows.items():
                folder = next(each for each in artifacts.iterdir() if Path(path).parent.name in each.name)
                row["milliseconds"] = {"median": time_by_command(request.device_command, folder / file)}
    return rows, {key: results[key] for key in MEASURED}


def _checkpoint(request: Request, trial: Any) -> Path:
    return request.output / "runs" / _folder(trial) / "last.safetensors"


def _folder(trial: Any) -> str:
    return Candidate(**trial.user_attrs["candidate"]).key


def _name(trial: Any) -> str:
    return str(trial.user_attrs.get("compared") or _folder(trial))


def _finalist(request: Request, trial: Any, measured: dict[str, dict[str, Any]]) -> Finalist:
    row = measured[str(_checkpoint(request, trial))]
    costs = {
        "latency": row["milliseconds"]["median"],
        "macs": row["macs"],
        "params": row["params"],
        "bytes": row["bytes"],
        "memory": row["peak_memory_bytes"],
    }
    return Finalist(
        name=_name(trial),
        candidate=trial.user_attrs["candidate"],
        compared="compared" in trial.user_attrs,
        top1=trial.value,
        costs=costs,
        predicted=trial.user_attrs["costs"].get("latency"),
        over=tuple(request.budget.exceeded(costs)),
    )


def _mark(finalists: Sequence[Finalist]) -> list[Finalist]:
    """Mark those that no other within the budget beats in accuracy at most their latency."""
    able = [each for each in finalists if not each.over and not each.compared]

    def beaten(one: Finalist) -> bool:
        return any(
            other.top1 >= one.top1
            and other.latency <= one.latency
            and (other.top1, other.latency) != (one.top1, one.latency)
            for other in able
        )

    return [Finalist(**{**vars(each), "best": each in able and not beaten(each)}) for each in finalists]


def plot(record: Mapping[str, Any]) -> Any:
    """Return Matplotlib's figure of a search's record, as :meth:`Outcome.to_dict` gives it."""
    from matplotlib.figure import Figure  # here, because importing it takes a second

    figure = Figure(figsize=(7, 4.5), layout="constrained")
    axes = figure.add_subplot()
    finalists, request, chosen = record["finalists"], record["request"], record["chosen"]
    kinds = {
        "within the budget": ("o", "tab:blue", lambda each: not each["compared"] and not each["over"]),
        "over the budget": ("x", "tab:red", lambda each: not each["compared"] and bool(each["over"])),
        "for comparison": ("s", "0.35", lambda each: each["compared"]),
    }
    for label, (marker, colour, takes) in kinds.items():
        shown = [each for each in finalists if takes(each)]
        if shown:
            axes.scatter(
                [each["costs"]["latency"] for each in shown],
                [each["top1"] for each in shown],
                s=[12 + (each["costs"]["bytes"] or 0) / 4e4 for each in shown] if marker != "x" else 40,
                marker=marker,
                color=colour,
                label=label,
            )
    front = sorted((each for each in finalists if each["best"]), key=lambda each: each["costs"]["latency"])
    axes.plot([each["costs"]["latency"] for each in front], [each["top1"] for each in front], color="tab:blue", lw=1)
    middle = sum(axes.get_xlim()) / 2
    for each in finalists:
        if each["compared"] or (chosen and each["name"] == chosen["name"]):
            at = (each["costs"]["latency"], each["top1"])
            side = {"xytext": (6, -12)} if at[0] < middle else {"xytext": (-6, -12), "ha": "right"}
            axes.annotate(each["name"], at, textcoords="offset points", fontsize=8, **side)
    if (limit := request["budget"].get("latency")) is not None:
        axes.axvline(limit, color="0.6", ls="--", lw=1)
    axes.set_xlabel(f"milliseconds in {request['format_name']} (area: bytes)")
    axes.set_ylabel(f"top-1 after {request['epochs']} epochs, % of held-out images")
    axes.legend(frameon=False)
    axes.grid(alpha=0.3)
    return figure
