"""Suppress noisy third-party output."""

from __future__ import annotations

import logging
import os
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

from compactnets.console import stderr


@contextmanager
def quiet() -> Iterator[None]:
    """Suppress noisy third-party output: warnings, log lines and standard error, also from C. Errors are still raised.

    Output of this package (``console``) is still shown.
    """
    sys.stderr.flush()
    kept = os.dup(2)
    own = None
    if stderr._file is None and _is_standard_error():
        own = open(os.dup(kept), "w", encoding=sys.stderr.encoding, errors=sys.stderr.errors)  # noqa: SIM115
        stderr.file = own
    with open(os.devnull, "wb") as nothing, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        os.dup2(nothing.fileno(), 2)
        disabled, level = logging.root.manager.disable, logging.root.level
        logging.disable(logging.WARNING)
        try:
            yield
        finally:
            logging.disable(disabled)
            logging.root.setLevel(level)  # which some libraries change when they are imported
            sys.stderr.flush()
            if own is not None:
                stderr._file = None
                own.close()
            os.dup2(kept, 2)
            os.close(kept)


def _is_standard_error() -> bool:
    try:
        return sys.stderr.fileno() == 2
    except (OSError, ValueError, AttributeError):  # a test's, or a notebook's
        return False
