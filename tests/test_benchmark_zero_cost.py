"""Scores of networks before training: against closed forms, and on a toy search."""

from __future__ import annotations

import json
import math
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from torch import nn

from compactnets.search import find, space

from .scripts import load_script
from .search.helpers import RECIPE, SETTINGS, fake_benchmark, toy

pytest.importorskip("optuna", reason="optuna is not installed")


@pytest.fixture(scope="module")
def zero_cost() -> ModuleType:
    return load_script("benchmarks/zero_cost.py")


def test_the_gradient_norm_of_a_linear_classifier(zero_cost: ModuleType) -> None:
    """The gradient by the weights is (p - y) x^T."""
    model = nn.Sequential(nn.Flatten(), nn.Linear(4, 3, bias=False))
    image = torch.randn(1, 1, 2, 2)
    error = torch.softmax(model(image), 1)[0].detach() - torch.tensor([0.0, 1.0, 0.0])
    expected = float(error.norm() * image.norm())
    assert zero_cost.gradient_norm(model, image, torch.tensor([1])) == pytest.approx(expected, rel=1e-5)
    assert model[1].weight.grad is None  # the network is as before


def test_synflow_of_linear_layers(zero_cost: ModuleType) -> None:
    """Each layer's sum of |weight x gradient| is the summed output of |W2| |W1| 1, normalisation at its start aside."""
    model = nn.Sequential(nn.Conv2d(2, 3, 1, bias=False), nn.BatchNorm2d(3, eps=1e-12, affine=False), nn.Flatten())
    model.append(nn.Linear(3, 5, bias=False))
    first, last = (model[0].weight[:, :, 0, 0].abs(), model[3].weight.abs())
    output = float((last @ first @ torch.ones(2)).sum().detach())
    assert zero_cost.synflow(model, torch.zeros(7, 2, 1, 1)) == pytest.approx(math.log(2 * output), rel=1e-5)


def test_images_that_a_network_tells_apart_score_higher(zero_cost: ModuleType) -> None:
    """Of a linear network, all gradients are alike: one eigenvalue is N, the others are 0."""
    images = torch.randn(6, 1, 4, 4, generator=torch.Generator().manual_seed(0))
    linear = nn.Sequential(nn.Flatten(), nn.Linear(16, 4))
    values = [6 + 1e-5, *[1e-5] * 5]
    expected = -sum(math.log(value) + 1 / value for value in values)
    assert zero_cost.jacobian_covariance(linear, images) == pytest.approx(expected, rel=1e-2)
    torch.manual_seed(0)
    bent = nn.Sequential(nn.Flatten(), nn.Linear(16, 64), nn.ReLU(), nn.Linear(64, 4))
    assert zero_cost.jacobian_covariance(bent, images) > expected / 100


def test_ranks_after_the_first_rung_and_the_last(zero_cost: ModuleType) -> None:
    networks: list[dict[str, Any]] = [
        {"top1_percent": {"1": 10.0 + each, **({"4": 50.0 - each} if each < 4 else {})}, "scores": {"macs": 2**each}}
        for each in range(6)
    ]
    rows = zero_cost.correlations(networks)
    assert [(row["epochs"], row["networks"]) for row in rows] == [(1, 6), (4, 4)]
    assert [row["spearman"] for row in rows] == pytest.approx([1.0, -1.0])
    del networks[0]["top1_percent"]["4"]  # three are too few
    assert [row["epochs"] for row in zero_cost.correlations(networks)] == [1]


@pytest.mark.slow  # nothing but the script uses what it tests
def test_a_toy_search_becomes_a_record(zero_cost: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(space.FAMILIES, "menet", toy)
    monkeypatch.setattr("compactnets.search.outcome.benchmark", fake_benchmark)
    options = {"family": "menet", "recipe": RECIPE, "settings": SETTINGS, "trials": 4, "epochs": 1, "rungs": 0}
    find("digits", tmp_path / "search", ["macs=1M"], **options)  # type: ignore[arg-type]
    path = tmp_path / "record.json"
    command = ["benchmarks/zero_cost.py", str(tmp_path / "search"), "--data", "digits", "--output", str(path)]
    monkeypatch.setattr("sys.argv", [*command, "--note", "A toy.", "--batch", "16", "--draws", "2"])
    zero_cost.main()
    record = json.loads(path.read_text(encoding="utf-8"))
    assert {"command", "commit", "date", "environment", "note"} <= set(record)
    scores = ["macs", "params", "gradient_norm", "synflow", "jacobian_covariance"]
    assert [(row["score"], row["epochs"], row["networks"]) for row in record["rows"]] == [
        (score, 1, 4) for score in scores
    ]
    assert all(-1 <= row["spearman"] <= 1 for row in record["rows"])
    widths = sorted(each["arguments"]["residual_width"] for each in record["networks"])
    macs = {each["arguments"]["residual_width"]: each["scores"]["macs"] for each in record["networks"]}
    assert [macs[width] for width in widths] == sorted(macs.values())
    text = load_script("benchmarks/page.py")._zero_cost("toy", record)
    assert "| gradient norm | 1 | 4 |" in text
    assert str(tmp_path) not in text
