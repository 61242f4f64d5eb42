"""The frame of a page with the images on which a network does best and worst. One file, which works offline."""

from __future__ import annotations

import base64
import io
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from PIL import Image

from compactnets.drawing.colours import class_colour
from compactnets.files import replace_text

QUALITY = 82  # of the JPEGs in the page

Item = TypeVar("Item")


@dataclass(frozen=True)
class Picture:
    """A picture in a page, and what it shows."""

    what: str
    size: tuple[int, int]  # width and height
    data: str

    @classmethod
    def of(cls, what: str, image: Image.Image) -> Picture:
        """Encode an image, which the page shows at its size."""
        buffer = io.BytesIO()
        image.save(buffer, format="JPEG", quality=QUALITY, optimize=True)
        return cls(what, image.size, "data:image/jpeg;base64," + base64.b64encode(buffer.getvalue()).decode())


@dataclass(frozen=True)
class Figure:
    """One image of a page: its name, what was found on it in words, and its pictures side by side."""

    name: str
    caption: str
    pictures: Sequence[Picture]


def write_gallery(
    path: Path,
    template: Path,
    ranked: Sequence[Item],
    count: int,
    figure: Callable[[Item], Figure],
    *,
    title: str,
    class_names: Sequence[str],
    **values: Any,
) -> None:
    """Write a page of the worst and the best images.

    Args:
        template: a file of jinja2 that extends ``gallery.html`` with the block ``measured``.
        ranked: all images, the best first.
        count: of the worst, and of the best; no image is shown twice.
        figure: makes what the page shows of one.
        class_names: whose ``colours`` the template gets.
        values: for the template.

    Raises:
        InputError: a file that cannot be written.
    """
    groups = {
        "Worst": ranked[::-1][: min(count, len(ranked) // 2)],
        "Best": ranked[: min(count, (len(ranked) + 1) // 2)],
    }
    environment = Environment(
        loader=FileSystemLoader([template.parent, Path(__file__).parent]),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
    )
    page = environment.get_template(template.name).render(
        title=title,
        groups=[(heading, list(map(figure, found))) for heading, found in groups.items() if found],
        colours=[class_colour(label) for label in range(len(class_names))],
        **values,
    )
    replace_text(path, page)
