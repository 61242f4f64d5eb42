"""The papers' tables with stated and measured values, as plain data for the page."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, cast

import torch

from compactnets.errors import InputError
from compactnets.models.registry import create_model
from compactnets.models.staged import StagedNet
from compactnets.papers.ablation import ABLATIONS, ablation_rows, describe, rank_correlation
from compactnets.papers.computed import agrees, compute
from compactnets.papers.cost import Comparison, RowCost, count_network
from compactnets.papers.schema import Paper, Reproduction, Row, Table
from compactnets.report.evidence import Accuracies, Evidence, Measured, Origin, command_for

TITLES = {
    "top1": "ImageNet top-1, %",
    "top5": "ImageNet top-5, %",
    "cifar10": "CIFAR-10, %",
    "cifar100": "CIFAR-100, %",
    "map": "mAP, %",
}
TITLE = {"menet": "MENet", "muffnet": "MuffNet"}
SMALL, LARGE = (3, 32, 32), (3, 224, 224)


@dataclass
class Origins:
    """The origins of all numbers on a page, numbered from 1."""

    found: list[Origin] = field(default_factory=list)

    def number(self, origin: Origin) -> int:
        """Return the number of an origin; a new one gets the next number."""
        if origin not in self.found:
            self.found.append(origin)
        return self.found.index(origin) + 1


def paper_tables(
    paper: Paper, costs: Mapping[str, RowCost], evidence: Evidence, origins: Origins
) -> list[dict[str, Any]]:
    """Return every table of a paper: heading, rows of stated and measured values, and the runs that are missing.

    Args:
        costs: our counts by row name (:attr:`compactnets.papers.schema.Row.name`).
    """
    return [_table(table, costs, evidence, origins) for table in paper.tables]


def _table(table: Table, costs: Mapping[str, RowCost], evidence: Evidence, origins: Origins) -> dict[str, Any]:
    metrics = [metric for metric in TITLES if any(metric in row.metrics for row in table.rows)]
    timed = {row.name: evidence.latency(row) for row in table.rows}
    columns = ["network"]
    for title, states in (("MACs, M", "macs"), ("params, M", "params")):
        if any(getattr(row, states) for row in table.rows):
            columns += [title, "counted", "off, %"]
    found = table_accuracies(table, evidence)
    for metric in metrics:
        columns += [TITLES[metric], "by its recipe", "by ours"]
    if any(timed.values()):
        columns.append("latency, ms")
    rows = []
    missing: dict[str, tuple[Row, Reproduction]] = {}
    for row in table.rows:
        cells = [_text(row.label)]
        cost = costs.get(row.name)
        for stated, unit, states in ((row.macs, row.macs_unit, "macs"), (row.params, row.params_unit, "params")):
            if any(getattr(each, states) for each in table.rows):
                cells += _count_cells(stated, unit, getattr(cost, states) if cost else None)
        for metric in metrics:
            measured = found.get((row.name, metric))
            cells += _accuracy_cells(row, metric, measured, origins)
            reproduction = table.reproduction(metric)
            if measured and reproduction and not measured.by_paper:
                missing.setdefault(command_for(row, reproduction), (row, reproduction))
        if any(timed.values()):
            cells.append(_latency_cell(timed[row.name], origins))
        rows.append({"own": row.source == "own", "cells": cells})
    return {
        "name": table.table,
        "section": table.section,
        "caption": table.caption,
        "columns": columns,
        "rows": rows,
        "notes": [
            f"{row.label}: {row.note}"
            for row in table.rows
            if row.note and (cost := costs.get(row.name)) and cost.status.startswith("misses")
        ],
        "samples": [sample for row in table.rows if (sample := _sample(row, evidence, origins))],
        "not_counted": [row.label for row in table.rows if (cost := costs.get(row.name)) and cost.unavailable],
        "not_run": [_not_run(command, *entry, evidence) for command, entry in missing.items()],
        "classes": _class_table(table),
        "layout": _layout(table),
    }


def _text(text: str) -> dict[str, Any]:
    return {"text": text}


def _count_cells(stated: int | None, unit: int | None, found: Comparison | None) -> list[dict[str, Any]]:
    if stated is None or unit is None:
        return [_text(""), _text(""), _text("")]
    digits = max(0, 6 - len(str(unit)) + 1)
    printed = _text(f"{stated / 1e6:.{digits}f}")
    if found is None:
        return [printed, _text("not counted"), _text("")]
    good = "good" if found.is_close else "far"
    return [
        printed,
        _text(f"{found.measured / 1e6:.{digits + 2}f}"),
        {"text": f"{found.deviation:+.2f}", "class": good},
    ]


def table_accuracies(table: Table, evidence: Evidence) -> dict[tuple[str, str], Accuracies]:
    """Return our measurements of every accuracy that a table states, by row name and metric."""
    return {
        (row.name, metric): evidence.accuracies(row, metric, table.reproduction(metric))
        for row in table.rows
        for metric in row.metrics
    }


def count_accuracies(papers: Sequence[Paper], evidence: Evidence) -> dict[str, int]:
    """Return how many accuracies the papers state, and how many were measured and reached, apart by whose recipe.

    Reached is what is no lower than the paper's value, to the digits that the paper prints.
    """
    counts = dict.fromkeys(("stated", "by_paper", "reached_by_paper", "by_ours", "reached_by_ours"), 0)
    for table in (table for paper in papers for table in paper.tables):
        found = table_accuracies(table, evidence)
        for row in table.rows:
            for metric in row.metrics:
                counts["stated"] += 1
                measured = found[row.name, metric]
                for name, value in (("by_paper", measured.by_paper), ("by_ours", measured.by_ours)):
                    if value is not None:
                        counts[name] += 1
                        counts[f"reached_{name}"] += round(value.value, row.decimals or 0) >= row.value(metric)
    return counts


def _accuracy_cells(row: Row, metric: str, measured: Accuracies | None, origins: Origins) -> list[dict[str, Any]]:
    if measured is None:
        return [_text(""), _text(""), _text("")]
    stated = row.value(metric)
    ours = (_measured_cell(each, stated, origins) for each in (measured.by_paper, measured.by_ours))
    return [_text(f"{stated:.{row.decimals or 0}f}"), *ours]


def _measured_cell(measured: Measured | None, stated: float, origins: Origins) -> dict[str, Any]:
    if measured is None:
        return {"text": "not run", "class": "absent"}
    spread = "" if measured.spread is None else f" ± {measured.spread:.2f}"
    text = f"{measured.value:.2f}{spread} ({measured.value - stated:+.2f})"
    return {"text": text, "remark": measured.remark, "origin": origins.number(measured.origin)}


def _sample(row: Row, evidence: Evidence, origins: Origins) -> dict[str, Any] | None:
    """Return a sentence on a row's accuracy on other images; in the table it would look comparable."""
    found = {
        metric: sample
        for metric in row.metrics
        if evidence.accuracy(row, metric) is None and (sample := evidence.sample(row, metric))
    }
    if not found:
        return None
    one = next(iter(found.values()))
    values = ", ".join(f"{sample.value:.2f} % {metric.replace('top', 'top-')}" for metric, sample in found.items())
    text = f"{row.label}: not measured on the paper's images. With {one.remark}: {values}"
    return {"text": f"{text}, not comparable with the table.", "origin": origins.number(one.origin)}


def _latency_cell(measured: Measured | None, origins: Origins) -> dict[str, Any]:
    if measured is None:
        return {"text": "not timed", "class": "absent"}
    number = origins.number(measured.origin)
    return {"text": f"{measured.value:.2f}", "remark": measured.remark, "origin": number}


def _not_run(command: str, row: Row, reproduction: Reproduction, evidence: Evidence) -> dict[str, Any]:
    arguments = tuple(sorted(row.arguments.items()))
    try:
        hours = evidence.hours(reproduction, count_network(row.model, arguments, row.input_size or LARGE)[0])
    except InputError:  # the network needs a missing extra
        hours = None
    return {"row": row.label, "data": reproduction.data, "command": command, "cost": describe_hours(hours)}


def describe_hours(hours: float | None) -> str:
    """Return an estimate in words, with two digits."""
    if hours is None:
        return "cost unknown"
    for limit, unit, per in ((72, "hours", 1), (24 * 400, "days", 24)):
        if hours < limit:
            return f"about {_two_digits(hours / per)} {unit}"
    return f"about {_two_digits(hours / 24 / 365)} years"


def _two_digits(value: float) -> str:
    return f"{float(f'{value:.2g}'):g}"


def _class_table(table: Table) -> dict[str, Any] | None:
    """Return the stated average precision of each class (MENet, Table VIII)."""
    if not table.classes:
        return None
    rows = [[row.label, *(f"{(row.ap or {})[name]:.1f}" for name in table.classes.values())] for row in table.rows]
    return {"columns": ["network", *table.classes], "rows": rows}


def _layout(table: Table) -> dict[str, Any] | None:
    """Return the body of an architecture table (MENet, Table I), and whether our networks' feature maps agree."""
    if not table.layout:
        return None
    with torch.device("meta"):
        models = [create_model(row.model, **row.arguments) for row in table.rows]
    maps = [
        {(224 // level["reduction"], level["num_chs"]) for level in cast(StagedNet, model).feature_info}
        | {(1, model.num_classes)}
        for model in models
    ]
    rows = []
    for line in table.layout:
        same = all((line.size, channels) in found for found, channels in zip(maps, line.channels, strict=False))
        repeat = f"× {line.repeat}" if line.repeat > 1 else ""
        what = " ".join(filter(None, [line.layer, f"/{line.stride}" if line.stride > 1 else "", repeat]))
        channels = [str(count) for count in line.channels] or [""] * len(models)
        agree = ("the same" if same else "differ") if line.channels else ""
        rows.append([line.stage, f"{line.size} × {line.size}", what, *channels, agree])
    return {"columns": ["stage", "output", "layer", *(row.label for row in table.rows), "our maps"], "rows": rows}


def claims(paper: Paper) -> list[dict[str, Any]]:
    """Return the numbers that the text quotes, and whether tables and computation support them."""
    return [
        {
            "where": claim.where,
            "text": claim.text,
            "stated": _number(claim.stated) if claim.relation != "above" else "",
            "found": _number(paper.evaluate(claim)),
            "holds": paper.holds(claim),
        }
        for claim in paper.claims
    ] + [
        {
            "where": each.where,
            "text": each.text,
            "stated": _number(each.stated) if each.relation == "equal" else "",
            "found": _number(compute(each)),
            "holds": agrees(each),
        }
        for each in paper.computed
    ]


def _number(value: float) -> str:
    """Return four significant digits, or all digits of a large count; never an exponent."""
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.4g}"


def ablations(evidence: Evidence) -> list[dict[str, Any]]:
    """Return every ablation: its results, and for missing runs the command and an estimate of the cost."""
    return [_ablation(name, evidence) for name in ABLATIONS]


def _ablation(name: str, evidence: Evidence) -> dict[str, Any]:
    paper, tables = ABLATIONS[name]
    epochs, seeds = 5, 3
    results = [result for result in evidence.ablations if result["name"] == name]
    run = {row["key"] for result in results for row in result["rows"]}
    rows = ablation_rows(name)
    left = [row for row in rows if row.key not in run]
    macs = [
        count_network(row.model, tuple(sorted({**row.arguments, "stem": "cifar", "num_classes": 10}.items())), SMALL)[0]
        for row in left
    ]
    return {
        "title": f"{name} ({TITLE[paper]}, Table{'s' if len(tables) > 1 else ''} {', '.join(tables)})",
        "command": f"compactnets papers ablation {name} --data cifar10 --epochs {epochs} --seeds {seeds} "
        f"--output runs/{name}",
        "cost": describe_hours(evidence.training_hours(sum(macs) * seeds, 50_000, epochs)),
        "not_run": "" if not left else f"{len(left)} of {len(rows)} networks, {len(left) * seeds} runs",
        "results": [_ablation_result(result) for result in results],
    }


def _ablation_result(result: Mapping[str, Any]) -> dict[str, Any]:
    return {
        **{key: result[key] for key in ("command", "commit", "date", "data", "recipe", "epochs")},
        "device": result["environment"]["processor"],
        "correlation": rank_correlation(result),
        "rows": [[row["label"], f"{row['macs'] / 1e6:.1f}", *describe(row)] for row in result["rows"]],
    }


def origin_rows(origins: Origins) -> list[dict[str, Any]]:
    """Return the origins as plain data, in order of their numbers."""
    return [asdict(origin) for origin in origins.found]
