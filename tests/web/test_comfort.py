"""What makes the page pleasant: errors in view, bytes while it loads, networks that say what they are, offline use."""

from __future__ import annotations

import json
import os
import shutil
import threading
from collections.abc import Callable
from http.server import SimpleHTTPRequestHandler
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from compactnets.web.server import Handler, address, open_server

from .helpers import TINY, Visit, expected_logits, tiny_network

Open = Callable[..., Visit]
IN_VIEW = """id => {
  const box = document.getElementById(id).getBoundingClientRect();
  return box.height > 0 && box.top >= 0 && box.bottom <= innerHeight;
}"""
PHONE = {"viewport": {"width": 390, "height": 844}}


@pytest.fixture
def copied(site: Path, tmp_path: Path) -> Path:
    """A folder that a test may change."""
    return Path(shutil.copytree(site, tmp_path / "site"))


@pytest.fixture
def mixed(mixed_site: Path, tmp_path: Path) -> Path:
    """The same of the page that has a network in ONNX Runtime Web."""
    return Path(shutil.copytree(mixed_site, tmp_path / "mixed"))


def change(folder: Path, **first: Any) -> None:
    catalogue = json.loads((folder / "networks.json").read_text(encoding="utf-8"))
    catalogue["networks"][0].update(first)
    (folder / "networks.json").write_text(json.dumps(catalogue), encoding="utf-8")


@pytest.mark.parametrize(
    "viewport", [PHONE, pytest.param({"viewport": {"width": 1280, "height": 500}}, marks=pytest.mark.slow)]
)
def test_an_error_is_in_view_however_far_the_page_is_scrolled(
    visit: Open, picture: Path, tmp_path: Path, viewport: dict[str, Any]
) -> None:
    page = visit(**viewport).open().choose("tiny", "grey")
    page.classify(picture)
    page.page.evaluate("scrollTo(0, document.body.scrollHeight)")
    (tmp_path / "broken.png").write_bytes(b"no image")
    page.page.set_input_files("#file", tmp_path / "broken.png")
    page.wait("error")
    assert page.page.evaluate(IN_VIEW, "error")
    page.page.evaluate("scrollTo(0, document.body.scrollHeight)")
    assert page.page.evaluate(IN_VIEW, "error")
    assert page.page.get_attribute("#error", "role") == "alert"


def test_bytes_are_shown_while_it_loads(visit: Open, mixed: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The server stops halfway through the runtime until the test has seen what the page says."""
    go_on = threading.Event()
    copy = SimpleHTTPRequestHandler.copyfile

    def halting(self: Any, source: Any, target: Any) -> None:
        if "/ort-" in self.path and self.path.endswith(".wasm"):
            target.write(source.read(3_000_000))
            target.flush()
            assert go_on.wait(60)
        copy(self, source, target)

    monkeypatch.setattr(Handler, "copyfile", halting)
    page = visit(mixed, **PHONE)
    page.page.goto(page.address)
    try:
        counted = "/^ONNX Runtime: [\\d.]+ MB of 1\\d\\.\\d MB$/"
        page.page.wait_for_function(f"() => {counted}.test(document.getElementById('progress').textContent)")
        assert page.page.evaluate(IN_VIEW, "loading")
        value, largest = page.page.evaluate(
            "() => [document.getElementById('bar').value, document.getElementById('bar').max]"
        )
        assert 0 < value < largest
        wasm = next((mixed / "assets").glob("*.wasm"))
        assert largest == wasm.stat().st_size
    finally:
        go_on.set()
    page.wait("ready")
    assert not page.page.is_visible("#loading")
    assert page.complaints == []


def test_a_download_that_breaks_off_is_one_line_and_can_be_tried_again(
    visit: Open, copied: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    copy = SimpleHTTPRequestHandler.copyfile

    def breaking(self: Any, source: Any, target: Any) -> None:
        if self.path.endswith(".bin"):
            target.write(source.read(500))
            raise ConnectionError
        copy(self, source, target)

    monkeypatch.setattr(Handler, "copyfile", breaking)
    page = visit(copied).open()
    assert "models/tiny.bin" in page.error
    monkeypatch.setattr(Handler, "copyfile", copy)
    page.choose("grey").choose("tiny")
    assert page.error == ""


def test_networks_say_what_they_are(visit: Open, copied: Path, picture: Path) -> None:
    change(copied, data="flowers", name="tiny.flowers")
    page = visit(copied).open()
    said = page.page.inner_text("#first-kind")
    assert all(part in said for part in ("flowers", "24 x 24", "classes"))
    page.choose("tiny.flowers", "grey")
    assert "grey" in page.page.inner_text("#second-kind")
    page.classify(picture)
    assert "flowers" in page.page.inner_text(".card >> nth=0")
    page.page.click("summary >> nth=0")
    assert "flowers" in page.page.inner_text("#about")


@pytest.mark.parametrize("width", [390, pytest.param(1280, marks=pytest.mark.slow)])
def test_only_networks_of_one_kind_have_a_ratio(visit: Open, picture: Path, width: int) -> None:
    page = visit(viewport={"width": width, "height": 844}).open().choose("bilinear", "bicubic")
    page.classify(picture)
    cell = page.page.locator("#facts tr:has(th:text-is('MACs')) td").last
    assert cell.inner_text() == "–" or cell.inner_text().endswith("x")
    shown = page.page.evaluate(
        "() => [...document.querySelectorAll('#facts thead th:last-child')].some(one => one.checkVisibility()"
        " && one.textContent === 'Ratio') || getComputedStyle(document.querySelector('#facts tbody tr:nth-child(4)"
        " td:last-child'), '::before').content.includes('Ratio')"
    )
    assert shown, "the column has its heading at every width"
    page.choose("tiny", "grey").wait("done")
    assert page.page.locator("#facts thead th").count() == 2
    assert "No ratio" in page.page.inner_text("#facts")
    assert not any(text.endswith("x") for text in page.page.locator("#facts tbody td").all_inner_texts())


def test_the_frame_can_be_clicked(shared_visit: Visit, picture: Path) -> None:
    page = shared_visit
    with page.page.expect_file_chooser() as chooser:
        page.page.click("#drop")
    page.forget()
    chooser.value.set_files(picture)
    page.wait("done")
    assert page.status.startswith("picture.png: ")


def test_an_image_can_be_pasted(visit: Open, picture: Path) -> None:
    page = visit().open()
    paste = """([bytes, type, name]) => {
      const data = new DataTransfer();
      if (name) data.items.add(new File([new Uint8Array(bytes)], name, { type }));
      else data.setData('text/plain', 'words');
      const options = { clipboardData: data, bubbles: true, cancelable: true };
      document.body.dispatchEvent(new ClipboardEvent('paste', options));
    }"""
    page.page.evaluate(paste, [[], "", ""])  # words are no image, and no error
    assert page.status.startswith("Choose")
    page.page.evaluate(paste, [list(picture.read_bytes()), "image/png", "image.png"])
    page.wait("done")
    assert page.status.startswith("image.png: ")


@pytest.mark.parametrize("kind", [pytest.param("many pixels", marks=pytest.mark.slow), "many bytes"])
def test_a_photograph_past_the_limit_is_scaled_down(shared_visit: Visit, tmp_path: Path, kind: str) -> None:
    """Turned by its tag, too: the result is near what Python gives for the whole picture."""
    blobs = np.random.default_rng(1).integers(0, 256, (6, 9, 3), dtype=np.uint8)
    size = (10_000, 6_600) if kind == "many pixels" else (1_200, 800)
    large = Image.fromarray(blobs).resize(size, Image.Resampling.BICUBIC)
    exif = Image.Exif()
    exif[0x0112] = 6
    large.save(tmp_path / "large.jpg", quality=90, exif=exif)
    if kind == "many bytes":
        with (tmp_path / "large.jpg").open("ab") as file:
            file.write(bytes(64 * 2**20))  # behind the picture, as some cameras have it
    page = shared_visit.choose("tiny")
    found = page.classify(tmp_path / "large.jpg")
    assert "scaled" in page.page.inner_text("#note")
    assert found["image"]["width"] < found["image"]["height"]
    assert found["image"]["width"] * found["image"]["height"] <= 64e6
    expected = expected_logits(tiny_network(), TINY, tmp_path / "large.jpg")
    logits = np.array(found["networks"][0]["logits"])
    assert np.abs(logits - expected).max() < 0.1 * np.abs(expected).max()
    assert page.complaints == []


def test_examples_have_names_of_people(shared_visit: Visit) -> None:
    page = shared_visit
    names = page.page.locator("#examples .example").all_inner_texts()
    assert len(names) == 2
    assert not any("." in name for name in names)
    assert [image.get_attribute("alt") for image in page.page.locator("#examples img").all()] == names
    page.forget().page.click("#examples button >> nth=1")
    page.wait("done")
    assert page.status.startswith(f"{names[1]}: ")


KEPT = """async wanted => {
  const kept = async () => {
    const addresses = [];
    for (const name of await caches.keys())
      for (const request of await (await caches.open(name)).keys()) addresses.push(request.url);
    return addresses;
  };
  for (;;) {
    const addresses = await kept();
    if (wanted.every(end => addresses.some(address => address.endsWith(end)))) return addresses;
    await new Promise(resolve => setTimeout(resolve, 50));
  }
}"""


@pytest.mark.parametrize(("engine", "renewal"), [("planar", "none"), ("planar", "breaks off"), ("onnx", "none")])
def test_a_second_visit_works_offline(
    browser: Any, copied: Path, mixed: Path, picture: Path, monkeypatch: pytest.MonkeyPatch, engine: str, renewal: str
) -> None:
    """The server goes: what was used is there, what was not is one line.

    So it is when the server goes while it sends a newer network: the one that was kept stays.
    """
    if engine == "onnx":
        copied = mixed
    monkeypatch.setattr(Handler, "protocol_version", "HTTP/1.0")  # no connection outlives the server
    server = open_server(copied, 0)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    context = browser.new_context()
    try:
        page = Visit(context.new_page(), address(server)).open()
        first = page.classify(picture)
        catalogue = json.loads((copied / "networks.json").read_text(encoding="utf-8"))
        used = ["tiny.wasm", "tiny.bin"] if engine == "planar" else ["onnx.onnx", *catalogue["runtime_files"]]
        kept = page.page.evaluate(KEPT, used)  # which waits for promises; wait_for_function does not
        assert not [address for address in kept if engine == "planar" and ("ort-" in address or "onnx" in address)]
        if renewal == "breaks off":
            network = copied / "models" / "tiny.bin"
            os.utime(network, (1, 1))  # another version, as far as the server's answers say

            def breaking(self: Any, source: Any, target: Any) -> None:
                target.write(source.read(500) if self.path.endswith(network.name) else source.read())
                if self.path.endswith(network.name):
                    raise ConnectionError

            monkeypatch.setattr(Handler, "copyfile", breaking)
            page.page.reload()
            page.wait("error")
            assert network.name in page.error
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
    again = Visit(context.new_page(), page.address).open()
    assert again.error == ""
    second = again.classify(picture)
    assert second["networks"][0]["logits"] == first["networks"][0]["logits"]
    again.page.click("#examples button >> nth=0")
    again.page.wait_for_function(
        "() => document.body.dataset.state == 'done' && document.getElementById('status').textContent.startsWith('Te')"
    )
    other = "grey" if engine == "planar" else "tiny"
    again.choose(other)
    assert f"models/{other}." in again.error
    context.close()


def test_a_folder_that_is_made_anew_shows_at_once(visit: Open, copied: Path) -> None:
    """What the service worker keeps never takes the place of what the server has."""
    page = visit(copied).open()
    page.page.evaluate("() => navigator.serviceWorker.ready.then(() => true)")
    page.page.reload()
    page.wait("ready")
    change(copied, name="another")
    page.page.reload()
    page.wait("ready")
    assert page.page.locator("#first option >> nth=0").inner_text() == "another"
