"""The page on a phone and on a desktop, light and dark: nothing is cut off, text can be read; pictures go to tmp."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from .helpers import Visit
from .layout import check

SIZES = {"phone": (360, 740), "narrow": (320, 640), "desktop": (1280, 800)}


@pytest.mark.parametrize("size", ["phone", "desktop", pytest.param("narrow", marks=pytest.mark.slow)])
def test_every_state_fits(visit: Callable[..., Visit], tmp_path: Path, size: str) -> None:
    width, height = SIZES[size]
    page = visit(viewport={"width": width, "height": height}).open()
    check(page, tmp_path / f"{size}-start")
    page.page.click("#examples button >> nth=0")
    page.wait("done")
    page.page.click("summary")
    check(page, tmp_path / f"{size}-result")
    page.choose("tiny", "plain bicubic").wait("done")
    check(page, tmp_path / f"{size}-compare")
    assert page.page.locator(".card").count() == 2
    (tmp_path / "broken.png").write_bytes(b"no image")
    page.page.set_input_files("#file", tmp_path / "broken.png")
    page.wait("error")
    check(page, tmp_path / f"{size}-error")
    assert page.complaints == []


def test_reduced_motion_moves_nothing(visit: Callable[..., Visit]) -> None:
    page = visit(reduced_motion="reduce").open()
    page.page.click("#examples button >> nth=0")
    page.wait("done")
    duration = page.page.evaluate("() => getComputedStyle(document.querySelector('.fill')).transitionDuration")
    assert duration in ("0s", "")
