"""What the MENet paper, its repository's readme and the MuffNet paper state.

The data are in ``menet.yaml`` and ``muffnet.yaml``, loaded on first use and cached. Nothing in them is measured, except
each row's ``tolerance`` for our count.
"""

from __future__ import annotations

from functools import cache
from importlib.resources import files
from typing import Any

import yaml

from compactnets.errors import InputError, did_you_mean
from compactnets.papers.schema import Paper, Row

PAPERS = ("menet", "muffnet")


@cache
def load_paper(name: str) -> Paper:
    """Return the data of a paper, validated; later calls return the same object.

    Raises:
        InputError: not one of :data:`PAPERS`.
    """
    if name not in PAPERS:
        raise InputError(f"no paper is called {name!r}{did_you_mean(name, PAPERS)}: expected {' or '.join(PAPERS)}")
    text = files(__package__).joinpath(f"{name}.yaml").read_text(encoding="utf-8")
    data = yaml.safe_load(text)
    data["tables"] = [_expand(name, table) for table in data["tables"]]
    return Paper.model_validate(data)


def load_papers() -> tuple[Paper, ...]:
    """Return both papers."""
    return tuple(map(load_paper, PAPERS))


def stated_rows(paper: str | None = None, table: str | None = None) -> tuple[Row, ...]:
    """Return the rows of both papers, of one paper or of one table, in the papers' order.

    Raises:
        InputError: no such paper, or no such table in it.
    """
    if table is not None and paper is None:
        raise InputError(f"table {table!r} of which paper? Expected one of {', '.join(PAPERS)}")
    papers = load_papers() if paper is None else (load_paper(paper),)
    if table is not None:
        return papers[0].table(table).rows
    return tuple(row for entry in papers for part in entry.tables for row in part.rows)


def _expand(paper: str, table: dict[str, Any]) -> dict[str, Any]:
    """Add paper, table and the table's defaults to each row."""
    defaults = table.get("defaults", {})
    classes = table.get("classes", {})
    rows = []
    for given in table["rows"]:
        row = {"paper": paper, "table": table["table"], **defaults, **given}
        row["arguments"] = {**defaults.get("arguments", {}), **given.get("arguments", {})}
        row.setdefault("key", row["arguments"].get("sharing", row["model"]))
        if "ap" in row:
            row["ap"] = dict(zip(classes.values(), row["ap"], strict=True))
        rows.append(row)
    return {key: value for key, value in table.items() if key != "defaults"} | {"rows": rows}
