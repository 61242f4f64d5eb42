"""Which of many networks a test tries by default."""

from __future__ import annotations

import re
from collections.abc import Container, Iterable

import pytest

# vgg16 has 138 M parameters, the others a hundred layers: to fold, quantise and compare these takes longer than all
# others together
HEAVY = {"vgg16", "condensenet_74_c8_g8", "densenet40_k12", "googlenet"}


def one_of_each_kind(names: Iterable[str], heavy: Container[str] = HEAVY) -> list[pytest.ParameterSet]:
    """Parametrise by names: the first that begins with each word as it is, the others with ``-m slow``.

    Args:
        names: of networks; each stays a case.
        heavy: those that are slow even where they are the first of their kind.
    """
    seen: set[str] = set()
    params = []
    for name in names:
        kind = re.match("[a-z]+", name)
        assert kind
        slow = kind[0] in seen or name in heavy
        params.append(pytest.param(name, marks=pytest.mark.slow if slow else ()))
        seen.add(kind[0])
    return params
