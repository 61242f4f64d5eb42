"""The verbs of ``compactnets papers``."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from .helpers import Outcome

Run = Callable[..., Outcome]
QUICK = ["--recipe", "digits/quickstart", "--device", "cpu", "--epochs", 1, "--set", "schedule.warmup_epochs=0"]
QUICK += ["--set", "preprocess.size=8", "--set", "batch_size=256", "--set", "lr=0.001"]


def test_cost_as_json(run: Run) -> None:
    document = run("papers", "cost", "menet VI", "--json").json
    assert document["summary"]["misses"] == 0
    assert [row["macs"]["stated"] for row in document["rows"]] == [144_000_000, 152_000_000, 163_000_000, 179_000_000]


def test_the_report_tells_whose_recipes_were_run(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A short run of ours is no reproduction: the line that ends the command counts both."""
    accuracies = {"stated": 50, "by_paper": 3, "reached_by_paper": 1, "by_ours": 12, "reached_by_ours": 4}
    values = {"figures_missing": [], "summary": {"rows_with_costs": 7, "accuracies": accuracies}}
    monkeypatch.setattr("compactnets.report.write_report", lambda *_: values)
    told = " ".join(run("papers", "report", "--output", tmp_path / "report").out.split())
    words = (
        "7 counts",
        "of 50 accuracies",
        "1 reproduced by the papers' recipes (3 run)",
        "4 reached by ours (12 run)",
    )
    assert all(word in told for word in words)


@pytest.mark.slow  # the parts are tested by tests/papers/test_ablation.py and tests/report
def test_ablation_and_its_report(run: Run, own_network: Path, tmp_path: Path) -> None:
    runs = tmp_path / "runs"
    words = ["papers", "ablation", "sharing", "--data", "digits", "--output", runs, "--seeds", 1, *QUICK]
    words += ["--row", "none+none+none", "--network", own_network]
    done = run(*words)
    assert done.code == 0, done.err
    assert "none+none+none" in done.out
    assert "59.69" in done.out
    record = run(*words, "--json").json  # goes on: there is nothing left to do
    accuracy = record["rows"][0]["runs"][0]["top1_percent"]
    assert f"{accuracy:.2f}" in done.out
    assert record["command"].startswith("compactnets papers ablation sharing --data digits --output runs --seeds 1")
    written = run("papers", "report", "--output", tmp_path / "report", "--run", runs)
    assert written.code == 0, written.err
    assert "report.html: 119 counts" in written.out
    text = (tmp_path / "report" / "report.md").read_text(encoding="utf-8")
    assert f" | 59.69 | {accuracy:.2f} | 1 |" in text
    assert f"| found (muffnet_x0_5) | {record['rows'][1]['macs'] / 1e6:.1f} | - | " in text
    assert "(figures/own-found.svg)" in text
    assert "<svg" in (tmp_path / "report" / "figures" / "own-found.svg").read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["ablation", "widths", "--data", "digits"], "no ablation is called 'widths'"),
        (["ablation", "sharing", "--data", "digits", "--row", "nothing"], "sharing has no row 'nothing'"),
        (["ablation", "sharing", "--data", "digits", "--network", "no.safetensors"], "no checkpoint at no.safetensors"),
        (["ablation", "sharing", "--data", "nowhere"], "nowhere"),
        (["ablation", "sharing", "--data", "digits", "--recipe", "small/ssd512"], "is of detection"),
        (["ablation", "sharing", "--data", "digits", "--set", "epoch=1"], "did you mean 'epochs'"),
        (["report", "--run", "nowhere"], "cannot read nowhere/environment.json"),
    ],
)
def test_wrong_input(run: Run, tmp_path: Path, words: list[str], message: str) -> None:
    done = run("papers", *words, "--output", tmp_path / "out")
    assert done.code == 2
    assert message in done.err
    assert len(done.err.strip().splitlines()) == 1
    assert not (tmp_path / "out").exists()
