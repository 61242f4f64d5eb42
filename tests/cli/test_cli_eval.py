"""compactnets eval of a classifier: the figures of each class, the page and the predictions."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from .helpers import Outcome, save_digits


def test_figures_page_and_predictions(run: Callable[..., Outcome], tmp_path: Path) -> None:
    checkpoint = save_digits(tmp_path / "a.safetensors", "shufflenet_g3_x0_25")
    page, table = tmp_path / "page.html", tmp_path / "table.csv"
    given = ("eval", "--checkpoint", checkpoint, "--data", "digits")
    done = run(*given, "--examples", page, "--predictions", table, "--json")
    assert done.code == 0, done.err
    figures = done.json
    assert sum(row["images"] for row in figures["classes"]) == figures["images"]
    assert sum(row["right"] for row in figures["classes"]) == figures["top1_correct"]
    assert sum(count for *_, count in figures["confusions"]) == figures["images"] - figures["top1_correct"]
    assert page.read_text().count("<figure>") == 48
    assert len(table.read_text().splitlines()) == figures["images"] + 1
    for option, path in (("--predictions", "table.txt"), ("--examples", ""), ("--predictions", "a.safetensors/b.csv")):
        refused = run(*given, option, tmp_path / path)
        assert refused.code == 2
        assert option in refused.err
        assert "Traceback" not in refused.err
