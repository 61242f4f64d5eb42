"""Keeps libraries from reporting their use to their makers; importing ``compactnets`` does this first of all.

The variables are read when the library is imported or starts, and processes that are started later inherit them. Where
a person has set one to anything, even to what turns reports on, it stays.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager

VARIABLES = {
    # from 1.29 on it writes an identifier and a store of events under the user's cache, and sends them, also on Linux
    "ORT_DISABLE_TELEMETRY": "1",
    "HF_HUB_DISABLE_TELEMETRY": "1",  # what each download tells the Hub of the machine's libraries
    "RAY_USAGE_STATS_ENABLED": "0",  # of a cluster that is started here
}


def turn_off() -> None:
    """Set the variables that are not set."""
    for name, value in VARIABLES.items():
        if not os.environ.get(name):  # an empty one counts as not set, as it does for the libraries
            os.environ[name] = value


@contextmanager
def without_openvino_telemetry() -> Iterator[None]:
    """Let ``openvino`` be imported as where ``openvino-telemetry`` is not installed: it reports its import otherwise.

    That package knows no variable, only a file in the user's home. Where OpenVINO was imported before, nothing changes.
    """
    name = "openvino_telemetry"
    if name in sys.modules:
        yield
        return
    sys.modules[name] = None  # type: ignore[assignment]  # which makes its import an ImportError
    try:
        yield
    finally:
        del sys.modules[name]
