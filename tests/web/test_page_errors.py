"""Whatever is wrong, the page shows one clear line, and works on where it can."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from .helpers import Visit

Open = Callable[..., Visit]


@pytest.fixture
def copied(site: Path, tmp_path: Path) -> Path:
    """A folder that a test may spoil."""
    return Path(shutil.copytree(site, tmp_path / "site"))


def _networks(folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((folder / "networks.json").read_text(encoding="utf-8"))
    return found


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
    unreadable = "This file cannot be read as an image: JPEG, PNG, WebP, AVIF, GIF and BMP files are expected."
    transparent = tmp_path / "transparent.png"
    Image.open(picture).convert("RGBA").save(transparent)
    huge = bytearray(picture.read_bytes())
    huge[16:24] = (50_000).to_bytes(4, "big") * 2  # width and height in the header
    narrow = tmp_path / "narrow.png"
    Image.new("L", (1, 60_000)).save(narrow)
    limit = "up to 64 MB and 64 million pixels are read here, and this browser could not scale it down"
    cases = [
        *((content, unreadable) for content in [*broken, transparent.read_bytes()[:999]]),
        (bytes(huge), f"The image has 50000 x 50000 pixels; {limit}."),
        (narrow.read_bytes(), "An image of 1 x 60000 pixels is too narrow to resize its shorter edge to 60."),
        (bytes(64 * 2**20 + 1), f"The image has 65 MB; {limit}."),
    ]
    for content, line in cases:
        (tmp_path / "broken.png").write_bytes(content)
        page.page.set_input_files("#file", tmp_path / "broken.png")
        page.wait("error")
        assert page.error == line
        assert page.page.locator(".card").count() == 0
        page.classify(picture)


def test_files_that_are_missing_or_others(visit: Open, copied: Path) -> None:
    model = copied / "models" / "tiny.bin"
    content = model.read_bytes()
    model.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    assert visit(copied).open().error == (
        "models/tiny.bin is not the file that networks.json describes (sha256 differs): make the folder again."
    )
    model.write_bytes(content[:-1])  # a page anew: a browser that has the file asks whether it changed, to the second
    assert "bytes were expected" in visit(copied).open().error
    model.unlink()
    page = visit(copied).open()
    assert page.error == "models/tiny.bin could not be fetched: the server answered 404."
    page.choose("grey")
    assert page.error == ""
    code = copied / "models" / "grey.wasm"
    content = code.read_bytes()
    code.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    assert "models/grey.wasm" in (error := visit(copied).open().choose("grey").error)
    assert "sha256 differs" in error


@pytest.mark.parametrize("engine", ["planar", "onnx"])
def test_a_network_that_is_none(visit: Open, copied: Path, mixed_site: Path, tmp_path: Path, engine: str) -> None:
    """And ONNX Runtime that is gone; another page, because a browser keeps the runtime that it has."""
    folder = copied if engine == "planar" else Path(shutil.copytree(mixed_site, tmp_path / "mixed"))
    catalogue = _networks(folder)
    network = catalogue["networks"][0]
    stored = network["code"] if engine == "planar" else network
    (folder / stored["file"]).write_bytes(b"no network")
    stored.update(bytes=10, sha256=hashlib.sha256(b"no network").hexdigest())
    (folder / "networks.json").write_text(json.dumps(catalogue), encoding="utf-8")
    error = visit(folder).open().error
    assert error.startswith(f"{network['name']} cannot be loaded")
    assert ("ONNX Runtime" in error) == (engine == "onnx")
    assert "\n" not in error
    for file in catalogue["runtime_files"]:
        (folder / file).unlink()
        assert ("cannot be loaded by ONNX Runtime" in visit(folder).open().error) == (engine == "onnx")


def test_code_of_another_server_is_not_fetched(visit: Open, copied: Path) -> None:
    catalogue = _networks(copied)
    catalogue["networks"][0]["code"]["file"] = "http://localhost:9/tiny.wasm"
    (copied / "networks.json").write_text(json.dumps(catalogue), encoding="utf-8")
    page = visit(copied).open()  # which looks at every request when it leaves
    assert "http://localhost:9/tiny.wasm, which is on another server" in page.error


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


@pytest.mark.parametrize(
    ("change", "line"),
    [
        ({"engine": "steam"}, "steam"),
        ({"code": None}, "does not say the code of tiny"),
        ({"name_of_functions": "another"}, "another_run"),
    ],
)
def test_an_engine_that_cannot_run_is_one_line(visit: Open, copied: Path, change: dict[str, Any], line: str) -> None:
    """Of another version of the package, say; the next network works."""
    catalogue = _networks(copied)
    if name := change.get("name_of_functions"):
        change = {"code": {**catalogue["networks"][0]["code"], "name": name}}
    catalogue["networks"][0].update(change)
    (copied / "networks.json").write_text(json.dumps(catalogue), encoding="utf-8")
    page = visit(copied).open()
    assert line in page.error
    assert page.choose("grey").error == ""
