"""The page in headless Chromium: choosing, comparing, the keyboard, the camera, and one clear line where it fails."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageOps

from .helpers import TINY, Visit, expected_logits, tiny_network

Open = Callable[..., Visit]


@pytest.fixture
def picture(tmp_path: Path) -> Path:
    levels = np.random.default_rng(3).integers(0, 256, (90, 120, 3), dtype=np.uint8)
    Image.fromarray(levels).save(tmp_path / "picture.png")
    return tmp_path / "picture.png"


@pytest.fixture
def copied(site: Path, tmp_path: Path) -> Path:
    """A folder that a test may spoil."""
    return Path(shutil.copytree(site, tmp_path / "site"))


def _networks(folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((folder / "networks.json").read_text(encoding="utf-8"))
    return found


def test_an_example_is_classified_and_nothing_leaves_the_device(visit: Open) -> None:
    page = visit().open()
    assert page.status == "Choose an image, or use the camera."
    page.page.click("#examples button >> nth=1")
    page.wait("done", "error")
    assert page.status.startswith("flower.jpg: class ")
    assert page.page.locator(".top li").count() == 5
    values = page.page.locator(".top .value").all_inner_texts()
    assert [float(value.removesuffix(" %")) for value in values] == sorted(
        (float(value.removesuffix(" %")) for value in values), reverse=True
    )
    facts = page.page.inner_text("#facts")
    assert "MACs" in facts
    assert "median of" in facts
    assert page.page.evaluate("crossOriginIsolated")
    assert page.complaints == []
    policy = page.page.get_attribute("meta[http-equiv=Content-Security-Policy]", "content")
    assert "default-src 'self'" in policy


def test_a_request_to_another_host_is_refused(visit: Open) -> None:
    page = visit().open()
    answer = page.page.evaluate("fetch('http://localhost:9/').then(() => 'let through', error => error.name)")
    assert answer == "TypeError"
    assert any("Content Security Policy" in line for line in page.complaints)


def test_two_networks_side_by_side(visit: Open, picture: Path) -> None:
    page = visit().open().choose("tiny", "grey")
    result = page.classify(picture)
    assert [network["name"] for network in result["networks"]] == ["tiny", "grey"]
    assert page.page.locator(".card").count() == 2
    assert page.page.inner_text("#facts caption") == "Comparison"
    boxes = [page.page.locator(".card").nth(index).bounding_box() for index in range(2)]
    assert boxes[0]["y"] == boxes[1]["y"]
    assert all(len(network["latency_ms"]["runs"]) >= 3 for network in result["networks"])
    assert result["runtime"]["threads"] >= 1
    assert page.complaints == []


def test_everything_by_the_keyboard(visit: Open, picture: Path) -> None:
    page = visit().open()
    reached = []
    for _ in range(12):
        page.page.keyboard.press("Tab")
        reached.append(page.page.evaluate("document.activeElement.id || document.activeElement.tagName"))
        outline = "getComputedStyle(document.activeElement).outlineStyle"
        assert page.page.evaluate(outline) != "none", reached
        if reached[-1] == "second":
            page.page.keyboard.press("ArrowDown")
            page.wait("ready")
        if reached[-1] == "choose":
            with page.page.expect_file_chooser() as chooser:
                page.page.keyboard.press("Enter")
            chooser.value.set_files(picture)
            page.wait("done")
            break
    assert reached == ["first", "second", "choose"]
    rest = []
    for _ in range(8):
        page.page.keyboard.press("Tab")
        rest.append(page.page.evaluate("document.activeElement.id || document.activeElement.tagName"))
    assert rest == ["camera", "BUTTON", "A", "BUTTON", "A", "download", "SUMMARY", "SUMMARY"]
    page.page.keyboard.press("Enter")
    assert "Compared with PyTorch" in page.page.inner_text("#about")


def test_a_dropped_file(visit: Open, picture: Path) -> None:
    page = visit().open()
    data = page.page.evaluate_handle(
        "bytes => { const data = new DataTransfer();"
        " data.items.add(new File([new Uint8Array(bytes)], 'dropped.png')); return data; }",
        list(picture.read_bytes()),
    )
    page.page.dispatch_event("#drop", "drop", {"dataTransfer": data})
    page.wait("done")
    assert page.status.startswith("dropped.png: ")


def test_a_turned_photograph_can_be_turned_upright(visit: Open, tmp_path: Path) -> None:
    page = visit().open().choose("tiny")
    for orientation in (2, 3, 4, 5, 6, 7, 8):
        exif = Image.Exif()
        exif[0x0112] = orientation
        levels = np.random.default_rng(3).integers(0, 256, (60, 90, 3), dtype=np.uint8)
        turned, upright = tmp_path / f"turned-{orientation}.png", tmp_path / f"upright-{orientation}.png"
        Image.fromarray(levels).save(turned, exif=exif)
        page.classify(turned)
        page.page.check("#upright")
        page.wait("busy", "done").wait("done")
        found = page.result()
        assert found["image"]["orientation"] == orientation
        with Image.open(turned) as image:
            ImageOps.exif_transpose(image).save(upright, exif=Image.Exif())
        expected = expected_logits(tiny_network(), TINY, upright)
        assert np.abs(found["networks"][0]["logits"] - expected).max() < 1e-4 * np.abs(expected).max()


def test_transparency_that_a_browser_mixes_is_said(visit: Open, picture: Path, tmp_path: Path) -> None:
    page = visit().open()
    image = Image.open(picture).convert("RGBA")
    image.putalpha(100)
    image.save(tmp_path / "transparent.webp", lossless=True)
    page.classify(tmp_path / "transparent.webp")
    assert page.page.inner_text("#note").startswith("Transparent pixels: the browser mixes their colours")
    page.classify(picture)
    assert not page.page.is_visible("#note")


def test_without_isolation_one_thread_works(visit: Open, picture: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from compactnets.deploy import web_server

    kept = {name: value for name, value in web_server.HEADERS.items() if not name.startswith("Cross-Origin")}
    monkeypatch.setattr(web_server, "HEADERS", kept)
    page = visit().open()
    result = page.classify(picture)
    assert result["runtime"]["threads"] == 1
    assert not page.page.evaluate("crossOriginIsolated")
    assert page.complaints == []


def test_an_image_that_cannot_be_used_is_one_line_and_the_next_one_works(
    visit: Open, copied: Path, tmp_path: Path, picture: Path
) -> None:
    catalogue = _networks(copied)
    catalogue["networks"][0]["preprocess"]["resize"] = 60
    (copied / "networks.json").write_text(json.dumps(catalogue), encoding="utf-8")
    page = visit(copied).open()
    whole = picture.read_bytes()
    damaged = bytearray(whole)
    damaged[900:950] = bytes(50)
    broken = [
        b"this is no image",
        b"",
        b"\x89PNG\r\n\x1a\n broken",
        b"\xff\xd8\xff\xe1\x00",
        whole[:999],
        bytes(damaged),
    ]
    Image.open(picture).save(tmp_path / "photo.jpg")
    broken.append((tmp_path / "photo.jpg").read_bytes()[:2000])
    unreadable = "This file cannot be read as an image: JPEG, PNG, WebP, GIF and BMP files are expected."
    transparent = tmp_path / "transparent.png"
    Image.open(picture).convert("RGBA").save(transparent)
    huge = bytearray(picture.read_bytes())
    huge[16:24] = (50_000).to_bytes(4, "big") * 2  # width and height in the header
    narrow = tmp_path / "narrow.png"
    Image.new("L", (1, 60_000)).save(narrow)
    cases = [
        *((content, unreadable) for content in [*broken, transparent.read_bytes()[:999]]),
        (bytes(huge), "The image has 50000 x 50000 pixels; up to 64 million are read."),
        (narrow.read_bytes(), "An image of 1 x 60000 pixels is too narrow to resize its shorter edge to 60."),
        (bytes(64 * 2**20 + 1), "The file has 65 MB; files of up to 64 MB are read."),
    ]
    for content, line in cases:
        (tmp_path / "broken.png").write_bytes(content)
        page.page.set_input_files("#file", tmp_path / "broken.png")
        page.wait("error")
        assert page.error == line
        assert page.page.locator(".card").count() == 0
        page.classify(picture)


def test_files_that_are_missing_or_others(visit: Open, copied: Path) -> None:
    model = copied / "models" / "tiny.onnx"
    content = model.read_bytes()
    model.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    page = visit(copied).open()
    assert page.error == (
        "models/tiny.onnx is not the file that networks.json describes (sha256 differs): make the folder again."
    )
    model.write_bytes(content[:-1])
    assert "bytes were expected" in page.open().error
    model.unlink()
    assert page.open().error == "models/tiny.onnx could not be fetched: the server answered 404."
    page.choose("grey")
    assert page.error == ""
    next((copied / "assets").glob("*.wasm")).unlink()
    assert "cannot be loaded by ONNX Runtime" in page.open().choose("grey").error


def test_a_network_that_is_none(visit: Open, copied: Path) -> None:
    catalogue = _networks(copied)
    network = catalogue["networks"][0]
    (copied / "models" / "tiny.onnx").write_bytes(b"no network")
    network.update(bytes=10, sha256=hashlib.sha256(b"no network").hexdigest())
    (copied / "networks.json").write_text(json.dumps(catalogue), encoding="utf-8")
    error = visit(copied).open().error
    assert error.startswith("tiny cannot be loaded by ONNX Runtime: ")
    assert "\n" not in error


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ('{"version": 1, "networks": []}', "networks.json lists no network: name one with 'compactnets web"),
        ("{", "networks.json is not valid JSON: make the folder again"),
        ('{"version": 9, "networks": []}', "networks.json is not a list of networks that this page knows"),
        ('{"version": 1, "networks": [{"name": "a"}]}', "networks.json does not say the id of a."),
        (None, "networks.json could not be fetched: the server answered 404."),
    ],
)
def test_a_list_that_cannot_be_used_is_one_line(visit: Open, copied: Path, text: str | None, line: str) -> None:
    (copied / "networks.json").unlink()
    if text is not None:
        (copied / "networks.json").write_text(text, encoding="utf-8")
    page = visit(copied).open()
    assert page.error.startswith(line)
    assert page.page.is_disabled("#camera")


def test_the_camera_shows_live_results_until_it_is_stopped(visit: Open) -> None:
    page = visit(permissions=["camera"]).open().choose("tiny", "grey")
    page.page.click("#camera")
    page.wait("live", "error")
    assert page.error == ""
    assert page.page.inner_text("#camera") == "Stop the camera"
    many = "() => /median of ([3-9]|\\d\\d)/.test(document.getElementById('facts').textContent)"
    page.page.wait_for_function(many)
    page.page.focus("#camera")
    page.page.keyboard.press("Enter")
    page.wait("done")
    assert page.status == "The camera is off. The last picture's result stays."
    assert page.page.evaluate("document.getElementById('video').srcObject") is None
    assert len(page.result()["networks"]) == 2
    assert page.complaints == []


def test_a_camera_that_is_denied_or_absent_is_one_line(visit: Open, picture: Path) -> None:
    page = visit().open()
    page.page.click("#camera")
    page.wait("error")
    assert page.error == "The camera was not allowed: allow it for this page, or choose an image."
    page.classify(picture)
    absent = (
        "() => { navigator.mediaDevices.getUserMedia = () => Promise.reject(new DOMException('', 'NotFoundError')) }"
    )
    page.page.evaluate(absent)
    page.page.click("#camera")
    page.wait("error")
    assert page.error == "No camera was found: choose an image instead."
