"""Which multiple of channels a runtime likes: told by made-up latencies, and kept by whatever rounds widths."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from compactnets.errors import InputError
from compactnets.models.budget import stage_macs
from compactnets.models.learned import discretize
from compactnets.models.registry import create_model
from compactnets.models.sharing import SharingMatrix, make_sharing
from compactnets.search import table
from compactnets.search.alignment import MULTIPLES, Widths, choose, excess_of, to_multiple
from compactnets.search.space import SHARINGS, Suggest, aligned_matrix, build, suggest
from compactnets.search.table import LatencyTable, find_multiple, measure_in_turns

from .helpers import Chance

Latency = Callable[[int], float]


def _smooth(width: int) -> float:
    return 0.002 * width**1.6


def _blocks_of(block: int, elsewhere: float = 1.0) -> Latency:
    """As long as the next multiple of ``block``, and longer by a factor where it is none."""

    def latency(width: int) -> float:
        return _smooth(math.ceil(width / block) * block) * (elsewhere if width % block else 1.0)

    return latency


def _measured(latency: Latency) -> list[Widths]:
    return [Widths(16, {width: latency(width) for width in range(first, first + 17)}) for first in (32, 96)]


@pytest.mark.parametrize(
    ("latency", "expected"),
    [
        (_smooth, 1),
        (_blocks_of(4, 2.0), 4),
        (_blocks_of(8, 1.5), 8),
        (_blocks_of(16, 1.3), 16),
        (_blocks_of(4), 1),  # a few percent do not pay
        (lambda width: 2.0**-10 * width, 1),
    ],
)
def test_a_multiple_is_taken_where_it_pays(latency: Latency, expected: int) -> None:
    assert choose(_measured(latency)) == expected


def test_what_a_smooth_latency_exceeds_is_nothing() -> None:
    assert excess_of(_measured(_smooth)) == pytest.approx(dict.fromkeys(MULTIPLES, 1.0))
    slower = excess_of(_measured(_blocks_of(2, 3.0)))
    assert slower[2] == pytest.approx(1.0)
    assert 1.8 < slower[1] < 2.0  # sixteen of the 34 widths take three times as long


def test_the_widths_are_measured_once_and_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[tuple[int, ...]] = []

    def measured(modules: dict[int, Any], *_: Any) -> dict[int, float]:
        calls.append(tuple(modules))
        for width, (module, shape) in modules.items():
            assert module[0].conv.in_channels == shape[0] == width
        return {width: _blocks_of(8, 2.0)(width) for width in modules}

    monkeypatch.setattr(table, "measure_in_turns", measured)
    path = tmp_path / "table.json"
    assert LatencyTable.at(path, "c", 1).multiple == 8
    assert [(each[0], each[-1]) for each in calls] == [(32, 48), (96, 112)]
    assert LatencyTable.at(path, "c", 1).multiple == 8
    assert find_multiple("auto", "c", path=path) == 8
    assert len(calls) == 2
    assert find_multiple("auto", "c") == 8
    assert len(calls) == 4


def test_a_multiple_is_given_or_measured() -> None:
    assert find_multiple("4") == 4
    for wrong in ("0", "-4", "4.5", "many", "257", ""):
        with pytest.raises(InputError, match="--align"):
            find_multiple(wrong)
    with pytest.raises(InputError, match="--format"):
        find_multiple("auto")
    with pytest.raises(InputError, match="--align auto"):
        find_multiple("4", "onnx")


def test_modules_are_timed_in_turns(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("onnxruntime", reason="the format needs onnxruntime")
    monkeypatch.setattr(table, "WIDTHS_SECONDS", 0.0)
    found = measure_in_turns({4: (torch.nn.ReLU(), (1, 8, 8)), 9: (torch.nn.ReLU(), (4, 8, 8))}, "torch", 1)
    assert found.keys() == {4, 9}
    assert all(0 < time < 1000 for time in found.values())


@pytest.mark.parametrize("multiple", [2, 4, 8, 16])
@pytest.mark.parametrize("seed", [0, 1])
def test_a_learned_m_in_coarse_groups_keeps_the_budget(multiple: int, seed: int) -> None:
    search = create_model("muffnet_x0_5", sharing="learned", stem="cifar", num_classes=10)
    torch.manual_seed(seed)
    for stage in search.stages:
        stage.logits.data += 0.4 * torch.randn_like(stage.logits)
    matrices = discretize(search, multiple)
    for matrix in matrices:
        assert all(entry % multiple == 0 for row in matrix.entries for entry in row)
        assert all(width % multiple == 0 for width in (*matrix.layer_channels, *matrix.input_channels))
    found, wanted = sum(stage_macs(matrices, 24, 1024)), sum(stage_macs(search.base, 24, 1024))
    assert 0.85 * wanted < found <= wanted
    large = [(stage.counts(), torch.tensor(m.entries)) for stage, m in zip(search.stages, matrices, strict=True)]
    for counts, entries in large:  # the order of clearly different groups is kept
        above, below = counts > 3 * multiple, (counts > 0) & (counts < multiple / 3)
        if above.any() and below.any():
            assert entries[above].min() > entries[below].max()


def test_groups_too_coarse_for_a_stage_are_one_line() -> None:
    search = create_model("muffnet_x0_5", sharing="learned", stem="cifar", num_classes=10)
    with pytest.raises(InputError, match="smaller --align"):
        discretize(search, 256)


@pytest.mark.parametrize("multiple", [4, 8, 16])
@pytest.mark.parametrize("pattern", SHARINGS)
def test_a_pattern_in_multiples_has_the_width_asked_for(pattern: str, multiple: int) -> None:
    for channels in (12, 40, 96):
        matrix = SharingMatrix(tuple(map(tuple, aligned_matrix(pattern, 4, channels, multiple))))
        assert all(entry % multiple == 0 for row in matrix.entries for entry in row)
        mean = sum(matrix.layer_channels) / 4
        assert abs(mean - max(channels, multiple)) <= multiple
        if pattern == "none":
            assert matrix.is_plain
        if channels >= 8 * multiple:  # far groups are not lost where there is room
            exact = make_sharing(pattern, 4, 1000).described()
            assert [[bool(entry) for entry in row] for row in matrix.described()] == [
                [bool(entry) for entry in row] for row in exact
            ]


@pytest.mark.parametrize("multiple", [4, 8, 16])
@pytest.mark.parametrize("family", ["menet", "muffnet"])
def test_proposals_have_widths_of_the_multiple(family: str, multiple: int) -> None:
    for seed in range(6):
        chance: Suggest = Chance(seed)
        candidate = suggest(chance, [family], multiple=multiple)
        with torch.device("meta"):
            model = build(candidate, "cifar", 10, 3)
        depthwise = [  # those of 5x5 are of reduction blocks, whose inner width is the mean of two widths
            each.in_channels
            for each in model.stages.modules()
            if isinstance(each, torch.nn.Conv2d) and each.groups == each.in_channels > 1 and each.kernel_size == (3, 3)
        ]
        assert depthwise
        assert all(width % multiple == 0 for width in depthwise), (candidate, depthwise)


def test_nearest_multiple() -> None:
    assert [to_multiple(channels, 8) for channels in (1, 11.9, 12, 20, 33)] == [8, 8, 16, 24, 32]
    assert to_multiple(5, 1) == 5
