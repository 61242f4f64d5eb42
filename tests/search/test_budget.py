"""Budgets as people write them."""

from __future__ import annotations

import pytest

from compactnets.errors import InputError
from compactnets.search.budget import Budget, show_amount


def test_units() -> None:
    given = ["latency=2500us", "macs=40M", "params=1.5M", "bytes=1.5MB", "memory = 400 KiB"]
    assert dict(Budget.parse(given).limits) == {
        "latency": 2.5,
        "macs": 40e6,
        "params": 1.5e6,
        "bytes": 1.5e6,
        "memory": 400 * 1024,
    }


@pytest.mark.parametrize(
    ("texts", "told"),
    [
        ([], "needs a --budget"),
        (["latency"], "latency=3ms"),
        (["latancy=3ms"], "latency"),
        (["latency=3"], "ms, us, s"),
        (["latency=3MB"], "ms, us, s"),
        (["macs=-4M"], "positive"),
        (["macs=0"], "positive"),
        (["macs=1e400"], "positive"),
        (["macs=40M", "macs=30M"], "twice"),
    ],
)
def test_bad_budgets_are_refused(texts: list[str], told: str) -> None:
    with pytest.raises(InputError, match=told):
        Budget.parse(texts)


def test_the_worst_quantity_decides() -> None:
    budget = Budget.parse(["latency=2ms", "macs=10M"])
    assert budget.excess({"latency": 3.0, "macs": 10e6}) == 0.5
    assert budget.excess({"latency": 1.0, "macs": 5e6}) == -0.5
    assert budget.excess({"macs": 20e6, "latency": None}) == 1.0
    assert budget.excess({"params": 1e9}) == 0.0
    assert budget.exceeded({"latency": 2.1, "macs": 5e6}) == ["latency"]


def test_amounts_are_shown_in_a_unit_that_suits_them() -> None:
    shown = [show_amount(*each) for each in (("latency", 2.345), ("macs", 40.1e6), ("bytes", 999), ("memory", None))]
    assert shown == ["2.35 ms", "40.1 M", "999 B", "-"]
