"""Networks for several labels in the page: every label that is likely, or none."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

import compactnets
from compactnets.deploy.export import export_subject
from compactnets.environment import set_variables
from compactnets.multilabel.checkpoint import MultilabelRecord
from compactnets.multilabel.export import MultilabelSubject
from compactnets.web.site import build_site

from ..conftest import Once
from ..deploy.helpers import CLASSES, tiny_network
from .conftest import needs_compilers
from .helpers import TINY, Visit, expected_logits, record_of

Open = Callable[..., Visit]
THRESHOLD = 0.5


def subject() -> MultilabelSubject:
    fields = record_of("tags", TINY, CLASSES).model_dump(exclude={"task"})
    return MultilabelSubject(tiny_network(), MultilabelRecord(**fields, threshold=THRESHOLD))


def write_artifact(folder: Path) -> None:
    with set_variables({"CFLAGS": "-O1"}):  # as for the other artifacts of these tests
        export_subject(subject(), "c", folder / "tags")


@pytest.fixture(scope="session")
def tags(once: Once) -> Path:
    needs_compilers()
    return once("tags", write_artifact) / "tags"


def test_the_labels_are_those_of_predict(
    visit: Open, once: Once, built_page: Path, tags: Path, artifacts: Path, picture: Path
) -> None:
    networks = [str(tags), str(artifacts / "tiny")]
    site = once("tags-site", lambda folder: build_site(networks, folder, page=built_page))
    entry, classifier = json.loads((site / "networks.json").read_text())["networks"]
    assert (entry["task"], entry["threshold"], "threshold" in classifier) == ("multilabel", THRESHOLD, False)
    page = visit(site).open()
    (found,) = page.classify(picture)["networks"]
    probabilities = torch.from_numpy(expected_logits(subject().model, TINY, picture)).sigmoid()
    expected = [(guess.class_name, guess.probability) for guess in compactnets.predict(tags, picture)[0].labels]
    assert [name for name, _ in expected] == [
        f"class {place}" for place in probabilities.argsort(descending=True).tolist() if probabilities[place] >= 0.5
    ]
    assert 1 < len(expected) < CLASSES, "all or nothing shows little"
    assert [guess["label"] for guess in found["labels"]] == [name for name, _ in expected]
    assert [guess["probability"] for guess in found["labels"]] == pytest.approx(
        [share for _, share in expected], abs=1e-4
    )
    assert len(page.page.locator(".top li").all_inner_texts()) == len(expected)
    assert all(name in page.status for name, _ in expected)
    assert "several at once" in page.page.inner_text(".card")
    assert page.complaints == []


def test_no_label_is_said(visit: Open, built_page: Path, tags: Path, picture: Path, tmp_path: Path) -> None:
    build_site([str(tags)], tmp_path / "site", page=built_page)
    listed = json.loads((tmp_path / "site" / "networks.json").read_text())
    listed["networks"][0]["threshold"] = 0.99999
    (tmp_path / "site" / "networks.json").write_text(json.dumps(listed))
    page = visit(tmp_path / "site").open()
    (found,) = page.classify(picture)["networks"]
    assert found["labels"] == []
    (line,) = page.page.locator(".top li").all_inner_texts()
    assert "no label" in line
    assert "no label" in page.status
    assert page.complaints == []
