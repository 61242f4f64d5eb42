"""The page in headless Chromium: choosing, comparing, the keyboard, the camera, and one clear line where it fails."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageOps, PngImagePlugin

from compactnets.web.server import HEADERS, Handler

from .helpers import TINY, Visit, expected_logits, tiny_network

Open = Callable[..., Visit]


def test_an_example_is_classified_and_nothing_leaves_the_device(visit: Open) -> None:
    page = visit().open()
    assert page.status == "Choose, drop or paste an image, or use the camera."
    page.page.click("#examples button >> nth=1")
    page.wait("done", "error")
    assert page.status.startswith("Flower: class ")
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
    assert page.download() == result
    assert [network["name"] for network in result["networks"]] == ["tiny", "grey"]
    assert page.page.locator(".card").count() == 2
    assert page.page.inner_text("#facts caption") == "Comparison"
    boxes = [page.page.locator(".card").nth(index).bounding_box() for index in range(2)]
    assert boxes[0]["y"] == boxes[1]["y"]
    assert all(len(network["latency_ms"]["runs"]) >= 3 for network in result["networks"])
    assert [network["engine"]["name"] for network in result["networks"]] == ["planar", "planar"]
    assert page.complaints == []


def test_two_engines_side_by_side(visit: Open, mixed_site: Path, picture: Path) -> None:
    """ONNX Runtime is loaded when a network needs it, and not before; both give PyTorch's logits."""
    page = visit(mixed_site)
    page.page.route("**/networks.json", lambda route: route.fulfill(json=_planar_first(mixed_site)))
    page.open()
    page.classify(picture)
    assert not [url for url in page.requests if "/ort-" in url or "/onnx" in url]
    page.choose("tiny", "onnx").wait("done")
    result = page.result()["networks"]
    assert [network["engine"]["name"] for network in result] == ["planar", "onnxruntime-web"]
    assert result[1]["engine"]["threads"] >= 1
    assert 0 < 20 * result[0]["engine"]["bytes"] < result[1]["engine"]["bytes"]
    expected = expected_logits(tiny_network(), TINY, picture)
    for network in result:
        assert np.abs(network["logits"] - expected).max() < 1e-4 * np.abs(expected).max()
    facts, footer = page.page.inner_text("#facts"), page.page.inner_text("#runtime")
    assert all(text in facts for text in ("planar", "ONNX Runtime", "of code"))
    assert all(text in footer for text in ("Planar engine", "ONNX Runtime Web"))
    assert page.complaints == []


def _planar_first(site: Path) -> dict[str, Any]:
    catalogue: dict[str, Any] = json.loads((site / "networks.json").read_text(encoding="utf-8"))
    catalogue["networks"].reverse()
    return catalogue


def test_everything_by_the_keyboard(visit: Open, picture: Path) -> None:
    page = visit().open()
    # asked for here already: the browser may see the key before it hears that a chooser is waited for, and then opens
    # its own dialog, which nobody answers
    page.page.on("filechooser", lambda _: None)
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


def test_a_dropped_file(shared_visit: Visit, picture: Path) -> None:
    page = shared_visit
    data = page.page.evaluate_handle(
        "bytes => { const data = new DataTransfer();"
        " data.items.add(new File([new Uint8Array(bytes)], 'dropped.png')); return data; }",
        list(picture.read_bytes()),
    )
    page.forget().page.dispatch_event("#drop", "drop", {"dataTransfer": data})
    page.wait("done")
    assert page.status.startswith("dropped.png: ")


def test_photographs_come_upright(shared_visit: Visit, tmp_path: Path) -> None:
    page = shared_visit.choose("tiny")
    for orientation in (2, 3, 4, 5, 6, 7, 8):
        exif = Image.Exif()
        exif[0x0112] = orientation
        levels = np.random.default_rng(3).integers(0, 256, (60, 90, 3), dtype=np.uint8)
        turned, upright = tmp_path / f"turned-{orientation}.png", tmp_path / f"upright-{orientation}.png"
        Image.fromarray(levels).save(turned, exif=exif)
        found = page.classify(turned)
        assert found["image"]["orientation"] == orientation
        with Image.open(turned) as image:
            ImageOps.exif_transpose(image).save(upright, exif=Image.Exif())
        expected = expected_logits(tiny_network(), TINY, upright)
        assert np.array_equal(expected, expected_logits(tiny_network(), TINY, turned))
        assert np.abs(found["networks"][0]["logits"] - expected).max() < 1e-4 * np.abs(expected).max()


@pytest.mark.parametrize("name", ["a.jpg", "a.png", "a.webp"])
def test_an_orientation_in_xmp_alone_turns_too(shared_visit: Visit, tmp_path: Path, name: str) -> None:
    packet = b'<x:xmpmeta><rdf:Description tiff:Orientation="6"/></x:xmpmeta>'
    image, options = Image.effect_noise((90, 60), 80).convert("RGB"), {"xmp": packet}
    if name == "a.png":
        text = PngImagePlugin.PngInfo()
        text.add_itxt("XML:com.adobe.xmp", packet.decode())
        options = {"pnginfo": text}
    elif name == "a.webp":
        options["lossless"] = True
    image.save(tmp_path / name, **options)
    found = shared_visit.choose("tiny").classify(tmp_path / name)
    assert found["image"]["orientation"] == 6
    expected = expected_logits(tiny_network(), TINY, tmp_path / name)
    assert np.abs(found["networks"][0]["logits"] - expected).max() < 1e-4 * np.abs(expected).max()


def test_transparency_that_a_browser_mixes_is_said(shared_visit: Visit, picture: Path, tmp_path: Path) -> None:
    page = shared_visit
    image = Image.open(picture).convert("RGBA")
    image.putalpha(100)
    image.save(tmp_path / "transparent.webp", lossless=True)
    page.classify(tmp_path / "transparent.webp")
    assert page.page.inner_text("#note").startswith("Transparent pixels: the browser mixes their colours")
    page.classify(picture)
    assert not page.page.is_visible("#note")


def test_without_isolation_one_thread_works(
    visit: Open, mixed_site: Path, picture: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept = {name: value for name, value in HEADERS.items() if not name.startswith("Cross-Origin")}
    monkeypatch.setattr(Handler, "sent_headers", kept)
    page = visit(mixed_site).open()
    result = page.classify(picture)
    assert result["networks"][0]["engine"]["name"] == "onnxruntime-web"
    assert result["networks"][0]["engine"]["threads"] == 1
    assert not page.page.evaluate("crossOriginIsolated")
    assert page.complaints == []


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
