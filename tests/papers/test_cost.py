"""What the papers state against what we count: every row within its tolerance, and no tolerance looser than needed."""

from __future__ import annotations

import io

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

import compactnets
from compactnets import InputError
from compactnets.console import PlainConsole
from compactnets.errors import missing_extra
from compactnets.papers.cost import NEEDS_PEERS, Comparison, RowCost, measure_rows, render, summary, to_json
from compactnets.papers.schema import Row
from compactnets.papers.stated import load_paper, stated_rows

STATING = [row for row in stated_rows() if row.states_cost]
SLACK = 2.0  # a tolerance may be this many times the deviation, or SMALLEST
SMALLEST = 0.1  # percent
MEASURED: dict[int, RowCost] = {}  # a row is counted once, whichever of its tests comes first


def _measured(row: Row) -> RowCost:
    if id(row) not in MEASURED:
        (MEASURED[id(row)],) = measure_rows([row])
    result = MEASURED[id(row)]
    if result.unavailable:
        pytest.skip(result.unavailable)
    return result


def _with_tolerances(row: Row) -> list[tuple[Comparison, float]]:
    result = _measured(row)
    pairs = ((result.macs, row.tolerance.macs), (result.params, row.tolerance.params))
    return [(comparison, tolerance) for comparison, tolerance in pairs if comparison and tolerance is not None]


@pytest.mark.parametrize("row", STATING, ids=lambda row: row.name, scope="class")  # so that a row is counted once
class TestRow:
    def test_is_within_its_tolerance(self, row: Row) -> None:
        compared = _with_tolerances(row)
        assert len(compared) == (row.macs is not None) + (row.params is not None)
        for comparison, tolerance in compared:
            assert abs(comparison.deviation) <= tolerance

    def test_tolerance_is_no_looser_than_needed(self, row: Row) -> None:
        for comparison, tolerance in _with_tolerances(row):
            assert tolerance <= max(SLACK * abs(comparison.deviation), SMALLEST)

    def test_says_why_where_it_misses(self, row: Row) -> None:
        result = _measured(row)
        if all(comparison.is_close for comparison, _ in _with_tolerances(row)):
            assert result.status in ("exact", "within 1 %")
            assert row.note is None
        else:
            assert row.source != "own"
            assert row.note
            assert result.status == f"misses: {row.note}"

    def test_is_exact_if_the_network_is_the_papers_own(self, row: Row) -> None:
        if row.source == "own":
            assert _measured(row).status == "exact"


def test_number_of_rows_that_state_a_cost() -> None:
    assert len(STATING) == 119
    assert sum(row.source == "own" for row in STATING) == 60


def test_count_is_that_of_pytorch() -> None:
    """The count of one row against PyTorch's own counter, which counts two operations per multiply-add."""
    row = load_paper("muffnet").row("1", "average+none+none")
    network = compactnets.create_model(row.model, **row.arguments).eval()
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        network(torch.zeros(1, *(row.input_size or ())))
    (result,) = measure_rows([row])
    assert result.macs is not None
    assert result.params is not None
    assert result.macs.measured == counter.get_total_flops() // 2
    assert result.params.measured == sum(parameter.numel() for parameter in network.parameters())


def test_a_network_is_built_once(monkeypatch: pytest.MonkeyPatch) -> None:
    rows = [row.model_copy(update={"arguments": {"num_classes": 7}}) for row in stated_rows("menet", "V")]
    repeated = [*rows, *rows, *(row.model_copy(update={"key": f"{row.key}_again"}) for row in rows)]
    built: list[str] = []
    create_model = compactnets.create_model

    def counting(name: str, **arguments: object) -> torch.nn.Module:
        built.append(name)
        return create_model(name, **arguments)

    monkeypatch.setattr(compactnets, "create_model", counting)
    seen: list[RowCost] = []
    assert measure_rows(repeated, on_row=seen.append) == seen
    assert len(seen) == 12
    assert built == [row.model for row in rows]


def test_network_of_a_missing_extra_is_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    def create_model(name: str, **arguments: object) -> torch.nn.Module:
        raise missing_extra("pytorchcv", "peers", name)

    monkeypatch.setattr(compactnets, "create_model", create_model)
    row = load_paper("muffnet").row("6", "igcv3_x1_0").model_copy(update={"model": "not_installed"})
    results = measure_rows([row])
    assert results[0].status == NEEDS_PEERS
    assert summary(results)[NEEDS_PEERS] == 1
    document = to_json(results)
    assert document["rows"][0]["macs"] == {
        "stated": 318_000_000,
        "measured": None,
        "deviation_percent": None,
        "exact": None,
    }
    text = _text(results)
    assert "not counted" in text
    assert f"1 rows: 1 {NEEDS_PEERS}." in text


def test_unknown_network_is_an_error() -> None:
    row = load_paper("menet").row("II", "vgg16").model_copy(update={"model": "vgg_16"})
    with pytest.raises(InputError, match="vgg_16"):
        measure_rows([row])


@pytest.mark.parametrize(
    ("stated", "measured", "unit", "floored", "exact", "close"),
    [
        (38, 38.0, 1, True, True, True),
        (38, 38.999_999, 1, True, True, True),
        (38, 39.0, 1, True, False, False),
        (38, 37.999_999, 1, True, False, True),
        (38, 38.5, 1, False, True, True),
        (38, 38.500_001, 1, False, False, False),
        (38, 37.5, 1, False, True, True),
        (151, 152.5, 1, False, False, True),
        (151, 152.52, 1, False, False, False),
    ],
)
def test_printed_rounding(stated: int, measured: float, unit: int, floored: bool, exact: bool, close: bool) -> None:
    million = 1_000_000
    comparison = Comparison(stated * million, round(measured * million), unit * million, floored)
    assert (comparison.is_exact, comparison.is_close) == (exact, close)


def test_worse_of_two_counts_decides() -> None:
    row = load_paper("muffnet").row("6", "muffnet_x0_5").model_copy(update={"note": "because"})
    exact, near, far = (Comparison(1000, measured, 1) for measured in (1000, 1005, 1500))
    assert RowCost(row, exact, exact).status == "exact"
    assert RowCost(row, exact, near).status == "within 1 %"
    assert RowCost(row, far, exact).status == "misses: because"
    assert summary([RowCost(row, near, far), RowCost(row, near, None)]) == {
        "exact": 0,
        "within 1 %": 1,
        "misses": 1,
        NEEDS_PEERS: 0,
    }


def _text(results: list[RowCost]) -> str:
    console = PlainConsole(file=io.StringIO(), width=100)
    console.print(render(results))
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def _pretended(row: Row) -> RowCost:
    """Return what a count that is 2 % too high would give: the rows without a note miss without a reason."""
    comparisons = [
        Comparison(stated, round(1.02 * stated), unit, floored) if stated and unit else None
        for stated, unit, floored in (
            (row.macs, row.macs_unit, row.macs_floored),
            (row.params, row.params_unit, False),
        )
    ]
    return RowCost(row, *comparisons)


def test_table_fits_in_100_columns_and_has_every_row() -> None:
    results = [_pretended(row) for row in STATING]
    text = _text(results)
    lines = [line.rstrip() for line in text.splitlines()]
    assert max(map(len, lines)) <= 100
    assert "…" not in text
    for row in STATING:
        assert any(line.startswith(f"{row.label} ") for line in lines), row.label
    for table in ("MENet, Table II: ILSVRC 2012", "MENet, readme: ", "MuffNet, Table 7: mAP on MS COCO"):
        assert any(line.startswith(table) for line in lines)
    for result in results:
        if result.row.note and result.status.startswith("misses"):
            assert " ".join(result.row.note.split()) in " ".join(text.split())


def test_table_shows_what_was_counted() -> None:
    rows = (
        ("menet", "V", "menet_228_14x1_g3"),
        ("muffnet", "1", "average+none+none"),
        ("menet", "II", "xception15_38m"),
    )
    text = _text(measure_rows(load_paper(paper).row(table, key) for paper, table, key in rows))
    lines = {line.split("  ")[0]: line.split()[-6:] for line in text.splitlines() if line}
    assert lines["228-MENet-14×1 (g = 3)"][-4:] == ["148", "148.46", "+0.31", "exact"]
    assert lines["average+none+none"] == ["41.56", "-1.05", "1.38", "1.3792", "-0.06", "exact"]
    assert lines["Xception-15"][-5:] == ["38", "38.52", "+1.36", "misses", "(1)"]
    assert "(1) 38 M is the budget" in text
    assert "3 rows: 2 exact, 1 misses." in text


def test_json_has_every_number() -> None:
    result = _measured(load_paper("muffnet").row("1", "average+none+none"))
    document = to_json([result])
    assert document["summary"] == {"exact": 1, "within 1 %": 0, "misses": 0, NEEDS_PEERS: 0}
    assert "multiply-adds" in document["convention"]
    (row,) = document["rows"]
    assert (row["paper"], row["table"], row["row"]) == ("muffnet", "1", "average+none+none")
    assert row["arguments"] == {"sharing": "average+none+none"}
    assert row["input_size"] == [3, 224, 224]
    assert result.params is not None
    assert row["params"]["stated"] == 1_380_000
    assert row["params"]["measured"] == result.params.measured
    assert row["params"]["deviation_percent"] == pytest.approx(100 * (result.params.measured / 1_380_000 - 1), abs=1e-3)
    assert row["params"]["exact"] is True
    assert row["status"] == "exact"
