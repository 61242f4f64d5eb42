"""Which of many networks a test tries by default."""

from __future__ import annotations

import re
from collections.abc import Iterable

import pytest


def one_of_each_kind(names: Iterable[str]) -> list[pytest.ParameterSet]:
    """Parametrise by names: the first that begins with each word as it is, the others with ``-m slow``."""
    seen: set[str] = set()
    params = []
    for name in names:
        kind = re.match("[a-z]+", name)
        assert kind
        params.append(pytest.param(name, marks=pytest.mark.slow if kind[0] in seen else ()))
        seen.add(kind[0])
    return params
