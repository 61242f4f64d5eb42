"""Whatever is written has the permissions that the umask leaves: 022 gives 644 and 755, 077 gives 600 and 700."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from compactnets.classification.checkpoint import load_checkpoint
from compactnets.classification.cost import build_by_name
from compactnets.deploy import FORMATS, export
from compactnets.detection.examples import examples_page
from compactnets.errors import InputError
from compactnets.folders import writing
from compactnets.latency.results import write_results
from compactnets.plots import draw_sharing
from compactnets.report.page import write_report
from compactnets.training.checkpoint import save_checkpoint
from compactnets.web.site import build_site

from .deploy.helpers import tiny_network, tiny_record
from .permissions import check

MASKS = (0o022, 0o077)
HERE = [name for name, form in FORMATS.items() if form.runs_here]


@pytest.fixture(params=MASKS, ids=oct)
def mask(request: pytest.FixtureRequest) -> Iterator[int]:
    before = os.umask(request.param)
    yield request.param
    os.umask(before)


@pytest.mark.parametrize(
    "name", [name if name == "torch" else pytest.param(name, marks=pytest.mark.slow) for name in HERE]
)
def test_artifacts(name: str, mask: int, tmp_path: Path) -> None:
    try:
        FORMATS[name].versions()
    except InputError as error:
        pytest.skip(str(error))
    export(tiny_network(), tiny_record(), name, tmp_path / "new" / "artifact")
    check(tmp_path, mask)


def draw(folder: Path, network: Path) -> None:
    for suffix in ("svg", "png"):
        draw_sharing(build_by_name(str(network), {}), folder / f"m.{suffix}")


def save(folder: Path, network: Path) -> None:
    model, record = load_checkpoint(network)
    save_checkpoint(folder / "a.safetensors", model.state_dict(), record)


def fill(folder: Path, network: Path) -> None:
    """One folder that is there, and one that is not, with folders above it that are not."""
    for place in (folder, folder / "in" / "new"):
        with writing(place) as partial:
            (partial / "inner").mkdir()
            (partial / "inner" / "file").write_text("", encoding="utf-8")


WRITERS: dict[str, Callable[[Path, Path], object]] = {
    "folder": fill,
    "draw": draw,
    "checkpoint": save,
    "benchmark": lambda folder, _: write_results({"rows": []}, folder / "r.json"),
    "examples": lambda folder, _: examples_page(folder / "e.html", [], ["a"], scores=None, title="a"),  # type: ignore[arg-type]
}


@pytest.mark.parametrize("name", WRITERS)
def test_files(name: str, mask: int, own_network: Path, tmp_path: Path) -> None:
    folder = tmp_path / "written"
    folder.mkdir()
    WRITERS[name](folder, own_network)
    check(folder, mask)


@pytest.mark.slow  # the whole report, and an export for the page
@pytest.mark.parametrize("name", ["report", "web"])
def test_folders(name: str, mask: int, own_network: Path, tmp_path: Path) -> None:
    folder = tmp_path / "written"
    if name == "report":
        write_report(folder)
    else:
        build_site([str(own_network)], folder)
    check(folder, mask)
