"""compactnets web, without its server."""

from __future__ import annotations

import socket
from collections.abc import Callable
from pathlib import Path

import pytest

from .helpers import Outcome

Run = Callable[..., Outcome]


@pytest.fixture(autouse=True)
def page(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """In place of the built page."""
    (tmp_path / "page").mkdir()
    (tmp_path / "page" / "index.html").write_text("<!doctype html>", encoding="utf-8")
    monkeypatch.setattr("compactnets.web.site.find_page", lambda: tmp_path / "page")
    return tmp_path / "page"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--checkpoint", "menet_108", "--no-serve"], "--no-serve needs --output DIR"),
        (["--checkpoint", "menet_108", "--output", "site", "--no-serve"], "no network is called 'menet_108'"),
        (["--checkpoint", "nowhere.onnx", "--output", "site", "--no-serve"], "nowhere.onnx has no artifact.json"),
    ],
)
def test_wrong_input_is_one_line(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: list[str], message: str
) -> None:
    monkeypatch.chdir(tmp_path)
    done = run("web", *arguments)
    assert done.code == 2
    assert message in done.err
    assert len(done.err.splitlines()) == 1
    assert not (tmp_path / "site").exists()


def test_networks_are_checked_before_the_page_is_built(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("compactnets.web.site.find_page", lambda: pytest.fail("the page was built"))
    missing = tmp_path / "best.safetensors"
    done = run("web", "--checkpoint", missing, "--output", tmp_path / "site", "--no-serve")
    assert (done.code, len(done.err.splitlines())) == (2, 1)
    assert str(missing) in done.err
    assert not (tmp_path / "site").exists()


def test_a_port_in_use_is_known_before_anything_is_exported(run: Run) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        done = run("web", "--checkpoint", "menet_456_24x1_g3", "--port", taken.getsockname()[1])
    assert done.code == 2
    assert "is in use: choose another --port" in done.err
    assert len(done.err.splitlines()) == 1
