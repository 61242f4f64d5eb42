"""Exceptions for bad input and for results beyond a limit, and suggestions for misspelt names."""

from __future__ import annotations

import difflib
import shutil
from collections.abc import Iterable


class InputError(ValueError):
    """Invalid user input.

    The message is one line: what was expected, what was found, what to do. The command line prints it and exits with
    code 2; in a program it is a plain ``ValueError``.
    """


class LimitError(Exception):
    """A result is beyond a given limit; nothing is kept.

    The message is one line; the command line prints it and exits with code 3.
    """


def reason(error: BaseException) -> str:
    """Return the cause of an error in one line: the system's message, or the first line of the error's.

    Libraries also raise ``OSError`` with only a text, whose ``strerror`` is ``None``.
    """
    if isinstance(error, OSError) and error.strerror:
        return str(error.strerror)
    if isinstance(error, shutil.Error) and error.args and isinstance(error.args[0], list) and error.args[0]:
        return str(error.args[0][0][-1])  # of the first of many files
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[0] if lines else type(error).__name__


def did_you_mean(name: str, known: Iterable[str], limit: int = 3) -> str:
    """Return ``"; did you mean 'a' or 'b'?"`` for the known names nearest to ``name``, or ``""`` if none is near.

    Names that begin with ``name`` come first.
    """
    names = list(known)
    begun = [candidate for candidate in names if name and candidate.startswith(name)]
    alike = difflib.get_close_matches(name, names, n=limit, cutoff=0.6)
    near = list(dict.fromkeys([*begun, *alike]))[:limit]
    return f"; did you mean {' or '.join(repr(match) for match in near)}?" if near else ""


def missing_extra(package: str, extra: str, purpose: str) -> InputError:
    """Return the error for a missing optional dependency, with its install command."""
    return InputError(
        f"{purpose} needs {package}, which is not installed: python -m pip install 'compactnets[{extra}]'"
    )
