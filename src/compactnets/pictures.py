"""Figures of matplotlib as files that are the same at every writing."""

from __future__ import annotations

import io
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from compactnets.errors import InputError
from compactnets.files import as_path, replace_bytes
from compactnets.folders import check_file

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def write_figure(figure: Figure, file: Path | IO[Any], format: str) -> None:
    """Write a figure in a format of matplotlib's; in an SVG text stays text, and neither date nor ids differ."""
    from matplotlib import rc_context

    metadata = {"Date": None, "Creator": None} if format == "svg" else {}
    with rc_context({"svg.fonttype": "none", "svg.hashsalt": "compactnets"}):
        figure.savefig(file, format=format, metadata=metadata, dpi=120)


def check_picture(path: Path, option: str = "--output") -> None:
    """Raise unless a picture can be written at ``path``, before the work whose result it shows.

    Args:
        path: of the file.
        option: what the message calls it.

    Raises:
        InputError: a suffix that is no format of pictures, or a place that cannot be written.
    """
    from matplotlib.backend_bases import FigureCanvasBase

    known = FigureCanvasBase.get_supported_filetypes()
    if path.suffix.removeprefix(".").lower() not in known:
        suffixes = ", ".join(f".{name}" for name in sorted(known))
        raise InputError(f"{option} must end in the suffix of a picture ({suffixes}), found {path}")
    check_file(path, option)


def save_figure(figure: Figure, path: str | Path) -> None:
    """Write a figure whole or not at all; the suffix says the format, such as ``.svg``, ``.png`` or ``.pdf``.

    Raises:
        InputError: another format, or a file that cannot be written.
    """
    path = as_path(path)
    data = io.BytesIO()
    try:
        write_figure(figure, data, path.suffix.removeprefix(".").lower())
    except ValueError as error:
        raise InputError(f"cannot write {path}: {str(error).splitlines()[0]}") from None
    replace_bytes(path, data.getbuffer())
