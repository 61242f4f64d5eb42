"""Draw text in any script with the machine's fonts; characters that no font has become a number and a legend.

Pillow draws with one font at a time, and a font draws missing characters as boxes. matplotlib finds the fonts on every
system, and reads which characters they have.
"""

from __future__ import annotations

import os
import unicodedata
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cache, lru_cache
from pathlib import Path
from typing import Any

from PIL import ImageDraw, ImageFont

from compactnets.console import visible

UNHELPFUL = ("lastresort", "adobeblank", "fallback")  # fonts that cover everything with boxes or blanks
LATIN = "Ág"  # sets the height of a line


@dataclass(frozen=True)
class Writing:
    """A text in the fonts that have its characters, each part with its own.

    Attributes:
        parts: text and font, from left to right.
        up: pixels above the base line.
        down: pixels below it.
    """

    parts: tuple[tuple[str, ImageFont.FreeTypeFont], ...]
    up: int
    down: int

    @property
    def width(self) -> float:
        """Pixels."""
        return sum(font.getlength(text) for text, font in self.parts)

    @property
    def height(self) -> int:
        """Pixels."""
        return self.up + self.down

    def draw(self, pen: ImageDraw.ImageDraw, left: float, top: float, fill: Any) -> None:
        """Draw it at this upper left corner."""
        for text, font in self.parts:
            pen.text((left, top + self.up), text, fill=fill, font=font, anchor="ls")
            left += font.getlength(text)


@lru_cache(maxsize=1024)
def write(text: str, size: int) -> Writing:
    """Lay a text out in pixels of ``size``; characters that no font has are escaped as in Python."""
    fonts = [(part, _font(path, size)) for part, path in _split(plain(text))]
    boxes = [_font(_own_font(), size).getbbox(LATIN, anchor="ls")]
    boxes += [font.getbbox(part, anchor="ls") for part, font in fonts if font.path != _own_font()]
    return Writing(tuple(fonts), round(-min(box[1] for box in boxes)), round(max(box[3] for box in boxes)))


def plain(text: str) -> str:
    """Return a text as one line, without control characters and changes of direction."""
    return " ".join(visible(" ".join(text.split())).split())


def can_write(text: str) -> bool:
    """Whether every character of a text can be drawn here."""
    return all(path is not None for _, path in _runs(plain(text)))


class Legend:
    """Class names that can be drawn here, and numbers with a legend for the others.

    Attributes:
        shown: a name for every class: its own, or ``#N``, its place in the list from 1.
    """

    def __init__(self, class_names: Sequence[str]) -> None:
        self.class_names = tuple(class_names)
        self.numbered = {label for label, name in enumerate(class_names) if not can_write(name)}
        self.shown = tuple(
            f"#{label + 1}" if label in self.numbered else name for label, name in enumerate(class_names)
        )
        self._met: set[int] = set()

    def met(self, labels: Iterable[int]) -> None:
        """Record that these classes were drawn."""
        self._met |= self.numbered & set(labels)

    def lines(self) -> list[str]:
        """Return number and name of every class that is drawn as a number."""
        return [f"#{label + 1} {self.class_names[label]}" for label in sorted(self.numbered)]

    def note(self) -> str:
        """Return a sentence about the classes that were drawn as numbers, or ``""``."""
        if not self._met:
            return ""
        names = ", ".join(f"#{label + 1} is {self.class_names[label]}" for label in sorted(self._met))
        return f"no font here has the characters of these classes, so drawings show numbers: {names}"


def _split(text: str) -> list[tuple[str, str]]:
    """Return the parts of a text with the font of each."""
    parts: list[tuple[str, str]] = []
    for run, path in _runs(text):
        if path is None:
            run, path = "".join(_escape(character) for character in run), _own_font()
        if parts and parts[-1][1] == path:
            parts[-1] = (parts[-1][0] + run, path)
        else:
            parts.append((run, path))
    return parts


def _runs(text: str) -> list[tuple[str, str | None]]:
    """Return the runs of characters of one font, ``None`` for those that no font has."""
    runs: list[tuple[str, str | None]] = []
    for character in text:
        if _is_silent(character):  # it shapes what is before it
            if runs:
                runs[-1] = (runs[-1][0] + (character if _has(runs[-1][1], character) else ""), runs[-1][1])
            continue
        before = runs[-1][1] if runs else _own_font()
        path = before if _has(before, character) and not character.isascii() else _font_with(character)
        if runs and runs[-1][1] == path:
            runs[-1] = (runs[-1][0] + character, path)
        else:
            runs.append((character, path))
    return runs


def _is_silent(character: str) -> bool:
    """Whether a character has no glyph of its own: joiners and variation selectors."""
    return unicodedata.category(character) == "Cf" or "\ufe00" <= character <= "\ufe0f"


def _escape(character: str) -> str:
    return character.encode("ascii", "backslashreplace").decode()


@cache
def _own_font() -> str:
    """Return matplotlib's DejaVu Sans, which is available offline: Latin, Greek, Cyrillic, Arabic and more."""
    from matplotlib import get_data_path  # here, because importing it takes time

    return str(Path(get_data_path(), "fonts", "ttf", "DejaVuSans.ttf"))


@cache
def _font(path: str, size: int) -> ImageFont.FreeTypeFont:
    return ImageFont.truetype(path, size)


@cache
def _font_with(character: str) -> str | None:
    """Return the path of a font that has a character, the package's own before the system's."""
    return next((path for path in (_own_font(), *_system_fonts()) if _has(path, character)), None)


@cache
def _system_fonts() -> tuple[str, ...]:
    """Return the machine's fonts, upright sans-serif ones of normal weight first."""
    from matplotlib import font_manager

    paths = {os.path.realpath(path) for path in font_manager.findSystemFonts()}
    names = {path: os.path.basename(path).lower() for path in paths}
    usable = [path for path in paths if not any(word in names[path].replace(" ", "") for word in UNHELPFUL)]

    def rank(path: str) -> tuple[int, str]:
        name = names[path]
        odd = sum(word in name for word in ("bold", "italic", "oblique", "black", "light", "thin", "mono", "serif"))
        return odd - ("sans" in name or "gothic" in name), name

    return tuple(sorted(usable, key=rank))


def _has(path: str | None, character: str) -> bool:
    return path is not None and ord(character) in _characters(path)


@cache
def _characters(path: str) -> frozenset[int]:
    """Return the characters that a font has and Pillow can draw in any size; none for an unreadable font."""
    from matplotlib.ft2font import FT2Font

    try:
        ImageFont.truetype(path, 17)  # bitmap colour fonts have one size and no outlines
        return frozenset(FT2Font(path).get_charmap())
    except Exception:  # of many kinds
        return frozenset()
