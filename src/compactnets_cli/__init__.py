"""The command line: ``compactnets VERB``.

A package of its own because importing ``compactnets`` imports torch and timm, and ``compactnets --help`` should not
wait for them: only a verb that runs imports what it needs.
"""

from __future__ import annotations

import os
import sys

from compactnets_cli.app import app

__all__ = ["app", "main"]


def main() -> None:
    """Run the command line; bad input is one line on standard error and exit code 2, a result past a limit 3."""
    try:
        app(prog_name="compactnets")
    except Exception as error:
        from compactnets.errors import InputError, LimitError

        if isinstance(error, LimitError):
            print(f"compactnets: {error}", file=sys.stderr)
            raise SystemExit(3) from None
        if not isinstance(error, InputError):
            raise
        # from a loader's process the message comes inside a traceback, whose last line it is
        message = str(error).rsplit("InputError: ", 1)[-1].strip()
        rank = int(os.environ.get("RANK", "0"))  # torchrun's processes often find the same error
        where = f" (process {rank})" if rank else ""
        print(f"compactnets: error: {message}{where}", file=sys.stderr)
        raise SystemExit(2) from None
