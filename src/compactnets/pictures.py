"""Write matplotlib figures to files, deterministically."""

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
    """Write a figure in one of matplotlib's formats. SVG keeps text as text, and has no date or random ids."""
    from matplotlib import rc_context

    metadata = {"Date": None, "Creator": None} if format == "svg" else {}
    with rc_context({"svg.fonttype": "none", "svg.hashsalt": "compactnets"}):
        figure.savefig(file, format=format, metadata=metadata, dpi=120)


def check_picture(path: Path, option: str = "--output") -> None:
    """Check that a picture can be written to ``path``, before doing the work for it.

    Args:
        path: the file.
        option: its name in errors.

    Raises:
        InputError: an unsupported suffix, or a path that cannot be written.
    """
    from matplotlib.backend_bases import FigureCanvasBase

    known = FigureCanvasBase.get_supported_filetypes()
    if path.suffix.removeprefix(".").lower() not in known:
        suffixes = ", ".join(f".{name}" for name in sorted(known))
        raise InputError(f"{option} must have the suffix of a picture ({suffixes}), found {path}")
    check_file(path, option)


def save_figure(figure: Figure, path: str | Path) -> None:
    """Write a figure atomically; the suffix determines the format, such as ``.svg``, ``.png`` or ``.pdf``.

    Raises:
        InputError: an unsupported format, or a file that cannot be written.
    """
    path = as_path(path)
    data = io.BytesIO()
    try:
        write_figure(figure, data, path.suffix.removeprefix(".").lower())
    except ValueError as error:
        raise InputError(f"cannot write {path}: {str(error).splitlines()[0]}") from None
    replace_bytes(path, data.getbuffer())
