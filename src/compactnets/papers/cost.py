"""Compare the multiply-adds and parameters that the papers state with our count of the same networks.

Networks are built and counted on PyTorch's meta device: nothing is computed, and no weights are needed.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import torch

import compactnets
from compactnets.complexity import CONVENTION, count
from compactnets.console import Group, Table
from compactnets.errors import InputError
from compactnets.papers.schema import Row
from compactnets.papers.stated import PAPERS, load_paper, stated_rows

NEEDS_PEERS = "needs compactnets[peers]"


@dataclass(frozen=True)
class Comparison:
    """A stated count and ours.

    Attributes:
        stated: the count as printed.
        measured: our count.
        unit: one unit of the last printed digit.
        floored: whether the printed count is truncated at that digit instead of rounded.
    """

    stated: int
    measured: int
    unit: int
    floored: bool = False

    @property
    def deviation(self) -> float:
        """Deviation of our count from the stated one, in percent."""
        return 100 * (self.measured / self.stated - 1)

    @property
    def is_exact(self) -> bool:
        """Whether our count, rounded as the paper rounds, is the stated one."""
        excess = self.measured - self.stated
        return 0 <= excess < self.unit if self.floored else 2 * abs(excess) <= self.unit

    @property
    def is_close(self) -> bool:
        """Whether our count equals the stated one as printed, or is within 1 % of it."""
        return self.is_exact or abs(self.deviation) <= 1


@dataclass(frozen=True)
class RowCost:
    """A row of a table: its stated counts and ours.

    Attributes:
        row: the row.
        macs, params: the comparisons; ``None`` if the row does not state the count, or the network is unavailable.
        unavailable: why the network could not be built (:data:`NEEDS_PEERS`), or ``None``.
    """

    row: Row
    macs: Comparison | None
    params: Comparison | None
    unavailable: str | None = None

    @property
    def status(self) -> str:
        """``"exact"`` (as printed), ``"within 1 %"``, ``"misses: "`` with the reason, or :data:`NEEDS_PEERS`."""
        if self.unavailable:
            return self.unavailable
        comparisons = [comparison for comparison in (self.macs, self.params) if comparison]
        if all(comparison.is_exact for comparison in comparisons):
            return "exact"
        if all(comparison.is_close for comparison in comparisons):
            return "within 1 %"
        return f"misses: {self.row.note or 'no reason is recorded'}"

    def to_dict(self) -> dict[str, Any]:
        """Return the comparison for JSON; counts in units, deviations in percent."""
        row = self.row
        return {
            "paper": row.paper,
            "table": row.table,
            "row": row.label,
            "key": row.key,
            "source": row.source,
            "model": row.model,
            "arguments": row.arguments,
            "input_size": list(row.input_size or ()),
            "macs": _values(row.macs, self.macs),
            "params": _values(row.params, self.params),
            "status": self.status,
            "note": row.note,
        }


def select_rows(name: str | None = None) -> list[Row]:
    """Return the rows that state a cost: all, those of a paper (``"menet"``) or of a table (``"muffnet 6"``).

    Raises:
        InputError: no such paper or table; the message names the existing ones.
    """
    paper, _, table = (name or "").partition(" ")
    if paper and paper not in PAPERS:
        raise InputError(f"no paper is called {paper!r}: expected {' or '.join(PAPERS)}, optionally with a table")
    rows = [row for row in stated_rows(paper or None) if row.states_cost]
    tables = list(dict.fromkeys(row.table for row in rows))
    if table and table not in tables:
        raise InputError(f"{paper} has no table {table!r} with costs: expected one of {', '.join(tables)}")
    return [row for row in rows if not table or row.table == table]


def measure_rows(rows: Iterable[Row] | None = None, on_row: Callable[[RowCost], object] | None = None) -> list[RowCost]:
    """Count the network of every row that states multiply-adds or parameters.

    Each network is built once, even if several rows share it. A row whose network needs a missing optional package is
    returned as unavailable.

    Args:
        rows: rows to count; by default those of both papers.
        on_row: called with each result as soon as it is ready, for a progress bar.

    Raises:
        InputError: a row names a network or an argument that does not exist.
    """
    results = []
    for row in stated_rows() if rows is None else rows:
        if row.states_cost:
            results.append(_measure(row))
            if on_row:
                on_row(results[-1])
    return results


def _measure(row: Row) -> RowCost:
    assert row.input_size is not None  # every row that states a count has one
    try:
        macs, params = count_network(row.model, tuple(sorted(row.arguments.items())), row.input_size)
    except InputError as error:
        if "compactnets[peers]" not in str(error):
            raise
        return RowCost(row, None, None, NEEDS_PEERS)
    return RowCost(
        row,
        Comparison(row.macs, macs, row.macs_unit or 1, row.macs_floored) if row.macs else None,
        Comparison(row.params, params, row.params_unit or 1) if row.params else None,
    )


@cache
def count_network(
    model: str, arguments: tuple[tuple[str, Any], ...] = (), input_size: tuple[int, int, int] = (3, 224, 224)
) -> tuple[int, int]:
    """Return multiply-adds and parameters of a network, built on the meta device; cached."""
    with torch.device("meta"):
        network = compactnets.create_model(model, **dict(arguments)).eval()
    return count(network, input_size)


def _values(stated: int | None, comparison: Comparison | None) -> dict[str, Any] | None:
    if stated is None:
        return None
    if comparison is None:
        return {"stated": stated, "measured": None, "deviation_percent": None, "exact": None}
    return {
        "stated": stated,
        "measured": comparison.measured,
        "deviation_percent": round(comparison.deviation, 3),
        "exact": comparison.is_exact,
    }


def summary(costs: Sequence[RowCost]) -> dict[str, int]:
    """Return how many rows are exact, within 1 %, missing and not measured."""
    found = [cost.status.partition(":")[0] for cost in costs]
    return {status: found.count(status) for status in ("exact", "within 1 %", "misses", NEEDS_PEERS)}


def to_json(costs: Sequence[RowCost]) -> dict[str, Any]:
    """Return the comparison for JSON: the counting convention, the number of rows per status, and the rows."""
    return {"convention": CONVENTION, "summary": summary(costs), "rows": [cost.to_dict() for cost in costs]}


def render(costs: Sequence[RowCost]) -> Group:
    """Return one rich table per table of the papers, the reasons for misses, a summary and the counting convention.

    Counts are in millions, deviations in percent.
    """
    notes: dict[str, int] = {}  # reasons for misses, numbered in order of appearance
    tables = [
        _table(paper, table, list(group), notes)
        for (paper, table), group in itertools.groupby(costs, key=lambda cost: (cost.row.paper, cost.row.table))
    ]
    counts = ", ".join(f"{number} {status}" for status, number in summary(costs).items() if number)
    lines = [*(f"({number}) {note}" for note, number in notes.items()), f"{len(costs)} rows: {counts}.", CONVENTION]
    return Group(*(part for table in tables for part in (table, "")), *lines)


def _table(paper: str, name: str, costs: Sequence[RowCost], notes: dict[str, int]) -> Table:
    stated = load_paper(paper).table(name)
    place = f"{'MENet' if paper == 'menet' else 'MuffNet'}, {'readme' if name == 'readme' else f'Table {name}'}"
    table = Table("row", title=f"{place}: {stated.caption}", lines=True)
    table.add_figures("MACs", "counted", "%", "params", "counted", "%")
    table.add_text("")
    for cost in costs:
        row, status = cost.row, cost.status
        if status.startswith("misses"):
            number = notes.setdefault(status.removeprefix("misses: "), len(notes) + 1)
            status = f"misses ({number})"
        elif cost.unavailable:
            status = "not counted"
        macs = _cells(row.macs, row.macs_unit, cost.macs)
        params = _cells(row.params, row.params_unit, cost.params)
        table.add_row(row.label, *macs, *params, status)
    return table


def _cells(stated: int | None, unit: int | None, comparison: Comparison | None) -> tuple[str, str, str]:
    """Return the stated count as printed and ours, in millions, and the deviation."""
    if stated is None or unit is None:
        return "", "", ""
    digits = 6 - math.floor(math.log10(unit))
    printed = f"{stated / 1e6:.{digits}f}"
    if comparison is None:
        return printed, "", ""
    return printed, f"{comparison.measured / 1e6:.{digits + 2}f}", f"{comparison.deviation:+.2f}"
