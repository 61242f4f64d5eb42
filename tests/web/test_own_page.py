"""examples/web: a page of one's own around a network of `compactnets web`."""

from __future__ import annotations

import functools
import shutil
import threading
from collections.abc import Iterator
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from ..deploy.helpers import tiny_network
from .helpers import TINY, WAIT, expected_logits

EXAMPLE = Path(__file__).parents[2] / "examples" / "web"


class Quiet(SimpleHTTPRequestHandler):
    """A plain server, as anybody's host is one."""

    def log_message(self, format: str, *arguments: Any) -> None:
        """Nothing on standard error."""


@pytest.fixture
def folder(tmp_path: Path, site: Path) -> Path:
    shutil.copytree(EXAMPLE, tmp_path / "page")
    shutil.copytree(site, tmp_path / "page" / "site")
    return tmp_path / "page"


@pytest.fixture
def page(browser: Any, folder: Path) -> Iterator[Any]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Quiet, directory=str(folder)))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    opened = browser.new_context().new_page()
    opened.address = f"http://127.0.0.1:{server.server_port}/"
    yield opened
    opened.context.close()
    server.shutdown()
    server.server_close()


def says(page: Any, text: str) -> None:
    page.wait_for_function("text => document.querySelector('p').textContent.includes(text)", arg=text, timeout=WAIT)


def test_the_classes_are_those_of_pytorch(page: Any, tmp_path: Path) -> None:
    """On a picture that needs no scaling, which browsers do as they like."""
    assert TINY.resize is not None
    levels = np.random.default_rng(5).integers(0, 256, (TINY.resize, TINY.resize, 3), dtype=np.uint8)
    Image.fromarray(levels).save(tmp_path / "picture.png")
    page.goto(page.address)
    says(page, "Choose")
    page.set_input_files("input", tmp_path / "picture.png")
    page.wait_for_selector("li", timeout=WAIT)
    shown = [each.text_content() for each in page.query_selector_all("li")]
    shares = torch.from_numpy(expected_logits(tiny_network(), TINY, tmp_path / "picture.png")).softmax(0).numpy()
    order = np.argsort(-shares)[:3]
    assert shown == [f"class {index} {100 * shares[index]:.1f} %" for index in order]


def test_what_is_no_image(page: Any, tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("no image", encoding="utf-8")
    page.goto(page.address)
    says(page, "Choose")
    page.set_input_files("input", tmp_path / "notes.txt")
    says(page, "notes.txt is no image")
    assert page.query_selector("li") is None


def test_a_missing_network_is_said(page: Any, folder: Path) -> None:
    shutil.rmtree(folder / "site")
    page.goto(page.address)
    says(page, "networks.json: 404")


def test_a_network_that_is_not_there(page: Any) -> None:
    page.goto(page.address)
    says(page, "Choose")
    told = page.evaluate(
        "import('./network.mjs').then(({ Network }) => Network.open(new URL('site/', location.href), 'other'))"
        ".catch(({ message }) => message)"
    )
    assert "other" in told
    assert "tiny" in told
