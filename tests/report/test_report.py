"""The report: every table, only recorded numbers, and a page that needs nothing else."""

from __future__ import annotations

import base64
import json
import os
import re
import shutil
from html import unescape
from html.parser import HTMLParser
from pathlib import Path
from xml.etree import ElementTree

import pytest

from compactnets.classification.recipe import ClassificationRecipe
from compactnets.errors import InputError
from compactnets.papers.ablation import ABLATIONS, ablation_rows
from compactnets.papers.schema import METRICS
from compactnets.papers.stated import load_paper, load_papers, stated_rows
from compactnets.recorded import load_results
from compactnets.report import diagrams, write_report
from compactnets.report.evidence import Evidence, command_for
from compactnets.report.page import word_columns
from compactnets.report.tables import count_accuracies, describe_hours
from compactnets.training.recipe_files import load_recipe
from tests.web.conftest import FLAGS, missing


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("report")
    write_report(folder)
    return folder


@pytest.fixture(scope="module")
def values(report: Path) -> dict:
    return json.loads((report / "report.json").read_text(encoding="utf-8"))


class Page(HTMLParser):
    def __init__(self, text: str) -> None:
        super().__init__()
        self.links: list[str] = []
        self.ids: list[str] = []
        self.sources: list[str] = []
        self.open: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list) -> None:
        given = dict(attrs)
        self.links += [given["href"]] if "href" in given else []
        self.ids += [given["id"]] if "id" in given else []
        self.sources += [given["src"]] if "src" in given else []
        if tag not in ("meta", "br", "img", "wbr"):
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


@pytest.fixture(scope="module")
def page(report: Path) -> Page:
    return Page((report / "report.html").read_text(encoding="utf-8"))


def test_the_page_needs_nothing_else(page: Page) -> None:
    assert not page.open
    assert all(link.startswith("#") for link in page.links)
    assert {link[1:] for link in page.links} <= set(page.ids)
    assert len(set(page.ids)) == len(page.ids)
    assert page.sources
    for source in page.sources:
        head, _, body = source.partition(",")
        assert head == "data:image/svg+xml;base64"
        assert ElementTree.fromstring(base64.b64decode(body)).tag.endswith("svg")


def test_every_table_and_row_is_there(values: dict, report: Path) -> None:
    page, markdown = ((report / f"report.{suffix}").read_text(encoding="utf-8") for suffix in ("html", "md"))
    for paper, part in zip(load_papers(), values["papers"], strict=True):
        assert [table["name"] for table in part["tables"]] == [table.table for table in paper.tables]
        for table, shown in zip(paper.tables, part["tables"], strict=True):
            assert [row["cells"][0]["text"] for row in shown["rows"]] == [row.label for row in table.rows]
            assert all(len(row["cells"]) == len(shown["columns"]) for row in shown["rows"])
            assert table.caption in page
            assert f". {table.caption} (section {table.section})" in markdown


def test_every_stated_accuracy_is_measured_or_has_a_command(values: dict) -> None:
    for paper, part in zip(load_papers(), values["papers"], strict=True):
        for table, shown in zip(paper.tables, part["tables"], strict=True):
            stated = {row.label for row in table.rows if any(getattr(row, metric) is not None for metric in METRICS)}
            measured = {
                row["cells"][0]["text"] for row in shown["rows"] if any("origin" in cell for cell in row["cells"])
            }
            assert stated - {each["row"] for each in shown["not_run"]} - measured <= {
                row.label for row in table.rows if row.source != "own"
            }, f"{paper.paper} {table.table}"  # a cited row may share its command with a re-implemented one


def test_commands_are_of_recipes_that_exist() -> None:
    for paper in load_papers():
        for table in paper.tables:
            for row in table.rows:
                for reproduction in table.reproduce:
                    command = command_for(row, reproduction).split()
                    settings = [command[i + 1] for i, word in enumerate(command) if word == "--set"]
                    if not reproduction.detector:
                        recipe = load_recipe(ClassificationRecipe, reproduction.recipe, settings, row.model)
                        assert recipe.model == row.model
            assert {metric for row in table.rows for metric in row.metrics} == {
                metric for reproduction in table.reproduce for metric in reproduction.metrics
            }


def test_the_command_of_a_row() -> None:
    row = load_paper("muffnet").row("2", "none+linear+none")
    (reproduction,) = load_paper("muffnet").table("2").reproduce
    assert command_for(row, reproduction) == (
        "compactnets train imagenet/muffnet --data imagenet --model muffnet_x0_5 --set lr=0.4 --set "
        "model_arguments.sharing=none+linear+none --output runs/muffnet-2-muffnet_x0_5-none+linear+none-imagenet"
    )


def test_numbers_are_the_records(values: dict) -> None:
    """What is shown for MuffNet 0.5 on CIFAR-10 is the last accuracy of the longest recorded run."""
    runs = [run for record in load_results("training").values() for run in record["runs"]]
    own = [run for run in runs if run["model"] == "muffnet_x0_5" and run["data"] == "cifar10"]
    longest = max(len(run["epochs"]) for run in own)
    accuracies = [run["epochs"][-1]["top1_percent"] for run in own if len(run["epochs"]) == longest]
    table = next(table for table in values["papers"][1]["tables"] if table["name"] == "5")
    cells = table["rows"][0]["cells"]
    here = cells[table["columns"].index("CIFAR-10, %") + 2]
    assert here["text"] in {f"{accuracy:.2f} ({accuracy - 93.44:+.2f})" for accuracy in accuracies}
    assert here["remark"].startswith(f"{longest} epochs of cifar/")
    origin = values["origins"][here["origin"] - 1]
    assert origin["command"] in {run["command"] for run in own}
    assert all(origin[key] for key in ("commit", "date", "device", "seeds", "recipe", "versions"))


def test_every_origin_is_complete(values: dict) -> None:
    for origin in values["origins"]:
        assert all(origin[key] for key in ("what", "command", "commit", "date", "device", "versions")), origin


def test_settings_are_not_mixed() -> None:
    """Runs of other settings are not seeds of one."""
    row = load_paper("muffnet").row("5", "muffnet_x0_5")
    run = {
        "data": "cifar10",
        "model": "muffnet_x0_5",
        "arguments": {"stem": "cifar", "num_classes": 10},
        "command": "compactnets train cifar/short --model muffnet_x0_5",
        "commit": "a",
        "date": "2026-01-01",
        "device": "b",
        "versions": {"torch": "2"},
        "note": "",
    }

    def made(seed: int, lr: float, top1: float, epochs: int = 2) -> dict:
        lines = [{"top1_percent": top1, "images_per_second": 1.0}] * epochs
        return {**run, "seed": seed, "recipe": {"lr": lr, "seed": seed}, "epochs": lines}

    evidence = Evidence()
    evidence.runs = [made(0, 0.1, 60), made(1, 0.1, 62), made(0, 0.2, 59), made(0, 0.1, 99, epochs=1)]
    found = evidence.accuracy(row, "cifar10")
    assert found is not None
    assert (found.value, found.origin.seeds, found.remark) == (61, "0, 1", "2 epochs of cifar/short, 2 seeds")
    assert found.spread == pytest.approx(2**0.5)


def test_networks_of_one_name_are_told_apart() -> None:
    """A searched M is another network than the paper's of that name, and each matrix another than the next."""
    run = next(run for run in load_results("training")["cifar10-short"]["runs"] if run["model"] == "muffnet_x0_5")
    found = [[[1, 1], [0, 1]], [[2, 1], [0, 2]]]

    def made(sharing: object) -> dict:
        return {**run, "arguments": {**run["arguments"], "sharing": sharing}, "note": ""}

    evidence = Evidence()
    evidence.runs = [{**run, "note": ""}, made("learned"), *map(made, found)]
    row = load_paper("muffnet").row("5", "muffnet_x0_5")
    told = evidence.accuracy(row, "cifar10")
    assert told is not None
    assert told.remark.endswith("1 seed")
    names = [each.remark.partition(" on ")[0] for each in evidence.others([row])]
    own = "muffnet_x0_5 (its own sharing)"
    assert names == ["muffnet_x0_5 (sharing=learned)", own, own]


def test_a_short_run_leaves_the_full_one_to_do(values: dict) -> None:
    table = next(table for table in values["papers"][1]["tables"] if table["name"] == "5")
    left = [(each["row"], each["data"]) for each in table["not_run"]]
    assert ("MuffNet_0.5", "cifar10") in left


def test_whose_recipe_is_told_by_settings_and_length() -> None:
    """Only the paper's own settings at full length reproduce; everything else is ours."""
    row, table = load_paper("muffnet").row("5", "muffnet_x0_5"), load_paper("muffnet").table("5")
    reproduction = table.reproduction("cifar10")
    assert reproduction is not None
    recipe = load_recipe(ClassificationRecipe, reproduction.recipe, model=row.model).model_dump(mode="json")
    run = next(run for run in load_results("training")["cifar10-short"]["runs"] if run["model"] == row.model)
    whole = {
        **run,
        "note": "",
        "command": f"compactnets train {reproduction.recipe} --data cifar10",
        "recipe": {**recipe, "seed": 7, "workers": 3},
        "epochs": [{"top1_percent": 93.44, "images_per_second": 1.0}] * recipe["epochs"],
        "init": None,
    }
    evidence = Evidence()
    evidence.runs = [whole]
    found = evidence.accuracies(row, "cifar10", reproduction)
    assert found.by_ours is None
    assert found.by_paper is not None
    assert count_accuracies([load_paper("muffnet")], evidence)["reached_by_paper"] == 1
    for changed in (
        {"epochs": whole["epochs"][1:]},
        {"recipe": {**whole["recipe"], "lr": 0.2}},
        {"command": "compactnets train cifar/modern --data cifar10"},
        {"init": {"name": "other.safetensors"}},
    ):
        evidence.runs = [{**whole, **changed}]
        found = evidence.accuracies(row, "cifar10", reproduction)
        assert found.by_paper is None
        assert found.by_ours is not None
    evidence.runs = [{**whole, "epochs": [{"top1_percent": 93.43, "images_per_second": 1.0}] * recipe["epochs"]}]
    counts = count_accuracies([load_paper("muffnet")], evidence)
    assert (counts["by_paper"], counts["reached_by_paper"], counts["by_ours"]) == (1, 0, 0)


def test_a_sample_cannot_pass_for_the_papers_images(values: dict, report: Path) -> None:
    """What the authors' weights reach on photographs of the training split stands below the table, in a sentence."""
    (record,) = load_results("evaluation").values()
    numbers = [f"{record[key]:.2f}" for key in ("top1_percent", "top5_percent")]
    tables = [table for part in values["papers"] for table in part["tables"]]
    told = [(table, sample) for table in tables for sample in table["samples"]]
    assert len(told) >= 3
    page = unescape((report / "report.html").read_text(encoding="utf-8"))
    for table, sample in told:
        for part in (*numbers, "500 photographs of the training split", "not comparable"):
            assert part in sample["text"]
        assert sample["text"] in page
        assert values["origins"][sample["origin"] - 1]["command"] == record["command"]
        label = sample["text"].partition(":")[0]
        (row,) = (row for row in table["rows"] if row["cells"][0]["text"] == label)
        texts = [cell["text"] for cell in row["cells"]]
        assert not set(numbers) & set(texts)
        for title in ("ImageNet top-1, %", "ImageNet top-5, %"):
            if title in table["columns"]:
                assert texts[table["columns"].index(title) + 1] == "not run"
        assert label in [each["row"] for each in table["not_run"]]


def test_runs_count_on_the_papers_data_only() -> None:
    """A folder that is called imagenet and has other classes is another data set."""
    row = load_paper("menet").row("IV", "menet_108_8x1_g3")
    run = {**next(iter(load_results("training").values()))["runs"][0], "note": "", "model": row.model}
    lines = [{"top1_percent": 56.0, "top5_percent": 79.0, "images_per_second": 1.0}]
    for data, classes, counts in (("imagenet", 1000, True), ("imagenet", 5, False), ("imagenet_sample", 1000, False)):
        evidence = Evidence()
        evidence.runs = [{**run, "data": data, "arguments": {"num_classes": classes}, "epochs": lines}]
        found = [evidence.accuracy(row, metric) for metric in ("top1", "top5")]
        assert [each and each.value for each in found] == ([56, 79] if counts else [None, None])


def test_training_settings_are_shown(values: dict, report: Path) -> None:
    texts = [unescape((report / f"report.{suffix}").read_text(encoding="utf-8")) for suffix in ("html", "md")]
    for part in values["papers"]:
        for each in part["training"]:
            for key, value in each["settings"].items():
                assert all(f"{key}: {value}" in text for text in texts)


def test_measured_is_not_reproduced(values: dict, report: Path) -> None:
    """The recorded runs are shorter than the papers' recipes: none counts as one by them."""
    accuracies = values["summary"]["accuracies"]
    assert accuracies["by_ours"] > 0
    assert accuracies["by_paper"] == 0
    for table in (table for part in values["papers"] for table in part["tables"]):
        for at in (at for at, title in enumerate(table["columns"]) if title == "by its recipe"):
            assert {row["cells"][at]["text"] for row in table["rows"]} <= {"", "not run"}


def test_counts_are_never_printed_with_an_exponent(values: dict) -> None:
    found = [claim["found"] for part in values["papers"] for claim in part["claims"]]
    assert not [text for text in found if "e" in text]
    assert "100,000" in found


def test_words_stand_to_the_left_and_numbers_to_the_right(report: Path, values: dict) -> None:
    rows = [["a", "224 × 224", "", "+0.05", "76.66 ± 0.57", "the same"], ["b", "7", "1.5", "-", "12 %", ""]]
    assert word_columns(rows) == [True, False, False, False, False, True]
    assert word_columns([]) == []
    markdown = (report / "report.md").read_text(encoding="utf-8")
    layout = next(table["layout"] for table in values["papers"][0]["tables"] if table["layout"])
    head = f"| {' | '.join(layout['columns'])} |\n"
    assert markdown.partition(head)[2].startswith("| --- | ---: | --- | ---: | ---: | ---: | --- |\n")


@pytest.mark.parametrize("width", [390, pytest.param(1280, marks=pytest.mark.slow)])
def test_wide_tables_show_that_they_go_on(report: Path, width: int) -> None:
    """The page itself never scrolls sideways; a table that does has a bar, and the names of its rows stay."""
    program = shutil.which("chromium") or shutil.which("google-chrome")
    if program is None:
        missing("no Chromium: apt-get install chromium")
    playwright = pytest.importorskip("playwright.sync_api")
    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=program, args=FLAGS, ignore_default_args=["--hide-scrollbars"])
        page = browser.new_page(viewport={"width": width, "height": 800})
        page.goto((report / "report.html").as_uri())
        found = page.evaluate(LAYOUT)
        browser.close()
    assert found["page"] <= width
    assert found["tables"] > 20
    if width < 600:
        assert len(found["wide"]) > 10
    for bar, name_before, name_after, name_width, width_inside in found["wide"]:
        assert bar >= 8
        assert name_after == pytest.approx(name_before, abs=1)
        assert name_width < width_inside / 2
    assert found["left"] == {"words": ["left"], "numbers": ["right"]}


LAYOUT = """() => {
  const scrolls = [...document.querySelectorAll('.scroll')].filter(each => each.offsetParent !== null);
  const wide = scrolls.filter(each => each.scrollWidth > each.clientWidth).map(each => {
    const name = each.querySelector('tr:last-child td'), before = name.getBoundingClientRect().left;
    each.scrollLeft = 1e6;
    const box = name.getBoundingClientRect();
    return [each.offsetHeight - each.clientHeight, before, box.left, box.width, each.clientWidth];
  });
  const sides = cells => [...new Set([...cells].map(cell => getComputedStyle(cell).textAlign))];
  const layout = document.querySelector('#menet-I + .scroll');
  return {page: document.documentElement.scrollWidth, tables: scrolls.length, wide, left: {
    words: sides(layout.querySelectorAll('td:nth-child(1), td:nth-child(3), td:nth-child(7)')),
    numbers: sides(layout.querySelectorAll('td:nth-child(4), td:nth-child(5)'))}};
}"""


def test_networks_of_an_ablation_that_were_not_run_are_told(values: dict, report: Path) -> None:
    run = {(record["name"], row["key"]) for record in load_results("ablation").values() for row in record["rows"]}
    text = (report / "report.md").read_text(encoding="utf-8")
    for shown, name in zip(values["ablations"], ABLATIONS, strict=True):
        rows = [row for row in ablation_rows(name) if (name, row.key) not in run]
        told = f"{len(rows)} of {len(ablation_rows(name))} networks, {3 * len(rows)} runs"
        assert shown["not_run"] == told
        assert f"Not run: {told}, about " in text


def test_runs_of_ones_own_count(tmp_path: Path) -> None:
    rows = [{"key": "k", "label": "l", "macs": 1, "stated_top1": 2.0, "runs": [{"seed": 0, "top1_percent": 3.0}]}]
    (tmp_path / "ablation.json").write_text(json.dumps({"name": "sharing", "rows": rows}))
    assert Evidence([tmp_path]).ablations[-1]["rows"] == rows
    (tmp_path / "ablation.json").write_text("[]")
    with pytest.raises(InputError, match="'compactnets papers ablation'"):
        Evidence([tmp_path])
    with pytest.raises(InputError, match="cannot read"):
        Evidence([tmp_path / "nothing"])


@pytest.mark.parametrize(
    ("hours", "text"),
    [
        (None, "cost unknown"),
        (1.234, "about 1.2 hours"),
        (100, "about 4.2 days"),
        (3600, "about 150 days"),
        (1e5, "about 11 years"),
    ],
)
def test_costs_in_words(hours: float | None, text: str) -> None:
    assert describe_hours(hours) == text


def test_costs_follow_the_fastest_record() -> None:
    evidence = Evidence()
    evidence.runs = [
        {"macs": 10, "epochs": [{"images_per_second": 5.0}]},
        {"macs": 10, "epochs": [{"images_per_second": 7.0}] * 3},
    ]
    assert evidence.training_hours(20, 100, 6) == pytest.approx(3 * 20 * 100 * 6 / (3 * 10 * 7) / 3600)


def needs_graphviz() -> None:
    if shutil.which("dot") is None:
        assert "COMPACTNETS_NEED_GRAPHVIZ" not in os.environ, "the program dot of Graphviz is not installed"
        pytest.skip("the program dot of Graphviz is not installed")
    pytest.importorskip("graphviz")


def labels(draw) -> list[str]:
    """The texts of a diagram, joined node by node."""
    root = ElementTree.fromstring(re.sub(r' xmlns(:xlink)?="[^"]+"', "", diagrams.to_svg(draw)).replace("xlink:", ""))
    return [
        " ".join(text.text or "" for text in node.iter("text"))
        for node in root.iter("g")
        if node.get("class") == "node"
    ]


def test_diagrams_show_what_is_built() -> None:
    needs_graphviz()
    found = labels(diagrams.me_downsampling)
    assert "evolve 3x3 convolution, stride 2 12 → 12, BN + ReLU" in found
    assert "depthwise 3x3 depthwise convolution, stride 2 114 → 114, BN" in found
    assert {"concatenate", "multiply", "sigmoid", "channel shuffle 3 groups"} <= set(found)
    assert "add" in labels(diagrams.me_standard)
    assert "shortcut.depthwise 5x5 depthwise convolution, stride 2 32 → 32, BN" in labels(diagrams.reduction_block)
    assert "mid-level stage: reduction block, 7 normal blocks 14 x 14 x 65" in labels(diagrams.network_diagram)
    assert "block 4 reads 24" in labels(diagrams.worked_sharing)


def test_all_figures_are_there(values: dict, report: Path) -> None:
    needs_graphviz()
    assert values["figures_missing"] == []
    files = sorted(path.name for path in (report / "figures").iterdir())
    assert [name for name in files if name.startswith("own-")] == ["own-found.svg", "own-start.svg"]  # recorded
    assert len(files) == 16
    text = (report / "report.md").read_text(encoding="utf-8")
    assert all(f"](figures/{name})" in text for name in files)


def test_without_graphviz_the_rest_is_there(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    pytest.importorskip("graphviz")
    with pytest.raises(InputError, match="program dot"):
        diagrams.to_svg(diagrams.normal_block)


def test_a_report_that_cannot_be_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setattr("compactnets.report.page.select_rows", lambda: list(stated_rows("menet", "VI")))
    with pytest.raises(InputError, match="must be a folder, .*file"):
        write_report(tmp_path / "file")
