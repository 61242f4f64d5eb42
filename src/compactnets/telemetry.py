"""Keep libraries from reporting their use to their makers. Importing ``compactnets`` does this first.

The libraries read these variables when they are imported or start; child processes inherit them. A variable that the
user has set, to any value, is not changed.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager

VARIABLES = {
    # from 1.29 on it writes an identifier and an event store to the user's cache and sends events, also on Linux
    "ORT_DISABLE_TELEMETRY": "1",
    "HF_HUB_DISABLE_TELEMETRY": "1",  # each download reports the machine's libraries to the Hub
    "RAY_USAGE_STATS_ENABLED": "0",  # for a cluster started here
}


def turn_off() -> None:
    """Set the variables that are not set."""
    for name, value in VARIABLES.items():
        if not os.environ.get(name):  # the libraries also treat an empty variable as not set
            os.environ[name] = value


@contextmanager
def without_openvino_telemetry() -> Iterator[None]:
    """Import ``openvino`` as if ``openvino-telemetry`` were not installed, which would report the import.

    That package has no environment variable, only a file in the user's home. If OpenVINO was imported before, this has
    no effect.
    """
    name = "openvino_telemetry"
    if name in sys.modules:
        yield
        return
    sys.modules[name] = None  # type: ignore[assignment]  # importing it raises ImportError
    try:
        yield
    finally:
        del sys.modules[name]
