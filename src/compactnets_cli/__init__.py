"""The command line: ``compactnets VERB``.

A package of its own because importing ``compactnets`` imports torch and timm, and ``compactnets --help`` should not
wait for them: only a verb that runs imports what it needs.
"""

from __future__ import annotations

import sys

from compactnets_cli.app import app

__all__ = ["app", "main"]


def main() -> None:
    """Run the command line; bad input is one line on standard error and exit code 2."""
    try:
        app(prog_name="compactnets")
    except Exception as error:
        from compactnets.errors import InputError

        if not isinstance(error, InputError):
            raise
        # from a loader's process the message comes inside a traceback, whose last line it is
        message = str(error).rsplit("InputError: ", 1)[-1].strip()
        print(f"compactnets: error: {message}", file=sys.stderr)
        raise SystemExit(2) from None
