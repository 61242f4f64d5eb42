"""The papers' numbers as data: complete, copied right, and as contradictory as the papers are, not more."""

from __future__ import annotations

import itertools
import re
from collections import defaultdict
from pathlib import Path

import pytest
import torch
import torchvision
from pydantic import ValidationError
from torch import nn

import compactnets
from compactnets import InputError
from compactnets.models.budget import reduction_block_macs
from compactnets.papers.computed import agrees, compute
from compactnets.papers.schema import METRICS, Claim, Computed, Paper, Row
from compactnets.papers.stated import PAPERS, load_paper, load_papers, stated_rows

ROWS = {
    "menet": {"I": 3, "II": 11, "III": 9, "IV": 13, "V": 4, "VI": 4, "VII": 4, "VIII": 6, "readme": 6},
    "muffnet": {"1": 5, "2": 5, "3": 5, "4": 10, "5": 18, "6": 22, "7": 4},
}
TEXTS = {"menet": ("menet_paper.txt", "menet_repository_readme.txt"), "muffnet": ("muffnet_paper.txt",)}
COLUMNS = {  # of the tables whose rows are lines of the text
    **dict.fromkeys(["II", "III", "IV", "V", "VI", "readme"], ("macs", "top1", "top5")),
    "VII": ("top1", "top5"),
    "VIII": ("map", "ap"),
    **dict.fromkeys(["1", "2", "3", "6"], ("params", "macs", "top1")),
    "4": ("macs", "top1"),
    "5": ("macs", "cifar10", "cifar100"),
    "7": ("params", "macs", "map"),
}
CLAIMS = [
    pytest.param(paper, claim, id=f"{paper.paper}: {claim.text}") for paper in load_papers() for claim in paper.claims
]
SINGLE_CLASS = {  # the single-class results of section IV-B: MENet, its rivals, the classes on which it does not win
    140: ("menet_352_12x1_g8", ("shufflenet_g3_x1_0", "mobilenet_x0_5"), {"bicycle", "dog", "sofa"}),
    550: ("menet_456_24x1_g3", ("shufflenet_g3_x2_0", "mobilenet_x1_0"), {"horse", "sofa"}),
}


@pytest.mark.parametrize("name", PAPERS)
def test_every_table_has_all_its_rows(name: str) -> None:
    assert {table.table: len(table.rows) for table in load_paper(name).tables} == ROWS[name]


def _plain(text: str) -> str:
    """Drop what the transcription adds to a table's cells: LaTeX, bold print, citations and spaces."""
    text = text.replace("\\times", "×").replace("\\text", "")
    return re.sub(r"\[\d+\]|</?b>|[\s${}]", "", text)


def _line(row: Row) -> str:
    """Return the row as the text has it, without spaces."""
    millions = {"menet": "{}", "muffnet": "{}M"}[row.paper]
    percent = {"menet": "{}", "muffnet": "{}%"}[row.paper]
    cells = []
    for column in COLUMNS[row.table]:
        if column == "ap":
            cells += [f"{value:.1f}" for value in (row.ap or {}).values()]
        elif getattr(row, column) is None:
            cells.append("-")
        elif column in ("macs", "params"):
            decimals = 0 if column == "macs" else 7 - len(str(row.params_unit))
            cells.append(millions.format(f"{row.value(column) / 1e6:.{decimals}f}"))
        else:
            cells.append(percent.format(f"{row.value(column):.{row.decimals}f}"))
    return _plain(row.label + "".join(cells))


@pytest.mark.parametrize("name", PAPERS)
def test_rows_are_those_of_the_text(name: str, shared: Path) -> None:
    """Every row is a line of the text, and every line of a table in the papers is a row."""
    lines = [
        line for file in TEXTS[name] for line in (shared / "papers" / file).read_text(encoding="utf-8").splitlines()
    ]
    rows = [row for row in stated_rows(name) if row.table in COLUMNS]
    in_text = {_plain(line) for line in lines}
    assert [row.name for row in rows if _line(row) not in in_text] == []
    cells = [line.split("\t") for line in lines if "\t" in line]  # the readme's table has spaces between its cells
    found = [_plain("".join(line)) for line in cells if re.fullmatch(r"[\d.]+%?|-", line[-1].strip())]
    assert sorted(found) == sorted(_line(row) for row in rows if row.table != "readme")


@pytest.mark.parametrize("row", stated_rows("menet", "VIII"), ids=lambda row: row.key)
def test_map_is_the_mean_of_the_average_precisions(row: Row) -> None:
    assert row.ap is not None
    assert len(row.ap) == 20
    assert sum(row.ap.values()) / 20 == pytest.approx(row.map, abs=0.05 + 1e-9)


def test_table_i_is_the_architecture_of_its_networks() -> None:
    """Sides and channels of every stage, the number of ME modules in it, and the classes, as printed and as built."""
    table = load_paper("menet").table("I")
    for column, row in enumerate(table.rows):
        with torch.device("meta"):
            network = compactnets.create_model(row.model).eval()
            features, maps = network.forward_intermediates(torch.zeros(1, 3, 224, 224))
        printed = [line for line in table.layout if line.channels and line.stage.startswith("Stage")]
        found = [(level["num_chs"], 224 // level["reduction"]) for level in network.feature_info]
        assert [tuple(level.shape[1:3]) for level in maps] == found
        stages = {line.stage: (line.channels[column], line.size) for line in printed}
        assert [level for level in found if level != (24, 56)] == list(stages.values())
        modules = [sum(line.repeat for line in printed if line.stage == f"Stage {i}") for i in (2, 3, 4)]
        assert modules == [len(stage) for stage in network.stages]
        assert network.num_classes == table.layout[-1].channels[column]
        assert sum(modules) == 16  # not 15, as footnote 1 says


def _agree(first: Row, second: Row, metric: str) -> bool:
    """Whether two printed values can be the same number: equal at the fewer decimals of the two."""
    assert first.decimals is not None
    assert second.decimals is not None
    unit = 10.0 ** -min(first.decimals, second.decimals)
    rounding = 0 if first.decimals == second.decimals else unit / 2
    return abs(first.value(metric) - second.value(metric)) <= rounding + 1e-9


def test_tables_agree_except_where_a_discrepancy_is_recorded() -> None:
    for paper in load_papers():
        same = defaultdict(list)
        for row in stated_rows(paper.paper):
            same[row.model, str(row.arguments), row.source].append(row)
        disagreeing = {
            (first.model, metric)
            for rows in same.values()
            for first, second in itertools.combinations(rows, 2)
            for metric in METRICS
            if None not in (getattr(first, metric), getattr(second, metric)) and not _agree(first, second, metric)
        }
        recorded = {
            (paper.row(*value.split("/")[:2]).model, value.split("/")[2])
            for found in paper.discrepancies
            for value in found.values
            if not value.startswith(("4/", "6/"))  # the same network by other arguments
        }
        assert disagreeing == recorded


@pytest.mark.parametrize(("paper", "claim"), CLAIMS)
def test_claim_holds_or_not_as_recorded(paper: Paper, claim: Claim) -> None:
    assert paper.holds(claim) is claim.holds, f"{claim.where}: the tables give {paper.evaluate(claim)}"


COMPUTED = [pytest.param(each, id=f"{paper.paper}: {each.text}") for paper in load_papers() for each in paper.computed]


@pytest.mark.parametrize("each", COMPUTED)
def test_numbers_of_the_text_are_computed(each: Computed) -> None:
    assert agrees(each) is each.holds, compute(each)


@pytest.mark.parametrize("name", ["228_12x1_g3", "256_12x1_g4", "352_12x1_g8"])
def test_menet_has_fewer_channels_than_shufflenet(name: str) -> None:
    """Section IV-A3, of the networks as they are built: in every stage, and what contradicts it is seen."""
    group = name.rpartition("_")[2]
    (claim,) = (
        each
        for each in load_paper("menet").computed
        if (each.of, each.against) == (f"menet_{name}", f"shufflenet_{group}_x1_0")
    )
    with torch.device("meta"):
        ours, theirs = (compactnets.create_model(each).eval() for each in (claim.of, claim.against))
        widths = [
            [level.shape[1] for level in model.forward_intermediates(torch.zeros(1, 3, 64, 64))[1][-3:]]
            for model in (ours, theirs)
        ]
    assert all(one < other for one, other in zip(*widths, strict=True))
    assert compute(claim) == max(one - other for one, other in zip(*widths, strict=True)) < 0
    assert not agrees(claim.model_copy(update={"of": claim.against, "against": claim.of}))
    wider = load_paper("menet").row("I", "menet_352_12x1_g8").model
    assert agrees(claim.model_copy(update={"of": wider})) is (group == "g8")


def test_every_claim_that_fails_is_a_discrepancy() -> None:
    for paper in load_papers():
        failing = {each.key for each in (*paper.claims, *paper.computed) if not each.holds}
        assert failing == {key for found in paper.discrepancies for key in found.claims}


def test_values_of_a_discrepancy_differ() -> None:
    pairs = [(paper, found.values) for paper in load_papers() for found in paper.discrepancies if found.values]
    assert len(pairs) == 5
    for paper, values in pairs:
        for first, second in itertools.combinations(values, 2):
            metric = first.split("/")[2]
            rows = [paper.row(*value.split("/")[:2]) for value in (first, second)]
            assert metric == second.split("/")[2]
            assert not _agree(*rows, metric), f"{first} and {second} agree"


@pytest.mark.parametrize("budget", SINGLE_CLASS)
def test_single_class_results_of_table_viii(budget: int) -> None:
    """Section IV-B: on which classes MENet is not the best; tv and boat are the ends of the stated range at 140."""
    ours, rivals, not_best = SINGLE_CLASS[budget]
    paper = load_paper("menet")
    gains = {
        label: ap - max(paper.value(f"VIII/{rival}/ap.{label}") for rival in rivals)
        for label, ap in (paper.row("VIII", ours).ap or {}).items()
    }
    assert {label for label, gain in gains.items() if gain <= 0} == not_best
    if budget == 140:
        better = {label: gain for label, gain in gains.items() if gain > 0}
        assert min(better, key=better.__getitem__) == "tvmonitor"
        assert max(better, key=better.__getitem__) == "boat"


def test_vgg19_has_not_528_million_parameters() -> None:
    with torch.device("meta"):
        vgg19, vgg16 = torchvision.models.vgg19(), torchvision.models.vgg16()
    params = [sum(parameter.numel() for parameter in network.parameters()) for network in (vgg19, vgg16)]
    assert params[0] / 1e6 == pytest.approx(143.7, abs=0.05)
    assert int(params[1] * 4 / 2**20) == 527  # MiB; 528 with the file's overhead


def test_mobilenet_has_28_layers() -> None:
    pytest.importorskip("pytorchcv", reason="needs compactnets[peers]")
    with torch.device("meta"):
        network = compactnets.create_model("mobilenet_x1_0")
    assert sum(isinstance(layer, (nn.Conv2d, nn.Linear)) for layer in network.modules()) == 28


@pytest.mark.parametrize(("m_i", "m_j"), [(24, 32), (65, 136), (96, 148)])
def test_printed_reduction_formula_counts_depthwise_convolutions_as_full(m_i: int, m_j: int) -> None:
    """Section 3.2: the second term is 25 m_i^2 + m_i m_j + 25 c (m_i + m_j) + c m_j, with c = (m_i + m_j) / 2."""
    inner = (m_i + m_j) / 2
    full = 25 * m_i**2 + m_i * m_j + 25 * inner * (m_i + m_j) + inner * m_j
    assert reduction_block_macs(m_i, m_j, 28, 14, as_printed=True) - 28**2 * m_i * inner == pytest.approx(14**2 * full)


@pytest.mark.parametrize("size", [3, 4, 8])
def test_printed_number_of_non_zero_entries(size: int) -> None:
    """Section 4: M[2:L, 2:L] has L(L - 1)/2 entries on and above its diagonal."""
    entries = sum(1 for i in range(2, size + 1) for j in range(i, size + 1))
    assert entries == size * (size - 1) / 2 != (size - 1) ** 2 / 2 + (size - 1)


@pytest.mark.parametrize("row", stated_rows(), ids=lambda row: row.name)
def test_model_of_a_row_exists(row: Row) -> None:
    assert row.model in compactnets.list_models()


def test_training_settings_of_both_papers() -> None:
    tasks = {(paper.paper, entry.task) for paper in load_papers() for entry in paper.training}
    assert {("menet", "imagenet"), ("menet", "voc2007 detection"), ("muffnet", "cifar")} <= tasks
    rates = {entry.task: entry.settings["lr"] for entry in load_paper("muffnet").training if "lr" in entry.settings}
    assert rates == {"cifar": 0.1, "imagenet ablation": 0.4, "imagenet benchmark": 0.5}


def test_what_does_not_exist_is_named() -> None:
    paper = load_paper("menet")
    for call, message in (
        (lambda: load_paper("menett"), "did you mean 'menet'"),
        (lambda: stated_rows("menet", "IX"), "expected I, II"),
        (lambda: stated_rows(table="II"), "of which paper"),
        (lambda: paper.row("II", "vgg"), "did you mean 'vgg16'"),
        (lambda: paper.value("II/vgg16"), "TABLE/KEY/NAME"),
        (lambda: paper.value("II/vgg16/top2"), "no 'top2'"),
        (lambda: paper.value("II/resnet15_38m/top5"), "states no top5"),
        (lambda: paper.value("VIII/mobilenet_x0_5/ap.boot"), "states no ap.boot"),
    ):
        with pytest.raises(InputError, match=message):
            call()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"top_1": 1.0}, "Extra inputs"),
        ({"macs_unit": None}, "needs macs_unit"),
        ({"tolerance": {}}, "go together"),
        ({"top1": 120.0}, "less than or equal to 100"),
        ({"decimals": None}, "needs decimals"),
    ],
)
def test_incomplete_row_is_refused(change: dict[str, object], message: str) -> None:
    row = load_paper("menet").row("II", "vgg16").model_dump()
    with pytest.raises(ValidationError, match=message):
        Row.model_validate({**row, **change})


@pytest.mark.parametrize("change", [{"measure": "value"}, {"against": ()}])
def test_a_claim_without_its_sides_is_refused(change: dict[str, object]) -> None:
    claim = next(claim for claim in load_paper("menet").claims if claim.measure == "difference")
    with pytest.raises(ValidationError, match="against"):
        Claim.model_validate({**claim.model_dump(), **change})


def test_paper_with_a_reference_to_nothing_is_refused() -> None:
    data = load_paper("muffnet").model_dump()
    data["claims"][0]["of"] = "1/no+such+row/top1"
    with pytest.raises(ValidationError, match="has no row"):
        Paper.model_validate(data)
