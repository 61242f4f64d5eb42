"""A browser, the built page, and servers for it; tests skip with the reason where one of them is missing."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from compactnets.compiler import find_compiler
from compactnets.deploy.planar.wasm import find_wasm_compiler
from compactnets.errors import InputError
from compactnets.web.chromium import FLAGS, find_chromium
from compactnets.web.page import find_page
from compactnets.web.server import serving
from compactnets.web.site import build_site

from ..conftest import Once
from .helpers import PREPROCESSINGS, Visit, write_artifacts, write_onnx


def missing(reason: str) -> None:
    """Skip; where the machine is meant to have everything, fail."""
    if os.environ.get("COMPACTNETS_NEED_BROWSER"):
        pytest.fail(reason)
    pytest.skip(reason)


@pytest.fixture(scope="session")
def built_page(once: Once) -> Path:
    """The built page, of which a checkout builds a missing or stale one."""

    def copy(folder: Path) -> None:
        shutil.copytree(find_page(), folder)

    try:
        return once("page", copy)
    except InputError as error:
        missing(str(error))
        raise


@pytest.fixture(scope="session")
def artifacts(once: Once) -> Path:
    """A folder of artifacts: the tiny network, and one whose logits are its input under every preprocessing."""
    needs_compilers()
    return once("artifacts", write_artifacts)


def needs_compilers() -> None:
    try:
        find_compiler()
        find_wasm_compiler()
    except InputError as error:
        missing(str(error))


@pytest.fixture(scope="session")
def onnx_artifact(once: Once) -> Path:
    """The tiny network for ONNX Runtime."""
    pytest.importorskip("onnx")
    pytest.importorskip("onnxruntime")
    return once("onnx-artifact", write_onnx)


@pytest.fixture(scope="session")
def site(once: Once, built_page: Path, artifacts: Path) -> Path:
    """What `compactnets web` makes of them."""
    networks = [str(artifacts / name) for name in ("tiny", *PREPROCESSINGS)]
    return once("site", lambda folder: build_site(networks, folder, page=built_page))


@pytest.fixture(scope="session")
def mixed_site(once: Once, built_page: Path, artifacts: Path, onnx_artifact: Path) -> Path:
    """A page whose first network runs in ONNX Runtime Web, and whose second one is planar."""
    networks = [str(onnx_artifact), str(artifacts / "tiny")]
    return once("mixed-site", lambda folder: build_site(networks, folder, page=built_page))


@pytest.fixture(scope="session")
def browser() -> Iterator[Any]:
    """Debian's Chromium, without a window, driven by Playwright."""
    program = find_chromium()
    if program is None:
        missing("no Chromium: apt-get install chromium")
    try:
        from playwright.sync_api import sync_playwright
    except ImportError:
        missing("playwright is not installed: python -m pip install 'compactnets[dev]'")
    with sync_playwright() as playwright:
        running = playwright.chromium.launch(executable_path=program, args=list(FLAGS))
        yield running
        running.close()


@pytest.fixture
def visit(browser: Any, site: Path) -> Iterator[Callable[..., Visit]]:
    """Open a page of its own: ``visit(folder)``, with Playwright's options of a context."""
    with ExitStack() as stack:

        def open_page(folder: Path = site, **options: Any) -> Visit:
            address = stack.enter_context(serving(folder))
            made = Visit(browser.new_context(**options).new_page(), address)
            stack.callback(made.leave)
            return made

        yield open_page


@pytest.fixture(scope="module")
def shared_visit(browser: Any, site: Path) -> Iterator[Visit]:
    """One page for many images."""
    with serving(site) as address:
        made = Visit(browser.new_context().new_page(), address).open()
        yield made
        made.leave()
        assert made.complaints == []


@pytest.fixture
def picture(tmp_path: Path) -> Path:
    levels = np.random.default_rng(3).integers(0, 256, (90, 120, 3), dtype=np.uint8)
    Image.fromarray(levels).save(tmp_path / "picture.png")
    return tmp_path / "picture.png"
