"""The command line: ``compactnets VERB``.

A separate package, because importing ``compactnets`` imports torch and timm, and ``compactnets --help`` should not wait
for them. Each verb imports what it needs.
"""

from __future__ import annotations

import errno
import os
import sys
from contextlib import suppress
from typing import NoReturn, cast

import typer

from compactnets_cli.app import app

__all__ = ["app", "main"]

UsageError = cast(type[Exception], typer.BadParameter.__mro__[1])  # click's, or typer's own copy of click
# system errors of disks and pipes, not faults of the program
REFUSED = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EIO, errno.EFBIG, errno.EPIPE)


def main() -> None:
    """Run the command line; bad input is one line on standard error and exit code 2, a result past a limit 3."""
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")  # characters that the terminal cannot show are escaped
    try:
        code = app(prog_name="compactnets", standalone_mode=False)
    except typer.Abort:
        _end("stopped", 1)
    except UsageError as error:
        _wrong_usage(error)
    except Exception as error:
        from compactnets.errors import InputError, LimitError

        if isinstance(error, LimitError):
            _end(str(error), 3)
        if isinstance(error, OSError) and error.errno in REFUSED:
            _end(f"error: cannot write {error.filename or 'to standard output'}: {error.strerror}", 2)
        if not isinstance(error, InputError):
            raise
        # from a loader's process the message is the last line of a traceback
        message = str(error).rsplit("InputError: ", 1)[-1].strip()
        rank = int(os.environ.get("RANK", "0"))  # torchrun's processes often find the same error
        _end(f"error: {message}{f' (process {rank})' if rank else ''}", 2)
    if code == 130:  # Ctrl-C
        _end("interrupted", 130)
    if isinstance(code, int) and code:
        raise SystemExit(code)


def _wrong_usage(error: Exception) -> NoReturn:
    """Report wrong usage in one line; a group of verbs alone shows its help."""
    text = error.format_message()  # type: ignore[attr-defined]
    if type(error).__name__ == "NoArgsIsHelpError":  # with rich, the help was printed as the error was made
        print(text.strip(), file=sys.stderr)
        raise SystemExit(2)
    message = " ".join(text.split())
    context = getattr(error, "ctx", None)
    where = context.command_path if context is not None else "compactnets"
    _end(f"error: {message} (see {where} --help)", 2)


def _end(message: str, code: int) -> NoReturn:
    """Print the final line of a command; line breaks and terminal control characters are escaped."""
    shown = "".join(each if each.isprintable() or each == "\u3000" else repr(each)[1:-1] for each in message)
    with suppress(OSError):  # a closed terminal
        print(f"compactnets: {shown}", file=sys.stderr)
    raise SystemExit(code)
