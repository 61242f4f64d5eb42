"""The exceptions for bad input and for results past a limit, and the suggestion that goes with a misspelt name."""

from __future__ import annotations

import difflib
import shutil
from collections.abc import Iterable


class InputError(ValueError):
    """Something the user gave cannot be used.

    The message is one line: what was expected, what was found, what to do. The command line prints it and exits with
    code 2; in a program it is a plain ``ValueError``.
    """


class LimitError(Exception):
    """A result lies past a limit that was set: nothing is kept.

    The message is one line; the command line prints it and exits with code 3.
    """


def reason(error: BaseException) -> str:
    """Return in one line why something failed: the system's own words, or the first line of the message.

    Libraries raise ``OSError`` with a text only, whose ``strerror`` is ``None``.
    """
    if isinstance(error, OSError) and error.strerror:
        return str(error.strerror)
    if isinstance(error, shutil.Error) and error.args and isinstance(error.args[0], list) and error.args[0]:
        return str(error.args[0][0][-1])  # of the first of many files
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[0] if lines else type(error).__name__


def did_you_mean(name: str, known: Iterable[str], limit: int = 3) -> str:
    """Return ``"; did you mean 'a' or 'b'?"`` for the known names nearest to ``name``, or ``""`` where none is near.

    Names that begin with ``name`` come first.
    """
    names = list(known)
    begun = [candidate for candidate in names if name and candidate.startswith(name)]
    alike = difflib.get_close_matches(name, names, n=limit, cutoff=0.6)
    near = list(dict.fromkeys([*begun, *alike]))[:limit]
    return f"; did you mean {' or '.join(repr(match) for match in near)}?" if near else ""


def missing_extra(package: str, extra: str, purpose: str) -> InputError:
    """Return the error for an optional dependency that is not installed, with the command that installs it."""
    return InputError(
        f"{purpose} needs {package}, which is not installed: python -m pip install 'compactnets[{extra}]'"
    )
