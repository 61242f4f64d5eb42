"""Write the report: a self-contained HTML page, the same in Markdown, the figures, and the values as JSON."""

from __future__ import annotations

import base64
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from compactnets.complexity import CONVENTION
from compactnets.console import Tracker
from compactnets.environment import commit, software_versions
from compactnets.errors import InputError
from compactnets.files import as_bytes, as_path, json_text, replace_files
from compactnets.folders import check_folder
from compactnets.papers.ablation import own_sharings
from compactnets.papers.cost import RowCost, measure_rows, select_rows, summary
from compactnets.papers.schema import Paper
from compactnets.papers.stated import load_papers
from compactnets.papers.theory import crossing_frequency, equal_budget_width, federated_macs
from compactnets.report import diagrams, figures
from compactnets.report.evidence import Evidence
from compactnets.report.tables import (
    TITLE,
    Origins,
    ablations,
    claims,
    count_accuracies,
    origin_rows,
    paper_tables,
)

HTML, MARKDOWN, JSON = "report.html", "report.md", "report.json"
FIGURES = "figures"


@dataclass(frozen=True)
class Drawn:
    """A figure: its place in the paper, caption, file name, and its SVG or the reason why it is missing."""

    place: str
    caption: str
    file: str
    svg: str | None
    missing: str = ""

    @property
    def uri(self) -> str:
        """The picture as a ``data:`` address."""
        return "data:image/svg+xml;base64," + base64.b64encode((self.svg or "").encode()).decode()


def write_report(output: str | Path, runs: Iterable[str | Path] = ()) -> dict[str, Any]:
    """Write ``report.html``, ``report.md``, ``report.json`` and ``figures/*.svg`` to a folder.

    Args:
        runs: folders of the user's runs or ablations, in addition to the recorded ones.

    Returns:
        The report's values, the content of ``report.json``.

    Raises:
        InputError: a folder that holds no run, or ``output`` cannot be written.
    """
    output = as_path(output)
    check_folder(output)
    check_folder(output / FIGURES)
    evidence = Evidence(map(as_path, runs))
    rows = select_rows()
    costs = [cost for row in Tracker(rows, len(rows), "counting") for cost in measure_rows([row])]
    papers, origins = load_papers(), Origins()
    drawn = {paper.paper: _figures(paper, evidence) for paper in papers}
    values = _values(papers, costs, evidence, origins)
    values["figures_missing"] = [
        f"{each.place} of {TITLE[paper]}: {each.missing}" for paper in drawn for each in drawn[paper] if not each.svg
    ]
    drawn["ablations"] = _own_matrices(evidence)
    texts = {f"{FIGURES}/{each.file}": each.svg for group in drawn.values() for each in group if each.svg}
    texts |= {name: _render(name, values, drawn) for name in (HTML, MARKDOWN)}
    texts[JSON] = json_text(values, indent=1, ensure_ascii=False) + "\n"
    replace_files({output / name: as_bytes(text) for name, text in texts.items()})
    return values


def _values(papers: Sequence[Paper], costs: Sequence[RowCost], evidence: Evidence, origins: Origins) -> dict[str, Any]:
    by_name = {cost.row.name: cost for cost in costs}
    rows = [row for paper in papers for table in paper.tables for row in table.rows]
    parts = [
        {
            "paper": paper.paper,
            "name": TITLE[paper.paper],
            "title": paper.title,
            "authors": paper.authors,
            "reference": paper.reference,
            "tables": paper_tables(paper, by_name, evidence, origins),
            "claims": claims(paper),
            "discrepancies": [{"where": each.where, "what": each.what} for each in paper.discrepancies],
            "training": [each.model_dump() for each in paper.training],
        }
        for paper in papers
    ]
    others = [
        {"what": found.remark, "value": round(found.value, 2), "origin": origins.number(found.origin)}
        for found in evidence.others(rows)
    ]
    return {
        "made": {
            "date": datetime.now(UTC).date().isoformat(),
            "commit": commit(),
            "versions": software_versions(),
            "convention": CONVENTION,
        },
        "summary": {
            "costs": {key: number for key, number in summary(costs).items() if number},
            "rows_with_costs": len(costs),
            "accuracies": count_accuracies(papers, evidence),
        },
        "papers": parts,
        "theory": _theory(),
        "ablations": ablations(evidence),
        "others": others,
        "estimate": {"multiply_adds_per_second": evidence.training_rate},
        "origins": origin_rows(origins),
    }


def _theory(entry: float = 32, num_layers: int = 4) -> list[dict[str, Any]]:
    rows = []
    for printed in (True, False):
        width = equal_budget_width(entry, num_layers, as_printed=printed)
        rows.append(
            {
                "what": "as printed" if printed else "with the block of section 3.2 on both sides",
                "macs": f"{federated_macs(entry, num_layers, as_printed=printed):,.0f}",
                "width": f"{width:.3f}",
                "crossing": f"{crossing_frequency(entry, num_layers, as_printed=printed):,.0f}",
            }
        )
    return rows


def _figures(paper: Paper, evidence: Evidence) -> list[Drawn]:
    """Draw every figure of a paper that can be drawn."""
    if paper.paper == "menet":
        curve = partial(figures.accuracy_against_macs, paper, ("IV",), evidence)
        return [
            _plot("Figure 1", "Channel shuffle of 9 channels in 3 groups", "menet-1", figures.shuffle),
            _diagram("Figure 2", "Merging and evolution operations", "menet-2", diagrams.fusion_branch),
            _diagram("Figure 3 (a)", "Standard ME module", "menet-3a", diagrams.me_standard),
            _diagram("Figure 3 (b)", "Downsampling ME module", "menet-3b", diagrams.me_downsampling),
            _plot("Figure 4", "Top-1 accuracy against multiply-adds (Table IV)", "menet-4", curve),
            _plot("Equation 3", "Connections lost in a channel shuffle", "menet-eq3", figures.lost_connections),
        ]
    curve = partial(figures.accuracy_against_macs, paper, ("6",), evidence)
    return [
        _diagram("Figures 1 and 2", "A stage of 4 layers: where each group goes", "muffnet-1", diagrams.worked_sharing),
        _diagram("Figure 3 (a)", "Normal block", "muffnet-3a", diagrams.normal_block),
        _diagram("Figure 3 (b)", "Normal block with residual link", "muffnet-3b", diagrams.residual_block),
        _diagram("Figure 3 (c)", "Reduction block", "muffnet-3c", diagrams.reduction_block),
        _diagram("Figure 3 (d)", "The network, muffnet_x0_5", "muffnet-3d", diagrams.network_diagram),
        _plot("Figure 4", "Bounds of the spectrum", "muffnet-4", figures.spectrum),
        _plot("Figure 5", "Sharing matrices of muffnet_x0_5", "muffnet-5", figures.matrices),
        _plot("Figure 6", "Top-1 accuracy against multiply-adds (Table 6)", "muffnet-6", curve),
    ]


def _own_matrices(evidence: Evidence) -> list[Drawn]:
    """Draw each M in the ablations that is not from the paper, such as a learned one."""
    return [
        _plot(
            row["label"],
            "Sharing matrices",
            f"own-{name}",
            partial(figures.matrices, row["model"], row["arguments"]["sharing"]),
        )
        for name, row in own_sharings(evidence.ablations).items()
    ]


def _plot(place: str, caption: str, name: str, draw: Callable[[], Any]) -> Drawn:
    return Drawn(place, caption, f"{name}.svg", figures.to_svg(draw()))


def _diagram(place: str, caption: str, name: str, draw: Callable[[], Any]) -> Drawn:
    try:
        return Drawn(place, caption, f"{name}.svg", diagrams.to_svg(draw))
    except InputError as error:  # a report without diagrams is better than no report
        return Drawn(place, caption, f"{name}.svg", None, str(error))


def _render(name: str, values: dict[str, Any], drawn: dict[str, list[Drawn]]) -> str:
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=name == HTML,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(cell=_markdown_cell, words=word_columns)
    return environment.get_template(name).render(**values, figures=drawn, folder=FIGURES)


def word_columns(rows: Sequence[Sequence[str]]) -> list[bool]:
    """Return for each column whether it holds words (left-aligned) or numbers (right-aligned)."""
    numbers = re.compile(r"[-+\u00b1\u00d7\u2013.,\d\s%]*")
    return [not all(numbers.fullmatch(str(cell)) for cell in column) for column in zip(*rows, strict=True)]


def _markdown_cell(cell: dict[str, Any]) -> str:
    """Return a cell for a Markdown table, with its remark and the number of its origin."""
    text = str(cell["text"]).replace("|", "\\|")
    remark = f" ({cell['remark']})" if cell.get("remark") else ""
    return f"{text}{remark} [{cell['origin']}]" if "origin" in cell else text
