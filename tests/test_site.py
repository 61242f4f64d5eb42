"""The documentation site: its navigation, the architecture page, the citation, and that versions agree.

The site itself is built by continuous integration (environments/site.py), which takes a generator that tests do not
need.
"""

from __future__ import annotations

import importlib
import re
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

import compactnets

from .layers import LAYERS

ROOT = Path(__file__).parents[1]
SITE = tomllib.loads((ROOT / "zensical.toml").read_text(encoding="utf-8"))["project"]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]


def pages(entries: list[Any]) -> Iterator[str]:
    for entry in entries:
        for target in entry.values():
            if isinstance(target, str):
                yield target
            else:
                yield from pages(target)


def found(name: str) -> Any:
    """The module, class or function of this name; ``None`` where there is none."""
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError:
        module, _, attribute = name.rpartition(".")
        return getattr(importlib.import_module(module), attribute, None)


def test_the_navigation_reaches_every_page_once() -> None:
    reached = sorted(pages(SITE["nav"]))
    assert reached == sorted(path.relative_to(ROOT / "docs").as_posix() for path in (ROOT / "docs").rglob("*.md"))


def test_the_start_page_leads_to_the_guides() -> None:
    text = (ROOT / "docs" / "index.md").read_text(encoding="utf-8")
    guides = next(entry["Guides"] for entry in SITE["nav"] if "Guides" in entry)
    linked = set(re.findall(r"\]\(([\w.]+\.md)\)", text))
    assert set(pages(guides)) - {"menet_repository.md"} <= linked


def test_the_site_asks_no_other_host() -> None:
    assert SITE["theme"]["font"] is False


def test_the_reference_names_what_there_is() -> None:
    text = (ROOT / "docs" / "reference.md").read_text(encoding="utf-8")
    names = re.findall(r"^::: (\S+)", text, flags=re.MULTILINE)
    for name in names:
        assert found(name).__doc__, name
    assert len(names) == len(set(names))
    public = {each for each in compactnets.__all__ if each != "__version__"}
    assert public <= {name.rpartition(".")[2] for name in names}


def test_the_architecture_page_has_the_layers() -> None:
    text = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
    table = text[text.index("| modules |") : text.index("`compactnets_cli` is")]
    rows = [tuple(re.findall(r"`([\w.]+)`", line.split("|")[1])) for line in table.splitlines()[2:] if line]
    assert rows == list(LAYERS)


@pytest.mark.parametrize("page", ["docs/architecture.md", "CONTRIBUTING.md"])
def test_names_of_the_package_are_there(page: str) -> None:
    for name in re.findall(r"`(compactnets(?:_cli)?(?:\.\w+)+)`", (ROOT / page).read_text(encoding="utf-8")):
        assert found(name) is not None, f"{page}: {name}"


def test_the_citation_is_of_this_version_and_of_both_papers() -> None:
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    assert {"cff-version", "message", "title", "authors"} <= set(citation)  # what the format requires
    assert citation["cff-version"] == "1.2.0"
    assert str(citation["version"]) == compactnets.__version__
    for paper in ("menet", "muffnet"):
        stated = yaml.safe_load((ROOT / "src/compactnets/papers" / f"{paper}.yaml").read_text(encoding="utf-8"))
        cited = next(each for each in citation["references"] if each["title"] == stated["title"])
        people = [f"{each['given-names']} {each['family-names']}" for each in cited["authors"]]
        assert ", ".join(people) == stated["authors"]


def test_the_changelog_has_this_version() -> None:
    text = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    assert re.search(rf"^## {re.escape(compactnets.__version__)}\b", text, flags=re.MULTILINE)
    assert "\n## Unreleased\n" in text


def test_continuous_integration_is_one_script() -> None:
    flow = yaml.safe_load((ROOT / ".github/workflows/ci.yml").read_text(encoding="utf-8"))
    steps = flow["jobs"]["run"]["steps"]
    assert [step["run"] for step in steps if step.get("run") == ".ci/run"]
    versions = {step.get("uses", "").partition("@")[0]: step.get("with", {}) for step in steps}
    assert PROJECT["requires-python"] == f">={versions['actions/setup-python']['python-version']}"
    script = (ROOT / ".ci/run").read_text(encoding="utf-8").strip().splitlines()
    assert script[-1] == "python3 environments/site.py"  # after the tests
