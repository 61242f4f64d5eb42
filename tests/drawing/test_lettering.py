"""Text in any script: with a font of the machine that has it, and with a number and a legend where none has."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageDraw

from compactnets.detection.drawing import draw
from compactnets.drawing import lettering
from compactnets.drawing.lettering import Legend, can_write, write
from tests.detection.scenes import detections

CACHES = (lettering._system_fonts, lettering._font_with, lettering._characters, lettering.write)
SCRIPTS = {
    "Chinese": "猫",
    "Japanese": "ねこ",
    "Korean": "고양이",
    "Devanagari": "बिल्ली",
    "Thai": "แมว",
    "Arabic": "قطة",
    "Hebrew": "חתול",
    "Greek": "γάτα",
    "Cyrillic": "кот",
    "Vietnamese": "mèo",
    "emoji": "🐈\ufe0f",
    "family": "👩\u200d👧",
    "beyond": "\U0001f9ec\U00012000",
    "private": "\ue000\uf8ff",
}


@pytest.fixture(autouse=True)
def no_system_fonts(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Only matplotlib's own font, whichever the machine has."""
    monkeypatch.setattr("matplotlib.font_manager.findSystemFonts", lambda *_, **__: [])
    for cache in CACHES:
        cache.cache_clear()
    yield
    for cache in CACHES:
        cache.cache_clear()


def box_font(path: Path, characters: str) -> Path:
    """Write a font in which these characters are a solid square, four fifths of its size."""
    from fontTools.fontBuilder import FontBuilder
    from fontTools.pens.ttGlyphPen import TTGlyphPen

    pen = TTGlyphPen(None)
    pen.moveTo((100, 0))
    for corner in ((100, 800), (900, 800), (900, 0)):
        pen.lineTo(corner)
    pen.closePath()
    empty = TTGlyphPen(None).glyph()
    builder = FontBuilder(1000, isTTF=True)
    builder.setupGlyphOrder([".notdef", "square"])
    builder.setupCharacterMap({ord(character): "square" for character in characters})
    builder.setupGlyf({".notdef": empty, "square": pen.glyph()})
    builder.setupHorizontalMetrics({".notdef": (1000, 0), "square": (1000, 100)})
    builder.setupHorizontalHeader(ascent=900, descent=-100)
    builder.setupNameTable({"familyName": "Squares", "styleName": "Regular"})
    builder.setupOS2()
    builder.setupPost()
    builder.save(path)
    return path


def ink(text: str, size: int = 40) -> np.ndarray:
    writing = write(text, size)
    image = Image.new("L", (round(writing.width) + 20, writing.height + 20))
    writing.draw(ImageDraw.Draw(image), 10, 10, 255)
    return np.asarray(image)


@pytest.mark.parametrize("script", SCRIPTS)
def test_every_script_is_drawn_or_numbered(script: str) -> None:
    """Nothing crashes, and no name appears that a font draws as its box for what it lacks."""
    name = SCRIPTS[script]
    legend = Legend(["cat", name])
    assert legend.shown == ("cat", name if can_write(name) else "#2")
    picture = draw(Image.new("RGB", (200, 150)), detections([[20, 60, 150, 140]], [0.9], [1]), legend.shown)
    assert picture.size == (200, 150)
    legend.met([0])
    assert legend.note() == ""
    legend.met([1])
    assert (name in legend.note() and "#2" in legend.note()) is not can_write(name)
    if not can_write(name):
        assert legend.lines() == [f"#2 {name}"]


def test_scripts_of_the_own_font_need_no_other() -> None:
    for script in ("Arabic", "Hebrew", "Greek", "Cyrillic", "Vietnamese"):
        assert can_write(SCRIPTS[script]), script
    assert not can_write(SCRIPTS["Chinese"])


def test_a_font_of_the_machine_is_found_and_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "broken.ttf").write_bytes(b"no font")
    fonts = [tmp_path / "broken.ttf", tmp_path / "gone.ttf", box_font(tmp_path / "squares.ttf", "猫")]
    monkeypatch.setattr("matplotlib.font_manager.findSystemFonts", lambda *_, **__: [str(font) for font in fonts])
    for cache in CACHES:
        cache.cache_clear()
    assert Legend(["猫"]).shown == ("猫",)
    assert Legend(["猫犬"]).shown == ("#1",)  # half of a name is none
    squares = ink("猫")
    rows, columns = np.nonzero(squares > 200)
    side = 0.8 * 40
    assert abs(rows.max() - rows.min() + 1 - side) <= 2
    assert abs(columns.max() - columns.min() + 1 - side) <= 2
    together = write("猫 0.90", 40)
    assert [text for text, _ in together.parts] == ["猫", " 0.90"]
    assert together.width > write("猫", 40).width


def test_what_no_font_has_is_escaped() -> None:
    """Where a text comes without a legend."""
    assert "".join(text for text, _ in write("a猫", 20).parts) == r"a\u732b"


@pytest.mark.parametrize("text", ["two\nlines", "tab\there", "bell\x07", "turned\u202eback", "\ud800half", "", " "])
def test_what_would_steer_the_text_does_not(text: str) -> None:
    writing = write(text, 20)
    shown = "".join(part for part, _ in writing.parts)
    assert shown.isprintable()
    assert len(shown.strip()) >= len(text.split())
    assert ink(text, 20).shape[0] == writing.height + 20


def test_letters_lie_on_one_line_and_inside_their_place() -> None:
    for text in ("Ágj", "cat 0.90", "قطة 0.90"):
        image = ink(text)
        assert image[10:-10].any()
        assert not image[:4].any()
        assert not image[-4:].any()
